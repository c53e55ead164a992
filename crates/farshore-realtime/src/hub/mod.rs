//! The hub: who is connected, who is in which group, and what each client is owed. Pure: no I/O, no clock.
//!
//! Read in this order: [`call`] (what can be asked), [`record`] (what changes), `session` and [`outbox`] (one client), [`gate`] (when it is written), `crowd` (the
//! sessions of one region), `log` (records for the other region), `recent` (messages of the last while), this file, then
//! `presence` (clients come and go), `asked` (what is asked is done), `memberships`, `owners` (the other region), [`streams`] and [`state`] (what the
//! newest clients can do besides).
//!
//! Two regions have the hub. A session belongs to one of them, its *owner*; the other keeps a copy, made by applying the owner's
//! [`Record`]s in the owner's order. When the owner is lost the copies are *adopted*.
//!
//! Must always hold (tests in `tests.rs`):
//! - of two owners of a session the one with the higher generation, or the one with the client, is left once they speak again;
//! - a copy has the same messages under the same numbers as the original, as far as the records have come;
//! - after an adoption no number is given out that the lost owner may have given to another message;
//! - a message that came through the pair reaches a session once, on whichever side of a change of owner it comes; twice only when
//!   the owner died while the regions could not reach each other.

mod asked;
pub mod call;
mod crowd;
pub mod gate;
mod log;
mod memberships;
pub mod outbox;
mod owners;
mod presence;
mod recent;
pub mod record;
#[cfg(test)]
mod scene;
mod session;
pub mod state;
pub mod streams;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;

use crate::frames::Protocol;
use crate::names::{ConnectionId, GroupName, UserId};
use crate::permission::Permissions;
use call::Call;
use crowd::{Crowd, Outcome};
use gate::Gate;
use log::Log;
use outbox::{Outbox, Pulse};
use recent::Recent;
use record::{Position, Record};
use session::Session;
use state::Board;

pub use asked::acknowledgement;
pub use log::Gone;
pub use presence::Leaving;
pub(crate) use session::PROBE_STATE;
pub use session::SessionCard;

/// After an adoption numbers go on from so much higher: what the lost region gave out and the records had not brought
/// yet stays below. Clients ask only that numbers rise. Far more than a region can send in the time that records are late.
pub const ADOPTION_GAP: u64 = 1 << 24;
/// A reliable client that is away is waited for so long: what the official clients need, twice. Moment counts microseconds.
pub const AWAY_MAX: Duration = Duration::from_secs(60);

/// A client of which nothing was heard for so long is sent a ping. The official ones send their own each 20 s.
pub const PING_AFTER_SECONDS: u32 = 30;
/// A client that gives no sign of life for so long is gone: two pings and what they may take.
pub const SILENT_SECONDS_MAX: u32 = 75;

/// Close codes that the hub gives.
pub mod close {
    /// Asked for by the application, or the client's own wish: no recovery.
    pub const NORMAL: u16 = 1000;
    /// The session is not known, or lost: the client negotiates anew.
    pub const POLICY: u16 = 1008;
    /// Come again: the same session goes on elsewhere.
    pub const AWAY: u16 = 1001;
    /// Come again to the same place: the session is known, and not here yet.
    pub const TRY_AGAIN_LATER: u16 = 1013;
}

/// A client that comes anew.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its session's name.
    pub connection: ConnectionId,
    /// Who it is.
    pub user: Option<UserId>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it may.
    pub permissions: Permissions,
    /// Its first groups.
    pub groups: Vec<GroupName>,
    /// What its event handler wants to be told.
    pub state: Option<String>,
}

/// When and where a client was seen coming.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// Coarse time, for signs of life.
    pub pulse: Pulse,
    /// The wall clock.
    pub now: Moment,
    /// Its address leads to whichever region is active: it can go on elsewhere with its session.
    pub follows: bool,
}

/// A transport's hold on a session.
#[derive(Debug, Clone)]
pub struct Attached {
    /// What it is owed.
    pub outbox: Arc<Outbox>,
    /// Which transport this is.
    pub transport: u64,
    /// When this is with the other region, it is safe.
    pub position: Option<Position>,
}

/// What a client that wants to go on finds.
#[derive(Debug)]
pub enum Recovery {
    /// Its session, and goes on.
    Attached(Box<Attached>, Protocol, Option<UserId>),
    /// Its session is the other region's: ask for it, then try again.
    Elsewhere,
    /// Nothing: the client negotiates anew.
    Unknown,
}

