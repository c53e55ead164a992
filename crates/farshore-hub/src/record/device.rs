//! An identity with all that belongs to it, group by group.

use std::sync::Arc;

use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::leaves::{Count, Leaf, Leaves, Of};
use super::register::{Register, Sibling};
use crate::names::Subs;
use crate::versions::VersionVector;

/// How a device proves who it is.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Auth {
    /// One of two symmetric keys, in base64.
    Sas {
        /// The first.
        primary: String,
        /// The second, so that keys can be changed one at a time.
        secondary: String,
    },
    /// A certificate with one of two thumbprints, in hexadecimal.
    SelfSigned {
        /// The first.
        primary_thumbprint: Option<String>,
        /// The second.
        secondary_thumbprint: Option<String>,
    },
    /// A certificate of an authority that the hub knows, with the device's id as its common name.
    Authority,
    /// It cannot.
    None,
}

impl std::fmt::Debug for Auth {
    /// Without the keys: this ends in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind())
    }
}

impl Auth {
    /// The word for it in requests and files.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Sas { .. } => "sas",
            Self::SelfSigned { .. } => "selfSigned",
            Self::Authority => "certificateAuthority",
            Self::None => "none",
        }
    }
}

/// Where a device stands among others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// Whether it is an edge gateway.
    pub edge: bool,
    /// The scope it belongs to.
    pub device: Option<String>,
    /// The scopes above.
    pub parents: Vec<String>,
}

/// Whether a device may connect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Status {
    /// It may.
    pub enabled: bool,
    /// Why, for people.
    pub reason: String,
    /// Since when.
    pub at: Moment,
}

/// Whether there is such a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Life {
    /// It was made.
    Alive {
        /// Its generation id.
        generation: Arc<str>,
        /// When.
        created: Moment,
        /// A hash of the credentials that it was made with: devices that were made at once, in two regions, with the same
        /// credentials are one.
        credentials: u64,
    },
    /// The device of this generation was deleted.
    Deleted {
        /// Its generation id.
        generation: Arc<str>,
    },
}

impl Life {
    /// Which life.
    #[must_use]
    pub fn generation(&self) -> &Arc<str> {
        match self {
            Self::Alive { generation, .. } | Self::Deleted { generation } => generation,
        }
    }
}

/// Etags that came with an import, and what the device's own were then: they are shown as long as nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Own and kept etag of the identity.
    pub device: Option<(String, String)>,
    /// Own and kept etag of the twin.
    pub twin: Option<(String, String)>,
}

/// A device or module, as it is kept. [`Record::device`] says how it reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Every change of this record that this region knows of.
    pub(super) seen: VersionVector,
    pub(super) life: Register<Life>,
    pub(super) status: Register<Of<Status>>,
    pub(super) auth: Register<Of<Auth>>,
    pub(super) scope: Register<Of<Scope>>,
    pub(super) subs: Register<Of<Subs>>,
    pub(super) kept: Register<Of<Kept>>,
    pub(super) tags: Leaves,
    pub(super) desired: Leaves,
    pub(super) desired_count: Count,
    /// As a whole: the device is its only writer, and two of its states must never be mixed.
    pub(super) reported: Register<Of<Leaves>>,
    pub(super) reported_count: Count,
    pub(super) last_seen: Moment,
}

impl Record {
    /// A place where nothing was ever written, by a region that has seen `known` of all others: what they wrote here up to
    /// there was deleted and forgotten.
    #[must_use]
    pub fn vacant(known: VersionVector) -> Self {
        Self { seen: known, ..Self::default() }
    }

    /// What either has, less what either has replaced.
    #[must_use]
    pub fn join(&self, other: &Self) -> Self {
        let (seen, theirs) = (&self.seen, &other.seen);
        Self {
            seen: seen.merge(theirs),
            life: self.life.join(seen, &other.life, theirs),
            status: self.status.join(seen, &other.status, theirs),
            auth: self.auth.join(seen, &other.auth, theirs),
            scope: self.scope.join(seen, &other.scope, theirs),
            subs: self.subs.join(seen, &other.subs, theirs),
            kept: self.kept.join(seen, &other.kept, theirs),
            tags: self.tags.join(seen, &other.tags, theirs),
            desired: self.desired.join(seen, &other.desired, theirs),
            desired_count: self.desired_count.join(&other.desired_count),
            reported: self.reported.join(seen, &other.reported, theirs),
            reported_count: self.reported_count.join(&other.reported_count),
            last_seen: self.last_seen.max(other.last_seen),
        }
    }

    /// Whether none of it was seen by a region that has seen `known`: joined where nothing is, it stays as it is.
    pub(super) fn is_news_to(&self, known: &VersionVector) -> bool {
        let Self { life, status, auth, scope, subs, kept, tags, desired, reported, .. } = self;
        let identity = life.is_news_to(known) && status.is_news_to(known) && auth.is_news_to(known);
        let rest = scope.is_news_to(known) && subs.is_news_to(known) && kept.is_news_to(known);
        let twin = tags.is_news_to(known) && desired.is_news_to(known) && reported.is_news_to(known);
        identity && rest && twin
    }

    /// Every change of this record that was seen.
    #[must_use]
    pub fn seen(&self) -> &VersionVector {
        &self.seen
    }

    /// Whether it only says that there was a device. What was written to it at once with its deletion is kept until someone
    /// has looked at it.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.is_empty()
            && self.life.siblings().iter().all(|sibling| matches!(sibling.value, Life::Deleted { .. }))
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.life.is_empty() && self.is_empty()
    }

    /// Whether nothing of a device is in it.
    pub(super) fn is_empty(&self) -> bool {
        let Self { status, auth, scope, subs, kept, reported, .. } = self;
        let groups =
            status.is_empty() && auth.is_empty() && scope.is_empty() && subs.is_empty() && kept.is_empty();
        groups && reported.is_empty() && self.tags.0.is_empty() && self.desired.0.is_empty()
    }

    /// Whether there are places of deleted leaves.
    #[must_use]
    pub(crate) fn has_deleted_leaves(&self) -> bool {
        let is_deleted = |sibling: &Sibling<Of<Leaf>>| sibling.value.value.is_none();
        let mut registers = self.tags.0.values().chain(self.desired.0.values());
        registers.any(|register| register.siblings().iter().all(is_deleted))
    }

    /// Forgets the places of deleted leaves. Only when every region has seen all of this record. Returns whether there
    /// were any.
    pub(crate) fn forget_deleted_leaves(&mut self) -> bool {
        let mut forgot = false;
        for leaves in [&mut self.tags, &mut self.desired] {
            let before = leaves.0.len();
            leaves.0.retain(|_, register| {
                register.siblings().iter().any(|sibling| sibling.value.value.is_some())
            });
            forgot |= leaves.0.len() < before;
        }
        forgot
    }

    /// Drops what belongs to the device, not that there was one.
    pub(super) fn empty(&mut self) {
        self.status.clear();
        self.auth.clear();
        self.scope.clear();
        self.subs.clear();
        self.kept.clear();
        self.tags.clear();
        self.desired.clear();
        self.reported.clear();
    }
}

/// An empty JSON object.
pub(super) fn nothing() -> Value {
    Value::Object(serde_json::Map::new())
}
