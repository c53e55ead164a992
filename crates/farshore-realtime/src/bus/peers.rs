//! The other nodes as one knows them: who is there, and how far each one's words have come. Pure: no I/O, no clock.
//!
//! Must always hold: a word is given out whole and once; what is kept of one that is not whole is bounded.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::wire::{NodeId, Part, Presence};

/// A node says that it is there so often.
pub(super) const PRESENCE_EVERY: Duration = Duration::from_secs(1);
/// A node that was not heard for so long is gone: three of its words and half of one.
pub(super) const GONE_AFTER: Duration = Duration::from_millis(3500);
/// A word in parts is dropped beyond this: the largest message with everything around it, twice.
const WORD_MAX: usize = 4 * 1024 * 1024;
/// Starts of nodes that are remembered: many more than a region has nodes.
const PEERS_MAX: usize = 256;

/// What came of a part.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Took {
    /// A whole word.
    Word(Bytes),
    /// More is to come, or the beginning is missing.
    Nothing,
    /// It came before.
    Repeated,
}

#[derive(Debug, Default)]
struct Peer {
    heard: Option<Instant>,
    revision: u64,
    last: Option<u64>,
    begun: Option<BytesMut>,
}

/// All nodes of the region but this one.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: HashMap<NodeId, Peer>,
    /// Those that were there when the bus was lost and were not heard since.
    awaited: HashSet<NodeId>,
}

impl Peers {
    /// A node says that it is there. True: that is news.
    pub(super) fn heard(&mut self, said: Presence, now: Instant) -> bool {
        self.awaited.remove(&said.from);
        if said.leaves {
            return self.known.remove(&said.from).is_some();
        }
        let Some(peer) = self.peer(said.from) else { return false };
        let is_news = peer.heard.is_none() || peer.revision != said.revision;
        (peer.heard, peer.revision) = (Some(now), said.revision);
        is_news
    }

    fn peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        let has_place = self.known.len() < PEERS_MAX || self.known.contains_key(&node);
        has_place.then(|| self.known.entry(node).or_default())
    }

    /// Who is there.
    pub(super) fn present(&self, now: Instant) -> HashSet<NodeId> {
        let present = self.known.iter().filter(|(_, peer)| peer.is_present(now));
        present.map(|(node, _)| *node).collect()
    }

    /// Those that have hubs of their own, and the revisions of these.
    pub(super) fn with_cards(&self, now: Instant) -> Vec<(NodeId, u64)> {
        let present = self.known.iter().filter(|(_, peer)| peer.is_present(now) && peer.revision != 0);
        present.map(|(node, peer)| (*node, peer.revision)).collect()
    }

    /// Forgets nodes that were not heard for long. Their last numbers stay for a while: a word on its way is not repeated.
    pub(super) fn expire(&mut self, now: Instant) {
        self.known
            .retain(|_, peer| peer.heard.is_some_and(|heard| now.duration_since(heard) < GONE_AFTER * 10));
    }

    /// The bus is lost: those who are there now are waited for when it is back.
    pub(super) fn lost_touch(&mut self, now: Instant) {
        self.awaited.extend(self.present(now));
    }

    /// Whether all that were there before the bus was lost are back.
    pub(super) fn all_back(&self) -> bool {
        self.awaited.is_empty()
    }

    /// They are not waited for any longer.
    pub(super) fn wait_no_more(&mut self) {
        self.awaited.clear();
    }

    /// Takes a part of a word. The number says how many parts did not arrive before it.
    pub(super) fn take(&mut self, part: Part) -> (Took, u64) {
        let Some(peer) = self.peer(part.from) else { return (Took::Nothing, 0) };
        let last = peer.last.unwrap_or_else(|| part.number.saturating_sub(1));
        if part.number <= last {
            return (Took::Repeated, 0);
        }
        let missing = part.number - last - 1;
        peer.last = Some(part.number);
        if missing > 0 || part.first {
            peer.begun = None;
        }
        if part.first && !part.more {
            return (Took::Word(part.piece), missing);
        }
        let begun = match peer.begun.take() {
            Some(begun) => Some(begun),
            None => part.first.then(BytesMut::new),
        };
        let Some(mut begun) = begun.filter(|begun| begun.len() + part.piece.len() <= WORD_MAX) else {
            return (Took::Nothing, missing);
        };
        begun.extend_from_slice(&part.piece);
        if !part.more {
            return (Took::Word(begun.freeze()), missing);
        }
        peer.begun = Some(begun);
        (Took::Nothing, missing)
    }
}

