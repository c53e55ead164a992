//! Keeps one hub's link: connects again for ever, lets go of a lost partner's promises, and adopts its sessions.
//!
//! Must always hold: one connection at a time, the newest; the one before has ended when the next begins; a partner's sessions
//! are adopted at most once for each time that it is lost.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Options;
use super::dial::{self, Means};
use super::listener::{SetupError, Takers};
use super::session::{self, Connection, EndReason, LinkState, SILENCE_MAX, Shared};
use crate::hub::record::Position;
use crate::live;

/// A link that was lost for so long is a sign that the region is: with the word of the health checks it is adopted.
pub const ADOPT_AFTER: Duration = Duration::from_secs(1);
/// An order to adopt that comes while the link still seems to be up holds for so long, should it turn out to be lost.
const ORDER_HOLDS: Duration = Duration::from_secs(10);
/// How often a lost partner's health is asked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// First and longest pause between two attempts to connect; each with up to half as much at random.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What a link's handle asks for.
#[derive(Debug)]
pub(super) enum Order {
    Adopt(oneshot::Sender<usize>),
    Dial(Option<String>),
    Stop(oneshot::Sender<()>),
}

enum Action {
    Came(Connection),
    /// `None`: it was called off.
    Dialed(Option<Result<Connection, SetupError>>),
    Ended(Option<EndReason>),
    Ordered(Order),
    Clock,
    Stopped,
}

/// Where the partner is, between two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// A connection is up, or was until a moment ago.
    None,
    /// Nothing waits for it.
    Away,
    /// Its sessions go on here.
    Adopted,
}

