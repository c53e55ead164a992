//! The link between the two regions of a hub: each asks the other for what it lacks, and joins it to what it has.
//!
//! Read in this order: [`duty`](Duties) (who may serve, and who may not any more), `wire` (question and answer), `follow` (asking,
//! and joining what comes), `give` (what is answered), this file (who is answered, and how far both are), `confirmed` (what is
//! acknowledged only when both have it), `mend` (what a disk has spoilt), `noted` (what both had changed).
//!
//! A question says what is durable at the asker, so it confirms what was given before. Asking again is harmless: a join
//! changes nothing that is there already.
//!
//! Must always hold: nothing is given or taken under a token that is over; nobody is told of progress that is not durable; a region
//! that serves takes nothing from one that was fenced unless the operator asked for the merge, or it follows again; what both had
//! changed is noted for good.

mod confirmed;
mod duty;
mod follow;
mod give;
mod mend;
mod noted;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::ids::{Epoch, ItemId, Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{Pull, ReplicationMode, ReplicationState, Role, StepError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

pub use confirmed::Awaited;
pub use duty::{Duties, Duty, Stale};
pub use follow::{Merged, Taken};
pub use noted::{Noted, view};
pub use wire::Position;

use crate::record::Rules;
use crate::registry::Registry;
use crate::telemetry::{Cursor, Telemetry};
use confirmed::Confirmed;
use wire::{Question, as_wanted, decode, encode};

/// A region that has not asked for this long is away: it asks again as soon as it is answered, at the latest after [`WAIT`].
const SILENCE: Duration = Duration::from_secs(3);
/// An answer waits so long for something to tell.
const WAIT: Duration = Duration::from_secs(1);
/// Changes that nobody announces are found within this.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes of changes, and bytes of telemetry, in one answer: a fraction of a second on a slow line.
const PIECE: usize = 2 << 20;

/// What a link stands on.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// The hub.
    pub item: ItemId,
    /// This region.
    pub here: Region,
    /// The other one.
    pub partner: Region,
    /// What is known of devices here.
    pub registry: Registry,
    /// What devices said.
    pub telemetry: Telemetry,
    /// The way to the other region.
    pub far: Arc<dyn Pull>,
    /// What this region is to the hub.
    pub duties: Arc<Duties>,
    /// With [`Role::Target`]: the newest of its own changes from the time before it followed. Only those are for the region that
    /// serves; what was joined since then came from there.
    pub before: u64,
    /// The right under which what is here was last written.
    pub epoch: Epoch,
    /// Where it is noted what both regions had changed.
    pub noted: Arc<Noted>,
    /// Whether what devices say is acknowledged only when the other region has it, too.
    pub mode: ReplicationMode,
}

/// The link of one hub to its other region. Ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 3],
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// How a link stands.
#[derive(Debug, Clone, Default)]
pub struct LinkStatus {
    /// What the other region is to the hub, when it was last heard.
    pub role: Option<Role>,
    /// When it was last heard, on this clock.
    pub heard: Option<Moment>,
    /// Whether it is heard now.
    pub is_up: bool,
    /// How far the other region is.
    pub theirs: Option<Position>,
    /// When everything that it then had was here, on its clock.
    pub complete_at: Option<Moment>,
    /// Bytes that were given to it.
    pub moved_bytes: u64,
    /// Why it is not heard, in words.
    pub note: Option<String>,
    /// Telemetry that is damaged here and that the other region cannot give, in words.
    pub lost: Vec<String>,
    /// Why conflicts cannot be noted, in words. They are kept in mind, and in their entries.
    pub unnoted: Option<String>,
}

/// What the other region still lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Behind {
    /// Changes of devices, messages, groups and policies.
    pub changes: u64,
    /// Telemetry.
    pub events: u64,
    /// Bytes of that telemetry.
    pub bytes: u64,
    /// When the oldest of it came in.
    pub oldest: Option<Moment>,
}

impl Behind {
    /// All of it, in records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.changes + self.events
    }
}

#[derive(Debug)]
struct Shared {
    options: LinkOptions,
    state: Mutex<State>,
    /// Told when the other region has confirmed more.
    confirmed: Notify,
    /// With [`ReplicationMode::Sync`]: how far it has.
    awaited: Confirmed,
}

