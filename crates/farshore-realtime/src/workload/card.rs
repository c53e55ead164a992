//! What a region remembers of a hub between starts: `NAME.json`, readable by its owner only, since it holds the keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::workload::{Promotion, Role};
use serde::{Deserialize, Serialize};

use crate::live::Settings;

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
    pub(super) version: u32,
    pub(super) item: ItemId,
    /// The highest token that was seen.
    pub(super) token: Token,
    pub(super) role: Role,
    pub(super) settings: Settings,
    /// The other region.
    pub(super) partner: Option<Partner>,
    /// After a promotion, until it is accepted.
    pub(super) promotion: Option<Promotion>,
}

/// The other region of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Partner {
    pub(super) region: Region,
    /// Where its link listens, when this region is the one that calls.
    pub(super) dial: Option<String>,
}

/// The version written.
const VERSION: u32 = 1;

/// Cards are changed by one at a time: orders, and settings that come from the other region, meet in the same file.
static CHANGING: Mutex<()> = Mutex::new(());

fn changing() -> MutexGuard<'static, ()> {
    CHANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Card {
    pub(super) fn new(item: ItemId, token: Token, role: Role, settings: Settings) -> Self {
        Self { version: VERSION, item, token, role, settings, partner: None, promotion: None }
    }

    /// On return it is durable.
    pub(super) fn save(&self, dir: &Path) -> Result<(), CardError> {
        let _turn = changing();
        self.write(dir)
    }

    fn write(&self, dir: &Path) -> Result<(), CardError> {
        let path = path_of(dir, &self.item);
        let write = || -> io::Result<()> {
            let new = path.with_extension("new");
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(dir)?.sync_all()
        };
        write().map_err(|error| CardError { path: path.clone(), why: error.to_string() })
    }

    /// Keeps settings that came from the other region, and nothing else of this card.
    pub(super) fn save_settings(dir: &Path, item: &ItemId, settings: &Settings) -> Result<(), CardError> {
        let _turn = changing();
        let kept = Self::load(&path_of(dir, item))?;
        Self { settings: settings.clone(), ..kept }.write(dir)
    }

    /// On return it is gone, for good.
    pub(super) fn remove(dir: &Path, item: &ItemId) -> Result<(), CardError> {
        let _turn = changing();
        let path = path_of(dir, item);
        match fs::remove_file(&path).and_then(|()| File::open(dir)?.sync_all()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CardError { path, why: error.to_string() })
            }
            _ => Ok(()),
        }
    }

    /// All cards in the directory, which is made if it is not there.
    pub(super) fn load_all(dir: &Path) -> Result<Vec<Self>, CardError> {
        let wrong = |path: &Path, why: String| CardError { path: path.to_owned(), why };
        fs::create_dir_all(dir).map_err(|error| wrong(dir, error.to_string()))?;
        let mut cards = Vec::new();
        for entry in fs::read_dir(dir).map_err(|error| wrong(dir, error.to_string()))? {
            let path = entry.map_err(|error| wrong(dir, error.to_string()))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                cards.push(Self::load(&path)?);
            }
        }
        Ok(cards)
    }

    fn load(path: &Path) -> Result<Self, CardError> {
        let wrong = |why: String| CardError { path: path.to_owned(), why };
        let text = fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let card: Self = serde_json::from_slice(&text).map_err(|error| {
            wrong(format!(
                "is damaged ({error}): move it aside, then farshore disable and protect the hub again"
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

fn path_of(dir: &Path, item: &ItemId) -> PathBuf {
    dir.join(format!("{}.json", item.name))
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Epoch;

    use super::*;
    use crate::names::HubName;

    fn token(epoch: u64) -> Token {
        Token::new(1, Epoch(epoch))
    }

    #[test]
    fn settings_from_the_other_region_take_back_nothing_that_an_order_has_kept() {
        let dir = tempfile::tempdir().unwrap();
        let item = ItemId::parse("realtime/chat").unwrap();
        let settings = super::super::spec::unset(HubName::parse("chat").unwrap());
        let mut card = Card::new(item.clone(), token(0), Role::Active, settings.clone());
        card.save(dir.path()).unwrap();
        std::thread::scope(|scope| {
            let (dir, theirs) = (dir.path(), item.clone());
            let other = scope.spawn(move || {
                for version in 1..200 {
                    Card::save_settings(dir, &theirs, &Settings { version, ..settings.clone() }).unwrap();
                }
            });
            for epoch in 1..200 {
                card.token = token(epoch);
                card.save(dir).unwrap();
                assert_eq!(Card::load(&path_of(dir, &item)).unwrap().token, token(epoch));
            }
            other.join().unwrap();
        });
        Card::remove(dir.path(), &item).unwrap();
        Card::remove(dir.path(), &item).unwrap();
        assert!(Card::load_all(dir.path()).unwrap().is_empty());
    }
}
