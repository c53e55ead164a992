//! An app's database: opened, brought back, set aside.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::{Role, StepError, Watermark};
use tokio::task::spawn_blocking;

use super::super::card::Lost;
use super::super::engines;
use super::{Item, Matter, lock, retry};
use crate::data::backup::{Backup, due, last_taken};
use crate::data::{Engine, Loss, Position};
use crate::link::Kept;
use crate::releases::remove;

/// Where databases are.
pub(super) const DATABASES: &str = "databases";
/// Where a copy of the other region's is.
const REPLICA: &str = "replica";
/// Where is kept what the other region never had.
const DIVERGENT: &str = "divergent";

impl Item {
    /// Where the database of this name is.
    pub(in crate::workload) fn database_dir(&self, name: &str) -> PathBuf {
        self.dir().join(DATABASES).join(name)
    }

    fn replica_dir(&self) -> PathBuf {
        self.dir().join(REPLICA)
    }

    /// This name, or one made of it that no database has or had.
    pub(in crate::workload) fn free_database(&self, name: &str) -> String {
        let given_up = self.stock.charter().fenced.clone();
        let taken = |name: &str| self.database_dir(name).exists() || given_up.contains_key(name);
        if !taken(name) {
            return name.to_owned();
        }
        let more = (2_u32..).map(|count| format!("{name}-{count}"));
        more.into_iter().find(|name| !taken(name)).unwrap_or_default()
    }

    /// Follows the other region's database, if there is one to follow.
    pub(super) async fn stand_by(&self) -> Result<(), StepError> {
        let engine = self.stock.engine();
        match (engine, self.stock.kept()) {
            (None, Kept::Closed) | (Some(_), Kept::Replica(_)) => return Ok(()),
            _ => {}
        }
        let _work = self.work.lock().await;
        if self.role() != Role::Target || (engine.is_some() && self.stock.replica().is_some()) {
            return Ok(());
        }
        self.close_database().await;
        let Some(engine) = engine else { return Ok(()) };
        let replica = engines::open_replica(engine, &self.replica_dir()).await.map_err(retry)?;
        self.stock.keep(Kept::Replica(replica));
        Ok(())
    }

    /// Nobody here uses the database any more; everything that was committed is in its files.
    pub(super) async fn close_database(&self) {
        let closed = match self.stock.keep(Kept::Closed) {
            Kept::Closed => return,
            Kept::Live(live) => live.stop().await.unwrap_or_else(|error| {
                self.note_error(Matter::Database, &error);
                live.position()
            }),
            Kept::Replica(replica) => {
                let position = replica.position();
                replica.close().await;
                position
            }
        };
        if let Err(error) = self.change(|card| card.closed = closed) {
            tracing::warn!(app = %self.id, %error, "how far its database is cannot be noted");
        }
    }

    /// After a fence: the other region may still lack something.
    ///
    /// # Errors
    /// The database does not open: what it has cannot be sent.
    pub(super) async fn open_to_ship(&self) -> Result<(), String> {
        if !self.needs_database() {
            return Ok(());
        }
        let _work = self.work.lock().await;
        let opened = self.open_database().await;
        let opened =
            opened.map_err(|why| format!("its database is not open, so what it has cannot be sent: {why}"));
        self.note(Matter::Database, opened.clone().err());
        opened
    }

    /// Whether there is a database here that would have to be open to know what the other region lacks of it.
    fn needs_database(&self) -> bool {
        let is_needed = self.card().partner.is_some() && self.card().database.is_some();
        is_needed && self.stock.engine().is_some() && self.stock.live().is_none()
    }

    /// Whether it is not known how far its database is, though it may have what the other region lacks: its node was killed, and what
    /// was noted is as old as its last clean end.
    pub(in crate::workload) fn is_in_the_dark(&self) -> bool {
        self.role() == Role::Fenced && self.card().lost_after.is_none() && self.needs_database()
    }

