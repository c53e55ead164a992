//! Watches: a task per watch follows one member's stream and moves to another from the last seen revision + 1.
//!
//! Read in this order: [`EtcdWatch`] (what the caller holds), [`Follower`] (the task), [`Stream`] (one connection).
//!
//! Must always hold: a revision is handed out whole, once, in order; a member is followed only while it answers
//! linearizable reads, so that one which is cut off or stopped cannot hold a watch in the past.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::store::{Change, Entry, ReadError, Revision, Watch};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Keys;
use super::members::{Members, causes, quote};
use super::wire::{Event, EventKind, WatchCreate, WatchLine, WatchRequest, WatchResult};

/// Batches that wait for the caller; then the stream waits, and etcd keeps what follows.
const BATCHES_QUEUED_MAX: usize = 16;

/// How often the member that serves a stream must prove itself current.
const PROOF_EVERY: Duration = Duration::from_secs(1);

/// After a round in which no member could be followed. Short: an election takes a second or two.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// etcd cuts a message to its request limit (1.5 MiB) and one event; base64 adds a third.
const LINE_LEN_MAX: usize = 16 << 20;

type Batch = Result<Vec<Change>, ReadError>;

/// A watch. Dropping it ends its task.
#[derive(Debug)]
pub(super) struct EtcdWatch {
    batches: mpsc::Receiver<Batch>,
    ready: VecDeque<Change>,
    task: JoinHandle<()>,
}

impl EtcdWatch {
    /// Follows keys that start with `prefix` from the first change after `after`.
    pub(super) fn start(members: Arc<Members>, keys: Keys, prefix: &str, after: Revision) -> Self {
        let (sender, batches) = mpsc::channel(BATCHES_QUEUED_MAX);
        let prefix = prefix.to_owned();
        let follower = Follower { members, keys, prefix, cursor: after, batches: sender };
        Self { batches, ready: VecDeque::new(), task: tokio::spawn(follower.run()) }
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Change, ReadError> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            match self.batches.recv().await {
                Some(batch) => self.ready.extend(batch?),
                None => return Err(ReadError::Unavailable("the watch has ended: list again".into())),
            }
        }
    }
}

/// Why a stream ended.
enum End {
    /// Go on elsewhere.
    Broken(String),
    /// Nobody waits any longer.
    Unwanted,
    /// Gaplessness cannot be promised any longer.
    Compacted(u64),
}

struct Follower {
    members: Arc<Members>,
    keys: Keys,
    prefix: String,
    /// Every change up to here was handed out.
    cursor: Revision,
    batches: mpsc::Sender<Batch>,
}

impl Follower {
    async fn run(mut self) {
        loop {
            for index in self.members.order() {
                match self.follow(index).await {
                    End::Broken(why) => {
                        tracing::debug!(
                            endpoint = self.members.url(index),
                            prefix = self.prefix,
                            "watch: {why}"
                        );
                        self.members.doubt(index);
                    }
                    End::Unwanted => return,
                    End::Compacted(revision) => {
                        let why = format!(
                            "compacted: changes before revision {revision} are no longer kept, and the watch was at {}: \
                             list again and watch from the list's revision",
                            self.cursor.0
                        );
                        let _ = self.batches.send(Err(ReadError::Unavailable(why))).await;
                        return;
                    }
                }
            }
            sleep(ROUND_PAUSE).await;
        }
    }

    /// Follows one member until that ends. Only one that has proven to be at the cursor at least: an older one would
    /// wait for revisions that were given long ago.
    async fn follow(&mut self, index: usize) -> End {
        if let Err(why) = self.prove(index).await {
            return End::Broken(why);
        }
        let mut stream = match self.open(index).await {
            Ok(stream) => stream,
            Err(why) => return End::Broken(why),
        };
        loop {
            match self.line(index, &mut stream).await {
                Ok(line) => {
                    if let Err(end) = self.take(index, &mut stream, &line).await {
                        return end;
                    }
                }
                Err(why) => return End::Broken(why),
            }
        }
    }

    async fn prove(&self, index: usize) -> Result<(), String> {
        let proven = self.members.prove(index, &self.keys.hidden(), self.members.deadline()).await;
        let revision = proven.map_err(|error| error.to_string())?;
        if revision < self.cursor.0 {
            return Err(format!("is at revision {revision}, before {}", self.cursor.0));
        }
        Ok(())
    }

    async fn open(&self, index: usize) -> Result<Stream, String> {
        let (key, range_end) = self.keys.range(&self.prefix);
        let start_revision = self.cursor.0 + 1;
        let create_request =
            WatchCreate { key, range_end, start_revision, progress_notify: true, fragment: true };
        let body = serde_json::to_vec(&WatchRequest { create_request }).map_err(|error| error.to_string())?;
        let request = self.members.client().post(format!("{}/v3/watch", self.members.url(index)));
        let request = request.header("content-type", "application/json");
        let sent = request.header("grpc-metadata-hasleader", "true").body(body).send();
        let response = timeout_at(self.members.deadline(), sent).await;
        let response = response.map_err(|_| "did not answer".to_owned())?.map_err(|error| causes(&error))?;
        if !response.status().is_success() {
            return Err(format!("answered {}", response.status()));
        }
        Ok(Stream { response, bytes: Vec::new(), searched: 0, events: Vec::new() })
    }

