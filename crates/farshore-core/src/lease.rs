//! The right to serve, and until when: what makes an item fence itself.
//!
//! An item that holds has no end to its right, and pays one relaxed load. A self-fencing one has a deadline on the boot
//! clock: asked before a request is accepted and again right before its reply is sent, so that a process which was
//! stopped in between acknowledges nothing when it wakes up.
//!
//! Must always hold: the deadline only moves later while the same right goes on; a right that has lapsed is not renewed
//! without a new order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fencing::FenceTimings;
use crate::ids::{ItemId, Token};
use crate::workload::{BootTime, Leased, StepError};

/// Deadline of an item that holds: never.
const HOLDING: u64 = u64::MAX;
/// Deadline of an item that was not renewed since its order: nothing is served.
const NOT_YET: u64 = 0;

/// Tells the time on the boot clock; another one only in tests.
pub type Clock = Arc<dyn Fn() -> BootTime + Send + Sync>;

/// One item's right to serve. Shared by what serves it, its orders and whoever renews it.
pub struct Lease {
    until: AtomicU64,
    clock: Clock,
    terms: Mutex<Terms>,
}

/// What the deadline belongs to.
#[derive(Debug, Clone, Copy, Default)]
struct Terms {
    /// Highest token known.
    token: Token,
    /// The token of the order to serve.
    under: Token,
    /// `None`: holds.
    timings: Option<FenceTimings>,
    /// Told to serve, and not stopped since.
    serving: bool,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("until", &self.until)
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

impl Lease {
    /// The right of an item that holds, until an order says otherwise.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { until: AtomicU64::new(HOLDING), clock, terms: Mutex::default() }
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.terms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when nothing may be accepted or acknowledged now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let until = self.until.load(Ordering::Relaxed);
        until == HOLDING || (self.clock)() < BootTime(until)
    }

    /// A higher token is known: renewals under a lower one are refused.
    pub fn raise(&self, token: Token) {
        let mut terms = self.terms();
        terms.token = terms.token.max(token);
    }

    /// Told to serve under `token`. With timings, nothing is served before the first renewal; the same order again
    /// changes nothing.
    pub fn begin(&self, token: Token, timings: Option<FenceTimings>) {
        let mut terms = self.terms();
        let goes_on = terms.serving && terms.under == token && terms.timings.is_some();
        match timings {
            None => self.until.store(HOLDING, Ordering::Release),
            Some(_) if goes_on => {}
            Some(_) => self.until.store(NOT_YET, Ordering::Release),
        }
        *terms = Terms { token: terms.token.max(token), under: token, timings, serving: true };
    }

    /// No longer serving: what is renewed from now on is refused. The deadline stays for replies that are under way.
    pub fn end(&self) {
        self.terms().serving = false;
    }

    /// Good until `until`, if that is later than before.
    ///
    /// # Errors
    /// When a higher token is known, or it is not served under this one.
    pub fn renew(&self, token: Token, until: BootTime) -> Result<(), StepError> {
        let terms = self.terms();
        if token < terms.token {
            return Err(StepError::Fenced { current: terms.token });
        }
        if token > terms.token || !terms.serving || terms.timings.is_none() {
            let what = format!("not served here by a lease under {token}: order it to be served first");
            return Err(StepError::Retry { what });
        }
        // Never as good as holding.
        self.until.fetch_max(until.0.min(HOLDING - 1), Ordering::Release);
        Ok(())
    }

    /// Ends the right under `token` if it was renewed once and that is past. True when it has ended, now or before.
    ///
    /// # Errors
    /// When a higher token is known.
    pub fn lapse(&self, token: Token) -> Result<bool, StepError> {
        let mut terms = self.terms();
        if token < terms.token {
            return Err(StepError::Fenced { current: terms.token });
        }
        if token > terms.token || terms.timings.is_none() {
            return Ok(false);
        }
        if terms.serving {
            let renewed_once = self.until.load(Ordering::Acquire) != NOT_YET;
            if !renewed_once || self.is_valid() {
                return Ok(false);
            }
            terms.serving = false;
        }
        Ok(true)
    }

    /// As told to whoever renews; `None`: holds or does not serve.
    #[must_use]
    pub fn leased(&self, item: &ItemId) -> Option<Leased> {
        let terms = *self.terms();
        let timings = terms.timings.filter(|_| terms.serving)?;
        let until = self.until.load(Ordering::Acquire);
        let until = (until != NOT_YET).then_some(BootTime(until));
        Some(Leased { item: item.clone(), token: terms.token, timings, until })
    }

    /// For people: what is wrong when the right is not valid.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        if self.is_valid() || !self.terms().serving {
            return None;
        }
        let until = self.until.load(Ordering::Acquire);
        let since = match until {
            NOT_YET => "it was told to serve".to_owned(),
            until => format!("{} s ago", (self.clock)().0.saturating_sub(until) / 1_000_000_000),
        };
        Some(format!(
            "the right to serve is not renewed since {since}: acknowledges nothing; the control plane is not reachable from here"
        ))
    }
}
