//! How an app is shown: a row of a list, and a sheet of its own.

use serde_json::Value;

use super::super::show::{ago, bytes, sheet, table, visible_len};
use crate::api::views::{
    AppBrief, AppDatabaseView, AppPositionView, AppProcessView, AppReleaseBrief, AppView, ItemView,
};

/// Lists stay within this.
const LIST_WIDTH: usize = 80;
/// A commit, as people write it.
const COMMIT_LEN: usize = 10;

/// Apps, a row each. Where whole URLs do not fit, they stand without their scheme.
pub(super) fn list(apps: &[AppBrief]) -> String {
    let whole = lines(apps, |url| url);
    let text = match whole.lines().any(|line| visible_len(line) > LIST_WIDTH) {
        true => lines(apps, |url| url.split_once("://").map_or(url, |(_, rest)| rest)),
        false => whole,
    };
    let mut text: String = text.lines().map(|line| format!("{}\n", fitting(line))).collect();
    if apps.iter().any(|app| app.reserve_for.is_some()) {
        text.push_str("\n* a reserve: capacity for another app\n");
    }
    text
}

fn lines(apps: &[AppBrief], url: impl Fn(&str) -> &str) -> String {
    let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |app: &AppBrief| {
        let star = if app.reserve_for.is_some() { "*" } else { "" };
        vec![
            app.name.clone(),
            cell(app.mode.as_ref().map(|mode| format!("{mode}{star}"))),
            app.region.clone(),
            app.state.clone(),
            cell(app.release.map(|number| number.to_string())),
            cell(app.url.as_ref().map(|whole| url(whole.trim_end_matches('/')).to_owned())),
        ]
    };
    table(&["NAME", "MODE", "REGION", "STATE", "RELEASE", "URL"], &apps.iter().map(row).collect::<Vec<_>>())
}

/// Colours take no room, and stand in the head only.
fn fitting(line: &str) -> String {
    if visible_len(line) <= LIST_WIDTH {
        return line.to_owned();
    }
    let kept: String = line.chars().take(LIST_WIDTH - 3).collect();
    format!("{kept}...")
}

/// One app.
pub(super) fn app(app: &AppView, item: &ItemView) -> String {
    let lines = |values: &[String]| values.join(", ");
    let mut rows = vec![
        ("app", app.name.clone()),
        ("url", app.urls.first().cloned().unwrap_or_default()),
        ("also known as", lines(app.urls.get(1..).unwrap_or_default())),
        ("git", app.git_url.clone()),
        ("name kept for", app.ttl_seconds.map(|ttl| format!("{ttl} s by resolvers")).unwrap_or_default()),
        ("state", state(app, item)),
        ("mode", mode(app)),
        ("release", app.release.as_ref().map(release).unwrap_or_else(|| "none yet".to_owned())),
        ("database", database(app.database.as_ref())),
        ("replicated", replicated(app, item)),
        ("reserve", reserve(app)),
        ("backups", backups(app)),
        ("settings", app.settings_count.to_string()),
        (
            "capacity",
            format!("{} of {} MiB in {} are spoken for", app.capacity.used_mib, app.capacity.mib, app.region),
        ),
    ];
    if let Some(operation) = &app.operation {
        rows.push(("under way", format!("{} ({})", operation.kind, operation.id)));
    }
    rows.extend(app.warnings.iter().map(|warning| ("warning", warning.clone())));
    let mut page = sheet(&rows);
    if !app.processes.is_empty() {
        let processes: Vec<_> = app.processes.iter().map(process).collect();
        page.push_str(&format!(
            "\n{}",
            table(&["PROCESS", "PORT", "STATE", "RESTARTS", "MEMORY", "SINCE", "LAST END"], &processes)
        ));
    }
    page
}

fn state(app: &AppView, item: &ItemView) -> String {
    if app.region == item.source {
        return format!("{} in {}", app.state, app.region);
    }
    format!(
        "{} does not answer; {} has a copy: farshore failover app/{} --source-is-down brings it up there",
        item.source, app.region, app.name
    )
}