impl Peer {
    fn is_present(&self, now: Instant) -> bool {
        self.heard.is_some_and(|heard| now.duration_since(heard) < GONE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: NodeId = NodeId(9);

    fn part(number: u64, first: bool, more: bool, piece: &'static str) -> Part {
        Part { from: OTHER, number, first, more, piece: Bytes::from_static(piece.as_bytes()) }
    }

    fn word(text: &'static str) -> Took {
        Took::Word(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn words_come_whole_and_once_and_losses_are_counted() {
        let mut peers = Peers::default();
        for (number, first, more, piece, took, missing) in [
            (5, true, false, "one", word("one"), 0),
            (5, true, false, "one", Took::Repeated, 0),
            (4, true, false, "old", Took::Repeated, 0),
            (6, true, true, "tw", Took::Nothing, 0),
            (7, false, false, "o", word("two"), 0),
            (8, true, true, "lo", Took::Nothing, 0),
            (10, false, true, "st", Took::Nothing, 1),
            (11, false, false, "!", Took::Nothing, 0),
            (13, true, false, "three", word("three"), 1),
            (14, true, true, "never ended", Took::Nothing, 0),
            (15, true, false, "four", word("four"), 0),
        ] {
            assert_eq!(peers.take(part(number, first, more, piece)), (took, missing), "{number}");
        }
    }

    #[test]
    fn a_word_without_end_is_dropped() {
        let mut peers = Peers::default();
        let piece = Bytes::from(vec![0; 1 << 20]);
        let count = (WORD_MAX >> 20) as u64 + 3;
        for number in 1..=count {
            let part =
                Part { from: OTHER, number, first: number == 1, more: number < count, piece: piece.clone() };
            assert_eq!(peers.take(part), (Took::Nothing, 0));
        }
        assert!(peers.known[&OTHER].begun.is_none());
    }

    #[test]
    fn who_is_silent_is_gone_and_who_leaves_is_gone_at_once() {
        let mut peers = Peers::default();
        let start = Instant::now();
        let says = |revision, leaves| Presence { from: OTHER, leaves, revision };
        assert!(peers.heard(says(0, false), start));
        assert!(!peers.heard(says(0, false), start));
        assert!(peers.heard(says(4, false), start), "it has other hubs now");
        assert_eq!(peers.with_cards(start), [(OTHER, 4)]);
        assert_eq!(peers.present(start).len(), 1);
        assert!(peers.present(start + GONE_AFTER).is_empty());
        peers.lost_touch(start);
        assert!(!peers.all_back());
        assert!(peers.heard(says(0, true), start));
        assert!(peers.present(start).is_empty() && peers.all_back());
        peers.take(part(1, true, false, "late"));
        assert!(peers.present(start).is_empty(), "a word alone is no presence");
        peers.expire(start + GONE_AFTER * 11);
        assert!(peers.known.is_empty());
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut peers = Peers::default();
        for node in 0..2 * PEERS_MAX as u128 {
            peers.take(Part { from: NodeId(node), ..part(1, true, true, "x") });
        }
        assert_eq!(peers.known.len(), PEERS_MAX);
        let known = peers.known.keys().next().unwrap();
        assert_eq!(peers.take(Part { from: *known, ..part(2, false, false, "y") }).0, word("xy"));
    }
}
