//! Methods of devices, and messages to them.

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, fatal, key, retry};
use crate::fleet::{InvokeError, MethodCall, SendError};
use crate::record::Message;
use crate::rest::address_of;

/// A region that is asked has fifteen seconds to answer.
const METHOD_SECONDS_MAX: u64 = 12;

#[derive(Debug, Deserialize)]
pub(super) struct Method {
    id: String,
    name: String,
    #[serde(default)]
    payload: Value,
    timeout_seconds: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Send {
    id: String,
    body: String,
    #[serde(default)]
    properties: BTreeMap<String, String>,
    message_id: Option<String>,
}

impl Desk {
    /// Calls a method, once.
    pub(super) async fn method(&self, asked: Method) -> Result<Value, StepError> {
        let of = key(&asked.id)?;
        let call = MethodCall {
            name: asked.name,
            payload: asked.payload,
            response_timeout: Duration::from_secs(asked.timeout_seconds.clamp(1, METHOD_SECONDS_MAX)),
            connect_timeout: Duration::ZERO,
        };
        match self.fleet.invoke(&of, call).await {
            Ok((status, payload)) => Ok(json!({ "status": status, "payload": payload })),
            Err(InvokeError::NotServing) => Err(self.elsewhere()),
            Err(InvokeError::Unknown(of)) => Err(super::unknown(&of)),
            Err(InvokeError::NotOnline(of)) => Err(fatal(format!(
                "{of} is not connected, or does not take methods: see farshore hub device show"
            ))),
            // Nothing that may have been carried out is to be tried again by itself.
            Err(other) => Err(fatal(other.to_string())),
        }
    }

    /// Takes a message for a device.
    pub(super) async fn send(&self, asked: Send) -> Result<Value, StepError> {
        let of = key(&asked.id)?;
        let mut message = Message::new(asked.body.into());
        message.system.extend(asked.message_id.map(|id| ("$.mid".to_owned(), id)));
        message.system.push(("$.to".to_owned(), address_of(&of)));
        message.properties = asked.properties.into_iter().map(|(name, value)| (name, Some(value))).collect();
        match self.fleet.send(&of, message).await {
            Ok(id) => Ok(json!({ "message_id": id })),
            Err(SendError::NotServing) => Err(self.elsewhere()),
            Err(SendError::Unknown(of)) => Err(super::unknown(&of)),
            Err(SendError::Storage(why)) => Err(retry(why)),
            Err(other) => Err(fatal(other.to_string())),
        }
    }
}
