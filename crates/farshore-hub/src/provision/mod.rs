//! Tells devices which hub is theirs now: the provisioning protocol of the official device SDKs, over MQTT.
//!
//! A device shows who it is, asks, and is told the hub that is active at this moment; after a failover the same question has
//! another answer. A registration id is the id of a device. One that the hub knows proves its own key or certificate; one that
//! it does not know may prove that it belongs to a group, and is then created.
//!
//! Read in this order: this file (what is asked of the hub), `enrollment` (groups, as they are set), `proof` (who may register), `answer` (topics and bodies),
//! `connection` (the loop), `front` (one port for this and the hub itself).
//!
//! Must always hold: nobody is told a hub without proof; a hub that cannot tell now never says that a device is wrong: the device
//! is told to ask again, because some SDKs give up for good when they are refused.

mod answer;
mod connection;
mod enrollment;
mod front;
mod proof;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use farshore_core::moment::Moment;
use serde_json::Value;

use crate::names::DeviceId;
use crate::sas::Authorities;
pub use connection::Provisioning;
pub use enrollment::{BadEnrollment, ENROLLMENTS, Enrollment};
pub use front::Front;
pub use proof::{BadGroupKey, derived_key};

/// The hubs that devices are told about.
#[async_trait]
pub trait Behind: Send + Sync + fmt::Debug + 'static {
    /// What is known of a registration in a scope, which is a name of a hub.
    async fn known(&self, scope: &str, registration: &DeviceId) -> Known;

    /// Assigns the device to the hub that is active now, and creates it first if it was admitted as a new one. Asked again it
    /// gives the same device and does nothing else.
    async fn assign(&self, scope: &str, registration: &DeviceId, request: Request) -> Assignment;
}

/// What a hub knows of a registration.
#[derive(Debug, Clone)]
pub enum Known {
    /// The device is in the hub.
    Device(Credential),
    /// The device is in the hub and disabled.
    Disabled,
    /// It is not. It may come in if it proves that it belongs to one of these groups.
    Stranger(Vec<Group>),
    /// That much, by a hub whose registry is behind: proof counts, and who has none is told to ask again, as another region may know
    /// better.
    Perhaps(Box<Self>),
    /// Nobody can tell at the moment: the hub is changing sides, or is not here yet.
    NotNow {
        /// When to ask again.
        retry_after: Duration,
    },
}

/// How a device proves itself.
#[derive(Clone)]
pub enum Credential {
    /// By a token signed with one of these keys, in base64.
    Keys {
        /// The first.
        primary: String,
        /// The second.
        secondary: String,
    },
    /// By a certificate with one of these thumbprints.
    Thumbprints(Vec<String>),
    /// By a certificate with its id as common name, from one of these authorities.
    Authority(Authorities),
    /// By nothing: it cannot register.
    None,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys { .. } => "Keys",
            Self::Thumbprints(_) => "Thumbprints",
            Self::Authority(_) => "Authority",
            Self::None => "None",
        })
    }
}

/// Devices that may be created when they first register.
#[derive(Clone)]
pub enum Group {
    /// Each has keys that are derived from the group's; see [`derived_key`].
    Keys {
        /// The group's first key, in base64.
        primary: String,
        /// The second.
        secondary: String,
    },
    /// Each has a certificate with its id as common name, from one of these authorities.
    Authority(Authorities),
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys { .. } => "Keys",
            Self::Authority(_) => "Authority",
        })
    }
}

/// On what a device was admitted.
#[derive(Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is in the hub.
    Registered,
    /// It is new and belongs to a group with keys: these are its own.
    WithKeys {
        /// Derived from the group's first key.
        primary: String,
        /// Derived from the second.
        secondary: String,
    },
    /// It is new and has a certificate of an authority.
    WithAuthority,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registered => "Registered",
            Self::WithKeys { .. } => "WithKeys",
            Self::WithAuthority => "WithAuthority",
        })
    }
}

/// What a device asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// On what it was admitted.
    pub admission: Admission,
    /// What it sent along for whoever assigns.
    pub payload: Option<Value>,
}

/// Where a device belongs.
#[derive(Debug, Clone, PartialEq)]
pub enum Assignment {
    /// To this hub.
    Assigned(Assigned),
    /// It is being found out: the device asks again.
    Assigning {
        /// When.
        retry_after: Duration,
    },
    /// Nowhere, and asking again will not help.
    Failed {
        /// Why.
        why: String,
    },
}

/// A device with its hub.
#[derive(Debug, Clone, PartialEq)]
pub struct Assigned {
    /// The hub's host name, as the device is to connect to it.
    pub hub: String,
    /// The device's id there.
    pub device: DeviceId,
    /// When it was created.
    pub created: Moment,
    /// When it was last changed.
    pub updated: Moment,
    /// The tag of what was assigned.
    pub etag: String,
    /// Whatever the device is to be told besides.
    pub payload: Option<Value>,
}
