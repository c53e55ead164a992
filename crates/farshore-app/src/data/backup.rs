//! Backups of a database: taken on a schedule, proved by restoring them, kept for a while.
//!
//! Each is a directory named by its time, with `data` (what [`Live::backup`] made) and `backup.json`, which is written last:
//! a directory without it is none. What is being made is in a directory `NAME.making`, a proof in `NAME.proof` or, before it has
//! all, `.NAME.proof.partial`; what a killed node left of either is removed when the backups are opened.
//!
//! A backup that came from another region counts for nothing until it was proved here, too: see [`take_in`].
//!
//! Must always hold: a backup counts as good only after it has been restored here and found whole; a damaged one is named and
//! never restored; a restore never writes to what exists; the newest good backup is never removed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::moment::Moment;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::{BackupMeta, DataError, Engine, Live, Position, Rows, now, postgres, sqlite};
use crate::releases::{remove, sync_all};

const MANIFEST: &str = "backup.json";
const DATA: &str = "data";
const MAKING: &str = "making";
const PROOF: &str = "proof";
const VERSION: u32 = 1;
/// A backup that failed is tried again after this time, or after the schedule's if that is less.
const RETRY: Duration = Duration::from_secs(60);
/// A proof that came to no verdict, usually for want of room, is tried again after this time: each try writes a whole database.
const PROVE_AGAIN_AFTER: Duration = Duration::from_secs(600);
/// Of those that are not good so many stay, or as many as there may be good ones when that is more: a region that just took over
/// has not proved those that it was sent yet. Each takes the room of a database.
const NOT_GOOD_MIN: usize = 3;
const CHANGED: &str = "its files are not what was written";
const MEND: &str = "restore another one; a new one is taken on schedule, or by `app backup now`";

/// One backup, as it is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Backup {
    /// Its name: the time in UTC, which sorts.
    pub id: String,
    /// When it was begun.
    pub at: Moment,
    /// What can restore it.
    pub engine: Engine,
    /// Of its files.
    pub bytes: u64,
    /// What is in it.
    pub position: Position,
    /// The release that was live then.
    pub release: Option<u64>,
    /// When it was restored last, to see whether it can be.
    pub verified_at: Option<Moment>,
    /// It was restored, and was whole.
    pub ok: bool,
    /// Why it was taken; what is wrong with it when it is not `ok`.
    pub why: String,
    /// Rows by table, where they were counted.
    pub rows: Rows,
}

/// `backup.json`. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    id: String,
    #[serde(flatten)]
    meta: BackupMeta,
    sha256: String,
    release: Option<u64>,
    why: String,
    verified_at: Option<Moment>,
    verdict: Verdict,
}

/// What is known of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verdict {
    /// Nobody has restored it yet.
    Unproved,
    /// It was restored and was whole.
    Good,
    /// It was not.
    Bad(String),
}

/// The backups of one app in one region.
#[derive(Debug)]
pub struct Backups {
    dir: PathBuf,
    /// One is taken or proved at a time.
    turn: tokio::sync::Mutex<()>,
    /// When each was last begun to be proved, since the node was started.
    tried: Mutex<BTreeMap<String, Moment>>,
}

