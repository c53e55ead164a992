//! The whole store in a file and back, and from one store into another. The file: `docs/formats/backup.md`.
//!
//! Read in this order: [`backup`], [`open_backup`] (the file), [`fill`], [`replace`] (into a store), [`compare`].
//!
//! Must always hold: a backup is one revision; a damaged one is refused as a whole, with the line; no node can start on a
//! store that is filled half: what stands in the place of `meta` until everything was read back is none.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_core::store::{
    CommitError, Compare, KEY_LEN_MAX, ReadError, Store, TRANSACTION_LEN_MAX, TRANSACTION_OPS_MAX,
    Transaction, Write,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of the file that is written, and the only one that is read.
pub const BACKUP_VERSION: u32 = 1;

/// The key that names the cluster and its incarnation. Nobody starts on a store in which it does not read as such.
const META: &str = "meta";

/// Stands in `meta` while a store is being filled, and after that was interrupted. It names no cluster.
const UNFINISHED: &str = "a restore or migration was interrupted here: repeat it with --replace";

/// How often a transaction with an unknown outcome is sent again. Each attempt waits for the store's own time limit.
const ATTEMPTS_MAX: usize = 10;

/// What a transaction of a fill may hold: half of the limit, so that no key or overhead counts.
const FILL_LEN_MAX: usize = TRANSACTION_LEN_MAX / 2;

/// Why a transfer ended.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The backup is not what was written.
    #[error("{} is damaged at line {line}: {what}; nothing was restored: use another backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The backup is of a version that this program does not know.
    #[error("{} is a backup of version {version}, this program reads version {BACKUP_VERSION}: use the program that made it", path.display())]
    Version {
        /// Which.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The store to fill holds something.
    #[error("the store is not empty: it holds {keys} keys, the first is {first}; nothing was changed")]
    NotEmpty {
        /// How many.
        keys: usize,
        /// The first in order.
        first: String,
    },
    /// What was read back differs from what was written.
    #[error(
        "the store does not hold what was written: {0}; no node can start on it until the same is repeated"
    )]
    NotVerified(String),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store cannot be written.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// First line of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// [`BACKUP_VERSION`].
    pub farshore_backup: u32,
    /// The cluster it is of; empty when the store named none.
    pub cluster: String,
    /// The store's incarnation.
    pub incarnation: u64,
    /// The revision at which all values were read.
    pub revision: u64,
    /// How many keys follow.
    pub count: usize,
}

/// A backup that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// What it is of.
    pub header: BackupHeader,
    /// All keys and values, sorted by key.
    pub entries: Vec<(String, Vec<u8>)>,
}

/// A line for one key. Values are text where they are UTF-8, so that a person can read them.
#[derive(Debug, Serialize, Deserialize)]
struct EntryLine {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// Of the key, a zero byte and the value.
    crc32c: String,
}

/// Last line: over all bytes before it.
#[derive(Debug, Serialize, Deserialize)]
struct EndLine {
    sha256: String,
}

#[derive(Debug, Default, Deserialize)]
struct MetaValue {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    incarnation: u64,
}

/// `meta` of a store that is not whole.
#[derive(Debug, Serialize)]
struct Mark {
    unfinished: &'static str,
    /// Of the store that was there before: a restore must go beyond it, also when it is repeated.
    incarnation: u64,
}

/// Writes everything in `store`, at one revision, to the new file `path` (readable by its owner only: it holds what the
/// store holds). On return it is durable and has been read back. An existing file is not touched.
pub async fn backup(store: &dyn Store, path: &Path) -> Result<BackupHeader, TransferError> {
    let (listed, revision) = store.list("").await?;
    let meta = listed.iter().find(|entry| entry.key == META);
    let MetaValue { cluster, incarnation } = meta.map(|entry| meta_of(&entry.value)).unwrap_or_default();
    let header = BackupHeader {
        farshore_backup: BACKUP_VERSION,
        cluster,
        incarnation,
        revision: revision.0,
        count: listed.len(),
    };
    let entries = listed.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let backup = Backup { header, entries };
    write_new(path, &encode(&backup)).map_err(|source| TransferError::File { path: path.into(), source })?;
    if open_backup(path)? != backup {
        let what = "it does not read back as it was written".into();
        return Err(TransferError::Damaged { path: path.into(), line: 1, what });
    }
    Ok(backup.header)
}

