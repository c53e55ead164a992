//! What a hub does by itself while it serves: its sinks publish, its members are compared. Both are settings, which are replicated with
//! the hub: after a failover the other region goes on.
//!
//! Read in this order: `sinks`, `members`, then this file (what runs, and what not).
//!
//! Must always hold: a region that does not serve runs nothing; whatever a runner writes is written under the right to serve, so
//! that a hub that is fenced waits for it; what a setting says is what runs, shortly after it was changed in either region.

mod members;
mod sinks;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::fleet::Fleet;
use crate::registry::RegistryError;
use members::RunningMember;
use sinks::RunningSink;

pub(super) use members::NoReport;
pub(super) use sinks::{SinkSetting, group_of};

/// The settings of sinks.
pub(super) const SINKS: &str = "sinks";
/// The settings of members.
pub(super) const MEMBERS: &str = "members";
/// A right that was not renewed ends without a word: it is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Warnings of a hub about its runners: more are seen by asking it.
const WARNINGS_MAX: usize = 3;

/// The runners of one hub.
#[derive(Debug)]
pub(super) struct Runners {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    fleet: Fleet,
    /// The properties that name a message without `$.mid`.
    named_by: Vec<String>,
    sinks: Mutex<BTreeMap<String, RunningSink>>,
    members: Mutex<BTreeMap<String, RunningMember>>,
    /// Raised when what runs is what the settings said.
    arranged: watch::Sender<()>,
}

impl Runners {
    /// Begins. Nothing runs before the hub serves.
    pub(super) fn spawn(fleet: &Fleet, named_by: Vec<String>) -> Arc<Self> {
        let shared = Arc::new(Shared {
            fleet: fleet.clone(),
            named_by,
            sinks: Mutex::default(),
            members: Mutex::default(),
            arranged: watch::Sender::new(()),
        });
        let task = tokio::spawn(follow(Arc::clone(&shared)));
        Arc::new(Self { shared, task: Mutex::new(Some(task)) })
    }

    /// Ends all of them. What they were writing is written.
    pub(super) async fn stop(&self) {
        let task = locked(&self.task).take();
        if let Some(task) = task {
            task.abort();
            // It was aborted; how it ended is known.
            let _ = task.await;
        }
        let nothing = BTreeMap::new();
        self.shared.arrange_members(&nothing).await;
        self.shared.arrange_sinks(&nothing, Removed::Stays).await;
    }

    /// What an operator should know without asking.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.shared.sink_warnings();
        warnings.truncate(WARNINGS_MAX);
        warnings.extend(self.shared.member_warnings().into_iter().take(WARNINGS_MAX));
        warnings
    }
}

impl Drop for Runners {
    fn drop(&mut self) {
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
    }
}

/// What becomes of the cursor of a sink that is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removed {
    /// An operator took the sink away.
    Forgotten,
    /// The hub does not serve here: the other region goes on.
    Stays,
}

/// Sees to it that what runs is what the settings say, until it is aborted.
async fn follow(shared: Arc<Shared>) {
    let mut settings = shared.fleet.registry().settings_changed();
    let mut phases = shared.fleet.phases();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut arranged, mut is_told) = (None, false);
    loop {
        phases.mark_unchanged();
        let now = (shared.fleet.is_serving(), *settings.borrow_and_update());
        if arranged != Some(now) {
            match shared.arrange(now.0).await {
                Ok(()) => (arranged, is_told) = (Some(now), false),
                Err(error) => {
                    if !is_told {
                        tracing::warn!(hub = shared.fleet.name(), %error, "sinks and members cannot be looked up: it is tried again");
                    }
                    is_told = true;
                }
            }
            shared.arranged.send_replace(());
        }
        let goes_on = tokio::select! {
            changed = settings.changed() => changed.is_ok(),
            changed = phases.changed() => changed.is_ok(),
            _ = ticks.tick() => true,
        };
        if !goes_on {
            return;
        }
    }
}

impl Shared {
    async fn arrange(&self, serves: bool) -> Result<(), RegistryError> {
        if !serves {
            let nothing = BTreeMap::new();
            self.arrange_members(&nothing).await;
            self.arrange_sinks(&nothing, Removed::Stays).await;
            return Ok(());
        }
        let (sinks, members) = (self.wanted(SINKS)?, self.wanted(MEMBERS)?);
        self.arrange_members(&members).await;
        self.arrange_sinks(&sinks, Removed::Forgotten).await;
        Ok(())
    }

    fn wanted(&self, kind: &str) -> Result<BTreeMap<String, Value>, RegistryError> {
        Ok(self.fleet.registry().settings(kind)?.into_iter().collect())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes out what is not wanted any more, or is wanted otherwise.
fn outdated<T>(
    running: &Mutex<BTreeMap<String, T>>,
    is_wanted: impl Fn(&str, &T) -> bool,
) -> Vec<(String, T)> {
    let mut running = locked(running);
    let names: Vec<String> =
        running.iter().filter(|(name, one)| !is_wanted(name, one)).map(|(name, _)| name.clone()).collect();
    names.into_iter().filter_map(|name| running.remove_entry(&name)).collect()
}