    /// After a start of the node, of an app that was fenced.
    pub(super) async fn wake_fenced(&self) {
        let lost_after = self.card().lost_after;
        match lost_after {
            // It is told as a warning, and tried again when it is to be drained.
            None => drop(self.open_to_ship().await),
            Some(after) => {
                if let Err(error) = self.count_lost(after).await {
                    self.note_error(Matter::Database, &error);
                }
            }
        }
    }

    /// Opens the database that the app uses here; makes it, when it never had one.
    pub(super) async fn open_database(&self) -> Result<(), String> {
        let Some(engine) = self.stock.engine() else {
            self.close_database().await;
            return Ok(());
        };
        if self.stock.live().is_some() {
            return Ok(());
        }
        let known = self.own_database()?;
        let (closed, epoch, is_new) = {
            let card = self.card();
            (card.closed, card.epoch, card.is_new)
        };
        let name = match known {
            Some(name) => name,
            None if !is_new => {
                let restored = "restore a backup and change to it with farshore app change-database";
                return Err(format!("the database of {} is not in this region: {restored}", self.id));
            }
            None => {
                self.first_database(engine, &format!("{}-e{epoch}", self.stock.charter().database)).await?
            }
        };
        let opened = engines::open_live(engine, &self.database_dir(&name), closed).await;
        let live = opened.map_err(|error| error.to_string())?;
        *lock(&self.holds) = false;
        // A replica that was here is left as it is, until the promotion is accepted.
        if let Kept::Replica(replica) = self.stock.keep(Kept::Live(live)) {
            replica.close().await;
        }
        Ok(())
    }

    /// Commits wait for the other region by themselves where the engine can do that; not while it is away.
    pub(super) async fn hold_commits(&self) {
        let Some(live) = self.stock.live() else { return };
        let wanted = self.gate.is_wanted();
        if std::mem::replace(&mut *lock(&self.holds), wanted) == wanted {
            return;
        }
        if let Err(error) = live.hold(wanted).await {
            *lock(&self.holds) = !wanted;
            tracing::warn!(app = %self.id, %error, "whether commits wait for the other region cannot be changed: it is tried again");
        }
    }

    async fn first_database(&self, engine: Engine, name: &str) -> Result<String, String> {
        let dir = self.database_dir(name);
        // It was never used: a start that was interrupted has left it.
        clear(dir.clone()).await.map_err(|error| error.to_string())?;
        engines::create(engine, &dir).await.map_err(|error| error.to_string())?;
        self.change(|card| card.database = Some(name.to_owned())).map_err(|error| error.to_string())?;
        Ok(name.to_owned())
    }

    /// Brings back what an order chose, if it did.
    pub(super) async fn bring_back(&self) -> Result<(), String> {
        let Some(restore) = self.card().restore.clone() else { return Ok(()) };
        let engine = self.stock.engine().ok_or("the app has no database that is kept here")?;
        let dir = self.database_dir(&restore.into);
        clear(dir.clone()).await.map_err(|error| error.to_string())?;
        let position = match &restore.backup {
            Some(id) => self.backups.restore(id, &dir).await.map(|meta| meta.position),
            None => {
                let replica = match self.stock.replica() {
                    Some(replica) => replica,
                    None => {
                        let opened = engines::open_replica(engine, &self.replica_dir()).await;
                        let replica = opened.map_err(|error| error.to_string())?;
                        self.stock.keep(Kept::Replica(Arc::clone(&replica)));
                        replica
                    }
                };
                replica.restore(&dir).await
            }
        };
        let position = position.map_err(|error| format!("its database cannot be brought back: {error}"))?;
        self.change(|card| {
            (card.database, card.closed, card.restore) = (Some(restore.into), position, None);
        })
        .map_err(|error| error.to_string())
    }

