//! `farshore hub merge` and `conflicts`: the way home, to be read at three in the morning.

use clap::Args;
use farshore_core::ids::Name;
use serde_json::Value;

use super::super::client::Client;
use super::super::exit::Failure;
use super::super::show::{self, sheet, time};
use super::super::{Global, ask};
use super::progress::Progress;
use super::{MergePolicy, printable};
use crate::api::views::{HubConflictView, HubConflictsView, HubMergeRequest, HubMergeView, HubSideView};

/// Longest value that is shown whole.
const VALUE_LEN_MAX: usize = 70;

#[derive(Debug, Args)]
pub(in crate::cli) struct MergeArgs {
    /// The hub's name
    name: Name,
    /// Only show what would be done
    #[arg(long)]
    plan: bool,
    /// Settle conflicts so from now on, in both regions
    #[arg(long, value_enum, value_name = "POLICY")]
    policy: Option<MergePolicy>,
}

pub(super) async fn run(global: &Global, client: &Client, args: &MergeArgs) -> Result<(), Failure> {
    let plan = once(client, args, true).await?;
    if args.plan {
        return show::print(global, &plan, merge_page);
    }
    if is_empty(&plan) {
        eprintln!("{} has nothing that is not here", partner(&plan));
    } else if !global.yes {
        eprint!("{}", merge_page(&plan));
        ask::confirm(global, &format!("What {} has will be taken over as shown.", partner(&plan)))?;
    }
    let mut progress = Progress::new();
    let mut done = once(client, args, false).await?;
    while done.partial {
        progress.tell(|| format!("{} identities, {} events", changed(&done), done.telemetry.late));
        done = added(done, once(client, args, false).await?);
    }
    progress.end();
    show::print(global, &done, merge_page)
}

async fn once(client: &Client, args: &MergeArgs, plan: bool) -> Result<HubMergeView, Failure> {
    let policy = args.policy.map(|policy| policy.as_str().to_owned());
    client.post(&format!("/hubs/{}/merge", args.name), &HubMergeRequest { plan, policy }).await
}

fn is_empty(merge: &HubMergeView) -> bool {
    let counts =
        [changed(merge), merge.messages, merge.groups, merge.policies, merge.telemetry.late, merge.held];
    counts.iter().all(|count| *count == 0) && merge.conflicts.is_empty() && !merge.partial
}

fn changed(merge: &HubMergeView) -> u64 {
    merge.created + merge.updated + merge.deleted
}

fn partner(merge: &HubMergeView) -> &str {
    if merge.partner.is_empty() { "the other region" } else { &merge.partner }
}

/// Two pieces of one merge.
fn added(one: HubMergeView, more: HubMergeView) -> HubMergeView {
    let mut conflicts = one.conflicts;
    conflicts.extend(more.conflicts);
    HubMergeView {
        created: one.created + more.created,
        updated: one.updated + more.updated,
        deleted: one.deleted + more.deleted,
        unchanged: one.unchanged + more.unchanged,
        held: one.held + more.held,
        messages: one.messages + more.messages,
        groups: one.groups + more.groups,
        policies: one.policies + more.policies,
        telemetry: crate::api::views::HubLateView {
            late: one.telemetry.late + more.telemetry.late,
            duplicates: one.telemetry.duplicates + more.telemetry.duplicates,
        },
        conflicts,
        ..more
    }
}

