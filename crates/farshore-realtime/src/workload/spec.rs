//! What an operator says of a new hub.

use farshore_core::ids::ItemId;
use rand::random;
use serde::{Deserialize, Serialize};

use crate::live::Settings;
use crate::names::HubName;
use crate::negotiate::Sharing;
use crate::token::{AccessKey, AccessKeys};

/// `{"mode":"active-passive","hub":"chat","audiences":[]}`, all of it optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HubSpec {
    /// How the regions share the hub's clients.
    pub mode: Sharing,
    /// The hub's name in URLs; by default the item's, with `_` for `-`.
    pub hub: Option<String>,
    /// Base URLs under which it is known beside the nodes' own.
    pub audiences: Vec<String>,
}

impl HubSpec {
    /// The settings of a new hub, with keys of its own.
    ///
    /// # Errors
    /// Says what cannot be a hub's name.
    pub fn settings(&self, item: &ItemId) -> Result<Settings, String> {
        let name = self.hub.clone().unwrap_or_else(|| item.name.as_str().replace('-', "_"));
        let hub = HubName::parse(&name).map_err(|error| {
            format!("{name:?} cannot be a hub's name ({error}): give another with \"hub\" in the spec")
        })?;
        Ok(Settings { sharing: self.mode, audiences: self.audiences.clone(), version: 1, ..unset(hub) })
    }
}

/// Settings that any others replace: of a hub whose settings the other region has.
pub(super) fn unset(hub: HubName) -> Settings {
    Settings {
        version: 0,
        hub,
        keys: AccessKeys { primary: new_key(), secondary: new_key() },
        audiences: Vec::new(),
        handlers: Vec::new(),
        sharing: Sharing::default(),
        members: Vec::new(),
    }
}

pub(super) fn new_key() -> AccessKey {
    AccessKey::of(random())
}
