//! Requests to the instance metadata service (IMDS): what a request asks for, and whether a filter lets it through.
//!
//! A target as the client sent it becomes a [`MetadataPath`], which has one [`Class`]; a [`Filter`] decides on both.
//! All of it is pure: nothing here opens a socket, knows a pod or reads a clock. What it can't make sense of is an
//! error, never a guess: the gate denies it.

mod class;
mod filter;
mod item;
mod path;
#[cfg(test)]
mod tests;

pub use hyper::Method;

pub use self::{
    class::{Class, UnknownClass},
    filter::{Filter, Tokens},
    item::{Item, ItemError, PathPattern},
    path::{MetadataPath, PathError},
};
