//! A copy of the whole database at one moment, to begin a replica with: taken while the app writes, and sent by pages.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest::{Context, SHA256, digest};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::pins::{pin, unpin};
use super::source::sqlite;
use super::wal::read_some;
use super::wire::{Body, HASH, HASHES_MAX, Offer, PIECE_MAX};
use crate::data::{DataError, Rows};

/// Bytes that are read at once to be hashed.
const READ_BYTES: usize = 1 << 20;

/// A snapshot in a file, which is removed with it.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) offer: Offer,
    file: File,
    path: PathBuf,
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A finished copy.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) file: File,
    pub(super) bytes: u64,
    pub(super) sha256: [u8; 32],
}

impl Snapshot {
    pub(super) fn new(offer: Offer, copied: Copied, path: PathBuf) -> Self {
        Self { offer, file: copied.file, path }
    }

    /// Hashes of pages from index `from` on.
    pub(super) fn hashes(&self, from: u32) -> Result<Body, DataError> {
        let count = self.offer.pages.saturating_sub(from).min(HASHES_MAX);
        let mut hashes = Vec::with_capacity(count as usize * HASH);
        let size = self.offer.page_size as usize;
        let mut page = vec![0; size];
        for index in from..from + count {
            self.read(&mut page, u64::from(index) * size as u64)?;
            hashes.extend_from_slice(&page_hash(&page));
        }
        Ok(Body::Hashes { snapshot: self.offer.snapshot, from, hashes: hashes.into() })
    }

    /// Pages of as many of these ranges as an answer holds.
    pub(super) fn pages(&self, ranges: &[(u32, u32)]) -> Result<Body, DataError> {
        let size = self.offer.page_size as usize;
        let mut room = (PIECE_MAX / size) as u32;
        let (mut given, mut pages) = (Vec::new(), Vec::new());
        for (first, count) in ranges {
            let count = self.offer.pages.saturating_sub(*first).min(*count).min(room);
            if count == 0 {
                break;
            }
            let start = pages.len();
            pages.resize(start + count as usize * size, 0);
            self.read(&mut pages[start..], u64::from(*first) * size as u64)?;
            given.push((*first, count));
            room -= count;
        }
        if given.is_empty() {
            return Err(DataError::Foreign("a request for pages that the snapshot does not have".to_owned()));
        }
        Ok(Body::Pages { snapshot: self.offer.snapshot, ranges: given, pages: Bytes::from(pages) })
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), DataError> {
        let failed = DataError::io("read the snapshot", &self.path);
        match read_some(&self.file, into, at) {
            Ok(read) if read == into.len() => Ok(()),
            Ok(_) => Err(failed(std::io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(failed(error)),
        }
    }
}

/// What tells pages apart.
pub(super) fn page_hash(page: &[u8]) -> [u8; HASH] {
    let mut hash = [0; HASH];
    hash.copy_from_slice(&digest(&SHA256, page).as_ref()[..HASH]);
    hash
}

/// Copies what `pinned`, which is inside a read transaction, sees of the database into the new file `into`.
pub(super) fn copy_database(pinned: &Connection, into: &Path) -> Result<Copied, DataError> {
    let _ = std::fs::remove_file(into);
    let copy = || -> rusqlite::Result<StepResult> {
        let mut target = Connection::open(into)?;
        target.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF")?;
        Backup::new(pinned, &mut target)?.step(-1)
    };
    let ended = copy().map_err(sqlite("copy the database to", into))?;
    if ended != StepResult::Done {
        return Err(sqlite("copy the database to", into)(format!("the copying ended as {ended:?}")));
    }
    let failed = DataError::io("read the copy", into);
    let read = || -> std::io::Result<Copied> {
        let file = File::options().read(true).write(true).open(into)?;
        let bytes = file.metadata()?.len();
        let sha256 = sha256_of(&file)?;
        Ok(Copied { file, bytes, sha256 })
    };
    read().map_err(failed)
}

/// The hash of a whole file.
pub(super) fn sha256_of(file: &File) -> std::io::Result<[u8; 32]> {
    let (mut context, mut buffer, mut at) = (Context::new(&SHA256), vec![0; READ_BYTES], 0);
    loop {
        let read = read_some(file, &mut buffer, at)?;
        context.update(&buffer[..read]);
        at += read as u64;
        if read < buffer.len() {
            break;
        }
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    Ok(sum)
}

/// Runs `work` inside a read transaction of its own connection.
pub(super) fn reading<T>(
    file: &Path,
    work: impl FnOnce(&Connection) -> Result<T, DataError>,
) -> Result<T, DataError> {
    let db = super::pins::connect(file).map_err(sqlite("open the database", file))?;
    pin(&db).map_err(sqlite("begin to read", file))?;
    let done = work(&db);
    unpin(&db);
    done
}

/// Rows of each table that the app made.
pub(super) fn count_rows(db: &Connection, file: &Path) -> Result<Rows, DataError> {
    let count = || -> rusqlite::Result<Rows> {
        let mut names = db.prepare(
            "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' \
             AND sql NOT LIKE 'CREATE VIRTUAL%'",
        )?;
        let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
        let rows = |name: &String| {
            let sql = format!("SELECT count(*) FROM \"{}\"", name.replace('"', "\"\""));
            db.query_row(&sql, [], |row| row.get::<_, i64>(0))
                .map(|count| (name.clone(), count.unsigned_abs()))
        };
        names.iter().map(rows).collect()
    };
    count().map_err(sqlite("count the rows", file))
}

/// Whether a database that nobody uses is whole, as SQLite itself judges it.
pub(super) fn check_whole(file: &Path) -> Result<(), DataError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let judge = || -> rusqlite::Result<Vec<String>> {
        let db = Connection::open_with_flags(file, flags)?;
        let mut check = db.prepare("PRAGMA integrity_check(10)")?;
        check.query_map([], |row| row.get(0))?.collect()
    };
    let said = judge().map_err(sqlite("check the database", file))?;
    if said == ["ok"] {
        return Ok(());
    }
    Err(DataError::Corrupt {
        what: format!("its integrity check says: {}", said.join("; ")),
        path: file.to_owned(),
        mend: "restore another backup, or ask SQLite's .recover for what is left",
    })
}
