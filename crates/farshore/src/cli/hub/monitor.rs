//! `farshore hub monitor`: what devices say, as it comes.
//!
//! The cursor means the same in every region, so it is kept here and nothing is lost or repeated when another region answers.

use std::io::{self, ErrorKind, Write};

use clap::Args;
use farshore_core::ids::Name;
use farshore_core::moment::Moment;
use serde_json::Value;

use super::super::client::Client;
use super::super::exit::Failure;
use super::super::{Global, Output, show};
use super::patience::{Patience, Until};
use super::{printable, segment};
use crate::api::views::{HubCheckpointRequest, HubCursor, HubEventView, HubEventsView};

/// Events of one answer.
const PAGE_LEN: u32 = 500;
/// An answer waits so long for a first event.
const WAIT_MILLIS: u32 = 10_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct MonitorArgs {
    /// The hub's name
    name: Name,
    /// Read as this consumer group: go on where it stopped, and note how far it is
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
    /// Where to begin: start, now, or a moment like 2026-11-21T05:00:00Z; with a group that has read before, where it stopped
    /// [default: now; start for a new group]
    #[arg(long, value_name = "WHEN", value_parser = from)]
    from: Option<String>,
    /// Only what this device says, or DEVICE/MODULE
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

fn from(text: &str) -> Result<String, String> {
    if matches!(text, "start" | "now") || text.parse::<Moment>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("write start, now, or a moment like 2026-11-21T05:00:00Z".to_owned())
}

pub(super) async fn run(global: &Global, client: &Client, args: &MonitorArgs) -> Result<(), Failure> {
    let mut patience = Patience::new(Until::Stopped);
    let mut cursor: Option<HubCursor> = None;
    let mut left = args.count;
    loop {
        let page: HubEventsView = match client.get(&path(args, cursor.as_ref())).await {
            Ok(page) => page,
            Err(failure) => {
                patience.wait(failure).await?;
                continue;
            }
        };
        patience.answered();
        for (region, missed) in &page.missed {
            eprintln!(
                "warning: {missed} events of {region} are no longer kept: the retention is too short for this reader"
            );
        }
        let shown = page.events.iter().filter(|event| is_wanted(event, args.device.as_deref()));
        let some: Vec<&HubEventView> = shown.take(left.map_or(usize::MAX, limited)).collect();
        if !write(global, &some)? {
            return Ok(());
        }
        // With a count, a group goes on after the last that was shown.
        let count = some.len() as u64;
        let is_last = left.is_some_and(|left| left <= count);
        let next =
            if is_last { after(cursor.unwrap_or_default(), &page, some.last().copied()) } else { page.next };
        note(client, args, &next, &mut patience).await?;
        cursor = Some(next);
        left = left.map(|left| left.saturating_sub(count));
        if left == Some(0) {
            return Ok(());
        }
    }
}

fn limited(left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX)
}

fn path(args: &MonitorArgs, cursor: Option<&HubCursor>) -> String {
    let mut path = format!("/hubs/{}/events?limit={PAGE_LEN}&wait_ms={WAIT_MILLIS}", args.name);
    let mut add = |name: &str, value: &str| path.push_str(&format!("&{name}={}", segment(value)));
    match (cursor, &args.group) {
        (Some(cursor), _) => add("cursor", &serde_json::json!(cursor).to_string()),
        (None, group) => {
            if let Some(group) = group {
                add("group", group);
            }
            let usual = if group.is_some() { "start" } else { "now" };
            add("from", args.from.as_deref().unwrap_or(usual));
        }
    }
    path
}

fn is_wanted(event: &HubEventView, device: Option<&str>) -> bool {
    device.is_none_or(|device| who(event) == device)
}

/// `pump-1` or `pump-1/valve`
fn who(event: &HubEventView) -> String {
    match &event.module {
        Some(module) => format!("{}/{module}", event.device),
        None => event.device.clone(),
    }
}

