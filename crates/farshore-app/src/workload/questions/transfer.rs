//! What is brought in and taken out in pieces: archives of scripts, settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::super::item::{Item, fatal, retry};
use super::{active, secrets};
use crate::releases::{read_piece, remove, write_piece};

/// Largest archive that is uploaded.
const UPLOAD_MAX: u64 = 1 << 30;
/// Bytes of one piece that is taken out.
const PIECE: usize = 1 << 20;
/// Longest name of an upload.
const NAME_MAX: usize = 64;
/// What was uploaded or packed and not used within this is forgotten.
const UNUSED_MAX: Duration = Duration::from_secs(3600);

/// One archive is packed at a time in a node: it takes a core, and who asks for the same one finds it packed.
static PACKING: Mutex<()> = Mutex::const_new(());

#[derive(Deserialize)]
pub(super) struct Upload {
    id: String,
    offset: u64,
    data: String,
}

/// Where an upload of this name is.
pub(super) fn path_of(item: &Item, id: &str) -> Result<PathBuf, StepError> {
    let is_word = !id.is_empty()
        && id.len() <= NAME_MAX
        && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !is_word {
        return Err(fatal("an upload is named by up to 64 small letters, digits and hyphens"));
    }
    Ok(item.dir().join("uploads").join(id))
}

/// A piece of an archive. Sent again it changes nothing.
pub(super) async fn upload(item: &Arc<Item>, asked: Upload) -> Result<Value, StepError> {
    active(item)?;
    let path = path_of(item, &asked.id)?;
    let bytes = BASE64.decode(&asked.data).map_err(|_| fatal("the data of an upload is base64"))?;
    let end = asked.offset.saturating_add(bytes.len() as u64);
    if end > UPLOAD_MAX {
        return Err(fatal(format!(
            "an archive has at most {UPLOAD_MAX} bytes: leave out what a build can make"
        )));
    }
    let written = spawn_blocking(move || -> std::io::Result<u64> {
        let dir = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(dir)?;
        forget_unused(dir);
        let has = std::fs::metadata(&path).map_or(0, |found| found.len());
        // A piece that would leave a gap is not taken: the asker is told where to go on.
        if asked.offset <= has {
            write_piece(&path, asked.offset, &bytes)?;
            return Ok(end);
        }
        Ok(has)
    });
    let received = written.await.map_err(retry)?.map_err(retry)?;
    Ok(json!({ "received": received }))
}

fn forget_unused(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let written = entry.metadata().and_then(|found| found.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        if written.elapsed().is_ok_and(|age| age > UNUSED_MAX) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Export {
    what: String,
    #[serde(default)]
    offset: u64,
    /// What the first answer said; a first question has none.
    commit: Option<String>,
}

/// The scripts as a tar archive, a piece at a time; or the settings.
pub(super) async fn export(item: &Arc<Item>, asked: Export) -> Result<Value, StepError> {
    match asked.what.as_str() {
        "settings" => Ok(secrets::settings(item)),
        "scripts" => scripts(item, asked).await,
        other => Err(fatal(format!("{other:?} cannot be exported: ask for scripts or settings"))),
    }
}

/// Each answer names the commit, and the length of the whole: pieces of two archives cannot be taken for one.
async fn scripts(item: &Arc<Item>, asked: Export) -> Result<Value, StepError> {
    let is_first = asked.commit.is_none();
    let commit = match asked.commit {
        Some(commit) => commit,
        None if asked.offset > 0 => {
            return Err(fatal("an export goes on with the commit of its first piece"));
        }
        None => {
            let release = item.stock.charter().live_release().cloned();
            release.ok_or_else(|| fatal(format!("nothing is deployed to {}", item.id)))?.commit
        }
    };
    if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(fatal("a commit is named by hexadecimal digits"));
    }
    let path = item.dir().join("exports").join(format!("{commit}.tar"));
    if is_first {
        pack(item, &commit, &path).await?;
    }
    let offset = asked.offset;
    let piece = spawn_blocking(move || piece(&path, offset)).await.map_err(retry)?;
    let (bytes, next, len) = piece.map_err(|error| match error.kind() {
        // The other region must not be asked for it: what it would pack need not be the same to the byte.
        std::io::ErrorKind::NotFound => fatal("the archive is not here any more: begin the export again"),
        std::io::ErrorKind::InvalidInput => fatal("the archive ends before that: begin the export again"),
        _ => retry(error),
    })?;
    Ok(json!({ "commit": commit, "len": len, "data": BASE64.encode(bytes), "next": next }))
}

/// The archive of `commit` is at `path`, whole, and is not written to again: others may be reading it.
async fn pack(item: &Arc<Item>, commit: &str, path: &Path) -> Result<(), StepError> {
    let _one = PACKING.lock().await;
    let dir = path.parent().unwrap_or(path).to_owned();
    std::fs::create_dir_all(&dir).map_err(retry)?;
    forget_unused(&dir);
    if path.exists() {
        return Ok(());
    }
    let new = path.with_extension("new");
    // Whoever asked before and went away may have left a git that still writes to it.
    remove(&new).map_err(retry)?;
    item.stock.repository.archive(commit, &new).await.map_err(retry)?;
    std::fs::rename(&new, path).map_err(retry)?;
    let packed = path.to_owned();
    // It may be that nobody asks again.
    tokio::spawn(async move {
        while packed.exists() {
            tokio::time::sleep(UNUSED_MAX).await;
            forget_unused(&dir);
        }
    });
    Ok(())
}

/// A piece of an archive, where the next one begins, and how long the whole is. It counts as used now.
fn piece(path: &Path, offset: u64) -> std::io::Result<(Vec<u8>, Option<u64>, u64)> {
    let file = std::fs::File::options().write(true).open(path)?;
    file.set_modified(SystemTime::now())?;
    let len = file.metadata()?.len();
    if offset > len {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let (bytes, next) = read_piece(path, offset, PIECE)?;
    Ok((bytes, next, len))
}
