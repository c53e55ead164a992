//! What an operator asks of a hub.

use std::sync::Arc;

use farshore_core::workload::StepError;
use serde_json::{Value, json};

use super::item::{Item, fatal};

pub(super) async fn ask(item: &Arc<Item>, question: &Value) -> Result<Value, StepError> {
    match question.get("ask").and_then(Value::as_str) {
        Some("summary") => Ok(json!({ "hub": item.fleet.name(), "serving": item.fleet.is_serving() })),
        _ => Err(fatal("a hub is not asked this")),
    }
}
