//! One identity as it stands in a file or in a bulk request, and what is done with it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::names::{DeviceId, Key, ModuleId};
use crate::record::{Auth, Device, Draft, Edit, Invalid, NewDevice, Scope};
use crate::registry::{ChangeError, Decide, Proposal};
use crate::sas;

/// What is done with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum ImportMode {
    /// Made if it is not there, otherwise changed.
    #[default]
    CreateOrUpdate,
    /// Made; an error if it is there.
    Create,
    /// Changed; an error if it is not there.
    Update,
    /// Changed, if its etag is that of the line.
    UpdateIfMatchEtag,
    /// Made if it is not there; changed, if its etag is that of the line.
    CreateOrUpdateIfMatchEtag,
    /// Deleted.
    Delete,
    /// Deleted, if its etag is that of the line.
    DeleteIfMatchEtag,
    /// Only its tags and desired properties are changed.
    UpdateTwin,
    /// The same, if the etag of its twin is that of the line.
    UpdateTwinIfMatchEtag,
}

const MODES: [(ImportMode, &str); 9] = [
    (ImportMode::CreateOrUpdate, "createOrUpdate"),
    (ImportMode::Create, "create"),
    (ImportMode::Update, "update"),
    (ImportMode::UpdateIfMatchEtag, "updateIfMatchETag"),
    (ImportMode::CreateOrUpdateIfMatchEtag, "createOrUpdateIfMatchETag"),
    (ImportMode::Delete, "delete"),
    (ImportMode::DeleteIfMatchEtag, "deleteIfMatchETag"),
    (ImportMode::UpdateTwin, "updateTwin"),
    (ImportMode::UpdateTwinIfMatchEtag, "updateTwinIfMatchETag"),
];

impl ImportMode {
    /// Reads the word; case does not matter.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        MODES.iter().find(|(_, word)| word.eq_ignore_ascii_case(text)).map(|(mode, _)| *mode)
    }

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        MODES.iter().find(|(mode, _)| *mode == self).map_or("", |(_, word)| word)
    }

    /// Whether it makes what is not there.
    fn makes(self) -> bool {
        matches!(self, Self::Create | Self::CreateOrUpdate | Self::CreateOrUpdateIfMatchEtag)
    }

    fn needs_etag(self) -> bool {
        matches!(
            self,
            Self::UpdateIfMatchEtag
                | Self::CreateOrUpdateIfMatchEtag
                | Self::DeleteIfMatchEtag
                | Self::UpdateTwinIfMatchEtag
        )
    }
}

/// What is wrong with a line. It changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is no JSON, or lacks what it needs.
    #[error("{0}")]
    Malformed(String),
    /// It is there already.
    #[error("{0} exists already")]
    Exists(Key),
    /// It is not there.
    #[error("there is no {0}")]
    Missing(Key),
    /// It was changed since the etag was read.
    #[error("the etag of {0} is another one: read it again")]
    Etag(Key),
    /// What it asks for makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The registry failed.
    #[error("{0}")]
    Registry(String),
}

impl LineError {
    /// The word for it in answers and error files.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Invalid(_) => "ArgumentInvalid",
            Self::Exists(Key { module: None, .. }) => "DeviceAlreadyExists",
            Self::Exists(_) => "ModuleAlreadyExistsOnDevice",
            Self::Missing(Key { module: None, .. }) => "DeviceNotFound",
            Self::Missing(_) => "ModuleNotFound",
            Self::Etag(_) => "PreconditionFailed",
            Self::Registry(_) => "ServerError",
        }
    }
}

impl From<ChangeError<Self>> for LineError {
    fn from(error: ChangeError<Self>) -> Self {
        match error {
            ChangeError::Refused(error) => error,
            ChangeError::Invalid(Invalid::Missing(key)) => Self::Missing(key),
            ChangeError::Invalid(invalid) => Self::Invalid(invalid),
            ChangeError::Registry(what) => Self::Registry(what),
        }
    }
}