fn merge_page(merge: &HubMergeView) -> String {
    if is_empty(merge) {
        return format!("nothing to merge: {} has nothing that is not here\n", partner(merge));
    }
    let head = match merge.plan {
        true => format!("plan: what is taken over from {} (nothing was changed yet)\n", partner(merge)),
        false => format!("merged: what was taken over from {}\n", partner(merge)),
    };
    let nothing_else =
        |count: u64, what: &str| if count == 0 { String::new() } else { format!("{count} {what}") };
    let mut page = head;
    page.push_str(&sheet(&[
        ("  identities", identities(merge)),
        ("  telemetry", late(merge)),
        ("  messages", nothing_else(merge.messages, "to devices")),
        ("  consumer groups", nothing_else(merge.groups, "go on where they were farthest")),
        ("  policies", nothing_else(merge.policies, "change: look at farshore hub policy list")),
        ("  held", nothing_else(merge.held, "until a person decides")),
        ("  conflicts", conflicts_line(merge)),
        ("  report", merge.file.clone().unwrap_or_default()),
    ]));
    for conflict in &merge.conflicts {
        page.push('\n');
        page.push_str(&conflict_page(conflict));
    }
    if merge.plan && merge.partial {
        page.push_str("\nthere is more than can be looked at in ten seconds: this is the beginning of it\n");
    }
    page
}

fn identities(merge: &HubMergeView) -> String {
    format!(
        "{} new, {} changed, {} removed, {} the same",
        merge.created, merge.updated, merge.deleted, merge.unchanged
    )
}

fn late(merge: &HubMergeView) -> String {
    match (merge.telemetry.late, merge.plan) {
        (0, _) => "nothing late".to_owned(),
        (late, true) => format!("{late} late events; what was sent again is found when they come"),
        (late, false) => {
            format!("{late} late events, of which {} were here already", merge.telemetry.duplicates)
        }
    }
}

fn conflicts_line(merge: &HubMergeView) -> String {
    match merge.conflicts.len() {
        0 => "none".to_owned(),
        count => format!("{count}, settled {}; + is served, - is kept aside", merge.policy),
    }
}

/// Both values, and why.
fn conflict_page(conflict: &HubConflictView) -> String {
    let path = conflict.path.as_ref().map(|path| format!(" {path}")).unwrap_or_default();
    let noted = conflict.noted.as_ref().map(|noted| format!(" (noted {})", time(noted))).unwrap_or_default();
    let mut page = format!("{}: {}{path}: {}{noted}\n", conflict.device, conflict.group, why(&conflict.why));
    let regions = std::iter::once(&conflict.winner).chain(&conflict.losers);
    let width = regions.map(|side| side.region.len()).max().unwrap_or_default();
    let mut line = |mark: char, side: &HubSideView| {
        page.push_str(&format!(
            "  {mark} {:width$}  {}  {}\n",
            side.region,
            time(&side.at),
            shown(&side.value)
        ));
    };
    line('+', &conflict.winner);
    conflict.losers.iter().for_each(|side| line('-', side));
    page
}

