//! Files of identities, a piece at a time: the lines of `devices.txt`.

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, broken, fatal, key, retry};
use crate::import::{ImportMode, Keys, Line, LineError, line_of};
use crate::names::Key;
use crate::registry::Decide;

/// Lines of one question.
const LINES_MAX: usize = 1000;
/// Bytes of lines in one answer, so that it fits into memory on its way.
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Deserialize)]
pub(super) struct Export {
    after: Option<String>,
    limit: usize,
    #[serde(default)]
    keys: bool,
}

#[derive(Deserialize)]
pub(super) struct Import {
    lines: Vec<String>,
    #[serde(default = "one")]
    first_line: u64,
    mode: Option<String>,
}

fn one() -> u64 {
    1
}

/// A line that was not imported.
fn wrong(line: u64, id: Option<String>, error: &LineError) -> Value {
    match id {
        Some(id) => json!({ "line": line, "id": id, "why": error.to_string() }),
        None => json!({ "line": line, "why": error.to_string() }),
    }
}

impl Desk {
    /// A page of lines.
    pub(super) async fn export(&self, asked: Export) -> Result<Value, StepError> {
        let after = asked.after.as_deref().map(key).transpose()?;
        let limit = asked.limit.clamp(1, LINES_MAX);
        let keys = if asked.keys { Keys::Included } else { Keys::Excluded };
        self.look(move |desk| {
            let page = desk.registry().page(after.as_ref(), limit).map_err(broken)?;
            let (mut lines, mut bytes, mut next) = (Vec::with_capacity(page.len()), 0, None);
            for device in &page {
                let line = serde_json::to_string(&line_of(device, keys)).map_err(retry)?;
                bytes += line.len();
                lines.push(line);
                if bytes >= BYTES_MAX || lines.len() == limit {
                    next = Some(device.key.to_string());
                    break;
                }
            }
            Ok(json!({ "lines": lines, "next": next }))
        })
        .await
    }

    /// Applies lines; each stands for itself.
    pub(super) async fn import(&self, asked: Import) -> Result<Value, StepError> {
        let Import { lines, first_line, mode } = asked;
        if lines.len() > LINES_MAX {
            return Err(fatal(format!("lines: at most {LINES_MAX} at once")));
        }
        if let Some(mode) = mode.as_deref().filter(|mode| ImportMode::parse(mode).is_none()) {
            return Err(fatal(format!(
                "mode: {mode:?} is no import mode: write createOrUpdate, create, update or delete"
            )));
        }
        let (mut errors, mut places, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for (number, text) in (first_line..).zip(&lines).filter(|(_, text)| !text.trim().is_empty()) {
            match decided(text, mode.as_deref()) {
                Ok((key, decide)) => {
                    places.push((number, key.to_string()));
                    changes.push((key, decide));
                }
                Err(error) => errors.push((number, wrong(number, None, &error))),
            }
        }
        let registry = self.registry().clone();
        let done = self.change(async move { Ok(registry.change_many(changes).await) }).await?;
        let mut applied = 0_u64;
        for ((number, id), result) in places.into_iter().zip(done) {
            match result.map_err(LineError::from) {
                Ok(_) => applied += 1,
                // The rest would fail the same way.
                Err(LineError::Registry(what)) => return Err(retry(what)),
                Err(error) => errors.push((number, wrong(number, Some(id), &error))),
            }
        }
        errors.sort_by_key(|(number, _)| *number);
        let errors: Vec<Value> = errors.into_iter().map(|(_, error)| error).collect();
        Ok(json!({ "applied": applied, "errors": errors }))
    }
}

fn decided(text: &str, mode: Option<&str>) -> Result<(Key, Decide<LineError>), LineError> {
    let mut line = Line::parse(text.as_bytes())?;
    if line.import_mode.as_deref().is_none_or(str::is_empty) {
        line.import_mode = mode.map(str::to_owned);
    }
    line.decide()
}