#[derive(Debug, Default)]
struct State {
    status: LinkStatus,
    heard: Option<Instant>,
    /// What was here when it was heard before.
    before: Option<Position>,
    /// It had everything once since it was away: all that was here when it was heard before.
    streams: bool,
    /// It came with nothing.
    seeds: bool,
    /// What it has is asked for from the beginning.
    from_start: bool,
    /// Under which token it was answered last,
    answered: Option<Token>,
    /// and asked again after that: it knows.
    told: Option<Token>,
}

impl Link {
    /// Begins to ask the other region for what it has.
    #[must_use]
    pub fn spawn(options: LinkOptions) -> Self {
        let shared = Arc::new(Shared {
            options,
            state: Mutex::default(),
            confirmed: Notify::new(),
            awaited: Confirmed::new(),
        });
        let tasks = [
            tokio::spawn(follow::run(Arc::clone(&shared))),
            tokio::spawn(mend::run(Arc::clone(&shared))),
            tokio::spawn(confirmed::run(Arc::clone(&shared))),
        ];
        Self { shared, tasks }
    }

    /// Up to where the other region has this one's telemetry, for those who acknowledge nothing before that; `None` inside: it is not
    /// waited for, because it is away or was not asked to be.
    #[must_use]
    pub fn awaited(&self) -> Awaited {
        self.shared.awaited.awaited()
    }

    /// Answers the other region.
    ///
    /// # Errors
    /// When somebody else asks, under a token that is over, or cannot be understood.
    pub async fn answer(&self, by: &Region, question: &[u8]) -> Result<Vec<u8>, StepError> {
        self.shared.answer(by, question).await
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> LinkStatus {
        let state = self.shared.state();
        LinkStatus { is_up: state.is_up(), ..state.status.clone() }
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> ReplicationState {
        let state = self.shared.state();
        match (state.is_up(), state.streams, state.seeds) {
            (false, ..) => ReplicationState::Disconnected,
            (true, true, _) => ReplicationState::Streaming,
            (true, false, true) => ReplicationState::Seeding,
            (true, false, false) => ReplicationState::CatchingUp,
        }
    }

    /// Until when what this region serves was surely complete: everything that the other one had when it was last heard is here.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let theirs = self.shared.state().status.theirs.clone();
        theirs.is_some_and(|theirs| self.shared.position().has_all_of(&theirs))
    }

    /// How far this region is.
    #[must_use]
    pub fn position(&self) -> Position {
        self.shared.position()
    }

    /// What the other region still lacks of what is here.
    #[must_use]
    pub fn behind(&self) -> Behind {
        let theirs = self.shared.state().status.theirs.clone().unwrap_or_default();
        self.shared.behind(&theirs)
    }

    /// Returns once the other region has confirmed everything that is here now, and knows the token under which it was said: that
    /// nothing more will come.
    ///
    /// # Errors
    /// It has not within the time; says how much it lacks.
    pub async fn drained(&self, within: Duration) -> Result<(), Behind> {
        let all = self.shared.position();
        let wait = async {
            loop {
                let confirmed = self.shared.confirmed.notified();
                tokio::pin!(confirmed);
                confirmed.as_mut().enable();
                if self.shared.confirmed(&all) && self.shared.is_told() {
                    return;
                }
                confirmed.await;
            }
        };
        timeout(within, wait).await.map_err(|_| self.behind())
    }

    /// What a merge with the other region would do under these rules: nothing is changed.
    ///
    /// # Errors
    /// When the other region does not answer, or serves.
    pub async fn plan(&self, rules: &Rules) -> Result<Merged, StepError> {
        follow::merge(&self.shared, Some(rules)).await
    }

    /// What a merge with the other region would do (`plan`), or has done: everything that it has and that is not here. Asked for by
    /// a person, on the side that serves.
    ///
    /// # Errors
    /// When the other region does not answer, or serves.
    pub async fn merge(&self, plan: bool) -> Result<Merged, StepError> {
        let rules = self.shared.options.registry.rules();
        follow::merge(&self.shared, plan.then_some(&rules)).await
    }
}

impl State {
    fn is_up(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < SILENCE)
    }

