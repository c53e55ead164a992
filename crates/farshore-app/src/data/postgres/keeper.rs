//! Keeps one server running: starts it again when it ends by itself, saves the count of commits, lets the server forget log
//! that nobody needs, and ends it well.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::cluster::{Card, Cluster, Running};
use super::programs::Programs;
use super::records::{end_before, lsn_text, parse_lsn};
use super::restore::check_replayed;
use super::server::Server;
use super::tail::Tail;
use super::wire::{Connection, Row, WireError};
use super::{ADMIN, DATABASE, Options, PostgresError, STANDBY, USER, cannot};
use crate::data::DataError;

/// How often the count is saved and old log let go. Less than it takes to write what the server keeps in any case.
const TICK: Duration = Duration::from_secs(5);
/// How often it is looked whether the other region keeps up while commits wait for it.
const LOOK: Duration = Duration::from_secs(1);
/// Commits no longer wait for a region that confirmed nothing for this long though there was something to confirm: an app that
/// hangs helps nobody. They wait again as soon as it has caught up. As long as the gateway waits for it.
const SUSPEND_AFTER: Duration = Duration::from_secs(5);
/// A server that ended by itself is started again after this long, and after twice as long each time that does not help.
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// It is tried no less often.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// The name under which the server keeps log for the other region.
const SLOT: &str = "farshore";
/// An answer to a short question takes no longer; a commit that waits for the other region is never asked for here.
const ASK_WITHIN: Duration = Duration::from_secs(20);

/// What everyone who has to do with one served database shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) programs: Programs,
    pub(super) cluster: Cluster,
    pub(super) options: Options,
    pub(super) port: u16,
    pub(super) card: Mutex<Card>,
    /// The replica needs the log from here on; `u64::MAX`: there is none that we know of.
    pub(super) needed_from: AtomicU64,
    pub(super) is_stopped: AtomicBool,
    /// Commits are to wait for the other region, as soon as it has a whole copy.
    pub(super) is_synchronous: AtomicBool,
    /// The other region has a whole copy and is near: commits can begin to wait for it.
    pub(super) is_near: AtomicBool,
    /// Commits before it did not wait.
    pub(super) waits_from: AtomicU64,
    /// A conversation that is open, for the next question.
    pub(super) asker: tokio::sync::Mutex<Option<Connection>>,
}

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Whether commits are to wait for the other region was changed.
    Reload,
    /// End the server; the answer comes when it has ended.
    Stop(oneshot::Sender<()>),
}

