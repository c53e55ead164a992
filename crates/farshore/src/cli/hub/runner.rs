//! `farshore hub sink …` and `farshore hub member …`: what a hub does by itself while it serves.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use farshore_core::ids::Name;
use serde_json::Value;

use super::super::client::Client;
use super::super::exit::{FAILED, Failure};
use super::super::show::{self, seconds, sheet, table, time};
use super::super::token::duration;
use super::super::{Global, ask};
use super::progress::Progress;
use super::{printable, segment};
use crate::api::views::{
    HubDirectionWord, HubMemberReportView, HubMemberRequest, HubMemberRunRequest, HubMemberView,
    HubSinkRequest, HubSinkView,
};

/// Failed identities that are shown; `--output json` has up to a hundred.
const FAILED_SHOWN_MAX: usize = 20;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SinkCommand {
    /// List sinks and how far each is
    List {
        /// The hub's name
        name: Name,
    },
    /// Add a sink, or change the one of this name, which goes on where it was
    Add(SinkArgs),
    /// Remove a sink and forget how far it came; what is in the stream stays there
    Remove {
        /// The hub's name
        name: Name,
        /// The sink
        sink: String,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SinkArgs {
    /// The hub's name
    name: Name,
    /// The sink
    sink: String,
    /// The server: nats://HOST:4222 or tls://HOST:4222, or @FILE that holds it, with a name and password before the host
    #[arg(long)]
    url: String,
    /// The stream, which is made if there is none [default: farshore-HUB]
    #[arg(long)]
    stream: Option<String>,
    /// Messages are published as SUBJECT.DEVICE [default: farshore.HUB]
    #[arg(long)]
    subject: Option<String>,
    /// The authority of the server's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MemberCommand {
    /// List members and how each was compared last
    List {
        /// The hub's name
        name: Name,
    },
    /// Add a member, or change the one of this name; it runs at once
    Add(MemberArgs),
    /// Remove a member; what was taken over stays
    Remove {
        /// The hub's name
        name: Name,
        /// The member
        member: String,
    },
    /// Bring a member up to date now
    Run {
        /// The hub's name
        name: Name,
        /// The member
        member: String,
        /// Only show what would be done
        #[arg(long)]
        plan: bool,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MemberArgs {
    /// The hub's name
    name: Name,
    /// The member
    member: String,
    /// File with the connection string of the other hub, by a policy of it; - for stdin
    #[arg(long, value_name = "FILE")]
    connection_string_file: PathBuf,
    /// Between the beginnings of two runs: 10s to 1d
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    every: Duration,
    /// Which side is made like the other
    #[arg(long, value_enum, default_value_t = DirectionWord::From)]
    direction: DirectionWord,
    /// Delete what only the side has that is made like the other
    #[arg(long)]
    prune: bool,
    /// The authority of the other hub's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,
}

/// Which side is made like the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum DirectionWord {
    /// This hub takes over what the other one has
    From,
    /// The other hub is given what this one has
    To,
}

impl From<DirectionWord> for HubDirectionWord {
    fn from(word: DirectionWord) -> Self {
        match word {
            DirectionWord::From => Self::From,
            DirectionWord::To => Self::To,
        }
    }
}

pub(super) async fn sink(global: &Global, client: &Client, command: SinkCommand) -> Result<(), Failure> {
    match command {
        SinkCommand::List { name } => {
            let sinks: Vec<HubSinkView> = client.get(&format!("/hubs/{name}/sinks")).await?;
            show::print(global, &sinks, |sinks| match sinks.as_slice() {
                [] => format!("no sinks yet: farshore hub sink add {name} SINK --url nats://HOST:4222"),
                sinks => sinks_page(sinks),
            })
        }
        SinkCommand::Add(args) => {
            let SinkArgs { name, sink, url, stream, subject, server_ca } = args;
            let request = HubSinkRequest {
                url: ask::secret("url", &url)?,
                stream,
                subject,
                ca: pem(server_ca.as_deref())?,
            };
            let path = format!("/hubs/{name}/sinks/{}", segment(&sink));
            let set: HubSinkView = client.put(&path, &request).await?;
            show::print(global, &set, |set| {
                format!(
                    "{} publishes {}.> into the stream {} of {}\nnext: farshore hub sink list {name}",
                    set.name, set.subject, set.stream, set.url
                )
            })
        }
        SinkCommand::Remove { name, sink } => {
            ask::confirm(
                global,
                &format!("Nothing more of hub/{name} goes to {sink}, and how far it came is forgotten."),
            )?;
            let _: Value = client.delete(&format!("/hubs/{name}/sinks/{}", segment(&sink))).await?;
            show::say(&format!("{sink} is removed"));
            Ok(())
        }
    }
}

fn sinks_page(sinks: &[HubSinkView]) -> String {
    let row = |sink: &HubSinkView| {
        vec![
            sink.name.clone(),
            sink.state.clone(),
            sink.behind.to_string(),
            sink.published.to_string(),
            sink.stream.clone(),
            sink.url.clone(),
        ]
    };
    let rows: Vec<_> = sinks.iter().map(row).collect();
    let mut page = table(&["SINK", "STATE", "BEHIND", "PUBLISHED", "STREAM", "SERVER"], &rows);
    for sink in sinks {
        if let Some(why) = &sink.failing {
            page.push_str(&format!("{} does not go on: {}\n", sink.name, printable(why)));
        }
        if sink.missed > 0 {
            let missed = sink.missed;
            page.push_str(&format!(
                "{}: {missed} events were deleted before they were published\n",
                sink.name
            ));
        }
    }
    page
}

pub(super) async fn member(global: &Global, client: &Client, command: MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List { name } => {
            let members: Vec<HubMemberView> = client.get(&format!("/hubs/{name}/members")).await?;
            show::print(global, &members, |members| match members.as_slice() {
                [] => format!(
                    "no members yet: farshore hub member add {name} MEMBER --connection-string-file FILE"
                ),
                members => members_page(members),
            })
        }
        MemberCommand::Add(args) => add(global, client, args).await,
        MemberCommand::Remove { name, member } => {
            ask::confirm(global, &format!("{member} and hub/{name} are not compared any more."))?;
            let _: Value = client.delete(&format!("/hubs/{name}/members/{}", segment(&member))).await?;
            show::say(&format!("{member} is removed"));
            Ok(())
        }
        MemberCommand::Run { name, member, plan } => run(global, client, &name, &member, plan).await,
    }
}

async fn add(global: &Global, client: &Client, args: MemberArgs) -> Result<(), Failure> {
    let MemberArgs { name, member, connection_string_file, every, direction, prune, server_ca } = args;
    let every = u32::try_from(every.as_secs()).unwrap_or(u32::MAX);
    let request = HubMemberRequest {
        connection_string: connection_string(&connection_string_file)?,
        every_seconds: Some(every),
        direction: direction.into(),
        prune,
        ca: pem(server_ca.as_deref())?,
    };
    if prune {
        let (loser, other) = match direction {
            DirectionWord::From => (format!("hub/{name}"), "the other hub".to_owned()),
            DirectionWord::To => ("the other hub".to_owned(), format!("hub/{name}")),
        };
        ask::confirm(
            global,
            &format!("Devices that {other} does not have will be deleted from {loser}, on each run."),
        )?;
    }
    let path = format!("/hubs/{name}/members/{}", segment(&member));
    let set: HubMemberView = client.put(&path, &request).await?;
    show::print(global, &set, |set| {
        let what = match set.direction {
            HubDirectionWord::From => "is taken over from",
            HubDirectionWord::To => "is given to",
        };
        let every = seconds(f64::from(set.every_seconds));
        format!(
            "{}: what differs {what} {} every {every}\nnext: farshore hub member run {name} {} --plan",
            set.name, set.host, set.name
        )
    })
}

/// Asks until the run is over.
async fn run(global: &Global, client: &Client, name: &Name, member: &str, plan: bool) -> Result<(), Failure> {
    let path = format!("/hubs/{name}/members/{}/run", segment(member));
    let mut progress = Progress::new();
    let mut request = HubMemberRunRequest { plan, run: None };
    let report = loop {
        let report: HubMemberReportView = client.post(&path, &request).await?;
        if !report.running {
            break report;
        }
        progress.tell(|| format!("{} compared", compared(&report)));
        request.run = Some(report.run);
    };
    progress.end();
    show::print(global, &report, |report| report_page(member, report))?;
    match (&report.error, report.failures) {
        (Some(error), _) => Err(Failure::failed(printable(error))),
        (None, 0) => Ok(()),
        (None, 1) => {
            Err(Failure { code: FAILED, text: "1 identity was not taken over; the others were".to_owned() })
        }
        (None, many) => Err(Failure {
            code: FAILED,
            text: format!("{many} identities were not taken over; the others were"),
        }),
    }
}

fn compared(report: &HubMemberReportView) -> u64 {
    report.created + report.updated + report.deleted + report.unchanged + report.failures
}

fn members_page(members: &[HubMemberView]) -> String {
    let row = |member: &HubMemberView| {
        vec![
            member.name.clone(),
            member.direction.as_str().to_owned(),
            format!("{} ({})", member.host, member.policy),
            member.state.clone(),
            member.next.as_deref().map(time).unwrap_or_default(),
            member.running.as_ref().or(member.report.as_ref()).map(counts).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = members.iter().map(row).collect();
    let mut page = table(&["MEMBER", "SIDE", "HUB", "STATE", "NEXT", "LAST RUN"], &rows);
    for member in members {
        if let Some(why) = &member.failing {
            page.push_str(&format!("{}: {}\n", member.name, printable(why)));
        }
    }
    page
}

/// `2 new, 1 changed, 97 the same`
fn counts(report: &HubMemberReportView) -> String {
    let parts = [
        (report.created, "new"),
        (report.updated, "changed"),
        (report.deleted, "removed"),
        (report.unchanged, "the same"),
        (report.failures, "failed"),
    ];
    let said: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if said.is_empty() { "nothing".to_owned() } else { said.join(", ") }
}

fn report_page(member: &str, report: &HubMemberReportView) -> String {
    let mut page = match report.plan {
        true => format!("plan of {member} (nothing was changed)\n"),
        false => format!("{member} was compared in {}\n", seconds(report.seconds)),
    };
    let some = |count: u64| if count == 0 { String::new() } else { count.to_string() };
    page.push_str(&sheet(&[
        ("  identities", counts(report)),
        ("  only here", some(report.only_here)),
        ("  only there", some(report.only_there)),
        ("  note", report.note.as_deref().map(printable).unwrap_or_default()),
        ("  next", report.next.as_deref().map(time).unwrap_or_default()),
    ]));
    for failed in report.failed.iter().take(FAILED_SHOWN_MAX) {
        page.push_str(&format!("{}: {}\n", printable(&failed.id), printable(&failed.why)));
    }
    let shown = u64::try_from(report.failed.len().min(FAILED_SHOWN_MAX)).unwrap_or(u64::MAX);
    if report.failures > shown {
        page.push_str(&format!(
            "and {} more: --output json names up to a hundred\n",
            report.failures - shown
        ));
    }
    page
}

/// A secret, which stands in no list of processes.
fn connection_string(path: &Path) -> Result<String, Failure> {
    /// A connection string has some hundred characters: whoever names another file is told so.
    const LEN_MAX: u64 = 4096;
    let shown = if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() };
    let wrong = |why: String| Failure::usage(format!("--connection-string-file: {shown} {why}"));
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(LEN_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LEN_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| wrong(format!("cannot be read: {error}")))?;
    match text.trim() {
        "" => Err(wrong("is empty".to_owned())),
        text => Ok(text.to_owned()),
    }
}

fn pem(path: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path);
    text.map(Some)
        .map_err(|error| Failure::usage(format!("--server-ca: cannot read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::views::HubMemberFailedView;

    #[test]
    fn a_run_is_read_at_a_glance() {
        let report = HubMemberReportView {
            created: 2,
            unchanged: 97,
            only_here: 3,
            failures: 30,
            failed: vec![HubMemberFailedView {
                id: "pump-7".to_owned(),
                why: "it has no\u{1b}[2J keys".to_owned(),
            }],
            seconds: 1.5,
            next: Some("2026-11-21T05:00:00Z".to_owned()),
            ..HubMemberReportView::default()
        };
        assert_eq!(
            report_page("berlin", &report),
            "berlin was compared in 1.5 s\n\
             \u{20} identities  2 new, 97 the same, 30 failed\n\
             \u{20} only here   3\n\
             \u{20} next        2026-11-21 05:00:00Z\n\
             pump-7: it has no\\u{1b}[2J keys\n\
             and 29 more: --output json names up to a hundred\n"
        );
        let plan = HubMemberReportView { plan: true, ..HubMemberReportView::default() };
        assert_eq!(
            report_page("berlin", &plan),
            "plan of berlin (nothing was changed)\n  identities  nothing\n"
        );
    }

    #[test]
    fn sinks_say_what_holds_them() {
        let sink = HubSinkView {
            name: "bus".to_owned(),
            url: "nats://bus.test:4222".to_owned(),
            stream: "FLEET".to_owned(),
            state: "failing".to_owned(),
            failing: Some("the NATS server is away: disconnected".to_owned()),
            behind: 12,
            missed: 3,
            ..HubSinkView::default()
        };
        assert_eq!(
            sinks_page(&[sink]),
            "SINK  STATE    BEHIND  PUBLISHED  STREAM  SERVER\n\
             bus   failing  12      0          FLEET   nats://bus.test:4222\n\
             bus does not go on: the NATS server is away: disconnected\n\
             bus: 3 events were deleted before they were published\n"
        );
    }
}