fn mode(app: &AppView) -> String {
    let processes =
        if app.instances == 1 { "1 process".to_owned() } else { format!("{} processes", app.instances) };
    let key = if app.require_key { ", clients name the application key" } else { "" };
    format!("{}, {processes}{key}", app.mode)
}

/// What is live, in a line.
pub(super) fn release(release: &AppReleaseBrief) -> String {
    let at = release.at.as_deref().map(|at| format!(", {}", ago(at))).unwrap_or_default();
    format!("{} ({}) by {}{at}", release.number, commit(&release.commit), release.by)
}

/// A commit, in short.
pub(super) fn commit(id: &str) -> String {
    id.chars().take(COMMIT_LEN).collect()
}

fn database(database: Option<&AppDatabaseView>) -> String {
    let Some(database) = database.filter(|database| database.external || database.engine != "none") else {
        return "none".to_owned();
    };
    let reachable = if database.reachable == Some(false) { ", NOT REACHABLE" } else { "" };
    if database.external {
        return format!("{} on a server of its own, not replicated{reachable}", database.engine);
    }
    let written = database.position.as_ref().map(|position| format!(", {}", commits(position.commits)));
    format!(
        "{} {}, {}{}{reachable}",
        database.engine,
        database.name.as_deref().unwrap_or("is not open here"),
        bytes(database.size_bytes),
        written.unwrap_or_default()
    )
}

/// Whether the other region follows, and how much a failover now would lose. That it is named says nothing: after a failover it
/// is the one that was lost.
fn replicated(app: &AppView, item: &ItemView) -> String {
    let Some(target) = &item.target else { return "no: lost with its region".to_owned() };
    let more = format!("farshore status app/{}", app.name);
    let behind = app.database.as_ref().and_then(|database| {
        let (here, there) = (database.position.as_ref()?, database.confirmed.as_ref()?);
        Some(behind(here, there))
    });
    let behind = behind.unwrap_or_default();
    let state = app.replication.as_ref().and_then(|link| link.get("state")).and_then(Value::as_str);
    match (item.phase.as_str(), state) {
        // The source does not answer, and the target knows what has arrived.
        ("Protected", _) if app.region != item.source => format!("to {target}, as far as it had arrived"),
        ("Protected", Some("streaming")) => format!("to {target}{behind}"),
        ("Protected", Some("seeding" | "catching-up")) => {
            format!("not now: {target} is being brought up to date ({more}){behind}")
        }
        ("Protected", _) => format!("not now: {target} does not follow ({more}){behind}"),
        ("Seeding", _) => format!("not yet: the first copy to {target} is under way ({more})"),
        ("Reprotecting", _) => format!("not yet: {target} is being brought up to date ({more})"),
        _ => format!("no: {target} does not follow ({more})"),
    }
}

fn behind(here: &AppPositionView, there: &AppPositionView) -> String {
    match (here.commits.saturating_sub(there.commits), here.bytes.saturating_sub(there.bytes)) {
        (0, 0) => ", nothing behind".to_owned(),
        (count, size) => format!(", {} ({}) behind", commits(count), bytes(size)),
    }
}

fn commits(count: u64) -> String {
    if count == 1 { "1 commit".to_owned() } else { format!("{count} commits") }
}

fn reserve(app: &AppView) -> String {
    match (&app.reserve, &app.reserve_for, &app.lent_to) {
        (_, _, Some(to)) => format!("its capacity is used by app/{to}"),
        (_, Some(of), None) => format!("keeps capacity for app/{of}"),
        (Some(name), None, None) => format!("app/{name}"),
        (None, None, None) => format!(
            "none: farshore app reserve {}-dr --region REGION --mode {} --for {}",
            app.name, app.mode, app.name
        ),
    }
}

