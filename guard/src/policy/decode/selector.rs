//! Selectors: `match`, and each item of `enforce`. A glob that no name can ever match is an error, since its rule
//! would be dead without a word.

use super::{
    decoder::{Decoder, Field},
    shape::{self, Shape},
};
use crate::policy::{
    Selector,
    glob::Glob,
    node::{Node, Span, Value, excerpt},
    selector::{Criterion, LabelGlob, PairGlob},
};

/// What names of one sort are made of.
struct Alphabet {
    holds: fn(char) -> bool,
    words: &'static str,
}

const NAMESPACE: Alphabet = Alphabet {
    holds: |letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-',
    words: "lower-case letters, digits and `-`",
};
const SERVICE_ACCOUNT: Alphabet = Alphabet {
    holds: |letter| (NAMESPACE.holds)(letter) || letter == '.',
    words: "lower-case letters, digits, `-` and `.`",
};
const LABEL_VALUE: Alphabet = Alphabet {
    holds: |letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.'),
    words: "letters, digits, `-`, `_` and `.`",
};
/// An owner may be of any kind, also one that somebody else defined.
const OWNER: Alphabet = Alphabet {
    holds: |letter| !letter.is_whitespace() && !"/?[]{}()|,".contains(letter),
    words: "anything but spaces, brackets, `?`, `|` and `,`",
};

const EMPTY: &str = "to match everything, write `namespaces: [\"*\"]`";

impl Decoder<'_> {
    /// A selector; `span` is where an empty one is reported.
    pub(super) fn selector(&mut self, node: &Node, shape: &Shape<'_>, span: Span) -> Option<Selector> {
        let problems = self.problems.len();
        let fields = self.mapping(node, shape, shape::SELECTOR_KEYS)?;
        let criteria: Vec<_> = fields.all().iter().filter_map(|&field| self.criterion(field)).collect();
        // A selector that lost a criterion to an error matches too much: nothing may be built on it.
        if self.problems.len() > problems {
            return None;
        }
        let selector = Selector::new(criteria);
        if selector.is_none() && !matches!(node.value, Value::Refused) {
            self.error(span, format!("{} is empty", shape.subject), "", EMPTY);
        }
        selector
    }

    fn criterion(&mut self, field: Field<'_>) -> Option<Criterion> {
        let value = field.value;
        match field.key {
            "namespaces" => {
                let items = self.list(value, &shape::NAMESPACES, EMPTY)?;
                let globs = items.iter().filter_map(|item| self.namespace(item));
                Some(Criterion::Namespaces(globs.collect()))
            }
            "namespaceLabels" => self.labels(value, &shape::NAMESPACE_LABELS).map(Criterion::NamespaceLabels),
            "serviceAccounts" => {
                let pairs = self.pairs(
                    value,
                    &shape::SERVICE_ACCOUNTS,
                    [&NAMESPACE, &SERVICE_ACCOUNT],
                    str::to_owned,
                );
                pairs.map(Criterion::ServiceAccounts)
            }
            "workloads" => {
                let pairs = self.pairs(value, &shape::WORKLOADS, [&OWNER, &OWNER], str::to_lowercase);
                pairs.map(Criterion::Workloads)
            }
            "labels" => self.labels(value, &shape::LABELS).map(Criterion::Labels),
            "hostNetwork" => self.flag(value, &shape::HOST_NETWORK).map(Criterion::HostNetwork),
            "nodeLabels" => self.labels(value, &shape::NODE_LABELS).map(Criterion::NodeLabels),
            _ => None,
        }
    }

    fn namespace(&mut self, item: &Node) -> Option<Glob> {
        let text = self.text(item, &shape::NAMESPACES)?;
        if text.contains('/') {
            let remedy = "for service accounts, use `serviceAccounts`";
            self.error(item.span, "a namespace has no `/` in its name", "", remedy);
            return None;
        }
        self.glob(item, text, &NAMESPACE)
    }

    fn pairs(
        &mut self,
        node: &Node,
        shape: &Shape<'_>,
        [scopes, names]: [&Alphabet; 2],
        scope_case: fn(&str) -> String,
    ) -> Option<Vec<PairGlob>> {
        let items = self.list(node, shape, EMPTY)?;
        let pairs = items.iter().filter_map(|item| {
            let text = self.text(item, shape)?;
            match text.split_once('/') {
                Some((scope, name)) if !scope.is_empty() && !name.is_empty() && !name.contains('/') => {
                    Some(PairGlob {
                        scope: self.glob(item, &scope_case(scope), scopes)?,
                        name: self.glob(item, name, names)?,
                    })
                }
                _ => {
                    let message = format!("an item of {} is two names with one `/` between", shape.subject);
                    let label = format!("found `{}`", excerpt(text));
                    self.error(item.span, message, &label, format!("write it as `{}`", shape.example));
                    None
                }
            }
        });
        Some(pairs.collect())
    }

    fn labels(&mut self, node: &Node, shape: &Shape<'_>) -> Option<Vec<LabelGlob>> {
        let fields = self.entries(node, shape)?;
        if matches!(&node.value, Value::Mapping(entries) if entries.is_empty()) {
            self.error(node.span, format!("{} is empty", shape.subject), "", EMPTY);
            return None;
        }
        let labels = fields.all().iter().filter_map(|&field| {
            let key = self.label_key(field)?;
            let value = self.text(field.value, shape)?;
            Some(LabelGlob { key, value: self.glob_or_empty(field.value, value, &LABEL_VALUE)? })
        });
        Some(labels.collect())
    }

    fn label_key(&mut self, field: Field<'_>) -> Option<String> {
        if !field.key.is_empty()
            && field.key.chars().all(|letter| (LABEL_VALUE.holds)(letter) || letter == '/')
        {
            return Some(field.key.to_owned());
        }
        let message = format!("`{}` can't be a label's key", excerpt(field.key));
        self.error(field.key_span, message, "", "write the whole key; only the value may be a glob");
        None
    }

    fn glob(&mut self, node: &Node, text: &str, alphabet: &Alphabet) -> Option<Glob> {
        if text.is_empty() {
            self.error(node.span, "an empty name matches nothing", "", "write a name, or `\"*\"` for any");
            return None;
        }
        self.glob_or_empty(node, text, alphabet)
    }

    fn glob_or_empty(&mut self, node: &Node, text: &str, alphabet: &Alphabet) -> Option<Glob> {
        let Some(strange) = text.chars().find(|&letter| letter != '*' && !(alphabet.holds)(letter)) else {
            return Some(Glob::new(text));
        };
        let message = format!("`{}` can't match any name: it has `{strange}` in it", excerpt(text));
        let remedy = format!("the only wildcard is `*`; these names are made of {}", alphabet.words);
        self.error(node.span, message, "", remedy);
        None
    }
}
