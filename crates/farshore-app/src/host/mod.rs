//! The host: it keeps the processes of one release running, and answers where they are.
//!
//! A [`Host`] supervises the *instances* of one command. Each instance is a process group of its own, started through
//! `sh -c` with a free port in `PORT`; it is probed until it answers, watched while it runs, started again with a growing
//! pause when it ends or falls silent, and stopped politely first.
//!
//! Read in this order: [`options`] (what is asked for), [`pace`] (when to look, when to give up, how long to pause: pure),
//! [`instance`] (the life of one instance), [`run`] (one start of it: spawn, stop, clean), [`guard`] (the few lines of shell
//! that tie its life to the node's), [`probe`], [`port`], [`group`] and [`procfs`] (who belongs to it, and ending them),
//! [`cgroup`] (hard limits where the kernel offers them), [`leftovers`] (after a crash of the node), [`build`] (what ends by
//! itself, under the same guard), [`log`] (what it prints), [`view`] and [`failure`] (what people see).
//!
//! Must always hold: no process outlives its host or its build, neither after [`Host::stop`], nor after the node was killed; what an
//! app prints never fills the disk; the environment of an app is seen by the app alone.

mod build;
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
use std::ops::RangeFrom;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use build::{Build, BuildOptions};
pub use cgroup::CgroupRoot;
pub use failure::{Ending, StartFailure};
pub use leftovers::{gone, kill_leftovers};
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
    /// The way to tell each instance something. One that was told to stop stays here until it is gone.
    orders: Mutex<Orders>,
    /// One scaling at a time. Stopping waits for none.
    scaling: tokio::sync::Mutex<()>,
}

type Orders = BTreeMap<u32, watch::Sender<Order>>;

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
        let host = Self { shared, orders: Mutex::default(), scaling: tokio::sync::Mutex::default() };
        host.add(instances, limits);
        Arc::new(host)
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
    /// Dropped before it returns, it has done a part: call it again.
    pub async fn scale(&self, instances: u32, limits: Limits) {
        let _alone = self.scaling.lock().await;
        if !self.shared.expect(instances, limits) {
            return;
        }
        let after = instances.saturating_add(1)..;
        self.tell(after, Order::Stop { grace: SCALE_GRACE });
        self.tell_running(Order::Run { limits });
        self.gone().await;
        self.add(instances, limits);
    }

    /// Lets the instances finish the requests that they have, asks every process to end (SIGTERM), kills what is left after
    /// `grace`, and returns when no process is left. With a grace of zero it only kills. Called again, also while it is under way, the shorter grace holds; dropped before it returns, it goes on all the same.
    pub async fn stop(&self, grace: Duration) {
        self.shared.stopped();
        self.tell(0.., Order::Stop { grace });
        self.gone().await;
        self.shared.log.flush().await;
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the instances up to number `instances` that are not there yet.
    fn add(&self, instances: u32, limits: Limits) {
        let mut orders = self.orders();
        if !self.shared.expect(instances, limits) {
            return;
        }
        for number in 1..=instances {
            orders.entry(number).or_insert_with(|| {
                let (order, told) = watch::channel(Order::Run { limits });
                tokio::spawn(Instance::new(number, Arc::clone(&self.shared), told).live());
                order
            });
        }
    }

    fn tell(&self, numbers: RangeFrom<u32>, order: Order) {
        for (_, told) in self.orders().range(numbers) {
            told.send_if_modified(|old| old.replace(order));
        }
    }

    fn tell_running(&self, order: Order) {
        for told in self.orders().values().filter(|told| !told.borrow().is_stop()) {
            told.send_if_modified(|old| old.replace(order));
        }
    }

    /// Returns when nobody is left of those that were told to stop.
    async fn gone(&self) {
        let mut changed = self.shared.changed();
        while !self.forget_gone() {
            // The sender lives as long as this host.
            let _ = changed.changed().await;
        }
    }

    /// Whether nobody is left of them.
    fn forget_gone(&self) -> bool {
        let mut orders = self.orders();
        orders.retain(|number, _| self.shared.remembers(*number));
        !orders.values().any(|told| told.borrow().is_stop())
    }
}