/// The keys and values of a backup, after all of it was found whole.
pub fn read_backup(path: &Path) -> Result<Vec<(String, Vec<u8>)>, TransferError> {
    Ok(open_backup(path)?.entries)
}

/// A backup, after all of it was found whole.
pub fn open_backup(path: &Path) -> Result<Backup, TransferError> {
    let bytes = fs::read(path).map_err(|source| TransferError::File { path: path.into(), source })?;
    decode(&bytes).map_err(|fault| match fault {
        Fault::Version(version) => TransferError::Version { path: path.into(), version },
        Fault::Line(line, what) => TransferError::Damaged { path: path.into(), line, what },
    })
}

fn encode(backup: &Backup) -> Vec<u8> {
    let mut out = line_of(&backup.header);
    for (key, value) in &backup.entries {
        let text = std::str::from_utf8(value).ok().map(str::to_owned);
        let base64 = text.is_none().then(|| STANDARD.encode(value));
        out.extend(line_of(&EntryLine { key: key.clone(), text, base64, crc32c: crc(key, value) }));
    }
    let end = EndLine { sha256: sha256(&out) };
    out.extend(line_of(&end));
    out
}

fn line_of(line: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("strings and numbers are JSON");
    bytes.push(b'\n');
    bytes
}

fn crc(key: &str, value: &[u8]) -> String {
    let sum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), &[0]), value);
    format!("{sum:08x}")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

enum Fault {
    Version(u32),
    Line(usize, String),
}

fn decode(bytes: &[u8]) -> Result<Backup, Fault> {
    let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let last = lines.len();
    let header: BackupHeader = parse(lines.first().copied().unwrap_or_default(), 1)
        .map_err(|_| Fault::Line(1, "it does not begin as a backup".into()))?;
    if header.farshore_backup != BACKUP_VERSION {
        return Err(Fault::Version(header.farshore_backup));
    }
    if last < 2 {
        return Err(Fault::Line(last + 1, format!("it ends here; {} keys should follow", header.count)));
    }
    let end = lines.pop().unwrap_or_default();
    let mut entries: Vec<(String, Vec<u8>)> = Vec::new();
    for (number, line) in (2..).zip(lines.iter().skip(1)) {
        let entry = decode_entry(line, number)?;
        if entries.last().is_some_and(|before| before.0 >= entry.0) {
            return Err(Fault::Line(number, format!("the key {} is out of order", entry.0)));
        }
        entries.push(entry);
    }
    let sum: EndLine = parse(end, last).map_err(|_| {
        Fault::Line(
            last,
            format!("it ends with no checksum, after {} of {} keys", entries.len(), header.count),
        )
    })?;
    if entries.len() != header.count {
        return Err(Fault::Line(last, format!("it holds {} of {} keys", entries.len(), header.count)));
    }
    let body = bytes.get(..bytes.len() - end.len()).unwrap_or_default();
    if sum.sha256 != sha256(body) {
        return Err(Fault::Line(last, "the checksum does not match the lines before".into()));
    }
    Ok(Backup { header, entries })
}

fn decode_entry(line: &[u8], number: usize) -> Result<(String, Vec<u8>), Fault> {
    let wrong = |what: &str| Fault::Line(number, what.into());
    let entry: EntryLine = parse(line, number)?;
    let value = match (entry.text, entry.base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => STANDARD.decode(base64).map_err(|error| wrong(&error.to_string()))?,
        _ => return Err(wrong("it has no value, or two")),
    };
    if entry.crc32c != crc(&entry.key, &value) {
        return Err(wrong("its checksum does not match"));
    }
    if entry.key.is_empty() || entry.key.len() > KEY_LEN_MAX {
        return Err(wrong("its key is empty or too long"));
    }
    Ok((entry.key, value))
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8], number: usize) -> Result<T, Fault> {
    if !line.ends_with(b"\n") {
        return Err(Fault::Line(number, "the line is cut off".into()));
    }
    serde_json::from_slice(line).map_err(|error| Fault::Line(number, error.to_string()))
}

