//! What the two regions of a hub say to each other: one question, one answer, each with its version and its token.

use farshore_core::ids::{Epoch, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::Role;
use serde::{Deserialize, Serialize};

use crate::registry::Batch;
use crate::telemetry::{Cursor, RawBatch};

/// The first byte of every question and answer.
const VERSION: u8 = 1;

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
