//! An app's instances: brought up when it may serve, replaced by others, ended.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::Role;
use tokio_util::sync::CancellationToken;

use super::{Item, Matter, Running};
use crate::host::{Host, HostOptions, Limits};
use crate::mode::Mode;
use crate::spec::{cpu_percent, memory_mib};

/// An instance that is ended has so long to finish what it is doing.
pub(in crate::workload) const GRACE: Duration = Duration::from_secs(3);
/// A release whose instances do not answer within this is not good.
const START_MAX: Duration = Duration::from_secs(60);
/// Why instances were not started, or ended again, though nothing is wrong with them.
const STOPPED: &str = "the app was stopped here meanwhile";

impl Item {
    /// The right to run it, while there is one.
    pub(super) fn activity(&self) -> Option<CancellationToken> {
        self.parts().active.clone().filter(|active| !active.is_cancelled())
    }

    /// Makes what runs be what should run: database, then instances. Called again it goes on where it was.
    ///
    /// # Errors
    /// In words; they are told as a warning, too, and it is tried again.
    pub(super) async fn raise(self: &Arc<Self>) -> Result<(), String> {
        let stopped = || "the app may not run here any more".to_owned();
        let active = self.activity().ok_or_else(stopped)?;
        let raised = async {
            let _work = self.work.lock().await;
            self.raise_now().await
        };
        let raised = tokio::select! {
            biased;
            () = active.cancelled() => return Err(stopped()),
            raised = raised => raised,
        };
        let away = if raised.is_err() { self.database_away().await } else { None };
        self.note(Matter::Away, away);
        self.note(Matter::Start, raised.clone().err());
        self.publish();
        raised
    }

    /// That the app's own database does not answer, if it has one and that does not.
    async fn database_away(&self) -> Option<String> {
        let url = self.stock.charter().external.clone()?;
        let is_away = super::answers(&url).await == Some(false);
        is_away.then(|| {
            format!(
                "the app's database does not answer, so the app does not come up: if it was lost, give the app another one with \
                 farshore app change-database {}",
                self.id.name
            )
        })
    }

    async fn raise_now(self: &Arc<Self>) -> Result<(), String> {
        if self.is_used_up() {
            self.end_instances(GRACE).await;
            self.close_database().await;
            return Ok(());
        }
        self.open_own().await?;
        let Some(release) = self.wanted_release() else {
            self.end_instances(GRACE).await;
            return Ok(());
        };
        let running =
            self.parts().running.as_ref().map(|running| (running.release, Arc::clone(&running.host)));
        let host = match running {
            Some((number, host)) if number == release => host,
            _ => {
                self.end_instances(GRACE).await;
                let host = Host::spawn(self.host_options(release));
                self.run(Arc::clone(&host), release);
                host
            }
        };
        host.up(START_MAX).await.map_err(|failure| format!("release {release} does not come up: {failure}"))
    }

    /// The release that should run; `None`: nothing is deployed, or there is no command to run.
    pub(in crate::workload) fn wanted_release(&self) -> Option<u64> {
        let charter = self.stock.charter();
        charter.live.filter(|_| charter.spec.command.is_some())
    }

    /// Whether everything runs that should.
    pub(in crate::workload) fn is_up(&self) -> bool {
        if self.card().restore.is_some() || (self.stock.engine().is_some() && self.stock.live().is_none()) {
            return false;
        }
        let Some(release) = self.wanted_release() else { return true };
        let parts = self.parts();
        let running = parts.running.as_ref().filter(|running| running.release == release);
        running.is_some_and(|running| !running.host.addresses().borrow().is_empty())
    }

    /// These instances are the app's from now on; those before are returned, to be ended.
    fn run(self: &Arc<Self>, host: Arc<Host>, release: u64) -> Option<Arc<Host>> {
        let (item, mut addresses) = (Arc::downgrade(self), host.addresses());
        let follows = tokio::spawn(async move {
            while addresses.changed().await.is_ok() {
                let Some(item) = item.upgrade() else { return };
                item.publish();
            }
        });
        let before = self.parts().running.replace(Running { host, release, follows });
        self.publish();
        before.map(|before| {
            before.follows.abort();
            before.host
        })
    }

    /// Ends the instances: on return no process of theirs is left.
    pub(super) async fn end_instances(&self, grace: Duration) {
        let running = self.parts().running.take();
        if let Some(running) = running {
            running.follows.abort();
            self.publish();
            running.host.stop(grace).await;
        }
    }

