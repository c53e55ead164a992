//! etcd's HTTP/JSON gateway, as far as it is spoken here: keys and values in base64, 64-bit numbers as strings, what is
//! zero or empty left out. The same since 3.4.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that travel as base64.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Bytes(pub(super) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(D::Error::custom)
    }
}

/// A 64-bit number: a string by the gateway's rules; a plain number is understood, too.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Text(String),
        Number(u64),
    }
    match Either::deserialize(from)? {
        Either::Text(text) => text.parse().map_err(D::Error::custom),
        Either::Number(number) => Ok(number),
    }
}

fn no(flag: &bool) -> bool {
    !flag
}

fn zero(number: &u64) -> bool {
    *number == 0
}

/// Who answers, and how far it is. A full answer has all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Header {
    #[serde(deserialize_with = "number")]
    pub(super) cluster_id: u64,
    #[serde(deserialize_with = "number")]
    pub(super) revision: u64,
    #[serde(deserialize_with = "number")]
    pub(super) raft_term: u64,
}

/// An answer that says who gave it.
pub(super) trait Answer: serde::de::DeserializeOwned + Send + 'static {
    /// The member's header.
    fn header(&self) -> Header;
}

/// `/v3/kv/range`. Never `serializable`: such a read may be of the past.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct RangeRequest {
    pub(super) key: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Bytes>,
    #[serde(skip_serializing_if = "zero")]
    pub(super) limit: u64,
    #[serde(skip_serializing_if = "zero")]
    pub(super) revision: u64,
    #[serde(skip_serializing_if = "no")]
    pub(super) keys_only: bool,
}

/// A key as it is in etcd.
#[derive(Debug, Deserialize)]
pub(super) struct KeyValue {
    pub(super) key: Bytes,
    #[serde(default)]
    pub(super) value: Bytes,
    #[serde(default, deserialize_with = "number")]
    pub(super) mod_revision: u64,
}

/// Answer to a [`RangeRequest`].
#[derive(Debug, Deserialize)]
pub(super) struct RangeAnswer {
    header: Header,
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
    /// There is more after the last of `kvs`.
    #[serde(default)]
    pub(super) more: bool,
}

impl Answer for RangeAnswer {
    fn header(&self) -> Header {
        self.header
    }
}

/// `/v3/kv/txn`.
#[derive(Debug, Default, Serialize)]
pub(super) struct TxnRequest {
    pub(super) compare: Vec<CompareTerm>,
    pub(super) success: Vec<RequestOp>,
    pub(super) failure: Vec<RequestOp>,
}

/// What must hold of one key.
#[derive(Debug, Serialize)]
#[serde(tag = "target")]
pub(super) enum CompareTerm {
    /// `create_revision` is 0: the key does not exist.
    #[serde(rename = "CREATE")]
    Create { key: Bytes, result: &'static str, create_revision: u64 },
    /// `mod_revision` is this one.
    #[serde(rename = "MOD")]
    Mod { key: Bytes, result: &'static str, mod_revision: u64 },
}

/// One operation of a transaction.
#[derive(Debug, Serialize)]
pub(super) enum RequestOp {
    #[serde(rename = "request_put")]
    Put { key: Bytes, value: Bytes },
    #[serde(rename = "request_delete_range")]
    Delete { key: Bytes },
    #[serde(rename = "request_range")]
    Range(RangeRequest),
}

/// Answer to a [`TxnRequest`].
#[derive(Debug, Deserialize)]
pub(super) struct TxnAnswer {
    header: Header,
    #[serde(default)]
    pub(super) succeeded: bool,
    #[serde(default)]
    pub(super) responses: Vec<ResponseOp>,
}

impl Answer for TxnAnswer {
    fn header(&self) -> Header {
        self.header
    }
}

/// What one operation returned; only reads matter.
#[derive(Debug, Deserialize)]
pub(super) struct ResponseOp {
    pub(super) response_range: Option<ResponseRange>,
}

/// A read inside a transaction.
#[derive(Debug, Deserialize)]
pub(super) struct ResponseRange {
    #[serde(default)]
    pub(super) kvs: Vec<KeyValue>,
}

/// The one message that opens a watch.
#[derive(Debug, Serialize)]
pub(super) struct WatchRequest {
    pub(super) create_request: WatchCreate,
}

/// What to watch.
#[derive(Debug, Serialize)]
pub(super) struct WatchCreate {
    pub(super) key: Bytes,
    pub(super) range_end: Bytes,
    pub(super) start_revision: u64,
    pub(super) progress_notify: bool,
    pub(super) fragment: bool,
}

/// One line of a watch's stream: a result; whatever else ends the stream.
#[derive(Debug, Deserialize)]
pub(super) struct WatchLine {
    pub(super) result: Option<WatchResult>,
    pub(super) error: Option<serde_json::Value>,
}

/// What a watch says.
#[derive(Debug, Deserialize)]
pub(super) struct WatchResult {
    pub(super) header: WatchHeader,
    /// -1 (as text) is a progress answer that was not ordered with the events: never a place to go on from.
    #[serde(default)]
    pub(super) watch_id: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) created: bool,
    #[serde(default)]
    pub(super) canceled: bool,
    #[serde(default, deserialize_with = "number")]
    pub(super) compact_revision: u64,
    #[serde(default)]
    pub(super) cancel_reason: String,
    /// More of the last revision may follow in the next message.
    #[serde(default)]
    pub(super) fragment: bool,
    #[serde(default)]
    pub(super) events: Vec<Event>,
}

/// A watch's header has no revision when it says that it is cancelled.
#[derive(Debug, Deserialize)]
pub(super) struct WatchHeader {
    #[serde(deserialize_with = "number")]
    pub(super) cluster_id: u64,
    #[serde(default, deserialize_with = "number")]
    pub(super) revision: u64,
}

/// A change.
#[derive(Debug, Deserialize)]
pub(super) struct Event {
    #[serde(default, rename = "type")]
    pub(super) kind: EventKind,
    pub(super) kv: KeyValue,
}

/// Which change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(super) enum EventKind {
    #[default]
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "DELETE")]
    Delete,
}

/// Why etcd refused: the gRPC status, in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Refusal {
    #[serde(default)]
    pub(super) code: u64,
    #[serde(default)]
    pub(super) message: String,
}
