//! Which requests a filter lets through.

use std::fmt;

use hyper::Method;
use serde::{Deserialize, Serialize};

use super::{Class, Item, MetadataPath};

/// What some pods may ask IMDS for, as a policy has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    allow: Vec<Item>,
    #[serde(default)]
    deny: Vec<Item>,
    #[serde(default)]
    tokens: Tokens,
}

/// Whether requests need the session token of `IMDSv2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// What the instance itself is set to decides.
    #[default]
    Optional,
    /// A request without a token is denied.
    Required,
}

impl Filter {
    /// `deny` wins over `allow`. Without an `allow`, everything is allowed that is not denied; one that is empty
    /// allows nothing.
    pub fn new(allow: Option<Vec<Item>>, deny: Vec<Item>, tokens: Tokens) -> Self {
        Self { allow: allow.unwrap_or_else(|| vec![Item::All]), deny, tokens }
    }

    /// Whether a request may go on to IMDS. GET and HEAD are judged by the path; PUT is for the token alone, which is
    /// there for everybody who may ask for anything; there is no other method.
    pub fn allows(&self, path: &MetadataPath, method: &Method) -> bool {
        match *method {
            Method::GET | Method::HEAD => {
                self.allow.iter().any(|item| item.allows(path))
                    && !self.deny.iter().any(|item| item.denies(path))
            }
            Method::PUT => path.class() == Class::Token && !self.allow.is_empty(),
            _ => false,
        }
    }

    /// Whether a read without a session token is denied, whatever its path.
    pub fn requires_token(&self) -> bool {
        self.tokens == Tokens::Required
    }
}

/// As it would be written in a policy: `{ allow: [region, instance], tokens: required }`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{ allow: [{}]", joined(&self.allow))?;
        if !self.deny.is_empty() {
            write!(f, ", deny: [{}]", joined(&self.deny))?;
        }
        if self.requires_token() {
            f.write_str(", tokens: required")?;
        }
        f.write_str(" }")
    }
}

fn joined(items: &[Item]) -> String {
    items.iter().map(|item| quoted(item.to_string())).collect::<Vec<_>>().join(", ")
}

/// In a list of YAML, a comma or a colon may end an item.
fn quoted(item: String) -> String {
    if item.contains([',', ':']) { format!("\"{item}\"") } else { item }
}
