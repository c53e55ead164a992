//! `farshore app migrate` and `farshore app recover`: two names of one operation, with the words that operators of such services
//! know.
//!
//! What there is to know stands on stdout (`info:`); prompts, progress and the report go to stderr.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use farshore_core::ids::Name;

use super::super::client::Client;
use super::super::exit::{FAILED, Failure};
use super::super::{Global, Output, show};
use crate::api::views::{MigrateRequest, MigrationPreview, MigrationReport, MigrationView};

/// Between two looks at a migration.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A control plane that is started again, or elsewhere, is back within so many looks.
const AWAY_MAX: u32 = 480;

#[derive(Debug, Args)]
pub(in crate::cli) struct MigrateArgs {
    /// The app that is to be recovered; asked for if absent
    primary: Option<Name>,
    /// The app whose capacity is used, and which is removed; asked for if absent
    secondary: Option<Name>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    quiet: bool,
    /// Also when the app is healthy
    #[arg(long)]
    force: bool,
}

/// Recovers; `command` is what the operator called it.
pub(super) async fn run(
    global: &Global,
    client: &Client,
    command: &str,
    args: MigrateArgs,
) -> Result<(), Failure> {
    let is_table = global.output == Output::Table;
    if is_table {
        show::say(&format!("info:    Executing command app {command}"));
    }
    let quiet = args.quiet || global.yes;
    let primary = name_of(args.primary, "Name of the app service to migrate: ")?;
    let secondary = name_of(args.secondary, "Name of the app service to use for capacity: ")?;
    let query = format!("/apps/{primary}/migrate?secondary={secondary}&force={}", args.force);
    let preview: MigrationPreview = client.get(&query).await?;
    if !confirmed(&preview, quiet)? {
        show::say("info:    Migration canceled with no changes made");
        return Ok(());
    }
    eprintln!("+ Performing migration");
    let wanted = MigrateRequest {
        secondary: secondary.to_string(),
        force: args.force,
        source_is_down: preview.source_silent.is_some(),
    };
    let begun: MigrationView = client.post(&format!("/apps/{primary}/migrate"), &wanted).await?;
    eprintln!("+ Migration with id '{}' started.", begun.id);
    let ended = follow(client, begun).await?;
    if !is_table {
        show::print(global, &ended, |_| String::new())?;
    }
    if ended.state != "completed" {
        let why = ended.why.unwrap_or_else(|| "no reason is known".to_owned());
        return Err(Failure { code: FAILED, text: format!("migration {} failed: {why}", ended.id) });
    }
    if is_table {
        tell(&ended);
        show::say("info:    Migration complete.");
        show::say(&format!("info:    app {command} command OK"));
    }
    Ok(())
}

/// Migrations, oldest first, or one of them.
pub(super) async fn show(global: &Global, client: &Client, id: Option<&str>) -> Result<(), Failure> {
    let Some(id) = id else {
        let all: Vec<MigrationView> = client.get("/migrations").await?;
        return show::print(global, &all, |all| list_table(all));
    };
    if !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Failure::usage(format!(
            "{id:?} is no migration's id: farshore app migrations shows them"
        )));
    }
    let one: MigrationView = client.get(&format!("/migrations/{id}")).await?;
    show::print(global, &one, one_page)
}

fn list_table(all: &[MigrationView]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            vec![
                one.id.clone(),
                one.primary.clone(),
                one.secondary.clone(),
                one.phase.clone(),
                show::ago(&one.created_at),
                one.why.clone().or_else(|| one.trouble.clone()).unwrap_or_default(),
            ]
        })
        .collect();
    if rows.is_empty() {
        "no migrations".to_owned()
    } else {
        show::table(&["ID", "APP", "ONTO", "PHASE", "BEGUN", "WHY"], &rows)
    }
}

fn one_page(one: &MigrationView) -> String {
    let head = show::sheet(&[
        ("migration", one.id.clone()),
        ("app", one.primary.clone()),
        ("onto", one.secondary.clone()),
        ("phase", one.phase.clone()),
        ("why", one.why.clone().unwrap_or_default()),
        ("waits for", one.trouble.clone().unwrap_or_default()),
        ("job", one.job.clone().unwrap_or_default()),
        ("asked by", format!("{}, {}", one.asked_by, show::time(&one.created_at))),
    ]);
    let report = one.report.as_ref().map(|report| report_lines(one, report).join("\n"));
    format!("{head}\n{}", report.unwrap_or_default())
}

