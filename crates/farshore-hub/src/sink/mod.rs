//! Sinks: telemetry goes on into a stream of NATS JetStream, from where others take it with what they have.
//!
//! Read in this order: `message` (an event as a message), `jetstream` (what is said to the server), then this file.
//!
//! A sink is a consumer with a named group, like any other: it reads from its cursor, publishes, and moves the cursor
//! when the stream has acknowledged. The group is replicated with the hub, so a sink goes on in the other region after a
//! failover. A message's id is made of the name that its device gave it, or is `region:offset`; either is the same in both
//! regions: what is published again after a restart of either side is dropped by the stream, as far back as its duplicate
//! window goes.
//!
//! Must always hold: the cursor never passes an event that the stream has not acknowledged.

mod jetstream;
mod message;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, ServerAddr};
use async_trait::async_trait;
use jetstream::Publisher;
use tokio::task::JoinHandle;

use crate::registry::Registry;
use crate::telemetry::{Cursor, Page, Telemetry, TelemetryError};

/// Events that are under way at once.
const PAGE: usize = 512;

/// The first pause after a failure; each one after it is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The longest pause: what an operator waits after mending something.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A server that accepts and says nothing.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where the cursors of groups are kept: the hub's registry, which replicates them.
#[async_trait]
pub trait Cursors: Send + Sync + fmt::Debug {
    /// How far a group has read; `None`: it has not begun.
    ///
    /// # Errors
    /// In words, for people.
    async fn load(&self, group: &str) -> Result<Option<Cursor>, String>;

    /// Keeps how far a group has read. Durable on return.
    ///
    /// # Errors
    /// In words, for people.
    async fn store(&self, group: &str, cursor: &Cursor) -> Result<(), String>;
}

#[async_trait]
impl Cursors for Registry {
    async fn load(&self, group: &str) -> Result<Option<Cursor>, String> {
        self.groups().map(|mut groups| groups.remove(group)).map_err(|error| error.to_string())
    }

    async fn store(&self, group: &str, cursor: &Cursor) -> Result<(), String> {
        self.set_group(group, cursor.clone()).await.map_err(|error| error.to_string())
    }
}

/// A sink into one stream.
#[derive(Clone)]
pub struct SinkOptions {
    /// `nats://HOST:4222` or `tls://HOST:4222`; a name and password may stand before the host.
    pub url: String,
    /// Whom to believe on `tls://`; `None`: whom the system believes.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The stream, which is made if there is none. It takes `SUBJECT.>` and nothing else: in a stream that two hubs share,
    /// one's events would be taken for repeated ones of the other.
    pub stream: String,
    /// Subjects are `SUBJECT.DEVICE` and `SUBJECT.DEVICE.MODULE`.
    pub subject: String,
    /// The group whose cursor this is.
    pub group: String,
    /// How long a stream that is made here knows ids again.
    pub duplicate_window: Duration,
    /// Properties that together are the name of a message without `$.mid`, as the hub's telemetry has it.
    pub named_by: Vec<String>,
}

impl SinkOptions {
    /// Whether a sink can begin with these.
    ///
    /// # Errors
    /// [`SinkError::Url`] and [`SinkError::Name`].
    pub fn check(&self) -> Result<(), SinkError> {
        check("the stream", &self.stream, &['.'])?;
        check("the subject", &self.subject, &[])?;
        self.server().map(|_| ())
    }

    fn server(&self) -> Result<ServerAddr, SinkError> {
        let wrong = |why: String| SinkError::Url { url: without_credentials(&self.url), why };
        if !matches!(self.url.split_once("://"), Some(("nats" | "tls", _))) {
            return Err(wrong("it begins with neither nats:// nor tls://".to_owned()));
        }
        self.url.parse().map_err(|error: std::io::Error| wrong(error.to_string()))
    }
}

/// An address as it may be shown: a name and password may stand before the host.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
}

impl fmt::Debug for SinkOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkOptions")
            .field("stream", &self.stream)
            .field("subject", &self.subject)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

/// Why a sink cannot begin, or does not go on just now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// Not the address of a server.
    #[error("{url:?} is no NATS server: {why}; write nats://HOST:4222 or tls://HOST:4222")]
    Url {
        /// What was written, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A name that the server would not take, or that would take the wrong messages.
    #[error("{what} {text:?} cannot be used: {why}")]
    Name {
        /// Of what.
        what: &'static str,
        /// What was written.
        text: String,
        /// The rule.
        why: &'static str,
    },
    /// The stream is there, for something else.
    #[error("the stream {stream} takes {subjects:?} and must take {wanted} only: name another stream")]
    Stream {
        /// Which.
        stream: String,
        /// What it should take.
        wanted: String,
        /// What it takes.
        subjects: String,
    },
    /// The server is not there.
    #[error("the NATS server is away: {why}")]
    Away {
        /// In words.
        why: String,
    },
    /// The server is there and says nothing.
    #[error("the NATS server did not acknowledge in time")]
    Silent,
    /// The server said no.
    #[error("JetStream refused: {why}")]
    Refused {
        /// In its words.
        why: String,
    },
    /// The log cannot be read.
    #[error("{0}")]
    Telemetry(String),
    /// The cursor cannot be read or kept.
    #[error("the cursor of group {group} cannot be kept: {why}")]
    Cursor {
        /// Whose.
        group: String,
        /// In words.
        why: String,
    },
}