/// What a client's own request came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Carried out.
    Done,
    /// It may not.
    Forbidden,
    /// It was carried out before, under the same number.
    Duplicate,
    /// It cannot be: this is why.
    BadRequest(String),
}

/// A session that has ended, for its event handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub connection: ConnectionId,
    /// Whose.
    pub user: Option<UserId>,
    /// What it spoke.
    pub protocol: Protocol,
    /// Why.
    pub reason: String,
    /// What its handler wanted to be told.
    pub state: Option<String>,
    /// Number of the event that tells of it.
    pub event_id: u64,
}

/// A connection has come into a group or gone out of it, for its event handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Which connection.
    pub connection: ConnectionId,
    /// Whose.
    pub user: Option<UserId>,
    /// What it speaks.
    pub protocol: Protocol,
    /// What its handler wants to be told.
    pub state: Option<String>,
    /// Number of the event that tells of it.
    pub event_id: u64,
    /// Which group.
    pub group: GroupName,
    /// It has come.
    pub begins: bool,
}

/// What came of something, and when it is safe.
#[derive(Debug)]
pub struct Done<T> {
    /// What came of it.
    pub value: T,
    /// When this is with the other region, it is safe; `None`: nothing has to go there.
    pub position: Option<Position>,
    /// Sessions that ended by it.
    pub ended: Vec<Ended>,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Sessions of this region.
    pub sessions: usize,
    /// Of these, reliable ones.
    pub reliable: usize,
    /// Of these, with a client attached.
    pub attached: usize,
    /// Copies of the other region's sessions.
    pub copies: usize,
    /// Groups.
    pub groups: usize,
    /// Users.
    pub users: usize,
    /// Probes of other regions, which are in no other number.
    pub probes: usize,
}

/// One hub in one region.
#[derive(Debug)]
pub struct Hub {
    start: u128,
    mine: Crowd,
    theirs: Crowd,
    their_start: Option<u128>,
    log: Log,
    recent: Recent,
    board: Board,
    /// What clients sent and other nodes of the region have not been told yet; absent: there are none to tell.
    said: Option<Vec<Call>>,
    /// Memberships that have begun or ended, of which event handlers have not been told yet.
    memberships: Vec<Membership>,
    /// Messages of its own making.
    own_messages: u64,
    /// The latest time that it was told.
    clock: Moment,
}

impl Hub {
    /// An empty one. `start`: any number that no other start of it had. `has_partner`: another region is told of changes.
    #[must_use]
    pub fn new(start: u128, has_partner: bool) -> Self {
        Self {
            start,
            mine: Crowd::default(),
            theirs: Crowd::default(),
            their_start: None,
            log: Log::new(has_partner),
            recent: Recent::default(),
            board: Board::default(),
            said: None,
            memberships: Vec::new(),
            own_messages: 0,
            clock: Moment(0),
        }
    }

    /// Whether there is another region to keep records for.
    pub fn set_partner(&mut self, has_partner: bool) {
        self.log.keep(has_partner);
    }

    /// What may be written to reliable clients.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.mine.gate)
    }

    /// Applies a change to this region's sessions; it is recorded next.
    fn apply_own(&mut self, record: &Record) -> Outcome {
        self.mine.recorded = self.log.next();
        self.mine.apply(record)
    }

    /// The other region has everything up to here.
    pub fn partner_has(&mut self, position: Position) {
        self.log.forget(position);
    }

    /// How many there are.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let probes = self.mine.iter().filter(|session| session.is_probe()).count();
        Counts {
            sessions: self.mine.len() - probes,
            reliable: self.mine.reliable(),
            attached: self.mine.clients().filter(|session| session.away_since.is_none()).count(),
            copies: self.theirs.len(),
            groups: self.mine.groups(),
            // Each probe is a user of its own.
            users: self.mine.users().saturating_sub(probes),
            probes,
        }
    }

    /// A name for a message of the hub's own making, which no other start of a hub gives.
    fn own_id(&mut self) -> u128 {
        self.own_messages += 1;
        self.start ^ (u128::from(self.own_messages) << 64)
    }
}

fn opened(session: &Session) -> Record {
    Record::Opened(Box::new(session.card()))
}
