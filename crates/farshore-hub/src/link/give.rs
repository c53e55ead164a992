//! What is given to the other region, and when there is something to give.

use farshore_core::workload::{Role, StepError};
use tokio::time::timeout;

use super::wire::{Answer, Question};
use super::{LOOK_EVERY, LinkOptions, PIECE, Shared, now};
use crate::registry::Registry;
use crate::telemetry::{Cursor, RawBatch, Telemetry, TelemetryError};

impl Shared {
    /// Whether the asker may have what is here.
    pub(super) fn gives(&self, question: &Question) -> bool {
        match (self.options.duties.now().role, question.role) {
            // Whoever serves, or served last, gives to whoever follows.
            (Role::Active | Role::Unconfirmed | Role::Fenced, Role::Target) => true,
            // Whoever follows gives what it has from its own time: the merge.
            (Role::Target, Role::Active) => {
                let telemetry = &self.options.telemetry;
                question.since < self.options.before
                    || telemetry.ends().iter().any(|(origin, end)| question.cursor.next(origin) < *end)
            }
            (Role::Fenced, Role::Active) => question.merge,
            _ => false,
        }
    }

    /// Returns when there is something that the asker lacks.
    pub(super) async fn grown(&self, since: u64, cursor: &Cursor) {
        let LinkOptions { registry, telemetry, .. } = &self.options;
        tokio::select! {
            () = changed_after(registry, since) => {}
            () = telemetry.grown(cursor) => {}
        }
    }

    pub(super) async fn gather(&self, question: &Question) -> Result<Answer, StepError> {
        let LinkOptions { registry, telemetry, duties, .. } = &self.options;
        let duty = duties.now();
        let gives = self.gives(question);
        let mut answer = Answer {
            token: duties.token(),
            role: duty.role,
            has: self.position(),
            at: now(),
            withheld: !gives,
            batch: None,
            starts: Cursor::default(),
            telemetry: Vec::new(),
        };
        if gives {
            let (registry, telemetry) = (registry.clone(), telemetry.clone());
            let (since, cursor) = (question.since, question.cursor.clone());
            let read = tokio::task::spawn_blocking(move || {
                let batch = registry.since(since, PIECE).map_err(|error| error.to_string())?;
                let mut starts = Cursor(telemetry.starts());
                let events = lacking(&telemetry, &cursor, &mut starts).map_err(|error| error.to_string())?;
                Ok::<_, String>((batch, starts, events))
            });
            let read = read.await.map_err(|error| StepError::Retry { what: error.to_string() })?;
            let (batch, starts, events) = read.map_err(|what| StepError::Retry { what })?;
            (answer.batch, answer.starts, answer.telemetry) = (Some(batch), starts, events);
        }
        Ok(answer)
    }
}

/// Returns when the registry has a change after `since`. Not every change is announced: the number is looked at, too.
async fn changed_after(registry: &Registry, since: u64) {
    let mut changes = registry.changed();
    while registry.own() <= since {
        let _ = timeout(LOOK_EVERY, changes.recv()).await;
    }
}

/// Telemetry after `cursor`, of every region's log, a piece of it.
///
/// What is damaged here and was never given is nowhere: the asker goes on after it, and its readers are told how much they miss.
/// It is told in `starts`, as what is kept no longer.
fn lacking(
    telemetry: &Telemetry,
    cursor: &Cursor,
    starts: &mut Cursor,
) -> Result<Vec<RawBatch>, TelemetryError> {
    let mut left = PIECE;
    let mut parts = Vec::new();
    for (origin, end) in telemetry.ends() {
        let mut from = cursor.next(&origin).max(starts.next(&origin));
        while from < end && left > 0 {
            match telemetry.raw(&origin, from, left) {
                Err(TelemetryError::Damaged(damage)) if damage.next > from => {
                    tracing::error!(%damage, "the other region goes on without these events");
                    from = damage.next;
                    starts.0.insert(origin.clone(), from);
                }
                part => {
                    let part = part?;
                    left = left.saturating_sub(part.frames.len());
                    parts.push(part);
                    break;
                }
            }
        }
    }
    Ok(parts)
}
