//! Asking the other region, and taking what it gives.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::{Role, StepError};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::wire::{Answer, Ask, BackupFiles, Body, News, Piece, Question, decode, encode, print};
use super::{LinkOptions, Shared, WAIT};
use crate::charter::Charter;
use crate::data::backup::{all_in, forget, has_one, is_id, surplus, take_in};
use crate::releases::{remove, write_piece};

/// Between two attempts to reach a region that does not answer, or whose answer cannot be taken.
const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A region that gives nothing is asked this often.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A database that is not open yet, here or there, is looked for this often.
const DATABASE_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Where a pack is until it is whole.
const PACK: &str = "incoming.pack";
/// Where a backup is until it is whole.
const BACKUP: &str = "incoming.backup";

/// Asks for what is new, for ever.
pub(super) async fn news(shared: Arc<Shared>) {
    let mut changes = shared.options.duties.changes();
    let _ = shared.options.stock.look_at_refs().await;
    loop {
        let began = Instant::now();
        let rest = match news_once(&shared).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => LOOK_EVERY.saturating_sub(began.elapsed()),
            Err(why) => {
                shared.state().status.note = Some(why);
                AGAIN_AFTER
            }
        };
        tokio::select! {
            () = sleep(rest) => {}
            _ = changes.changed() => {}
        }
    }
}

/// One question, and what follows from its answer. `true`: it waited for its answer as long as it should.
async fn news_once(shared: &Shared) -> Result<bool, String> {
    let wait_millis = u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX);
    let answer = ask(shared, Ask::News { wait_millis }).await.map_err(|error| error.to_string())?;
    let Body::News(news) = answer.body else {
        shared.state().status.note = None;
        return Ok(false);
    };
    take(shared, news).await?;
    shared.state().status.note = None;
    Ok(true)
}

/// Follows the database, for ever.
pub(super) async fn database(shared: Arc<Shared>) {
    loop {
        let rest = match database_once(&shared).await {
            Ok(true) => continue,
            Ok(false) => DATABASE_LOOK_EVERY,
            Err(why) => {
                shared.state().status.note = Some(why);
                AGAIN_AFTER
            }
        };
        sleep(rest).await;
    }
}

/// `true`: asked and answered.
async fn database_once(shared: &Shared) -> Result<bool, String> {
    let LinkOptions { stock, duties, .. } = &shared.options;
    let Some(replica) = stock.replica().filter(|_| duties.now().role == Role::Target) else {
        return Ok(false);
    };
    let wait_millis = u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX);
    let question = Ask::Database { request: replica.request(), wait_millis };
    let answer = ask(shared, question).await.map_err(|error| error.to_string())?;
    let Body::Database(bytes) = answer.body else { return Ok(false) };
    if duties.now().role != Role::Target {
        return Ok(false);
    }
    replica.apply(&bytes).await.map_err(|error| error.to_string())?;
    Ok(true)
}

/// Asks, and refuses an answer under a token that is over.
async fn ask(shared: &Shared, ask: Ask) -> Result<Answer, StepError> {
    let LinkOptions { far, partner, stock, duties, gateway, .. } = &shared.options;
    let question = Question {
        token: duties.token(),
        role: duties.now().role,
        gateway: gateway.clone(),
        has: stock.has(),
        ask,
    };
    let bytes = match far.pull(partner, &stock.item, encode(&question)).await {
        Err(StepError::Fenced { current }) => {
            let _ = duties.see(current);
            return Err(StepError::Fenced { current });
        }
        other => other?,
    };
    let answer: Answer = decode(&bytes).map_err(|what| StepError::Fatal { what })?;
    duties.see(answer.token).map_err(|stale| StepError::Retry {
        what: format!(
            "{partner} is still under token {}, {} holds: it is waited for until it was told",
            answer.token, stale.highest
        ),
    })?;
    shared.state().status.watermark = Some(answer.watermark);
    shared.hear(answer.role, answer.gateway.clone());
    Ok(answer)
}

