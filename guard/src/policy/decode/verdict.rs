//! Verdicts: what stands behind an endpoint's name.

use std::sync::Arc;

use guard_common::Verdict;

use super::{
    decoder::{Decoder, Field},
    shape::{self, Shape},
};
use crate::{
    endpoints::Endpoints,
    policy::{
        Permission, Verdicts,
        node::{Node, Value},
    },
};

const ALLOW: &str = Verdict::Allow.as_str();
const DENY: &str = Verdict::Deny.as_str();

const FILTER: &str = Verdict::Filter.as_str();

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
                && let Some(permission) = self.permission(field)
            {
                verdicts.push((endpoint, permission));
            }
        }
        Verdicts::new(verdicts)
    }

    fn permission(&mut self, field: Field<'_>) -> Option<Permission> {
        if field.key == Endpoints::IMDS {
            return self.imds(field.value);
        }
        if asks_filter(field.value) {
            let message = format!("`{}` can't be filtered", field.key);
            let remedy =
                format!("use `{0}: allow` or `{0}: deny`; only imds has paths to choose from", field.key);
            self.error(field.value.span, message, "", remedy);
            return None;
        }
        let subject = format!("`{}`", field.key);
        let example = format!("{}: deny", field.key);
        let shape = Shape { subject: &subject, takes: shape::UNIDENTIFIED.takes, example: &example };
        self.verdict(field.value, &shape).map(permission)
    }

    fn imds(&mut self, node: &Node) -> Option<Permission> {
        match &node.value {
            Value::Mapping(_) => {
                let fields = self.mapping(node, &shape::IMDS, &[FILTER])?;
                let filter = fields.get(FILTER);
                if filter.is_none() && matches!(&node.value, Value::Mapping(entries) if entries.is_empty()) {
                    self.wrong_type(node, &shape::IMDS);
                }
                self.filter(filter?).map(|filter| Permission::Filter(Arc::new(filter)))
            }
            Value::Scalar { text, .. } if text == FILTER => {
                let remedy = format!("write what passes: `imds: {{ {} }}`", shape::FILTER.example);
                self.error(node.span, "`filter` needs to know what it lets through", "", remedy);
                None
            }
            _ => self.verdict(node, &shape::IMDS).map(permission),
        }
    }

    /// `allow` or `deny`, as a word.
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

/// What a single word says.
fn permission(verdict: Verdict) -> Permission {
    if verdict == Verdict::Allow { Permission::Allow } else { Permission::Deny }
}

fn asks_filter(node: &Node) -> bool {
    match &node.value {
        Value::Mapping(entries) => entries.iter().any(|(key, _)| is_text(key, FILTER)),
        _ => is_text(node, FILTER),
    }
}

fn is_text(node: &Node, wanted: &str) -> bool {
    matches!(&node.value, Value::Scalar { text, .. } if text == wanted)
}