/// As given, or as typed.
fn name_of(given: Option<Name>, question: &str) -> Result<Name, Failure> {
    if let Some(name) = given {
        return Ok(name);
    }
    let what = question.trim_end_matches(": ");
    if !std::io::stdin().is_terminal() {
        let text = format!("{what} must be specified: there is no terminal to ask on");
        return Err(Failure::usage(text));
    }
    let answer = ask(question)?;
    if answer.is_empty() {
        return Err(Failure::usage(format!("{what} must be specified")));
    }
    Name::parse(&answer).map_err(|error| Failure::usage(error.to_string()))
}

/// Whether to go on. Says before what a yes says.
fn confirmed(preview: &MigrationPreview, quiet: bool) -> Result<bool, Failure> {
    let MigrationPreview { primary, secondary, ttl_seconds, .. } = preview;
    eprintln!(
        "warn:    The scripts and settings of '{secondary}' itself are not kept: farshore app export {secondary} saves them"
    );
    if let Some(why) = &preview.source_silent {
        eprintln!(
            "warn:    Region '{}' of '{primary}' does not answer ({why}): with yes you say that it is down, which is recorded",
            preview.from
        );
    }
    if quiet {
        return Ok(true);
    }
    let question = format!(
        "Warning: this action will use the capacity from the app service '{secondary}' and delete it and the host name for \
         '{primary}' may not resolve for up to {ttl_seconds} seconds. Do you want to migrate the app service '{primary}'? \
         [y/n]: "
    );
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{}\nthere is no terminal to ask on: add --quiet to go on",
            question.trim_end()
        )));
    }
    Ok(matches!(ask(&question)?.to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn ask(question: &str) -> Result<String, Failure> {
    eprint!("{question}");
    // Where stderr is closed nobody sees the question, and the answer still counts.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    Ok(answer.trim().to_owned())
}

/// Looks until it has ended. Being cut off does not touch it.
async fn follow(client: &Client, begun: MigrationView) -> Result<MigrationView, Failure> {
    let path = format!("/migrations/{}", begun.id);
    let (mut view, mut away, mut told) = (begun, 0, None);
    let mut is_cleaning = false;
    loop {
        if view.phase == "deleting-secondary" || view.phase == "completed" {
            if !is_cleaning {
                eprintln!("+ Cleaning up");
            }
            is_cleaning = true;
        }
        if view.trouble != told {
            told.clone_from(&view.trouble);
            if let Some(trouble) = &told {
                eprintln!("  waits: {trouble}");
            }
        }
        if view.ended {
            return Ok(view);
        }
        if view.stuck {
            let why = view.trouble.unwrap_or_default();
            let text = format!(
                "migration {id} waits for you: {why}; then see farshore app migrations {id}",
                id = view.id
            );
            return Err(Failure { code: FAILED, text });
        }
        tokio::time::sleep(LOOK_EVERY).await;
        match client.get(&path).await {
            Ok(next) => (view, away) = (next, 0),
            Err(_) if away < AWAY_MAX => away += 1,
            Err(failure) => {
                let text =
                    format!("{}; the migration goes on: farshore app migrations {}", failure.text, view.id);
                return Err(Failure { text, ..failure });
            }
        }
    }
}

/// What it brought about.
fn tell(ended: &MigrationView) {
    let Some(report) = &ended.report else { return };
    for line in report_lines(ended, report) {
        eprintln!("{line}");
    }
}

fn report_lines(ended: &MigrationView, report: &MigrationReport) -> Vec<String> {
    let data = |name: &str, value: String| format!("data:    {name:<13}{value}");
    let mut lines = vec![
        data("region", format!("{} (was {})", ended.to, ended.from)),
        data("capacity", format!("{} x {}, from '{}'", ended.instances, ended.mode, ended.secondary)),
        data(
            "scripts",
            match &report.release {
                Some(release) => {
                    format!("release {}, commit {}, tree {}", release.number, release.commit, release.tree)
                }
                None => "nothing was ever deployed".to_owned(),
            },
        ),
        data(
            "database",
            match &report.database {
                Some(database) if database.reachable => {
                    format!("{} {}, answers", database.engine, database.name)
                }
                Some(database) => format!("{} {}, does not answer", database.engine, database.name),
                None => "none".to_owned(),
            },
        ),
        data("lost", show::lost(&report.rpo, &ended.from)),
        data("RTO", show::seconds(report.rto_seconds)),
    ];
    lines.extend(report.advice.iter().map(|advice| format!("warn:    {advice}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::views::{LossView, MigratedDatabase, MigratedRelease, RpoView};

    fn report(database: MigratedDatabase, at_failover: LossView) -> MigrationReport {
        MigrationReport {
            release: Some(MigratedRelease { number: 4, commit: "c0ffee".into(), tree: "beef".into() }),
            scripts_same: true,
            differences: Vec::new(),
            pushed_last_is_here: Some(true),
            database: Some(database),
            loss: at_failover,
            loss_exact: false,
            rpo: RpoView { at_failover, final_: None, exact: false },
            planned: false,
            rto_seconds: 0.9,
            secondary_deleted: true,
            ttl_seconds: 5,
            advice: Vec::new(),
        }
    }

    fn ended() -> MigrationView {
        MigrationView {
            id: "a".repeat(32),
            primary: "todo".into(),
            secondary: "todo-dr".into(),
            state: "completed".into(),
            phase: "completed".into(),
            ended: true,
            why: None,
            recovered: true,
            trouble: None,
            stuck: false,
            job: None,
            asked_by: "ann".into(),
            source_is_down: true,
            from: "paris".into(),
            to: "oslo".into(),
            mode: "basic".into(),
            instances: 1,
            created_at: String::new(),
            updated_at: String::new(),
            report: None,
        }
    }

    fn database(engine: &str, name: &str, reachable: bool) -> MigratedDatabase {
        MigratedDatabase { engine: engine.into(), name: name.into(), external: !reachable, reachable }
    }

    #[test]
    fn the_report_is_in_numbers_and_says_what_to_do() {
        let loss = LossView { writes: 3, bytes: 300, seconds: 600.0 };
        let lost = report(database("postgres", "main", false), loss);
        let lost = MigrationReport { advice: vec!["give it another database".into()], ..lost };
        let lines = report_lines(&ended(), &lost);
        assert_eq!(lines[0], "data:    region       oslo (was paris)");
        assert_eq!(lines[1], "data:    capacity     1 x basic, from 'todo-dr'");
        assert_eq!(lines[2], "data:    scripts      release 4, commit c0ffee, tree beef");
        assert_eq!(lines[3], "data:    database     postgres main, does not answer");
        assert_eq!(
            lines[4],
            "data:    lost         at least 3 writes (300 B), at most what paris wrote in 10 min 0 s (exact when it is back)"
        );
        assert_eq!(lines[6], "warn:    give it another database");
        let counted = RpoView { final_: Some(LossView::default()), exact: true, ..lost.rpo };
        let counted = report_lines(&ended(), &MigrationReport { rpo: counted, ..lost });
        assert_eq!(counted[4], "data:    lost         nothing");
    }

    #[test]
    fn the_page_shows_what_is_printed() {
        let page = include_str!("../../../../../docs/migrate.md");
        let silent = LossView { seconds: 2.7, ..LossView::default() };
        let release = MigratedRelease {
            number: 3,
            commit: "8c5e1f0a9d7b4c2e6f3a1b0d9e8c7f6a5b4d3c2e".into(),
            tree: "2b7d9e4c1a6f8035e7d2c9b4a1f6e3d8c5b0a792".into(),
        };
        let lost = report(database("sqlite", "main-e2", true), silent);
        let lines = report_lines(&ended(), &MigrationReport { release: Some(release), ..lost });
        let shown: Vec<&str> = page.lines().filter(|line| line.starts_with("data:")).collect();
        assert_eq!(shown, lines);
    }
}
