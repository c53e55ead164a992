//! How fast clients come in: official ones have no jitter, so after the loss of a region all of them knock at once.
//!
//! A token bucket. Whoever finds it empty waits for its turn, in order, with nothing done for it yet; when too many wait, the rest
//! are told when to come again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Clients a second. A handshake costs about 100 µs without TLS and ten times that with it: this leaves half a core for
/// those who are already in.
pub const PER_SECOND: u32 = 2_000;
/// Clients that come in without waiting, after a quiet time.
pub const BURST: u32 = 500;
/// Nobody waits longer: below the ten seconds after which clients and proxies give a handshake up.
pub const WAIT_MAX: Duration = Duration::from_secs(8);

/// The door. Shared by all listeners of a node.
#[derive(Debug)]
pub struct Admission {
    /// When the next one has its turn, if all before it were evenly spaced.
    next: Mutex<Instant>,
    every: Duration,
    ahead: Duration,
}

/// Too many wait: come again after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComeAgain(pub Duration);

impl Default for Admission {
    fn default() -> Self {
        Self::new(PER_SECOND, BURST)
    }
}

impl Admission {
    /// `per_second` clients, `burst` of them at once.
    #[must_use]
    pub fn new(per_second: u32, burst: u32) -> Self {
        let every = Duration::from_secs(1) / per_second.max(1);
        Self { next: Mutex::new(Instant::now()), every, ahead: every * burst.saturating_sub(1) }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// When too many wait already: nothing was taken.
    pub async fn enter(&self) -> Result<(), ComeAgain> {
        let turn = self.turn(Instant::now())?;
        tokio::time::sleep_until(turn).await;
        Ok(())
    }

    fn turn(&self, now: Instant) -> Result<Instant, ComeAgain> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // When it would come if all before it had come evenly spaced (the generic cell rate algorithm, ITU-T I.371).
        let even = (*next).max(now);
        let turn = even.checked_sub(self.ahead).map_or(now, |turn| turn.max(now));
        let wait = turn - now;
        if wait > WAIT_MAX {
            return Err(ComeAgain(wait));
        }
        *next = even + self.every;
        Ok(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_comes_in_at_once_and_the_rest_evenly() {
        let door = Admission::new(100, 10);
        tokio::time::advance(Duration::from_secs(100)).await;
        let now = Instant::now();
        let waits: Vec<_> = (0..20).map(|_| door.turn(now).unwrap() - now).collect();
        assert!(waits[..10].iter().all(Duration::is_zero), "{waits:?}");
        assert_eq!(waits[19], Duration::from_millis(100), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_would_wait_too_long_is_told_to_come_again() {
        let door = Admission::new(10, 1);
        let now = Instant::now();
        let turns: Vec<_> = (0..200).map(|_| door.turn(now)).collect();
        let let_in = turns.iter().filter(|turn| turn.is_ok()).count();
        assert!((80..=82).contains(&let_in), "{let_in}");
        assert!(matches!(turns[199], Err(ComeAgain(wait)) if wait > WAIT_MAX));
    }
}
