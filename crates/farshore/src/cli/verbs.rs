//! The verbs that all kinds share.

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::ids::{ItemId, Region};
use serde::Serialize;
use serde_json::json;

use super::client::Client;
use super::exit::Failure;
use super::{Global, Output, ask, show, wait};
use crate::api::views::{
    AdoptRequest, ChangePointRequest, FailoverRequest, FailoverView, ItemView, JobView, MarkPointRequest,
    ProtectRequest, ReplicationWord, TestFailoverRequest,
};

#[derive(Debug, Subcommand)]
pub(super) enum VerbCommand {
    /// Replicate an item to another region
    Protect(ProtectArgs),
    /// Stop replicating an item and remove its replica
    Disable(Plain),
    /// Make the target the active region
    Failover(FailoverArgs),
    /// Open a recovery point in isolation beside the running original
    TestFailover(TestFailoverArgs),
    /// End a test failover and remove its copy
    Cleanup(Plain),
    /// Serve another recovery point, after a failover and before its commit
    ChangePoint(ChangePointArgs),
    /// Accept a failover: the point can no longer be changed
    Commit(Plain),
    /// Replicate in the reverse direction: only what differs is sent
    Reprotect(Plain),
    /// Planned failover toward home: nothing is lost
    Failback(Plain),
    /// Make a recovery point with a name
    MarkPoint(MarkPointArgs),
    /// Throw away the writes that a lost region kept
    DropDivergence(Plain),
    /// Say which region is active, when the control plane and the regions disagree (NeedsUser)
    Adopt(AdoptArgs),
}

