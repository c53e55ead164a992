//! What other rooms ask an app: may this answer go out, who may push, what happens after a push, how far is it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::lease::Lease;
use farshore_core::workload::{Role, Watermark};
use tokio::time::Instant;

use super::item::Item;
use crate::data::Position;
use crate::gateway::Pass;
use crate::link::{Progress, Stock};
use crate::scripts::{Believes, Commit, OnPush, Says};

/// The other region is waited for so long with an answer; then it is not waited for until it keeps up again.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// And it keeps up when it has within so long what was there.
const KEEPS_UP_WITHIN: Duration = Duration::from_secs(2);
/// Whether it is still waited for is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// May an answer go out? Not without the right to serve; and, when protection is synchronous, not before the other region has what it did.
#[derive(Debug)]
pub(super) struct Gate {
    lease: Arc<Lease>,
    stock: Arc<Stock>,
    /// Protection is synchronous.
    is_sync: AtomicBool,
    /// And the other region is there.
    is_there: AtomicBool,
    /// And keeps up.
    is_waited_for: AtomicBool,
    progress: Mutex<Progressing>,
}

/// On the way to synchronous mode.
#[derive(Debug, Default)]
struct Progressing {
    /// How far the database was at an earlier look, and when, while the other region is there and not waited for.
    before: Option<(Position, Instant)>,
    /// The count of times that the other region began to be waited for.
    turn: u64,
    /// What was answered before that has arrived, too.
    is_in_force: bool,
}

impl Gate {
    pub(super) fn new(lease: Arc<Lease>, stock: Arc<Stock>) -> Self {
        Self {
            lease,
            stock,
            is_sync: AtomicBool::new(false),
            is_there: AtomicBool::new(false),
            is_waited_for: AtomicBool::new(false),
            progress: Mutex::default(),
        }
    }

    /// Looked at once a while: whether protection is synchronous, and the other region is there and could be recovered.
    pub(super) fn look(self: &Arc<Self>, is_sync: bool, is_there: bool) {
        self.is_sync.store(is_sync, Ordering::Relaxed);
        self.is_there.store(is_there, Ordering::Relaxed);
        if !is_there {
            self.is_waited_for.store(false, Ordering::Relaxed);
            self.progress().before = None;
        } else if !self.is_waited_for.load(Ordering::Relaxed) && self.keeps_up() {
            self.begin();
        }
    }

    /// From now on answers wait. Those that went out before may still be on their way.
    fn begin(self: &Arc<Self>) {
        let live = self.stock.live();
        let turn = {
            let mut progress = self.progress();
            *progress = Progressing { before: None, turn: progress.turn + 1, is_in_force: live.is_none() };
            progress.turn
        };
        self.is_waited_for.store(true, Ordering::Relaxed);
        let Some(live) = live else { return };
        let gate = Arc::clone(self);
        tokio::spawn(async move {
            let settled = live.settle(SETTLE_MAX).await.is_ok();
            let mut progress = gate.progress();
            if progress.turn == turn {
                progress.is_in_force = settled;
                if !settled {
                    gate.is_waited_for.store(false, Ordering::Relaxed);
                }
            }
        });
    }

    /// It should be waited for, and can be.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_sync.load(Ordering::Relaxed) && self.is_there.load(Ordering::Relaxed)
    }

    /// Whatever was answered is in the other region, and so it stays.
    pub(super) fn is_in_force(&self) -> bool {
        self.waits() && self.progress().is_in_force
    }

    fn waits(&self) -> bool {
        self.is_sync.load(Ordering::Relaxed) && self.is_waited_for.load(Ordering::Relaxed)
    }

    fn is_settled(&self) -> bool {
        self.stock.live().is_none_or(|live| live.is_settled())
    }

    /// What was there a moment ago has arrived. Of an app that never pauses, something is always on its way: to wait for a moment
    /// without would be to wait for ever.
    fn keeps_up(&self) -> bool {
        let Some(live) = self.stock.live() else { return true };
        let before = &mut self.progress().before;
        let arrived = before.is_some_and(|(position, since)| {
            since.elapsed() < KEEPS_UP_WITHIN
                && live.confirmed().is_some_and(|confirmed| confirmed.covers(position))
        });
        before.take_if(|(_, since)| since.elapsed() >= KEEPS_UP_WITHIN);
        before.get_or_insert_with(|| (live.position(), Instant::now()));
        arrived || live.is_settled()
    }

    fn progress(&self) -> MutexGuard<'_, Progressing> {
        // Whole after any panic in between: each change is one step.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Pass for Gate {
    fn free(&self) -> bool {
        self.lease.is_valid() && (!self.waits() || self.is_settled())
    }

    async fn wait(&self) -> Result<(), String> {
        if self.waits()
            && let Some(live) = self.stock.live()
        {
            let given_up = async {
                while self.waits() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            tokio::select! {
                settled = live.settle(SETTLE_MAX) => if let Err(behind) = settled {
                    tracing::warn!(app = %self.stock.item, %behind, "the other region is not waited for until it keeps up again");
                    self.is_waited_for.store(false, Ordering::Relaxed);
                },
                () = given_up => {}
            }
        }
        if self.lease.is_valid() {
            return Ok(());
        }
        Err("this region has lost the right to serve the app: whether the request was carried out is not known".to_owned())
    }
}

/// Whoever knows the deployment key may push; and whom the node believes.
#[derive(Debug)]
pub(super) struct Believer {
    stock: Arc<Stock>,
    tokens: Option<Arc<dyn Believes>>,
}

impl Believer {
    pub(super) fn new(stock: Arc<Stock>, tokens: Option<Arc<dyn Believes>>) -> Self {
        Self { stock, tokens }
    }
}

#[async_trait]
impl Believes for Believer {
    async fn believes(&self, user: &str, password: &str, from: IpAddr) -> bool {
        let is_key = self.stock.charter().keys.is_deployment(password);
        match &self.tokens {
            _ if is_key => true,
            Some(tokens) => tokens.believes(user, password, from).await,
            None => false,
        }
    }
}

/// A push becomes the running release.
#[derive(Debug)]
pub(super) struct Pusher(pub(super) Weak<Item>);

#[async_trait]
impl OnPush for Pusher {
    async fn pushed(&self, commit: Commit, by: &str, says: Says) -> bool {
        let Some(item) = self.0.upgrade() else { return false };
        item.deploy(commit, by, &says).await.is_ok()
    }

    fn takes(&self) -> Result<(), String> {
        let Some(item) = self.0.upgrade() else { return Err("the app was deleted".to_owned()) };
        let here = &item.around.options.region;
        match (item.role(), item.card().partner.clone()) {
            (Role::Active, _) if item.lease.is_valid() => Ok(()),
            (Role::Target, Some(partner)) => {
                Err(format!("{} is active in {partner}, not in {here}: push there", item.id))
            }
            _ => Err(format!("{} does not serve in {here} now: push again when it does", item.id)),
        }
    }
}

/// How far an app is.
#[derive(Debug)]
pub(super) struct Distance(pub(super) Weak<Item>);

impl Progress for Distance {
    fn watermark(&self) -> Watermark {
        self.0.upgrade().map(|item| item.watermark()).unwrap_or_default()
    }
}