    /// Counts what only this region has after `after`, unless that was done. Nothing uses the database. What can never be counted is
    /// noted as not known; an error is one that passes.
    pub(super) async fn count_lost(&self, after: Watermark) -> Result<(), StepError> {
        let (engine, name) = (self.stock.engine(), self.card().database.clone());
        let (Some(engine), Some(name)) = (engine, name) else { return Ok(()) };
        let dir = self.database_dir(&name);
        let is_counted = |lost: &Lost| lost.after == after && lost.dir == dir;
        if self.card().lost.as_ref().is_some_and(is_counted) {
            return Ok(());
        }
        let position = Position { commits: after.seq, bytes: after.bytes, at: after.at };
        let (loss, exact) = match engines::commits_after(engine, &dir, position).await {
            Ok(loss) => (loss, true),
            Err(error) if error.is_passing() => return Err(retry(error)),
            Err(error) => {
                tracing::warn!(app = %self.id, %error, "what only this region has cannot be counted: all of it is kept");
                (Loss::default(), false)
            }
        };
        self.change(|card| card.lost = Some(Lost { after, loss, exact, dir }))
    }

    /// An old source is to follow: what only it has after `after` is kept where it can be looked at, the rest is not needed any more.
    pub(super) async fn set_aside(&self, after: Watermark) -> Result<(), StepError> {
        let _work = self.work.lock().await;
        self.close_database().await;
        self.count_lost(after).await?;
        let (name, lost, epoch) = {
            let card = self.card();
            (card.database.clone(), card.lost.clone(), card.epoch)
        };
        let Some(name) = name else { return Ok(()) };
        let (dir, replica) = (self.database_dir(&name), self.replica_dir());
        // What was fetched when this region stood by before is older than what it had itself.
        clear(replica.clone()).await.map_err(retry)?;
        let engine = self.stock.charter().engine_kept();
        if let Some(engine) = engine
            && let Err(error) = engines::adopt_old(engine, &dir, &replica).await
        {
            tracing::warn!(app = %self.id, %error, "all of the database has to come from the other region");
        }
        let counted = lost.filter(|lost| lost.dir == dir);
        let may_have_more = |lost: &Lost| lost.loss.commits > 0 || !lost.exact;
        let Some(lost) = counted.clone().filter(may_have_more) else {
            // Only what was found to have nothing more is removed. One that the app did not use any more was not looked at.
            if counted.is_some() {
                self.remove_database(&name).await?;
            }
            return self.change(|card| (card.database, card.lost, card.is_new) = (None, None, false));
        };
        let kept = self.dir().join(DIVERGENT).join(format!("{name}-until-{epoch}"));
        let (charter, to) = (self.stock.charter().clone(), kept.clone());
        let moved = spawn_blocking(move || {
            if dir.exists() {
                std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
                std::fs::rename(&dir, &to)?;
            }
            std::fs::create_dir_all(&to)?;
            // Settings and releases that the other region may never have had.
            charter.save(&to).map_err(std::io::Error::other)
        });
        moved.await.map_err(retry)?.map_err(retry)?;
        self.change(|card| {
            (card.database, card.lost, card.is_new) = (None, Some(Lost { dir: kept, ..lost }), false);
        })
    }

    /// Removes what was kept of what the other region never had.
    pub(super) async fn remove_divergent(&self) -> Result<(), StepError> {
        clear(self.dir().join(DIVERGENT)).await.map_err(retry)
    }

    pub(super) async fn remove_database(&self, name: &str) -> Result<(), StepError> {
        clear(self.database_dir(name)).await.map_err(retry)
    }

    /// The copy of the other region's is not needed any more.
    pub(super) async fn remove_replica(&self) -> Result<(), StepError> {
        match self.stock.replica() {
            Some(_) => Ok(()),
            None => clear(self.replica_dir()).await.map_err(retry),
        }
    }

    /// Databases that are here, by name.
    pub(in crate::workload) fn databases(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir().join(DATABASES)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }

    /// The backups that are here, as they were when it was last looked.
    pub(in crate::workload) fn known_backups(&self) -> Vec<Backup> {
        lock(&self.backup_list).clone()
    }

