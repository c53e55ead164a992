//! Fetching a snapshot: what is here already is compared by the hashes of its pages, and only pages that differ travel.
//!
//! The file is made of the best guess at hand (an older copy of the same database), and its pages are replaced in place. What
//! is in it after a crash is such a guess again. In the end the hash of the whole decides.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::part::{Base, Part, PartRecord, base_file, crc_of, sync_dir};
use super::snapshot::{page_hash, sha256_of};
use super::wal::read_some;
use super::wire::{HASH, Offer, RANGES_MAX, Want};
use crate::data::DataError;

/// A snapshot that is being fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) offer: Offer,
    dir: PathBuf,
    file: File,
    /// Pages before this one have been compared.
    compared: u32,
    /// Compared and found different: first index and count.
    missing: VecDeque<(u32, u32)>,
    /// Pages that are as they must be.
    right: u32,
    /// All of them were found to be what was offered: their CRC-32C.
    proved: Option<u32>,
}

impl Fetch {
    /// Begins in the directory `dir`, which exists. `guess` puts a file like the snapshot to a path, if it can.
    pub(super) fn begin(
        dir: &Path,
        offer: Offer,
        guess: impl FnOnce(&Path) -> Result<bool, DataError>,
    ) -> Result<Self, DataError> {
        let path = part_file(dir);
        if !path.exists() && !guess(&path)? {
            let _ = std::fs::remove_file(&path);
        }
        let failed = DataError::io("create", &path);
        let open = || -> std::io::Result<(File, u64)> {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            let bytes = file.metadata()?.len();
            file.set_len(whole_bytes(&offer))?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(failed)?;
        let dir = dir.to_owned();
        let mut fetch =
            Self { offer, dir, file, compared: 0, missing: VecDeque::new(), right: 0, proved: None };
        if bytes == 0 {
            fetch.ask_for_all();
        }
        Ok(fetch)
    }

    fn ask_for_all(&mut self) {
        self.compared = self.offer.pages;
        self.right = 0;
        self.missing = VecDeque::from([(0, self.offer.pages)]);
    }

    /// What is needed next; nothing when all pages are here.
    pub(super) fn want(&self) -> Option<Want> {
        let snapshot = self.offer.snapshot;
        if !self.missing.is_empty() {
            let ranges = self.missing.iter().take(RANGES_MAX).copied().collect();
            return Some(Want::Pages { snapshot, ranges });
        }
        (self.compared < self.offer.pages).then_some(Want::Hashes { snapshot, from: self.compared })
    }

    /// Bytes that are here, and in all.
    pub(super) fn progress(&self) -> (u64, u64) {
        (u64::from(self.right) * u64::from(self.offer.page_size), whole_bytes(&self.offer))
    }

    /// Compares pages with these hashes. False when they were not asked for.
    pub(super) fn take_hashes(&mut self, snapshot: u64, from: u32, hashes: &[u8]) -> Result<bool, DataError> {
        let count = hashes.len() / HASH;
        let room = (self.offer.pages - self.compared) as usize;
        if snapshot != self.offer.snapshot || from != self.compared || count == 0 || count > room {
            return Ok(false);
        }
        let mut page = vec![0; self.offer.page_size as usize];
        for hash in hashes.chunks_exact(HASH) {
            let at = u64::from(self.compared) * page.len() as u64;
            let read = read_some(&self.file, &mut page, at).map_err(self.failed("read"))?;
            if read == page.len() && page_hash(&page) == hash {
                self.right += 1;
            } else {
                self.lacks(self.compared);
            }
            self.compared += 1;
        }
        Ok(true)
    }

    fn lacks(&mut self, page: u32) {
        match self.missing.back_mut() {
            Some((first, count)) if *first + *count == page => *count += 1,
            _ => self.missing.push_back((page, 1)),
        }
    }

    /// Puts pages in their places. False when they were not asked for.
    pub(super) fn take_pages(
        &mut self,
        snapshot: u64,
        ranges: &[(u32, u32)],
        mut pages: &[u8],
    ) -> Result<bool, DataError> {
        if snapshot != self.offer.snapshot {
            return Ok(false);
        }
        let size = self.offer.page_size as usize;
        for (first, count) in ranges {
            let asked = self.missing.front().is_some_and(|(lacks, most)| lacks == first && count <= most);
            let Some((these, rest)) = pages.split_at_checked(*count as usize * size).filter(|_| asked) else {
                return Err(DataError::Foreign("pages that were not asked for".to_owned()));
            };
            let at = u64::from(*first) * size as u64;
            self.file.write_all_at(these, at).map_err(self.failed("write"))?;
            self.right += count;
            pages = rest;
            match self.missing.pop_front() {
                Some((first, most)) if most > *count => {
                    self.missing.push_front((first + count, most - count));
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// When all pages are here: makes the beginning of a copy of them, durably. Nothing when they are not what was offered:
    /// then all of them are fetched again. Called again after a failure it goes on where it was: the disk may have been full.
    pub(super) fn finish(&mut self) -> Result<Option<Part>, DataError> {
        let Some(crc32c) = self.prove()? else {
            tracing::warn!(dir = %self.dir.display(), "the snapshot is not what was offered: it is fetched again");
            self.ask_for_all();
            return Ok(None);
        };
        let Offer { snapshot, from, whole_at, base, page_size, .. } = self.offer;
        let base = Base { place: from, position: base, bytes: whole_bytes(&self.offer), crc32c };
        let (part, named) = (part_file(&self.dir), base_file(&self.dir, &base));
        if part.exists() || !named.exists() {
            std::fs::rename(part, named).map_err(self.failed("rename"))?;
        }
        sync_dir(&self.dir)?;
        Part::begin(&self.dir, PartRecord { snapshot, page_size, whole_at, base }).map(Some)
    }

    /// The CRC-32C of the pages, which are durable on return; nothing when they are not what was offered. All of them are read for
    /// it, and only once.
    fn prove(&mut self) -> Result<Option<u32>, DataError> {
        if self.proved.is_none() {
            if sha256_of(&self.file).map_err(self.failed("read"))? != self.offer.sha256 {
                return Ok(None);
            }
            self.file.sync_all().map_err(self.failed("sync"))?;
            self.proved = Some(crc_of(&self.file).map_err(self.failed("read"))?);
        }
        Ok(self.proved)
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(std::io::Error) -> DataError + use<> {
        DataError::io(what, &part_file(&self.dir))
    }
}

/// Where a snapshot is put together.
pub(super) fn part_file(dir: &Path) -> PathBuf {
    dir.join("base.part")
}

fn whole_bytes(offer: &Offer) -> u64 {
    u64::from(offer.pages) * u64::from(offer.page_size)
}
