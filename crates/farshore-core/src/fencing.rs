//! The arithmetic of fencing: who may write, and how long a silent owner must be waited out.
//!
//! Source of the constants and of the inequality: the lease protocol of `docs/guarantees.md`, which follows the
//! timed-lease argument of Gray and Cheriton (1989): a holder stops by its own clock before anyone else starts by theirs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::Token;

/// What an active region does when it loses the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnControlLoss {
    /// Go on serving. An unplanned failover then needs the source's own acknowledgement of its fence, or the
    /// operator's word that it is down.
    #[default]
    Hold,
    /// Stop by itself when it could not renew in time. Needed for automatic failover.
    Fence,
}

/// Timings of a self-fencing item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceTimings {
    /// R: the owner renews this often.
    pub renew_every: Duration,
    /// How long one renewal may take before it is given up.
    pub call_timeout: Duration,
    /// D: a renewal sent at t is good until t + D.
    pub valid_for: Duration,
    /// S: after expiry the owner stops acknowledging, closes its clients and persists this within S.
    pub stop_within: Duration,
}

impl FenceTimings {
    /// R 3 s, call 2 s, D 15 s, S 5 s: the wait is about 21 s.
    pub const STANDARD: Self = Self::from_secs(3, 2, 15, 5);
    /// R 1 s, call 1 s, D 6 s, S 2 s: the wait is about 9 s.
    pub const FAST: Self = Self::from_secs(1, 1, 6, 2);

    const fn from_secs(renew: u64, call: u64, valid: u64, stop: u64) -> Self {
        Self {
            renew_every: Duration::from_secs(renew),
            call_timeout: Duration::from_secs(call),
            valid_for: Duration::from_secs(valid),
            stop_within: Duration::from_secs(stop),
        }
    }

    /// Refuses timings with which one lost renewal could already end the lease: `R + 2·timeout` must fit in half of D.
    pub fn check(&self) -> Result<(), ImpossibleTimings> {
        let needed = self.renew_every + self.call_timeout * 2;
        if self.renew_every.is_zero() || self.call_timeout.is_zero() || self.stop_within.is_zero() {
            return Err(ImpossibleTimings::Zero);
        }
        if needed > self.valid_for / 2 {
            return Err(ImpossibleTimings::RenewalTooSlow { needed, half: self.valid_for / 2 });
        }
        Ok(())
    }

    /// W: how long the coordinator waits on its own monotonic clock, from the moment the revocation is confirmed stored,
    /// before it may promote without the old owner's acknowledgement. `D·1.01 + S + 1 s`: one per cent is for clocks that
    /// run at different speeds.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.valid_for + self.valid_for / 100 + self.stop_within + Duration::from_secs(1)
    }
}

/// Timings that cannot keep the promise of one active region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ImpossibleTimings {
    /// A duration is zero.
    #[error("renewal interval, call timeout and stop time must all be longer than zero")]
    Zero,
    /// R + 2·timeout > D/2.
    #[error(
        "renewal interval + 2 x call timeout is {needed:?}, but must fit in half the lease ({half:?}): lengthen the lease or renew faster"
    )]
    RenewalTooSlow {
        /// R + 2·timeout.
        needed: Duration,
        /// D/2.
        half: Duration,
    },
}

/// What a receiver does with a token, given the highest it has stored. The receiver stores a higher one durably before it
/// acts on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVerdict {
    /// The same as stored: go on.
    Current,
    /// Higher: store it first.
    Newer,
    /// Lower: refuse, and say which is the highest.
    Stale {
        /// The highest token stored.
        highest: Token,
    },
}

/// Compares a received token with the highest stored one.
#[must_use]
pub fn judge(received: Token, highest: Token) -> TokenVerdict {
    match received.cmp(&highest) {
        std::cmp::Ordering::Less => TokenVerdict::Stale { highest },
        std::cmp::Ordering::Equal => TokenVerdict::Current,
        std::cmp::Ordering::Greater => TokenVerdict::Newer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    #[test]
    fn the_waits_are_those_of_the_protocol() {
        assert_eq!(FenceTimings::STANDARD.wait(), Duration::from_millis(15_000 + 150 + 5_000 + 1_000));
        assert_eq!(FenceTimings::FAST.wait(), Duration::from_millis(6_000 + 60 + 2_000 + 1_000));
        assert_eq!(FenceTimings::STANDARD.check(), Ok(()));
        assert_eq!(FenceTimings::FAST.check(), Ok(()));
    }

    #[test]
    fn slow_renewals_are_refused() {
        let slow = FenceTimings { renew_every: Duration::from_secs(4), ..FenceTimings::STANDARD };
        assert!(matches!(slow.check(), Err(ImpossibleTimings::RenewalTooSlow { .. })));
        let zero = FenceTimings { stop_within: Duration::ZERO, ..FenceTimings::STANDARD };
        assert_eq!(zero.check(), Err(ImpossibleTimings::Zero));
    }

    #[test]
    fn a_lower_token_is_stale_whatever_its_parts() {
        let highest = Token::new(2, Epoch(3));
        assert_eq!(judge(Token::new(1, Epoch(9)), highest), TokenVerdict::Stale { highest });
        assert_eq!(judge(highest, highest), TokenVerdict::Current);
        assert_eq!(judge(Token::new(2, Epoch(4)), highest), TokenVerdict::Newer);
    }

    proptest::proptest! {
        /// Whoever stops by the rules has stopped before the coordinator's wait is over, for any lease and any clock
        /// that runs up to one per cent slower than the coordinator's.
        #[test]
        fn the_owner_stops_before_the_wait_ends(renew in 1u64..10_000, call in 1u64..10_000, stop in 1u64..60_000, extra in 0u64..60_000) {
            let timings = FenceTimings {
                renew_every: Duration::from_millis(renew),
                call_timeout: Duration::from_millis(call),
                valid_for: Duration::from_millis((renew + 2 * call) * 2 + extra),
                stop_within: Duration::from_millis(stop),
            };
            proptest::prop_assert!(timings.check().is_ok());
            // The last renewal was sent at the latest when the revocation was confirmed.
            let owner_stopped = timings.valid_for.mul_f64(1.0099) + timings.stop_within;
            proptest::prop_assert!(owner_stopped < timings.wait());
        }
    }
}
