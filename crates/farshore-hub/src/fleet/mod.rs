//! One hub in one region, alive: its registry, its telemetry and whoever is connected.
//!
//! A [`Fleet`] decides two things that nothing else here decides: who comes in, and what may be acknowledged. Everything else it
//! passes on between a connection, the registry and the telemetry log.
//!
//! Read in this order: `gate` (what may be acknowledged), `admission` (whose turn it is), `trust` (whom it believes), `identity` (who it is), `doors`
//! (coming in), `live` and `sessions` (who is connected), `connection` (what they can do), `follow` (what they are told), `activity` (when they were
//! heard of), `methods`, `messages`, then the faces: `rest`, `amqp`, `provision`.
//!
//! Must always hold: nothing is acknowledged that is not durable; nothing is acknowledged once [`Fleet::stop_acknowledging`] has been
//! called; a hub that does not serve, or whose registry is behind, refuses nobody for good; a device has one connection; nothing is
//! sent to a device that is not subscribed to it; a message is done when the device says so, a method is sent once.

mod activity;
mod admission;
mod amqp;
mod connection;
mod doors;
mod follow;
mod gate;
mod identity;
mod live;
mod messages;
mod methods;
mod provision;
mod rest;
mod sessions;
#[cfg(test)]
mod tests;
mod trust;

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use crate::link::Awaited;
use crate::mqtt::behind::Closing;
use crate::names::{DeviceId, Key};
use crate::registry::{ChangeError, Counts, Device, Edit, Invalid, Registry, RegistryError};
use crate::sas::Policy;
use crate::telemetry::{Telemetry, TelemetryError, TelemetryOptions, TelemetryStats};

pub use admission::AdmissionOptions;
pub use gate::{Lease, Phase, Standing};
pub use messages::{MessageLimits, SendError};
pub use methods::{InvokeError, METHOD_BYTES_MAX, METHOD_WAIT_MAX, MethodCall};

use admission::Admission;
use gate::{Entered, Gate};
pub(crate) use provision::ASK_AGAIN_AFTER;
use sessions::Sessions;
use trust::{Trust, Trusted};

/// What a hub is opened with.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// The hub's name.
    pub name: String,
    /// The region that this is.
    pub region: Region,
    /// The hub's logical host name and its aliases: what devices' user names and tokens may be for. Empty: anything, as long as
    /// both say the same.
    pub hosts: Vec<String>,
    /// Where everything is kept.
    pub dir: PathBuf,
    /// Of the telemetry log.
    pub telemetry: TelemetryOptions,
    /// How devices are let in.
    pub admission: AdmissionOptions,
    /// Of cloud-to-device messages.
    pub messages: MessageLimits,
}

impl FleetOptions {
    /// A hub with the usual limits.
    #[must_use]
    pub fn new(name: &str, region: Region, dir: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            region,
            hosts: Vec::new(),
            dir,
            telemetry: TelemetryOptions::default(),
            admission: AdmissionOptions::default(),
            messages: MessageLimits::default(),
        }
    }
}

/// Why a hub could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// Its registry.
    #[error("hub {name}: {source}")]
    Registry {
        /// Which hub.
        name: String,
        /// What is wrong.
        source: RegistryError,
    },
    /// Its telemetry.
    #[error("hub {name}: {source}")]
    Telemetry {
        /// Which hub.
        name: String,
        /// What is wrong.
        source: TelemetryError,
    },
}

/// What a hub does and has done since it was opened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FleetStats {
    /// Serves, and may.
    pub serving: bool,
    /// Devices and modules that are connected.
    pub connected: usize,
    /// Connections that wait for their CONNACK.
    pub held: usize,
    /// Connections that were told to come again.
    pub refused: usize,
    /// Of the registry.
    pub counts: Counts,
    /// Of the telemetry log.
    pub telemetry: TelemetryStats,
}

/// One hub in one region. Cheap to clone; the last clone closes it.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    options: FleetOptions,
    registry: Registry,
    telemetry: Telemetry,
    gate: Arc<Gate>,
    admission: Arc<Admission>,
    sessions: Sessions,
    /// Raised when messages were sent, ended or taken, for those who wait for feedback.
    news: watch::Sender<()>,
    leases: amqp::Leases,
    activity: activity::Activity,
    awaited: RwLock<Option<Awaited>>,
    trust: Trust,
    follower: RwLock<Option<JoinHandle<()>>>,
}

