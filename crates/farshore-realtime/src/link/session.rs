//! One established connection between the regions of a hub: both directions at once.
//!
//! Read in this order: [`Shared`] (what outlives a connection), [`run`], then `sender` and `receiver`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::ids::Region;
use farshore_core::moment::Moment;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::claims::Claims;
use super::fence::{Fence, Stale};
use super::receiver::Receiver;
use super::sender::Sender;
use super::snapshot::Contradiction;
use super::wire::{Applied, Frame, FrameReader, FrameWriter, Hello, Message, WireError};
use crate::hub::call::{Answer, Call, Scope};
use crate::hub::record::{Position, Record};
use crate::live::{self, LiveHub};
use crate::names::ConnectionId;

/// A partner that was not heard, or took nothing, for so long is away: four signs of life are missing. Clients and publishers
/// wait for it at most that long.
pub const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum EndReason {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Stale(#[from] Stale),
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    /// The partner goes on, but no longer answers.
    #[error("the other region took what it was sent and did not answer for {0:?}")]
    Unanswered(Duration),
    #[error("the other region refuses: {0}")]
    Refused(String),
    #[error("the other region does not keep to the protocol: {0}")]
    Violation(&'static str),
}

/// How far a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// The partner has everything, but for what is under way.
    Connected,
    /// It is being sent everything.
    Seeding,
    /// It cannot be reached, since then.
    Disconnected {
        /// Since when.
        since: Moment,
    },
}

/// What is known of a link for people.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub(super) state: LinkState,
    /// Why it is not connected.
    pub(super) note: Option<String>,
    pub(super) confirmed: Option<(Position, Moment)>,
    /// When anything was heard of the partner.
    pub(super) heard: Instant,
}

/// What outlives a connection.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) hub: Arc<LiveHub>,
    pub(super) region: Region,
    pub(super) partner: Region,
    pub(super) fence: Arc<Fence>,
    /// Which start of the hub this is.
    pub(super) start: u128,
    pub(super) claims: Claims,
    /// Wakes the sender when there is something to say beside records.
    pub(super) wake: Notify,
    pub(super) moved: AtomicU64,
    applied: Mutex<Option<Applied>>,
    progress: Mutex<Progress>,
}

impl Shared {
    pub(super) fn new(hub: Arc<LiveHub>, region: Region, partner: Region, fence: Arc<Fence>) -> Self {
        let start = hub.snapshot().start;
        let state = LinkState::Disconnected { since: live::now() };
        let progress = Progress { state, note: None, confirmed: None, heard: Instant::now() };
        Self {
            hub,
            region,
            partner,
            fence,
            start,
            claims: Claims::default(),
            wake: Notify::new(),
            moved: AtomicU64::new(0),
            applied: Mutex::new(None),
            progress: Mutex::new(progress),
        }
    }

    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to where the partner's records were applied here.
    pub(super) fn applied(&self) -> Option<Applied> {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_applied(&self, applied: Option<Applied>) {
        *self.applied.lock().unwrap_or_else(PoisonError::into_inner) = applied;
    }

    /// Bytes came.
    pub(super) fn heard(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        self.progress().heard = Instant::now();
    }

    /// What this side says first.
    pub(super) fn hello(&self) -> Frame {
        let hello = Hello {
            hub: self.hub.name().clone(),
            from: self.region.clone(),
            to: self.partner.clone(),
            start: self.start,
            applied: self.applied(),
        };
        Frame { token: self.fence.highest(), message: Message::Hello(Box::new(hello)) }
    }

    /// Whether what a peer says first is meant for this link.
    pub(super) fn check(&self, hello: &Hello) -> Result<(), String> {
        let (hub, region, partner) = (self.hub.name(), &self.region, &self.partner);
        if (&hello.hub, &hello.to, &hello.from) == (hub, region, partner) {
            return Ok(());
        }
        let Hello { hub: theirs, from, to, .. } = hello;
        Err(format!(
            "this is {region}'s link of {hub} with {partner}, and {from} asked for {to}'s link of {theirs}"
        ))
    }

    /// Whether a session is this region's.
    pub(super) fn owns(&self, connection: &ConnectionId) -> bool {
        let asks = Call::Exists(Scope::Connection(connection.clone()));
        self.hub.with(|hub| hub.call(asks, live::now())).value == Answer::Yes
    }

    /// The partner does not have the session, or is away: the copy, if there is one, becomes this region's own.
    pub(super) fn take(&self, connection: &ConnectionId) {
        self.hub.apply(vec![Record::Released(connection.clone())]);
    }
}

/// An open connection, greeted, with what the peer said first.
pub(super) struct Connection {
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
    pub(super) hello: Hello,
    /// Whether it still waits for this side's hello.
    pub(super) unanswered: bool,
}

/// Serves a connection until it ends.
pub(super) async fn run(shared: Arc<Shared>, connection: Connection) -> EndReason {
    let Connection { reader, mut writer, hello, unanswered } = connection;
    if unanswered && let Err(error) = writer.say(&shared.hello(), SILENCE_MAX).await {
        return error.into();
    }
    shared.claims.ask_again();
    let replies = Replies::default();
    let mut sender = Sender::new(&shared, &replies, writer, hello.applied);
    let mut receiver = Receiver::new(&shared, &replies, reader, hello.start);
    tokio::select! {
        // The receiver first: when both fail, it is the one that knows why.
        biased;
        reason = receiver.run() => reason,
        reason = sender.run() => reason,
    }
}

/// What the receiver wants said, and what it was told, for the sender of the same connection.
#[derive(Debug, Default)]
pub(super) struct Replies {
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
pub(super) struct Said {
    /// Confirm everything up to here.
    pub(super) has: Option<Position>,
    /// Pings that wait for their answer.
    pub(super) pongs: u32,
    /// Claims of sessions that are not here, each to be answered after the records up to a position.
    pub(super) not_mine: Vec<(Position, ConnectionId)>,
    /// The partner has confirmed everything up to here.
    pub(super) confirmed: Option<Position>,
    /// The last position that was sent.
    pub(super) sent: Option<Position>,
    /// What is confirmed below this came before a snapshot that is under way: nobody waits until the partner has that.
    pub(super) floor: Position,
    /// Since when an answer is missing.
    pub(super) asked: Option<Instant>,
}

impl Replies {
    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
