//! Looking: everything at a glance, an item, its points, regions.

use clap::{Args, Subcommand};
use farshore_core::ids::{ItemId, Region};

use super::client::Client;
use super::exit::Failure;
use super::incident::incidents_table;
use super::jobs::jobs_table;
use super::show::{ago, bytes, health, loss, sheet, table, time};
use super::{Global, show, verbs};
use crate::api::views::{HealthState, HealthView, ItemView, PointsView, RegionView, SeenView, StatusView};

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only this item, as KIND/NAME
    item: Option<ItemId>,
}

#[derive(Debug, Args)]
pub(super) struct OneItem {
    /// The item, as KIND/NAME
    item: ItemId,
}

#[derive(Debug, Subcommand)]
pub(super) enum RegionCommand {
    /// List regions
    List,
    /// Show one region
    Show {
        /// Its name
        name: Region,
    },
}

pub(super) async fn status(global: &Global, args: &StatusArgs) -> Result<(), Failure> {
    if let Some(item) = &args.item {
        return show_item(global, &item.to_string()).await;
    }
    let status: StatusView = Client::find(global)?.get("/status").await?;
    show::print(global, &status, status_page)
}

fn status_page(status: &StatusView) -> String {
    let mut page = String::new();
    if let Some(since) = &status.control.read_only_since {
        let why = status.control.store_error.as_deref().unwrap_or("the store does not answer");
        page.push_str(&wrapped(&format!("READ-ONLY since {}: {why}", time(since))));
        page.push_str("  -> what runs goes on; ask a control node in another region with --api\n");
    }
    for line in status.banner.iter().take(BANNER_LINES_MAX) {
        let head = format!("{} {}: {}", health(line.health.state), line.subject, text(&line.health));
        page.push_str(&wrapped(&head));
        if let Some(advice) = &line.health.advice {
            page.push_str(&wrapped(&format!("  -> {advice}")));
        }
    }
    if status.banner.len() > BANNER_LINES_MAX {
        let more = status.banner.len() - BANNER_LINES_MAX;
        page.push_str(&format!("and {more} more: farshore status --output json has them all\n"));
    }
    if status.banner.is_empty() && status.control.read_only_since.is_none() {
        page.push_str("All is well.\n");
    }
    page.push('\n');
    page.push_str(&regions_table(&status.regions));
    page.push('\n');
    match status.items.as_slice() {
        [] => page.push_str("no items yet: farshore machine create NAME --region REGION --disk root=10G\n"),
        items => page.push_str(&matrix(items, &status.regions)),
    }
    if !status.incidents.is_empty() {
        page.push('\n');
        page.push_str(&incidents_table(&status.incidents));
    }
    if !status.jobs.is_empty() {
        page.push('\n');
        page.push_str(&jobs_table(&status.jobs));
    }
    page
}

/// More would push the tables off the screen.
const BANNER_LINES_MAX: usize = 10;
/// Regions beside each other in 80 columns.
const REGION_COLUMNS_MAX: usize = 3;
/// Lines that people read are no longer than this.
const LINE_LEN: usize = 80;

/// The text in lines of at most [`LINE_LEN`], the later ones indented.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut used = 0;
    let indent = text.chars().take_while(|char| *char == ' ').count();
    out.push_str(&" ".repeat(indent));
    used += indent;
    for word in text.split_whitespace() {
        let len = show::visible_len(word);
        if used > indent && used + 1 + len > LINE_LEN {
            out.push_str("\n    ");
            used = 4;
        } else if used > indent {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += len;
    }
    out.push('\n');
    out
}