impl Inner {
    fn stop_following(&self) {
        if let Some(follower) = self.follower.write().unwrap_or_else(PoisonError::into_inner).take() {
            follower.abort();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop_following();
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("name", &self.0.options.name)
            .field("region", &self.0.options.region)
            .field("phase", &self.0.gate.phase())
            .finish_non_exhaustive()
    }
}

/// The clock of this room: when something happened, for people and tokens. Never decides who may write.
pub(crate) fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Moment(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

impl Fleet {
    /// Opens what is kept in the directory. It serves nobody yet. Called within a runtime.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn open(options: FleetOptions) -> Result<Self, FleetError> {
        let name = || options.name.clone();
        let registry = Registry::open(&options.dir.join("registry"), options.region.clone())
            .map_err(|source| FleetError::Registry { name: name(), source })?;
        let telemetry = Telemetry::open(
            &options.dir.join("telemetry"),
            options.region.clone(),
            options.telemetry.clone(),
        )
        .map_err(|source| FleetError::Telemetry { name: name(), source })?;
        let (changes, settings) = (registry.changed(), registry.settings_changed());
        let inner = Arc::new(Inner {
            gate: Arc::new(Gate::new()),
            admission: Arc::new(Admission::new(&options.admission)),
            sessions: Sessions::new(),
            news: watch::Sender::new(()),
            leases: amqp::Leases::default(),
            activity: activity::Activity::default(),
            awaited: RwLock::default(),
            trust: Trust::new(&registry),
            follower: RwLock::default(),
            options,
            registry,
            telemetry,
        });
        let (followed, kept) = (Arc::downgrade(&inner), Arc::downgrade(&inner));
        let follower = tokio::spawn(async move {
            tokio::join!(follow::follow(followed, changes, settings), activity::keep(kept));
        });
        *inner.follower.write().unwrap_or_else(PoisonError::into_inner) = Some(follower);
        Ok(Self(inner))
    }

    /// Serves devices under `epoch`. Called again with the same epoch, only what the registry is worth changes.
    pub fn open_to_devices(&self, epoch: Epoch, standing: Standing) {
        self.registry().activate(epoch);
        self.gate().open(epoch, standing);
        // Whoever is left from an earlier opening is never acknowledged anything: they are to come again.
        self.evacuate(None);
        tracing::info!(hub = self.0.options.name, epoch = epoch.0, ?standing, "open to devices");
    }

    /// Serves nobody: it is not known who may. Who connects is held for a while, then told to come again.
    /// Whoever is connected still is not acknowledged anything more, and is disconnected.
    pub fn stand_by(&self) {
        self.serve_nobody(Phase::StandingBy);
    }

    /// The same, and the other region serves: who was held is told to come again now, and who connects soon.
    pub fn follow(&self) {
        self.serve_nobody(Phase::Following);
    }

    fn serve_nobody(&self, phase: Phase) {
        self.gate().shut(phase);
        self.abandon_calls();
        self.evacuate(None);
    }

    /// From the moment this is called nothing is acknowledged any more. Returns when nothing is being written any more either: the
    /// registry and the telemetry log of this region are final, and hold all that was ever acknowledged. Connections stay.
    pub async fn stop_acknowledging(&self) {
        self.gate().shut(Phase::Fenced);
        self.abandon_calls();
        self.sessions().arrived();
        self.gate().settled().await;
        // What is in the queues of the log and of the registry is written before these are answered.
        if let Err(error) = self.telemetry().tidy(now()).await {
            tracing::warn!(hub = self.name(), %error, "the telemetry log failed while the hub was fenced");
        }
        let nothing = Key::device(DeviceId::parse("nobody").expect("an id"));
        let settled = self.registry().change(nothing, |_| Ok::<_, Infallible>(Vec::new())).await;
        if let Err(error) = settled {
            tracing::warn!(hub = self.name(), %error, "the registry failed while the hub was fenced");
        }
    }

    /// Disconnects whoever is connected from an earlier opening; so many a second, or all at once. Returns at once.
    pub fn evacuate(&self, per_second: Option<NonZeroU32>) {
        let fleet = self.clone();
        tokio::spawn(async move { fleet.close_all(per_second).await });
    }

    /// First nothing is acknowledged any more, then connections are closed, at once.
    pub async fn fence(&self) {
        self.stop_acknowledging().await;
        self.evacuate(None);
    }

    /// Acknowledges only while `lease` says so: for a hub that must fence itself when nobody can tell it to. Asked before every
    /// acknowledgement, so it is to be quick. `None`: until it is fenced.
    pub fn acknowledge_while(&self, lease: Option<Lease>) {
        self.gate().set_lease(lease);
    }

    /// What devices say is acknowledged only when the other region has it, too, as far as this tells: see [`Awaited`]. `None`: when it
    /// is durable here.
    pub fn acknowledge_after(&self, awaited: Option<Awaited>) {
        *self.0.awaited.write().unwrap_or_else(PoisonError::into_inner) = awaited;
    }

    /// Gives a new hub the policies that every hub has. One that has any keeps what it has. For the region in which a hub is made,
    /// when it serves: the other learns of them.
    ///
    /// # Errors
    /// [`RegistryError`]; some may have been made.
    pub async fn make_policies(&self) -> Result<(), RegistryError> {
        if self.registry().policies()?.is_empty() {
            for policy in Policy::well_known() {
                self.registry().set_policy(policy).await?;
            }
        }
        Ok(())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.options.name
    }

    /// Its identities.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// What its devices said.
    #[must_use]
    pub fn telemetry(&self) -> &Telemetry {
        &self.0.telemetry
    }

    /// What it does with those who want to connect.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.gate().phase()
    }

