//! The store itself: backed up, restored, moved to etcd, or looked into. Speaks with the store, not with a control plane.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::store::Store;
use farshore_store::transfer::{self, TransferError};
use serde::Serialize;

use super::ask::confirm;
use super::exit::{FAILED, Failure, REFUSED};
use super::{Global, show};
use crate::config::{NodeConfig, StoreKind};
use crate::engine::Meta;
use crate::node::open_store;

/// Key of the record that names cluster and incarnation.
const META: &str = "meta";

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Write everything in the store to a new file; with redb the node must be stopped
    Backup {
        /// The new file; it holds secrets
        file: PathBuf,
        #[command(flatten)]
        of: ConfigArgs,
    },
    /// Fill an empty store from a backup and raise its incarnation; all nodes must be stopped
    Restore {
        /// The backup
        file: PathBuf,
        #[command(flatten)]
        of: ConfigArgs,
        /// Throw away what the store holds
        #[arg(long)]
        replace: bool,
    },
    /// Copy the store to etcd; the node must be stopped
    Migrate {
        /// Where to
        #[arg(long, value_enum)]
        to: Destination,
        #[command(flatten)]
        of: ConfigArgs,
        /// Throw away what etcd holds under the prefix
        #[arg(long)]
        replace: bool,
    },
    /// Print the keys and values of a redb file that no node has open; changes nothing
    Dump {
        /// The store's file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE", default_value = "region.toml")]
    config: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Destination {
    /// The members in the configuration's `[etcd]`
    Etcd,
}

/// What was copied.
#[derive(Debug, Serialize)]
struct CopyView {
    /// The backup, or the file that was left.
    file: PathBuf,
    cluster: String,
    incarnation: u64,
    keys: usize,
}

pub(super) fn run(global: &Global, command: StoreCommand) -> Result<(), Failure> {
    if let StoreCommand::Dump { file } = command {
        return dump(&file);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            StoreCommand::Backup { file, of } => backup(global, &file, &of).await,
            StoreCommand::Restore { file, of, replace } => restore(global, &file, &of, replace).await,
            StoreCommand::Migrate { to: Destination::Etcd, of, replace } => {
                migrate(global, &of, replace).await
            }
            StoreCommand::Dump { file } => dump(&file),
        }
    })
}

async fn backup(global: &Global, file: &Path, of: &ConfigArgs) -> Result<(), Failure> {
    let config = load(of, None)?;
    let store = open_existing(&config)?;
    let header = transfer::backup(&*store, file).await.map_err(failed)?;
    let view = CopyView {
        file: file.to_owned(),
        cluster: header.cluster,
        incarnation: header.incarnation,
        keys: header.count,
    };
    show::print(global, &view, |view| {
        format!("{} holds {} at revision {}", view.file.display(), keys(view), header.revision)
    })
}

async fn restore(global: &Global, file: &Path, of: &ConfigArgs, replace: bool) -> Result<(), Failure> {
    let config = load(of, None)?;
    let mut entries = transfer::read_backup(file).map_err(failed)?;
    if replace {
        let what = format!(
            "everything in the store of {} will be lost; no node may be running on it.",
            of.config.display()
        );
        confirm(global, &what)?;
    }
    let store = open_store(&config).map_err(|error| Failure::failed(error.to_string()))?;
    let before = transfer::incarnation(&*store).await.map_err(failed)?;
    let meta = raise(&mut entries, before)?;
    let keys_restored = entries.len();
    put(&*store, entries, replace).await?;
    let view = CopyView {
        file: file.to_owned(),
        cluster: meta.cluster,
        incarnation: meta.incarnation,
        keys: keys_restored,
    };
    show::print(global, &view, |view| {
        format!(
            "{} restored from {} and read back; the incarnation is {} now.\nStart the nodes. Items whose agents know more \
             than the backup become NeedsUser: farshore status says what to do.",
            keys(view),
            view.file.display(),
            view.incarnation
        )
    })
}

/// Makes the restored store outrank every token given before: the backup's own and those of the store it replaces.
fn raise(entries: &mut [(String, Vec<u8>)], before: u64) -> Result<Meta, Failure> {
    let none = || Failure {
        code: REFUSED,
        text: "the backup names no cluster: it is of a store that was never used".into(),
    };
    let (_, value) = entries.iter_mut().find(|(key, _)| key == META).ok_or_else(none)?;
    let mut meta: Meta = serde_json::from_slice(value).map_err(|error| {
        Failure::failed(format!("the backup's record {META} does not read as one ({error})"))
    })?;
    meta.incarnation = meta.incarnation.max(before) + 1;
    *value = serde_json::to_vec(&meta).map_err(|error| Failure::failed(error.to_string()))?;
    Ok(meta)
}