pub(super) struct Keeper {
    shared: Arc<Shared>,
    means: Means,
    dial: Option<String>,
    partner_is_lost: Arc<dyn Fn() -> bool + Send + Sync>,
    takers: Option<Arc<Takers>>,
    connections: mpsc::Receiver<Connection>,
    orders: mpsc::Receiver<Order>,
    session: JoinSet<EndReason>,
    /// The newest connection, while the one before ends.
    next: Option<Connection>,
    dialing: JoinSet<Result<Connection, SetupError>>,
    dial_at: Instant,
    pause: Duration,
    loss: Loss,
    look_at: Instant,
    adopt_until: Option<Instant>,
    /// What the partner had confirmed when the present connection began.
    began_at: Option<Position>,
    /// Since when it has confirmed nothing of what waits for it, from one connection to the next.
    standstill: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        options: Options,
        shared: Arc<Shared>,
        takers: Option<Arc<Takers>>,
        connections: mpsc::Receiver<Connection>,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        Self {
            shared,
            means: Means { secret: options.secret, tls: options.tls },
            dial: options.dial,
            partner_is_lost: options.partner_is_lost,
            takers,
            connections,
            orders,
            session: JoinSet::new(),
            next: None,
            dialing: JoinSet::new(),
            dial_at: Instant::now(),
            pause: PAUSE_MIN,
            // A hub begins without the other region's sessions: there is nothing to adopt yet.
            loss: Loss::Adopted,
            look_at: Instant::now(),
            adopt_until: None,
            began_at: None,
            standstill: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.select().await {
                Action::Stopped => break,
                Action::Ordered(Order::Stop(stopped)) => {
                    self.stop().await;
                    let _ = stopped.send(());
                    return;
                }
                action => self.apply(action),
            }
        }
        self.stop().await;
    }

    async fn stop(&mut self) {
        if let Some(takers) = &self.takers {
            takers.remove(&self.shared);
        }
        self.dialing.shutdown().await;
        self.session.shutdown().await;
        self.shared.hub.partner_away();
        self.shared.claims.settle_all();
    }

    /// Only waits.
    async fn select(&mut self) -> Action {
        let is_up = !self.session.is_empty() || self.next.is_some();
        let may_dial = self.dial.is_some() && self.dialing.is_empty() && !is_up;
        let dial_at = may_dial.then_some(self.dial_at);
        let clock = [dial_at, self.look_at(is_up)].into_iter().flatten().min();
        tokio::select! {
            order = self.orders.recv() => order.map_or(Action::Stopped, Action::Ordered),
            Some(connection) = self.connections.recv() => Action::Came(connection),
            Some(ended) = self.session.join_next() => Action::Ended(ended.ok()),
            Some(dialed) = self.dialing.join_next() => Action::Dialed(dialed.ok()),
            () = sleep_until(clock.unwrap_or_else(Instant::now)), if clock.is_some() => Action::Clock,
        }
    }

    /// When to look next at how the partner is.
    fn look_at(&self, is_up: bool) -> Option<Instant> {
        match self.loss {
            _ if is_up => None,
            Loss::None => Some(self.shared.progress().heard + SILENCE_MAX),
            Loss::Away => Some(self.look_at),
            Loss::Adopted => None,
        }
    }

    /// Never waits.
    fn apply(&mut self, action: Action) {
        match action {
            Action::Came(connection) | Action::Dialed(Some(Ok(connection))) => {
                self.next = Some(connection);
                self.session.abort_all();
                self.begin();
            }
            Action::Dialed(Some(Err(error))) => {
                self.shared.progress().note = Some(error.to_string());
                self.pause_dialing();
            }
            Action::Ended(reason) => {
                self.ended(reason);
                self.begin();
            }
            Action::Ordered(Order::Adopt(answer)) => {
                let _ = answer.send(self.adopt_ordered());
            }
            Action::Ordered(Order::Dial(address)) => {
                self.dial = address;
                self.dialing.abort_all();
                self.dial_at = Instant::now();
                self.pause = PAUSE_MIN;
            }
            Action::Clock => self.look(),
            Action::Dialed(None) | Action::Ordered(Order::Stop(_)) | Action::Stopped => {}
        }
    }

    /// Begins with the newest connection, once the one before has ended.
    fn begin(&mut self) {
        if !self.session.is_empty() {
            return;
        }
        let Some(connection) = self.next.take() else { return };
        self.dialing.abort_all();
        self.shared.progress().heard = Instant::now();
        self.loss = Loss::None;
        self.pause = PAUSE_MIN;
        self.began_at = self.confirmed();
        self.session.spawn(session::run(Arc::clone(&self.shared), connection));
    }

    fn ended(&mut self, reason: Option<EndReason>) {
        let mut progress = self.shared.progress();
        if let Some(reason) = reason {
            tracing::info!(hub = %self.shared.hub.name(), partner = %self.shared.partner, %reason, "link lost");
            progress.note = Some(reason.to_string());
        }
        if !matches!(progress.state, LinkState::Disconnected { .. }) {
            progress.state = LinkState::Disconnected { since: live::now() };
        }
        drop(progress);
        self.note_standstill();
        self.pause_dialing();
    }

    fn confirmed(&self) -> Option<Position> {
        self.shared.progress().confirmed.map(|(position, _)| position)
    }

    /// A partner that comes again and again is never silent. If it takes nothing, it holds nobody up all the same.
    fn note_standstill(&mut self) {
        let (confirmed, now) = (self.confirmed(), Instant::now());
        let is_behind = confirmed.unwrap_or_default() < self.shared.hub.position();
        self.standstill = match self.standstill {
            _ if !is_behind => None,
            Some(since) if confirmed == self.began_at => Some(since),
            _ => Some(now),
        };
        if self.standstill.is_some_and(|since| now - since >= SILENCE_MAX) {
            self.shared.hub.partner_away();
        }
    }

    fn pause_dialing(&mut self) {
        let half = u64::try_from(self.pause.as_millis() / 2).unwrap_or(0);
        let jitter = Duration::from_millis(rand::rng().random_range(0..=half));
        self.dial_at = Instant::now() + self.pause + jitter;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn look(&mut self) {
        let is_up = !self.session.is_empty() || self.next.is_some();
        let now = Instant::now();
        if let Some(address) = &self.dial
            && self.dialing.is_empty()
            && !is_up
            && self.dial_at <= now
        {
            let dials = dial::dial(Arc::clone(&self.shared), address.clone(), self.means.clone());
            self.dialing.spawn(dials);
        }
        let silent = now.saturating_duration_since(self.shared.progress().heard);
        if !is_up && self.loss == Loss::None && silent >= SILENCE_MAX {
            self.loss = Loss::Away;
            self.shared.hub.partner_away();
            self.shared.claims.settle_all();
            self.look_at = now;
        }
        if self.loss == Loss::Away && self.look_at <= now {
            self.look_at = now + LOOK_EVERY;
            let ordered = self.adopt_until.is_some_and(|until| now < until);
            if silent >= ADOPT_AFTER && (ordered || (self.partner_is_lost)()) {
                self.adopt();
            }
        }
    }

    fn adopt_ordered(&mut self) -> usize {
        if self.session.is_empty() && self.next.is_none() {
            return self.adopt();
        }
        self.adopt_until = Some(Instant::now() + ORDER_HOLDS);
        0
    }

    fn adopt(&mut self) -> usize {
        self.loss = Loss::Adopted;
        self.adopt_until = None;
        // Its records were for copies that are none any more: it sends everything when it is back.
        self.shared.set_applied(None);
        self.shared.hub.partner_away();
        let count = self.shared.hub.adopt();
        self.shared.claims.settle_all();
        tracing::info!(hub = %self.shared.hub.name(), partner = %self.shared.partner, count, "sessions adopted");
        count
    }
}
