//! A YAML file as a small tree in which every node knows its place. It owns what YAML allows and a policy does not:
//! aliases, tags, several documents, deep nesting, control characters. It knows nothing of the policy's keys.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, StrInput};

use super::{Place, Problem, SourceFile};

/// How deep lists and mappings may lie in each other; the format itself needs six levels.
const MAX_DEPTH: usize = 16;

/// A stretch of one line of the file that is being read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    line: usize,
    column: usize,
    start: usize,
    end: usize,
}

impl Span {
    pub(super) fn place(self, file: &SourceFile) -> Place {
        Place { file: file.name.clone(), line: self.line, column: self.column, bytes: self.start..self.end }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar {
        text: String,
        quoted: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
    /// Already reported: whoever decodes it stays silent.
    Refused,
}

impl Node {
    /// What it is, in the words of an error message.
    pub(super) fn describe(&self) -> String {
        match &self.value {
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Refused => "something that can't be read".to_owned(),
            Value::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Value::Scalar { text, quoted: true } => format!("the text `{}`", excerpt(text)),
            Value::Scalar { text, quoted: false } => format!("`{}`", excerpt(text)),
        }
    }

    /// Whether no value was written.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// A text of the user's, cut so that a message stays readable.
pub(super) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads a file into its tree. None: it has none, and the problems say why.
pub(super) fn read(file: &SourceFile, problems: &mut Vec<Problem>) -> Option<Node> {
    let ends = file.text.char_indices().map(|(offset, _)| offset).chain([file.text.len()]);
    let mut reader =
        Reader { file, offsets: ends.collect(), parser: Parser::new_from_str(&file.text), problems };
    reader.refuse_nul()?;
    reader.document()
}

fn is_tagged(event: &Event<'_>) -> bool {
    match event {
        Event::Scalar(.., tag) | Event::SequenceStart(_, tag) | Event::MappingStart(_, tag) => tag.is_some(),
        _ => false,
    }
}

struct Reader<'a> {
    file: &'a SourceFile,
    /// The byte at which each character starts, and the end: the parser counts in characters.
    offsets: Vec<usize>,
    parser: Parser<'a, StrInput<'a>>,
    problems: &'a mut Vec<Problem>,
}

type Spanned<'a> = (Event<'a>, saphyr_parser::Span);

/// In all of these, None means that a problem was recorded after which the file can't be read further.
impl<'a> Reader<'a> {
    /// To the parser a NUL is the end of the text: rules after it would be dropped in silence.
    fn refuse_nul(&mut self) -> Option<()> {
        let Some(start) = self.file.text.find('\0') else { return Some(()) };
        let before = &self.file.text[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
        let span = Span { line, column, start, end: start + 1 };
        self.error(span, "the file contains a NUL byte", "", "save it as plain UTF-8 text");
        None
    }

    fn document(&mut self) -> Option<Node> {
        loop {
            match self.next()? {
                (Event::StreamEnd, end) => {
                    let span = self.span(end.start, end.end);
                    self.error(
                        span,
                        "the file is empty",
                        "",
                        "start it with `version: 1`, or remove the file",
                    );
                    return None;
                }
                (Event::StreamStart | Event::DocumentStart(_), _) => {}
                (event, span) => {
                    let root = self.node(event, span, 0)?;
                    self.nothing_more()?;
                    return Some(root);
                }
            }
        }
    }

    fn nothing_more(&mut self) -> Option<()> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Some(()),
                Event::DocumentStart(_) => {
                    let span = self.span(span.start, span.end);
                    let remedy = "put the rest into a file of its own, in the same folder";
                    self.error(span, "a policy file holds one document", "a second one starts here", remedy);
                    return None;
                }
                _ => {}
            }
        }
    }

    fn node(&mut self, event: Event<'a>, at: saphyr_parser::Span, depth: usize) -> Option<Node> {
        let span = self.span(at.start, at.end);
        let opens = matches!(event, Event::SequenceStart(..) | Event::MappingStart(..));
        if opens && depth == MAX_DEPTH {
            self.error(
                span,
                "lists and mappings are nested too deeply",
                "",
                "no key needs more than six levels",
            );
            return None;
        }
        if is_tagged(&event) {
            let remedy = "remove the tag (the word that starts with `!`)";
            self.error(span, "YAML tags are not supported", "", remedy);
        }
        match event {
            Event::Alias(_) => {
                let remedy = "write the value out; a glob that starts with `*` must be quoted";
                self.error(span, "YAML aliases are not supported", "", remedy);
                Some(Node { span, value: Value::Refused })
            }
            Event::Scalar(text, style, ..) => Some(self.scalar(span, text.into_owned(), style)),
            Event::SequenceStart(..) => self.sequence(at, depth),
            Event::MappingStart(..) => self.mapping(at, depth),
            _ => Some(Node { span, value: Value::Refused }),
        }
    }

    fn scalar(&mut self, span: Span, text: String, style: ScalarStyle) -> Node {
        // Everything in a policy is one line, and what ends up in logs and terminals must not steer them.
        if text.contains(char::is_control) {
            let label = if text.contains('\n') { "it has a line break" } else { "" };
            let remedy = "write it on one line, without escapes";
            self.error(span, "a text contains a control character", label, remedy);
            return Node { span, value: Value::Refused };
        }
        Node { span, value: Value::Scalar { text, quoted: style != ScalarStyle::Plain } }
    }

    fn sequence(&mut self, start: saphyr_parser::Span, depth: usize) -> Option<Node> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, end) => {
                    let span = self.collection(start, end, items.first());
                    return Some(Node { span, value: Value::Sequence(items) });
                }
                (event, at) => items.push(self.node(event, at, depth + 1)?),
            }
        }
    }

    fn mapping(&mut self, start: saphyr_parser::Span, depth: usize) -> Option<Node> {
        let mut entries = Vec::new();
        loop {
            match self.next()? {
                (Event::MappingEnd, end) => {
                    let span = self.collection(start, end, entries.first().map(|(key, _)| key));
                    return Some(Node { span, value: Value::Mapping(entries) });
                }
                (event, at) => {
                    let key = self.node(event, at, depth + 1)?;
                    let (event, at) = self.next()?;
                    entries.push((key, self.node(event, at, depth + 1)?));
                }
            }
        }
    }

    /// The place of a list or a mapping: the brackets and all between, or the first thing in it.
    fn collection(&self, start: saphyr_parser::Span, end: saphyr_parser::Span, first: Option<&Node>) -> Span {
        match first {
            Some(first) if start.is_empty() => first.span,
            _ => self.span(start.start, end.end),
        }
    }

    fn next(&mut self) -> Option<Spanned<'a>> {
        match self.parser.next_event() {
            Some(Ok(event)) => Some(event),
            Some(Err(error)) => {
                self.syntax(&error);
                None
            }
            None => Some((Event::StreamEnd, saphyr_parser::Span::default())),
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        let marker = *error.marker();
        let mut span = self.span(marker, Marker::new(marker.index() + 1, marker.line(), marker.col() + 1));
        // The parser stops behind a bare star, or at it when a name follows.
        if self.file.text[..span.start].ends_with('*') {
            span = Span { column: span.column - 1, start: span.start - 1, end: span.start, ..span };
        }
        let at_star = self.file.text[span.start..].starts_with('*');
        let remedy = match error.info() {
            _ if at_star => "a glob that starts with `*` must be quoted: \"*\"",
            info if info.contains("tab") => "indent with spaces",
            info if info.contains("mapping values") => {
                "check the indentation; a text that contains `: ` must be quoted"
            }
            info if info.contains("expect ':'") => {
                "a key in this line or the one before needs `: ` (a colon and a space)"
            }
            info if info.contains("unexpected character") => {
                "a text that starts with this character must be quoted"
            }
            _ => "check the indentation, brackets and quotes here and in the line before",
        };
        let message = format!("this is not valid YAML: {}", error.info());
        self.error(span, &message, "reading stopped here", remedy);
    }

    /// From the parser's marks, which may include the space behind a value; cut to the end of the first line.
    fn span(&self, from: Marker, to: Marker) -> Span {
        let offset =
            |marker: Marker| self.offsets.get(marker.index()).copied().unwrap_or(self.file.text.len());
        let (start, end) = (offset(from), offset(to));
        let text = self.file.text[start..end.max(start)].split(['\r', '\n']).next().unwrap_or_default();
        Span { line: from.line(), column: from.col() + 1, start, end: start + text.trim_end().len() }
    }

    fn error(&mut self, span: Span, message: &str, label: &str, remedy: &str) {
        self.problems.push(Problem::error(span.place(self.file), message, remedy).label(label));
    }
}
