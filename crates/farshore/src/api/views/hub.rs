//! Device hubs: how they stand, devices, policies, telemetry, merges.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// How far a consumer has read: the next offset of each region's log. It means the same in every region.
pub type HubCursor = BTreeMap<String, u64>;

/// A hub at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubView {
    /// Its name.
    pub hub: String,
    /// The names under which devices and back ends know it.
    pub hosts: Vec<String>,
    /// Where it listens in the region that answers.
    pub endpoints: HubEndpointsView,
    /// Whether it serves there.
    pub serving: bool,
    /// The region that answers.
    pub region: String,
    /// Its devices.
    pub devices: HubDevicesCount,
    /// Messages on their way to devices.
    pub messages_pending: u64,
    /// What devices said.
    pub telemetry: HubTelemetryView,
    /// How far the other region is; absent: there is none.
    pub replication: Option<HubReplicationView>,
    /// Consumer groups.
    pub groups: Vec<HubGroupView>,
    /// What two regions changed at once and nobody has decided since.
    pub conflicts: u64,
}

/// Where a hub listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubEndpointsView {
    /// For devices.
    pub mqtt: Option<String>,
    /// For back ends, and for devices over WebSocket.
    pub https: Option<String>,
    /// For back ends that send messages.
    pub amqp: Option<String>,
}

/// How many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubDevicesCount {
    /// Devices.
    pub total: u64,
    /// Devices that may connect.
    pub enabled: u64,
    /// Devices that may not.
    pub disabled: u64,
    /// Modules of devices.
    pub modules: u64,
    /// Devices and modules that are connected.
    pub connected: u64,
    /// Connections that wait to be let in.
    pub held: u64,
}

/// What devices said, in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubTelemetryView {
    /// Events stored since the node started.
    pub stored: u64,
    /// Events that devices sent again since then, stored once.
    pub duplicates: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// The next offset of each region's log.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub ends: HubCursor,
}

/// How far the other region is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubReplicationView {
    /// Which region.
    pub partner: String,
    /// `streaming`, `catching-up`, `seeding` or `disconnected`.
    pub state: String,
    /// What it lacks, in records.
    pub records_behind: u64,
    /// In bytes.
    pub bytes_behind: u64,
    /// How old the oldest of it is.
    pub seconds_behind: f64,
}

/// A consumer group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubGroupView {
    /// Its name.
    pub name: String,
    /// How far it has read.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub cursor: HubCursor,
    /// Events that it has not read.
    pub behind: u64,
}

/// A named pair of keys, and what it opens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HubPolicyView {
    /// Its name.
    pub name: String,
    /// `RegistryRead`, `RegistryWrite`, `ServiceConnect`, `DeviceConnect`.
    pub rights: Vec<String>,
    /// The first key, if it was asked for. A secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The second key, if it was asked for. A secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<String>,
}

impl std::fmt::Debug for HubPolicyView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubPolicyView")
            .field("name", &self.name)
            .field("rights", &self.rights)
            .finish_non_exhaustive()
    }
}

/// What a policy opens.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubPolicyRequest {
    /// `RegistryRead`, `RegistryWrite`, `ServiceConnect`, `DeviceConnect`.
    pub rights: Vec<String>,
}

/// An authority whose devices may connect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubAuthorityView {
    /// Its name here.
    pub name: String,
    /// Whose certificates these are.
    pub subjects: Vec<String>,
    /// When the first of them ends. Devices go on being let in then: their own certificates must be valid.
    pub expires: Option<String>,
    /// Whether that is past.
    pub expired: bool,
    /// Why the certificates count for nothing, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unusable: Option<String>,
}

/// Certificates of an authority.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubAuthorityRequest {
    /// One or more, in PEM.
    pub pem: String,
}

/// A group of devices that may register themselves.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubEnrollmentView {
    /// Its name here.
    pub name: String,
    /// `keys` or `authority`: how its devices prove that they belong to it.
    pub kind: String,
    /// Whose the authority's certificates are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// When the first of them ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// The group's first key, if it was asked for. A secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The second key, if it was asked for. A secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secondary: Option<String>,
}

impl std::fmt::Debug for HubEnrollmentView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubEnrollmentView")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// How devices of a group prove that they belong to it: by keys, unless `pem` is given. Keys that are absent are made, or stay.
#[derive(Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubEnrollmentRequest {
    /// Certificates of the authority that signs the devices', in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pem: Option<String>,
    /// The group's first key, in base64. A secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The second key. A secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<String>,
}

