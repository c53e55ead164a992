//! Conflicts that joins met, in files that nothing deletes: a line of JSON for each, once.
//!
//! A side that loses stays in its entry until somebody decides; here it stays when they have, too.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use farshore_core::moment::Moment;
use serde_json::{Value, json};

use crate::record::{Conflict, Side};

/// The file that is written; when it is full it is put aside as `conflicts.1.jsonl` and so on.
const FILE: &str = "conflicts.jsonl";
/// A file of so many bytes is put aside: some 30,000 conflicts, which a person can still open.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Where a hub's conflicts are noted.
#[derive(Debug)]
pub struct Noted {
    dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Fingerprints of what is in the file and in the one before it; `None`: they were not read yet.
    known: Option<HashSet<u64>>,
    /// Lines of all files.
    count: u64,
    /// What could not be written. It is tried again with what comes next.
    waiting: Vec<Conflict>,
}

impl Noted {
    /// In the directory of a hub. Nothing is read or written yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, inner: Mutex::default() }
    }

    /// The file that is written.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Notes what is not noted yet; on return it is durable. After an error it is kept in mind and written next time.
    ///
    /// # Errors
    /// The disk's.
    pub fn note(&self, conflicts: Vec<Conflict>, now: Moment) -> io::Result<()> {
        let mut inner = self.inner();
        inner.waiting.extend(conflicts);
        if inner.waiting.is_empty() {
            return Ok(());
        }
        self.read_once(&mut inner)?;
        let Inner { known: Some(known), waiting, count } = &mut *inner else { return Ok(()) };
        let (mut lines, mut new) = (Vec::new(), HashSet::new());
        for conflict in waiting.iter() {
            let mut line = view(conflict);
            let fingerprint = fingerprint(&line);
            if known.contains(&fingerprint) || !new.insert(fingerprint) {
                continue;
            }
            line["noted"] = json!(now.to_string());
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
        }
        if !new.is_empty() {
            self.append(&lines)?;
        }
        *count += new.len() as u64;
        known.extend(new);
        waiting.clear();
        Ok(())
    }

    /// How many were noted, and the latest of them, the newest first.
    ///
    /// # Errors
    /// The disk's.
    pub fn latest(&self, most: usize) -> io::Result<(u64, Vec<Value>)> {
        let mut inner = self.inner();
        self.read_once(&mut inner)?;
        let count = inner.count;
        drop(inner);
        let mut lines = lines(&self.path())?;
        let rest = lines.split_off(lines.len().saturating_sub(most));
        Ok((count, rest.into_iter().rev().collect()))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_once(&self, inner: &mut Inner) -> io::Result<()> {
        if inner.known.is_some() {
            return Ok(());
        }
        let mut known = HashSet::new();
        let aside = self.aside()?;
        let mut count = 0;
        for (place, path) in aside.iter().chain([&self.path()]).enumerate() {
            let lines = lines(path)?;
            count += lines.len() as u64;
            if place + 2 > aside.len() {
                known.extend(lines.iter().map(fingerprint));
            }
        }
        (inner.known, inner.count) = (Some(known), count);
        Ok(())
    }

    /// The files that were put aside, the oldest first.
    fn aside(&self) -> io::Result<Vec<PathBuf>> {
        let paths = (1..).map(|number| self.dir.join(format!("conflicts.{number}.jsonl")));
        let mut found = Vec::new();
        for path in paths {
            if !path.try_exists()? {
                break;
            }
            found.push(path);
        }
        Ok(found)
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.path();
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(lines).and_then(|()| file.sync_all()) {
            // Half a line would be read as none; all of it is written again.
            file.set_len(before)?;
            return Err(error);
        }
        if before + lines.len() as u64 > FILE_BYTES_MAX {
            let number = self.aside()?.len() + 1;
            fs::rename(&path, self.dir.join(format!("conflicts.{number}.jsonl")))?;
        }
        File::open(&self.dir)?.sync_all()
    }
}

/// The lines of a file; none, where there is no file. What a crash left unfinished is none.
fn lines(path: &Path) -> io::Result<Vec<Value>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut lines = Vec::new();
    for line in BufReader::new(file).split(b'\n') {
        lines.extend(serde_json::from_slice(&line?));
    }
    Ok(lines)
}

/// The same for a conflict that is met again, whenever it was noted.
fn fingerprint(line: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in ["device", "group", "path", "winner", "losers"] {
        line[part].to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// A conflict as people and files are shown it.
#[must_use]
pub fn view(conflict: &Conflict) -> Value {
    json!({
        "device": conflict.subject,
        "group": conflict.group,
        "path": conflict.path,
        "winner": side(&conflict.winner),
        "losers": conflict.losers.iter().map(side).collect::<Vec<_>>(),
        "why": conflict.why,
    })
}

fn side(side: &Side) -> Value {
    let Side { region, epoch, at, value } = side;
    json!({ "region": region, "epoch": epoch, "at": at.to_string(), "value": value })
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::{Epoch, Region};

    use super::*;
    use crate::record::{Group, Why};

    fn conflict(subject: &str, value: &str) -> Conflict {
        let side = |region: &str, value: &str| Side {
            region: Region::parse(region).unwrap(),
            epoch: Epoch(2),
            at: Moment(7),
            value: json!(value),
        };
        Conflict {
            subject: subject.to_owned(),
            group: Group::Tags,
            path: Some("place".to_owned()),
            winner: side("oslo", "north"),
            losers: vec![side("paris", value)],
            why: Why::LaterEpoch,
        }
    }

    #[test]
    fn each_conflict_is_noted_once_also_after_a_restart_and_in_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let hub = dir.path().join("hub");
        let noted = Noted::new(hub.clone());
        assert_eq!(noted.latest(9).unwrap(), (0, Vec::new()));
        let (one, two) = (conflict("pump", "south"), conflict("pump", "east"));
        noted.note(vec![one.clone(), one.clone()], Moment(1)).unwrap();
        noted.note(vec![two.clone(), one.clone()], Moment(2)).unwrap();
        let (count, latest) = noted.latest(1).unwrap();
        assert_eq!((count, &latest[0]["losers"][0]["value"]), (2, &json!("east")));
        let again = Noted::new(hub.clone());
        again.note(vec![one.clone(), two.clone()], Moment(3)).unwrap();
        assert_eq!(again.latest(9).unwrap().0, 2);
        let large = "x".repeat(usize::try_from(FILE_BYTES_MAX).unwrap());
        again.note(vec![conflict("pump", &large)], Moment(4)).unwrap();
        assert!(hub.join("conflicts.1.jsonl").exists());
        again.note(vec![one.clone(), conflict("valve", "south")], Moment(5)).unwrap();
        let third = Noted::new(hub);
        third.note(vec![one, two], Moment(6)).unwrap();
        assert_eq!(third.latest(9).unwrap(), (4, again.latest(9).unwrap().1));
    }

    #[test]
    fn what_could_not_be_noted_is_noted_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let hub = dir.path().join("hub");
        fs::write(&hub, "in the way").unwrap();
        let noted = Noted::new(hub.clone());
        noted.note(vec![conflict("pump", "south")], Moment(1)).unwrap_err();
        fs::remove_file(&hub).unwrap();
        noted.note(Vec::new(), Moment(2)).unwrap();
        assert_eq!(noted.latest(9).unwrap().0, 1);
    }
}
