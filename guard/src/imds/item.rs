//! One item of a filter's list: a class, everything, or a path.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    Class, MetadataPath,
    path::{is, is_plain},
};

/// What an item of `allow` or `deny` stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Item {
    /// Every path.
    All,
    /// Every path of a class.
    Class(Class),
    /// A path that is written out.
    Path(PathPattern),
}

/// A path under `/latest/` that stands for every version. A `*` is exactly one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    /// The segments behind the version.
    segments: Vec<String>,
}

/// Why a text is no item of a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ItemError {
    #[error("`{0}` is not a class of metadata paths")]
    Word(String),
    #[error("the token is always allowed")]
    Token,
    #[error("a path in a filter starts with `/latest/`")]
    Version,
    #[error("a path in a filter has no query")]
    Query,
    #[error("a path in a filter has no escapes")]
    Escape,
    #[error("a path in a filter has no `.` or `..`")]
    Dots,
    #[error("a path in a filter has no empty segment")]
    EmptySegment,
    #[error("a `*` stands for exactly one whole segment")]
    Star,
    #[error("no path of the metadata service has `{0}` in it")]
    Character(char),
}

const ALL: &str = "all";
const STAR: &str = "*";
const LATEST: &str = "/latest/";

impl Item {
    /// Whether an `allow` with this item lets a read of `path` through.
    pub(super) fn allows(&self, path: &MetadataPath) -> bool {
        match self {
            Self::All => true,
            Self::Class(class) => holds(*class, path),
            Self::Path(pattern) => pattern.is(path),
        }
    }

    /// Whether a `deny` with this item stops a read of `path`.
    pub(super) fn denies(&self, path: &MetadataPath) -> bool {
        match self {
            Self::All => true,
            Self::Class(class) => holds(*class, path),
            Self::Path(pattern) => pattern.is_above(path),
        }
    }

    /// Whether a `deny` with this item surely leaves nothing of an `allow` with `other`. It may say no where the
    /// answer is yes.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (_, Self::All) => self.is_everything(),
            (Self::Class(denied), Self::Class(allowed)) => denied == allowed,
            (Self::Class(class), Self::Path(allowed)) => {
                allowed.literal().is_some_and(|path| holds(*class, &path))
            }
            (Self::Path(denied), Self::Path(allowed)) => denied.is_prefix_of(allowed),
            (Self::Path(denied), Self::Class(class)) => {
                let folder = class.folder().and_then(|folder| MetadataPath::parse(folder).ok());
                denied.segments.is_empty() || folder.is_some_and(|folder| denied.is_above(&folder))
            }
        }
    }

    /// Whether a `deny` with this item leaves nothing at all.
    pub fn is_everything(&self) -> bool {
        match self {
            Self::All => true,
            Self::Class(_) => false,
            Self::Path(pattern) => pattern.segments.is_empty(),
        }
    }
}

/// Whether a path is of a class as a policy means it: whoever says `placement` means the region too, but not the
/// identity document, which says much more.
fn holds(class: Class, path: &MetadataPath) -> bool {
    let found = path.class();
    let in_placement = || path.below_version().nth(1).is_some_and(|folder| is(folder, "placement"));
    found == class || (class == Class::Placement && found == Class::Region && in_placement())
}

impl PathPattern {
    /// Whether it is this path and no other. A closing slash makes no difference.
    fn is(&self, path: &MetadataPath) -> bool {
        self.segments.len() == path.below_version().count() && self.is_above(path)
    }

    /// Whether the path is this one or lies below it.
    fn is_above(&self, path: &MetadataPath) -> bool {
        let mut found = path.below_version();
        // The root and a version alone have nothing behind the version: only a pattern without segments is theirs.
        self.segments.iter().all(|wanted| found.next().is_some_and(|segment| fits(wanted, segment)))
    }

    fn is_prefix_of(&self, other: &Self) -> bool {
        let fits_too = |(wanted, other): (&String, &String)| wanted == STAR || is(wanted, other);
        self.segments.len() <= other.segments.len() && self.segments.iter().zip(&other.segments).all(fits_too)
    }

    /// The path itself, if there is no star in it.
    fn literal(&self) -> Option<MetadataPath> {
        if self.segments.iter().any(|segment| segment == STAR) {
            return None;
        }
        MetadataPath::parse(&self.to_string()).ok()
    }
}

fn fits(wanted: &str, segment: &str) -> bool {
    wanted == STAR || is(wanted, segment)
}

impl FromStr for Item {
    type Err = ItemError;

    fn from_str(text: &str) -> Result<Self, ItemError> {
        if text == ALL {
            return Ok(Self::All);
        }
        if text.contains('/') {
            return text.parse().map(Self::Path);
        }
        match text.parse() {
            Ok(Class::Token) => Err(ItemError::Token),
            Ok(Class::Other) | Err(_) => Err(ItemError::Word(text.to_owned())),
            Ok(class) => Ok(Self::Class(class)),
        }
    }
}

impl FromStr for PathPattern {
    type Err = ItemError;

    fn from_str(text: &str) -> Result<Self, ItemError> {
        let rest = text.strip_prefix(LATEST).ok_or(ItemError::Version)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let segments = if rest.is_empty() { Vec::new() } else { rest.split('/').collect() };
        for &segment in &segments {
            check(segment)?;
        }
        if let [api, token, ..] = segments.as_slice()
            && is(api, "api")
            && is(token, "token")
        {
            return Err(ItemError::Token);
        }
        Ok(Self { segments: segments.into_iter().map(ToOwned::to_owned).collect() })
    }
}

fn check(segment: &str) -> Result<(), ItemError> {
    match segment {
        "" => Err(ItemError::EmptySegment),
        "." | ".." => Err(ItemError::Dots),
        STAR => Ok(()),
        _ => match segment.chars().find(|&letter| !u8::try_from(letter).is_ok_and(is_plain)) {
            None => Ok(()),
            Some('*') => Err(ItemError::Star),
            Some('%') => Err(ItemError::Escape),
            Some('?') => Err(ItemError::Query),
            Some(strange) => Err(ItemError::Character(strange)),
        },
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL),
            Self::Class(class) => class.fmt(f),
            Self::Path(pattern) => pattern.fmt(f),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LATEST}{}", self.segments.join("/"))
    }
}

impl From<Item> for String {
    fn from(item: Item) -> Self {
        item.to_string()
    }
}

impl TryFrom<String> for Item {
    type Error = ItemError;

    fn try_from(text: String) -> Result<Self, ItemError> {
        text.parse()
    }
}