    /// Starts instances of this release beside those that run, and lets them take over once they answer: from then on it is the live
    /// one. The others run on when they do not. `None`: of the one that should run when it is its turn, if any should; while it waited,
    /// another one may have taken over.
    pub(super) async fn roll(self: &Arc<Self>, to: Option<u64>) -> Result<(), String> {
        let active = self.activity().ok_or(STOPPED)?;
        let _work = self.work.lock().await;
        let wanted = || self.wanted_release().filter(|_| !self.is_used_up());
        let Some(release) = to.or_else(wanted) else { return Ok(()) };
        let host = self.try_out(release, &active).await?;
        // Before it is given any request, and in the same turn: whoever is next must not take the one before for the one that should run.
        if to.is_some()
            && let Err(error) = self.charter_changes(|charter| charter.go_live(release))
        {
            host.stop(Duration::ZERO).await;
            return Err(error.to_string());
        }
        let before = self.run(host, release);
        if let Some(before) = before {
            before.stop(GRACE).await;
        }
        Ok(())
    }

    /// New instances of this release, which all answer; nobody else hears of them yet. Their database is opened first: a program that
    /// finds none in its environment may keep its rows in a file of its own, where nobody looks for them. The caller holds `work`.
    pub(super) async fn try_out(
        self: &Arc<Self>,
        release: u64,
        active: &CancellationToken,
    ) -> Result<Arc<Host>, String> {
        let opened = tokio::select! {
            biased;
            () = active.cancelled() => Err(STOPPED.to_owned()),
            opened = self.open_own() => opened,
        };
        opened?;
        let host = Host::spawn(self.host_options(release));
        let up = tokio::select! {
            biased;
            () = active.cancelled() => Err(STOPPED.to_owned()),
            up = host.up(START_MAX) => up.map_err(|failure| failure.to_string()),
        };
        let up = up.and_then(|()| match self.role() == Role::Active && !active.is_cancelled() {
            true => Ok(()),
            false => Err(STOPPED.to_owned()),
        });
        if let Err(why) = up {
            host.stop(Duration::ZERO).await;
            return Err(why);
        }
        Ok(host)
    }

    /// Comes up anew, when nothing runs: nobody is served before all of it answers. The caller holds `work`.
    pub(super) async fn come_up(self: &Arc<Self>, active: &CancellationToken) -> Result<(), String> {
        match self.wanted_release().filter(|_| !self.is_used_up()) {
            Some(release) => {
                let host = self.try_out(release, active).await?;
                self.run(host, release);
                Ok(())
            }
            None => self.open_own().await,
        }
    }

    /// Opens what its instances are to find: never start one before.
    async fn open_own(&self) -> Result<(), String> {
        self.bring_back().await?;
        self.open_database().await
    }

    /// Runs the same release anew, with the settings and keys as they are now.
    pub(in crate::workload) async fn restart(self: &Arc<Self>) -> Result<(), String> {
        let done = self.roll(None).await;
        let told = done.clone().err().map(|why| {
            format!("what was changed is not in use: the app did not come up with it, and runs on as it was ({why})")
        });
        self.note(Matter::Restart, told);
        done
    }

    /// Runs as many instances, with as much each, as the charter says when it is its turn.
    pub(in crate::workload) async fn scale(&self) {
        let _work = self.work.lock().await;
        let spec = self.stock.charter().spec.clone();
        if let Some(host) = self.host() {
            host.scale(spec.instances, limits(spec.mode)).await;
        }
    }

    fn host_options(&self, release: u64) -> HostOptions {
        let env = self.environment(None);
        let charter = self.stock.charter();
        HostOptions {
            command: charter.spec.command.clone().unwrap_or_default(),
            dir: self.stock.releases.dir_of(release),
            env,
            instances: charter.spec.instances,
            limits: limits(charter.spec.mode),
            probe_path: charter.spec.probe.clone(),
            log_dir: self.dir().join("log"),
            name: self.id.name.to_string(),
            cgroup: self.around.cgroup.clone(),
        }
    }

    /// What the app's processes find in their environment; `database`: that of another one than the app's.
    pub(in crate::workload) fn environment(
        &self,
        database: Option<Vec<(String, String)>>,
    ) -> Vec<(String, String)> {
        let charter = self.stock.charter().clone();
        let rows = database.or_else(|| match &charter.external {
            Some(url) => Some(vec![("DATABASE_URL".to_owned(), url.clone())]),
            None => self.stock.live().map(|live| live.env()),
        });
        let ours = [
            ("MS_ApplicationKey", charter.keys.application.as_str()),
            ("MS_MasterKey", &charter.keys.master),
            ("MS_MobileServiceName", self.id.name.as_str()),
            ("APPLICATION_KEY", &charter.keys.application),
            ("MASTER_KEY", &charter.keys.master),
            ("FARSHORE_APP", self.id.name.as_str()),
            ("FARSHORE_REGION", self.around.options.region.as_str()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        // The last of a name counts: what is ours cannot be set otherwise.
        charter.settings.into_iter().chain(rows.unwrap_or_default()).chain(ours).collect()
    }
}

/// What an instance of this mode may use.
pub(in crate::workload) fn limits(mode: Mode) -> Limits {
    Limits { memory_bytes: memory_mib(mode) << 20, cpu_percent: cpu_percent(mode) }
}
