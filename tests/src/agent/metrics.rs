use std::collections::BTreeMap;

/// The samples of one scrape, in Prometheus' text format.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<Sample>);

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Reads a scrape. Comments and lines that are no samples are left out.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(Sample::parse).collect())
    }

    /// All samples of a metric that carry all of `labels`.
    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| sample.name == name && sample.carries(labels))
    }

    /// The sum of all samples of a metric that carry all of `labels`; 0 if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|sample| sample.value).sum()
    }

    /// The sum of a counter, exactly. Counters here stay far below 2^53.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counters are whole and not negative"
    )]
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels) as u64
    }
}

impl Sample {
    fn parse(line: &str) -> Option<Self> {
        let name_end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(name_end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest)?,
            None => (BTreeMap::new(), rest),
        };
        // A timestamp may follow the value.
        let value = rest.split_whitespace().next()?.parse().ok()?;
        Some(Self { name: name.to_owned(), labels, value })
    }

    fn carries(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|own| own == value))
    }
}

/// The labels up to the closing brace, and what follows it.
fn parse_labels(mut text: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        text = text.trim_start_matches([',', ' ']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = parse_quoted(rest)?;
        labels.insert(name.to_owned(), value);
        text = rest;
    }
}

/// The text up to the closing quote, its escapes undone, and what follows it.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        match characters.next()? {
            (end, '"') => return Some((value, &text[end + 1..])),
            (_, '\\') => value.push(match characters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, plain) => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A metric, labels, and the sum expected of them.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u64);

    const SCRAPE: &str = r#"
# HELP attempts_total Attempts.
# TYPE attempts_total counter
attempts_total{namespace="a",service_account="x"} 3
attempts_total{namespace="a",service_account="y"} 4 1700000000000
attempts_total{namespace="b",service_account="quoted \"}\\ \n"} 5
enforcing 1
latency_bucket{le="+Inf"} +Inf
"#;

    #[test]
    fn sums_cover_the_samples_that_carry_the_labels() {
        let metrics = Metrics::parse(SCRAPE);
        let cases: &[Case<'_>] = &[
            ("attempts_total", &[], 12),
            ("attempts_total", &[("namespace", "a")], 7),
            ("attempts_total", &[("namespace", "a"), ("service_account", "y")], 4),
            ("attempts_total", &[("service_account", "quoted \"}\\ \n")], 5),
            ("attempts_total", &[("nothing", "a")], 0),
            ("enforcing", &[], 1),
            ("absent", &[], 0),
        ];
        for (name, labels, expected) in cases {
            assert_eq!(metrics.count(name, labels), *expected, "{name} {labels:?}");
        }
        assert!(metrics.sum("latency_bucket", &[("le", "+Inf")]).is_infinite());
    }
}
