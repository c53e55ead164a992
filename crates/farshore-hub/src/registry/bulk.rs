//! Many identities at once: prepared by others, put down by the writer, a batch in a transaction.

use super::transaction::Transaction;
use super::writer::Answer;
use super::{ChangeError, Changed, Decide, Registry, RegistryError};
use crate::names::Key;
use crate::record::{Draft, EntryKey};

/// What is to become of one identity.
pub struct Proposal<E> {
    /// Whose.
    pub key: Key,
    /// What is made where nothing ever was; must be what `decide` would say. `None`: it is asked then, too.
    pub draft: Option<Draft>,
    /// Decides in sight of what is there.
    pub decide: Decide<E>,
}

impl<E> std::fmt::Debug for Proposal<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proposal").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Became {
    /// It was made.
    Created,
    /// It was changed.
    Updated,
    /// It was deleted.
    Deleted,
    /// All was so already.
    Unchanged,
}

impl Became {
    fn of(changed: &Changed) -> Self {
        match (&changed.before, &changed.after) {
            (None, Some(_)) => Self::Created,
            (Some(_), None) => Self::Deleted,
            (Some(before), Some(after)) if before != after => Self::Updated,
            _ => Self::Unchanged,
        }
    }
}

/// What became of each of a batch, in their order.
pub type Results<E> = Vec<Result<Became, ChangeError<E>>>;

/// A batch on its way to the disk.
#[derive(Debug)]
pub struct Proposed<E> {
    count: usize,
    answer: Result<Answer<Results<E>>, RegistryError>,
}

impl<E> Proposed<E> {
    /// Returns when the batch is on the disk, or failed.
    pub async fn results(self) -> Results<E> {
        let done = match self.answer {
            Ok(answer) => answer.await,
            Err(error) => Err(error),
        };
        done.unwrap_or_else(|error| {
            let failed = || Err(ChangeError::Registry(error.to_string()));
            std::iter::repeat_with(failed).take(self.count).collect()
        })
    }
}

impl Registry {
    /// Hands a batch to the writer and returns before it is written, so that the next can be on its way. Batches are written in
    /// the order in which they are handed over; each stands in one transaction, so whoever makes them bounds them.
    pub async fn propose<E: Send + 'static>(&self, batch: Vec<Proposal<E>>) -> Proposed<E> {
        let count = batch.len();
        let work = move |txn: &mut Transaction<'_>| {
            txn.expect(batch.iter().filter(|proposal| proposal.draft.is_some()).map(Proposal::bytes))?;
            let considered = batch.into_iter().map(|proposal| txn.consider(proposal));
            let considered = considered.collect::<Result<Vec<_>, _>>()?;
            txn.settle_fresh()?;
            Ok(considered)
        };
        Proposed { count, answer: self.writer.enqueue(work).await }
    }
}

impl<E> Proposal<E> {
    fn bytes(&self) -> Vec<u8> {
        EntryKey::Device(self.key.clone()).to_bytes()
    }
}

impl Transaction<'_> {
    fn consider<E>(
        &mut self,
        proposal: Proposal<E>,
    ) -> Result<Result<Became, ChangeError<E>>, RegistryError> {
        let bytes = proposal.bytes();
        let Proposal { key, draft, decide } = proposal;
        if let Some(draft) = draft
            && !self.holds(&bytes)?
            && self.has_owner(&key)?
        {
            self.make(key, bytes, &draft);
            return Ok(Ok(Became::Created));
        }
        self.settle_fresh()?;
        Ok(self.change(&key, decide)?.map(|changed| Became::of(&changed)))
    }

    /// Whether nothing is missing above this key.
    fn has_owner(&mut self, key: &Key) -> Result<bool, RegistryError> {
        if key.module.is_none() {
            return Ok(true);
        }
        let owner = Key::device(key.device.clone());
        Ok(self.is_fresh(&EntryKey::Device(owner.clone()).to_bytes()) || self.is_alive(&owner)?)
    }

    fn make(&mut self, key: Key, bytes: Vec<u8>, draft: &Draft) {
        let known = self.state.horizon();
        let mark = self.mark();
        let mut value = self.number();
        draft.make(&mark, known, &mut value);
        self.settle_new(key, bytes, value, Some(draft.is_enabled()));
    }
}
