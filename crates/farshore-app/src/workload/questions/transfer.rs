//! What is brought in and taken out in pieces: archives of scripts, settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::super::item::{Item, fatal, retry};
use super::{active, secrets};
use crate::releases::{read_piece, write_piece};

/// Largest archive that is uploaded.
const UPLOAD_MAX: u64 = 1 << 30;
/// Bytes of one piece that is taken out.
const PIECE: usize = 1 << 20;
/// Longest name of an upload.
const NAME_MAX: usize = 64;
/// An upload that was not used within this is forgotten.
const UNUSED_MAX: Duration = Duration::from_secs(3600);

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

fn forget_unused(dir: &std::path::Path) {
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
}

/// The scripts as a tar archive, a piece at a time; or the settings.
pub(super) async fn export(item: &Arc<Item>, asked: Export) -> Result<Value, StepError> {
    match asked.what.as_str() {
        "settings" => Ok(secrets::settings(item)),
        "scripts" => scripts(item, asked.offset).await,
        other => Err(fatal(format!("{other:?} cannot be exported: ask for scripts or settings"))),
    }
}

async fn scripts(item: &Arc<Item>, offset: u64) -> Result<Value, StepError> {
    let release = item.stock.charter().live_release().cloned();
    let release = release.ok_or_else(|| fatal(format!("nothing is deployed to {}", item.id)))?;
    let path = item.dir().join("export.tar");
    if offset == 0 {
        item.stock.repository.archive(&release.commit, &path).await.map_err(retry)?;
    }
    let read = spawn_blocking(move || {
        let read = read_piece(&path, offset, PIECE);
        if read.as_ref().is_ok_and(|(_, next)| next.is_none()) {
            let _ = std::fs::remove_file(&path);
        }
        read
    });
    let (bytes, next) = read.await.map_err(retry)?.map_err(retry)?;
    Ok(json!({ "data": BASE64.encode(bytes), "next": next }))
}
