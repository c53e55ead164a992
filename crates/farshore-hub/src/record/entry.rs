//! All that is kept, behind one join.

use std::sync::Arc;

use super::conflict::Conflict;
use super::device::Record;
use super::format::{self, Unreadable};
use super::message::{Queued, Way};
use super::rules::Rules;
use super::shared::{Cursor, Policy, Single};
use crate::names::{DeviceId, Key, ModuleId};
use crate::versions::VersionVector;

/// Whose entry. In bytes: a letter for the kind, then the names, parted by zero bytes; so devices sort by their ids, and
/// before their modules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKey {
    /// A device or module.
    Device(Key),
    /// A message to one, by its id.
    Message(Key, String),
    /// A consumer group.
    Group(String),
    /// A policy of access.
    Policy(String),
    /// The rules of the merge.
    Settings,
    /// A setting of the hub, by its kind and its name within that.
    Setting(String, String),
}

impl EntryKey {
    /// The key in the file and between regions.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Device(key) => named(b'd', key, ""),
            Self::Message(key, id) => {
                let mut bytes = named(b'm', key, "");
                bytes.push(0);
                bytes.extend_from_slice(id.as_bytes());
                bytes
            }
            Self::Group(name) => [b"g", name.as_bytes()].concat(),
            Self::Policy(name) => [b"p", name.as_bytes()].concat(),
            Self::Settings => b"s".to_vec(),
            Self::Setting(kind, name) => [b"n", kind.as_bytes(), b"\0", name.as_bytes()].concat(),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (kind, rest) = bytes.split_first().ok_or(Unreadable("an empty key"))?;
        let text = std::str::from_utf8(rest).map_err(|_| Unreadable("a key that is no text"))?;
        match kind {
            b'd' => Ok(Self::Device(read_key(text)?)),
            b'm' => {
                let mut parts = text.splitn(3, '\0');
                let (device, module, id) = (parts.next(), parts.next(), parts.next());
                let (Some(device), Some(module), Some(id)) = (device, module, id) else {
                    return Err(Unreadable("the key of a message lacks a part"));
                };
                Ok(Self::Message(read_key(&format!("{device}\0{module}"))?, id.to_owned()))
            }
            b'g' => Ok(Self::Group(text.to_owned())),
            b'p' => Ok(Self::Policy(text.to_owned())),
            b's' => Ok(Self::Settings),
            b'n' => match text.split_once('\0') {
                Some((kind, name)) => Ok(Self::Setting(kind.to_owned(), name.to_owned())),
                None => Err(Unreadable("the key of a setting lacks its name")),
            },
            _ => Err(Unreadable("a key of an unknown kind: update this region first")),
        }
    }
}

fn named(kind: u8, key: &Key, end: &str) -> Vec<u8> {
    let module = key.module.as_ref().map_or("", ModuleId::as_str);
    let mut bytes = Vec::with_capacity(2 + key.device.as_str().len() + module.len() + end.len());
    bytes.push(kind);
    bytes.extend_from_slice(key.device.as_str().as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(module.as_bytes());
    bytes
}

fn read_key(text: &str) -> Result<Key, Unreadable> {
    let bad = |_| Unreadable("a key with a bad id");
    let (device, module) = text.split_once('\0').ok_or(Unreadable("the key of a device lacks its end"))?;
    let module = if module.is_empty() { None } else { Some(ModuleId::parse(module).map_err(bad)?) };
    Ok(Key { device: DeviceId::parse(device).map_err(bad)?, module })
}

/// Where the keys of the messages to one device begin.
pub(crate) fn messages_of(key: &Key) -> Vec<u8> {
    let mut bytes = named(b'm', key, "");
    bytes.push(0);
    bytes
}

/// Where the keys of the settings of one kind begin and end.
pub(crate) fn settings_of(kind: &str) -> (Vec<u8>, Vec<u8>) {
    ([b"n", kind.as_bytes(), b"\0"].concat(), [b"n", kind.as_bytes(), b"\x01"].concat())
}

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A device or module.
    Device(Box<Record>),
    /// A message to one.
    Message(Queued),
    /// A consumer group.
    Group(Single<Cursor>),
    /// A policy of access.
    Policy(Single<Policy>),
    /// The rules of the merge.
    Settings(Single<Rules>),
    /// A setting of the hub: JSON as text.
    Setting(Single<Arc<str>>),
}

