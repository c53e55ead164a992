//! What a connection asks of the hub behind it, and nothing else.
//!
//! [`Behind`] admits a device, [`Session`] is what it then talks to. Two implement them: the hub, and a made-up one in tests.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::moment::Moment;
use futures_util::future::BoxFuture;
use rustls_pki_types::CertificateDer;
use serde_json::Value;

use crate::names::{Key, Subs};

/// The hub, as a connection sees it before it knows whether it may talk to it.
#[async_trait]
pub trait Behind: Send + Sync + fmt::Debug {
    /// Decides about a connection. May take its time: the device waits for its answer meanwhile, which is how a hub that is
    /// not ready paces a fleet. Dropped when the device goes away first.
    async fn admit(&self, hello: Hello) -> Verdict;
}

/// Who says that they are there. Nothing in it has been proved, except that the certificates' owner holds their key.
#[derive(Debug)]
pub struct Hello {
    /// Device or module, from the user name; the client id has been found to say the same.
    pub key: Key,
    /// The hub that is meant: from the user name, else the name that TLS was asked for, else empty.
    pub host: String,
    /// The rest of the user name, as sent: `api-version=2021-04-12&DeviceClientType=...`.
    pub query: String,
    /// A SAS token; `None` with a certificate.
    pub password: Option<String>,
    /// The client's certificate and what came with it, its own first; empty without.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Whether the device wants to forget its subscriptions.
    pub clean: bool,
    /// What the device promises to say something in; zero: no promise.
    pub keep_alive: Duration,
    /// Where it comes from.
    pub peer: SocketAddr,
}

/// The answer to a [`Hello`]. A hub that does not serve, or lags, answers `Unavailable` or waits: the others make some devices
/// give up for good.
#[derive(Debug)]
pub enum Verdict {
    /// Come in.
    Open(Arc<dyn Session>),
    /// Return code 3: try again later.
    Unavailable,
    /// Return code 4: the token or certificate is not what was expected.
    BadCredentials,
    /// Return code 5: known, and not let in.
    Unauthorized,
    /// Return code 2: the client id cannot be right.
    BadIdentifier,
}

/// One admitted connection, as its hub sees it. `next` may be dropped and asked again at any time and must then have lost nothing.
///
/// `twin`, `report`, `subscribe`, `completed` and `answered` are called one after the other in the order the device asked; reading
/// goes on meanwhile, within a limit. After `closed` nothing is called any more.
#[async_trait]
pub trait Session: Send + Sync + fmt::Debug {
    /// What the device is subscribed to from earlier, so that it need not say it again.
    fn subscriptions(&self) -> Subs;
    /// Whether something was remembered from an earlier connection (session present).
    fn is_present(&self) -> bool;
    /// When the device's token ends, and the connection with it.
    fn expires(&self) -> Option<Moment>;
    /// Takes a telemetry message at once, in the order of the calls; the future resolves when it is durable. `Err`: it is not
    /// acknowledged, nor is anything after it, and the connection ends, so that the device sends it again.
    fn telemetry(&self, event: Telemetered) -> BoxFuture<'static, Result<(), NotKept>>;
    /// What is to be sent to the device next; pending while there is nothing. Only what it is subscribed to.
    async fn next(&self) -> Outgoing;
    /// The device's twin: JSON with `desired` and `reported`, each with `$version`, without metadata.
    async fn twin(&self) -> Result<Bytes, TwinError>;
    /// Merges into the reported properties; the new version, when it is durable.
    async fn report(&self, patch: Value) -> Result<u64, TwinError>;
    /// From now on the device is subscribed to exactly this. It is told so only when this is durable.
    async fn subscribe(&self, subs: Subs) -> Result<(), NotKept>;
    /// The device has the message.
    async fn completed(&self, lock: u64);
    /// The device's answer to a method.
    async fn answered(&self, rid: &str, status: i32, body: Bytes);
    /// The connection is over, whoever ended it; called once. A `will` is to be kept as telemetry.
    async fn closed(&self, will: Option<Telemetered>);
}

/// A telemetry message, as the device sent it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Telemetered {
    /// `$.mid`, `$.ct` and the like, decoded, in the order sent; a name without a value has an empty one.
    pub system: Vec<(String, String)>,
    /// The application's, decoded, in the order sent, doubles kept; `None`: a name without `=`.
    pub properties: Vec<(String, Option<String>)>,
    /// What it says.
    pub body: Bytes,
}

/// Something for the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A cloud-to-device message; [`Session::completed`] tells with `lock` that the device has it.
    Message(Sent),
    /// A change of the desired properties; `body` contains `$version`.
    Desired {
        /// The version after the change.
        version: u64,
        /// JSON.
        body: Bytes,
    },
    /// A direct method; [`Session::answered`] brings its answer.
    Method {
        /// Returned with the answer; letters and digits.
        rid: String,
        /// The method.
        name: String,
        /// JSON.
        body: Bytes,
    },
    /// The connection is to be closed: what is acknowledged already goes out, nothing more is acknowledged.
    Close(Closing),
}

/// Why the hub ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Closing {
    /// The device has connected again; the will of this connection counts.
    #[error("the device has connected again")]
    Replaced,
    /// The device was disabled or deleted, or its keys were changed; its will is dropped.
    #[error("the device may no longer be connected")]
    Revoked,
    /// The hub stops serving here: fenced, moved or ended. The device is not gone: its will is dropped.
    #[error("the hub stops serving here")]
    Leaving,
}

/// A cloud-to-device message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Names this delivery, for [`Session::completed`].
    pub lock: u64,
    /// Whether the device may have been sent it before.
    pub again: bool,
    /// `$.mid`, `$.to` and the like.
    pub system: Vec<(String, String)>,
    /// The application's, and `iothub-ack`; `None`: a name without `=`.
    pub properties: Vec<(String, Option<String>)>,
    /// What it says.
    pub body: Bytes,
}

/// Why something must not be acknowledged: the device is to send it again, here later or to the other region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// This hub may no longer acknowledge, or not yet: it serves in another region.
    #[error("this hub does not serve now: devices are to connect to the active one")]
    Fenced,
    /// The disk or what lies on it refuses.
    #[error("it could not be stored: {0}")]
    Storage(String),
}

/// Why a twin was not read or changed; the device is told with the request's number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TwinError {
    /// The request is wrong: 400.
    #[error("{0}")]
    Refused(String),
    /// Too many of them: 429.
    #[error("too many requests: try again later")]
    Throttled,
    /// The hub cannot do it now: 503.
    #[error("{0}")]
    Unavailable(String),
}

impl TwinError {
    /// The status that the device is told.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(_) => 400,
            Self::Throttled => 429,
            Self::Unavailable(_) => 503,
        }
    }
}
