//! A snapshot in parts, in which a message that many sessions are owed is said once.
//!
//! Must always hold: what [`Whole`] puts together is what [`Split`] was given; sessions that were owed the same message share
//! it again; no part is longer than a frame.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::wire::{Applied, Begin, Message as Said};
use crate::frames::Message;
use crate::hub::SessionCard;
use crate::hub::record::{Position, Snapshot};
use crate::hub::state::BoardCard;

/// A part is sent when it has so many bytes: confirmations and signs of life go between the parts.
const PART_BYTES: usize = 256 * 1024;
/// What a message or a session costs beside its texts, about.
const ENTRY_BYTES: usize = 64;
/// A session whose names are longer in all is not copied: it would not fit into a frame with what is kept for it.
const NAMES_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Sessions in one snapshot: what a node can have, ten times over.
const SESSIONS_MAX: usize = 1_000_000;
/// Different messages in one snapshot. A session keeps a few for a second; and many are owed the same.
const MESSAGES_MAX: usize = 20_000_000;

/// Some messages, and some sessions that are owed these or earlier ones.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Part {
    messages: Vec<Arc<Message>>,
    sessions: Vec<Owed>,
    /// After all sessions: what connections show, and watch.
    board: BoardCard,
}

/// A session, with places in the snapshot instead of its messages.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Owed {
    card: SessionCard,
    /// Sequence number of each message, and its place among all of the snapshot.
    kept: Vec<(u64, u32)>,
}

/// Something in a snapshot contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot contradicts itself: {0}")]
pub(super) struct Contradiction(&'static str);

/// Whether a session can be copied at all.
pub(super) fn fits(card: &SessionCard) -> bool {
    names_bytes(card) <= NAMES_BYTES_MAX
}

fn names_bytes(card: &SessionCard) -> usize {
    card.groups.iter().map(|group| group.as_str().len() + ENTRY_BYTES).sum()
}

/// A snapshot on its way out.
#[derive(Debug)]
pub(super) struct Split {
    begin: Option<Begin>,
    sessions: std::vec::IntoIter<SessionCard>,
    /// A session whose messages have not all been said.
    cut: Option<(Vec<(u64, u32)>, SessionCard)>,
    board: BoardCard,
    /// Place of each message by its address. The messages are held, so that an address stays one message's.
    places: HashMap<usize, (u32, Arc<Message>)>,
    position: Position,
    ended: bool,
}

impl Split {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let Snapshot { start, position, sessions, seen, board } = snapshot;
        Self {
            begin: Some(Begin { start, position, seen }),
            sessions: sessions.into_iter(),
            cut: None,
            board,
            places: HashMap::new(),
            position,
            ended: false,
        }
    }

    /// Everything up to here is in it.
    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// What is to be said next; `None`: all was said.
    pub(super) fn next<R>(&mut self) -> Option<Said<R>> {
        if self.ended {
            return None;
        }
        if let Some(begin) = self.begin.take() {
            return Some(Said::Begin(begin));
        }
        let part = self.part();
        self.ended = part.messages.is_empty() && part.sessions.is_empty() && part.board.is_empty();
        Some(if self.ended { Said::End } else { Said::Part(part) })
    }

    fn part(&mut self) -> Part {
        let mut part = Part::default();
        let mut room = PART_BYTES;
        while room > 0 {
            let Some((mut kept, mut card)) = self.cut.take().or_else(|| self.following()) else { break };
            let mut messages = std::mem::take(&mut card.kept).into_iter();
            for (sequence, message) in messages.by_ref() {
                kept.push((sequence, self.place(message, &mut part, &mut room)));
                if room == 0 {
                    break;
                }
            }
            card.kept = messages.collect();
            if card.kept.is_empty() {
                let costs = ENTRY_BYTES + names_bytes(&card) + 8 * (kept.len() + card.ack_ids.len());
                room = room.saturating_sub(costs);
                part.sessions.push(Owed { card, kept });
            } else {
                self.cut = Some((kept, card));
            }
        }
        if room > 0 {
            part.board = self.board.take(room);
        }
        part
    }

    fn following(&mut self) -> Option<(Vec<(u64, u32)>, SessionCard)> {
        let card = self.sessions.find(|card| {
            let fits = fits(card);
            if !fits {
                tracing::warn!(connection = %card.connection, "a session is in too many groups to be copied");
            }
            fits
        })?;
        Some((Vec::with_capacity(card.kept.len()), card))
    }

    fn place(&mut self, message: Arc<Message>, part: &mut Part, room: &mut usize) -> u32 {
        let address = Arc::as_ptr(&message).addr();
        if let Some((place, _)) = self.places.get(&address) {
            return *place;
        }
        let place = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        *room = room.saturating_sub(ENTRY_BYTES + message.len());
        part.messages.push(Arc::clone(&message));
        self.places.insert(address, (place, message));
        place
    }
}

/// A snapshot on its way in.
#[derive(Debug)]
pub(super) struct Whole {
    begin: Begin,
    messages: Vec<Arc<Message>>,
    sessions: Vec<SessionCard>,
    board: BoardCard,
}

impl Whole {
    pub(super) fn new(begin: Begin) -> Self {
        Self { begin, messages: Vec::new(), sessions: Vec::new(), board: BoardCard::default() }
    }

    pub(super) fn add(&mut self, part: Part) -> Result<(), Contradiction> {
        self.messages.extend(part.messages);
        if self.messages.len() > MESSAGES_MAX || self.sessions.len() + part.sessions.len() > SESSIONS_MAX {
            return Err(Contradiction("it is larger than any hub"));
        }
        for Owed { mut card, kept } in part.sessions {
            let found = kept.into_iter().map(|(sequence, place)| {
                let place = usize::try_from(place).ok()?;
                Some((sequence, Arc::clone(self.messages.get(place)?)))
            });
            card.kept = found.collect::<Option<_>>().ok_or(Contradiction("a message is missing"))?;
            self.sessions.push(card);
        }
        self.board.extend(part.board);
        Ok(())
    }

    /// The snapshot, and up to where it brings the receiver.
    pub(super) fn end(self) -> (Applied, Snapshot) {
        let Begin { start, position, seen } = self.begin;
        let (sessions, board) = (self.sessions, self.board);
        (Applied { start, position }, Snapshot { start, position, sessions, seen, board })
    }
}
