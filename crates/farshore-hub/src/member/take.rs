//! From the other hub: what it has is imported here.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::entry::{Entry, Pages, Sort};
use super::{ASKED_AT_ONCE, FarError, Manner, Run, RunError, broken};
use crate::import::{ImportMode, Line, LineError};
use crate::names::Key;
use crate::record::Device;
use crate::registry::{ChangeError, Changed, Decide};

/// Identities that are looked at together for those that only this hub has.
const LOOKED_AT: usize = 1000;

/// What an entry needs to be the same here.
enum Need {
    Nothing,
    /// Its identity is the same.
    Twin,
    Whole,
}

/// What is to be imported.
struct Step {
    key: Key,
    /// The identity's etag there.
    etag: Option<String>,
    here: Option<Arc<Device>>,
    line: Line,
    /// Another device of this id goes first.
    replaces: bool,
}

impl Run<'_> {
    pub(super) async fn take(&mut self) -> Result<(), RunError> {
        for sort in [Sort::Devices, Sort::Modules] {
            let mut pages = Pages::of(sort);
            while let Some(entries) = self.listed(&mut pages).await? {
                let steps = self.steps(entries).await?;
                match self.manner {
                    Manner::Plan => self.plan(steps),
                    Manner::Do => self.import(steps).await?,
                }
            }
        }
        self.rest_of_here().await
    }

    fn need(&self, entry: &Entry, here: Option<&Device>) -> Need {
        let Some(here) = here else { return Need::Whole };
        let is_same = |etag: &String| *etag == here.etag || self.same.knows(&entry.key, etag, &here.etag);
        let twin_is_same = entry.tags == here.tags && entry.desired == here.desired.value;
        match (entry.etag.as_ref().is_some_and(is_same), twin_is_same) {
            (true, true) => Need::Nothing,
            (true, false) => Need::Twin,
            (false, _) => Need::Whole,
        }
    }

    /// What is to be done so that this side has what is listed; where it may differ, the whole identity is asked for.
    async fn steps(&mut self, entries: Vec<Entry>) -> Result<Vec<Step>, RunError> {
        let mut wanted = Vec::new();
        let mut steps = Vec::new();
        for entry in entries {
            let here = self.fleet.registry().get(&entry.key).map_err(broken)?;
            match (self.need(&entry, here.as_deref()), here) {
                (Need::Nothing, Some(here)) => {
                    self.found_same(&entry.key, entry.etag.as_deref(), &here.etag);
                    self.tally.add(|report| report.unchanged += 1);
                }
                (Need::Twin, here) => steps.push(Step {
                    key: entry.key.clone(),
                    etag: entry.etag.clone(),
                    line: entry.twin_line(),
                    replaces: false,
                    here,
                }),
                (Need::Nothing | Need::Whole, here) => wanted.push((entry, here)),
            }
        }
        let run = &*self;
        let asked =
            stream::iter(wanted).map(|(entry, here)| run.whole(entry, here).boxed()).buffered(ASKED_AT_ONCE);
        let whole: Vec<Option<Step>> = asked.try_collect().await?;
        steps.extend(whole.into_iter().flatten());
        Ok(steps)
    }

    /// Asks for the whole of an identity. `None`: there is nothing to do, or it was reported.
    async fn whole(&self, entry: Entry, here: Option<Arc<Device>>) -> Result<Option<Step>, RunError> {
        let line = match self.far.identity(&entry.key).await {
            // It was deleted since it was listed.
            Ok(None) => return Ok(None),
            Ok(Some(identity)) => entry.whole_line(identity),
            Err(error) => Err(of_entry(error)?.to_string()),
        };
        let line = match line {
            Ok(line) => line,
            Err(why) => {
                self.tally.failed(&entry.key.to_string(), &why);
                return Ok(None);
            }
        };
        let is_other =
            |here: &Arc<Device>| line.generation_id.as_deref().is_some_and(|id| *id != *here.generation);
        let replaces = self.prune && here.as_ref().is_some_and(is_other);
        Ok(Some(Step { key: entry.key, etag: entry.etag, here, line, replaces }))
    }

    fn found_same(&mut self, key: &Key, there: Option<&str>, here: &str) {
        if let Some(there) = there.filter(|_| self.manner == Manner::Do) {
            self.same.add(key, there, here);
        }
    }

    fn plan(&self, steps: Vec<Step>) {
        for step in steps {
            let (id, replaces, here) = (step.key.to_string(), step.replaces, step.here);
            let edits = step.line.decide().and_then(|(_, decide)| decide(here.as_deref()));
            self.tally.add(|report| match (&edits, &here) {
                (Err(_), _) => {}
                (Ok(_), Some(_)) if replaces => {
                    (report.deleted, report.created) = (report.deleted + 1, report.created + 1)
                }
                (Ok(edits), Some(_)) if edits.is_empty() => report.unchanged += 1,
                (Ok(_), Some(_)) => report.updated += 1,
                (Ok(_), None) => report.created += 1,
            });
            if let Err(error) = edits {
                self.tally.failed(&id, &error);
            }
        }
    }

    async fn import(&mut self, steps: Vec<Step>) -> Result<(), RunError> {
        let (mut places, mut changes) = (Vec::new(), Vec::<(Key, Decide<LineError>)>::new());
        for Step { key, etag, line, replaces, .. } in steps {
            if replaces {
                changes.push(deletion(&key));
                places.push((key.clone(), None));
            }
            match line.decide() {
                Ok(change) => {
                    changes.push(change);
                    places.push((key, etag));
                }
                Err(error) => self.tally.failed(&key.to_string(), &error),
            }
        }
        for ((key, etag), result) in places.into_iter().zip(self.change_many(changes).await?) {
            match result {
                Err(ChangeError::Registry(what)) => return Err(RunError::Registry(what)),
                Err(error) => self.tally.failed(&key.to_string(), &LineError::from(error)),
                Ok(changed) => {
                    if let Some(after) = &changed.after {
                        self.found_same(&key, etag.as_deref(), &after.etag);
                    }
                    self.count(&changed);
                }
            }
        }
        Ok(())
    }

    async fn change_many(
        &self,
        changes: Vec<(Key, Decide<LineError>)>,
    ) -> Result<Vec<Result<Changed, ChangeError<LineError>>>, RunError> {
        let registry = self.fleet.registry().clone();
        self.change(async move { registry.change_many(changes).await }).await
    }

    fn count(&self, changed: &Changed) {
        self.tally.add(|report| match (&changed.before, &changed.after) {
            (None, Some(_)) => report.created += 1,
            (Some(_), None) => report.deleted += 1,
            (Some(before), Some(after)) if before != after => report.updated += 1,
            _ => report.unchanged += 1,
        });
    }

    /// What only this hub has. The other hub's list was read to its end.
    async fn rest_of_here(&mut self) -> Result<(), RunError> {
        let may_delete = self.prune && !self.there.is_empty();
        if self.prune && !may_delete {
            self.tally.note("the other hub's list is empty: nothing was deleted here");
        }
        let mut after: Option<Key> = None;
        loop {
            let (registry, from) = (self.fleet.registry().clone(), after.clone());
            let page = tokio::task::spawn_blocking(move || registry.page(from.as_ref(), LOOKED_AT));
            let page = page.await.map_err(broken)?.map_err(broken)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let is_comparable = |key: &Key| key.module.is_none() || self.lists_modules;
            let keys = page.iter().map(|device| &device.key);
            let only_here: Vec<Key> =
                keys.filter(|key| is_comparable(key) && !self.there.has(key)).cloned().collect();
            self.tally.add(|report| report.only_here += only_here.len() as u64);
            if may_delete {
                self.delete(only_here).await?;
            }
        }
    }

    /// Deletes here what the other hub, asked for each by name, does not have.
    async fn delete(&mut self, keys: Vec<Key>) -> Result<(), RunError> {
        let run = &*self;
        let asked = stream::iter(keys).map(|key| run.is_gone(key).boxed()).buffered(ASKED_AT_ONCE);
        let gone: Vec<Option<Key>> = asked.try_collect().await?;
        let gone: Vec<Key> = gone.into_iter().flatten().collect();
        if self.manner == Manner::Plan {
            self.tally.add(|report| report.deleted += gone.len() as u64);
            return Ok(());
        }
        let changes = gone.iter().map(deletion).collect();
        for (key, result) in gone.iter().zip(self.change_many(changes).await?) {
            match result {
                // A module went with its device.
                Ok(_) | Err(ChangeError::Refused(LineError::Missing(_))) => {
                    self.tally.add(|report| report.deleted += 1)
                }
                Err(ChangeError::Registry(what)) => return Err(RunError::Registry(what)),
                Err(error) => self.tally.failed(&key.to_string(), &LineError::from(error)),
            }
        }
        Ok(())
    }

    /// `None`: it is there after all, or it cannot be told.
    async fn is_gone(&self, key: Key) -> Result<Option<Key>, RunError> {
        match self.far.identity(&key).await {
            Ok(None) => Ok(Some(key)),
            Ok(Some(_)) => {
                self.tally.failed(
                    &key.to_string(),
                    &"the other hub has it and does not list it: it was not deleted",
                );
                Ok(None)
            }
            Err(error) => {
                self.tally.failed(&key.to_string(), &of_entry(error)?);
                Ok(None)
            }
        }
    }
}

/// An error that the rest can do without; or the end of the run.
pub(super) fn of_entry(error: FarError) -> Result<FarError, RunError> {
    if error.is_of_one_entry() { Ok(error) } else { Err(error.into()) }
}

fn deletion(key: &Key) -> (Key, Decide<LineError>) {
    let line = Line {
        id: key.device.to_string(),
        module_id: key.module.as_ref().map(ToString::to_string),
        import_mode: Some(ImportMode::Delete.as_str().to_owned()),
        ..Line::default()
    };
    line.decide().expect("a key that is known, and a mode that there is")
}