/// How a sink does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SinkStats {
    /// Events that the stream has got from here.
    pub published: u64,
    /// Events that it had already.
    pub repeated: u64,
    /// Events that retention deleted before they were published.
    pub missed: u64,
    /// How far everything is acknowledged.
    pub cursor: Cursor,
    /// Why it does not go on just now, if so. It tries again by itself.
    pub failing: Option<SinkError>,
}

/// A sink at work. Dropping it ends it, at any point.
#[derive(Debug)]
pub struct Sink {
    stats: Arc<Mutex<SinkStats>>,
    task: JoinHandle<()>,
}

impl Sink {
    /// Begins. The server may come later, and may go and come back.
    ///
    /// # Errors
    /// [`SinkError::Url`] and [`SinkError::Name`].
    pub async fn spawn(
        options: SinkOptions,
        telemetry: Telemetry,
        cursors: Arc<dyn Cursors>,
    ) -> Result<Self, SinkError> {
        options.check()?;
        let client = connect(&options).await?;
        let publisher = Publisher::new(client, options.clone()).await?;
        let stats = Arc::<Mutex<SinkStats>>::default();
        let work = Work { publisher, telemetry, cursors, group: options.group, stats: Arc::clone(&stats) };
        Ok(Self { stats, task: tokio::spawn(work.run()) })
    }

    /// How it does.
    #[must_use]
    pub fn stats(&self) -> SinkStats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it. What is under way may be published again by the next one.
    pub async fn stop(mut self) {
        self.task.abort();
        // It was aborted; how it ended is known.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Names that mean what they say to the server.
fn check(what: &'static str, text: &str, also: &[char]) -> Result<(), SinkError> {
    let bad = |why| Err(SinkError::Name { what, text: text.to_owned(), why });
    if text.is_empty() || text.split('.').any(str::is_empty) {
        return bad("it has an empty part");
    }
    if text.starts_with('$') {
        return bad("names that begin with $ belong to the server");
    }
    let is_sign = |c: char| c.is_whitespace() || c.is_control() || "*>/\\".contains(c) || also.contains(&c);
    if text.contains(is_sign) {
        return bad("use letters, digits, '-' and '_', and '.' between the parts of a subject");
    }
    Ok(())
}

async fn connect(options: &SinkOptions) -> Result<Client, SinkError> {
    let address = options.server()?;
    let wrong = |why: String| SinkError::Url { url: without_credentials(&options.url), why };
    let mut connect = ConnectOptions::new()
        .name("farshore sink")
        .retry_on_initial_connect()
        .max_reconnects(None)
        .reconnect_delay_callback(pause)
        .connection_timeout(CONNECT_DEADLINE)
        .require_tls(address.tls_required());
    if let Some(tls) = &options.tls {
        connect = connect.tls_client_config((**tls).clone());
    }
    connect.connect(address).await.map_err(|error| wrong(error.to_string()))
}

/// How long to wait after so many failures in a row.
fn pause(failures: usize) -> Duration {
    let doubled = u32::try_from(failures.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    if failures == 0 { Duration::ZERO } else { (PAUSE_MIN * (1 << doubled)).min(PAUSE_MAX) }
}

/// What the task of a sink has.
struct Work {
    publisher: Publisher,
    telemetry: Telemetry,
    cursors: Arc<dyn Cursors>,
    group: String,
    stats: Arc<Mutex<SinkStats>>,
}

impl Work {
    /// Publishes until it is aborted. After a failure everything begins again at the cursor that is kept: an operator may
    /// have moved it meanwhile, past what is damaged.
    async fn run(mut self) {
        self.publisher.arrive().await;
        let mut failures = 0;
        loop {
            let Err(error) = self.follow(&mut failures).await;
            failures += 1;
            if failures == 1 {
                tracing::warn!(%error, group = %self.group, "the sink does not go on; it tries again by itself");
            }
            self.stats().failing = Some(error);
            tokio::time::sleep(pause(failures)).await;
        }
    }

    async fn follow(&mut self, failures: &mut usize) -> Result<std::convert::Infallible, SinkError> {
        self.publisher.prepare().await?;
        let loaded = self.cursors.load(&self.group).await.map_err(|why| self.cursor_error(why))?;
        let mut cursor = loaded.unwrap_or_default();
        self.stats().cursor = cursor.clone();
        loop {
            self.telemetry.grown(&cursor).await;
            let page = self.read(&cursor).await?;
            let published = self.publisher.publish(&page.events).await?;
            self.cursors.store(&self.group, &page.next).await.map_err(|why| self.cursor_error(why))?;
            *failures = 0;
            cursor = page.next;
            let mut stats = self.stats();
            stats.published += published.new;
            stats.repeated += published.repeated;
            stats.missed += page.missed.values().sum::<u64>();
            stats.cursor = cursor.clone();
            stats.failing = None;
        }
    }

    async fn read(&self, cursor: &Cursor) -> Result<Page, SinkError> {
        let (telemetry, from) = (self.telemetry.clone(), cursor.clone());
        let read = tokio::task::spawn_blocking(move || telemetry.read(&from, PAGE)).await;
        let page = read.map_err(|error| SinkError::Telemetry(error.to_string()))?;
        let page = page.map_err(|error| SinkError::Telemetry(error.to_string()))?;
        if page.next == *cursor {
            // It was woken and there is nothing: the log was closed.
            return Err(SinkError::Telemetry(TelemetryError::Closed.to_string()));
        }
        Ok(page)
    }

    fn cursor_error(&self, why: String) -> SinkError {
        SinkError::Cursor { group: self.group.clone(), why }
    }

    fn stats(&self) -> MutexGuard<'_, SinkStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
