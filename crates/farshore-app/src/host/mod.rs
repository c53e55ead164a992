//! The host: it keeps the processes of one release running, and answers where they are.
//!
//! A [`Host`] supervises the *instances* of one command. Each instance is a process group of its own, started through
//! `sh -c` with a free port in `PORT`; it is probed until it answers, watched while it runs, started again with a growing
//! pause when it ends or falls silent, and stopped politely first.
//!
//! Read in this order: [`options`] (what is asked for), [`pace`] (when to look, when to give up, how long to pause: pure),
//! [`instance`] (the life of one instance), [`run`] (one start of it: spawn, stop, clean), [`guard`] (the few lines of shell
//! that tie its life to the node's), [`probe`], [`port`], [`group`] and [`procfs`] (who belongs to it, and ending them),
//! [`cgroup`] (hard limits where the kernel offers them), [`leftovers`] (after a crash of the node), [`log`] (what it
//! prints), [`view`] and [`failure`] (what people see).
//!
//! Must always hold: no process outlives its host, neither after [`Host::stop`], nor after the node was killed; what an
//! app prints never fills the disk; the environment of an app is seen by the app alone.

pub mod cgroup;
pub mod failure;
mod group;
mod guard;
mod instance;
mod leftovers;
pub mod log;
pub mod options;
mod pace;
mod port;
mod probe;
mod procfs;
mod run;
mod shared;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use cgroup::CgroupRoot;
pub use failure::{Ending, StartFailure};
pub use leftovers::kill_leftovers;
pub use log::tail;
pub use options::{HostOptions, Limits};
pub use view::{HostView, InstanceState, InstanceView};

use instance::{Instance, Order};
use pace::Pace;
use shared::{Readiness, Shared};

/// How long an instance that is scaled away may take to finish what it is doing.
const SCALE_GRACE: Duration = Duration::from_secs(10);

/// The supervised instances of one release. Dropped without [`Host::stop`], it kills them.
#[derive(Debug)]
pub struct Host {
    shared: Arc<Shared>,
    /// One change at a time: scaling and stopping wait for each other.
    slots: tokio::sync::Mutex<BTreeMap<u32, Slot>>,
}

/// An instance's task, and the way to tell it something.
#[derive(Debug)]
struct Slot {
    order: watch::Sender<Order>,
    task: JoinHandle<()>,
}

impl Host {
    /// Starts to start the instances, and returns at once: [`Host::up`] waits for them.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn spawn(options: HostOptions) -> Arc<Self> {
        Self::spawn_at(options, Pace::default())
    }

    fn spawn_at(options: HostOptions, pace: Pace) -> Arc<Self> {
        let (instances, limits) = (options.instances, options.limits);
        let shared = Arc::new(Shared::new(options, pace));
        let mut slots = BTreeMap::new();
        add(&shared, &mut slots, instances, limits);
        Arc::new(Self { shared, slots: tokio::sync::Mutex::new(slots) })
    }

    /// Returns when every instance answers its probe. The instances go on being started again after a failure: whoever
    /// gives up calls [`Host::stop`].
    ///
    /// # Errors
    /// One does not answer within `within`, or it ended so often that waiting longer is useless.
    pub async fn up(&self, within: Duration) -> Result<(), StartFailure> {
        let deadline = Instant::now() + within;
        let mut changed = self.shared.changed();
        loop {
            match self.shared.readiness() {
                Readiness::Up => return Ok(()),
                Readiness::Hopeless(failure) => return Err(failure),
                Readiness::Waiting => {}
            }
            if tokio::time::timeout_at(deadline, changed.changed()).await.is_err() {
                return self.shared.late(within);
            }
        }
    }

    /// The instances that answer now, in the order of their numbers.
    pub fn addresses(&self) -> watch::Receiver<Arc<[SocketAddr]>> {
        self.shared.addresses()
    }

    /// What there is to see of each instance.
    #[must_use]
    pub fn view(&self) -> HostView {
        self.shared.view()
    }

    /// Runs `instances` instances with `limits` from now on. The others are not interrupted; those that are too many are
    /// first taken out of [`Host::addresses`], then stopped, and gone on return. After [`Host::stop`] it changes nothing.
    pub async fn scale(&self, instances: u32, limits: Limits) {
        let mut slots = self.slots.lock().await;
        if self.shared.is_stopped() {
            return;
        }
        self.shared.expect(instances, limits);
        for slot in slots.values() {
            slot.order.send_replace(Order::Run { limits });
        }
        let gone: Vec<Slot> = slots.split_off(&instances.saturating_add(1)).into_values().collect();
        add(&self.shared, &mut slots, instances, limits);
        end(gone, SCALE_GRACE).await;
    }

    /// Asks every process to end (SIGTERM), kills what is left after `grace`, and returns when no process is left.
    /// Called again it changes nothing.
    pub async fn stop(&self, grace: Duration) {
        let mut slots = self.slots.lock().await;
        self.shared.stopped();
        end(std::mem::take(&mut *slots).into_values().collect(), grace).await;
        self.shared.log.flush().await;
    }
}

/// Starts the instances up to number `instances` that are not there yet.
fn add(shared: &Arc<Shared>, slots: &mut BTreeMap<u32, Slot>, instances: u32, limits: Limits) {
    for number in 1..=instances {
        slots.entry(number).or_insert_with(|| {
            let (order, orders) = watch::channel(Order::Run { limits });
            let task = tokio::spawn(Instance::new(number, Arc::clone(shared), orders).live());
            Slot { order, task }
        });
    }
}

/// Stops all of `slots` at the same time and waits for them.
async fn end(slots: Vec<Slot>, grace: Duration) {
    for slot in &slots {
        slot.order.send_replace(Order::Stop { grace });
    }
    for slot in slots {
        if let Err(failed) = slot.task.await {
            tracing::error!(%failed, "an instance's supervisor failed");
        }
    }
}
