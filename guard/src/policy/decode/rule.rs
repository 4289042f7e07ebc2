//! One rule: its name, its verdicts, and how long it holds.

use jiff::civil::Date;

use super::{
    decoder::{Decoder, Fields},
    shape,
};
use crate::policy::{
    Problem, RuleName, Selector,
    draft::{RuleDraft, Sited},
    node::{Node, Value, excerpt},
    rule::NameError,
};

/// The longest reason: like `help`, it must fit beside the rest of a denial.
const REASON_MAX_CHARS: usize = 256;

impl Decoder<'_> {
    pub(super) fn rules(&mut self, node: &Node) -> Vec<RuleDraft> {
        let remedy = "leave `rules` out, or add a rule";
        let items = self.list(node, &shape::RULES, remedy).unwrap_or_default();
        items.iter().filter_map(|item| self.rule(item)).collect()
    }

    fn rule(&mut self, node: &Node) -> Option<RuleDraft> {
        let names = self.endpoint_names();
        let known: Vec<&str> =
            shape::RULE_KEYS.iter().copied().chain(names.iter().map(String::as_str)).collect();
        let before = self.problems.len();
        let fields = self.mapping(node, &shape::RULE, &known)?;
        let all_known = self.problems.len() == before;
        let decided: Vec<_> =
            fields.all().iter().copied().filter(|field| !shape::RULE_KEYS.contains(&field.key)).collect();
        // An unknown key may be an endpoint with a slip: one report is enough.
        if all_known && decided.is_empty() {
            let remedy = "add `imds: allow` or `imds: deny`, or the verdict for another endpoint";
            self.error(node.span, "this rule decides nothing", "", remedy);
        }
        Some(RuleDraft {
            name: self.name(node, &fields),
            selector: self.rule_selector(node, &fields, all_known),
            verdicts: self.verdicts(&decided),
            until: self.until(&fields),
            reason: self.reason(&fields),
            is_whole: !self.problems[before..].iter().any(Problem::is_error),
        })
    }

    fn name(&mut self, node: &Node, fields: &Fields<'_>) -> Option<Sited<RuleName>> {
        let Some(field) = fields.get("name") else {
            self.error(node.span, "this rule has no `name`", "", "add one: metrics and denials show it");
            return None;
        };
        let text = self.text(field.value, &shape::NAME)?;
        match RuleName::new(text) {
            Ok(name) => Some(self.sited(name, field.value.span)),
            Err(NameError::Form) => {
                let message = format!("`{}` can't be a rule's name", excerpt(text));
                let remedy = "use 1 to 63 lower-case letters, digits and `-`";
                self.error(field.value.span, message, "", remedy);
                None
            }
            Err(NameError::Reserved) => {
                let message = format!("the name `{text}` is taken by imds-guard itself");
                let remedy = "choose another; `default`, `unidentified` and `self` are reserved";
                self.error(field.value.span, message, "", remedy);
                None
            }
        }
    }

    fn rule_selector(
        &mut self,
        node: &Node,
        fields: &Fields<'_>,
        all_known: bool,
    ) -> Option<Sited<Selector>> {
        let Some(field) = fields.get("match") else {
            if all_known {
                let remedy = "say whom it is for; for everybody: `match: { namespaces: [\"*\"] }`";
                self.error(node.span, "this rule has no `match`", "", remedy);
            }
            return None;
        };
        let selector = self.selector(field.value, &shape::MATCH, field.value.span)?;
        Some(self.sited(selector, field.value.span))
    }

    fn until(&mut self, fields: &Fields<'_>) -> Option<Sited<Date>> {
        let field = fields.get("until")?;
        if fields.get("reason").is_none() {
            let remedy = "add `reason`: why the exception is there, or a ticket";
            self.error(field.key_span, "`until` needs a `reason`", "", remedy);
        }
        let text = self.text(field.value, &shape::UNTIL)?;
        let date = if has_date_form(text) { text.parse::<Date>().ok() } else { None };
        if date.is_none() {
            let message = format!("`{}` is not a date", excerpt(text));
            let remedy = "write the last day on which the rule holds as year-month-day: `until: 2027-03-31`";
            self.error(field.value.span, message, "", remedy);
        }
        Some(self.sited(date?, field.value.span))
    }

    fn reason(&mut self, fields: &Fields<'_>) -> Option<String> {
        let field = fields.get("reason")?;
        if matches!(&field.value.value, Value::Scalar { text, .. } if text.trim().is_empty()) {
            self.error(
                field.value.span,
                "`reason` is empty",
                "",
                "say why, or name a ticket: `reason: SEC-1432`",
            );
            return None;
        }
        let text = self.text(field.value, &shape::REASON)?;
        if text.chars().count() > REASON_MAX_CHARS {
            let message = format!("`reason` is longer than {REASON_MAX_CHARS} characters");
            self.error(field.value.span, message, "", "shorten it, and link to the rest");
            return None;
        }
        Some(text.to_owned())
    }
}

/// Whether a text looks like `2027-03-31`. ISO 8601 has more forms, which would only make policies harder to read.
fn has_date_form(text: &str) -> bool {
    let form = |(place, byte): (usize, u8)| {
        if matches!(place, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() }
    };
    text.len() == 10 && text.bytes().enumerate().all(form)
}