    /// Whether the link has brought or removed some since.
    pub(super) fn has_other_backups(&self) -> bool {
        let known: BTreeSet<String> = self.known_backups().into_iter().map(|backup| backup.id).collect();
        known != self.stock.backups()
    }

    /// Looks which backups are here.
    pub(in crate::workload) async fn look_at_backups(&self) {
        match self.backups.list().await {
            Ok(backups) => {
                let ids: BTreeSet<String> = backups.iter().map(|backup| backup.id.clone()).collect();
                *lock(&self.backup_list) = backups;
                self.stock.set_backups(ids);
            }
            Err(error) => self.note_error(Matter::Backup, &error),
        }
    }

    /// Takes a backup when the last one is old enough, and forgets those that are too many.
    pub(super) async fn back_up_if_due(&self) {
        let minutes = self.stock.charter().spec.backup_minutes;
        let taken = last_taken(&self.known_backups());
        let tried = *lock(&self.backup_tried);
        // An app that has just begun has nothing to keep: its first one is due after a while, too.
        let since = taken.unwrap_or(self.began);
        let is_due = due(minutes, Some(since), tried).is_some_and(|at| at <= super::super::now());
        if !is_due {
            return;
        }
        *lock(&self.backup_tried) = Some(super::super::now());
        if let Err(error) = self.back_up("schedule").await {
            self.note(Matter::Backup, Some(format!("no backup was taken and proved: {error}")));
        }
    }

    /// Takes a backup now and proves it by restoring it.
    pub(in crate::workload) async fn back_up(&self, why: &str) -> Result<Backup, String> {
        let live = self.stock.live().ok_or("the app has no database that is kept here")?;
        let release = self.stock.charter().live;
        let taken = self.backups.take_of(live.as_ref(), why, release).await;
        let taken = taken.map_err(|error| error.to_string());
        let keep = self.stock.charter().spec.backup_keep;
        if let Err(error) = self.backups.keep_only(keep).await {
            tracing::warn!(app = %self.id, %error, "old backups stay");
        }
        self.look_at_backups().await;
        if taken.is_ok() {
            self.note(Matter::Backup, None);
        }
        taken
    }
}

async fn clear(path: PathBuf) -> Result<(), std::io::Error> {
    spawn_blocking(move || remove(&path)).await.map_err(std::io::Error::other)?
}

/// Somebody who listens does so within this.
const ANSWERS_MAX: Duration = Duration::from_secs(2);

/// Whether somebody listens where this URL leads; `None`: it does not say where that is.
pub(in crate::workload) async fn answers(url: &str) -> Option<bool> {
    let connected = tokio::net::TcpStream::connect(place_of(url)?);
    Some(matches!(tokio::time::timeout(ANSWERS_MAX, connected).await, Ok(Ok(_))))
}

/// Host and port of `SCHEME://[USER[:PASSWORD]@]HOST[:PORT][/…]`.
pub(in crate::workload) fn place_of(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let usual = match scheme {
        "postgres" | "postgresql" => Some(5432),
        "mysql" | "mariadb" => Some(3306),
        "redis" => Some(6379),
        "mongodb" => Some(27017),
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        Some(port) => port.parse().ok(),
        None => usual,
    };
    (!host.is_empty()).then_some(host).zip(port)
}

#[cfg(test)]
mod tests {
    use super::place_of;

    #[test]
    fn where_a_url_leads() {
        for (url, place) in [
            ("postgres://me:s@cret@db.example/rows", Some(("db.example", 5432))),
            ("postgres://db.example:6000/rows?x=1", Some(("db.example", 6000))),
            ("postgresql://me@[::1]:5433/x", Some(("::1", 5433))),
            ("odd://db.example/rows", None),
            ("odd://db.example:1/rows", Some(("db.example", 1))),
            ("sqlite:///x", None),
            ("no url", None),
        ] {
            assert_eq!(place_of(url), place, "{url}");
        }
    }
}
