//! The link between the two regions of an app: the one that stands by asks the other for what it lacks.
//!
//! Read in this order: [`duty`](Duties) (who may serve, and who may not any more), [`stock`](Stock) (what a region has), `wire` (question
//! and answer), `follow` (asking, and taking what comes), `give` (what is answered), this file (who is answered, and how far both are).
//!
//! Both regions ask, so that each knows what the other is and where its gateway is; only the one that follows is given anything. A
//! question says what is durable at the asker, so it confirms what was given before.
//!
//! Must always hold: nothing is given or taken under a token that is over; nobody is told of progress that is not durable; nothing on
//! the way to a promotion waits for the other region.

mod duty;
mod follow;
mod give;
mod stock;
mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::ids::{Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{Pull, ReplicationState, Role, StepError, Watermark};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

pub use duty::{Duties, Duty, Stale};
pub use stock::{Kept, Stock};
pub use wire::{Has, Where};

use wire::{Question, decode, encode};

/// A region that has not asked for this long is away: it asks again as soon as it is answered, at the latest after [`WAIT`].
const SILENCE: Duration = Duration::from_secs(3);
/// An answer waits so long for something to tell.
const WAIT: Duration = Duration::from_secs(1);
/// Bytes in one answer: a fraction of a second on a slow line.
const PIECE: usize = 2 << 20;

/// What a link stands on.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// The other region.
    pub partner: Region,
    /// What this one has.
    pub stock: Arc<Stock>,
    /// The way to the other region.
    pub far: Arc<dyn Pull>,
    /// What this region is to the app.
    pub duties: Arc<Duties>,
    /// Where this region's gateway is.
    pub gateway: Where,
    /// How far this region is; asked for with each question and answer.
    pub watermark: Arc<dyn Progress>,
    /// Where it keeps its backups.
    pub backups: PathBuf,
}

/// How far a region is.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// Its last write.
    fn watermark(&self) -> Watermark;
}

/// The link of one app to its other region. Ends when it is dropped.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// How a link stands.
#[derive(Debug, Clone, Default)]
pub struct LinkStatus {
    /// What the other region is to the app, when it was last heard.
    pub role: Option<Role>,
    /// Where its gateway is.
    pub gateway: Where,
    /// When it was last heard, on this clock.
    pub heard: Option<Moment>,
    /// Whether it is heard now.
    pub is_up: bool,
    /// What is durable there.
    pub has: Option<Has>,
    /// How far it is, as it said with its last answer.
    pub watermark: Option<Watermark>,
    /// Bytes that were given to it.
    pub moved_bytes: u64,
    /// Why it is not heard, or why what it gives cannot be taken, in words.
    pub note: Option<String>,
}

#[derive(Debug)]
struct Shared {
    options: LinkOptions,
    state: Mutex<State>,
    /// Told when the other region was heard.
    heard: Notify,
}

#[derive(Debug, Default)]
struct State {
    status: LinkStatus,
    heard: Option<Instant>,
    /// Under which token it was answered last,
    answered: Option<Token>,
    /// and asked again after that: it knows.
    told: Option<Token>,
}