impl Shared {
    pub(super) fn card(&self) -> Card {
        self.card.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the card, durably.
    pub(super) fn change_card(&self, change: impl FnOnce(&mut Card)) -> Result<(), DataError> {
        let mut card = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        let mut new = card.clone();
        change(&mut new);
        self.cluster.save(&new)?;
        *card = new;
        Ok(())
    }

    /// A conversation with the server as its owner. It waits for no other region.
    pub(super) async fn connect(&self, database: &str) -> Result<Connection, PostgresError> {
        connect(&self.cluster, self.port, database).await
    }

    /// Asks one question.
    pub(super) async fn ask(&self, sql: &str) -> Result<String, PostgresError> {
        let value = self.rows(sql).await?.into_iter().flatten().flatten().next();
        value.ok_or_else(|| WireError::Unexpected(format!("no value for {sql:?}")).into())
    }

    /// Asks for rows. A conversation that was left open and is broken by now is replaced by a new one.
    pub(super) async fn rows(&self, sql: &str) -> Result<Vec<Row>, PostgresError> {
        let asked = async {
            let mut asker = self.asker.lock().await;
            // Taken out: a question that is given up midway leaves no conversation behind.
            if let Some(mut connection) = asker.take()
                && let Ok(rows) = connection.query(sql).await
            {
                *asker = Some(connection);
                return Ok(rows);
            }
            let mut connection = self.connect(DATABASE).await?;
            let rows = connection.query(sql).await?;
            *asker = Some(connection);
            Ok(rows)
        };
        in_time(asked).await
    }

    /// Whether commits wait for the other region now.
    pub(super) fn holds(&self) -> bool {
        self.is_synchronous.load(Ordering::Acquire) && self.card().holds
    }

    fn running(&self) -> Running {
        running(&self.options, self.port, self.is_synchronous.load(Ordering::Acquire))
    }
}

/// How a server is run with these options.
pub(super) fn running(options: &Options, port: u16, synchronous: bool) -> Running {
    Running { port, synchronous, shared_buffers_mib: options.shared_buffers_mib }
}

async fn connect(cluster: &Cluster, port: u16, database: &str) -> Result<Connection, PostgresError> {
    let mut connection = Connection::open(&cluster.socket(port), ADMIN, database, "farshore").await?;
    connection.query("SET synchronous_commit = local").await?;
    Ok(connection)
}

async fn in_time<T>(asked: impl Future<Output = Result<T, PostgresError>>) -> Result<T, PostgresError> {
    let late = |_| PostgresError::from(WireError::Unexpected(format!("no answer within {ASK_WITHIN:?}")));
    tokio::time::timeout(ASK_WITHIN, asked).await.unwrap_or_else(|error| Err(late(error)))
}

/// Makes a database that was just made or restored ready for its app: the app's user with its password, its database, the
/// slot. Returns the card with the mark where counting begins. Repeated, it changes nothing more.
pub(super) async fn furnish(cluster: &Cluster, port: u16, card: &Card) -> Result<Card, DataError> {
    let made = async {
        let mut connection = connect(cluster, port, "postgres").await?;
        make_user(&mut connection, &card.password).await?;
        make_slot(&mut connection).await?;
        let at = connection.value("SELECT pg_current_wal_insert_lsn()").await?;
        // What is before the mark must be on disk: the log is only sent so far.
        connection.query("CHECKPOINT").await?;
        let timeline = connection.value("SELECT timeline_id FROM pg_control_checkpoint()").await?;
        Ok::<_, PostgresError>((parse_lsn(&at).map(end_before), timeline))
    };
    let (at, timeline) = made.await.map_err(cannot("prepare the database", cluster.dir()))?;
    let is_restored = timeline != "1";
    if is_restored {
        check_replayed(cluster, timeline.parse().unwrap_or_default(), card.mark)?;
    }
    let at = at.unwrap_or_default();
    let mut card = card.clone();
    card.mark.begin_at(at.max(card.mark.boundary));
    (card.port, card.is_fresh) = (port, false);
    Ok(card)
}

async fn make_user(connection: &mut Connection, password: &str) -> Result<(), WireError> {
    let exists = async |connection: &mut Connection, sql: String| connection.query(&sql).await;
    if exists(connection, format!("SELECT 1 FROM pg_roles WHERE rolname = '{USER}'")).await?.is_empty() {
        connection.query(&format!("CREATE ROLE {USER} LOGIN")).await?;
    }
    connection.query(&format!("ALTER ROLE {USER} LOGIN PASSWORD '{password}'")).await?;
    if exists(connection, format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'")).await?.is_empty()
    {
        connection.query(&format!("CREATE DATABASE {DATABASE} OWNER {USER}")).await?;
    }
    Ok(())
}

async fn make_slot(connection: &mut Connection) -> Result<(), WireError> {
    let known =
        format!("SELECT coalesce(wal_status, 'lost') FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
    let status = connection.query(&known).await?.pop().and_then(|mut row| row.pop()).flatten();
    if status.as_deref() == Some("lost") {
        connection.query(&format!("SELECT pg_drop_replication_slot('{SLOT}')")).await?;
    }
    if status.is_none_or(|status| status == "lost") {
        connection.query(&format!("SELECT pg_create_physical_replication_slot('{SLOT}', true)")).await?;
    }
    Ok(())
}

/// The task that keeps the server. Ends when the database is stopped, or when nobody holds the database any more.
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) tail: Arc<Tail>,
    pub(super) server: Option<Server>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) pace: Pace,
}

