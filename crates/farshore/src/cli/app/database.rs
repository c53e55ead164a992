//! `farshore app backup …`, `restore`, `database`, `change-database`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use farshore_core::ids::Name;

use super::super::client::Client;
use super::super::exit::Failure;
use super::super::show::{self, ago, bytes, table, time};
use super::super::{Global, ask};
use super::operation;
use crate::api::views::{
    AppBackupView, AppDatabaseBrief, AppDatabaseRequest, AppRestoreRequest, NoParameters,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BackupCommand {
    /// Take a backup now, and prove it by restoring it
    Now {
        /// The app's name
        name: Name,
    },
    /// List backups, oldest first
    List {
        /// The app's name
        name: Name,
    },
    /// Prove a backup by restoring it into a scratch place
    Verify {
        /// The app's name
        name: Name,
        /// The backup's id
        id: String,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    /// The app's name
    name: Name,
    /// The new database's name
    #[arg(long, value_name = "DATABASE")]
    to: String,
    /// Which backup [default: the newest that is whole]
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["to", "backup", "url", "url_file"]))]
pub(in crate::cli) struct ChangeArgs {
    /// The app's name
    name: Name,
    /// A database that it has: see farshore app database
    #[arg(long, value_name = "DATABASE")]
    to: Option<String>,
    /// A backup, restored into a new database first
    #[arg(long, value_name = "ID")]
    backup: Option<String>,
    /// A server of its own (postgres://…), without a password: what stands here, others on this machine can read
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// A file that holds the URL with its password, or - for stdin
    #[arg(long, value_name = "FILE")]
    url_file: Option<PathBuf>,
    /// Also to one that was given up: what was written since is not in it
    #[arg(long, conflicts_with_all = ["backup", "url", "url_file"])]
    force: bool,
}

pub(super) async fn backup(global: &Global, client: &Client, command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Now { name } => {
            let done = operation::carry_out(client, &name, "backups", &NoParameters {}).await?;
            show::print(global, &done, |_| {
                format!("app/{name}: a backup was taken, and proved by restoring it")
            })
        }
        BackupCommand::Verify { name, id } => {
            // It becomes a part of the path, where dots and slashes would lead elsewhere.
            if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
                return Err(Failure::usage(format!(
                    "{id:?} is no backup's id: farshore app backup list {name} shows them"
                )));
            }
            let done = operation::carry_out(client, &name, &format!("backups/{id}/verify"), &NoParameters {})
                .await?;
            show::print(global, &done, |_| format!("app/{name}: the backup {id} is whole"))
        }
        BackupCommand::List { name } => {
            let backups: Vec<AppBackupView> = client.get(&format!("/apps/{name}/backups")).await?;
            show::print(global, &backups, |backups| match backups.as_slice() {
                [] => format!("no backups yet: farshore app backup now {name}"),
                backups => backups_table(backups),
            })
        }
    }
}

fn backups_table(backups: &[AppBackupView]) -> String {
    let row = |backup: &AppBackupView| {
        let proved = match (backup.ok, &backup.verified_at) {
            (Some(true), Some(at)) => format!("whole, {}", ago(at)),
            (Some(true), None) => "whole".to_owned(),
            (Some(false), _) => "DAMAGED".to_owned(),
            (None, _) => "not yet".to_owned(),
        };
        vec![
            backup.id.clone(),
            backup.at.as_deref().map(time).unwrap_or_default(),
            bytes(backup.bytes),
            proved,
            backup.why.clone().unwrap_or_default(),
        ]
    };
    table(&["BACKUP", "TAKEN", "SIZE", "PROVED", "WHY"], &backups.iter().map(row).collect::<Vec<_>>())
}

pub(super) async fn restore(global: &Global, client: &Client, args: &RestoreArgs) -> Result<(), Failure> {
    let asked = AppRestoreRequest { backup: args.backup.clone(), to: args.to.clone() };
    let done = operation::carry_out(client, &args.name, "restore", &asked).await?;
    let (name, to) = (&args.name, &args.to);
    show::print(global, &done, |_| {
        format!(
            "the database {to} is restored; app/{name} goes on with the one that it has\n\
             next: farshore app change-database {name} --to {to}"
        )
    })
}

pub(super) async fn list(global: &Global, client: &Client, name: &Name) -> Result<(), Failure> {
    let databases: Vec<AppDatabaseBrief> = client.get(&format!("/apps/{name}/databases")).await?;
    show::print(global, &databases, |databases| match databases.as_slice() {
        [] => format!("app/{name} has no database"),
        databases => {
            let row = |database: &AppDatabaseBrief| {
                let state = match (database.active, database.fenced) {
                    (true, _) => "in use",
                    (false, true) => "fenced",
                    (false, false) => "ready",
                };
                vec![
                    database.name.clone(),
                    database.engine.clone(),
                    state.to_owned(),
                    database.bytes.map_or("-".to_owned(), bytes),
                    database.why.clone().unwrap_or_default(),
                ]
            };
            table(
                &["DATABASE", "ENGINE", "STATE", "SIZE", "WHY"],
                &databases.iter().map(row).collect::<Vec<_>>(),
            )
        }
    })
}

pub(super) async fn change(global: &Global, client: &Client, args: &ChangeArgs) -> Result<(), Failure> {
    let url = match (&args.url, &args.url_file) {
        (Some(url), _) if has_password(url) => {
            return Err(Failure::usage(
                "--url: there is a password in it, and others on this machine can read what stands on a command line: put the \
                 URL into a file and name it with --url-file FILE, or give it on stdin with --url-file -",
            ));
        }
        (Some(url), _) => Some(url.clone()),
        (None, Some(path)) => Some(read_url(path)?),
        (None, None) => None,
    };
    let asked =
        AppDatabaseRequest { to: args.to.clone(), backup: args.backup.clone(), url, force: args.force };
    let name = &args.name;
    let what = format!(
        "app/{name} will be started again with another database; what is written from then on is not in the present one."
    );
    ask::confirm(global, &what)?;
    let done = operation::carry_out(client, name, "change-database", &asked).await?;
    show::print(global, &done, |_| {
        format!("app/{name} uses its new database; the old one is given up: farshore app database {name}")
    })
}

/// `scheme://user:password@…`
fn has_password(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || url.contains("password=")
}

fn read_url(path: &Path) -> Result<String, Failure> {
    let wrong = |error: std::io::Error| {
        Failure::usage(format!("--url-file: cannot read {}: {error}", path.display()))
    };
    let mut text = String::new();
    match path == Path::new("-") {
        true => std::io::stdin().read_to_string(&mut text).map(|_| ()).map_err(wrong)?,
        false => text = std::fs::read_to_string(path).map_err(wrong)?,
    }
    match text.trim() {
        "" => Err(Failure::usage(format!("--url-file: {} is empty", path.display()))),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_a_url_is_seen() {
        for url in ["postgres://a:b@host/db", "postgres://a:b@host", "postgres://host/db?password=b"] {
            assert!(has_password(url), "{url}");
        }
        for url in ["postgres://a@host:5432/db", "postgres://host:5432/a@b", "postgres:///db?host=/run"] {
            assert!(!has_password(url), "{url}");
        }
    }
}
