//! What an operator asks of a hub: `{"ask": NAME, …}`.
//!
//! Read in this order: this file (who is asked, and what a refusal is), `standing` (how the hub stands, and how far groups have
//! read), `access` (policies, connection strings), `trust` (authorities, enrollments), `devices` (identities and twins), `speak` (methods,
//! messages), `events` (telemetry), `lines` (files of identities, a piece at a time), `runners` (sinks and members), `home` (the merge,
//! and the conflicts it met).
//!
//! Must always hold: what is changed here is changed under the right to serve, and is durable before it is answered; a hub that
//! is not active answers what it knows and changes nothing.

mod access;
mod devices;
mod events;
mod home;
mod lines;
mod runners;
mod speak;
mod standing;
#[cfg(test)]
mod tests;
mod trust;

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use farshore_core::ids::{ItemId, Region};
use farshore_core::workload::{Endpoint, Role, StepError};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::item::{Item, fatal, retry};
use super::runners::Runners;
use crate::fleet::Fleet;
use crate::link::{Link, Noted};
use crate::names::Key;
use crate::record::Device;
use crate::registry::{ChangeError, Registry, RegistryError};
use crate::rest::Behind as _;

/// Answers a question.
pub(super) async fn ask(item: &Arc<Item>, question: &Value) -> Result<Value, StepError> {
    Desk::of(item).ask(question).await
}

/// A hub, as those who are asked see it.
#[derive(Debug, Clone)]
struct Desk {
    fleet: Fleet,
    item: ItemId,
    /// Where it is asked.
    here: Region,
    role: Role,
    /// The other region.
    partner: Option<Region>,
    /// The names under which devices know it.
    hosts: Vec<String>,
    endpoints: Vec<Endpoint>,
    /// What devices must believe (PEM).
    ca: Option<String>,
    /// Where it keeps what is no entry: reports of merges.
    dir: PathBuf,
    /// What both regions had changed.
    noted: Arc<Noted>,
    link: Option<Arc<Link>>,
    runners: Arc<Runners>,
}

impl Desk {
    fn of(item: &Item) -> Self {
        let role = item.role();
        let around = &item.around;
        let card = item.card();
        Self {
            fleet: item.fleet.clone(),
            item: card.item.clone(),
            here: around.options.region.clone(),
            role,
            partner: card.partner.clone(),
            hosts: card.spec.names(&card.item, &around.options.domain),
            endpoints: around.endpoints(),
            ca: around.options.ca.clone(),
            dir: around.dir_of(&card.item),
            noted: Arc::clone(&item.noted),
            runners: Arc::clone(&item.runners),
            link: {
                drop(card);
                item.link()
            },
        }
    }

