//! From a file's tree to its draft: the keys of the format, and what each may hold. Every problem is recorded and
//! decoding goes on, so that a person sees all of them at once.

mod decoder;
mod filter;
mod rule;
mod selector;
mod shape;
mod verdict;

use self::decoder::{Decoder, Fields};
use super::{
    Enforce, Problem, SourceFile,
    draft::{Draft, Sited},
    node::{Node, Value},
};
use crate::endpoints::Endpoints;

/// The only version of the format so far.
const VERSION: &str = "1";

/// The longest help address: it must fit into a Kubernetes Event beside the rest of a denial.
const HELP_MAX_CHARS: usize = 256;

/// Decodes one file.
pub(super) fn file(
    root: &Node,
    file: &SourceFile,
    endpoints: &Endpoints,
    problems: &mut Vec<Problem>,
) -> Draft {
    let mut decoder = Decoder { file, endpoints, problems };
    let Some(fields) = decoder.mapping(root, &shape::FILE, shape::FILE_KEYS) else { return Draft::default() };
    decoder.version(root, &fields);
    Draft {
        help: decoder.help(&fields),
        enforce: decoder.enforce(&fields),
        unidentified: fields.get("unidentified").and_then(|field| {
            let verdict = decoder.verdict(field.value, &shape::UNIDENTIFIED)?;
            Some(decoder.sited(verdict, field.key_span))
        }),
        default: fields.get("default").and_then(|field| {
            let verdicts = decoder.default(field.value)?;
            Some(decoder.sited(verdicts, field.key_span))
        }),
        rules: fields.get("rules").map(|field| decoder.rules(field.value)).unwrap_or_default(),
    }
}

impl Decoder<'_> {
    fn version(&mut self, root: &Node, fields: &Fields<'_>) {
        let Some(field) = fields.get("version") else {
            self.error(root.span, "`version` is missing", "", "start the file with `version: 1`");
            return;
        };
        match &field.value.value {
            Value::Scalar { text, quoted: false } if text == VERSION => {}
            Value::Scalar { text, quoted: false } if text.parse::<u64>().is_ok() => {
                let message = format!("this imds-guard does not know version {text} of the format");
                self.error(field.value.span, message, "", "write `version: 1`, or upgrade imds-guard");
            }
            _ => self.wrong_type(field.value, &shape::VERSION),
        }
    }

    fn help(&mut self, fields: &Fields<'_>) -> Option<Sited<String>> {
        let field = fields.get("help")?;
        let text = self.text(field.value, &shape::HELP)?;
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let has_host = rest.is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty());
        if !has_host || text.contains(char::is_whitespace) {
            let remedy = "give a page that says how to get credentials: `help: https://wiki.example/aws`";
            self.error(field.value.span, "`help` must be an http or https address", "", remedy);
            return None;
        }
        if text.chars().count() > HELP_MAX_CHARS {
            let message = format!("`help` is longer than {HELP_MAX_CHARS} characters");
            self.error(field.value.span, message, "", "use a shorter address: it is part of every denial");
            return None;
        }
        Some(self.sited(text.to_owned(), field.key_span))
    }

    fn enforce(&mut self, fields: &Fields<'_>) -> Option<Sited<Enforce>> {
        let field = fields.get("enforce")?;
        let enforce = match &field.value.value {
            Value::Scalar { text, .. } if text == "none" => Enforce::None,
            Value::Scalar { text, .. } if text == "all" => Enforce::All,
            Value::Scalar { .. } => {
                self.wrong_word(field.value, &shape::ENFORCE, &["none", "all"]);
                return None;
            }
            _ => {
                let remedy = "to enforce on nobody, write `enforce: none`";
                let items = self.list(field.value, &shape::ENFORCE, remedy)?;
                let selectors =
                    items.iter().filter_map(|item| self.selector(item, &shape::ENFORCE_ITEM, item.span));
                Enforce::Selected(selectors.collect())
            }
        };
        Some(self.sited(enforce, field.key_span))
    }
}
