//! A copy that follows a database of another region.
//!
//! It follows one chain. When the source begins another (it was restored, or lost the log that is needed), a new chain begins
//! here too; the one before is kept, and offered, until the new one is whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::copy::Copy;
use super::parcel::{Answer, Request, Wish};
use super::programs::Programs;
use super::{cannot, restore};
use crate::data::{DataError, Position, Replica};

/// A replica. Cheap to ask: what blocks is done elsewhere.
#[derive(Debug)]
pub(super) struct Follower {
    dir: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What is followed.
    copy: Option<Copy>,
    /// The chain before; kept until `copy` is whole.
    kept: Option<Copy>,
    theirs: Position,
    last_number: u64,
}

/// Opens the replica in `dir`; an empty one is made.
pub(super) async fn open(dir: &Path) -> Result<Arc<Follower>, DataError> {
    let owned = dir.to_owned();
    let state = tokio::task::spawn_blocking(move || State::open(&owned)).await;
    let state =
        state.map_err(|error| DataError::io("open the replica", dir)(std::io::Error::other(error)))??;
    Ok(Arc::new(Follower { dir: dir.to_owned(), state: Arc::new(Mutex::new(state)) }))
}

impl State {
    fn open(dir: &Path) -> Result<Self, DataError> {
        let failed = |error| DataError::io("open the replica", dir)(error);
        fs::create_dir_all(dir).map_err(failed)?;
        let mut state = Self::default();
        let names = fs::read_dir(dir).map_err(failed)?.flatten().map(|entry| entry.file_name());
        let numbers = names.filter_map(|name| name.to_str()?.strip_prefix("chain-")?.parse().ok());
        let mut numbers: Vec<u64> = numbers.collect();
        numbers.sort_unstable();
        for number in numbers {
            state.last_number = number;
            match Copy::open(chain_dir(dir, number))? {
                Some(copy) => state.supersede(Some(copy))?,
                None => fs::remove_dir_all(chain_dir(dir, number)).map_err(failed)?,
            }
        }
        state.theirs = state.position();
        Ok(state)
    }

    /// Follows `copy` from now on; keeps what can be restored until that can.
    fn supersede(&mut self, copy: Option<Copy>) -> Result<(), DataError> {
        if let Some(old) = std::mem::replace(&mut self.copy, copy) {
            if old.is_whole() {
                self.kept.replace(old).map_or(Ok(()), Copy::remove)?;
            } else {
                old.remove()?;
            }
        }
        self.drop_kept()
    }

    fn drop_kept(&mut self) -> Result<(), DataError> {
        if self.copy.as_ref().is_some_and(Copy::is_whole) {
            return self.kept.take().map_or(Ok(()), Copy::remove);
        }
        Ok(())
    }

    /// The chain that can be restored.
    fn whole(&self) -> Option<&Copy> {
        [&self.copy, &self.kept].into_iter().flatten().find(|copy| copy.is_whole())
    }

    fn position(&self) -> Position {
        self.whole().map(|copy| copy.reach().position).unwrap_or_default()
    }

    fn request(&self) -> Request {
        let copy = self.copy.as_ref();
        Request {
            chain: copy.map(Copy::chain),
            from: copy.map_or(0, Copy::received),
            durable: copy.map(Copy::reach).unwrap_or_default(),
            is_whole: copy.is_some_and(Copy::is_whole),
            base: copy.map_or(Wish::New, Copy::wish),
        }
    }

    fn apply(&mut self, dir: &Path, answer: Answer) -> Result<bool, DataError> {
        self.theirs = answer.theirs;
        if answer.is_broken {
            self.supersede(None)?;
            return Ok(false);
        }
        if self.copy.as_ref().is_some_and(|copy| copy.chain() != answer.chain) {
            return Err(DataError::Foreign(
                "an answer about another database than the one that is followed".to_owned(),
            ));
        }
        let brought = answer.base.is_some() || answer.log.is_some();
        if let (Some(base), None) = (&answer.base, &self.copy) {
            self.last_number += 1;
            let copy = Copy::begin(chain_dir(dir, self.last_number), answer.chain, base)?;
            self.supersede(Some(copy))?;
        }
        // The log first: a base that cannot be written, which is large, must not hold back what was committed since.
        let goes_on = match (answer.log, self.copy.as_mut()) {
            (Some(log), Some(copy)) => copy.take_log(log)?,
            _ => true,
        };
        if !goes_on {
            self.supersede(None)?;
        } else if let (Some(base), Some(copy)) = (answer.base, self.copy.as_mut()) {
            copy.take_base(base)?;
        }
        self.drop_kept()?;
        Ok(brought)
    }
}

fn chain_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("chain-{number}"))
}

impl Follower {
    fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
    ) -> Result<T, DataError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(DataError::io(what, &self.dir)(std::io::Error::other(error))))
    }
}

#[async_trait]
impl Replica for Follower {
    fn request(&self) -> Vec<u8> {
        self.look(State::request).encode()
    }

    async fn apply(&self, answer: &[u8]) -> Result<bool, DataError> {
        let answer = Answer::decode(answer)?;
        let (state, dir) = (self.state.clone(), self.dir.clone());
        let apply = move || state.lock().unwrap_or_else(PoisonError::into_inner).apply(&dir, answer);
        self.blocking("take the source's answer into", apply).await
    }

    fn position(&self) -> Position {
        self.look(State::position)
    }

    fn theirs(&self) -> Position {
        self.look(|state| state.theirs)
    }

    fn is_whole(&self) -> bool {
        self.look(|state| state.whole().is_some())
    }

    fn progress(&self) -> (u64, u64) {
        self.look(|state| state.copy.as_ref().map_or((0, 0), Copy::progress))
    }

    async fn restore(&self, into: &Path) -> Result<Position, DataError> {
        let programs = Programs::find().map_err(cannot("be run", into))?;
        let (state, dir, into) = (self.state.clone(), self.dir.clone(), into.to_owned());
        let work = move || {
            let source = {
                let state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let (have, of) = state.copy.as_ref().map_or((0, 0), Copy::progress);
                let not_whole = DataError::NotWhole { path: dir, have, of };
                state.whole().map_or(Ok(None), Copy::source)?.ok_or(not_whole)?
            };
            let position = source.reach.position;
            restore::build(&programs, source, &into)?;
            Ok(position)
        };
        self.blocking("restore the replica", work).await
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests;
