//! Identities and twins.

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::access::{Which, renew};
use super::{Desk, broken, fatal, key, refused, unknown};
use crate::names::Key;
use crate::query::{Query, Source};
use crate::record::{Auth, Device, Edit, NewDevice};
use crate::rest::{Live, identity_view, twin_view};
use crate::sas::certificate::is_thumbprint;
use crate::sas::new_key;
use crate::sas::token::check_key;

/// Devices of one answer.
const PAGE_LEN_MAX: usize = 1000;
/// Devices that are looked at for one answer to a query: whoever asks goes on with `next`.
const LOOKED_AT_MAX: usize = 50_000;

#[derive(Debug, Deserialize)]
pub(super) struct Named {
    id: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Page {
    after: Option<String>,
    limit: usize,
    query: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Add {
    id: String,
    auth: Option<AuthAsked>,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum AuthAsked {
    Sas { primary: Option<String>, secondary: Option<String> },
    SelfSigned { primary: String, secondary: Option<String> },
    CertificateAuthority,
}

#[derive(Debug, Deserialize)]
pub(super) struct SetStatus {
    id: String,
    enabled: bool,
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct NewKeys {
    id: String,
    which: Which,
}

#[derive(Debug, Deserialize)]
pub(super) struct SetTwin {
    id: String,
    desired: Option<Map<String, Value>>,
    tags: Option<Map<String, Value>>,
}

impl AuthAsked {
    fn auth(self) -> Result<Auth, StepError> {
        match self {
            Self::Sas { primary, secondary } => {
                let key = |key: Option<String>, what: &str| match key {
                    None => Ok(new_key()),
                    Some(key) => match check_key(&key) {
                        Ok(()) => Ok(key),
                        Err(error) => Err(fatal(format!("auth.{what}: {error}"))),
                    },
                };
                Ok(Auth::Sas { primary: key(primary, "primary")?, secondary: key(secondary, "secondary")? })
            }
            Self::SelfSigned { primary, secondary } => {
                if !std::iter::once(&primary).chain(&secondary).all(|print| is_thumbprint(print)) {
                    return Err(fatal(
                        "auth: a thumbprint is 40 or 64 hexadecimal digits (SHA-1 or SHA-256 of the certificate)",
                    ));
                }
                Ok(Auth::SelfSigned { primary_thumbprint: Some(primary), secondary_thumbprint: secondary })
            }
            Self::CertificateAuthority => Ok(Auth::Authority),
        }
    }
}

impl Desk {
    /// What only the living hub knows of a device.
    fn live(&self, key: &Key) -> Result<Live, StepError> {
        let messages = self.registry().messages(key).map_err(broken)?.len();
        Ok(Live { connected: self.fleet.connection_of(key), heard: self.fleet.last_heard(key), messages })
    }

    /// A page of devices and modules.
    pub(super) async fn devices(&self, asked: Page) -> Result<Value, StepError> {
        let after = asked.after.as_deref().map(key).transpose()?;
        let query = asked.query.as_deref().map(Query::parse).transpose();
        let query = query.map_err(|error| fatal(format!("query: {error}")))?;
        if query.as_ref().is_some_and(|query| query.source == Source::Jobs) {
            return Err(fatal("query: write FROM devices or FROM devices.modules"));
        }
        let limit = asked.limit.clamp(1, PAGE_LEN_MAX);
        self.look(move |desk| match query {
            None => {
                let page = desk.registry().page(after.as_ref(), limit).map_err(broken)?;
                let next = page.last().filter(|_| page.len() == limit).map(|last| last.key.to_string());
                let views: Vec<Value> = page.iter().map(|device| desk.brief(device)).collect();
                Ok(json!({ "devices": views, "next": next }))
            }
            Some(query) => desk.matching(&query, after, limit),
        })
        .await
    }

    /// Those that match, after a key.
    fn matching(&self, query: &Query, mut after: Option<Key>, limit: usize) -> Result<Value, StepError> {
        let (mut views, mut looked_at) = (Vec::new(), 0);
        let of_modules = query.source == Source::Modules;
        while looked_at < LOOKED_AT_MAX {
            let page = self.registry().page(after.as_ref(), PAGE_LEN_MAX).map_err(broken)?;
            let Some(last) = page.last() else {
                return Ok(json!({ "devices": views, "next": null }));
            };
            for device in page.iter().filter(|device| device.key.module.is_some() == of_modules) {
                if !query.matches(&twin_view(device, self.live(&device.key)?)) {
                    continue;
                }
                views.push(self.brief(device));
                if views.len() == limit {
                    return Ok(json!({ "devices": views, "next": device.key.to_string() }));
                }
            }
            looked_at += page.len();
            after = Some(last.key.clone());
        }
        Ok(json!({ "devices": views, "next": after.map(|key| key.to_string()) }))
    }

    fn brief(&self, device: &Device) -> Value {
        json!({
            "id": device.key.to_string(),
            "status": if device.enabled { "enabled" } else { "disabled" },
            "connected": self.fleet.connection_of(&device.key).is_some(),
            "auth": device.auth.kind(),
            "etag": device.etag,
            "generation": &*device.generation,
            "conflict": device.conflicts,
        })
    }

    /// A device with its twin, and with its keys.
    pub(super) fn device(&self, asked: &Named) -> Result<Value, StepError> {
        self.view(&key(&asked.id)?)
    }

    fn view(&self, key: &Key) -> Result<Value, StepError> {
        let (device, live) = (self.known(key)?, self.live(key)?);
        let mut view = identity_view(&device, live);
        view["twin"] = twin_view(&device, live);
        view["connected_since"] = json!(live.connected.map(|at| at.to_string()));
        view["messages_pending"] = json!(live.messages);
        view["quarantined_keys"] = json!(device.quarantined.len());
        Ok(view)
    }

    /// Changes a device that is there; as it is then.
    async fn edit(
        &self,
        key: Key,
        decide: impl FnOnce(&Device) -> Result<Vec<Edit>, String> + Send + 'static,
    ) -> Result<(), StepError> {
        self.known(&key)?;
        let registry = self.registry().clone();
        self.change(async move {
            let missing = format!("there is no device {key}: it was removed meanwhile");
            let decide = move |now: Option<&Device>| now.ok_or(missing).and_then(decide);
            registry.change(key, decide).await.map(drop).map_err(refused)
        })
        .await
    }

    /// Makes a device, or a module of one.
    pub(super) async fn add(&self, asked: Add) -> Result<Value, StepError> {
        let of = key(&asked.id)?;
        if of.module.is_some() {
            self.known(&Key::device(of.device.clone()))?;
        }
        let auth = asked.auth.unwrap_or(AuthAsked::Sas { primary: None, secondary: None }).auth()?;
        let new = NewDevice { enabled: asked.enabled, ..NewDevice::with(auth) };
        let (registry, made) = (self.registry().clone(), of.clone());
        self.change(async move {
            let create = move |_: Option<&Device>| Ok::<_, String>(vec![Edit::Create(new)]);
            registry.change(made, create).await.map(drop).map_err(refused)
        })
        .await?;
        self.view(&of)
    }

    /// Lets a device connect, or not.
    pub(super) async fn set_status(&self, asked: SetStatus) -> Result<Value, StepError> {
        let SetStatus { id, enabled, reason } = asked;
        let of = key(&id)?;
        self.edit(of.clone(), move |now| match (now.enabled, &now.reason) == (enabled, &reason) {
            // What two regions said at once is decided by saying it again.
            true if !now.conflicts => Ok(Vec::new()),
            _ => Ok(vec![Edit::Status { enabled, reason }]),
        })
        .await?;
        self.view(&of)
    }

    /// Removes a device, with its modules and messages.
    pub(super) async fn remove(&self, asked: Named) -> Result<Value, StepError> {
        let of = key(&asked.id)?;
        self.edit(of, |_| Ok(vec![Edit::Delete])).await?;
        Ok(json!({}))
    }

    /// Gives a device other keys.
    pub(super) async fn new_keys(&self, asked: NewKeys) -> Result<Value, StepError> {
        let (of, which) = (key(&asked.id)?, asked.which);
        self.edit(of.clone(), move |now| match &now.auth {
            Auth::Sas { primary, secondary } => {
                let (mut primary, mut secondary) = (primary.clone(), secondary.clone());
                renew(&mut primary, &mut secondary, which);
                Ok(vec![Edit::Auth(Auth::Sas { primary, secondary })])
            }
            other => Err(format!("{} has no keys: it proves itself by {}", now.key, other.kind())),
        })
        .await?;
        self.view(&of)
    }

    /// The twin of a device.
    pub(super) fn twin(&self, asked: &Named) -> Result<Value, StepError> {
        let of = key(&asked.id)?;
        let device = self.registry().get(&of).map_err(broken)?.ok_or_else(|| unknown(&of))?;
        Ok(twin_view(&device, self.live(&of)?))
    }

    /// Changes desired properties and tags.
    pub(super) async fn set_twin(&self, asked: SetTwin) -> Result<Value, StepError> {
        let SetTwin { id, desired, tags } = asked;
        let of = key(&id)?;
        let patch = |members: Map<String, Value>| Value::Object(members);
        let tags = tags.map(|tags| Edit::Tags { patch: patch(tags), replace: false });
        let desired = desired.map(|desired| Edit::Desired { patch: patch(desired), replace: false });
        let edits: Vec<Edit> = tags.into_iter().chain(desired).collect();
        self.edit(of, move |_| Ok(edits)).await?;
        self.twin(&Named { id })
    }
}