/// The reason, in words.
fn why(word: &str) -> &str {
    match word {
        "disabled-wins" => "who was disabled stays disabled until somebody enables it again",
        "deletion-wins" => "it was deleted, and the other change did not know of that",
        "other-generation" => "it was deleted and made anew; the other change was to the earlier one",
        "later-epoch" => "the region that had the right to write last wins",
        "later" => "the later change wins",
        "preferred" => "the merge policy prefers this region",
        "held" => "it is held until a person decides; meanwhile this is served",
        other => other,
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "(nothing)".to_owned(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    };
    match text.chars().count() > VALUE_LEN_MAX {
        true => format!("{}...", text.chars().take(VALUE_LEN_MAX - 3).collect::<String>()),
        false => text,
    }
}

pub(super) async fn conflicts(global: &Global, client: &Client, name: &Name) -> Result<(), Failure> {
    let conflicts: HubConflictsView = client.get(&format!("/hubs/{name}/conflicts")).await?;
    show::print(global, &conflicts, |all| conflicts_page(name, all))
}

fn conflicts_page(name: &Name, all: &HubConflictsView) -> String {
    let mut page = match all.open.len() {
        0 => "no conflicts are open\n".to_owned(),
        count => format!(
            "{count} not decided yet; + is served, - is kept aside. Whoever changes the value decides.\n"
        ),
    };
    for conflict in &all.open {
        page.push('\n');
        page.push_str(&conflict_page(conflict));
    }
    let is_decided = |noted: &&HubConflictView| {
        let noted = HubConflictView { noted: None, ..HubConflictView::clone(noted) };
        !all.open.contains(&noted)
    };
    let decided: Vec<_> = all.noted.iter().filter(is_decided).collect();
    if !decided.is_empty() {
        page.push_str("\ndecided since, the newest first:\n");
        decided.iter().for_each(|conflict| page.push_str(&conflict_page(conflict)));
    }
    if let Some(file) = &all.file {
        page.push_str(&format!("\n{} were noted for hub/{name}, in {file}\n", all.kept));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_decided_since_is_listed_after_what_is_open() {
        let conflict = |device: &str, noted: Option<&str>| HubConflictView {
            device: device.to_owned(),
            group: "tags".to_owned(),
            path: Some("place".to_owned()),
            why: "later".to_owned(),
            noted: noted.map(str::to_owned),
            ..HubConflictView::default()
        };
        let at = Some("2026-11-21T03:00:00.5Z");
        let all = HubConflictsView {
            open: vec![conflict("pump", None)],
            noted: vec![conflict("valve", at), conflict("pump", at)],
            kept: 2,
            file: Some("/data/conflicts.jsonl".to_owned()),
        };
        let page = conflicts_page(&Name::parse("fleet").unwrap(), &all);
        assert_eq!(
            (page.matches("pump: tags place").count(), page.matches("valve: tags place").count()),
            (1, 1),
            "{page}"
        );
        assert!(
            page.find("pump:") < page.find("decided since") && page.contains("2 were noted for hub/fleet"),
            "{page}"
        );
    }

    use crate::api::views::HubLateView;
    use serde_json::json;

    fn side(region: &str, value: Value) -> HubSideView {
        HubSideView { region: region.to_owned(), epoch: 2, at: "2026-11-21T03:00:00.5Z".to_owned(), value }
    }

    #[test]
    fn a_plan_is_read_at_a_glance() {
        let merge = HubMergeView {
            plan: true,
            partner: "paris".to_owned(),
            policy: "by-group".to_owned(),
            created: 2,
            updated: 1,
            unchanged: 97,
            telemetry: HubLateView { late: 1204, duplicates: 0 },
            conflicts: vec![HubConflictView {
                device: "pump-7".to_owned(),
                group: "status".to_owned(),
                winner: side("oslo", json!("disabled")),
                losers: vec![side("paris", json!("enabled"))],
                why: "disabled-wins".to_owned(),
                ..HubConflictView::default()
            }],
            ..HubMergeView::default()
        };
        assert_eq!(
            merge_page(&merge),
            "plan: what is taken over from paris (nothing was changed yet)\n\
             \u{20} identities       2 new, 1 changed, 0 removed, 97 the same\n\
             \u{20} telemetry        1204 late events; what was sent again is found when they come\n\
             \u{20} conflicts        1, settled by-group; + is served, - is kept aside\n\
             \n\
             pump-7: status: who was disabled stays disabled until somebody enables it again\n\
             \u{20} + oslo   2026-11-21 03:00:00Z  disabled\n\
             \u{20} - paris  2026-11-21 03:00:00Z  enabled\n"
        );
        let twice = added(merge.clone(), merge.clone());
        assert_eq!((twice.created, twice.telemetry.late, twice.conflicts.len()), (4, 2408, 2));
        assert_eq!(
            merge_page(&HubMergeView { partner: "paris".to_owned(), ..HubMergeView::default() }),
            "nothing to merge: paris has nothing that is not here\n"
        );
    }

    #[test]
    fn long_values_are_cut_and_none_writes_on_the_terminal() {
        assert_eq!(shown(&json!("x".repeat(200))).len(), VALUE_LEN_MAX);
        assert_eq!(shown(&json!("\u{1b}[2J")), "\\u{1b}[2J");
        assert_eq!(shown(&Value::Null), "(nothing)");
    }
}
