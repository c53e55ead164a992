//! What a region remembers of an app between starts, beside what travels: `card.json` in the app's directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use farshore_core::fencing::FenceTimings;
use farshore_core::ids::{Epoch, ItemId, Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{Promotion, ReplicationMode, Role, Watermark};
use serde::{Deserialize, Serialize};

use crate::charter::keep;
use crate::data::{Loss, Position};

/// A card that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct CardError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong.
    pub why: String,
}

/// One app, as this region remembers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Card {
    /// Format version.
    version: u32,
    pub(super) item: ItemId,
    /// The highest token that was seen.
    pub(super) token: Token,
    pub(super) role: Role,
    /// The other region.
    pub(super) partner: Option<Region>,
    /// Whether an answer is given only when that region has what it did, too.
    #[serde(default)]
    pub(super) mode: ReplicationMode,
    /// The right under which what is here was last written.
    pub(super) epoch: Epoch,
    /// How the source was when it was last heard of.
    #[serde(default)]
    pub(super) source: Option<SourceSeen>,
    /// After a promotion, until it is accepted.
    #[serde(default)]
    pub(super) promotion: Option<Promotion>,
    /// The last write that the other region has, when it was made active without this one.
    #[serde(default)]
    pub(super) lost_after: Option<Watermark>,
    /// With these it fences itself.
    #[serde(default)]
    pub(super) lease: Option<FenceTimings>,
    /// Which directory under `databases/` the app uses here.
    #[serde(default)]
    pub(super) database: Option<String>,
    /// It was made here and never followed another region: a database that is not there is made.
    #[serde(default)]
    pub(super) is_new: bool,
    /// How far that was when it was last closed.
    #[serde(default)]
    pub(super) closed: Position,
    /// Before it is used, it is brought back from a copy.
    #[serde(default)]
    pub(super) restore: Option<Restore>,
    /// What was used before another point was chosen: kept until that is accepted.
    #[serde(default)]
    pub(super) kept: Vec<String>,
    /// What only this region has, once another was made active without it.
    #[serde(default)]
    pub(super) lost: Option<Lost>,
}

/// A database that is to be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Restore {
    /// From this backup; `None`: from the replica, everything that has arrived.
    pub(super) backup: Option<String>,
    /// Into this directory under `databases/`.
    pub(super) into: String,
}

/// What only this region has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lost {
    /// Counted from here.
    pub(super) after: Watermark,
    pub(super) loss: Loss,
    /// False when it cannot be counted: then nobody knows how much it is, and `loss` is empty.
    #[serde(default = "is_counted")]
    pub(super) exact: bool,
    /// Where it can be looked at.
    pub(super) dir: PathBuf,
}

/// A card without the word is of a time when only what was counted was written down.
fn is_counted() -> bool {
    true
}

/// What a target remembers of its source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SourceSeen {
    /// How far it was.
    pub(super) watermark: Watermark,
    /// When it was last heard of.
    pub(super) heard: Moment,
}

/// The version written.
const VERSION: u32 = 1;
/// Its name in the app's directory.
const FILE: &str = "card.json";

impl Card {
    pub(super) fn new(item: ItemId, token: Token, role: Role) -> Self {
        Self {
            version: VERSION,
            item,
            token,
            role,
            partner: None,
            mode: ReplicationMode::default(),
            epoch: token.epoch,
            source: None,
            promotion: None,
            lost_after: None,
            lease: None,
            database: None,
            is_new: false,
            closed: Position::default(),
            restore: None,
            kept: Vec::new(),
            lost: None,
        }
    }

    /// On return it is durable.
    pub(super) fn save(&self, app: &Path) -> Result<(), CardError> {
        let path = app.join(FILE);
        let bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        keep(&path, &bytes).map_err(|error| CardError { path, why: error.to_string() })
    }

    /// All cards under the directory, which is made if it is not there. A directory without a card is of an app whose making was
    /// not finished, or which was being deleted: it is removed.
    pub(super) fn load_all(dir: &Path) -> Result<Vec<Self>, CardError> {
        let wrong =
            |path: &Path, error: io::Error| CardError { path: path.to_owned(), why: error.to_string() };
        fs::create_dir_all(dir).map_err(|error| wrong(dir, error))?;
        let mut cards = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| wrong(dir, error))? {
            let app = entry.map_err(|error| wrong(dir, error))?.path();
            let path = app.join(FILE);
            match fs::read(&path) {
                Ok(text) => cards.push(Self::parse(&path, &text)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound && app.is_dir() => {
                    fs::remove_dir_all(&app).map_err(|error| wrong(&app, error))?;
                }
                Err(error) if app.is_dir() => return Err(wrong(&path, error)),
                Err(_) => {}
            }
        }
        Ok(cards)
    }

    /// Forgets the app and everything in it. The card goes first: what is left after a crash is removed at the next start.
    pub(super) fn remove(app: &Path) -> Result<(), CardError> {
        let ignore_missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        ignore_missing(fs::remove_file(app.join(FILE)))
            .and_then(|()| ignore_missing(fs::remove_dir_all(app)))
            .map_err(|error| CardError { path: app.to_owned(), why: error.to_string() })
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, CardError> {
        let wrong = |why: String| CardError { path: path.to_owned(), why };
        let card: Self = serde_json::from_slice(text).map_err(|error| {
            wrong(format!(
                "is damaged ({error}): move the app's directory aside, then disable and protect the app again"
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
