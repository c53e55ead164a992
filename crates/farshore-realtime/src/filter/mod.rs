//! Filters: which connections a message is for, said in the OData language.
//!
//! `userId in ('ann', 'bob') and not ('quiet' in groups)` is read once, when a call arrives, and then asked of each
//! connection. Everything that can be wrong with a filter is found while it is read, so asking cannot fail.
//!
//! Read in this order: here, [`tree`] (what a filter says), `lexer` and `parse` (from text to a tree), `check` (names,
//! functions and types; from a tree to a rule), `rule` (what is asked of a connection).
//!
//! Must always hold: any text at all is answered with a filter or an error, in time and stack bounded by the limits
//! below; the errors are those of the official service, to the letter and the position.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod check;
mod lexer;
mod parse;
mod rule;
pub mod tree;

use rule::Rule;

/// Longest filter, in bytes: some thousand user ids in one `in (…)`.
pub const FILTER_LEN_MAX: usize = 64 * 1024;
/// Deepest nesting of parentheses, functions, lists and `not`: bounds the stack.
pub const DEPTH_MAX: usize = 100;
/// Most clauses that `and` and `or` join, and most comparisons and `in` each.
pub const CLAUSES_MAX: usize = 100;
/// Most calls of functions: four for each clause. Bounds what `concat` can build up.
pub const CALLS_MAX: usize = 400;

/// A connection, as filters see it.
pub trait Subject {
    /// Who is connected; none if anonymous.
    fn user_id(&self) -> Option<&str>;
    /// Its id.
    fn connection_id(&self) -> &str;
    /// Its subprotocol; none for a simple client.
    fn protocol(&self) -> Option<&str>;
    /// Whether it is in the group of exactly this name.
    fn in_group(&self, group: &str) -> bool;
    /// In how many groups it is.
    fn group_count(&self) -> usize;
}

/// A filter that was read and checked. A clone costs one reference count; it is stored and sent as its text.
#[derive(Clone)]
pub struct Filter(Arc<Parsed>);

struct Parsed {
    text: Box<str>,
    /// None for the empty filter, which lets everyone pass.
    rule: Option<Rule>,
}

impl Filter {
    /// Reads and checks a filter. The empty text is a filter that lets everyone pass.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_LEN_MAX {
            let beginning: String = text.chars().take(64).collect();
            return Err(FilterError::new(beginning, format!("It is longer than {FILTER_LEN_MAX} bytes.")));
        }
        let rule = match text {
            "" => None,
            text => Some(check::check(&parse::parse(text)?, text)?),
        };
        Ok(Self(Arc::new(Parsed { text: text.into(), rule })))
    }

    /// Whether `subject` passes.
    #[must_use]
    pub fn matches(&self, subject: &dyn Subject) -> bool {
        self.0.rule.as_ref().is_none_or(|rule| rule.lets_pass(subject))
    }

    /// The text that it was read from.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}
impl Eq for Filter {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({:?})", self.text())
    }
}
impl Serialize for Filter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}
impl<'de> Deserialize<'de> for Filter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// A filter that cannot be used, in the words of the official service: clients show them to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Invalid syntax for '{about}': {detail} (Parameter 'filter')")]
pub struct FilterError {
    /// The part of the filter that is wrong, or all of it.
    pub about: String,
    /// What is wrong with it, as a sentence.
    pub detail: String,
}

impl FilterError {
    fn new(about: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { about: about.into(), detail: detail.into() }
    }
}

#[cfg(test)]
mod tests;