/// Fetches one piece.
async fn piece(shared: &Shared, wanted: Ask) -> Result<Piece, String> {
    let answer = ask(shared, wanted).await.map_err(|error| error.to_string())?;
    match answer.body {
        Body::Piece(piece) => Ok(piece),
        _ => Err("the other region gives nothing now".to_owned()),
    }
}

/// Takes over what there is: first the files, then the charter that speaks of them.
async fn take(shared: &Shared, news: News) -> Result<(), String> {
    let stock = &shared.options.stock;
    if news.refs != print(&stock.refs()) {
        take_scripts(shared).await?;
    }
    let charter = news.charter.map(|bytes| Charter::from_bytes(&bytes)).transpose()?;
    if let Some(theirs) = &charter {
        forget_others(shared, theirs).await?;
    }
    let live = charter.as_ref().map_or_else(|| stock.charter().live, |theirs| theirs.live);
    let missing: BTreeSet<u64> = news.releases.difference(&stock.here()).copied().collect();
    // What the app runs first; then what it could go back to, the newest first.
    if let Some(live) = live.filter(|live| missing.contains(live)) {
        take_release(shared, live).await?;
    }
    if let Some(theirs) = charter {
        follows(shared)?;
        stock.adopt(theirs).map_err(|error| error.to_string())?;
    }
    for number in missing.into_iter().rev().filter(|number| Some(*number) != live) {
        take_release(shared, number).await?;
    }
    forget_releases(shared, news.releases.clone(), live).await?;
    take_backups(shared, &news.backups).await
}