impl Link {
    /// Begins to ask the other region.
    #[must_use]
    pub fn spawn(options: LinkOptions) -> Self {
        let shared = Arc::new(Shared { options, state: Mutex::default(), heard: Notify::new() });
        let tasks = [
            tokio::spawn(follow::news(Arc::clone(&shared))),
            tokio::spawn(follow::database(Arc::clone(&shared))),
        ];
        Self { shared, tasks }
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

    /// Returns when the other region is something else to the app than `known`.
    pub async fn turned(&self, known: Option<Role>) {
        loop {
            let heard = self.shared.heard.notified();
            tokio::pin!(heard);
            heard.as_mut().enable();
            if self.shared.state().status.role != known {
                return;
            }
            heard.await;
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn phase(&self) -> ReplicationState {
        let state = self.shared.state();
        let is_whole = state.status.has.as_ref().is_some_and(|has| has.is_whole);
        match (state.is_up(), is_whole) {
            (false, _) => ReplicationState::Disconnected,
            (true, true) => ReplicationState::Streaming,
            (true, false) => ReplicationState::Seeding,
        }
    }

    /// What the other region lacks of what travels as files, in words; `None`: nothing.
    #[must_use]
    pub fn lacks(&self) -> Option<String> {
        self.shared.lacks()
    }

    /// Returns once the other region has confirmed the charter, the scripts and the live release as they are here now.
    ///
    /// # Errors
    /// It has not within the time; says what it lacks.
    pub async fn has_files(&self, within: Duration) -> Result<(), String> {
        self.until(within, |shared| shared.lacks().is_none()).await
    }

    /// Returns once the other region has confirmed all files, all rows, and the token under which it was told: nothing more will come.
    ///
    /// # Errors
    /// It has not within the time; says what it lacks.
    pub async fn drained(&self, within: Duration) -> Result<(), String> {
        let began = Instant::now();
        self.has_files(within).await?;
        let stock = &self.shared.options.stock;
        match stock.live() {
            Some(live) => {
                let left = within.saturating_sub(began.elapsed());
                live.settle(left).await.map_err(|behind| behind.to_string())?;
            }
            // What is in it is not known, so nobody can say that the other region has it.
            None if stock.engine().is_some() => {
                return Err("its database is not open, so what it has cannot be sent".to_owned());
            }
            None => {}
        }
        let left = within.saturating_sub(began.elapsed());
        self.until(left, Shared::is_told).await
    }

    async fn until(&self, within: Duration, holds: impl Fn(&Shared) -> bool) -> Result<(), String> {
        let wait = async {
            loop {
                let heard = self.shared.heard.notified();
                tokio::pin!(heard);
                heard.as_mut().enable();
                if holds(&self.shared) {
                    return;
                }
                heard.await;
            }
        };
        let partner = &self.shared.options.partner;
        timeout(within, wait).await.map_err(|_| match self.shared.lacks() {
            Some(lacks) => format!("{partner} does not have {lacks} yet"),
            None => format!("{partner} was not heard"),
        })
    }
}

impl State {
    fn is_up(&self) -> bool {
        self.heard.is_some_and(|heard| heard.elapsed() < SILENCE)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the other region knows the present token.
    fn is_told(&self) -> bool {
        self.state().told == Some(self.options.duties.token())
    }

    fn lacks(&self) -> Option<String> {
        let here = self.options.stock.has();
        let live = self.options.stock.charter().live;
        let Some(there) = self.state().status.has.clone() else { return Some("anything".to_owned()) };
        if there.refs != here.refs {
            return Some("the scripts".to_owned());
        }
        if let Some(live) = live.filter(|live| !there.releases.contains(live)) {
            return Some(format!("release {live}"));
        }
        (there.charter != here.charter).then(|| "the settings".to_owned())
    }

    /// The other region was heard.
    fn hear(&self, role: Role, gateway: Where) {
        {
            let mut state = self.state();
            state.heard = Some(Instant::now());
            state.status.heard = Some(now());
            state.status.role = Some(role);
            state.status.gateway = gateway;
        }
        self.heard.notify_waiters();
    }

    async fn answer(&self, by: &Region, question: &[u8]) -> Result<Vec<u8>, StepError> {
        let LinkOptions { partner, stock, duties, .. } = &self.options;
        if by != partner {
            let item = &stock.item;
            return Err(StepError::Fatal {
                what: format!("{item} is shared with {partner} here, not with {by}"),
            });
        }
        let question: Question = decode(question).map_err(|what| StepError::Fatal { what })?;
        duties.see(question.token).map_err(|stale| StepError::Fenced { current: stale.highest })?;
        {
            let mut state = self.state();
            state.told = state.answered;
            state.status.has = Some(question.has.clone());
        }
        self.hear(question.role, question.gateway.clone());
        let answer = give::give(self, question).await?;
        let bytes = encode(&answer);
        let mut state = self.state();
        state.status.moved_bytes += bytes.len() as u64;
        state.answered = Some(answer.token);
        drop(state);
        Ok(bytes)
    }
}

fn now() -> Moment {
    crate::data::now()
}