    /// The next line of the stream, as long as its member proves itself current meanwhile.
    async fn line(&self, index: usize, stream: &mut Stream) -> Result<Vec<u8>, String> {
        let mut due = Instant::now() + PROOF_EVERY;
        loop {
            let line = async {
                tokio::select! {
                    line = stream.line() => Some(line),
                    () = sleep_until(due) => None,
                }
            };
            if let Some(line) = line.await {
                return line;
            }
            // What arrives meanwhile waits; it is looked at first when the member has answered.
            self.prove(index).await?;
            due = Instant::now() + PROOF_EVERY;
        }
    }

    async fn take(&mut self, index: usize, stream: &mut Stream, line: &[u8]) -> Result<(), End> {
        let broken = |why: String| End::Broken(why);
        let line: WatchLine = serde_json::from_slice(line)
            .map_err(|error| broken(format!("does not answer as etcd does ({error}): {}", quote(line))))?;
        let Some(result) = line.result else {
            return Err(broken(format!("ended the stream: {}", line.error.unwrap_or_default())));
        };
        self.members.check_cluster(index, result.header.cluster_id).map_err(broken)?;
        if result.compact_revision > 0 {
            return Err(End::Compacted(result.compact_revision));
        }
        if result.canceled {
            return Err(broken(format!("cancelled the watch: {}", result.cancel_reason)));
        }
        self.hand_out(stream, result).await
    }

    /// Hands out all revisions that are complete, and moves the cursor with them.
    async fn hand_out(&mut self, stream: &mut Stream, result: WatchResult) -> Result<(), End> {
        let ordered =
            result.watch_id.as_ref().is_none_or(|id| id.as_str() == Some("0") || id.as_i64() == Some(0));
        let is_progress = result.events.is_empty() && !result.created && !result.fragment && ordered;
        if is_progress && stream.events.is_empty() {
            self.cursor = self.cursor.max(Revision(result.header.revision));
            return Ok(());
        }
        stream.events.extend(result.events);
        let last = stream.events.last().map_or(0, |event| event.kv.mod_revision);
        let complete = match result.fragment {
            true => stream.events.partition_point(|event| event.kv.mod_revision < last),
            false => stream.events.len(),
        };
        let cursor = self.cursor;
        let events = stream.events.drain(..complete);
        let changes: Result<Vec<_>, _> = events
            .filter(|event| event.kv.mod_revision > cursor.0)
            .map(|event| change(&self.keys, event))
            .collect();
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                let _ = self.batches.send(Err(error)).await;
                return Err(End::Unwanted);
            }
        };
        let Some(through) = changes.last().map(revision_of) else { return Ok(()) };
        self.members.saw(through.0);
        self.batches.send(Ok(changes)).await.map_err(|_| End::Unwanted)?;
        self.cursor = through;
        Ok(())
    }
}

fn revision_of(change: &Change) -> Revision {
    match change {
        Change::Put(entry) => entry.revision,
        Change::Deleted { revision, .. } => *revision,
    }
}

fn change(keys: &Keys, event: Event) -> Result<Change, ReadError> {
    let Event { kind, kv } = event;
    let (key, revision) = (keys.parse(&kv.key.0)?, Revision(kv.mod_revision));
    Ok(match kind {
        EventKind::Put => Change::Put(Entry { key, value: kv.value.0, revision }),
        EventKind::Delete => Change::Deleted { key, revision },
    })
}

/// One open watch of one member.
struct Stream {
    response: reqwest::Response,
    /// What has arrived of the next lines.
    bytes: Vec<u8>,
    /// So far there is no end of a line in `bytes`.
    searched: usize,
    /// Events of revisions that may not be complete.
    events: Vec<Event>,
}

impl Stream {
    /// The next line. Dropping the future loses nothing.
    async fn line(&mut self) -> Result<Vec<u8>, String> {
        loop {
            let fresh = self.bytes.get(self.searched..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.bytes.split_off(self.searched + at + 1);
                self.searched = 0;
                return Ok(std::mem::replace(&mut self.bytes, rest));
            }
            self.searched = self.bytes.len();
            if self.bytes.len() > LINE_LEN_MAX {
                return Err(format!("sent a line of more than {LINE_LEN_MAX} bytes"));
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) => self.bytes.extend_from_slice(&chunk),
                Ok(None) => return Err("ended the stream".into()),
                Err(error) => return Err(causes(&error)),
            }
        }
    }
}
