//! An app's database is exchanged for another: the one before is given up, and used again only when somebody says so by a word of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::workload::{Role, StepError};
use tokio_util::sync::CancellationToken;

use super::raise::GRACE;
use super::{Item, Matter, NOT_HERE, fatal};
use crate::data::Position;

/// What an app uses, to go back to.
#[derive(Debug)]
struct Uses {
    external: Option<String>,
    named: String,
    fenced: BTreeMap<String, String>,
    database: Option<String>,
}

impl Item {
    /// The app uses this database from now on, or this one elsewhere; the one before is given up. It was checked, and that may have taken
    /// long: whoever serves no more by now changes nothing. An app that ran and does not come up with it goes back to what it had:
    /// nobody was served with the other.
    pub(in crate::workload) async fn use_database(
        self: &Arc<Self>,
        to: Option<(String, Position)>,
        url: Option<String>,
    ) -> Result<(), StepError> {
        let active = self.activity().ok_or_else(|| fatal(NOT_HERE))?;
        let work = self.work.lock().await;
        if self.role() != Role::Active || !self.lease.is_valid() {
            return Err(fatal(NOT_HERE));
        }
        let (ran, before) = (self.is_up(), self.uses());
        self.publish_recovering("the app is changing its database");
        self.end_instances(GRACE).await;
        self.close_database().await;
        self.exchange(to, url)?;
        if !ran {
            // It is being mended: what it is given now is tried until it comes up.
            drop(work);
            let raised = self.raise().await;
            return raised
                .map_err(|why| fatal(format!("{why}; it keeps the new database and is tried again")));
        }
        let up = match self.come_up(&active).await {
            Err(why) if !active.is_cancelled() => Err(self.go_back(before, &active, &why).await),
            up => up,
        };
        self.note(Matter::Away, None);
        self.publish();
        up.map_err(fatal)
    }

    fn uses(&self) -> Uses {
        let database = self.card().database.clone();
        let charter = self.stock.charter();
        Uses {
            external: charter.external.clone(),
            named: charter.database.clone(),
            fenced: charter.fenced.clone(),
            database,
        }
    }

    /// Writes it down: in the charter first, which says what was given up. Whoever is killed in between goes on from there:
    /// [`Self::own_database`].
    fn exchange(&self, to: Option<(String, Position)>, url: Option<String>) -> Result<(), StepError> {
        let why = format!("replaced on {}", super::super::now());
        let (before, reached) = {
            let card = self.card();
            (card.database.clone(), card.closed)
        };
        self.charter_changes(|charter| {
            if let Some(before) = before {
                // One that was given up before stays what it was.
                charter.fenced.entry(before).or_insert(why);
            }
            charter.external = url;
            if let Some((name, _)) = &to {
                charter.fenced.remove(name);
                charter.database.clone_from(name);
            }
        })?;
        match to {
            Some((name, own)) => {
                self.change(|card| (card.database, card.closed) = (Some(name), after(reached.farthest(own))))
            }
            None => Ok(()),
        }
    }

    /// Uses again what it had, and says how that went.
    async fn go_back(self: &Arc<Self>, before: Uses, active: &CancellationToken, why: &str) -> String {
        self.close_database().await;
        let Uses { external, named, fenced, database } = before;
        // The card first: who is killed in between goes on with what was asked for.
        let written = self
            .change(|card| (card.database, card.closed) = (database, after(card.closed)))
            .and_then(|()| {
                self.charter_changes(|charter| {
                    (charter.external, charter.database, charter.fenced) = (external, named, fenced);
                })
            });
        if let Err(error) = written {
            return format!(
                "the app does not come up with it ({why}), and what it had cannot be put back: {error}"
            );
        }
        match self.come_up(active).await {
            Ok(()) => format!(
                "the app does not come up with it, so it was given back what it had and runs; nothing was changed ({why})"
            ),
            Err(again) => format!(
                "the app does not come up with it ({why}). It was given back what it had, and does not come up with that yet either; it \
                 is tried again: {again}"
            ),
        }
    }

    /// The database that an app uses here. After a crash in the middle of an exchange the card still names the one that was given up: then
    /// it is the other.
    pub(super) fn own_database(&self) -> Result<Option<String>, String> {
        let known = self.card().database.clone();
        // Who does not serve keeps what it served with, for the other region.
        let Some(name) = known.clone().filter(|_| self.role() == Role::Active) else { return Ok(known) };
        let (given_up, next, is_next_good) = {
            let charter = self.stock.charter();
            let is_good = !charter.fenced.contains_key(&charter.database);
            (charter.fenced.get(&name).cloned(), charter.database.clone(), is_good)
        };
        let Some(why) = given_up else { return Ok(known) };
        if !is_next_good || !self.database_dir(&next).exists() {
            return Err(format!(
                "its database {name} was {why} and is not used again by itself: give the app another one with farshore app \
                 change-database {}",
                self.id.name
            ));
        }
        self.change(|card| (card.database, card.closed) = (Some(next.clone()), after(card.closed)))
            .map_err(|error| error.to_string())?;
        Ok(Some(next))
    }
}

/// Numbers go on rising: an exchange is one more write.
fn after(reached: Position) -> Position {
    Position { commits: reached.commits + 1, ..reached }
}
