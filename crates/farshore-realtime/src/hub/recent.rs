//! The messages of the last while that carry an id, and which of them the other region has given to its own sessions.
//!
//! A message through the pair is given to both regions, each for its own sessions. A session that changes hands must get
//! those that the new owner has had and the old one had not, when the old one let go of it; and not those again that the old one
//! had given to it, when they come to the new owner late.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use farshore_core::moment::Moment;

use super::call::Call;
use crate::names::ConnectionId;

/// Longer than a change of owner takes: detection, adoption and a client's retries.
const WINDOW: Duration = Duration::from_secs(60);
/// Bytes of messages that are held for it; at a higher rate the window is shorter.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// What an entry costs beside its message.
const ENTRY_BYTES: usize = 256;
/// Messages of the other region that are remembered: twice as many as can be held here.
const THEIRS_MAX: usize = 2 * BYTES_MAX / ENTRY_BYTES;

/// Messages with ids.
#[derive(Debug, Default)]
pub(super) struct Recent {
    order: VecDeque<(u128, Moment, Call)>,
    mine: HashSet<u128>,
    bytes: usize,
    /// How many there have been.
    count: u64,
    /// The how-manieth of theirs it was.
    theirs: HashMap<u128, u64>,
    their_order: VecDeque<(u128, Moment)>,
    their_count: u64,
    /// Sessions that came from the other region, and how many messages it had given until then. In the order in which they came.
    newcomers: VecDeque<(ConnectionId, u64, Moment)>,
}

impl Recent {
    /// Whether this region's own sessions were given it.
    pub(super) fn has(&self, id: u128) -> bool {
        self.mine.contains(&id)
    }

    /// This region's own sessions are given it.
    pub(super) fn applied(&mut self, id: u128, call: Call, now: Moment) {
        if !self.mine.insert(id) {
            return;
        }
        self.count += 1;
        self.bytes += weight(&call);
        self.order.push_back((id, now, call));
        while self.bytes > BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((id, _, call)) = self.order.pop_front() {
            self.bytes -= weight(&call);
            self.mine.remove(&id);
        }
    }

    /// The other region has given it to its sessions, or had nobody to give it to.
    pub(super) fn seen_by_them(&mut self, id: u128, now: Moment) {
        if self.theirs.contains_key(&id) {
            return;
        }
        self.theirs.insert(id, self.their_count);
        self.their_count += 1;
        self.their_order.push_back((id, now));
        if self.their_order.len() > THEIRS_MAX {
            self.forget_their_oldest();
        }
    }

    fn forget_their_oldest(&mut self) {
        if let Some((id, _)) = self.their_order.pop_front() {
            self.theirs.remove(&id);
        }
    }

    pub(super) fn their_seen(&mut self, ids: Vec<u128>, now: Moment) {
        ids.into_iter().for_each(|id| self.seen_by_them(id, now));
    }

    /// A session of the other region goes on here.
    pub(super) fn came(&mut self, connection: ConnectionId, now: Moment) {
        self.newcomers.push_back((connection, self.their_count, now));
    }

    /// The sessions that were given this message before they came here.
    pub(super) fn had_elsewhere(&self, id: u128) -> impl Iterator<Item = &ConnectionId> {
        let later = self
            .theirs
            .get(&id)
            .map_or(self.newcomers.len(), |given| self.newcomers.partition_point(|(_, had, _)| had <= given));
        self.newcomers.iter().skip(later).map(|(connection, ..)| connection)
    }

    /// How many messages this region's own sessions were given so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Those after the first `had` that the other region's sessions were not given, oldest first.
    pub(super) fn missed_by_them(&self, had: u64) -> impl Iterator<Item = &Call> {
        let dropped = self.count - self.order.len() as u64;
        let skip = usize::try_from(had.saturating_sub(dropped)).unwrap_or(usize::MAX);
        self.order.iter().skip(skip).filter(|(id, ..)| !self.theirs.contains_key(id)).map(|(_, _, call)| call)
    }

    pub(super) fn ids(&self) -> Vec<u128> {
        self.order.iter().map(|(id, ..)| *id).collect()
    }

    /// Drops what is older than the window.
    pub(super) fn forget_before(&mut self, now: Moment) {
        let window = u64::try_from(WINDOW.as_micros()).unwrap_or(u64::MAX);
        let old = |at: Moment| now.0.saturating_sub(at.0) > window;
        while self.order.front().is_some_and(|(_, at, _)| old(*at)) {
            self.forget_oldest();
        }
        while self.newcomers.front().is_some_and(|(.., at)| old(*at)) {
            self.newcomers.pop_front();
        }
        // Kept longer than the messages themselves, which may have come here later.
        while self.their_order.front().is_some_and(|(_, at)| now.0.saturating_sub(at.0) > 2 * window) {
            self.forget_their_oldest();
        }
    }
}

fn weight(call: &Call) -> usize {
    match call {
        Call::Send { message, .. } => ENTRY_BYTES + message.len(),
        _ => ENTRY_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_the_other_region_is_bounded_in_number_and_in_time() {
        let mut recent = Recent::default();
        let most = u128::try_from(THEIRS_MAX).unwrap();
        for id in 0..most + 10 {
            recent.seen_by_them(id, Moment(1));
            recent.seen_by_them(id, Moment(2));
        }
        assert_eq!((recent.theirs.len(), recent.their_order.len()), (THEIRS_MAX, THEIRS_MAX));
        assert!(!recent.theirs.contains_key(&9) && recent.theirs.contains_key(&10));
        recent.forget_before(Moment(1_000_000_000));
        assert!(recent.theirs.is_empty());
    }
}