    fn hear(&mut self, role: Role, theirs: &Position) {
        if !self.is_up() {
            (self.streams, self.before) = (false, None);
            self.seeds = *theirs == Position::default();
        }
        self.heard = Some(Instant::now());
        self.status.heard = Some(now());
        self.status.role = Some(role);
        self.status.theirs = Some(theirs.clone());
        self.status.note = None;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn position(&self) -> Position {
        let LinkOptions { registry, telemetry, partner, duties, epoch, before, .. } = &self.options;
        let duty = duties.now();
        let epoch = match duty.role {
            Role::Active => duty.token.epoch,
            Role::Target => self.state().status.theirs.as_ref().map_or(*epoch, |theirs| theirs.epoch),
            Role::Fenced | Role::Unconfirmed => *epoch,
        };
        // What a target has joined since it follows is no news to the region that it came from.
        let own = match duty.role {
            Role::Target => registry.own().min(*before),
            _ => registry.own(),
        };
        Position { epoch, own, seen: registry.seen(partner), telemetry: Cursor(telemetry.ends()) }
    }

    fn behind(&self, theirs: &Position) -> Behind {
        let LinkOptions { registry, telemetry, .. } = &self.options;
        let mut behind = Behind { changes: registry.own().saturating_sub(theirs.seen), ..Behind::default() };
        for origin in telemetry.ends().into_keys() {
            let lag = telemetry.lag(&origin, theirs.telemetry.next(&origin)).unwrap_or_default();
            behind.events += lag.events;
            behind.bytes += lag.bytes;
            behind.oldest = behind.oldest.into_iter().chain(lag.oldest).min();
        }
        behind
    }

    /// Whether the other region knows the present token.
    fn is_told(&self) -> bool {
        self.state().told == Some(self.options.duties.token())
    }

    /// Whether the other region has confirmed everything of this one at `position`.
    fn confirmed(&self, position: &Position) -> bool {
        let theirs = self.state().status.theirs.clone();
        theirs.is_some_and(|theirs| theirs.has_all_of(position))
    }

    async fn answer(&self, by: &Region, question: &[u8]) -> Result<Vec<u8>, StepError> {
        let LinkOptions { partner, item, duties, .. } = &self.options;
        if by != partner {
            return Err(StepError::Fatal {
                what: format!("{item} is shared with {partner} here, not with {by}"),
            });
        }
        if let Some(wanted) = as_wanted(question) {
            return Ok(encode(&mend::give(self, wanted).await?));
        }
        let question: Question = decode(question).map_err(|what| StepError::Fatal { what })?;
        duties.see(question.token).map_err(|stale| StepError::Fenced { current: stale.highest })?;
        {
            let mut state = self.state();
            state.told = state.answered;
        }
        self.hear(question.role, &question.has);
        let wait = Duration::from_millis(question.wait_millis.into()).min(WAIT);
        let mut changes = duties.changes();
        let news = async {
            match self.gives(&question) {
                true => self.grown(question.since, &question.cursor).await,
                false => std::future::pending().await,
            }
        };
        let _ = timeout(wait, async {
            tokio::select! {
                () = news => {}
                _ = changes.changed() => {}
            }
        })
        .await;
        let answer = self.gather(&question).await?;
        let bytes = encode(&answer);
        let mut state = self.state();
        state.status.moved_bytes += bytes.len() as u64;
        state.answered = Some(answer.token);
        drop(state);
        Ok(bytes)
    }

    /// The other region has told what it is and what is durable there.
    fn hear(&self, role: Role, theirs: &Position) {
        self.state().hear(role, theirs);
        let here = self.position();
        let is_current = {
            let mut state = self.state();
            // Under load something new is always there: who had all of it a moment ago keeps up.
            let before = state.before.replace(here.clone());
            state.streams |= [Some(here), before].iter().flatten().any(|here| theirs.has_all_of(here));
            state.streams
        };
        if is_current && self.options.mode == ReplicationMode::Sync {
            self.awaited.rise(theirs.telemetry.next(&self.options.here));
        }
        for (origin, next) in &theirs.telemetry.0 {
            self.options.telemetry.pulled(&self.options.partner, origin, *next);
        }
        self.confirmed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;

fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
