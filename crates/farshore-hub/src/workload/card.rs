//! What a region remembers of a hub between starts, beside what is in it: `card.json` in the hub's directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use farshore_core::fencing::FenceTimings;
use farshore_core::ids::{Epoch, ItemId, Region, Token};
use farshore_core::workload::{Promotion, ReplicationMode, Role, Watermark};
use serde::{Deserialize, Serialize};

use super::spec::HubSpec;
use crate::link::Position;

/// A card that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct CardError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// One hub, as this region remembers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Card {
    /// Format version.
    version: u32,
    pub(super) item: ItemId,
    /// The highest token that was seen.
    pub(super) token: Token,
    pub(super) role: Role,
    pub(super) spec: HubSpec,
    /// The other region.
    pub(super) partner: Option<Region>,
    /// Whether what devices say is acknowledged only when that region has it, too.
    #[serde(default)]
    pub(super) mode: ReplicationMode,
    /// The right under which what is here was last written.
    pub(super) epoch: Epoch,
    /// With [`Role::Target`]: the newest change of its own from the time before it followed.
    #[serde(default)]
    pub(super) before: u64,
    /// How far the source was when it was last heard of.
    #[serde(default)]
    pub(super) theirs: Option<Position>,
    /// When it was last heard of.
    #[serde(default)]
    pub(super) heard: Option<farshore_core::moment::Moment>,
    /// After a promotion, until it is accepted.
    #[serde(default)]
    pub(super) promotion: Option<Promotion>,
    /// The last write that the other region has, when it was made active without this one.
    #[serde(default)]
    pub(super) lost_after: Option<Watermark>,
    /// Since it was made active, everything of the region that was lost has been merged.
    #[serde(default)]
    pub(super) is_whole: bool,
    /// With these it fences itself.
    #[serde(default)]
    pub(super) lease: Option<FenceTimings>,
}

/// The version written.
const VERSION: u32 = 1;
/// Its name in the hub's directory.
const FILE: &str = "card.json";

impl Card {
    pub(super) fn new(item: ItemId, token: Token, role: Role, spec: HubSpec) -> Self {
        Self {
            version: VERSION,
            item,
            token,
            role,
            spec,
            partner: None,
            mode: ReplicationMode::default(),
            epoch: token.epoch,
            before: 0,
            theirs: None,
            heard: None,
            promotion: None,
            lost_after: None,
            is_whole: true,
            lease: None,
        }
    }

    /// On return it is durable.
    pub(super) fn save(&self, hub: &Path) -> Result<(), CardError> {
        let path = hub.join(FILE);
        let write = || -> io::Result<()> {
            fs::create_dir_all(hub)?;
            let new = path.with_extension("new");
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(hub)?.sync_all()
        };
        write().map_err(|error| CardError { path: path.clone(), why: error.to_string() })
    }

    /// All cards under the directory, which is made if it is not there. A directory without a card is of a hub whose making was
    /// not finished, or which was being deleted: it is removed.
    pub(super) fn load_all(dir: &Path) -> Result<Vec<Self>, CardError> {
        let wrong =
            |path: &Path, error: io::Error| CardError { path: path.to_owned(), why: error.to_string() };
        fs::create_dir_all(dir).map_err(|error| wrong(dir, error))?;
        let mut cards = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| wrong(dir, error))? {
            let hub = entry.map_err(|error| wrong(dir, error))?.path();
            let path = hub.join(FILE);
            match fs::read(&path) {
                Ok(text) => cards.push(Self::parse(&path, &text)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound && hub.is_dir() => {
                    fs::remove_dir_all(&hub).map_err(|error| wrong(&hub, error))?;
                }
                Err(error) if hub.is_dir() => return Err(wrong(&path, error)),
                Err(_) => {}
            }
        }
        Ok(cards)
    }

    /// Forgets the hub and everything in it. The card goes first: what is left after a crash is removed at the next start.
    pub(super) fn remove(hub: &Path) -> Result<(), CardError> {
        let ignore_missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        ignore_missing(fs::remove_file(hub.join(FILE)))
            .and_then(|()| ignore_missing(fs::remove_dir_all(hub)))
            .map_err(|error| CardError { path: hub.to_owned(), why: error.to_string() })
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, CardError> {
        let wrong = |why: String| CardError { path: path.to_owned(), why };
        let card: Self = serde_json::from_slice(text).map_err(|error| {
            wrong(format!(
                "is damaged ({error}): move the hub's directory aside, then disable and protect the hub again"
            ))
        })?;
        if card.version != VERSION {
            return Err(wrong(format!(
                "has version {}, this farshore knows version {VERSION}",
                card.version
            )));
        }
        Ok(card)
    }
}
