//! What this region is to the app, under which token; and the highest token that was heard of.

use farshore_core::ids::Token;
use farshore_core::workload::Role;
use tokio::sync::watch;

/// What this region is to the app now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Duty {
    /// Under which right.
    pub token: Token,
    /// As what.
    pub role: Role,
}

/// Something came under a token that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// The highest that is known here.
    pub highest: Token,
}

/// Shared by the workload, which sets it with each order, and by the link, which learns of higher tokens: whoever serves under a
/// lower one fences itself as soon as [`Duties::watch`] tells.
#[derive(Debug)]
pub struct Duties {
    duty: watch::Sender<Duty>,
    highest: watch::Sender<Token>,
}

impl Duties {
    /// With what is remembered.
    #[must_use]
    pub fn new(duty: Duty) -> Self {
        Self { duty: watch::Sender::new(duty), highest: watch::Sender::new(duty.token) }
    }

    /// What holds now.
    #[must_use]
    pub fn now(&self) -> Duty {
        *self.duty.borrow()
    }

    /// The token under which to speak: whoever serves, under its own right; whoever does not, under the highest it has heard of, so
    /// that a region that was fenced still gives to the one that is to follow it.
    #[must_use]
    pub fn token(&self) -> Token {
        let duty = self.now();
        match duty.role {
            Role::Active | Role::Unconfirmed => duty.token,
            Role::Fenced | Role::Target => *self.highest.borrow(),
        }
    }

    /// From now on this holds.
    pub fn set(&self, duty: Duty) {
        self.raise(duty.token);
        self.duty.send_if_modified(|now| std::mem::replace(now, duty) != duty);
    }

    /// Told when what this region is to the app changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Duty> {
        self.duty.subscribe()
    }

    /// Told when a higher token is heard of.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Token> {
        self.highest.subscribe()
    }

    /// Something came under this token: remembers it when it is higher.
    ///
    /// # Errors
    /// When it is lower than one that is known.
    pub fn see(&self, came: Token) -> Result<(), Stale> {
        self.raise(came);
        let highest = *self.highest.borrow();
        if came < highest { Err(Stale { highest }) } else { Ok(()) }
    }

    fn raise(&self, came: Token) {
        self.highest.send_if_modified(|highest| {
            let rises = came > *highest;
            *highest = came.max(*highest);
            rises
        });
    }
}
