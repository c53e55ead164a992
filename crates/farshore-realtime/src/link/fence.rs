//! The highest token that was seen of an item: what comes with a lower one is refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::ids::Token;

/// Something came under a token that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("token {came} is over, {highest} holds: fence the item there and follow the active region")]
pub struct Stale {
    /// What it came under.
    pub came: Token,
    /// The highest that was seen.
    pub highest: Token,
}

/// The highest token that was seen of one item, by its orders and on its links. Shared by the workload, which raises it with
/// each order and keeps it durably, and by the link, which raises it when the other region knows of a higher one and says it with
/// each frame. Both regions may serve a hub at once, so nobody has to stop serving for it: it is for orders and links.
#[derive(Debug)]
pub struct Fence {
    highest: Mutex<Token>,
}

impl Fence {
    /// With what is known at the start.
    #[must_use]
    pub fn new(token: Token) -> Arc<Self> {
        Arc::new(Self { highest: Mutex::new(token) })
    }

    /// The highest that was seen.
    #[must_use]
    pub fn highest(&self) -> Token {
        *self.known()
    }

    fn known(&self) -> MutexGuard<'_, Token> {
        self.highest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something came under this token: remembers it when it is higher.
    ///
    /// # Errors
    /// When it is lower than one that was seen.
    pub fn see(&self, came: Token) -> Result<(), Stale> {
        let mut known = self.known();
        *known = came.max(*known);
        let highest = *known;
        if came < highest { Err(Stale { came, highest }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Epoch;

    use super::*;

    fn token(incarnation: u64, epoch: u64) -> Token {
        Token::new(incarnation, Epoch(epoch))
    }

    #[test]
    fn the_highest_is_kept_and_lower_ones_are_refused() {
        let fence = Fence::new(token(1, 5));
        for (came, ok, highest) in [
            (token(1, 5), true, token(1, 5)),
            (token(1, 4), false, token(1, 5)),
            (token(2, 1), true, token(2, 1)),
            (token(1, 9), false, token(2, 1)),
            (token(2, 2), true, token(2, 2)),
        ] {
            assert_eq!(fence.see(came).is_ok(), ok, "{came}");
            assert_eq!(fence.highest(), highest);
        }
    }
}
