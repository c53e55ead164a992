//! The query language of the registry: the part of SQL that service SDKs use to find devices.
//!
//! ```text
//! SELECT * | COUNT() AS total | deviceId, tags.place.floor AS floor
//! FROM devices | devices.modules | devices.jobs
//! WHERE tags.place = 'paris' AND (status = 'enabled' OR NOT IS_DEFINED(properties.reported.fault)) AND deviceId IN ['a', 'b']
//! ```
//!
//! Read in this order: [`expression`] (what a condition is, and what it means for one document), [`parse`] (from text), `word`
//! (the text's words). What is asked is a JSON document, so nothing here knows what a device is.
//!
//! Must always hold: no input panics, recursion is bounded, every refusal says where in the text and what to write instead.

pub mod expression;
pub mod parse;
mod word;

use serde_json::{Map, Value};

pub use expression::{Expression, Path};
pub use parse::BadQuery;

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// What of each document.
    pub select: Select,
    /// Which documents.
    pub source: Source,
    /// Which of these; `None`: all.
    pub condition: Option<Expression>,
}

/// What of each document is answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Select {
    /// All of it.
    All,
    /// How many there are, under this name.
    Count(String),
    /// Some places, each under a name.
    Fields(Vec<(String, Path)>),
}

/// Where documents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `devices`: the twins of devices.
    Devices,
    /// `devices.modules`: the twins of modules.
    Modules,
    /// `devices.jobs`: scheduled jobs.
    Jobs,
}

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// [`BadQuery`] says where and what.
    pub fn parse(text: &str) -> Result<Self, BadQuery> {
        parse::query(text)
    }

    /// Reads only what stands after `WHERE`; `*` and nothing are all devices.
    ///
    /// # Errors
    /// [`BadQuery`] says where and what.
    pub fn condition(text: &str) -> Result<Self, BadQuery> {
        let condition = if matches!(text.trim(), "" | "*") { None } else { Some(parse::condition(text)?) };
        Ok(Self { select: Select::All, source: Source::Devices, condition })
    }

    /// Whether a document is asked for.
    #[must_use]
    pub fn matches(&self, document: &Value) -> bool {
        self.condition.as_ref().is_none_or(|condition| condition.holds(document))
    }

    /// What of a document is answered; for a count, nothing.
    #[must_use]
    pub fn project(&self, document: Value) -> Value {
        match &self.select {
            Select::All => document,
            Select::Count(_) => Value::Null,
            Select::Fields(fields) => {
                let found = fields
                    .iter()
                    .filter_map(|(name, path)| Some((name.clone(), path.find(&document)?.clone())));
                Value::Object(found.collect::<Map<_, _>>())
            }
        }
    }

    /// The only device ids that can match, where the condition names them: then nothing else need be looked at.
    #[must_use]
    pub fn device_ids(&self) -> Option<Vec<&str>> {
        self.condition.as_ref().and_then(Expression::device_ids)
    }
}

#[cfg(test)]
mod tests;