/// When the other region last confirmed something, or had nothing to confirm.
#[derive(Debug)]
pub(super) struct Pace {
    confirmed: u64,
    at: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { confirmed: 0, at: Instant::now() }
    }

    /// Whether the other region keeps up, now that it has confirmed so far of so much.
    fn keeps_up(&mut self, confirmed: u64, reached: u64, now: Instant) -> bool {
        if confirmed != self.confirmed || confirmed >= reached {
            *self = Self { confirmed, at: now };
        }
        now.duration_since(self.at) < SUSPEND_AFTER
    }
}

impl Keeper {
    /// Keeps the server until it is told to stop.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        let mut look = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ended = self.server.as_ref().map(Server::ended);
            tokio::select! {
                _ = tick.tick() => self.tidy().await,
                _ = look.tick() => self.look_at_pace().await,
                order = self.orders.recv() => match order {
                    Some(Order::Reload) => self.reload().await,
                    Some(Order::Stop(done)) => return self.stop(Some(done)).await,
                    None => return self.stop(None).await,
                },
                status = has_ended(ended) => {
                    tracing::error!(dir = %self.shared.cluster.dir().display(), %status, "the server ended by itself");
                    if let Some(done) = self.restart().await {
                        return self.stop(done).await;
                    }
                }
            }
        }
    }

    /// Starts the server again until it stays. An order to stop is heard meanwhile, and returned.
    async fn restart(&mut self) -> Option<Option<oneshot::Sender<()>>> {
        let mut pause = RESTART_PAUSE;
        if let Some(server) = self.server.take() {
            server.kill().await;
        }
        loop {
            let run = self.shared.running();
            match Server::start(&self.shared.programs, &self.shared.cluster, &run).await {
                Ok(server) if server.port() == self.shared.port => {
                    self.server = Some(server);
                    return None;
                }
                // The app was told the old port: it is waited for.
                Ok(server) => drop(server.stop().await),
                Err(error) => tracing::error!(%error, "the server does not start"),
            }
            match tokio::time::timeout(pause, self.orders.recv()).await {
                Ok(Some(Order::Stop(done))) => return Some(Some(done)),
                Ok(None) => return Some(None),
                Ok(Some(Order::Reload)) => self.reload().await,
                Err(_) => pause = (pause * 2).min(RESTART_PAUSE_MAX),
            }
        }
    }

    /// The server is told whether commits wait for our word. When they no longer do, it is given at once first.
    async fn reload(&mut self) {
        let shared = self.shared.clone();
        if !shared.is_synchronous.load(Ordering::Acquire) {
            self.release("they are not to wait any more");
        }
        let reloading = async {
            shared.cluster.write_settings(&shared.programs, &shared.running())?;
            let Some(server) = &mut self.server else { return Ok(()) };
            server.reload().await.map_err(DataError::io("change the settings of", shared.cluster.dir()))
        };
        if let Err(error) = reloading.await {
            tracing::error!(%error, "whether commits wait for the other region was not changed");
        }
    }

    fn release(&self, why: &str) {
        self.shared.is_near.store(false, Ordering::Release);
        if self.shared.card().holds {
            tracing::warn!(dir = %self.shared.cluster.dir().display(), "commits do not wait for the other region: {why}");
        }
        // Nobody may believe that they wait when they do not.
        let noted = self.shared.change_card(|card| card.holds = false);
        if noted.is_ok() || !self.shared.is_synchronous.load(Ordering::Acquire) {
            self.tail.set_strict(false);
        }
    }

    /// Commits begin to wait for the other region when it is near, and no longer do when it is gone.
    async fn look_at_pace(&mut self) {
        let (confirmed, reached) = (self.tail.confirmed(), self.tail.told().reach.boundary);
        let keeps_up = self.pace.keeps_up(confirmed, reached, Instant::now());
        match self.shared.holds() {
            true if !keeps_up => self.release("it confirms nothing; they wait again when it has caught up"),
            false if self.shared.is_near.load(Ordering::Acquire) && self.server_waits().await => {
                let waits_from = self.tail.set_strict(true);
                self.shared.waits_from.store(waits_from, Ordering::Release);
                self.pace = Pace::new();
                if let Err(error) = self.shared.change_card(|card| card.holds = true) {
                    tracing::error!(%error, "that commits wait for the other region cannot be noted");
                    self.tail.set_strict(false);
                }
            }
            _ => {}
        }
    }

    /// Whether the server itself lets commits wait for our word: each of its parts has read its settings.
    async fn server_waits(&self) -> bool {
        let sql = format!(
            "SELECT (SELECT bool_or(sync_state = 'sync') FROM pg_stat_replication WHERE application_name = '{STANDBY}') \
             AND (SELECT wait_event = 'CheckpointerMain' FROM pg_stat_activity WHERE backend_type = 'checkpointer')"
        );
        self.shared.is_synchronous.load(Ordering::Acquire)
            && self.shared.ask(&sql).await.is_ok_and(|waits| waits == "t")
    }

    async fn tidy(&mut self) {
        let (mark, needed_from) = (self.tail.told().reach, self.shared.needed_from.load(Ordering::Acquire));
        let known = self.shared.card();
        if (mark != known.mark || needed_from != known.needed_from)
            && let Err(error) =
                self.shared.change_card(|card| (card.mark, card.needed_from) = (mark, needed_from))
        {
            tracing::warn!(%error, "the count of commits was not saved");
            return;
        }
        if let Err(error) = self.let_go(needed_from.min(mark.boundary)).await {
            tracing::debug!(%error, "old log was not let go");
        }
    }

    /// Moves the slot on to `needed`; one that the server gave up because it kept too much is made anew.
    async fn let_go(&self, needed: u64) -> Result<(), PostgresError> {
        let moved = format!(
            "SELECT pg_replication_slot_advance('{SLOT}', '{}') FROM pg_replication_slots \
             WHERE slot_name = '{SLOT}' AND wal_status <> 'lost' AND restart_lsn < '{0}'",
            lsn_text(needed)
        );
        self.shared.rows(&moved).await?;
        let good =
            format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND wal_status <> 'lost'");
        if self.shared.rows(&good).await?.is_empty() {
            self.shared.needed_from.store(u64::MAX, Ordering::Release);
            make_slot(&mut self.shared.connect(DATABASE).await?).await?;
        }
        Ok(())
    }

    async fn stop(mut self, done: Option<oneshot::Sender<()>>) {
        // First, so that nothing is confirmed any more, and the server does not wait for us.
        self.tail.end();
        if let Some(server) = self.server.take()
            && !server.stop().await
        {
            tracing::warn!(dir = %self.shared.cluster.dir().display(), "the server had to be ended by force");
        }
        if let Some(done) = done {
            done.send(()).unwrap_or_default();
        }
    }
}

async fn has_ended(ended: Option<tokio::sync::watch::Receiver<Option<String>>>) -> String {
    let Some(mut ended) = ended else { return "it was never started".to_owned() };
    let status = ended.wait_for(Option::is_some).await;
    status.ok().and_then(|status| status.clone()).unwrap_or_else(|| "its guard is gone".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_confirms_slowly_keeps_up_and_one_that_confirms_nothing_does_not() {
        let start = Instant::now();
        let mut pace = Pace::new();
        // (seconds, confirmed, reached, keeps up)
        let rows = [
            (1, 100, 100, true),
            (100, 100, 100, true),
            (101, 100, 200, true),
            (104, 120, 200, true),
            (108, 121, 900, true),
            (112, 121, 900, true),
            (113, 121, 901, false),
            (114, 122, 901, true),
            (130, 901, 901, true),
        ];
        for (seconds, confirmed, reached, expected) in rows {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(pace.keeps_up(confirmed, reached, now), expected, "at {seconds}");
        }
    }
}