/// Whether to wait.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Wait {
    /// Print the job's id and do not wait for it
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct Plain {
    /// The item, as KIND/NAME
    item: ItemId,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct ProtectArgs {
    /// The item, as KIND/NAME
    item: ItemId,
    /// The region to replicate to
    #[arg(long, value_name = "REGION")]
    to: Region,
    /// When writes are acknowledged: async (when written here) or sync (a flush waits for the target)
    #[arg(long, value_enum, default_value_t = Mode::Async, hide_possible_values = true)]
    replication: Mode,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Async,
    Sync,
}

#[derive(Debug, Args)]
pub(super) struct FailoverArgs {
    /// The item, as KIND/NAME
    item: ItemId,
    /// Stop the source first and lose nothing
    #[arg(long, conflicts_with_all = ["point", "source_is_down"])]
    planned: bool,
    /// latest, latest-processed, a point's id or name, or a time like 2026-11-21T05:00:00Z [default: latest]
    #[arg(long, value_name = "POINT")]
    point: Option<String>,
    /// Your word that the source is down: recorded, and shown for ever
    #[arg(long)]
    source_is_down: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct TestFailoverArgs {
    /// The item, as KIND/NAME
    item: ItemId,
    /// latest, latest-processed, a point's id or name, or a time like 2026-11-21T05:00:00Z [default: latest]
    #[arg(long, value_name = "POINT")]
    point: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct ChangePointArgs {
    /// The item, as KIND/NAME
    item: ItemId,
    /// latest, latest-processed, a point's id or name, or a time like 2026-11-21T05:00:00Z
    #[arg(long, value_name = "POINT")]
    point: String,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct AdoptArgs {
    /// The item, as KIND/NAME
    item: ItemId,
    /// The region that is to be active
    #[arg(long)]
    region: Region,
    /// Your word that a region which does not answer is down: recorded, and shown for ever
    #[arg(long)]
    others_are_down: bool,
    #[command(flatten)]
    wait: Wait,
}

#[derive(Debug, Args)]
pub(super) struct MarkPointArgs {
    /// The item, as KIND/NAME
    item: ItemId,
    /// The point's name
    #[arg(long)]
    name: String,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(global: &Global, command: VerbCommand) -> Result<(), Failure> {
    match command {
        VerbCommand::Protect(args) => {
            let replication = match args.replication {
                Mode::Async => ReplicationWord::Async,
                Mode::Sync => ReplicationWord::Sync,
            };
            let body = ProtectRequest { target: args.to.to_string(), replication };
            send(global, &args.item, "protect", &body, args.wait).await
        }
        VerbCommand::Failover(args) => failover(global, args).await,
        VerbCommand::TestFailover(args) => {
            let body = TestFailoverRequest { point: args.point };
            send(global, &args.item, "test-failover", &body, args.wait).await
        }
        VerbCommand::ChangePoint(args) => {
            let body = ChangePointRequest { point: args.point };
            send(global, &args.item, "change-point", &body, args.wait).await
        }
        VerbCommand::MarkPoint(args) => {
            let body = MarkPointRequest { name: args.name };
            send(global, &args.item, "mark-point", &body, args.wait).await
        }
        VerbCommand::Cleanup(args) => plain(global, args, "cleanup", None).await,
        VerbCommand::Reprotect(args) => plain(global, args, "reprotect", None).await,
        VerbCommand::Failback(args) => plain(global, args, "failback", None).await,
        VerbCommand::Disable(args) => {
            let what = "its replica and all its recovery points will be removed.";
            plain(global, args, "disable", Some(what)).await
        }
        VerbCommand::Commit(args) => {
            let what = "its recovery points will be dropped; the point can no longer be changed.";
            plain(global, args, "commit", Some(what)).await
        }
        VerbCommand::Adopt(args) => {
            let what = format!("{}: {} will be the active region, and no other.", args.item, args.region);
            ask::confirm(global, &what)?;
            let body =
                AdoptRequest { region: args.region.to_string(), others_are_down: args.others_are_down };
            send(global, &args.item, "adopt", &body, args.wait).await
        }
        VerbCommand::DropDivergence(args) => {
            let what = "the writes that only the lost region kept will be thrown away.";
            plain(global, args, "drop-divergence", Some(what)).await
        }
    }
}

async fn failover(global: &Global, args: FailoverArgs) -> Result<(), Failure> {
    let body =
        FailoverRequest { planned: args.planned, point: args.point, source_is_down: args.source_is_down };
    if !args.planned {
        let what = format!(
            "{}: its target will become the active region; writes that have not arrived there are lost (--planned \
             loses nothing).",
            args.item
        );
        ask::confirm(global, &what)?;
    }
    send(global, &args.item, "failover", &body, args.wait).await
}

async fn plain(global: &Global, args: Plain, verb: &str, what: Option<&str>) -> Result<(), Failure> {
    if let Some(what) = what {
        ask::confirm(global, &format!("{}: {what}", args.item))?;
    }
    send(global, &args.item, verb, &json!({}), args.wait).await
}

async fn send(
    global: &Global,
    item: &ItemId,
    verb: &str,
    body: &impl Serialize,
    wait: Wait,
) -> Result<(), Failure> {
    let client = Client::find(global)?;
    let job: JobView = client.post(&format!("/items/{item}/{verb}"), body).await?;
    see_through(global, &client, job, wait).await
}

/// Waits for the job unless told otherwise, and says how it ended.
pub(super) async fn see_through(
    global: &Global,
    client: &Client,
    job: JobView,
    wait: Wait,
) -> Result<(), Failure> {
    if wait.no_wait {
        return show::print(global, &job, |job| job.id.clone());
    }
    let job = wait::follow(client, job).await?;
    if global.output != Output::Table {
        show::print(global, &job, |_| String::new())?;
        return wait::verdict(&job);
    }
    wait::verdict(&job)?;
    show::say(&format!("{}: {} done in {} (job {})", job.item, job.verb, took(&job), job.id));
    if let Some(more) = outcome(client, &job).await {
        show::say(&more);
    }
    Ok(())
}

fn took(job: &JobView) -> String {
    use farshore_core::moment::Moment;
    let (begun, ended) = (job.created_at.parse::<Moment>(), job.updated_at.parse::<Moment>());
    match (begun, ended) {
        (Ok(begun), Ok(ended)) => show::seconds(ended.since(begun).as_secs_f64()),
        _ => "an unknown time".to_owned(),
    }
}

/// What people want to know after a verb. The job has ended: that the item cannot be read is no failure.
async fn outcome(client: &Client, job: &JobView) -> Option<String> {
    let item: ItemView = client.get(&format!("/items/{}", job.item)).await.ok()?;
    match job.verb.as_str() {
        "create" => Some(endpoints(&item.endpoints)),
        "failover" | "failback" | "change-point" => {
            Some(format!("{}\n{}", cost(item.failover.as_ref()?), endpoints(&item.endpoints)))
        }
        "test-failover" => {
            let drill = item.drill?;
            Some(format!("copy of {} in {}\n{}", drill.point.id, drill.region, endpoints(&drill.endpoints)))
        }
        _ => None,
    }
}

fn endpoints(endpoints: &[crate::api::views::EndpointView]) -> String {
    let rows: Vec<(&str, String)> =
        endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint.uri.clone())).collect();
    show::sheet(&rows)
}

/// What a failover cost.
pub(super) fn cost(report: &FailoverView) -> String {
    let lost = show::lost(&report.rpo, &report.from);
    // Before the first write there is no moment to name.
    let point = if report.point.seq == 0 { "the beginning" } else { report.point.id.as_str() };
    format!(
        "{} to {} at {point}; RTO {}; lost {lost}",
        report.from,
        report.to,
        show::seconds(report.rto_seconds)
    )
}