async fn migrate(global: &Global, of: &ConfigArgs, replace: bool) -> Result<(), Failure> {
    // The file may say either already: the source is where redb is or was.
    let config = load(of, Some("etcd"))?;
    let source = NodeConfig { store: StoreKind::Redb, ..config.clone() };
    let from = open_existing(&source)?;
    if replace {
        confirm(global, "everything in etcd under the prefix will be lost; no node may be running on it.")?;
    }
    let to = open_store(&config).map_err(|error| Failure::failed(error.to_string()))?;
    let (listed, _) = from.list("").await.map_err(|error| Failure::failed(error.to_string()))?;
    let entries: Vec<_> = listed.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let meta: Option<Meta> =
        entries.iter().find(|(key, _)| key == META).and_then(|(_, value)| serde_json::from_slice(value).ok());
    let Some(meta) = meta else {
        let text = format!("{} names no cluster: there is nothing to migrate", source.store_path().display());
        return Err(Failure { code: REFUSED, text });
    };
    put(&*to, entries.clone(), replace).await?;
    transfer::compare(&*to, &entries.iter().cloned().collect()).await.map_err(failed)?;
    let view = CopyView {
        file: source.store_path(),
        cluster: meta.cluster,
        incarnation: meta.incarnation,
        keys: entries.len(),
    };
    show::print(global, &view, |view| {
        format!(
            "{} copied to etcd and read back. {} is as it was: keep it aside, and start no node on it again.\nNow set \
             store = \"etcd\" in {} and of every other control node, then start them.",
            keys(view),
            view.file.display(),
            of.config.display()
        )
    })
}

fn keys(view: &CopyView) -> String {
    format!("{} keys of cluster {}", view.keys, view.cluster)
}

async fn put(store: &dyn Store, entries: Vec<(String, Vec<u8>)>, replace: bool) -> Result<(), Failure> {
    let put =
        if replace { transfer::replace(store, entries).await } else { transfer::fill(store, entries).await };
    put.map_err(failed)
}

fn load(of: &ConfigArgs, store: Option<&str>) -> Result<NodeConfig, Failure> {
    let forced = store.map(|store| ("FARSHORE_NODE_STORE".to_owned(), store.to_owned()));
    NodeConfig::load(&of.config, std::env::vars().chain(forced))
        .map_err(|error| Failure::usage(error.to_string()))
}

/// Opens a store to read it. There must be one: an embedded store that is not there is not made.
fn open_existing(config: &NodeConfig) -> Result<Arc<dyn Store>, Failure> {
    let path = config.store_path();
    if config.store == StoreKind::Redb && !path.exists() {
        return Err(Failure::failed(format!("there is no store at {}: nothing to read", path.display())));
    }
    open_store(config).map_err(|error| Failure::failed(error.to_string()))
}

fn failed(error: TransferError) -> Failure {
    let code = if matches!(error, TransferError::NotEmpty { .. }) { REFUSED } else { FAILED };
    let hint = if code == REFUSED { "; --replace throws that away" } else { "" };
    Failure { code, text: format!("{error}{hint}") }
}

fn dump(file: &Path) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match farshore_store::dump::dump(file, &mut out) {
        Err(farshore_store::dump::DumpError::Write(error))
            if error.kind() == std::io::ErrorKind::BrokenPipe =>
        {
            Ok(())
        }
        other => other.map_err(|error| Failure::failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, before: u64, expected: u64) {
        let mut entries = vec![("a".to_owned(), b"x".to_vec()), (META.to_owned(), value.as_bytes().to_vec())];
        assert_eq!(raise(&mut entries, before).unwrap().incarnation, expected);
        let written: Meta = serde_json::from_slice(&entries[1].1).unwrap();
        assert_eq!((written.cluster.as_str(), written.incarnation), ("c", expected));
    }

    #[test]
    fn a_restore_outranks_both_lives_before() {
        check(r#"{"cluster":"c","incarnation":3}"#, 0, 4);
        check(r#"{"cluster":"c","incarnation":3}"#, 3, 4);
        check(r#"{"cluster":"c","incarnation":3}"#, 9, 10);
        assert!(raise(&mut [], 0).is_err());
        assert!(raise(&mut [(META.to_owned(), b"{}".to_vec())], 0).is_err());
    }
}