fn backups(app: &AppView) -> String {
    let newest = match (&app.backups.newest_at, app.backups.newest_ok) {
        (Some(at), Some(true)) => format!(", the newest {}, proved by restoring it", ago(at)),
        (Some(at), Some(false)) => format!(", the newest {} is DAMAGED", ago(at)),
        (Some(at), None) => format!(", the newest {}", ago(at)),
        (None, _) => String::new(),
    };
    format!("{}{newest}", app.backups.count)
}

fn process(process: &AppProcessView) -> Vec<String> {
    let cell = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        cell(process.pid.map(|pid| pid.to_string())),
        cell(process.port.map(|port| port.to_string())),
        process.state.clone(),
        process.restarts.to_string(),
        cell(process.memory_bytes.map(bytes)),
        cell(process.since.as_deref().map(ago)),
        cell(process.last_ending.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(phase: &str, target: Option<&str>) -> ItemView {
        let item = json!({
            "id": "app/todo", "kind": "app", "name": "todo", "phase": phase, "home": "paris", "source": "oslo",
            "target": target, "epoch": 2, "mode": "async", "on_control_loss": "hold", "next_actions": [],
            "health": { "state": "Healthy" }, "endpoints": [], "points": { "count": 0 }, "operators_words": [], "regions": [],
            "created_at": "",
        });
        serde_json::from_value(item).unwrap()
    }

    #[test]
    fn an_app_is_called_replicated_only_while_the_other_region_follows() {
        let position =
            |commits| Some(AppPositionView { commits, bytes: 1000 * commits, ..Default::default() });
        let shown = |phase: &str, target: Option<&str>, region: &str, link: Option<&str>| {
            let database =
                AppDatabaseView { position: position(3), confirmed: position(1), ..Default::default() };
            let app = AppView {
                name: "todo".to_owned(),
                region: region.to_owned(),
                database: Some(database),
                replication: link.map(|state| json!({ "state": state })),
                ..Default::default()
            };
            replicated(&app, &item(phase, target))
        };
        let check = |phase, link, expected: &str| {
            assert_eq!(shown(phase, Some("paris"), "oslo", link), expected, "{phase} {link:?}");
        };
        check("Protected", Some("streaming"), "to paris, 2 commits (2 KiB) behind");
        let none = "no: paris does not follow (farshore status app/todo)";
        for phase in ["FailingOver", "FailedOver", "Committed", "NeedsUser"] {
            check(phase, Some("disconnected"), none);
            check(phase, None, none);
        }
        let silent = "not now: paris does not follow (farshore status app/todo), 2 commits (2 KiB) behind";
        check("Protected", Some("disconnected"), silent);
        check("Protected", None, silent);
        for phase in ["Seeding", "Reprotecting"] {
            assert!(shown(phase, Some("paris"), "oslo", Some("seeding")).starts_with("not yet: "), "{phase}");
        }
        assert!(shown("Protected", Some("paris"), "oslo", Some("seeding")).starts_with("not now: "));
        assert_eq!(
            shown("Protected", Some("paris"), "paris", None),
            "to paris, as far as it had arrived",
            "oslo is silent, and paris tells"
        );
        assert_eq!(shown("Unprotected", None, "oslo", None), "no: lost with its region");
    }

    #[test]
    fn a_list_fits_into_eighty_columns() {
        let app = |name: &str, mode: &str| AppBrief {
            name: name.to_owned(),
            mode: Some(mode.to_owned()),
            region: "paris".to_owned(),
            state: "running".to_owned(),
            release: Some(3),
            url: Some("http://todo.app.farshore.internal:41234/".to_owned()),
            reserve_for: None,
        };
        let text = list(&[app("todo", "basic")]);
        assert!(text.lines().nth(1).unwrap().ends_with(":41234"), "{text}");
        let text = list(&[app("todo", "basic"), app("todo-dr-oslo", "basic")]);
        assert!(text.lines().nth(2).unwrap().ends_with("  todo.app.farshore.internal:41234"), "{text}");
        let text = list(&[app("a-long-name-of-an-app", "standard"), AppBrief::default()]);
        assert!(text.lines().all(|line| line.chars().count() <= LIST_WIDTH), "{text}");
    }
}
