//! Where the records come from: a mirror of the store.

use std::sync::Arc;

use farshore_core::store::Store;
use farshore_store::mirror::{Mirror, MirrorState};

use super::directory::Directory;
use crate::engine::DirectoryRecord;

/// Prefix of the records, as `docs/formats/store.md` says.
const DIRECTORY_PREFIX: &str = "directory/";

/// Keeps the directory at what the store says, for ever. While the store cannot be read the last records stand.
/// `incarnation` is the store's; it rises only while no node runs.
pub async fn follow(directory: Directory, store: Arc<dyn Store>, incarnation: u64) {
    let mirror = Mirror::start(store, DIRECTORY_PREFIX);
    loop {
        let changed = mirror.changed();
        let since = match mirror.state() {
            // The copy on disk says by itself how old it is.
            MirrorState::Starting { .. } => None,
            MirrorState::Live => {
                take(&directory, &mirror, incarnation).await;
                None
            }
            MirrorState::Stale { since, .. } => {
                take(&directory, &mirror, incarnation).await;
                Some(since)
            }
        };
        directory.stale(since);
        changed.await;
    }
}

async fn take(directory: &Directory, mirror: &Mirror, incarnation: u64) {
    // The revision is read first: records that are newer than it are told again with the next one.
    let revision = mirror.revision().0;
    let entries = mirror.list(DIRECTORY_PREFIX);
    let records = entries.iter().filter_map(|entry| {
        let name = entry.key.strip_prefix(DIRECTORY_PREFIX)?;
        match serde_json::from_slice::<DirectoryRecord>(&entry.value) {
            Ok(record) => Some((name.to_owned(), record)),
            Err(error) => {
                tracing::error!(key = %entry.key, %error, "a record of the directory does not read: its name is not told");
                None
            }
        }
    });
    let (directory, records) = (directory.clone(), records.collect());
    // The copy is written to the disk.
    let taken = tokio::task::spawn_blocking(move || directory.update(incarnation, revision, records)).await;
    if let Ok(Err(error)) = taken {
        tracing::error!(%error, "the directory does not follow its store");
    }
}
