//! The query of a call: names in any case, some of them repeated, unknown ones without meaning.

use std::str::FromStr;

use super::error::RestError;
use super::percent::{Plus, decode};

/// A query cut into its decoded parameters, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Cuts what stands behind the `?`.
    pub(super) fn parse(raw: &str) -> Result<Self, RestError> {
        let part = |text| {
            decode(text, Plus::Space)
                .map_err(|bad| RestError::bad("query", format!("the query cannot be read: {bad}")))
        };
        raw.split('&')
            .filter(|parameter| !parameter.is_empty())
            .map(|parameter| {
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                Ok((part(name)?, part(value)?))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Every value of a parameter that may be repeated, the empty ones left out.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.values(name).filter(|value| !value.is_empty())
    }

    /// The value of a parameter that may stand once. An empty one counts as absent.
    pub(super) fn one(&self, name: &'static str) -> Result<Option<&str>, RestError> {
        Ok(self.given(name)?.filter(|value| !value.is_empty()))
    }

    /// The value of a parameter that may stand once, however empty.
    pub(super) fn given(&self, name: &'static str) -> Result<Option<&str>, RestError> {
        let mut values = self.values(name);
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => Err(RestError::bad(name, format!("'{name}' stands more than once: give it once"))),
        }
    }

    /// A whole number between two limits. An empty one is not a number.
    pub(super) fn number<N>(&self, name: &'static str, min: N, max: N) -> Result<Option<N>, RestError>
    where
        N: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.given(name)? else { return Ok(None) };
        text.parse().ok().filter(|number| (&min..=&max).contains(&number)).map(Some).ok_or_else(|| {
            RestError::bad(name, format!("Invalid {name} '{text}': give a whole number from {min} to {max}."))
        })
    }

    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}