impl Backups {
    /// Opens the directory; makes it when it is not there.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn open(dir: &Path) -> Result<Self, DataError> {
        std::fs::create_dir_all(dir).map_err(DataError::io("create", dir))?;
        for path in entries(dir)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // No backup's name has a dot. What is made of such a place may have more behind it.
            if name.split('.').any(|part| part == MAKING || part == PROOF) {
                remove(&path).map_err(DataError::io("remove what an interrupted backup left at", &path))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), turn: tokio::sync::Mutex::new(()), tried: Mutex::default() })
    }

    /// All of them, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read. A backup whose description is damaged is told as one that is not `ok`.
    pub async fn list(&self) -> Result<Vec<Backup>, DataError> {
        all_in(&self.dir)
    }

    /// Takes one of a database that is being used, and proves it by restoring it.
    ///
    /// # Errors
    /// When it could not be taken, or not be restored: then it stays, and is told as one that is not `ok`.
    pub async fn take(&self, live: &dyn Live, why: &str) -> Result<Backup, DataError> {
        self.take_of(live, why, None).await
    }

    /// The same, and remembers which release was live.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn take_of(
        &self,
        live: &dyn Live,
        why: &str,
        release: Option<u64>,
    ) -> Result<Backup, DataError> {
        let turn = self.turn.lock().await;
        let id = self.new_id(now());
        let making = self.dir.join(format!("{id}.{MAKING}"));
        let made = self.make(live, &making, &id, why, release).await;
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&making);
        }
        made?;
        drop(turn);
        self.verify(&id).await
    }

    async fn make(
        &self,
        live: &dyn Live,
        making: &Path,
        id: &str,
        why: &str,
        release: Option<u64>,
    ) -> Result<(), DataError> {
        std::fs::create_dir_all(making).map_err(DataError::io("create", making))?;
        let data = making.join(DATA);
        let meta = live.backup(&data).await?;
        let sha256 = hash_of(data).await?;
        let manifest = Manifest {
            version: VERSION,
            id: id.to_owned(),
            meta,
            sha256,
            release,
            why: why.to_owned(),
            verified_at: None,
            verdict: Verdict::Unproved,
        };
        manifest.write(making)?;
        let done = self.dir.join(id);
        std::fs::rename(making, &done).map_err(DataError::io("put the backup to", &done))?;
        sync(&self.dir)
    }

    fn new_id(&self, at: Moment) -> String {
        // Two in one millisecond are told apart by the later one waiting for the next.
        (0..)
            .map(|later| name_of(at.after(Duration::from_millis(later))))
            .find(|id| !self.dir.join(id).exists())
            .unwrap_or_else(|| name_of(at))
    }

    /// Restores it beside everything else, looks whether it is whole, and remembers what it saw.
    ///
    /// # Errors
    /// When it is damaged, which is remembered, or when this cannot be found out now.
    pub async fn verify(&self, id: &str) -> Result<Backup, DataError> {
        let _turn = self.turn.lock().await;
        self.tried().insert(id.to_owned(), now());
        let mut manifest = self.manifest(id)?;
        let proof = self.dir.join(format!("{id}.{PROOF}"));
        let proved = self.prove(&manifest, &proof).await;
        let removed = remove_all(&proof);
        match &proved {
            Ok(()) => manifest.verdict = Verdict::Good,
            Err(DataError::Corrupt { what, .. }) => manifest.verdict = Verdict::Bad(what.clone()),
            // No verdict about the backup: the disk may be full.
            Err(_) => return proved.map(|()| manifest.told()),
        }
        manifest.verified_at = Some(now());
        manifest.write(&self.dir.join(id))?;
        proved?;
        removed?;
        Ok(manifest.told())
    }

    /// The newest of these that nobody has restored here yet and that is due to be: each is tried once, and again after
    /// a while when that came to no verdict.
    #[must_use]
    pub fn unproved(&self, all: &[Backup], at: Moment) -> Option<String> {
        let mut tried = self.tried();
        tried.retain(|id, _| all.iter().any(|backup| backup.id == *id));
        let is_due = |id: &String| tried.get(id).is_none_or(|tried| tried.after(PROVE_AGAIN_AFTER) <= at);
        let unproved = all.iter().filter(|backup| !backup.ok && backup.verified_at.is_none());
        unproved.map(|backup| &backup.id).filter(|id| is_due(id)).max().cloned()
    }

    fn tried(&self) -> MutexGuard<'_, BTreeMap<String, Moment>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn prove(&self, manifest: &Manifest, proof: &Path) -> Result<(), DataError> {
        let rows = self.restore_checked(manifest, proof).await?;
        let counted = &manifest.meta.rows;
        if !counted.is_empty() && rows != *counted {
            let what =
                format!("it restores to other rows than were counted: {}", differences(counted, &rows));
            return Err(DataError::Corrupt { what, path: self.dir.join(&manifest.id), mend: MEND });
        }
        Ok(())
    }

    /// Makes the new directory `into` a database out of a backup, which is checked before and after. The backup stays.
    ///
    /// # Errors
    /// When `into` exists, or the backup is damaged: then nothing was restored.
    pub async fn restore(&self, id: &str, into: &Path) -> Result<BackupMeta, DataError> {
        let manifest = self.manifest(id)?;
        if let Verdict::Bad(what) = &manifest.verdict {
            return Err(DataError::Corrupt { what: what.clone(), path: self.dir.join(id), mend: MEND });
        }
        self.restore_checked(&manifest, into).await?;
        Ok(manifest.meta)
    }

    async fn restore_checked(&self, manifest: &Manifest, into: &Path) -> Result<Rows, DataError> {
        let data = self.dir.join(&manifest.id).join(DATA);
        if !data.exists() {
            let what = "its data are missing".to_owned();
            return Err(DataError::Corrupt { what, path: data, mend: MEND });
        }
        if hash_of(data.clone()).await? != manifest.sha256 {
            let what = CHANGED.to_owned();
            return Err(DataError::Corrupt { what, path: data, mend: MEND });
        }
        restore_data(&manifest.meta, &data, into).await
    }

    fn manifest(&self, id: &str) -> Result<Manifest, DataError> {
        let path = self.dir.join(id);
        // A name that goes elsewhere names no backup.
        if !is_id(id) || !path.join(MANIFEST).exists() {
            return Err(DataError::Missing { what: format!("a backup {id:?}") });
        }
        Manifest::read(&path)
    }

    /// Removes what is more than `keep` good ones, as [`surplus`] says.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn keep_only(&self, keep: u32) -> Result<(), DataError> {
        let _turn = self.turn.lock().await;
        for id in surplus(&self.list().await?, keep) {
            forget(&self.dir, &id)?;
        }
        Ok(())
    }
}