/// The cursor after an event of a page: each region's events come in their order.
fn after(before: HubCursor, page: &HubEventsView, last: Option<&HubEventView>) -> HubCursor {
    let mut cursor = before;
    for event in &page.events {
        cursor.insert(event.region.clone(), event.offset + 1);
        if last.is_some_and(|last| (last.offset, &last.region) == (event.offset, &event.region)) {
            break;
        }
    }
    cursor
}

/// The group has read so far: what was printed, and nothing else.
async fn note(
    client: &Client,
    args: &MonitorArgs,
    next: &HubCursor,
    patience: &mut Patience,
) -> Result<(), Failure> {
    let Some(group) = &args.group else { return Ok(()) };
    let path = format!("/hubs/{}/groups/{}", args.name, segment(group));
    let asked = HubCheckpointRequest { cursor: next.clone() };
    loop {
        match client.put::<Value>(&path, &asked).await {
            Ok(_) => {
                patience.answered();
                return Ok(());
            }
            Err(failure) => patience.wait(failure).await?,
        }
    }
}

/// Prints events; `false`: nobody reads them any more.
fn write(global: &Global, events: &[&HubEventView]) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    let written = events.iter().try_for_each(|event| {
        let text = match global.output {
            Output::Table => line(event),
            Output::Json => serde_json::to_string(event)?,
            Output::Yaml => {
                format!("---\n{}", serde_norway::to_string(event).map_err(io::Error::other)?.trim_end())
            }
        };
        writeln!(out, "{text}")
    });
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to stdout: {error}"))),
    }
}

/// When, who, what; whole, because it may be wanted.
fn line(event: &HubEventView) -> String {
    let body = match (&event.body, &event.body_base64) {
        (Some(text), _) => printable(text),
        (None, Some(base64)) => format!("base64:{base64}"),
        (None, None) => String::new(),
    };
    let late = if event.late { "  (late, from {})".replace("{}", &event.region) } else { String::new() };
    let properties: Vec<String> = event
        .properties
        .iter()
        .map(|(name, value)| match value {
            Some(value) => format!("{}={}", printable(name), printable(value)),
            None => printable(name),
        })
        .collect();
    let properties =
        if properties.is_empty() { String::new() } else { format!("  [{}]", properties.join(" ")) };
    format!("{}  {:<16}  {body}{properties}{late}", show::time(&event.enqueued), who(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(region: &str, offset: u64) -> HubEventView {
        HubEventView {
            region: region.to_owned(),
            offset,
            device: "pump-1".to_owned(),
            enqueued: "2026-11-21T05:00:00.000001Z".to_owned(),
            body: Some("{\"t\":20}".to_owned()),
            ..HubEventView::default()
        }
    }

    #[test]
    fn an_event_is_a_line() {
        assert_eq!(line(&event("paris", 3)), "2026-11-21 05:00:00Z  pump-1            {\"t\":20}");
        let other = HubEventView {
            module: Some("valve".to_owned()),
            late: true,
            body: None,
            body_base64: Some("/w==".to_owned()),
            properties: [("a".to_owned(), Some("1\u{1b}".to_owned())), ("b".to_owned(), None)].into(),
            ..event("oslo", 1)
        };
        assert_eq!(
            line(&other),
            "2026-11-21 05:00:00Z  pump-1/valve      base64:/w==  [a=1\\u{1b} b]  (late, from oslo)"
        );
    }

    #[test]
    fn a_group_stops_after_what_was_shown() {
        let page = HubEventsView {
            events: vec![event("paris", 3), event("oslo", 8), event("paris", 4)],
            next: [("paris".to_owned(), 5), ("oslo".to_owned(), 9)].into(),
            missed: [].into(),
        };
        let begin: HubCursor = [("paris".to_owned(), 3)].into();
        let expected: HubCursor = [("paris".to_owned(), 4), ("oslo".to_owned(), 9)].into();
        assert_eq!(after(begin, &page, Some(&page.events[1])), expected);
    }

    #[test]
    fn where_to_begin_is_a_word_or_a_moment() {
        for good in ["start", "now", "2026-11-21T05:00:00Z"] {
            assert!(from(good).is_ok(), "{good}");
        }
        assert!(from("yesterday").is_err());
    }
}
