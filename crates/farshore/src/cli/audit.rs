//! `farshore audit …`: who did what, and whether the record of it is whole.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::Client;
use super::exit::{FAILED, Failure};
use super::show::{self, table, time};
use super::{Global, Output};
use crate::api::views::AuditView;
use crate::engine::AuditEntry;
use crate::engine::audit::{Chain, Entries, EntryError};

/// Entries asked for at once while verifying: about 3 MiB.
const PAGE: usize = 5_000;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Show who did what, newest last
    List(ListArgs),
    /// Check that no entry was changed, removed or put in another place
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// The newest so many entries
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    limit: u32,
}

#[derive(Debug, Args)]
struct VerifyArgs {
    /// An entry that was seen earlier, as verify printed it: it must still be there. Finds a chain that was cut short
    #[arg(long, value_name = "NUMBER:HASH", value_parser = seal)]
    expect: Option<Chain>,
    /// Check this backup instead of asking a control plane
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Verdict {
    intact: bool,
    /// Entries that are good, from the first.
    entries: u64,
    /// The last good one, as `--expect` takes it.
    last: String,
    /// What is wrong with the next one.
    why: Option<String>,
}

pub(super) async fn run(global: &Global, args: &AuditArgs) -> Result<(), Failure> {
    match &args.command {
        None => list(global, &args.list).await,
        Some(AuditCommand::List(args)) => list(global, args).await,
        Some(AuditCommand::Verify(args)) => verify(global, args).await,
    }
}

async fn list(global: &Global, args: &ListArgs) -> Result<(), Failure> {
    let entries: Vec<AuditView> = Client::find(global)?.get(&format!("/audit?limit={}", args.limit)).await?;
    show::print(global, &entries, |entries| {
        let rows: Vec<Vec<String>> = entries
            .iter()
            .map(|entry| vec![time(&entry.at), entry.who.clone(), entry.what.clone()])
            .collect();
        table(&["TIME", "WHO", "WHAT"], &rows)
    })
}

async fn verify(global: &Global, args: &VerifyArgs) -> Result<(), Failure> {
    let mut check = Check { chain: Chain::default(), expect: args.expect.clone() };
    let walked = match &args.backup {
        Some(path) => check.backup(path),
        None => check.walk(&Client::find(global)?).await,
    };
    let why = match walked {
        Ok(()) => check.missing(),
        Err(Stop::Broken(why)) => Some(why),
        Err(Stop::Failed(failure)) => return Err(failure),
    };
    let Chain { number, hash } = &check.chain;
    let verdict = Verdict {
        intact: why.is_none(),
        entries: *number,
        last: format!("{number}:{hash}"),
        why: why.clone(),
    };
    let Some(why) = why else {
        return show::print(global, &verdict, |verdict| {
            format!("the audit is intact: {} entries, the last is {}", verdict.entries, verdict.last)
        });
    };
    if global.output != Output::Table {
        show::print(global, &verdict, |_| String::new())?;
    }
    let text = format!(
        "the audit is broken: {why}; the {number} entries before it are good. Keep a copy of the store and compare it \
         with a backup"
    );
    Err(Failure { code: FAILED, text })
}

/// Why the walk ended early.
enum Stop {
    Broken(String),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

struct Check {
    chain: Chain,
    expect: Option<Chain>,
}

impl Check {
    /// The whole chain of a control plane.
    async fn walk(&mut self, client: &Client) -> Result<(), Stop> {
        loop {
            let path = format!("/audit?after={}&limit={PAGE}", self.chain.number);
            let page: Vec<AuditView> = client.get(&path).await?;
            if page.is_empty() {
                return Ok(());
            }
            for view in &page {
                let number = view.number;
                let entry = view.entry().ok_or_else(|| {
                    Stop::Broken(format!("entry {number} was changed after it was written"))
                })?;
                self.follow(number, &entry)?;
            }
        }
    }

    /// The chain in a backup's file.
    fn backup(&mut self, path: &std::path::Path) -> Result<(), Stop> {
        let records = farshore_store::transfer::read_backup(path)
            .map_err(|error| Failure::failed(error.to_string()))?;
        for entry in Entries::of(&records) {
            let (number, entry) = entry.map_err(|EntryError(why)| Stop::Broken(why))?;
            self.follow(number, &entry)?;
        }
        Ok(())
    }

    fn follow(&mut self, number: u64, entry: &AuditEntry) -> Result<(), Stop> {
        self.chain.follow(number, entry).map_err(|broken| Stop::Broken(broken.to_string()))?;
        match &self.expect {
            Some(seen) if seen.number == number && seen.hash != entry.hash => {
                Err(Stop::Broken(format!("entry {number} is another one than was seen earlier")))
            }
            _ => Ok(()),
        }
    }

    /// The entry that was seen earlier and is not there now.
    fn missing(&self) -> Option<String> {
        let seen = self.expect.as_ref().filter(|seen| seen.number > self.chain.number)?;
        let last = self.chain.number;
        Some(format!(
            "it ends with entry {last}, and entry {} was seen earlier: the end was cut off",
            seen.number
        ))
    }
}

/// `NUMBER:HASH`.
fn seal(text: &str) -> Result<Chain, String> {
    let wrong = || "write NUMBER:HASH, as farshore audit verify printed it".to_owned();
    let (number, hash) = text.split_once(':').ok_or_else(wrong)?;
    let hex = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    match number.parse() {
        Ok(number) if hex => Ok(Chain { number, hash: hash.to_ascii_lowercase() }),
        _ => Err(wrong()),
    }
}