/// Two regions that did not hear of each other may have made different releases under one number: the source's is meant.
async fn forget_others(shared: &Shared, theirs: &Charter) -> Result<(), String> {
    let stock = Arc::clone(&shared.options.stock);
    let own = stock.charter().releases.clone();
    let is_other =
        |number: u64, commit: &str| theirs.release(number).is_some_and(|release| release.commit != commit);
    let others: Vec<u64> = own
        .iter()
        .filter(|release| is_other(release.number, &release.commit))
        .map(|release| release.number)
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    follows(shared)?;
    let forgotten = spawn_blocking(move || {
        others.into_iter().try_for_each(|number| stock.releases.clear(number))?;
        stock.look_at_releases()
    });
    forgotten.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Whether it still follows: what comes late is not taken.
fn follows(shared: &Shared) -> Result<(), String> {
    match shared.options.duties.now().role {
        Role::Target => Ok(()),
        _ => Err("this region does not follow any more".to_owned()),
    }
}

async fn take_scripts(shared: &Shared) -> Result<(), String> {
    let stock = &shared.options.stock;
    let pack = stock.dir.join(PACK);
    remove(&pack).map_err(|error| error.to_string())?;
    let have = stock.repository.refs().await.map_err(|error| error.to_string())?;
    let (mut offset, mut refs) = (0, None);
    loop {
        let part = piece(shared, Ask::Pack { have: have.clone(), offset }).await?;
        refs = part.refs.or(refs);
        put(&pack, offset, part.bytes).await?;
        match part.next {
            Some(next) => offset = next,
            None => break,
        }
    }
    follows(shared)?;
    let refs = refs.ok_or("the other region did not say which branches it has")?;
    let taken = stock.repository.take_pack(&pack, &refs).await;
    remove(&pack).map_err(|error| error.to_string())?;
    taken.map_err(|error| error.to_string())?;
    stock.look_at_refs().await.map_err(|error| error.to_string())
}

async fn put(path: &Path, offset: u64, bytes: Vec<u8>) -> Result<(), String> {
    let path = path.to_owned();
    let written = spawn_blocking(move || write_piece(&path, offset, &bytes)).await;
    written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

async fn take_release(shared: &Shared, number: u64) -> Result<(), String> {
    let stock = &shared.options.stock;
    let mut offset = stock.releases.come(number);
    loop {
        let part = piece(shared, Ask::Release { number, offset }).await?;
        let releases = stock.releases.clone();
        let written = spawn_blocking(move || releases.write(number, offset, &part.bytes)).await;
        written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        match part.next {
            Some(next) => offset = next,
            None => break,
        }
    }
    follows(shared)?;
    let releases = stock.releases.clone();
    let unpacked = spawn_blocking(move || releases.unpack(number)).await;
    unpacked.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    stock.look_at_releases().map_err(|error| error.to_string())
}

/// What the source has no more is not kept here either, except what runs.
async fn forget_releases(
    shared: &Shared,
    mut theirs: BTreeSet<u64>,
    live: Option<u64>,
) -> Result<(), String> {
    let stock = Arc::clone(&shared.options.stock);
    theirs.extend(live);
    if stock.here().is_subset(&theirs) {
        return Ok(());
    }
    let forgotten = spawn_blocking(move || {
        stock.releases.keep_only(&theirs)?;
        stock.look_at_releases()
    });
    forgotten.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Fetches the backups that are not here, and forgets those that the source has forgotten and that are more than are kept.
async fn take_backups(shared: &Shared, theirs: &[BackupFiles]) -> Result<(), String> {
    let LinkOptions { stock, backups, .. } = &shared.options;
    let mut here = stock.backups();
    for backup in theirs.iter().filter(|backup| !backup.files.is_empty()) {
        if here.contains(&backup.id) {
            continue;
        }
        stays_inside(backup)?;
        if !has_one(backups, &backup.id) {
            take_backup(shared, backup).await?;
        }
        here.insert(backup.id.clone());
        stock.set_backups(here.clone());
    }
    let is_theirs = |id: &String| theirs.iter().any(|backup| backup.id == *id);
    // A source that tells of none may not have looked yet.
    if theirs.is_empty() || here.iter().all(is_theirs) {
        return Ok(());
    }
    // An old source may have the only good ones from before a failover: what replaces them must be good here first.
    let all = all_in(backups).map_err(|error| error.to_string())?;
    for id in surplus(&all, stock.charter().spec.backup_keep).iter().filter(|id| !is_theirs(id)) {
        forget(backups, id).map_err(|error| error.to_string())?;
        here.remove(id);
        stock.set_backups(here.clone());
    }
    Ok(())
}

async fn take_backup(shared: &Shared, backup: &BackupFiles) -> Result<(), String> {
    let LinkOptions { stock, backups, .. } = &shared.options;
    let coming = stock.dir.join(BACKUP);
    remove(&coming).map_err(|error| error.to_string())?;
    for file in &backup.files {
        let path = coming.join(file);
        let dir = path.parent().unwrap_or(&coming);
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        let mut offset = 0;
        loop {
            let wanted = Ask::Backup { id: backup.id.clone(), file: file.clone(), offset };
            let part = piece(shared, wanted).await?;
            put(&path, offset, part.bytes).await?;
            match part.next {
                Some(next) => offset = next,
                None => break,
            }
        }
    }
    follows(shared)?;
    take_in(&coming, backups, &backup.id).await.map_err(|error| error.to_string())
}

/// What another region names is written below the place of this app's backups, and nowhere else.
fn stays_inside(backup: &BackupFiles) -> Result<(), String> {
    let is_plain = |file: &String| {
        let mut parts = Path::new(file).components();
        !file.is_empty() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    if !is_id(&backup.id) {
        return Err(format!("the other region has a backup called {:?}: it is not taken", backup.id));
    }
    match backup.files.iter().find(|file| !is_plain(file)) {
        Some(file) => Err(format!("the other region has a backup with a file {file:?}: it is not taken")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_of_another_region_is_written_nowhere_else() {
        let backup = |id: &str, file: &str| BackupFiles {
            id: id.to_owned(),
            files: vec!["a".to_owned(), file.to_owned()],
        };
        assert_eq!(stays_inside(&backup("20261121-050000-250", "base/part.0")), Ok(()));
        for (id, file) in [
            ("../20261121", "data"),
            ("/etc", "data"),
            ("", "data"),
            ("20261121-050000-250", "../card.json"),
            ("20261121-050000-250", "base/../../card.json"),
            ("20261121-050000-250", "/etc/passwd"),
            ("20261121-050000-250", ""),
        ] {
            let refused = stays_inside(&backup(id, file)).unwrap_err();
            assert!(refused.contains("not taken"), "{id} {file}: {refused}");
        }
    }
}