    async fn ask(&self, question: &Value) -> Result<Value, StepError> {
        match question.get("ask").and_then(Value::as_str).unwrap_or_default() {
            "summary" => self.summary().await,
            "groups" => self.look(|desk| desk.groups()).await,
            "checkpoint" => self.checkpoint(parsed(question)?).await,
            "group-delete" => self.delete_group(parsed(question)?).await,
            "policies" => self.policies(),
            "set-policy" => self.set_policy(parsed(question)?).await,
            "delete-policy" => self.delete_policy(parsed(question)?).await,
            "regenerate" => self.regenerate(parsed(question)?).await,
            "authorities" => self.authorities(),
            "set-authority" => self.set_authority(parsed(question)?).await,
            "delete-authority" => self.delete_authority(parsed(question)?).await,
            "enrollments" => self.enrollments(&parsed(question)?),
            "set-enrollment" => self.set_enrollment(parsed(question)?).await,
            "delete-enrollment" => self.delete_enrollment(parsed(question)?).await,
            "enrollment-key" => self.enrollment_key(&parsed(question)?),
            "connection-string" => self.connection_string(parsed(question)?),
            "devices" => self.devices(parsed(question)?).await,
            "device" => self.device(&parsed::<devices::Named>(question)?),
            "device-add" => self.add(parsed(question)?).await,
            "device-set" => self.set_status(parsed(question)?).await,
            "device-remove" => self.remove(parsed(question)?).await,
            "device-keys" => self.new_keys(parsed(question)?).await,
            "twin" => self.twin(&parsed::<devices::Named>(question)?),
            "twin-set" => self.set_twin(parsed(question)?).await,
            "method" => self.method(parsed(question)?).await,
            "send" => self.send(parsed(question)?).await,
            "events" => self.events(parsed(question)?).await,
            "export" => self.export(parsed(question)?).await,
            "import" => self.import(parsed(question)?).await,
            "merge" => self.merge(parsed(question)?).await,
            "conflicts" => self.look(|desk| desk.conflicts()).await,
            "sinks" => self.look(|desk| desk.sinks()).await,
            "set-sink" => self.set_sink(parsed(question)?).await,
            "delete-sink" => self.delete_sink(parsed(question)?).await,
            "members" => self.look(|desk| desk.members()).await,
            "set-member" => self.set_member(parsed(question)?).await,
            "delete-member" => self.delete_member(parsed(question)?).await,
            "run-member" => self.run_member(parsed(question)?).await,
            other => Err(fatal(format!("a hub is not asked {other:?}: are all nodes of one version?"))),
        }
    }

    fn registry(&self) -> &Registry {
        self.fleet.registry()
    }

    /// Reads files where that holds up nobody.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(Self) -> Result<T, StepError> + Send + 'static,
    ) -> Result<T, StepError> {
        let desk = self.clone();
        tokio::task::spawn_blocking(move || look(desk)).await.map_err(retry)?
    }

    /// Changes something under the right to serve, to its end, whoever still waits for it.
    async fn change<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StepError>> + Send + 'static,
    ) -> Result<T, StepError> {
        let held = self.fleet.hold().ok_or_else(|| self.elsewhere())?;
        let done = tokio::spawn(async move {
            let done = work.await;
            held.may_answer().then_some(done)
        });
        let lost = || retry("the hub stopped serving here meanwhile: it may have been changed or not");
        done.await.map_err(retry)?.ok_or_else(lost)?
    }

    /// Why nothing can be changed here.
    fn elsewhere(&self) -> StepError {
        let Self { item, here, .. } = self;
        let what = match (self.role, &self.partner) {
            (Role::Target, Some(partner)) => {
                format!("{item} is active in {partner}, not in {here}: ask there")
            }
            (Role::Fenced, Some(partner)) => {
                format!("{item} was fenced in {here}: {partner} serves it, or is about to")
            }
            _ => format!("{item} does not serve in {here} now: see farshore status {item}"),
        };
        fatal(what)
    }

    /// The device of this id.
    fn known(&self, key: &Key) -> Result<Arc<Device>, StepError> {
        self.registry().get(key).map_err(broken)?.ok_or_else(|| unknown(key))
    }
}

fn unknown(key: &Key) -> StepError {
    fatal(format!("there is no device {key}: see farshore hub device list"))
}

/// The registry could not be read or written, or was asked for what cannot be.
fn broken(error: RegistryError) -> StepError {
    match error {
        RegistryError::Setting(bad) => fatal(bad.to_string()),
        other => retry(other),
    }
}

/// A change that was not made.
fn refused<E: Display>(error: ChangeError<E>) -> StepError {
    match error {
        ChangeError::Registry(what) => retry(what),
        other => fatal(other.to_string()),
    }
}

/// What is asked, or what is wrong with it.
fn parsed<T: DeserializeOwned>(question: &Value) -> Result<T, StepError> {
    let of = question.get("ask").and_then(Value::as_str).unwrap_or_default();
    T::deserialize(question).map_err(|error| fatal(format!("{of}: {error}")))
}

/// A device or module by its id.
fn key(id: &str) -> Result<Key, StepError> {
    Key::parse(id).map_err(|error| fatal(error.to_string()))
}
