//! Filters: which of IMDS's paths a rule lets through.

use super::{
    decoder::{Decoder, Field, Fields},
    shape::{self, Shape},
};
use crate::{
    imds::{Class, Filter, Item, ItemError, Tokens},
    policy::{
        Problem,
        node::{Node, Span, Value, excerpt},
        spelling,
    },
};

const REQUIRED: &str = "required";
const OPTIONAL: &str = "optional";
const ALL: &str = "all";

/// An item, and where it stands.
type Found = (Item, Span);

impl Decoder<'_> {
    /// A filter. None: what it says could not be read, or could not have been meant.
    pub(super) fn filter(&mut self, field: Field<'_>) -> Option<Filter> {
        let before = self.problems.len();
        let fields = self.mapping(field.value, &shape::FILTER, shape::FILTER_KEYS)?;
        let allow = fields.get("allow").map(|field| self.items(field.value, &shape::FILTER_ALLOW));
        let deny = fields.get("deny").map(|field| self.items(field.value, &shape::FILTER_DENY));
        let tokens = self.tokens(&fields);
        if self.problems[before..].iter().any(Problem::is_error) {
            return None;
        }
        if allow.is_none() && deny.is_none() && tokens != Tokens::Required {
            let remedy =
                "say what passes, as in `allow: [region]`, or what does not, as in `deny: [credentials]`";
            self.error(field.value.span, "this filter is empty", "", remedy);
            return None;
        }
        let deny = deny.unwrap_or_default();
        self.refuse_to_deny_all(&deny)?;
        for (allowed, span) in allow.iter().flatten() {
            self.warn_if_covered(allowed, *span, &deny);
        }
        let plain = |items: Vec<Found>| items.into_iter().map(|(item, _)| item).collect();
        Some(Filter::new(allow.map(plain), plain(deny), tokens))
    }

    fn items(&mut self, node: &Node, shape: &Shape<'_>) -> Vec<Found> {
        let remedy = format!("write it as `{}`, or leave it out", shape.example);
        let nodes = self.list(node, shape, &remedy).unwrap_or_default();
        let mut found: Vec<Found> = Vec::new();
        for node in nodes {
            let Some(item) = self.item(node, shape) else { continue };
            if let Some((_, first)) = found.iter().find(|(known, _)| *known == item) {
                let message = format!("`{item}` is given twice");
                let problem = Problem::warning(self.place(node.span), message, "keep one of the two");
                let problem = problem.related(self.place(*first), "the first one");
                self.problems.push(problem);
                continue;
            }
            found.push((item, node.span));
        }
        found
    }

    fn item(&mut self, node: &Node, shape: &Shape<'_>) -> Option<Item> {
        let text = self.text(node, shape)?;
        match text.parse() {
            Ok(item) => Some(item),
            Err(error) => {
                self.error(
                    node.span,
                    error.to_string(),
                    &format!("found `{}`", excerpt(text)),
                    remedy(&error),
                );
                None
            }
        }
    }

    fn tokens(&mut self, fields: &Fields<'_>) -> Tokens {
        let Some(field) = fields.get("tokens") else { return Tokens::default() };
        match &field.value.value {
            Value::Scalar { text, .. } if text == REQUIRED => Tokens::Required,
            Value::Scalar { text, .. } if text == OPTIONAL => Tokens::Optional,
            _ => {
                self.wrong_word(field.value, &shape::TOKENS, &[REQUIRED, OPTIONAL]);
                Tokens::default()
            }
        }
    }

    fn refuse_to_deny_all(&mut self, deny: &[Found]) -> Option<()> {
        let Some((item, span)) = deny.iter().find(|(item, _)| item.is_everything()) else { return Some(()) };
        let message = format!("`{item}` in `deny` leaves nothing");
        let remedy = "leave it out: what `allow` does not name is denied anyhow; to deny everything, write `imds: deny`";
        self.error(*span, message, "", remedy);
        None
    }

    fn warn_if_covered(&mut self, allowed: &Item, span: Span, deny: &[Found]) {
        let Some((denied, by)) = deny.iter().find(|(denied, _)| denied.covers(allowed)) else { return };
        let message = format!("`{allowed}` is allowed and denied: it is denied");
        let problem = Problem::warning(self.place(span), message, "remove it from one of the two");
        let problem = problem.related(self.place(*by), format!("`{denied}` covers all of it"));
        self.problems.push(problem);
    }
}

fn remedy(error: &ItemError) -> String {
    match error {
        ItemError::Word(word) => {
            let known: Vec<_> = [ALL].into_iter().chain(Class::nameable().map(Class::as_str)).collect();
            let classes = || format!("the classes are {}; a path starts with `/latest/`", known.join(", "));
            spelling::closest(word, known.iter().copied())
                .map_or_else(classes, |meant| format!("did you mean `{meant}`?"))
        }
        ItemError::Token => "leave it out: whoever may read anything may ask for a token".to_owned(),
        ItemError::Version => {
            "write it as `/latest/meta-data/instance-id`; `/latest/` stands for every version".to_owned()
        }
        ItemError::Query => "leave the query out: it makes no difference to the metadata service".to_owned(),
        ItemError::Escape => "write the character itself: requests are compared decoded".to_owned(),
        ItemError::Dots => "write where it leads to: requests are compared resolved".to_owned(),
        ItemError::EmptySegment => "write one `/` between two segments".to_owned(),
        ItemError::Star => {
            "write `*` between two `/`; `deny` covers what lies below a path without any".to_owned()
        }
        ItemError::Character(_) => "paths have letters, digits and `+=.,_:@~-`".to_owned(),
    }
}
