//! Verdicts: what stands behind an endpoint's name.

use guard_common::Verdict;

use super::{
    decoder::{Decoder, Field},
    shape::{self, Shape},
};
use crate::policy::{
    Verdicts,
    node::{Node, Value},
};

const ALLOW: &str = Verdict::Allow.as_str();
const DENY: &str = Verdict::Deny.as_str();

/// Part of the format, but not of this version.
const FILTER: &str = "filter";

impl Decoder<'_> {
    /// What `default:` says.
    pub(super) fn default(&mut self, node: &Node) -> Option<Verdicts> {
        let names = self.endpoint_names();
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let fields = self.mapping(node, &shape::DEFAULT, &known)?;
        if matches!(&node.value, Value::Mapping(entries) if entries.is_empty()) {
            self.error(node.span, "`default` names no endpoint", "", "write `default: { imds: deny }`");
        }
        Some(self.verdicts(fields.all()))
    }

    /// The verdicts of those fields that are endpoints.
    pub(super) fn verdicts(&mut self, fields: &[Field<'_>]) -> Verdicts {
        let mut verdicts = Vec::new();
        for &field in fields {
            if let Some(endpoint) = self.endpoints.id(field.key)
                && let Some(verdict) = self.endpoint_verdict(field)
            {
                verdicts.push((endpoint, verdict));
            }
        }
        Verdicts::new(verdicts)
    }

    fn endpoint_verdict(&mut self, field: Field<'_>) -> Option<Verdict> {
        let asks_filter = match &field.value.value {
            Value::Mapping(entries) => entries.iter().any(|(key, _)| is_text(key, FILTER)),
            _ => is_text(field.value, FILTER),
        };
        if asks_filter {
            let message = format!("`{FILTER}` needs the gate, which this version does not have");
            let remedy = format!("use `{0}: allow` or `{0}: deny`", field.key);
            self.error(field.value.span, message, "", remedy);
            return None;
        }
        let subject = format!("`{}`", field.key);
        let example = format!("{}: deny", field.key);
        let shape = Shape { subject: &subject, takes: shape::UNIDENTIFIED.takes, example: &example };
        self.verdict(field.value, &shape)
    }

    /// One verdict, without `filter`.
    pub(super) fn verdict(&mut self, node: &Node, shape: &Shape<'_>) -> Option<Verdict> {
        match &node.value {
            Value::Scalar { text, .. } if text == ALLOW => Some(Verdict::Allow),
            Value::Scalar { text, .. } if text == DENY => Some(Verdict::Deny),
            _ => {
                self.wrong_word(node, shape, &[ALLOW, DENY]);
                None
            }
        }
    }

    /// Every endpoint of this node.
    pub(super) fn endpoint_names(&self) -> Vec<String> {
        self.endpoints.iter().map(|(_, endpoint)| endpoint.name.clone()).collect()
    }
}

fn is_text(node: &Node, wanted: &str) -> bool {
    matches!(&node.value, Value::Scalar { text, .. } if text == wanted)
}