impl std::fmt::Debug for HubEnrollmentRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubEnrollmentRequest").field("pem", &self.pem).finish_non_exhaustive()
    }
}

/// Which of two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HubKeyWord {
    /// The first.
    #[default]
    Primary,
    /// The second.
    Secondary,
    /// Both at once: everybody who uses them is shut out.
    Both,
}

impl HubKeyWord {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Both => "both",
        }
    }
}

/// Makes keys anew: the old ones open nothing any more.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubKeysRequest {
    /// Which.
    pub which: HubKeyWord,
}

/// The keys of a device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HubKeysView {
    /// The device, or `device/module`.
    pub id: String,
    /// The first key; absent: it proves itself by a certificate. A secret.
    pub primary: Option<String>,
    /// The second key. A secret.
    pub secondary: Option<String>,
}

impl std::fmt::Debug for HubKeysView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubKeysView").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a device or back end is given.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HubConnectionStringView {
    /// `HostName=…;DeviceId=…;SharedAccessKey=…` or `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`. A secret.
    pub connection_string: String,
    /// The authority of the hub's certificate, as PEM; absent: without TLS, or one that everybody knows.
    pub ca: Option<String>,
}

impl std::fmt::Debug for HubConnectionStringView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HubConnectionStringView(..)")
    }
}

/// A device in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubDeviceBrief {
    /// The device, or `device/module`.
    pub id: String,
    /// `enabled` or `disabled`.
    pub status: String,
    /// Whether it is connected now.
    pub connected: bool,
    /// `sas`, `selfSigned`, `certificateAuthority` or `none`.
    pub auth: String,
    /// Changes when its identity changes.
    pub etag: String,
    /// Changes when it is deleted and made anew.
    pub generation: String,
    /// Two regions have changed it at once, and nobody has decided since.
    pub conflict: bool,
}

/// A page of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HubDevicesView {
    /// By id.
    pub devices: Vec<HubDeviceBrief>,
    /// After which one to go on; absent: these were the last.
    pub next: Option<String>,
}

/// How a device proves who it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub enum HubAuthRequest {
    /// By a shared key; keys that are absent are made.
    Sas {
        /// Base64 of 16 to 64 bytes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        primary: Option<String>,
        /// The same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secondary: Option<String>,
    },
    /// By a certificate with this thumbprint.
    SelfSigned {
        /// 40 or 64 hexadecimal digits.
        primary: String,
        /// The same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        secondary: Option<String>,
    },
    /// By a certificate of an authority that the hub knows.
    CertificateAuthority,
}

impl std::fmt::Debug for HubAuthRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sas { .. } => "Sas(..)",
            Self::SelfSigned { .. } => "SelfSigned(..)",
            Self::CertificateAuthority => "CertificateAuthority",
        })
    }
}

/// A new device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubDeviceRequest {
    /// Its id, or `device/module`.
    pub id: String,
    /// How it proves who it is; absent: by keys that are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<HubAuthRequest>,
    /// Whether it may connect.
    #[serde(default = "yes")]
    pub enabled: bool,
}

fn yes() -> bool {
    true
}

/// Whether a device may connect.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubStatusRequest {
    /// It may.
    pub enabled: bool,
    /// Why, for people; at most 128 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A change of a twin; `null` deletes a property.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubTwinRequest {
    /// What the device should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub desired: Option<Map<String, Value>>,
    /// What back ends note of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub tags: Option<Map<String, Value>>,
}

/// A direct method to call.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubMethodRequest {
    /// Its name.
    pub name: String,
    /// What it is given: any JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub payload: Value,
    /// How long the device may take; at most 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

/// What a device answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HubMethodView {
    /// Its status.
    pub status: i32,
    /// What it said: any JSON.
    #[schema(value_type = Object)]
    pub payload: Value,
}

/// A message to a device.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubMessageRequest {
    /// Text.
    pub body: String,
    /// The application's properties.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// A message that waits for its device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HubMessageView {
    /// Its id.
    pub message_id: String,
}

/// Identities as lines of `devices.txt`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HubExportView {
    /// A line of JSON each. Secrets, if keys were asked for.
    pub lines: Vec<String>,
    /// After which one to go on; absent: these were the last.
    pub next: Option<String>,
}

