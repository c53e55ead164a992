//! Follows the server's own log as it is flushed: counts commits, wakes those who wait for more, and tells the server what is
//! durable in the other region.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::records::{Damage, PAGE, Reach, Records, SEGMENT, lsn_text, segment_name};
use super::wire::{Connection, LogEvent, LogStream, WireError};
use super::{ADMIN, STANDBY};

/// A server that restarts is asked this often.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Marks are this far apart: so much log is read again to count up to a place.
const MARK_BYTES: u64 = 1024 * 1024;
/// Marks cover more log than a server keeps.
const MARKS_MAX: usize = 2048;
/// Read at once when log is counted from files.
const COUNT_BYTES: u64 = 1024 * 1024;
/// What the server says when it no longer has the log.
const LOG_IS_GONE: &str = "58P01";

/// How far the log is known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Told {
    /// All bytes before it are flushed.
    pub(super) received: u64,
    /// Whole records.
    pub(super) reach: Reach,
}

/// What the server is told, whose commits wait for our word when it was started so.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    /// Everything before it is durable in the other region.
    durable: u64,
    /// Only that is confirmed. Else all that has come here: commits wait for nobody.
    is_strict: bool,
}

/// The log's follower. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Tail {
    told: watch::Receiver<Told>,
    word: watch::Sender<Word>,
    marks: Arc<Mutex<Marks>>,
    wal: PathBuf,
    timeline: u32,
    task: JoinHandle<()>,
}

/// Reaches in order, some way apart, and what stopped the count if something did.
#[derive(Debug, Default)]
struct Marks {
    reaches: VecDeque<Reach>,
    uncounted: Option<String>,
}

impl Tail {
    /// Follows the log from `mark`, where a record begins.
    pub(super) fn spawn(socket: PathBuf, wal: PathBuf, timeline: u32, mark: Reach, is_strict: bool) -> Self {
        let (tell, told) = watch::channel(Told { received: mark.boundary, reach: mark });
        let (word, words) = watch::channel(Word { durable: 0, is_strict });
        let marks = Marks { reaches: [mark].into(), uncounted: None };
        let marks = Arc::new(Mutex::new(marks));
        let follower = Follower { socket, timeline, tell, words, marks: marks.clone(), last: mark };
        let task = tokio::spawn(follower.run());
        Self { told, word, marks, wal, timeline, task }
    }

    /// What is known now.
    pub(super) fn told(&self) -> Told {
        *self.told.borrow()
    }

    /// Changes when more is known.
    pub(super) fn watch(&self) -> watch::Receiver<Told> {
        self.told.clone()
    }

    /// Everything before `durable` is durable in the other region.
    pub(super) fn confirm(&self, durable: u64) {
        self.word.send_if_modified(|word| {
            durable > word.durable && {
                word.durable = durable;
                true
            }
        });
    }

    /// From now on commits wait for the other region, or for nobody. When they begin to, returns up to where they did not.
    pub(super) fn set_strict(&self, is_strict: bool) -> u64 {
        self.word.send_modify(|word| word.is_strict = is_strict);
        self.told().received
    }

    /// What was confirmed last; zero: nothing.
    pub(super) fn confirmed(&self) -> u64 {
        self.word.borrow().durable
    }

    /// Stops following; what is known stays. The server does not wait for us when it ends.
    pub(super) fn end(&self) {
        self.task.abort();
    }