impl Entry {
    /// Where nothing is, in a region that has seen `known`.
    #[must_use]
    pub fn vacant(key: &EntryKey, known: VersionVector) -> Self {
        match key {
            EntryKey::Device(_) => Self::Device(Box::new(Record::vacant(known))),
            EntryKey::Message(..) => Self::Message(Queued::vacant(known)),
            EntryKey::Group(_) => Self::Group(Single::vacant(known)),
            EntryKey::Policy(_) => Self::Policy(Single::vacant(known)),
            EntryKey::Settings => Self::Settings(Single::vacant(known)),
            EntryKey::Setting(..) => Self::Setting(Single::vacant(known)),
        }
    }

    /// What either has, less what either has replaced.
    ///
    /// # Errors
    /// [`Unreadable`]: entries of different kinds.
    pub fn join(&self, other: &Self) -> Result<Self, Unreadable> {
        Ok(match (self, other) {
            (Self::Device(one), Self::Device(two)) => Self::Device(Box::new(one.join(two))),
            (Self::Message(one), Self::Message(two)) => Self::Message(one.join(two)),
            (Self::Group(one), Self::Group(two)) => Self::Group(one.join(two)),
            (Self::Policy(one), Self::Policy(two)) => Self::Policy(one.join(two)),
            (Self::Settings(one), Self::Settings(two)) => Self::Settings(one.join(two)),
            (Self::Setting(one), Self::Setting(two)) => Self::Setting(one.join(two)),
            _ => return Err(Unreadable("entries of different kinds under one key")),
        })
    }

    /// What it is joined where nothing is, in a region that has seen `known`; word for word the same if nothing of it was seen
    /// there, so that it need not travel back.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn arrive(self, key: &EntryKey, known: VersionVector) -> Result<Self, Unreadable> {
        if let (Self::Device(record), EntryKey::Device(_)) = (&self, key)
            && record.is_news_to(&known)
        {
            return Ok(self);
        }
        let joined = Self::vacant(key, known).join(&self)?;
        Ok(if joined.holds_the_same(&self) { self } else { joined })
    }

    /// Every change of this entry that was seen.
    #[must_use]
    pub fn seen(&self) -> &VersionVector {
        match self {
            Self::Device(record) => &record.seen,
            Self::Message(queued) => &queued.seen,
            Self::Group(single) => &single.seen,
            Self::Policy(single) => &single.seen,
            Self::Settings(single) => &single.seen,
            Self::Setting(single) => &single.seen,
        }
    }

    /// Whether it differs at most in what was seen.
    #[must_use]
    pub fn holds_the_same(&self, other: &Self) -> bool {
        let mut same = other.clone();
        let seen = match &mut same {
            Self::Device(record) => &mut record.seen,
            Self::Message(queued) => &mut queued.seen,
            Self::Group(single) => &mut single.seen,
            Self::Policy(single) => &mut single.seen,
            Self::Settings(single) => &mut single.seen,
            Self::Setting(single) => &mut single.seen,
        };
        seen.clone_from(self.seen());
        same == *self
    }

    /// What had to be decided to read it.
    #[must_use]
    pub fn conflicts(&self, key: &EntryKey, rules: &Rules) -> Vec<Conflict> {
        match (self, key) {
            (Self::Device(record), EntryKey::Device(key)) => record.conflicts(key, rules),
            (Self::Policy(single), EntryKey::Policy(name)) => {
                single.conflicts(name, rules).into_iter().collect()
            }
            (Self::Settings(single), _) => single.conflicts().into_iter().collect(),
            (Self::Setting(single), EntryKey::Setting(kind, name)) => {
                single.conflicts(kind, name, rules).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether it only says that something is no more: then it may be forgotten once every region has seen it.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        match self {
            Self::Device(record) => record.is_tombstone(),
            Self::Message(queued) => matches!(queued.now(), None | Some(Way::Done { news: None, .. })),
            Self::Group(single) => single.is_deleted(),
            Self::Policy(single) => single.is_deleted(),
            Self::Settings(single) => single.is_deleted(),
            Self::Setting(single) => single.is_deleted(),
        }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        match self {
            Self::Device(record) => record.is_blank(),
            Self::Message(queued) => queued.way.is_empty(),
            Self::Group(single) => single.value.is_empty(),
            Self::Policy(single) => single.value.is_empty(),
            Self::Settings(single) => single.value.is_empty(),
            Self::Setting(single) => single.value.is_empty(),
        }
    }

    /// The entry in bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        format::write(self)
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`Unreadable`]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unreadable> {
        format::read(bytes)
    }
}
