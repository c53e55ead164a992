//! Records that the other region may not have yet, in order; bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use super::call::Call;
use super::record::{Position, Record};

/// Bytes of records that are held for a region that is away or slow. Beyond, the oldest go, and it is sent everything anew.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// The same, as a number of records.
const RECORDS_MAX: usize = 200_000;

/// The records asked for are no longer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the records after this position are no longer held: a snapshot is needed")]
pub struct Gone;

/// The last records.
#[derive(Debug)]
pub(super) struct Log {
    keep: bool,
    records: VecDeque<(Arc<Record>, usize)>,
    bytes: usize,
    last: u64,
}

impl Log {
    pub(super) fn new(keep: bool) -> Self {
        Self { keep, records: VecDeque::new(), bytes: 0, last: 0 }
    }

    /// Without anybody to read them records are counted, not held.
    pub(super) fn keep(&mut self, keep: bool) {
        self.keep = keep;
        if !keep {
            self.records = VecDeque::new();
            self.bytes = 0;
        }
    }

    pub(super) fn push(&mut self, record: Record) -> Position {
        self.last += 1;
        if !self.keep {
            return Position(self.last);
        }
        let len = weight(&record);
        self.records.push_back((Arc::new(record), len));
        self.bytes += len;
        while self.bytes > BYTES_MAX || self.records.len() > RECORDS_MAX {
            let Some((_, len)) = self.records.pop_front() else { break };
            self.bytes -= len;
        }
        Position(self.last)
    }

    /// Where the next record will stand.
    pub(super) fn next(&self) -> Position {
        Position(self.last + 1)
    }

    pub(super) fn last(&self) -> Position {
        Position(self.last)
    }

    /// The other region has everything up to here.
    pub(super) fn forget(&mut self, position: Position) {
        let first = self.first();
        for _ in first..=position.0.min(self.last) {
            let Some((_, len)) = self.records.pop_front() else { break };
            self.bytes -= len;
        }
    }

    /// Number of the oldest record that is held.
    fn first(&self) -> u64 {
        self.last + 1 - self.records.len() as u64
    }

    pub(super) fn after(
        &self,
        position: Position,
        bytes: usize,
    ) -> Result<Vec<(Position, Arc<Record>)>, Gone> {
        let first = self.first();
        if position.0 + 1 < first || position.0 > self.last {
            return Err(Gone);
        }
        let skip = usize::try_from(position.0 + 1 - first).map_err(|_| Gone)?;
        let mut budget = bytes;
        let mut found = Vec::new();
        for (at, (record, len)) in (position.0 + 1..).zip(self.records.iter().skip(skip)) {
            if !found.is_empty() && *len > budget {
                break;
            }
            budget = budget.saturating_sub(*len);
            found.push((Position(at), Arc::clone(record)));
        }
        Ok(found)
    }
}

/// Roughly its bytes on the wire.
fn weight(record: &Record) -> usize {
    const SMALL: usize = 64;
    match record {
        Record::Called(Call::Send { message, .. })
        | Record::Relayed(Call::Send { message, .. })
        | Record::Asked { call: Some(Call::Send { message, .. }), .. } => SMALL + message.len(),
        Record::Opened(card) => {
            let kept: usize = card.kept.iter().map(|(_, message)| message.len()).sum();
            4 * SMALL + kept + SMALL * (card.groups.len() + card.streams.len() + card.streams_over.len())
        }
        Record::Shown { item, .. } => 2 * SMALL + item.state.as_ref().map_or(0, bytes::Bytes::len),
        _ => SMALL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(log: &Log, after: u64, bytes: usize) -> Result<Vec<u64>, Gone> {
        log.after(Position(after), bytes).map(|found| found.iter().map(|(position, _)| position.0).collect())
    }

    #[test]
    fn records_are_given_from_any_position_that_is_held() {
        let mut log = Log::new(true);
        for id in 0..5 {
            log.push(Record::Passed(id));
        }
        assert_eq!(numbers(&log, 0, 10_000), Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(numbers(&log, 3, 1), Ok(vec![4]), "one at least");
        assert_eq!(numbers(&log, 5, 1), Ok(vec![]));
        assert_eq!(numbers(&log, 6, 1), Err(Gone), "from another start");
        log.forget(Position(2));
        assert_eq!(numbers(&log, 1, 1), Err(Gone));
        assert_eq!(numbers(&log, 2, 64), Ok(vec![3]));
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut log = Log::new(true);
        for id in 0..u128::try_from(RECORDS_MAX).unwrap() + 10 {
            log.push(Record::Passed(id));
        }
        assert!(log.records.len() <= RECORDS_MAX);
        assert_eq!(numbers(&log, 5, 1), Err(Gone));
    }
}