/// Which of these may go, so that the `keep` newest good ones stay; at least one good one always does. One that is not good
/// stays until `keep` good ones are newer, so that it is seen, or until too many newer ones are not good either.
#[must_use]
pub fn surplus(all: &[Backup], keep: u32) -> Vec<String> {
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    let mut newest: Vec<&Backup> = all.iter().collect();
    newest.sort_by(|one, other| other.id.cmp(&one.id));
    let (mut good, mut not_good, mut gone) = (0, 0, Vec::new());
    for backup in newest {
        if good >= keep || (!backup.ok && not_good >= keep.max(NOT_GOOD_MIN)) {
            gone.push(backup.id.clone());
        } else if backup.ok {
            good += 1;
        } else {
            not_good += 1;
        }
    }
    gone
}

/// When the newest of these was taken that is good, or may be: one that could not be proved yet is proved again, and not taken
/// again. Each is a whole database.
#[must_use]
pub fn last_taken(all: &[Backup]) -> Option<Moment> {
    let may_be_good = |backup: &&Backup| backup.ok || backup.verified_at.is_none();
    all.iter().filter(may_be_good).map(|backup| backup.at).max()
}

/// When the next one is due, on a schedule of one every `minutes` (0: never): `tried` is when the last attempt was begun,
/// `taken` what [`last_taken`] says.
#[must_use]
pub fn due(minutes: u32, taken: Option<Moment>, tried: Option<Moment>) -> Option<Moment> {
    let every = Duration::from_secs(u64::from(minutes) * 60);
    if every.is_zero() {
        return None;
    }
    let by_schedule = taken.map_or(Moment(0), |taken| taken.after(every));
    let after_failure = match (tried, taken) {
        (Some(tried), taken) if taken.is_none_or(|taken| taken < tried) => tried.after(RETRY.min(every)),
        _ => Moment(0),
    };
    Some(by_schedule.max(after_failure))
}

/// Puts a backup that was fetched into the directory `coming` among the others of `backups`, durably. Where it came from it
/// may have been proved; here it is not until [`Backups::verify`] has restored it. One whose files are not what its description
/// says is taken in as a bad one: it is seen, it is never restored, and it is not fetched again and again.
///
/// # Errors
/// As the file system says; then nothing was taken in.
pub(crate) async fn take_in(coming: &Path, backups: &Path, id: &str) -> Result<(), DataError> {
    match Manifest::read_as(coming, id) {
        Ok(mut manifest) => {
            let data = coming.join(DATA);
            let is_whole = data.exists() && hash_of(data).await? == manifest.sha256;
            (manifest.verdict, manifest.verified_at) = match is_whole {
                true => (Verdict::Unproved, None),
                false => (Verdict::Bad(CHANGED.to_owned()), Some(now())),
            };
            if !is_whole {
                tracing::warn!(%id, "a backup of the other region is not what was written");
            }
            manifest.write(coming)?;
        }
        // It is told of as it is.
        Err(DataError::Corrupt { .. }) => {}
        Err(error) => return Err(error),
    }
    let (from, to) = (coming.to_owned(), backups.join(id));
    let failed = DataError::io("take in the backup", &to);
    let placed = tokio::task::spawn_blocking(move || {
        sync_all(&from)?;
        // What is there without a description is what a removal left.
        remove(&to)?;
        std::fs::rename(&from, &to)
    });
    placed.await.map_err(std::io::Error::other).flatten().map_err(failed)?;
    sync(backups)
}

/// The backups of a directory, oldest first.
///
/// # Errors
/// As [`Backups::list`].
pub(crate) fn all_in(backups: &Path) -> Result<Vec<Backup>, DataError> {
    let is_one = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        name.is_some_and(|name| is_id(&name)) && path.join(MANIFEST).exists()
    };
    let mut all: Vec<Backup> = entries(backups)?.into_iter().filter(is_one).map(|path| told(&path)).collect();
    all.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(all)
}

/// Removes one of a directory's backups.
///
/// # Errors
/// As the file system says.
pub(crate) fn forget(backups: &Path, id: &str) -> Result<(), DataError> {
    // Without its description it is none any more, also when the node is killed now.
    let path = backups.join(id);
    let manifest = path.join(MANIFEST);
    remove(&manifest).map_err(DataError::io("remove", &manifest))?;
    remove(&path).map_err(DataError::io("remove the old backup", &path))
}