/// One identity, as it is written. Fields are only ever added; unknown ones are passed over.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// The device.
    #[serde(alias = "deviceId")]
    pub id: String,
    /// Its module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_id: Option<String>,
    /// Its generation id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation_id: Option<String>,
    /// Etag of the identity.
    #[serde(default, rename = "eTag", alias = "etag", skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// What is done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import_mode: Option<String>,
    /// `enabled` or `disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// Its credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Etag of the twin.
    #[serde(default, rename = "twinETag", alias = "twinEtag", skip_serializing_if = "Option::is_none")]
    pub twin_etag: Option<String>,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Value>,
    /// Its properties.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub properties: Option<Properties>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// The scope it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_scope: Option<String>,
    /// The scopes above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_scopes: Option<Vec<String>>,
}

/// Credentials, as they are written.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// `sas`, `selfSigned`, `certificateAuthority` or `none`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Keys in base64.
    #[serde(default)]
    pub symmetric_key: Option<SymmetricKey>,
    /// Thumbprints in hexadecimal.
    #[serde(default)]
    pub x509_thumbprint: Option<Thumbprints>,
}

impl std::fmt::Debug for Authentication {
    /// Without the keys: this ends in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authentication").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Two keys.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SymmetricKey {
    /// The first.
    #[serde(default)]
    pub primary_key: Option<String>,
    /// The second.
    #[serde(default)]
    pub secondary_key: Option<String>,
}

impl std::fmt::Debug for SymmetricKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SymmetricKey")
    }
}

/// Two thumbprints.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Thumbprints {
    /// The first.
    #[serde(default)]
    pub primary_thumbprint: Option<String>,
    /// The second.
    #[serde(default)]
    pub secondary_thumbprint: Option<String>,
}

/// Both halves of a twin, each with `$version` and `$metadata`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Properties {
    /// What it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Value>,
    /// What it said it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Value>,
}

/// What a device can do.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// It is an edge gateway.
    #[serde(default)]
    pub iot_edge: bool,
}

/// A section without what the hub adds to it.
struct Bare {
    value: Value,
    version: u64,
}

/// A line that was checked.
struct Checked {
    key: Key,
    mode: ImportMode,
    etag: Option<String>,
    twin_etag: Option<String>,
    generation: Option<Arc<str>>,
    enabled: Option<bool>,
    reason: Option<String>,
    auth: Option<Given>,
    edge: Option<bool>,
    scope: Option<String>,
    parents: Option<Vec<String>>,
    tags: Option<Value>,
    desired: Option<Bare>,
    reported: Option<Bare>,
}

/// Credentials, of which keys may be missing.
enum Given {
    Whole(Auth),
    Sas(Option<String>, Option<String>),
}

impl Given {
    /// What it means for a device that has `now`; missing keys stay as they are, or are made.
    fn complete(self, now: Option<&Auth>) -> Auth {
        let (primary, secondary) = match self {
            Self::Whole(auth) => return auth,
            Self::Sas(primary, secondary) => (primary, secondary),
        };
        let (old, old_second) = match now {
            Some(Auth::Sas { primary, secondary }) => (Some(primary.clone()), Some(secondary.clone())),
            _ => (None, None),
        };
        Auth::Sas {
            primary: primary.or(old).unwrap_or_else(sas::new_key),
            secondary: secondary.or(old_second).unwrap_or_else(sas::new_key),
        }
    }
}

impl Line {
    /// Reads a line of a file.
    ///
    /// # Errors
    /// [`LineError::Malformed`]
    pub fn parse(text: &[u8]) -> Result<Self, LineError> {
        serde_json::from_slice(text).map_err(|error| LineError::Malformed(error.to_string()))
    }

    /// Whom it is about, and what is to be done; for [`crate::registry::Registry::change`] and `change_many`.
    ///
    /// # Errors
    /// [`LineError`]: the line makes no sense by itself.
    pub fn decide(self) -> Result<(Key, Decide<LineError>), LineError> {
        let line = self.check()?;
        Ok((line.key.clone(), Box::new(move |now| line.edits(now))))
    }

