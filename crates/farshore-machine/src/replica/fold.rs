//! Folding in the background after a commit: block by block into the disks, resumable after any stop.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::promoted::Inner;

/// Folded under one set of locks: a writer that meets it waits for about a millisecond.
const STEP: u64 = 1 << 20;
/// Made durable at once: what a power loss folds again at most.
const FLUSH_EVERY: u64 = 64 << 20;

/// The folding thread of one promoted machine.
#[derive(Debug)]
pub(super) struct Folder {
    remaining: AtomicU64,
    is_done: AtomicBool,
    stopping: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    failure: Mutex<Option<String>>,
}

impl Folder {
    pub(super) fn new(is_done: bool) -> Self {
        Self {
            remaining: AtomicU64::new(0),
            is_done: AtomicBool::new(is_done),
            stopping: AtomicBool::new(false),
            thread: Mutex::default(),
            failure: Mutex::default(),
        }
    }

    pub(super) fn remaining(&self) -> u64 {
        self.remaining.load(Ordering::Acquire)
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Folds `work`, the ranges of each disk, on a thread of its own.
    pub(super) fn start(inner: &Arc<Inner>, work: Vec<Vec<(u64, u64)>>) {
        let total = work.iter().flatten().map(|(start, end)| end - start).sum();
        inner.folder.remaining.store(total, Ordering::Release);
        let mut thread = inner.folder.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = Arc::clone(inner);
        let spawned = std::thread::Builder::new().name("fold".to_owned()).spawn(move || shared.fold(&work));
        match spawned {
            Ok(handle) => *thread = Some(handle),
            Err(error) => inner.folder.fail(&error),
        }
    }

    fn fail(&self, error: &io::Error) {
        tracing::error!(%error, "folding stopped; the disks are served from the journal until it is restarted");
        let text = format!("folding stopped: {error}; it goes on at the next start");
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }

    /// Asks the thread to stop and waits for it.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic in it was reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn fold(&self, work: &[Vec<(u64, u64)>]) {
        match self.fold_all(work) {
            Ok(true) => match self.finish() {
                Ok(()) => self.folder.is_done.store(true, Ordering::Release),
                Err(error) => self.folder.fail(&error),
            },
            Ok(false) => {}
            Err(error) => self.folder.fail(&error),
        }
    }

    /// Returns whether everything was folded, as opposed to stopped.
    fn fold_all(&self, work: &[Vec<(u64, u64)>]) -> io::Result<bool> {
        let mut unflushed = 0;
        for (disk, ranges) in self.layered.iter().zip(work) {
            for &(start, end) in ranges {
                let mut at = start;
                while at < end {
                    if self.folder.stopping.load(Ordering::Acquire) {
                        return Ok(false);
                    }
                    let until = end.min((at / STEP + 1) * STEP);
                    disk.fold(at, until)?;
                    self.folder.remaining.fetch_sub(until - at, Ordering::AcqRel);
                    unflushed += until - at;
                    at = until;
                }
                if unflushed >= FLUSH_EVERY {
                    disk.flush()?;
                    unflushed = 0;
                }
            }
            disk.flush()?;
        }
        Ok(true)
    }
}
