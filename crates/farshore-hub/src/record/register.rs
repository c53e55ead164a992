//! A value that regions may change at once without either change being lost.

use super::mark::Mark;
use super::rules::Rules;
use crate::versions::VersionVector;

/// One of the values that live side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sibling<T> {
    /// The change that wrote it.
    pub mark: Mark,
    /// What it wrote.
    pub value: T,
}

/// A multi-value register: the values that no change made in sight of them has replaced, in the order of their marks.
///
/// What was seen is not kept here but once for the whole entry, because entries travel whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register<T>(Vec<Sibling<T>>);

impl<T> Default for Register<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone> Register<T> {
    /// Replaces all that is there. The entry must count `mark` as seen.
    pub fn set(&mut self, mark: &Mark, value: T) {
        self.0.clear();
        self.0.push(Sibling { mark: mark.clone(), value });
    }

    /// Drops all that is there; in a join this reads as replaced by nothing.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether nothing was ever written, or all was dropped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values side by side; one, unless regions changed it at once.
    #[must_use]
    pub fn siblings(&self) -> &[Sibling<T>] {
        &self.0
    }

    /// Whether none of the changes that wrote it was seen.
    pub(super) fn is_news_to(&self, known: &VersionVector) -> bool {
        !self.0.iter().any(|sibling| sibling.mark.is_in(known))
    }

    pub(super) fn from_siblings(siblings: Vec<Sibling<T>>) -> Self {
        Self(siblings)
    }

    /// What neither side has replaced: a value is dropped when the other side has seen it and holds it no more.
    #[must_use]
    pub fn join(&self, seen: &VersionVector, other: &Self, other_seen: &VersionVector) -> Self {
        let holds = |side: &Self, mark: &Mark| side.0.iter().any(|sibling| sibling.mark == *mark);
        let mut joined: Vec<_> = self
            .0
            .iter()
            .filter(|sibling| holds(other, &sibling.mark) || !sibling.mark.is_in(other_seen))
            .cloned()
            .collect();
        let news = other.0.iter().filter(|sibling| !holds(self, &sibling.mark) && !sibling.mark.is_in(seen));
        joined.extend(news.cloned());
        joined.sort_by(|one, two| one.mark.cmp(&two.mark));
        Self(joined)
    }

    /// The sibling that the rules put first, of those that count.
    pub fn best(&self, rules: &Rules, counts: impl Fn(&T) -> bool) -> Option<&Sibling<T>> {
        self.0.iter().filter(|sibling| counts(&sibling.value)).max_by_key(|sibling| rules.rank(&sibling.mark))
    }
}