/// Items by regions: who is active where, who follows.
fn matrix(items: &[ItemView], regions: &[RegionView]) -> String {
    if regions.len() > REGION_COLUMNS_MAX {
        return items_table(items);
    }
    let role = |item: &ItemView, region: &str| {
        let seen = item.regions.iter().find(|seen| seen.region == region)?;
        let role = seen.observation.as_ref()?.role.clone();
        Some(if seen.error.is_some() { format!("{role}?") } else { role })
    };
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let mut row = vec![item.id.clone(), health(item.health.state), item.phase.clone()];
            row.extend(
                regions.iter().map(|region| role(item, &region.name).unwrap_or_else(|| "-".to_owned())),
            );
            let lag = item.replication.as_ref().map(|replication| &replication.lag);
            row.push(lag.map_or("-".to_owned(), |lag| bytes(lag.bytes)));
            row.push(item.points.count.to_string());
            row
        })
        .collect();
    let names: Vec<String> = regions.iter().map(|region| region.name.to_uppercase()).collect();
    let mut head = vec!["ITEM", "HEALTH", "PHASE"];
    head.extend(names.iter().map(String::as_str));
    head.extend(["LAG", "POINTS"]);
    table(&head, &rows)
}

fn text(health: &HealthView) -> &str {
    health.reason.as_deref().unwrap_or("all is well")
}

pub(super) fn items_table(items: &[ItemView]) -> String {
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let doing = item.job.as_ref();
            vec![
                item.id.clone(),
                doing.map_or(item.phase.clone(), |job| {
                    format!("{} ({} {:.0}%)", item.phase, job.verb, job.progress * 100.0)
                }),
                health(item.health.state),
                item.source.clone(),
                item.target.clone().unwrap_or_else(|| "-".to_owned()),
                item.replication.as_ref().map_or("-".to_owned(), |replication| replication.state.clone()),
                item.replication.as_ref().map_or("-".to_owned(), |replication| bytes(replication.lag.bytes)),
                item.points.count.to_string(),
            ]
        })
        .collect();
    table(&["ITEM", "PHASE", "HEALTH", "ACTIVE", "TARGET", "REPLICATION", "LAG", "POINTS"], &rows)
}

/// One item on a page.
pub(super) async fn show_item(global: &Global, id: &str) -> Result<(), Failure> {
    let item: ItemView = Client::find(global)?.get(&format!("/items/{id}")).await?;
    show::print(global, &item, item_page)
}

fn item_page(item: &ItemView) -> String {
    let some = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut rows = vec![
        ("item", item.id.clone()),
        ("phase", item.phase.clone()),
        ("", some(&item.phase_note)),
        ("health", health(item.health.state)),
        ("reason", some(&item.health.reason)),
        ("advice", some(&item.health.advice)),
        ("active in", item.source.clone()),
        ("target", some(&item.target)),
        ("home", item.home.clone()),
        ("epoch", item.epoch.to_string()),
        ("possible now", item.next_actions.join(", ")),
    ];
    if let Some(job) = &item.job {
        let step = job.step.as_deref().unwrap_or_default();
        rows.push((
            "job",
            format!("{} {} {:.0}% {step} ({})", job.verb, job.state, job.progress * 100.0, job.id),
        ));
    }
    if let Some(replication) = &item.replication {
        rows.push(("replication", format!("{} to {}", replication.state, replication.target)));
        rows.push(("at risk", loss(&replication.lag)));
        if replication.behind_bytes > 0 {
            let (behind, total) = (bytes(replication.behind_bytes), bytes(replication.total_bytes));
            rows.push(("still to send", format!("{behind} of {total}")));
        }
        rows.push(("note", some(&replication.note)));
    }
    if let (Some(oldest), Some(newest)) = (&item.points.oldest, &item.points.newest) {
        let span = format!("{}, {} to {}", item.points.count, time(oldest), time(newest));
        rows.push(("points", span));
    }
    if let Some(drill) = &item.drill {
        rows.push(("drill", format!("{} in {}", drill.point.id, drill.region)));
        rows.extend(drill.endpoints.iter().map(|endpoint| ("", endpoint.uri.clone())));
    }
    if let Some(failover) = &item.failover {
        rows.push(("last failover", verbs::cost(failover)));
        rows.push(("", failover.proof.clone()));
    }
    rows.extend(item.operators_words.iter().map(|word| ("source was down by", word.clone())));
    if let Some(kept) = &item.divergence {
        let many = match (kept.exact, kept.loss.writes) {
            (true, _) => loss(&kept.loss),
            (false, 0) => "more than can be counted".to_owned(),
            (false, _) => format!("at most {}", loss(&kept.loss)),
        };
        rows.push(("kept writes", format!("{many} in {}", kept.region)));
        rows.extend(kept.endpoints.iter().map(|endpoint| ("", endpoint.uri.clone())));
    }
    let endpoints: Vec<Vec<String>> =
        item.endpoints.iter().map(|endpoint| vec![endpoint.name.clone(), endpoint.uri.clone()]).collect();
    let regions: Vec<Vec<String>> = item.regions.iter().map(seen_row).collect();
    let mut page = sheet(&rows);
    if !endpoints.is_empty() {
        page.push_str(&format!("\n{}", table(&["PART", "WHERE"], &endpoints)));
    }
    if !regions.is_empty() {
        page.push_str(&format!(
            "\n{}",
            table(&["REGION", "ROLE", "EPOCH", "LAST WRITE", "SEEN", "NOTE"], &regions)
        ));
    }
    page
}

