//! Orders that were carried out, durably, by their keys.
//!
//! One JSON line per finished order, appended and synced before the answer goes out. Only success is kept: a failed order
//! is tried again under the same key, and the workload finds out what was done. The file is rewritten when it holds more
//! than twice what is remembered.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use farshore_core::ids::StepKey;

/// Orders remembered. A job has below twenty and is repeated within days at most; this is thousands of jobs.
const KEYS_MAX: usize = 20_000;

/// The ledger cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the agent's ledger {path} cannot be used: {source}; it only saves repeated orders from being carried out again and may be moved aside"
)]
pub struct LedgerError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Finished orders.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    keys: HashSet<StepKey>,
    order: VecDeque<StepKey>,
    lines: usize,
    /// The last write failed: its line may be there in part.
    torn: bool,
}

impl Ledger {
    /// Opens or makes the ledger. A torn last line, left by a crash, is dropped: its order was never answered.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let wrong = |source| LedgerError { path: path.to_owned(), source };
        let keys = read(path).map_err(wrong)?;
        let kept = rewrite(path, keys).map_err(wrong)?;
        Ok(Self { path: path.to_owned(), kept: Mutex::new(kept) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True when the order was carried out before.
    #[must_use]
    pub fn has(&self, key: &StepKey) -> bool {
        self.kept().keys.contains(key)
    }

    /// On return it is durable that the order was carried out.
    pub fn keep(&self, key: &StepKey) -> Result<(), LedgerError> {
        let wrong = |source| LedgerError { path: self.path.clone(), source };
        let mut kept = self.kept();
        if kept.keys.contains(key) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(key).map_err(|error| wrong(io::Error::other(error)))?;
        line.push(b'\n');
        // A torn line, left by a failed write, is ended first, so that it cannot spoil this one.
        if std::mem::replace(&mut kept.torn, true) {
            line.insert(0, b'\n');
        }
        kept.file.write_all(&line).and_then(|()| kept.file.sync_data()).map_err(wrong)?;
        kept.torn = false;
        kept.lines += 1;
        kept.keys.insert(key.clone());
        kept.order.push_back(key.clone());
        while kept.order.len() > KEYS_MAX {
            if let Some(old) = kept.order.pop_front() {
                kept.keys.remove(&old);
            }
        }
        if kept.lines > 2 * KEYS_MAX {
            *kept = rewrite(&self.path, kept.order.iter().cloned().collect()).map_err(wrong)?;
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<VecDeque<StepKey>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(VecDeque::new()),
        Err(error) => return Err(error),
    };
    let mut keys = VecDeque::new();
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(key) = serde_json::from_slice::<StepKey>(&line?) {
            keys.push_back(key);
        }
    }
    let surplus = keys.len().saturating_sub(KEYS_MAX);
    keys.drain(..surplus);
    Ok(keys)
}

fn rewrite(path: &Path, order: VecDeque<StepKey>) -> io::Result<Kept> {
    let new = path.with_extension("new");
    let mut text = Vec::new();
    for key in &order {
        serde_json::to_writer(&mut text, key)?;
        text.push(b'\n');
    }
    let mut file = File::create(&new)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    let file = OpenOptions::new().append(true).open(path)?;
    Ok(Kept { file, keys: order.iter().cloned().collect(), lines: order.len(), torn: false, order })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finished_orders_are_remembered_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let key = |text: &str| StepKey(text.to_owned());
        let ledger = Ledger::open(&path).unwrap();
        ledger.keep(&key("j/create/do")).unwrap();
        ledger.keep(&key("j/create/do")).unwrap();
        assert!(ledger.has(&key("j/create/do")) && !ledger.has(&key("j/create/undo")));
        drop(ledger);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\"j/torn").unwrap();
        let ledger = Ledger::open(&path).unwrap();
        assert!(ledger.has(&key("j/create/do")) && !ledger.has(&key("j/torn")));
        ledger.keep(&key("j/next/do")).unwrap();
        drop(ledger);
        assert!(Ledger::open(&path).unwrap().has(&key("j/next/do")));
    }
}
