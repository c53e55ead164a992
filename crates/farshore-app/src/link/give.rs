//! What the other region is given.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use farshore_core::workload::{Role, StepError};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::wire::{Answer, Ask, BackupFiles, Body, Has, News, Piece, Question, print};
use super::{LinkOptions, PIECE, Shared, WAIT};
use crate::releases::{read_piece, remove};
use crate::scripts::Refs;

/// Where a pack is while the other region fetches it.
const PACK: &str = "outgoing.pack";
/// Files of a backup that are told of.
const BACKUP_FILES_MAX: usize = 100_000;

/// Answers a question.
pub(super) async fn give(shared: &Shared, question: Question) -> Result<Answer, StepError> {
    let LinkOptions { duties, .. } = &shared.options;
    let gives = |role: Role| question.role == Role::Target && matches!(role, Role::Active | Role::Fenced);
    let body = match question.ask {
        Ask::News { wait_millis } => {
            let wait = Duration::from_millis(wait_millis.into()).min(WAIT);
            wait_for_news(shared, &question.has, gives(duties.now().role), wait).await;
            match gives(duties.now().role) {
                true => Body::News(news(shared, &question.has).await),
                false => Body::Nothing,
            }
        }
        _ if !gives(duties.now().role) => Body::Nothing,
        Ask::Pack { have, offset } => Body::Piece(pack(shared, &have, offset).await?),
        Ask::Release { number, offset } => Body::Piece(release(shared, number, offset).await?),
        Ask::Backup { id, file, offset } => Body::Piece(backup(shared, &id, &file, offset).await?),
        Ask::Database { request, wait_millis } => {
            let wait = Duration::from_millis(wait_millis.into()).min(WAIT);
            database(shared, &request, wait).await?
        }
    };
    // What is said now is said under what holds now.
    Ok(Answer {
        token: duties.token(),
        role: duties.now().role,
        gateway: shared.options.gateway.clone(),
        at: super::now(),
        watermark: shared.options.watermark.watermark(),
        body,
    })
}

fn retry(error: impl std::fmt::Display) -> StepError {
    StepError::Retry { what: error.to_string() }
}

async fn wait_for_news(shared: &Shared, theirs: &Has, gives: bool, wait: Duration) {
    let LinkOptions { stock, duties, .. } = &shared.options;
    let (mut changes, mut duty) = (stock.changes(), duties.changes());
    let differs = || {
        let here = stock.has();
        // Backups that only the asker has are no news.
        (here.charter, here.refs, &here.releases) != (theirs.charter, theirs.refs, &theirs.releases)
            || !here.backups.is_subset(&theirs.backups)
    };
    let news = async {
        while !(gives && differs()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    };
    let _ = timeout(wait, async {
        tokio::select! {
            () = news => {}
            _ = duty.changed() => {}
        }
    })
    .await;
}

async fn news(shared: &Shared, theirs: &Has) -> News {
    let LinkOptions { stock, backups, .. } = &shared.options;
    for number in &theirs.releases {
        let (releases, number) = (stock.releases.clone(), *number);
        let _ = spawn_blocking(move || releases.fetched(number)).await;
    }
    let charter = stock.charter().clone();
    let wanted: BTreeSet<String> = stock.backups().difference(&theirs.backups).cloned().collect();
    let dir = backups.clone();
    let all = stock.backups();
    let backups = spawn_blocking(move || {
        let files = |id: &String| if wanted.contains(id) { files_under(&dir.join(id)) } else { Vec::new() };
        all.iter().map(|id| BackupFiles { id: id.clone(), files: files(id) }).collect()
    });
    News {
        charter: (charter.tag != theirs.charter).then(|| charter.to_bytes()),
        refs: print(&stock.refs()),
        releases: stock.here(),
        backups: backups.await.unwrap_or_default(),
    }
}

/// The names of all files under a directory, relative to it.
fn files_under(dir: &Path) -> Vec<String> {
    let (mut files, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = dirs.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Some(name) = path.strip_prefix(dir).ok().and_then(Path::to_str) {
                files.push(name.to_owned());
            }
            if files.len() >= BACKUP_FILES_MAX {
                return files;
            }
        }
    }
    files
}

async fn pack(shared: &Shared, have: &Refs, offset: u64) -> Result<Piece, StepError> {
    let stock = &shared.options.stock;
    let file = stock.dir.join(PACK);
    let refs = if offset == 0 {
        remove(&file).map_err(retry)?;
        // Looked at before they are packed: the pack has at least these.
        stock.look_at_refs().await.map_err(retry)?;
        let refs = stock.refs();
        stock.repository.pack_since(have, &file).await.map_err(retry)?;
        Some(refs)
    } else {
        None
    };
    let (bytes, next) = match spawn_blocking(move || read_piece(&file, offset, PIECE)).await.map_err(retry)? {
        Err(error) if error.kind() == io::ErrorKind::NotFound && offset == 0 => (Vec::new(), None),
        other => other.map_err(retry)?,
    };
    Ok(Piece { bytes, next, refs })
}

async fn release(shared: &Shared, number: u64, offset: u64) -> Result<Piece, StepError> {
    let releases = shared.options.stock.releases.clone();
    if !releases.has(number) {
        return Err(retry(format!("the files of release {number} are not here any more")));
    }
    let read = spawn_blocking(move || releases.read(number, offset, PIECE)).await;
    let (bytes, next) = read.map_err(retry)?.map_err(retry)?;
    Ok(Piece { bytes, next, refs: None })
}

async fn backup(shared: &Shared, id: &str, file: &str, offset: u64) -> Result<Piece, StepError> {
    let LinkOptions { stock, backups, .. } = &shared.options;
    let is_inside = Path::new(file).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !stock.backups().contains(id) || !is_inside {
        return Err(retry(format!("backup {id} is not here any more")));
    }
    let path = backups.join(id).join(file);
    let read = spawn_blocking(move || read_piece(&path, offset, PIECE)).await;
    let (bytes, next) = read.map_err(retry)?.map_err(retry)?;
    Ok(Piece { bytes, next, refs: None })
}

async fn database(shared: &Shared, request: &[u8], wait: Duration) -> Result<Body, StepError> {
    let LinkOptions { stock, duties, .. } = &shared.options;
    let Some(live) = stock.live() else { return Ok(Body::Nothing) };
    let mut duty = duties.changes();
    tokio::select! {
        answer = live.ship(request, wait) => answer.map(Body::Database).map_err(retry),
        _ = duty.changed() => Ok(Body::Nothing),
    }
}