    /// The same, to be told when it changes.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.gate().watch()
    }

    /// Whether it serves, and its right to holds.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.gate().opening().is_some()
    }

    /// How many devices and modules are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.sessions().count()
    }

    /// Since when a device or module is connected.
    #[must_use]
    pub fn connection_of(&self, key: &Key) -> Option<Moment> {
        self.sessions().get(key).filter(|live| !live.is_closing()).map(|live| live.since)
    }

    /// When a device or module that is connected was last heard of.
    #[must_use]
    pub fn last_heard(&self, key: &Key) -> Option<Moment> {
        self.sessions().get(key).map(|live| live.heard().0)
    }

    /// Ends a device's connection. It may come again.
    pub fn close_device(&self, key: &Key, why: Closing) {
        if let Some(live) = self.sessions().get(key) {
            live.close(why);
        }
    }

    /// What it does and has done.
    #[must_use]
    pub fn stats(&self) -> FleetStats {
        FleetStats {
            serving: self.is_serving(),
            connected: self.connected(),
            held: self.admission().held(),
            refused: self.admission().refused(),
            counts: self.registry().counts(),
            telemetry: self.telemetry().stats(),
        }
    }

    fn options(&self) -> &FleetOptions {
        &self.0.options
    }

    fn gate(&self) -> &Arc<Gate> {
        &self.0.gate
    }

    fn admission(&self) -> &Arc<Admission> {
        &self.0.admission
    }

    fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    fn news(&self) -> watch::Receiver<()> {
        self.0.news.subscribe()
    }

    /// What is to be waited for before something is acknowledged; `None`: nothing, now.
    fn awaited(&self) -> Option<Awaited> {
        let awaited = self.0.awaited.read().unwrap_or_else(PoisonError::into_inner);
        awaited.as_ref().filter(|awaited| awaited.borrow().is_some()).cloned()
    }

    fn activity(&self) -> &activity::Activity {
        &self.0.activity
    }

    fn leases(&self) -> &amqp::Leases {
        &self.0.leases
    }

    /// Whom it believes, as its settings say now.
    pub(crate) fn trusted(&self) -> Arc<Trusted> {
        self.0.trust.now(self.registry(), self.name())
    }

    fn abandon_calls(&self) {
        self.0.news.send_replace(());
        for live in self.sessions().all() {
            live.abandon_calls();
        }
    }

    async fn close_all(&self, per_second: Option<NonZeroU32>) {
        let mut pace = per_second.map(|rate| interval(Duration::from_secs(1) / rate.get()));
        if let Some(pace) = &mut pace {
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        }
        for live in self.sessions().all() {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            // The hub may have been opened again meanwhile: those who came since then stay.
            if !self.gate().is_open_as(live.opening) {
                live.close(Closing::Leaving);
            }
        }
    }

    /// Changes a device that exists, under the right that was entered with. Returns it as it is then, durably.
    async fn change(&self, entered: Entered, key: &Key, edits: Vec<Edit>) -> Result<Arc<Device>, NotChanged> {
        let (registry, key) = (self.registry().clone(), key.clone());
        let change = async move {
            let missing = key.clone();
            let decide = move |device: Option<&Device>| match device {
                Some(_) => Ok(edits),
                None => Err(Invalid::Missing(missing)),
            };
            let changed = registry.change(key.clone(), decide).await?;
            changed.after.ok_or_else(|| NotChanged::Refused(Invalid::Missing(key).to_string()))
        };
        see_through(entered, change).await.unwrap_or(Err(NotChanged::Fenced))
    }
}

/// Does durable work to its end, whoever still waits for it: fencing must not wait for a device that reads nothing, nor be surprised by
/// what somebody began and left. `None`: it must not be acknowledged.
async fn see_through<T: Send + 'static>(
    entered: Entered,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let seen = tokio::spawn(async move {
        let done = work.await;
        entered.may_acknowledge().then_some(done)
    });
    seen.await.ok().flatten()
}

/// Why a device was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotChanged {
    /// The hub may not acknowledge it; it may have been changed.
    #[error("this hub does not serve here now")]
    Fenced,
    /// It makes no sense.
    #[error("{0}")]
    Refused(String),
    /// The registry could not be written.
    #[error("{0}")]
    Storage(String),
}

impl From<ChangeError<Invalid>> for NotChanged {
    fn from(error: ChangeError<Invalid>) -> Self {
        match error {
            ChangeError::Refused(why) | ChangeError::Invalid(why) => Self::Refused(why.to_string()),
            ChangeError::Registry(why) => Self::Storage(why),
        }
    }
}
