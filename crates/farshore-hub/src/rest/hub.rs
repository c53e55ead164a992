//! One hub as its services see it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::behind::{Behind, Held, Serving};
use super::error::RestError;
use super::events::READERS_MAX;
use super::feedback::Locks;
use super::identity::Live;
use super::job::Jobs;
use super::scheduled::Scheduled;
use super::serve::refuse_elsewhere;
use crate::names::Key;
use crate::record::{Device, Edit, Invalid, Message};
use crate::registry::{ChangeError, PushError, Registry};
use crate::sas;
use crate::sas::token::without_port;
use crate::telemetry::{Cursor, Telemetry};

/// What the operator says about a hub's face.
#[derive(Debug, Clone, Default)]
pub struct HubOptions {
    /// The names it answers to, without port. Empty: every name.
    pub names: Vec<String>,
    /// Where import and export jobs may read and write. `None`: such jobs are refused.
    pub files: Option<PathBuf>,
}

/// One hub: what it knows, what devices said, and the living part behind.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    registry: Registry,
    telemetry: Telemetry,
    behind: Arc<dyn Behind>,
    scheduled: Scheduled,
    locks: Locks,
    jobs: Jobs,
    readers: Arc<Semaphore>,
}

impl Hub {
    /// Puts a face before a hub.
    #[must_use]
    pub fn new(
        options: HubOptions,
        registry: Registry,
        telemetry: Telemetry,
        behind: Arc<dyn Behind>,
    ) -> Arc<Self> {
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        let (scheduled, locks, jobs) = (Scheduled::default(), Locks::default(), Jobs::default());
        Arc::new(Self { options, registry, telemetry, behind, scheduled, locks, jobs, readers })
    }

    /// Whether it is called so; with a port or without.
    #[must_use]
    pub fn is_called(&self, host: &str) -> bool {
        let plain = without_port(host);
        self.options.names.is_empty()
            || self.options.names.iter().any(|name| name.eq_ignore_ascii_case(plain))
    }

    pub(super) fn names(&self) -> &[String] {
        &self.options.names
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    pub(super) fn behind(&self) -> &dyn Behind {
        &*self.behind
    }

    /// The right to change something; or where it is to be changed instead.
    pub(super) fn hold(&self) -> Result<Box<dyn Held>, RestError> {
        self.behind.hold().ok_or_else(|| match refuse_elsewhere(self.behind.serving()) {
            Err(error) => error,
            // It serves again since.
            Ok(()) => RestError::unavailable("IotHubFailingOver", "the hub has just moved: try again"),
        })
    }

    /// What only the living hub knows of a device.
    pub(super) fn live(&self, key: &Key) -> Result<Live, RestError> {
        let connected = self.behind.connected_since(key).filter(|_| self.behind.serving() == Serving::Active);
        let heard = connected.and_then(|_| self.behind.last_heard(key));
        Ok(Live { connected, heard, messages: self.registry.messages(key).map_err(broken)?.len() })
    }

    pub(super) fn scheduled(&self) -> &Scheduled {
        &self.scheduled
    }

    pub(super) fn locks(&self) -> &Locks {
        &self.locks
    }

    pub(super) fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// A place among those who wait for events; `None`: there is none left.
    pub(super) fn reader(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.readers).try_acquire_owned().ok()
    }

    /// Where jobs may read and write.
    pub(super) fn files(&self) -> Option<&Path> {
        self.options.files.as_deref()
    }

    /// Who may come.
    pub(super) fn policies(&self) -> Result<Vec<sas::Policy>, RestError> {
        self.registry.policies().map_err(broken)
    }

    /// Changes an identity or twin; `decide` sees what is there, in the transaction that changes it. The device as it is then.
    pub(super) async fn change(
        &self,
        key: Key,
        decide: impl FnOnce(Option<&Device>) -> Result<Vec<Edit>, RestError> + Send + 'static,
    ) -> Result<Arc<Device>, RestError> {
        let missing = RestError::no_device(&key);
        self.edit(key, decide).await?.ok_or(missing)
    }

    /// The same, where it may be gone afterwards.
    pub(super) async fn edit(
        &self,
        key: Key,
        decide: impl FnOnce(Option<&Device>) -> Result<Vec<Edit>, RestError> + Send + 'static,
    ) -> Result<Option<Arc<Device>>, RestError> {
        match self.registry.change(key, decide).await {
            Ok(changed) => Ok(changed.after),
            Err(ChangeError::Refused(error)) => Err(error),
            Err(ChangeError::Invalid(error)) => Err(invalid(&error)),
            Err(ChangeError::Registry(error)) => Err(broken(error)),
        }
    }

    /// Puts a message into a device's queue; its id.
    pub(super) async fn push(&self, key: &Key, message: Message) -> Result<String, RestError> {
        let message = self.registry.push_message(key, message).await.map_err(|error| match error {
            PushError::QueueFull(_) => RestError::queue_full(error.to_string()),
            PushError::UnknownDevice(_) => RestError::no_device(key),
            PushError::Registry(error) => broken(error),
        })?;
        Ok(message.message_id().unwrap_or(&message.id).to_owned())
    }

    /// Empties a device's queue; how many there were.
    pub(super) async fn purge(&self, key: &Key) -> Result<usize, RestError> {
        self.behind.forget_messages(key);
        self.registry.purge_messages(key).await.map_err(broken)
    }

    /// Consumer groups and where they stand.
    pub(super) fn groups(&self) -> Result<BTreeMap<String, Cursor>, RestError> {
        self.registry.groups().map_err(broken)
    }

    /// Where a group stands.
    pub(super) fn group(&self, name: &str) -> Result<Option<Cursor>, RestError> {
        Ok(self.groups()?.remove(name))
    }

    /// From now on the group stands here.
    pub(super) async fn set_group(&self, name: &str, cursor: Cursor) -> Result<(), RestError> {
        self.registry.set_group(name, cursor).await.map_err(broken)
    }

    /// The device, or a refusal.
    pub(super) fn device(&self, key: &Key) -> Result<Arc<Device>, RestError> {
        self.registry.get(key).map_err(broken)?.ok_or_else(|| RestError::no_device(key))
    }
}

/// The registry could not be read or written.
pub(super) fn broken(error: impl fmt::Display) -> RestError {
    tracing::error!(%error, "the registry failed");
    RestError::server(format!("the registry failed: {error}"))
}

/// A change that the registry refuses.
fn invalid(error: &Invalid) -> RestError {
    match error {
        Invalid::Exists(key) => RestError::exists(key),
        Invalid::Missing(key) => RestError::no_device(key),
        other => RestError::argument(other.to_string()),
    }
}
