//! What the two regions of a hub say to each other: a question or a wish, each with an answer, its version and its token.

use farshore_core::ids::{Epoch, Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::Role;
use serde::{Deserialize, Serialize};

use crate::registry::Batch;
use crate::telemetry::{Cursor, RawBatch};

/// The first byte of every question and answer.
const VERSION: u8 = 1;
/// The first byte of a wish; its answer begins as all answers do.
const WANTED: u8 = 2;

/// How far a region's hub has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The right under which the region last wrote, or its source did.
    pub epoch: Epoch,
    /// The newest number of its own log of changes.
    pub own: u64,
    /// How much of the other region's log of changes it has.
    pub seen: u64,
    /// The ends of the logs of telemetry that it has, by region of origin.
    pub telemetry: Cursor,
}

impl Position {
    /// The events in all logs of telemetry.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.telemetry.0.values().sum()
    }

    /// Those of them that a region at `theirs` has, too.
    #[must_use]
    pub fn events_known_to(&self, theirs: &Self) -> u64 {
        theirs.telemetry.0.iter().map(|(origin, end)| self.telemetry.next(origin).min(*end)).sum()
    }

    /// Whether everything of a region at `theirs` is here.
    #[must_use]
    pub fn has_all_of(&self, theirs: &Self) -> bool {
        self.seen >= theirs.own
            && theirs.telemetry.0.iter().all(|(origin, end)| self.telemetry.next(origin) >= *end)
    }
}

/// "What do you have that I lack?" Says at the same time what is durable at the asker, and so confirms what it was given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) token: Token,
    /// What the asker is to the hub.
    pub(super) role: Role,
    /// What is durable at the asker.
    pub(super) has: Position,
    /// The operator wants what a fenced region still has.
    pub(super) merge: bool,
    /// Changes after this number are wanted,
    pub(super) since: u64,
    /// and telemetry from here on.
    pub(super) cursor: Cursor,
    /// How long the answer may wait for something to tell.
    pub(super) wait_millis: u32,
}

/// What the asker lacks, or as much as fits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) token: Token,
    pub(super) role: Role,
    /// What the answerer has.
    pub(super) has: Position,
    /// Its clock when it looked.
    pub(super) at: Moment,
    /// Nothing is given: the asker may not have it now.
    pub(super) withheld: bool,
    pub(super) batch: Option<Batch>,
    /// What is kept no longer: the copies go on here.
    pub(super) starts: Cursor,
    pub(super) telemetry: Vec<RawBatch>,
}

impl Answer {
    /// Whether with this the asker has everything that the answerer had.
    pub(super) fn is_last(&self) -> bool {
        let changes = self.batch.as_ref().is_none_or(Batch::is_last);
        let events = self.telemetry.iter().all(|part| part.next >= self.has.telemetry.next(&part.origin));
        !self.withheld && changes && events
    }
}

/// "Give me these events: they are damaged here."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wanted {
    pub(super) token: Token,
    /// Of whose log.
    pub(super) origin: Region,
    /// The first.
    pub(super) from: u64,
    /// How much, roughly.
    pub(super) bytes: u32,
}

/// The events that are wanted, or why they cannot be had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Piece {
    pub(super) token: Token,
    pub(super) given: Result<RawBatch, String>,
}

/// A wish in bytes.
pub(super) fn encode_wanted(wanted: &Wanted) -> Vec<u8> {
    postcard::to_extend(wanted, vec![WANTED]).unwrap_or_default()
}

/// The wish that these bytes are; `None`: they are no wish.
pub(super) fn as_wanted(bytes: &[u8]) -> Option<Wanted> {
    let rest = bytes.strip_prefix(&[WANTED])?;
    postcard::from_bytes(rest).ok()
}

pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).unwrap_or_default()
}

/// What was said, or why it cannot be understood.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|error| {
            format!("the other region of the hub says what cannot be understood ({error}): run the same farshore in both")
        }),
        Some((version, _)) => Err(format!(
            "the other region of the hub speaks version {version}, this one version {VERSION}: run the same farshore in both"
        )),
        None => Err("the other region of the hub says nothing".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn position(telemetry: &[(&str, u64)]) -> Position {
        let ends: BTreeMap<_, _> =
            telemetry.iter().map(|(region, end)| (Region::parse(region).unwrap(), *end)).collect();
        Position { telemetry: Cursor(ends), ..Position::default() }
    }

    #[test]
    fn what_a_region_has_beyond_another_is_not_counted_as_had_in_common() {
        for (here, theirs, common) in [
            (&[][..], &[][..], 0),
            (&[("paris", 10)], &[("paris", 7)], 7),
            (&[("paris", 7)], &[("paris", 10)], 7),
            // Its own events do not make up for those of the source that it lacks.
            (&[("oslo", 50), ("paris", 7)], &[("paris", 10)], 7),
            (&[("oslo", 50), ("paris", 7)], &[("oslo", 20), ("paris", 10)], 27),
            (&[("paris", 7)], &[("oslo", 20)], 0),
        ] {
            assert_eq!(position(here).events_known_to(&position(theirs)), common, "{here:?} {theirs:?}");
        }
        assert_eq!(position(&[("oslo", 50), ("paris", 7)]).events(), 57);
    }

    #[test]
    fn a_wish_is_told_from_a_question() {
        let wanted = Wanted {
            token: Token::new(1, Epoch(2)),
            origin: Region::parse("oslo").unwrap(),
            from: 9,
            bytes: 5,
        };
        assert_eq!(as_wanted(&encode_wanted(&wanted)), Some(wanted));
        assert_eq!(as_wanted(&[VERSION, 1, 2]), None);
        assert_eq!(as_wanted(&[WANTED]), None);
        assert_eq!(as_wanted(&[]), None);
    }
}
