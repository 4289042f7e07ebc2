//! Takes a tree apart by expectation: a mapping with these keys, a list, a text. What is not as expected is recorded,
//! and the caller goes on with the rest.

use std::collections::BTreeMap;

use super::shape::Shape;
use crate::{
    endpoints::Endpoints,
    policy::{
        Place, Problem, SourceFile,
        draft::Sited,
        node::{Node, Span, Value, excerpt},
        spelling,
    },
};

/// One file on its way from a tree to a draft.
#[derive(Debug)]
pub(super) struct Decoder<'a> {
    pub(super) file: &'a SourceFile,
    pub(super) endpoints: &'a Endpoints,
    pub(super) problems: &'a mut Vec<Problem>,
}

/// A mapping whose keys are known, each once.
#[derive(Debug)]
pub(super) struct Fields<'n>(Vec<Field<'n>>);

/// One key of a mapping and its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'n> {
    pub(super) key: &'n str,
    pub(super) key_span: Span,
    pub(super) value: &'n Node,
}

impl<'n> Fields<'n> {
    pub(super) fn get(&self, key: &str) -> Option<Field<'n>> {
        self.0.iter().copied().find(|field| field.key == key)
    }

    pub(super) fn all(&self) -> &[Field<'n>] {
        &self.0
    }
}

impl Decoder<'_> {
    pub(super) fn place(&self, span: Span) -> Place {
        span.place(self.file)
    }

    pub(super) fn sited<T>(&self, value: T, span: Span) -> Sited<T> {
        Sited { value, place: self.place(span) }
    }

    pub(super) fn error(
        &mut self,
        span: Span,
        message: impl Into<String>,
        label: &str,
        remedy: impl Into<String>,
    ) {
        self.problems.push(Problem::error(self.place(span), message, remedy).label(label));
    }

    /// The entries of a mapping whose keys are all among `known`; other keys are recorded and left out.
    pub(super) fn mapping<'n>(
        &mut self,
        node: &'n Node,
        shape: &Shape<'_>,
        known: &[&str],
    ) -> Option<Fields<'n>> {
        let fields = self.entries(node, shape)?;
        let (known_fields, unknown): (Vec<_>, Vec<_>) =
            fields.0.into_iter().partition(|field| known.contains(&field.key));
        for field in unknown {
            let message = format!("{} has no key `{}`", shape.subject, excerpt(field.key));
            let remedy = match spelling::closest(field.key, known.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("its keys are {}", known.join(", ")),
            };
            self.error(field.key_span, message, "not known", remedy);
        }
        Some(Fields(known_fields))
    }

    /// The entries of a mapping with keys of the user's own.
    pub(super) fn entries<'n>(&mut self, node: &'n Node, shape: &Shape<'_>) -> Option<Fields<'n>> {
        let Value::Mapping(entries) = &node.value else {
            self.wrong_type(node, shape);
            return None;
        };
        let mut fields: Vec<Field<'n>> = Vec::new();
        let mut first: BTreeMap<&str, Span> = BTreeMap::new();
        for (key_node, value) in entries {
            let Value::Scalar { text: key, .. } = &key_node.value else {
                self.error(key_node.span, "a key must be a text", "", "write it as `key: value`");
                continue;
            };
            if let Some(&first) = first.get(key.as_str()) {
                let place = self.place(key_node.span);
                let message = format!("`{}` is given twice", excerpt(key));
                let problem = Problem::error(place, message, "keep one of the two");
                let problem = problem.related(self.place(first), "the first one");
                self.problems.push(problem);
                continue;
            }
            first.insert(key, key_node.span);
            fields.push(Field { key, key_span: key_node.span, value });
        }
        Some(Fields(fields))
    }

    /// The items of a list that is not empty.
    pub(super) fn list<'n>(&mut self, node: &'n Node, shape: &Shape<'_>, remedy: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::Sequence(items) if items.is_empty() => {
                self.error(node.span, format!("{} is an empty list", shape.subject), "", remedy);
                None
            }
            Value::Sequence(items) => Some(items),
            _ => {
                self.wrong_type(node, shape);
                None
            }
        }
    }

    /// A text. Numbers and the like count as written: a label's value may be `1.10`.
    pub(super) fn text<'n>(&mut self, node: &'n Node, shape: &Shape<'_>) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => Some(text),
            _ => {
                self.wrong_type(node, shape);
                None
            }
        }
    }

    pub(super) fn flag(&mut self, node: &Node, shape: &Shape<'_>) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, quoted: false } if text == "true" => Some(true),
            Value::Scalar { text, quoted: false } if text == "false" => Some(false),
            _ => {
                self.wrong_type(node, shape);
                None
            }
        }
    }

    pub(super) fn wrong_type(&mut self, node: &Node, shape: &Shape<'_>) {
        self.wrong_word(node, shape, &[]);
    }

    /// Like [`Self::wrong_type`], where one of `words` may have been meant.
    pub(super) fn wrong_word(&mut self, node: &Node, shape: &Shape<'_>, words: &[&str]) {
        let meant = match &node.value {
            Value::Refused => return,
            Value::Scalar { text, .. } => spelling::closest(text, words.iter().copied()),
            Value::Sequence(_) | Value::Mapping(_) => None,
        };
        let Shape { subject, takes, example } = shape;
        let remedy = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("write it as `{example}`"),
        };
        let label = format!("found {}", node.describe());
        self.error(node.span, format!("{subject} must be {takes}"), &label, remedy);
    }
}
