//! A copy of the whole database at one moment, to begin a replica with: taken while the app writes, and sent by pages.

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ring::digest::{Context, SHA256, digest};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::ffi::{SQLITE_CORRUPT, SQLITE_ERROR, SQLITE_NOTADB};
use rusqlite::{Connection, OpenFlags};

use super::pins::{pin, unpin};
use super::source::sqlite;
use super::wal::read_some;
use super::wire::{Body, HASH, HASHES_MAX, Offer, PIECE_MAX};
use crate::data::{DataError, Rows};

/// Bytes that are read at once to be hashed.
const READ_BYTES: usize = 1 << 20;
/// What a check may say in all. It speaks of pages first, and then of each row that breaks a rule of the app, which may be many.
const SAID_MAX: u32 = 100_000;
/// What is told of it: enough to see what kind of damage it is.
const TOLD_MAX: usize = 10;

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
        know_every_collation(db)?;
        let rows = |name: String| {
            let count =
                db.query_row(&format!("SELECT count(*) FROM {}", quoted(&name)), [], |row| row.get(0));
            count.map(|count: i64| (name, count.unsigned_abs()))
        };
        tables(db, "AND sql NOT LIKE 'CREATE VIRTUAL%'")?.into_iter().map(rows).collect()
    };
    count().map_err(sqlite("count the rows", file))
}

/// Tables that the app made, of those that `which` leaves.
fn tables(db: &Connection, which: &str) -> rusqlite::Result<Vec<String>> {
    let mut names = db.prepare(&format!(
        "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' {which}"
    ))?;
    names.query_map([], |row| row.get(0))?.collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A collation that only the app has would keep its tables from being opened at all. What is asked here compares nothing by it.
fn know_every_collation(db: &Connection) -> rusqlite::Result<()> {
    db.collation_needed(|db, name| db.create_collation(name, str::cmp))
}

/// Whether a database that nobody uses is whole, as SQLite itself judges it: its pages, its trees, and that its indexes say
/// what its tables say. Rows that break the app's own rules (a CHECK, a NOT NULL, a type) are no damage: they were committed so.
///
/// An app may index by functions and collations of its own, which nobody here has. Then the indexes are not compared with the
/// tables; a damaged page is found all the same.
pub(super) fn check_whole(file: &Path) -> Result<(), DataError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags).map_err(sqlite("open the database", file))?;
    judge(&db, file)
}

/// The same of one that was opened by whoever asks.
pub(super) fn judge(db: &Connection, file: &Path) -> Result<(), DataError> {
    let ask = || {
        db.execute_batch("PRAGMA ignore_check_constraints=ON")?;
        damages(db, file)
    };
    let said = match ask() {
        // Too damaged for the check to go on, or to be begun.
        Err(error) if matches!(result_code(&error), Some(SQLITE_CORRUPT | SQLITE_NOTADB)) => {
            vec![error.to_string()]
        }
        asked => asked.map_err(sqlite("check the database", file))?,
    };
    if said.is_empty() {
        return Ok(());
    }
    Err(DataError::Corrupt {
        what: format!("its integrity check says: {}", said.join("; ")),
        path: file.to_owned(),
        mend: "restore another backup, or ask SQLite's .recover for what is left",
    })
}

/// What is damaged, as far as can be seen without the app.
fn damages(db: &Connection, file: &Path) -> rusqlite::Result<Vec<String>> {
    let why = match ask_damages(db, &format!("integrity_check({SAID_MAX})")) {
        Err(error) if needs_the_app(&error) => error,
        asked => return asked,
    };
    tracing::warn!(database = %file.display(), %why, "its indexes are not compared with its tables: only the app can");
    know_every_collation(db)?;
    match ask_damages(db, &format!("quick_check({SAID_MAX})")) {
        Err(error) if needs_the_app(&error) => damages_by_table(db, file),
        asked => asked,
    }
}

/// The same, table by table: one that computes a column by the app's function is left out.
fn damages_by_table(db: &Connection, file: &Path) -> rusqlite::Result<Vec<String>> {
    let mut found = ask_damages(db, "quick_check('sqlite_schema')")?;
    for table in tables(db, "")? {
        match ask_damages(db, &format!("quick_check({})", quoted(&table))) {
            Err(why) if needs_the_app(&why) => {
                tracing::warn!(database = %file.display(), table, %why, "a table is not checked: only the app can");
            }
            asked => found.extend(asked?),
        }
    }
    Ok(found)
}

fn ask_damages(db: &Connection, check: &str) -> rusqlite::Result<Vec<String>> {
    let mut asked = db.prepare(&format!("PRAGMA {check}"))?;
    let (mut said, mut found) = (asked.query([])?, Vec::new());
    while let Some(row) = said.next()? {
        let line: String = row.get(0)?;
        if is_damage(&line) {
            found.extend(line.lines().take(TOLD_MAX - found.len()).map(str::to_owned));
        }
        if found.len() == TOLD_MAX {
            break;
        }
    }
    Ok(found)
}

/// Whether it is about pages and trees, and not about what the app has put into its rows or into an index of its own making.
fn is_damage(said: &str) -> bool {
    const OF_THE_APP: [&str; 5] = [
        "NULL value in ",
        "NUMERIC value in ",
        "TEXT value in ",
        "malformed inverted index for FTS",
        "unable to validate the inverted index for FTS",
    ];
    let other_type = said.strip_prefix("non-").and_then(|said| said.split_once(" value in "));
    let is_type = |word: &str| word.bytes().all(|byte| byte.is_ascii_uppercase());
    said != "ok"
        && !OF_THE_APP.iter().any(|begins| said.starts_with(begins))
        && !other_type.is_some_and(|(word, _)| is_type(word))
}

/// The statement itself cannot be made of this schema, which names something that only the app's connections have. Damage is
/// another kind of error.
fn needs_the_app(error: &rusqlite::Error) -> bool {
    result_code(error) == Some(SQLITE_ERROR)
}

/// SQLite's own code for it, without the details.
fn result_code(error: &rusqlite::Error) -> Option<i32> {
    let error = match error {
        rusqlite::Error::SqliteFailure(error, _) | rusqlite::Error::SqlInputError { error, .. } => error,
        _ => return None,
    };
    Some(error.extended_code & 0xff)
}
