//! What devices said, a page at a time.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_core::moment::Moment;
use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::standing::check_group;
use super::{Desk, broken, fatal};
use crate::telemetry::{Cursor, Page, Stored, TelemetryError};

/// Events of one answer.
const PAGE_LEN_MAX: usize = 1000;
/// A region that is asked has fifteen seconds to answer.
const WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize)]
pub(super) struct Events {
    cursor: Option<Cursor>,
    group: Option<String>,
    from: Option<String>,
    limit: usize,
    #[serde(default)]
    wait_ms: u64,
}

impl Desk {
    /// The events after a cursor; waits for a first one.
    pub(super) async fn events(&self, asked: Events) -> Result<Value, StepError> {
        let deadline = Instant::now() + Duration::from_millis(asked.wait_ms).min(WAIT_MAX);
        let limit = asked.limit.clamp(1, PAGE_LEN_MAX);
        let mut cursor = self.begin(asked)?;
        loop {
            let page = self.page(cursor.clone(), limit).await?;
            let is_over = Instant::now() >= deadline;
            if !page.events.is_empty() || !page.missed.is_empty() || is_over {
                return Ok(json!({
                    "events": page.events.iter().map(view).collect::<Vec<_>>(),
                    "next": whole(page.next, self.fleet.telemetry().starts().into_keys()),
                    "missed": page.missed,
                }));
            }
            let is_further = page.next != cursor;
            cursor = page.next;
            // Duplicates were passed: what is behind them is asked for at once. A log that is closed has nothing more, ever.
            if !is_further && timeout_at(deadline, self.fleet.telemetry().grown(&cursor)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn page(&self, cursor: Cursor, limit: usize) -> Result<Page, StepError> {
        self.look(move |desk| desk.fleet.telemetry().read(&cursor, limit).map_err(unreadable)).await
    }

    /// Where to begin.
    fn begin(&self, asked: Events) -> Result<Cursor, StepError> {
        if let Some(cursor) = asked.cursor {
            return Ok(cursor);
        }
        if let Some(group) = asked.group {
            check_group(&group)?;
            if let Some(cursor) = self.registry().groups().map_err(broken)?.remove(&group) {
                return Ok(cursor);
            }
        }
        let telemetry = self.fleet.telemetry();
        match asked.from.as_deref() {
            None | Some("start") => Ok(Cursor::default()),
            Some("now") => Ok(telemetry.latest()),
            Some(text) => {
                let moment: Moment = text.parse().map_err(|error| {
                    fatal(format!("from: {error}: write start, now, or a moment like 2026-11-21T05:00:00Z"))
                })?;
                telemetry.since(moment).map_err(unreadable)
            }
        }
    }
}

/// With every region that is known here: whoever goes on from it elsewhere is told what is missing there.
fn whole(mut cursor: Cursor, regions: impl Iterator<Item = farshore_core::ids::Region>) -> Cursor {
    for region in regions {
        cursor.0.entry(region).or_default();
    }
    cursor
}

fn unreadable(error: TelemetryError) -> StepError {
    match error {
        error @ TelemetryError::Damaged { .. } => fatal(error.to_string()),
        other => super::retry(other),
    }
}

/// An event as JSON. A body that is text is text, others are base64.
fn view(stored: &Stored) -> Value {
    let event = &stored.event;
    let system: Map<String, Value> =
        event.system.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let properties: Map<String, Value> =
        event.properties.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let mut view = json!({
        "region": stored.region,
        "offset": stored.offset,
        "epoch": stored.epoch,
        "late": stored.late,
        "device": event.key.device.as_str(),
        "enqueued": event.enqueued.to_string(),
        "system": system,
        "properties": properties,
    });
    if let Some(module) = &event.key.module {
        view["module"] = module.as_str().into();
    }
    match std::str::from_utf8(&event.body) {
        Ok(text) => view["body"] = text.into(),
        Err(_) => {
            view["body"] = Value::Null;
            view["body_base64"] = STANDARD.encode(&event.body).into();
        }
    }
    view
}