    fn check(self) -> Result<Checked, LineError> {
        let malformed = |what: &str| LineError::Malformed(what.to_owned());
        let device = DeviceId::parse(&self.id).map_err(|error| malformed(&error.to_string()))?;
        let module = self.module_id.filter(|module| !module.is_empty());
        let module = module.map(|module| ModuleId::parse(&module)).transpose();
        let module = module.map_err(|error| malformed(&error.to_string()))?;
        let mode = match self.import_mode.as_deref() {
            None | Some("") => ImportMode::default(),
            Some(word) => {
                ImportMode::parse(word).ok_or_else(|| malformed(&format!("{word:?} is no import mode")))?
            }
        };
        let enabled = match self.status.as_deref() {
            None => None,
            Some(word) if word.eq_ignore_ascii_case("enabled") => Some(true),
            Some(word) if word.eq_ignore_ascii_case("disabled") => Some(false),
            Some(_) => return Err(malformed("the status must be \"enabled\" or \"disabled\"")),
        };
        let of_twin = mode == ImportMode::UpdateTwinIfMatchEtag;
        let etag = if of_twin { &self.twin_etag } else { &self.etag };
        if mode.needs_etag() && etag.is_none() {
            return Err(malformed("this import mode needs the etag"));
        }
        let properties = self.properties.unwrap_or_default();
        Ok(Checked {
            key: Key { device, module },
            mode,
            etag: self.etag,
            twin_etag: self.twin_etag,
            generation: self.generation_id.filter(|id| !id.is_empty()).map(Into::into),
            enabled,
            reason: self.status_reason,
            auth: self.authentication.map(Authentication::check).transpose()?,
            edge: self.capabilities.map(|capabilities| capabilities.iot_edge),
            scope: self.device_scope,
            parents: self.parent_scopes,
            tags: self.tags.map(|tags| bare(tags).value),
            desired: properties.desired.map(bare),
            reported: properties.reported.map(bare),
        })
    }
}

/// Reads a line, and prepares what it makes; for [`crate::registry::Registry::propose`].
///
/// # Errors
/// [`LineError`]: the line makes no sense by itself.
pub fn propose(text: &[u8]) -> Result<Proposal<LineError>, LineError> {
    let line = Line::parse(text)?.check()?;
    let key = line.key.clone();
    if !line.mode.makes() {
        return Ok(Proposal { key, draft: None, decide: Box::new(move |now| line.edits(now)) });
    }
    let draft = Draft::of(line.creation());
    // If it must be decided after all, the line is read again: kept as it was read, it would be a heap of small pieces for
    // another thread to free, which costs more than all the rest.
    let text = text.to_vec();
    Ok(Proposal { key, draft, decide: Box::new(move |now| Line::parse(&text)?.check()?.edits(now)) })
}

impl Authentication {
    fn check(self) -> Result<Given, LineError> {
        let malformed = |what: String| LineError::Malformed(what);
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let key = self.symmetric_key.unwrap_or_default();
        let (primary, secondary) = (filled(key.primary_key), filled(key.secondary_key));
        let prints = self.x509_thumbprint.unwrap_or_default();
        let prints = (filled(prints.primary_thumbprint), filled(prints.secondary_thumbprint));
        let kind = match self.kind {
            Some(kind) => kind.to_ascii_lowercase(),
            None if prints.0.is_some() || prints.1.is_some() => "selfsigned".to_owned(),
            None => "sas".to_owned(),
        };
        match kind.as_str() {
            "sas" => {
                for key in [&primary, &secondary].into_iter().flatten() {
                    sas::token::check_key(key).map_err(|error| malformed(error.to_string()))?;
                }
                Ok(Given::Sas(primary, secondary))
            }
            "selfsigned" => {
                for print in [&prints.0, &prints.1].into_iter().flatten() {
                    if !sas::certificate::is_thumbprint(print) {
                        return Err(malformed("a thumbprint must be 40 or 64 hexadecimal digits".to_owned()));
                    }
                }
                Ok(Given::Whole(Auth::SelfSigned {
                    primary_thumbprint: prints.0,
                    secondary_thumbprint: prints.1,
                }))
            }
            "certificateauthority" => Ok(Given::Whole(Auth::Authority)),
            "none" => Ok(Given::Whole(Auth::None)),
            other => Err(malformed(format!(
                "{other:?} is no authentication type: choose sas, selfSigned, certificateAuthority or none"
            ))),
        }
    }
}