/// Whether this backup is among those of a directory.
pub(crate) fn has_one(backups: &Path, id: &str) -> bool {
    backups.join(id).join(MANIFEST).exists()
}

impl Manifest {
    fn read(dir: &Path) -> Result<Self, DataError> {
        Self::read_as(dir, &dir.file_name().unwrap_or_default().to_string_lossy())
    }

    /// What describes the backup `id` in `dir`.
    fn read_as(dir: &Path, id: &str) -> Result<Self, DataError> {
        let path = dir.join(MANIFEST);
        let bytes = std::fs::read(&path).map_err(DataError::io("read", &path))?;
        let damaged = |what| DataError::Corrupt { what, path: path.clone(), mend: MEND };
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if manifest.version != VERSION || manifest.id != id {
            return Err(damaged("it describes another backup".to_owned()));
        }
        Ok(manifest)
    }

    fn write(&self, dir: &Path) -> Result<(), DataError> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("plain fields have no fallible encoding");
        bytes.push(b'\n');
        let (path, new) = (dir.join(MANIFEST), dir.join("backup.new"));
        let write = || {
            std::fs::write(&new, &bytes)?;
            File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &path)
        };
        write().map_err(DataError::io("write", &path))?;
        sync(dir)
    }

    fn told(self) -> Backup {
        let (ok, why) = match self.verdict {
            Verdict::Good => (true, self.why),
            Verdict::Unproved => (false, "it was not proved yet".to_owned()),
            Verdict::Bad(what) => (false, what),
        };
        let BackupMeta { engine, position, at, bytes, rows } = self.meta;
        let (id, release, verified_at) = (self.id, self.release, self.verified_at);
        Backup { id, at, engine, bytes, position, release, verified_at, ok, why, rows }
    }
}

/// A backup as it is told, whatever is left of its description.
fn told(dir: &Path) -> Backup {
    match Manifest::read(dir) {
        Ok(manifest) => manifest.told(),
        Err(error) => Backup {
            id: dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            at: Moment(0),
            engine: Engine::Sqlite,
            bytes: 0,
            position: Position::default(),
            release: None,
            verified_at: None,
            ok: false,
            why: error.to_string(),
            rows: Rows::new(),
        },
    }
}

async fn restore_data(meta: &BackupMeta, data: &Path, into: &Path) -> Result<Rows, DataError> {
    match meta.engine {
        Engine::Sqlite => sqlite::restore_backup(data, into).await,
        Engine::Postgres => postgres::restore_backup(data, into, meta.position).await,
    }
}

/// `20261121-050000-250`.
fn name_of(at: Moment) -> String {
    let text = at.to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    match (digits.get(..8), digits.get(8..14), digits.get(14..17)) {
        (Some(day), Some(time), Some(millis)) => format!("{day}-{time}-{millis}"),
        _ => format!("{:020}", at.0),
    }
}

/// Whether a backup can be called so: no other path can.
pub(crate) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

/// The tables whose counts differ.
fn differences(counted: &Rows, found: &Rows) -> String {
    let names: std::collections::BTreeSet<&String> = counted.keys().chain(found.keys()).collect();
    let count = |rows: &Rows, name| rows.get(name).map_or("no table".to_owned(), u64::to_string);
    let differ = names.into_iter().filter(|name| counted.get(*name) != found.get(*name));
    let said = differ.map(|name| format!("{name}: {} became {}", count(counted, name), count(found, name)));
    said.collect::<Vec<_>>().join(", ")
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    list().map_err(DataError::io("list", dir))
}

fn remove_all(dir: &Path) -> Result<(), DataError> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DataError::io("remove the proof", dir)(error))
        }
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> Result<(), DataError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(DataError::io("sync the directory", dir))
}

/// One hash over a file, or over all files of a directory with their names and lengths.
async fn hash_of(path: PathBuf) -> Result<String, DataError> {
    let failed = DataError::io("read the backup", &path);
    let hash = move || -> std::io::Result<String> {
        let mut context = Context::new(&SHA256);
        add_to_hash(&mut context, &path, "")?;
        Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    match tokio::task::spawn_blocking(hash).await {
        Ok(hash) => hash.map_err(failed),
        Err(_) => Err(failed(std::io::Error::other("the work was broken off"))),
    }
}

fn add_to_hash(context: &mut Context, path: &Path, name: &str) -> std::io::Result<()> {
    if path.is_dir() {
        let mut names = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()?;
        names.sort();
        return names
            .iter()
            .try_for_each(|inner| add_to_hash(context, &path.join(inner), &format!("{name}/{inner}")));
    }
    let mut file = File::open(path)?;
    if !name.is_empty() {
        context.update(format!("{name}\n{}\n", file.metadata()?.len()).as_bytes());
    }
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => context.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests;
