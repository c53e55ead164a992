//! Members: other hubs with the same REST API, whose registry is taken over here on a schedule, or which are given this one's.
//!
//! Read in this order: `setting` (what an operator says), `report` (what a run leaves behind), `ask` (what is said to the other
//! hub), `entry` (what it lists), `same` (what is known to be equal), `take` and `give` (the two directions), then this file.
//!
//! A run lists everything the other hub has, and asks for the whole of an identity only where its etag says that it may differ.
//! It is idempotent: where nothing differs, nothing is written on either side.
//!
//! Must always hold: no key is in a log, a report or an error; a bad entry is reported and the rest goes on; what one side
//! only has is deleted on an operator's word (`prune`) alone, never by a list that was empty or broke off, and never before it
//! was asked for by name; what is changed here is changed under the right to serve.

mod ask;
mod entry;
mod give;
mod report;
mod same;
mod setting;
mod take;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::time::Duration;

use tokio::time::timeout;

use crate::fleet::Fleet;
use crate::rest::Behind as _;
use ask::Far;
use entry::{Entry, Pages};
use same::{Keys, Same};

pub use ask::{FarError, Limits};
pub use report::{Failed, Report, Tally};
pub use setting::{BadMember, Direction, EVERY_DEFAULT, EVERY_MAX, EVERY_MIN, MemberSetting};

/// A run that takes longer is broken off. What it did stays, and the next one goes on.
const RUN_MAX: Duration = Duration::from_secs(3600);
/// Questions to the other hub that are under way at once.
const ASKED_AT_ONCE: usize = 8;

/// Whether a run changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// It only says what it would do.
    Plan,
    /// It does it.
    Do,
}

/// Why a run ended early. What it did before stays, and the next one does the rest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The other hub.
    #[error(transparent)]
    Far(#[from] FarError),
    /// This hub is not the active one any more.
    #[error("the hub stopped serving here: the region that is active goes on")]
    Stopped,
    /// This hub's registry.
    #[error("{0}")]
    Registry(String),
    /// It takes too long.
    #[error("it was not done within {} minutes: what was done stays, and the next run goes on", RUN_MAX.as_secs() / 60)]
    TooLong,
}

/// Another hub, and what is known of it.
#[derive(Debug)]
pub struct Member {
    fleet: Fleet,
    far: Far,
    direction: Direction,
    prune: bool,
    same: Same,
}

impl Member {
    /// A member of the hub.
    ///
    /// # Errors
    /// [`BadMember`]: what is wrong with the setting.
    pub fn new(setting: &MemberSetting, fleet: Fleet, limits: Limits) -> Result<Self, BadMember> {
        let far = Far::new(setting, limits)?;
        Ok(Self { fleet, far, direction: setting.direction, prune: setting.prune, same: Same::default() })
    }

    /// Makes both sides equal, in the member's direction. What was done is in `tally`, while it is done and afterwards. May be
    /// dropped at any point.
    ///
    /// # Errors
    /// [`RunError`]
    pub async fn run(&mut self, manner: Manner, tally: &Tally) -> Result<(), RunError> {
        let direction = self.direction;
        let mut run = Run {
            fleet: &self.fleet,
            far: &self.far,
            same: &mut self.same,
            prune: self.prune,
            manner,
            tally,
            there: Keys::default(),
            lists_modules: true,
        };
        let work = async {
            match direction {
                Direction::From => run.take().await,
                Direction::To => run.give().await,
            }
        };
        let done = timeout(RUN_MAX, work).await.unwrap_or(Err(RunError::TooLong));
        self.same.end(done.is_ok());
        done
    }
}

/// One run.
struct Run<'a> {
    fleet: &'a Fleet,
    far: &'a Far,
    same: &'a mut Same,
    prune: bool,
    manner: Manner,
    tally: &'a Tally,
    /// Everything that the other hub has listed.
    there: Keys,
    /// The other hub knows what modules are.
    lists_modules: bool,
}

impl Run<'_> {
    /// The next page of the other hub's list, of which what is no entry is reported; `None` at the end.
    async fn listed(&mut self, pages: &mut Pages) -> Result<Option<Vec<Entry>>, RunError> {
        let page = match pages.next(self.far).await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(None),
            Err(error) if pages.is_unknown(&error) => {
                self.lists_modules = false;
                self.tally.failed("(modules)", &error);
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let (mut entries, mut repeated, count) = (Vec::with_capacity(page.len()), 0, page.len());
        for listed in &page {
            match Entry::read(listed, pages.sort()) {
                Ok(entry) if self.there.add(&entry.key) => entries.push(entry),
                Ok(_) => repeated += 1,
                Err((id, why)) => self.tally.failed(&id, &why),
            }
        }
        if count > 0 && repeated == count {
            return Err(self.far.rubbish("its list", "it goes round in circles").into());
        }
        Ok(Some(entries))
    }

    /// Changes something here, to its end, whoever still waits for it.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RunError> {
        under_right(self.fleet, work).await.ok_or(RunError::Stopped)
    }
}

/// Does durable work under the right to serve, to its end, whoever still waits for it: a hub that is fenced waits until it is done.
/// `None`: the hub does not serve, or did not any more when it was done.
pub(crate) async fn under_right<T: Send + 'static>(
    fleet: &Fleet,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let held = fleet.hold()?;
    let done = tokio::spawn(async move {
        let done = work.await;
        held.may_answer().then_some(done)
    });
    done.await.ok().flatten()
}

fn broken(error: impl Display) -> RunError {
    RunError::Registry(error.to_string())
}
