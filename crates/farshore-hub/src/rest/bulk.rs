//! Many identities in one request.

use std::collections::BTreeSet;

use http::Response;
use serde_json::{Value, json};

use super::answer::{self, Body};
use super::error::RestError;
use super::hub::Hub;
use super::serve::Asked;
use crate::import::{Line, LineError};
use crate::names::Key;

/// Most identities in one request; from the contract of the official SDKs.
const BULK_LEN_MAX: usize = 100;

/// `POST /devices`: each stands for itself, and what failed is listed.
pub(super) async fn change(hub: &Hub, asked: &Asked) -> Result<Response<Body>, RestError> {
    let items: Vec<Value> = serde_json::from_slice(&asked.body).map_err(|error| {
        RestError::argument(format!("the body must be a JSON array of identities: {error}"))
    })?;
    if items.is_empty() || items.len() > BULK_LEN_MAX {
        return Err(RestError::argument(
            "a bulk request has 1 to 100 identities: use an import job for more",
        ));
    }
    check_once(&items)?;
    let mut errors = Vec::new();
    let (mut keys, mut changes) = (Vec::new(), Vec::new());
    for item in &items {
        match line(item).and_then(Line::decide) {
            Ok((key, decide)) => {
                keys.push(key.clone());
                changes.push((key, decide));
            }
            Err(error) => errors.push(view(&item["id"], &item["moduleId"], &error)),
        }
    }
    let results = hub.registry().change_many(changes).await;
    for (key, result) in keys.iter().zip(results) {
        if let Err(error) = result {
            errors.push(failed(key, &LineError::from(error)));
        }
    }
    Ok(answer::json(&json!({ "isSuccessful": errors.is_empty(), "errors": errors, "warnings": [] })))
}

fn line(item: &Value) -> Result<Line, LineError> {
    if !item.is_object() {
        return Err(LineError::Malformed("an identity must be a JSON object".to_owned()));
    }
    serde_json::from_value(item.clone()).map_err(|error| LineError::Malformed(error.to_string()))
}

/// What happens first and what last is not said, so nothing may be meant twice.
fn check_once(items: &[Value]) -> Result<(), RestError> {
    let mut seen = BTreeSet::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for item in items {
        let name = (text(&item["id"]), text(&item["moduleId"]));
        if !name.0.is_empty() && !seen.insert(name.clone()) {
            let error = RestError::argument(format!("{:?} is in the request more than once", name.0));
            return Err(RestError { code: "DeviceDefinedMultipleTimes", ..error });
        }
    }
    Ok(())
}

fn failed(key: &Key, error: &LineError) -> Value {
    let module = key.module.as_ref().map(|module| module.as_str());
    view(&key.device.as_str().into(), &module.into(), error)
}

fn view(id: &Value, module: &Value, error: &LineError) -> Value {
    json!({ "deviceId": id, "moduleId": module, "errorCode": error.code(), "errorStatus": error.to_string() })
}