impl Checked {
    fn edits(self, now: Option<&Device>) -> Result<Vec<Edit>, LineError> {
        self.check_etag(now)?;
        match (self.mode, now) {
            (ImportMode::Create, Some(_)) => Err(LineError::Exists(self.key)),
            (mode, None) if mode.makes() => Ok(self.creation()),
            (_, None) => Err(LineError::Missing(self.key)),
            (ImportMode::Delete | ImportMode::DeleteIfMatchEtag, Some(_)) => Ok(vec![Edit::Delete]),
            (ImportMode::UpdateTwin | ImportMode::UpdateTwinIfMatchEtag, Some(now)) => {
                let mut edits = Vec::new();
                self.change_twin(now, &mut edits);
                Ok(edits)
            }
            (_, Some(now)) => Ok(self.update(now)),
        }
    }

    fn check_etag(&self, now: Option<&Device>) -> Result<(), LineError> {
        let Some(now) = now.filter(|_| self.mode.needs_etag()) else { return Ok(()) };
        let of_twin = self.mode == ImportMode::UpdateTwinIfMatchEtag;
        let (given, own) = if of_twin { (&self.twin_etag, &now.twin_etag) } else { (&self.etag, &now.etag) };
        let given = given.as_deref().unwrap_or("*").trim_matches('"');
        if given == "*" || given == own { Ok(()) } else { Err(LineError::Etag(self.key.clone())) }
    }

    fn creation(self) -> Vec<Edit> {
        let scope = Scope {
            edge: self.edge.unwrap_or(false),
            device: self.scope,
            parents: self.parents.unwrap_or_default(),
        };
        let empty = || Value::Object(Map::new());
        let (desired, desired_version) = self.desired.map_or((empty(), 0), |bare| (bare.value, bare.version));
        let mut edits = vec![Edit::Create(NewDevice {
            generation: self.generation,
            auth: self.auth.unwrap_or(Given::Sas(None, None)).complete(None),
            enabled: self.enabled.unwrap_or(true),
            reason: self.reason.unwrap_or_default(),
            scope,
            tags: self.tags.unwrap_or_else(empty),
            desired,
        })];
        let (reported, reported_version) =
            self.reported.map_or((empty(), 0), |bare| (bare.value, bare.version));
        if reported != empty() {
            edits.push(Edit::Reported { patch: reported, replace: true });
        }
        if desired_version > 1 || reported_version > 1 {
            edits.push(Edit::Versions { desired: desired_version, reported: reported_version });
        }
        let given = |etag: Option<String>| etag.filter(|etag| !etag.is_empty() && etag != "*");
        let (device, twin) = (given(self.etag), given(self.twin_etag));
        if self.mode != ImportMode::CreateOrUpdateIfMatchEtag && (device.is_some() || twin.is_some()) {
            edits.push(Edit::Etags { device, twin });
        }
        edits
    }

    fn update(mut self, now: &Device) -> Vec<Edit> {
        let mut edits = Vec::new();
        let enabled = self.enabled.unwrap_or(now.enabled);
        let reason = self.reason.take().unwrap_or_else(|| now.reason.clone());
        if enabled != now.enabled || reason != now.reason {
            edits.push(Edit::Status { enabled, reason });
        }
        if let Some(auth) = self.auth.take().map(|given| given.complete(Some(&now.auth)))
            && auth != now.auth
        {
            edits.push(Edit::Auth(auth));
        }
        let scope = Scope {
            edge: self.edge.unwrap_or(now.scope.edge),
            device: self.scope.take().or_else(|| now.scope.device.clone()),
            parents: self.parents.take().unwrap_or_else(|| now.scope.parents.clone()),
        };
        if scope != now.scope {
            edits.push(Edit::Scope(scope));
        }
        self.change_twin(now, &mut edits);
        edits
    }

    /// Only where it differs, so that importing the same file again changes nothing.
    fn change_twin(self, now: &Device, edits: &mut Vec<Edit>) {
        if let Some(patch) = self.tags.filter(|tags| *tags != now.tags) {
            edits.push(Edit::Tags { patch, replace: true });
        }
        if let Some(patch) =
            self.desired.map(|bare| bare.value).filter(|desired| *desired != now.desired.value)
        {
            edits.push(Edit::Desired { patch, replace: true });
        }
    }
}

fn bare(mut section: Value) -> Bare {
    let mut version = 0;
    if let Some(members) = section.as_object_mut() {
        version = members.remove("$version").and_then(|version| version.as_u64()).unwrap_or(0);
        members.remove("$metadata");
    }
    Bare { value: section, version }
}
