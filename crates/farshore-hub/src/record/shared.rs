//! What the hub as a whole remembers: consumer groups, policies of access, the rules of the merge, settings.

use std::sync::Arc;

use serde_json::{Value, json};

use super::conflict::{Conflict, Group, Judge, fingerprint};
use super::mark::Mark;
use super::register::Register;
use super::rules::Rules;
use crate::versions::VersionVector;

pub use crate::sas::{Policy, Rights};
pub use crate::telemetry::Cursor;

/// An entry with one value; `None`: deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single<T> {
    pub(super) seen: VersionVector,
    pub(super) value: Register<Option<T>>,
}

impl<T> Default for Single<T> {
    fn default() -> Self {
        Self { seen: VersionVector::default(), value: Register::default() }
    }
}

impl<T: Clone + PartialEq> Single<T> {
    /// A place where nothing is.
    #[must_use]
    pub fn vacant(known: VersionVector) -> Self {
        Self { seen: known, value: Register::default() }
    }

    /// What neither side has replaced.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let value = self.value.join(&self.seen, &other.value, &other.seen);
        Self { seen: self.seen.merge(&other.seen), value }
    }

    pub(crate) fn set(&mut self, mark: &Mark, value: Option<T>) {
        self.seen.raise(mark.region(), mark.stamp.ticks());
        self.value.set(mark, value);
    }

    /// The value that the rules put first.
    pub(crate) fn now(&self, rules: &Rules) -> Option<T> {
        self.value.best(rules, |_| true).and_then(|best| best.value.clone())
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.value.siblings().iter().all(|sibling| sibling.value.is_none())
    }
}

impl Single<Cursor> {
    /// Where to read on: where two regions handed out events at once, after the farther of the two.
    pub(crate) fn cursor(&self) -> Option<Cursor> {
        let read = self.value.siblings().iter().filter_map(|sibling| sibling.value.as_ref());
        read.fold(None, |joined: Option<Cursor>, cursor| match joined {
            Some(joined) => Some(joined.merge(cursor)),
            None => Some(cursor.clone()),
        })
    }
}

impl Single<Policy> {
    pub(super) fn conflicts(&self, name: &str, rules: &Rules) -> Option<Conflict> {
        let best = self.value.best(rules, |_| true);
        Judge { subject: name, rules, instead: None }.judge(
            Group::Policy,
            None,
            &self.value,
            best,
            show_policy,
            |_| true,
        )
    }
}

impl Single<Rules> {
    pub(super) fn conflicts(&self) -> Option<Conflict> {
        let rules = Rules::default();
        let best = self.value.best(&rules, |_| true);
        Judge { subject: "hub", rules: &rules, instead: None }.judge(
            Group::Settings,
            None,
            &self.value,
            best,
            |set| json!(set),
            |_| true,
        )
    }
}

impl Single<Arc<str>> {
    pub(super) fn conflicts(&self, kind: &str, name: &str, rules: &Rules) -> Option<Conflict> {
        let best = self.value.best(rules, |_| true);
        // Settings may hold secrets.
        let show = |text: &Option<Arc<str>>| json!(text.as_deref().map(fingerprint));
        Judge { subject: &format!("{kind}/{name}"), rules, instead: None }.judge(
            Group::Settings,
            None,
            &self.value,
            best,
            show,
            |_| true,
        )
    }
}

fn show_policy(policy: &Option<Policy>) -> Value {
    policy.as_ref().map_or(Value::Null, |policy| {
        json!({
            "primaryKey": fingerprint(&policy.primary), "secondaryKey": fingerprint(&policy.secondary),
            "rights": policy.rights,
        })
    })
}
