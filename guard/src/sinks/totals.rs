//! The totals of counters, written down so that the next agent's go on from there.

use std::collections::{BTreeMap, HashMap};

use prometheus::{IntCounterVec, core::Collector};

/// The totals of several metrics, by their names and labels.
pub type Totals = BTreeMap<String, Vec<(BTreeMap<String, String>, u64)>>;

/// The totals of some counters.
pub(super) fn totals(counters: &[&IntCounterVec]) -> Totals {
    let families = counters.iter().flat_map(|counter| counter.collect());
    let counted = |metric: &prometheus::proto::Metric| {
        let labels = metric.get_label().iter();
        let labels = labels.map(|pair| (pair.name().to_owned(), pair.value().to_owned())).collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a u64")]
        (labels, metric.get_counter().get_value() as u64)
    };
    families
        .map(|family| (family.name().to_owned(), family.get_metric().iter().map(counted).collect()))
        .collect()
}

/// Adds totals to some counters. What none of them counts, or counts by other labels, is passed over.
pub(super) fn restore(counters: &[&IntCounterVec], totals: &Totals) {
    for counter in counters {
        let names = counter.desc().into_iter().map(|desc| &desc.fq_name);
        for (labels, total) in names.filter_map(|name| totals.get(name)).flatten() {
            let labels: HashMap<&str, &str> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            if let Ok(counter) = counter.get_metric_with(&labels) {
                counter.inc_by(*total);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    fn counter(name: &str, labels: &[&str]) -> IntCounterVec {
        IntCounterVec::new(Opts::new(name, "help"), labels).expect("a good metric")
    }

    #[test]
    fn totals_go_on_and_what_is_unknown_is_passed_over() {
        let before = counter("attempts_total", &["namespace", "verdict"]);
        before.with_label_values(&["shop", "deny"]).inc_by(7);
        let gone = counter("gone_total", &["x"]);
        gone.with_label_values(&["y"]).inc();
        let totals = totals(&[&before, &gone]);
        let text = serde_json::to_string(&totals).expect("plain data");
        let totals: Totals = serde_json::from_str(&text).expect("what was written");

        let after = counter("attempts_total", &["verdict", "namespace"]);
        after.with_label_values(&["deny", "shop"]).inc();
        restore(&[&after], &totals);
        assert_eq!(after.with_label_values(&["deny", "shop"]).get(), 8);

        let other = counter("attempts_total", &["verdict"]);
        restore(&[&other], &totals);
        assert_eq!(other.with_label_values(&["deny"]).get(), 0);
    }
}
