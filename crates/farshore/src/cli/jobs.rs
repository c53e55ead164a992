//! `farshore job …`.

use clap::{Args, Subcommand};
use farshore_core::ids::ItemId;
use serde_json::json;

use super::client::Client;
use super::exit::Failure;
use super::show::{ago, sheet, table, time};
use super::{Global, Output, show, wait};
use crate::api::views::{JobView, LogView, ReasonRequest};

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// List jobs, oldest first
    List(ListArgs),
    /// Show a job with its steps and its journal
    Show(OneJob),
    /// Follow a job to its end
    Watch(OneJob),
    /// Take back what a job did; before its point of no return only
    Cancel(OneJob),
    /// Try the stuck step of a job again
    Retry(OneJob),
    /// Say that the stuck step of a job need not be done
    Skip(WithReason),
    /// Give a stuck job up; nothing is taken back
    Abandon(WithReason),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only those of this item, as KIND/NAME
    #[arg(long)]
    item: Option<ItemId>,
    /// Only those that have not ended
    #[arg(long)]
    active: bool,
}

#[derive(Debug, Args)]
pub(super) struct OneJob {
    /// The job's id
    job: String,
}

#[derive(Debug, Args)]
pub(super) struct WithReason {
    /// The job's id
    job: String,
    /// Why; kept in the audit
    #[arg(long)]
    reason: String,
}

pub(super) async fn run(global: &Global, command: JobCommand) -> Result<(), Failure> {
    let client = Client::find(global)?;
    match command {
        JobCommand::List(args) => list(global, &client, &args).await,
        JobCommand::Show(args) => show_one(global, &client, &path(&args.job)?).await,
        JobCommand::Watch(args) => watch(global, &client, &path(&args.job)?).await,
        JobCommand::Cancel(args) => steer(global, &client, &path(&args.job)?, "cancel", None).await,
        JobCommand::Retry(args) => steer(global, &client, &path(&args.job)?, "retry", None).await,
        JobCommand::Skip(args) => steer(global, &client, &path(&args.job)?, "skip", Some(args.reason)).await,
        JobCommand::Abandon(args) => {
            steer(global, &client, &path(&args.job)?, "abandon", Some(args.reason)).await
        }
    }
}

/// The path of a job; an id has letters and digits only.
fn path(id: &str) -> Result<String, Failure> {
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::usage(format!("{id:?} is not a job's id: farshore job list shows them")));
    }
    Ok(format!("/jobs/{id}"))
}

async fn list(global: &Global, client: &Client, args: &ListArgs) -> Result<(), Failure> {
    let mut query = Vec::new();
    if let Some(item) = &args.item {
        query.push(format!("item={item}"));
    }
    if args.active {
        query.push("ended=false".to_owned());
    }
    let jobs: Vec<JobView> = client.get(&format!("/jobs?{}", query.join("&"))).await?;
    show::print(global, &jobs, |jobs| if jobs.is_empty() { "no jobs".to_owned() } else { jobs_table(jobs) })
}

pub(super) fn jobs_table(jobs: &[JobView]) -> String {
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.clone(),
                job.item.clone(),
                job.verb.clone(),
                job.state.clone(),
                format!("{:.0}%", job.progress * 100.0),
                job.step.clone().unwrap_or_default(),
                ago(&job.created_at),
            ]
        })
        .collect();
    table(&["JOB", "ITEM", "VERB", "STATE", "DONE", "STEP", "STARTED"], &rows)
}

async fn show_one(global: &Global, client: &Client, path: &str) -> Result<(), Failure> {
    let job: JobView = client.get(path).await?;
    if global.output != Output::Table {
        return show::print(global, &job, |_| String::new());
    }
    let log: Vec<LogView> = client.get(&format!("{path}/log")).await?;
    let head = sheet(&[
        ("job", job.id.clone()),
        ("item", job.item.clone()),
        ("verb", job.verb.clone()),
        ("state", format!("{} ({:.0}%)", job.state, job.progress * 100.0)),
        ("why", job.why.clone().unwrap_or_default()),
        ("not taken back", job.residue.join("; ")),
        ("asked by", format!("{}, {}", job.asked_by, time(&job.created_at))),
        ("possible now", job.possible.join(", ")),
    ]);
    let steps: Vec<Vec<String>> = job
        .steps
        .iter()
        .map(|step| {
            let no_return = if step.no_return { "no way back from here" } else { "" };
            vec![step.name.clone(), step.state.clone(), no_return.to_owned()]
        })
        .collect();
    let log: Vec<Vec<String>> = log.iter().map(|entry| vec![time(&entry.at), entry.text.clone()]).collect();
    show::say(&format!(
        "{head}\n{}\n{}",
        table(&["STEP", "STATE", ""], &steps),
        table(&["TIME", "WHAT HAPPENED"], &log)
    ));
    Ok(())
}

async fn watch(global: &Global, client: &Client, path: &str) -> Result<(), Failure> {
    let job: JobView = client.get(path).await?;
    let job = wait::follow(client, job).await?;
    show::print(global, &job, |job| format!("{} of {}: {}", job.verb, job.item, job.state))?;
    wait::verdict(&job)
}

async fn steer(
    global: &Global,
    client: &Client,
    path: &str,
    verb: &str,
    reason: Option<String>,
) -> Result<(), Failure> {
    let path = format!("{path}/{verb}");
    let job: JobView = match reason {
        Some(reason) => client.post(&path, &ReasonRequest { reason }).await?,
        None => client.post(&path, &json!({})).await?,
    };
    show::print(global, &job, |job| {
        format!("job {}: {verb} accepted, it is {} (farshore job watch {})", job.id, job.state, job.id)
    })
}
