//! What an app prints: `app.log`, with the time and the instance on each line.
//!
//! ```text
//! 2026-11-21T05:00:00.250Z 1 out listening
//! 2026-11-21T05:00:00.251Z 1 err warning: no cache
//! 2026-11-21T05:00:01.300Z 1 host answers
//! ```
//!
//! Read in this order: [`mod@line`] (lines out of bytes: pure), [`printed`] (follows the two pipes of a run), [`mod@file`] (rotation
//! and the rate), [`mod@tail`].
//!
//! Must always hold: an app that prints without end takes [`file::FILES_MAX`] files of [`file::SIZE_MAX`] bytes and a bounded
//! part of the disk's time, and never waits for the disk; what was left out is counted.

mod file;
mod line;
mod printed;
mod tail;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub(crate) use line::Splitter;
pub(super) use printed::Printed;
pub use tail::tail;

use super::shared::now;
use file::LogFile;

/// The name of the file that is written.
const NAME: &str = "app.log";
/// Batches that wait for the disk, of one read each; more is left out.
const BATCHES_QUEUED_MAX: usize = 64;

/// Nobody who ends an app waits longer for its last words: a recovery may depend on it.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// The open logs of this process: two releases of an app that run side by side write to the same file.
static OPEN: Mutex<Option<HashMap<PathBuf, WeakLog>>> = Mutex::new(None);

/// The way to the one who writes a file. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct AppLog {
    queue: mpsc::Sender<Message>,
    left_out: Arc<AtomicU64>,
}

#[derive(Debug)]
struct WeakLog {
    queue: mpsc::WeakSender<Message>,
    left_out: Arc<AtomicU64>,
}

/// To the one who writes.
#[derive(Debug)]
enum Message {
    /// Whole lines.
    Lines { text: String, count: u64 },
    /// Answer when everything before is written.
    Flush(oneshot::Sender<()>),
}

impl AppLog {
    /// The log in `dir`. Within a runtime.
    pub(super) fn open(dir: &Path) -> Self {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let logs = open.get_or_insert_default();
        logs.retain(|_, log| log.queue.upgrade().is_some_and(|queue| !queue.is_closed()));
        if let Some(log) = logs.get(dir)
            && let Some(queue) = log.queue.upgrade()
        {
            return Self { queue, left_out: Arc::clone(&log.left_out) };
        }
        let (queue, messages) = mpsc::channel(BATCHES_QUEUED_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        tokio::spawn(write(LogFile::new(dir), messages, Arc::clone(&left_out)));
        let weak = WeakLog { queue: queue.downgrade(), left_out: Arc::clone(&left_out) };
        logs.insert(dir.to_owned(), weak);
        Self { queue, left_out }
    }

    /// A line of the host's own.
    pub(super) fn say(&self, instance: u32, words: &str) {
        self.put(format!("{} {instance} host {words}\n", now()), 1);
    }

    /// `count` whole lines. Never waits.
    fn put(&self, text: String, count: u64) {
        if self.queue.try_send(Message::Lines { text, count }).is_err() {
            self.left_out.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Returns when everything that was put before is written, or the disk takes too long.
    pub(super) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Message::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        if tokio::time::timeout(FLUSH_WITHIN, flushed).await.is_err() {
            tracing::warn!("the disk does not take an app's log in time");
        }
    }
}

/// Writes until nobody has anything to say any more. One batch at a time, away from the runtime's threads.
async fn write(mut file: LogFile, mut messages: mpsc::Receiver<Message>, left_out: Arc<AtomicU64>) {
    while let Some(message) = messages.recv().await {
        let mut batch = vec![message];
        while let Ok(message) = messages.try_recv() {
            batch.push(message);
        }
        file.left_out(left_out.swap(0, Ordering::Relaxed));
        let written = tokio::task::spawn_blocking(move || {
            write_batch(&mut file, batch);
            file
        });
        match written.await {
            Ok(back) => file = back,
            Err(_) => return,
        }
    }
}

fn write_batch(file: &mut LogFile, batch: Vec<Message>) {
    for message in batch {
        match message {
            Message::Lines { text, count } => file.append(&text, count, std::time::Instant::now()),
            Message::Flush(done) => {
                file.say_left_out();
                let _ = done.send(());
            }
        }
    }
}
