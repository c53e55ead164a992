//! What a region remembers of one machine, durably: `card.json` in the machine's directory.
//!
//! Written atomically (new file, fsync, rename, fsync of the directory) before anything that it promises is done.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use farshore_core::fencing::FenceTimings;
use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::workload::{Loss, Promotion, ReplicationMode, Role, Watermark};
use serde::{Deserialize, Serialize};

/// Format version of the card; fields are only ever added.
const VERSION: u32 = 1;

/// One machine's card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Card {
    pub(super) version: u32,
    pub(super) item: ItemId,
    /// Highest token seen. Nothing lower is obeyed.
    pub(super) token: Token,
    /// What this region was last told to be. Never `Unconfirmed`: that is how `Active` wakes up.
    pub(super) role: Role,
    pub(super) disks: Vec<DiskCard>,
    /// Number of the source and replica directories in use; a new life gets a new one.
    pub(super) life: u64,
    pub(super) layers: Layers,
    pub(super) link: Option<LinkCard>,
    /// Set on an old source: the last write that the new side has.
    pub(super) lost: Option<LostCard>,
    pub(super) promotion: Option<Promotion>,
    /// It serves only while the right to is renewed, by these timings. `None`: it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<FenceTimings>,
}

/// What the bytes of the disks are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Layers {
    /// The raw files alone.
    Plain,
    /// Raw files, journal view and overlay, after a promotion.
    Promoted,
    /// Raw files and a journal that grows.
    Replica,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DiskCard {
    pub(super) name: String,
    pub(super) size_bytes: u64,
    pub(super) path: PathBuf,
    /// Brought by the operator: left in place when the machine is deleted.
    pub(super) brought: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LinkCard {
    pub(super) target: Region,
    pub(super) address: String,
    pub(super) mode: ReplicationMode,
    /// The first copy: everything allocated is sent.
    pub(super) full: bool,
}

/// The exact loss of an old source.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct LostCard {
    pub(super) after: Watermark,
    pub(super) loss: Loss,
    pub(super) exact: bool,
}

impl Card {
    pub(super) fn new(item: ItemId, token: Token, role: Role, disks: Vec<DiskCard>, layers: Layers) -> Self {
        Self {
            version: VERSION,
            item,
            token,
            role,
            disks,
            life: 1,
            layers,
            link: None,
            lost: None,
            promotion: None,
            lease: None,
        }
    }

    /// Reads the card in `dir`; the error names the file and what is safe to do.
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let path = dir.join("card.json");
        let text = fs::read(&path)?;
        let damaged = |why: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} is damaged ({why}): the machine's disks are untouched; move its directory aside to keep it, and protect the machine again",
                    path.display()
                ),
            )
        };
        let card: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if card.version > VERSION {
            return Err(damaged(format!("version {} is newer than this program", card.version)));
        }
        Ok(card)
    }

    /// On return the card is durable.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let (new, path) = (dir.join("card.json.new"), dir.join("card.json"));
        let file = fs::File::create(&new)?;
        io::Write::write_all(&mut &file, &text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        fs::File::open(dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_core::ids::Epoch;

    #[test]
    fn a_card_is_read_back_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let item = ItemId::parse("machine/web-1").unwrap();
        let mut card = Card::new(item, Token::new(1, Epoch(3)), Role::Target, Vec::new(), Layers::Replica);
        card.write(dir.path()).unwrap();
        // As it was written before there were leases.
        assert!(!fs::read_to_string(dir.path().join("card.json")).unwrap().contains("lease"));
        assert_eq!(Card::read(dir.path()).unwrap(), card);
        card.lease = Some(FenceTimings::FAST);
        card.write(dir.path()).unwrap();
        assert_eq!(Card::read(dir.path()).unwrap(), card);
        fs::write(dir.path().join("card.json"), b"{\"version\":1,").unwrap();
        let error = Card::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("card.json is damaged") && error.contains("untouched"), "{error}");
    }
}