impl std::fmt::Debug for HubExportView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubExportView")
            .field("lines", &self.lines.len())
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Lines of `devices.txt`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubImportRequest {
    /// At most 1000.
    pub lines: Vec<String>,
    /// The number of the first of them in its file.
    #[serde(default = "one")]
    pub first_line: u64,
    /// What is done with lines that do not say: `createOrUpdate`, `create`, `update`, `delete`, `updateTwin`, or one of them
    /// with `IfMatchETag`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

fn one() -> u64 {
    1
}

impl std::fmt::Debug for HubImportRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubImportRequest")
            .field("lines", &self.lines.len())
            .field("first_line", &self.first_line)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubImportView {
    /// Lines that were applied.
    pub applied: u64,
    /// Lines that were not, by number.
    pub errors: Vec<HubLineError>,
}

/// A line that was not imported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubLineError {
    /// Its number in the file.
    pub line: u64,
    /// Whom it is about, if that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What is wrong with it.
    pub why: String,
}

/// Something that a device said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubEventView {
    /// The region that took it from the device.
    pub region: String,
    /// Its place in that region's log.
    pub offset: u64,
    /// Under which right to serve it was taken.
    pub epoch: u64,
    /// It was taken before a failover and copied after it.
    pub late: bool,
    /// Who said it.
    pub device: String,
    /// Which module of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// When it came in.
    pub enqueued: String,
    /// `$.mid`, `$.ct` and so on.
    pub system: BTreeMap<String, String>,
    /// The application's properties; `null`: without a value.
    pub properties: BTreeMap<String, Option<String>>,
    /// What was said, if it is text.
    pub body: Option<String>,
    /// What was said, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// A page of telemetry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubEventsView {
    /// By time.
    pub events: Vec<HubEventView>,
    /// Where to go on.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub next: HubCursor,
    /// How many events were asked for that are no longer kept, by region.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub missed: BTreeMap<String, u64>,
}

/// How far a group has read.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubCheckpointRequest {
    /// The next offset of each region.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub cursor: HubCursor,
}

/// Takes over what the other region has and this one has not.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HubMergeRequest {
    /// Only say what would be done.
    #[serde(default)]
    pub plan: bool,
    /// How conflicts are settled from now on: `by-group`, `active-epoch-wins`, `primary-wins`, `secondary-wins`, `newest` or
    /// `manual`; absent: as until now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// What a merge does, or did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubMergeView {
    /// Nothing was changed.
    pub plan: bool,
    /// Where it comes from.
    pub partner: String,
    /// How conflicts are settled.
    pub policy: String,
    /// Identities that are new here.
    pub created: u64,
    /// Identities that change here.
    pub updated: u64,
    /// Identities that end here.
    pub deleted: u64,
    /// Identities in which nothing changes.
    pub unchanged: u64,
    /// Identities that are held until a person decides.
    pub held: u64,
    /// Messages to devices that change.
    pub messages: u64,
    /// Consumer groups that change.
    pub groups: u64,
    /// Policies of access that change.
    pub policies: u64,
    /// Telemetry.
    pub telemetry: HubLateView,
    /// What both regions changed.
    pub conflicts: Vec<HubConflictView>,
    /// There is more: ask again.
    pub partial: bool,
    /// The same for people.
    pub table: String,
    /// Where the report is kept, on the node that answered.
    pub file: Option<String>,
}

/// Telemetry that came late.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubLateView {
    /// Events that only the other region had.
    pub late: u64,
    /// Of them, what devices had sent again here; known once it was done.
    pub duplicates: u64,
}

/// Something that both regions changed, and who wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubConflictView {
    /// The device, `device/module`, or the name of a policy.
    pub device: String,
    /// `identity`, `status`, `auth`, `scope`, `tags`, `desired`, `reported`, `policy` or `settings`.
    pub group: String,
    /// Which property.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is served.
    pub winner: HubSideView,
    /// What is kept and not served.
    pub losers: Vec<HubSideView>,
    /// Why.
    pub why: String,
    /// When it was noted; only in lists of what is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noted: Option<String>,
}

/// One side of a conflict. Keys are shown as fingerprints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubSideView {
    /// Who wrote it.
    pub region: String,
    /// Under which right.
    pub epoch: u64,
    /// When, by that region's clock.
    pub at: String,
    /// What: any JSON.
    #[schema(value_type = Object)]
    pub value: Value,
}

/// What nobody has decided yet, and what was noted of what both regions had changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct HubConflictsView {
    /// What two regions changed at once and nobody has decided since; at most 1000.
    pub open: Vec<HubConflictView>,
    /// The latest that were noted, decided or not, the newest first; at most 100.
    pub noted: Vec<HubConflictView>,
    /// How many were noted since the hub was made: by merges, and by what a region took over when it followed again.
    pub kept: u64,
    /// Where they are noted, on the node that answered.
    pub file: Option<String>,
}