fn seen_row(seen: &SeenView) -> Vec<String> {
    let observed = seen.observation.as_ref();
    let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let warning = observed.and_then(|observed| observed.warnings.first().cloned());
    vec![
        seen.region.clone(),
        cell(observed.map(|observed| observed.role.clone())),
        cell(observed.map(|observed| observed.epoch.to_string())),
        cell(observed.map(|observed| observed.watermark.seq.to_string())),
        ago(&seen.at),
        seen.error.clone().or(warning).unwrap_or_default(),
    ]
}

pub(super) async fn points(global: &Global, args: &OneItem) -> Result<(), Failure> {
    let points: PointsView = Client::find(global)?.get(&format!("/items/{}/points", args.item)).await?;
    show::print(global, &points, |points| {
        if points.points.is_empty() {
            return "no recovery points: protect the item first".to_owned();
        }
        let rows: Vec<Vec<String>> = points
            .points
            .iter()
            .map(|point| {
                vec![
                    point.id.clone(),
                    time(&point.at),
                    ago(&point.at),
                    point.kind.clone(),
                    point.name.clone().unwrap_or_default(),
                ]
            })
            .collect();
        table(&["POINT", "TAKEN", "AGE", "KIND", "NAME"], &rows)
    })
}

pub(super) async fn region(global: &Global, command: RegionCommand) -> Result<(), Failure> {
    let client = Client::find(global)?;
    match command {
        RegionCommand::List => {
            let regions: Vec<RegionView> = client.get("/regions").await?;
            show::print(global, &regions, |regions| regions_table(regions))
        }
        RegionCommand::Show { name } => {
            let region: RegionView = client.get(&format!("/regions/{name}")).await?;
            show::print(global, &region, region_page)
        }
    }
}

fn regions_table(regions: &[RegionView]) -> String {
    let rows: Vec<Vec<String>> = regions
        .iter()
        .map(|region| {
            // What a silent region last said is no longer what it does.
            let count = |role| match region.health.state {
                HealthState::Healthy => {
                    region.items.iter().filter(|item| item.role == role).count().to_string()
                }
                _ => "?".to_owned(),
            };
            vec![
                region.name.clone(),
                health(region.health.state),
                region.last_seen.as_deref().map_or("never".to_owned(), ago),
                count("active"),
                count("target"),
                region.replication.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    table(&["REGION", "HEALTH", "LAST SEEN", "ACTIVE", "TARGET OF", "REPLICATION"], &rows)
}

fn region_page(region: &RegionView) -> String {
    let some = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut page = sheet(&[
        ("region", region.name.clone()),
        ("health", health(region.health.state)),
        ("reason", some(&region.health.reason)),
        ("advice", some(&region.health.advice)),
        ("last seen", region.last_seen.as_deref().map(time).unwrap_or_default()),
        ("registered", time(&region.since)),
        ("agent", region.agent_url.clone().unwrap_or_else(|| "in the control plane's own node".to_owned())),
        ("replication", some(&region.replication)),
    ]);
    if !region.items.is_empty() {
        let rows: Vec<Vec<String>> =
            region.items.iter().map(|item| vec![item.id.clone(), item.role.clone()]).collect();
        page.push_str(&format!("\n{}", table(&["ITEM", "ROLE HERE"], &rows)));
    }
    page
}