/// Durable and complete, or not there: written beside, then given its name, which must be free.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    let linked = fs::hard_link(&part, path);
    fs::remove_file(&part)?;
    linked?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// The incarnation of what is in `store`, finished or not; 0 when it names none.
pub async fn incarnation(store: &dyn Store) -> Result<u64, TransferError> {
    Ok(store.get(META).await?.map(|entry| meta_of(&entry.value).incarnation).unwrap_or_default())
}

fn meta_of(value: &[u8]) -> MetaValue {
    serde_json::from_slice(value).unwrap_or_default()
}

/// Puts `entries` into an empty store, reads everything back, and puts `meta` last: before, no node can start on it.
pub async fn fill(store: &dyn Store, entries: Vec<(String, Vec<u8>)>) -> Result<(), TransferError> {
    let (found, _) = store.list("").await?;
    if let Some(first) = found.first() {
        return Err(TransferError::NotEmpty { keys: found.len(), first: first.key.clone() });
    }
    let first = Transaction {
        compares: vec![Compare::Absent(META.into())],
        writes: vec![Write::Put(META.into(), mark(0))],
    };
    commit(store, first).await?;
    put_all(store, entries, mark(0)).await
}

/// As [`fill`], for a store that may hold anything: that is lost. No node may be running on it.
pub async fn replace(store: &dyn Store, entries: Vec<(String, Vec<u8>)>) -> Result<(), TransferError> {
    let mark = mark(incarnation(store).await?);
    put(store, vec![Write::Put(META.into(), mark.clone())]).await?;
    let (found, _) = store.list("").await?;
    let others = found.into_iter().filter(|entry| entry.key != META);
    let deletes: Vec<_> = others.map(|entry| Write::Delete(entry.key)).collect();
    for writes in deletes.chunks(TRANSACTION_OPS_MAX) {
        put(store, writes.to_vec()).await?;
    }
    put_all(store, entries, mark).await
}

fn mark(incarnation: u64) -> Vec<u8> {
    serde_json::to_vec(&Mark { unfinished: UNFINISHED, incarnation }).expect("strings and numbers are JSON")
}

async fn put_all(
    store: &dyn Store,
    entries: Vec<(String, Vec<u8>)>,
    mark: Vec<u8>,
) -> Result<(), TransferError> {
    let (meta, entries): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key == META);
    let mut writes = Vec::new();
    let mut len = 0;
    for (key, value) in &entries {
        let cost = key.len() + value.len();
        if writes.len() == TRANSACTION_OPS_MAX || (len + cost > FILL_LEN_MAX && !writes.is_empty()) {
            put(store, std::mem::take(&mut writes)).await?;
            len = 0;
        }
        len += cost;
        writes.push(Write::Put(key.clone(), value.clone()));
    }
    put(store, writes).await?;
    let mut expected: BTreeMap<_, _> = entries.into_iter().collect();
    expected.insert(META.into(), mark);
    compare(store, &expected).await?;
    let last = match meta.into_iter().next() {
        Some((key, value)) => Write::Put(key, value),
        None => Write::Delete(META.into()),
    };
    put(store, vec![last]).await
}

/// Whether `store` holds exactly `expected`.
pub async fn compare(store: &dyn Store, expected: &BTreeMap<String, Vec<u8>>) -> Result<(), TransferError> {
    let (found, _) = store.list("").await?;
    let found: BTreeMap<_, _> = found.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let differs = |key: &&String| found.get(*key) != expected.get(*key);
    match found.keys().chain(expected.keys()).find(differs) {
        Some(key) => Err(TransferError::NotVerified(format!("{key} differs"))),
        None => Ok(()),
    }
}

/// Writes that may be repeated: an unknown outcome is resolved by doing it again.
async fn put(store: &dyn Store, writes: Vec<Write>) -> Result<(), TransferError> {
    commit(store, Transaction { compares: vec![], writes }).await
}

async fn commit(store: &dyn Store, transaction: Transaction) -> Result<(), TransferError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match store.commit(transaction.clone()).await {
            Ok(_) => return Ok(()),
            Err(CommitError::Unknown(_)) if attempts < ATTEMPTS_MAX && transaction.compares.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
    }
}