    /// Why commits are not counted, if they are not.
    pub(super) fn uncounted(&self) -> Option<String> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).uncounted.clone()
    }

    /// How far the database was at `lsn`, where a record begins: counted from the last mark before it. Blocks.
    pub(super) fn reach_at(&self, lsn: u64) -> io::Result<Reach> {
        let mark = self.marks.lock().unwrap_or_else(PoisonError::into_inner).before(lsn);
        let mark = mark.ok_or_else(|| io::Error::other(format!("no mark before {}", lsn_text(lsn))))?;
        let mut records = Records::from(mark);
        count(&self.wal, self.timeline, &mut records, lsn)?.map_err(io::Error::other)?;
        Ok(records.reach())
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Marks {
    fn before(&self, lsn: u64) -> Option<Reach> {
        self.reaches.iter().rev().find(|mark| mark.boundary <= lsn).copied()
    }

    fn note(&mut self, reach: Reach) {
        if self.reaches.back().is_none_or(|last| reach.boundary >= last.boundary + MARK_BYTES) {
            self.reaches.push_back(reach);
        }
        if self.reaches.len() > MARKS_MAX {
            self.reaches.pop_front();
        }
    }
}

/// The task behind a [`Tail`].
struct Follower {
    socket: PathBuf,
    timeline: u32,
    tell: watch::Sender<Told>,
    words: watch::Receiver<Word>,
    marks: Arc<Mutex<Marks>>,
    last: Reach,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let error = match self.follow().await {
                Ok(()) => return,
                Err(error) => error,
            };
            tracing::debug!(%error, "the log's stream broke: asking again");
            if matches!(&error, WireError::Server { code, .. } if code == LOG_IS_GONE) {
                self.skip_what_is_gone().await;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn follow(&mut self) -> Result<(), WireError> {
        let connection = Connection::open_replication(&self.socket, ADMIN, STANDBY).await?;
        let mut stream = connection.follow(self.last.boundary, self.timeline).await?;
        let mut records = Records::from(self.last);
        self.confirm(&mut stream).await?;
        loop {
            tokio::select! {
                event = stream.next() => match event? {
                    LogEvent::Wal { start, bytes } => {
                        self.take(&mut records, start, &bytes)?;
                        if !self.words.borrow().is_strict {
                            self.confirm(&mut stream).await?;
                        }
                    }
                    LogEvent::Keepalive { wants_answer: true } => self.confirm(&mut stream).await?,
                    LogEvent::Keepalive { wants_answer: false } => {}
                },
                changed = self.words.changed() => match changed {
                    Ok(()) => self.confirm(&mut stream).await?,
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    async fn confirm(&mut self, stream: &mut LogStream) -> Result<(), WireError> {
        let word = *self.words.borrow_and_update();
        let received = self.tell.borrow().received;
        stream.confirm(if word.is_strict { word.durable } else { received }).await
    }

    fn take(&mut self, records: &mut Records, start: u64, bytes: &[u8]) -> Result<(), WireError> {
        if start != records.at() {
            let (at, start) = (lsn_text(records.at()), lsn_text(start));
            return Err(WireError::Unexpected(format!("the log at {start} where {at} follows")));
        }
        let received = start + bytes.len() as u64;
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(damage) = records.feed(bytes) {
            // The database serves; only its numbers are poorer. Its bytes go on to the other region, which checks them.
            tracing::error!(%damage, "commits are no longer counted");
            marks.uncounted = Some(damage.to_string());
            *records = Records::from(Reach { boundary: received, ..records.reach() });
        }
        self.last = records.reach();
        marks.note(self.last);
        drop(marks);
        self.tell.send_replace(Told { received, reach: self.last });
        Ok(())
    }

    /// The log from the last mark on is gone (it can only be after files were lost): the count goes on where the log is.
    async fn skip_what_is_gone(&mut self) {
        let now = async {
            let mut connection = Connection::open(&self.socket, ADMIN, "postgres", "farshore mark").await?;
            connection.query("CHECKPOINT").await?;
            connection.value("SELECT pg_current_wal_insert_lsn()").await
        };
        let lsn = now.await.ok().as_deref().and_then(super::records::parse_lsn);
        let Some(lsn) = lsn.map(super::records::end_before) else { return };
        tracing::error!(from = lsn_text(self.last.boundary), to = lsn_text(lsn), "part of the log is gone");
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = lsn.saturating_sub(self.last.boundary);
        marks.uncounted =
            Some(format!("{lost} bytes of the write-ahead log are gone: commits in them were not counted"));
        self.last.boundary = lsn;
    }
}

/// Feeds `records` from the files in `wal` up to `until`, or to where the log ends. The outer error is the disk's, or a file
/// that is not there; the inner one says where the log ended before.
pub(super) fn count(
    wal: &Path,
    timeline: u32,
    records: &mut Records,
    until: u64,
) -> io::Result<Result<(), Damage>> {
    while records.at() < until {
        let end = until.min(records.at() + COUNT_BYTES);
        let bytes = read(wal, timeline, records.at(), end)?;
        if let Err(damage) = records.feed(&bytes) {
            return Ok(Err(damage));
        }
    }
    Ok(Ok(()))
}

/// Bytes of the log from its files, from `from` to `until` (both may be in different segments). Blocks.
pub(super) fn read(wal: &Path, timeline: u32, from: u64, until: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(until.saturating_sub(from)).unwrap_or(0));
    let mut at = from;
    while at < until {
        let end = until.min(at - at % SEGMENT + SEGMENT);
        let path = wal.join(segment_name(timeline, at));
        let file = File::open(&path).map_err(|error| named(error, &path))?;
        let have = bytes.len();
        bytes.resize(have + usize::try_from(end - at).unwrap_or(0), 0);
        file.read_exact_at(&mut bytes[have..], at % SEGMENT).map_err(|error| named(error, &path))?;
        at = end;
    }
    Ok(bytes)
}

fn named(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

const _: () = assert!(SEGMENT.is_multiple_of(PAGE));
