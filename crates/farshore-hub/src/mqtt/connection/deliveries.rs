//! Packet ids of what was sent with quality of service 1 and is not acknowledged yet.

use std::num::NonZeroU16;

/// Most that a device may leave unacknowledged: more than a hub keeps for it, and far fewer than there are packet ids.
const UNACKNOWLEDGED_MAX: usize = 1_000;

/// What is on its way, oldest first. Without memory while nothing is.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    last: u16,
    open: Vec<(NonZeroU16, Option<u64>)>,
}

impl Deliveries {
    /// A packet id that is not in use, remembered with the lock of what it stands for. `None`: the device acknowledges nothing.
    pub(super) fn open(&mut self, lock: Option<u64>) -> Option<NonZeroU16> {
        if self.open.len() >= UNACKNOWLEDGED_MAX {
            return None;
        }
        let id = loop {
            self.last = self.last.wrapping_add(1);
            match NonZeroU16::new(self.last) {
                Some(id) if !self.open.iter().any(|(open, _)| *open == id) => break id,
                _ => {}
            }
        };
        self.open.push((id, lock));
        Some(id)
    }

    /// The device has it: the lock that was remembered, if there was one.
    pub(super) fn close(&mut self, id: NonZeroU16) -> Option<u64> {
        let at = self.open.iter().position(|(open, _)| *open == id)?;
        let (_, lock) = self.open.remove(at);
        if self.open.is_empty() {
            self.open = Vec::new();
        }
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_in_use_is_not_given_again() {
        let mut deliveries = Deliveries::default();
        let first = deliveries.open(Some(7)).unwrap();
        for _ in 0..70_000 {
            let id = deliveries.open(None).unwrap();
            assert_ne!(id, first);
            assert_eq!(deliveries.close(id), None);
        }
        assert_eq!(deliveries.close(first), Some(7));
        assert_eq!(deliveries.close(first), None);
    }

    #[test]
    fn a_device_that_acknowledges_nothing_is_noticed() {
        let mut deliveries = Deliveries::default();
        assert!((0..UNACKNOWLEDGED_MAX).all(|_| deliveries.open(None).is_some()));
        assert_eq!(deliveries.open(None), None);
    }
}
