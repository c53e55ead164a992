//! Makes a database directory from a base and the log after it.
//!
//! Every file of the base is checked against the list that the server made with it, the log was checked record by record
//! when it came, and what lies behind its last whole record is wiped. The server itself replays the log at its first start,
//! onto a new timeline; it is then asked how far it came. The directory gets its name when everything is in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::cluster::{Card, Cluster, refuse_used, replace};
use super::programs::Programs;
use super::records::{Reach, SEGMENT, lsn_text, parse_lsn};
use crate::data::DataError;
use crate::data::unfinished::Unfinished;

/// The list of files that the server puts at the end of a base.
const MANIFEST: &str = "backup_manifest";
/// No list is longer: some hundred bytes for each of a million files.
const MANIFEST_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Tells the server to take its log from an archive, and to begin a new timeline when it ends. Our archive is empty: the log
/// is in its place already.
const SIGNAL: &str = "recovery.signal";
/// Copied at once.
const COPY_BYTES: usize = 256 * 1024;

/// What a database is made from.
#[derive(Debug)]
pub(super) struct Source {
    /// The archive.
    pub(super) base: File,
    /// Where it is, for errors.
    pub(super) base_path: PathBuf,
    /// The log from the base on, by the names of its segments. Empty: it is in the archive.
    pub(super) segments: Vec<(String, File)>,
    /// Where the log ends, and how many commits there are.
    pub(super) reach: Reach,
}

/// Makes `into` a database. It must not exist. All or nothing. Blocks.
pub(super) fn build(programs: &Programs, source: Source, into: &Path) -> Result<(), DataError> {
    refuse_used(into)?;
    let unfinished = Unfinished::beside(into)?;
    let beside = unfinished.path();
    let data = beside.join("data");
    programs.make_dir(&data).map_err(DataError::io("make the directory", &data))?;
    let reach = source.reach;
    unpack(programs, &source, &data)?;
    place_log(programs, source, &data)?;
    let signal = data.join(SIGNAL);
    replace(&signal, b"")
        .and_then(|()| programs.give(&signal, 0o600))
        .map_err(DataError::io("write", &signal))?;
    Cluster::at(beside).save(&Card::fresh(reach))?;
    unfinished.finish()
}

/// The files of the base, each with its checksum.
type Sums = BTreeMap<PathBuf, (u64, u32)>;

fn unpack(programs: &Programs, source: &Source, data: &Path) -> Result<(), DataError> {
    let failed = |error| DataError::io("unpack the base", &source.base_path)(error);
    let mut archive = tar::Archive::new(BufReader::with_capacity(COPY_BYTES, &source.base));
    let (mut sums, mut manifest) = (Sums::new(), None);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        if !name.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(damaged(source, format!("it has a file outside of it: {}", name.display())));
        }
        let path = data.join(&name);
        if entry.header().entry_type().is_dir() {
            fs::create_dir_all(&path).and_then(|()| programs.give(&path, 0o700)).map_err(failed)?;
        } else if !entry.header().entry_type().is_file() {
            return Err(damaged(source, format!("{} is neither a file nor a directory", name.display())));
        } else if name == Path::new(MANIFEST) {
            let mut text = Vec::new();
            entry.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
            manifest = Some(text);
        } else {
            let sum = copy(&mut entry, &path).and_then(|sum| programs.give(&path, 0o600).map(|()| sum));
            sums.insert(name, sum.map_err(DataError::io("write", &path))?);
        }
    }
    let manifest = manifest.ok_or_else(|| damaged(source, "it has no list of its files".to_owned()))?;
    check(&manifest, &sums).map_err(|what| damaged(source, what))
}

fn damaged(source: &Source, what: String) -> DataError {
    let mend = "it is not restored; fetch a new base, or restore another backup";
    DataError::Corrupt { what, path: source.base_path.clone(), mend }
}

fn copy(from: &mut impl Read, path: &Path) -> io::Result<(u64, u32)> {
    let mut file = File::create_new(path)?;
    let mut buffer = vec![0; COPY_BYTES];
    let (mut len, mut crc) = (0, 0);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok((len, crc));
        }
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
        len += read as u64;
        file.write_all(&buffer[..read])?;
    }
}

/// The server's own list; what else is in it does not matter here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    path: Option<PathBuf>,
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

fn check(manifest: &[u8], sums: &Sums) -> Result<(), String> {
    let manifest: Manifest =
        serde_json::from_slice(manifest).map_err(|error| format!("its list cannot be read: {error}"))?;
    for listed in manifest.files {
        let Some(path) = listed.path else { continue }; // A name that is no text: none of ours.
        let name = path.display();
        let Some((len, crc)) = sums.get(&path) else { return Err(format!("{name} is missing")) };
        if *len != listed.size {
            return Err(format!("{name} has {len} bytes instead of {}", listed.size));
        }
        let sum: String = crc.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let is_crc = listed.algorithm.as_deref() == Some("CRC32C");
        if is_crc && listed.checksum.is_some_and(|listed| listed != sum) {
            return Err(format!("the checksum of {name} is wrong"));
        }
    }
    Ok(())
}

/// Puts the log where the server looks for it, and wipes what is behind its end.
fn place_log(programs: &Programs, source: Source, data: &Path) -> Result<(), DataError> {
    let wal = data.join("pg_wal");
    let end = source.reach.boundary;
    let last = source.segments.len().saturating_sub(1);
    for (index, (name, mut from)) in source.segments.into_iter().enumerate() {
        let path = wal.join(name);
        let mut placed = || {
            let mut file = File::create_new(&path)?;
            io::copy(&mut from, &mut file)?;
            if index == last && !end.is_multiple_of(SEGMENT) {
                file.set_len(end % SEGMENT)?;
            }
            file.set_len(SEGMENT)?;
            programs.give(&path, 0o600)
        };
        placed().map_err(DataError::io("place the log at", &path))?;
    }
    Ok(())
}

/// Whether a server that was just restored has replayed everything: it left the old timeline where our log ended.
pub(super) fn check_replayed(cluster: &Cluster, timeline: u32, reach: Reach) -> Result<(), DataError> {
    let path = cluster.wal().join(format!("{timeline:08X}.history"));
    let history = fs::read_to_string(&path).map_err(DataError::io("read the history", &path))?;
    let left = history.lines().rev().find_map(|line| parse_lsn(line.split_whitespace().nth(1)?));
    match left {
        Some(left) if left >= reach.boundary => Ok(()),
        left => Err(DataError::Corrupt {
            what: format!(
                "the log was replayed to {} of {}",
                left.map_or_else(|| "nowhere".to_owned(), lsn_text),
                lsn_text(reach.boundary)
            ),
            path: cluster.wal(),
            mend: "do not use this database; restore it again, or from a backup",
        }),
    }
}
