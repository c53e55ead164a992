//! Direct methods.

use std::time::Duration;

use http::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Body};
use super::behind::{Call, NotInvoked};
use super::error::RestError;
use super::hub::Hub;
use super::request;
use super::serve::Asked;
use crate::names::Key;

/// Longest name of a method; from the contract of the official SDKs.
const NAME_LEN_MAX: usize = 100;

/// Largest payload, in bytes; from the same contract.
const PAYLOAD_BYTES_MAX: usize = 128 * 1024;

/// How long a device may take, when the caller says nothing, and at most, in seconds.
const RESPONSE_SECONDS: (u64, u64) = (30, 300);

/// How long is waited for the device to connect at most, in seconds; nothing said: not at all.
const CONNECT_SECONDS_MAX: u64 = 300;

/// A method call as it comes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MethodBody {
    method_name: String,
    #[serde(default)]
    payload: Value,
    #[serde(default)]
    response_timeout_in_seconds: Option<u64>,
    #[serde(default)]
    connect_timeout_in_seconds: Option<u64>,
}

impl MethodBody {
    /// The call, checked.
    pub(super) fn call(self) -> Result<Call, RestError> {
        if self.method_name.is_empty() || self.method_name.len() > NAME_LEN_MAX {
            return Err(RestError::argument("methodName must have 1 to 100 characters"));
        }
        if self.payload.to_string().len() > PAYLOAD_BYTES_MAX {
            return Err(RestError::too_large("payload is larger than 128 KiB"));
        }
        let within = |what: &str, seconds: u64, most: u64| {
            if seconds > most {
                return Err(RestError::argument(format!("{what} is {seconds}: at most {most} is possible")));
            }
            Ok(Duration::from_secs(seconds))
        };
        let response = self.response_timeout_in_seconds.unwrap_or(RESPONSE_SECONDS.0);
        let connect = self.connect_timeout_in_seconds.unwrap_or_default();
        Ok(Call {
            name: self.method_name,
            payload: self.payload,
            response_timeout: within("responseTimeoutInSeconds", response, RESPONSE_SECONDS.1)?,
            connect_timeout: within("connectTimeoutInSeconds", connect, CONNECT_SECONDS_MAX)?,
        })
    }
}

/// `POST /twins/{id}/methods`
pub(super) async fn invoke(hub: &Hub, key: &Key, asked: &Asked) -> Result<Response<Body>, RestError> {
    let call = request::json::<MethodBody>(&asked.body)?.call()?;
    hub.device(key)?;
    let (status, payload) = hub.behind().invoke(key, call).await.map_err(|error| refused(key, &error))?;
    Ok(answer::json(&json!({ "status": status, "payload": payload })))
}

fn refused(key: &Key, error: &NotInvoked) -> RestError {
    let text = format!("{key}: {error}");
    match error {
        NotInvoked::Unknown => RestError::no_device(key),
        NotInvoked::NotOnline => RestError::not_online(text),
        NotInvoked::TimedOut => RestError::timed_out(text),
        NotInvoked::Refused(_) => RestError::argument(text),
        NotInvoked::BadAnswer(_) => RestError::bad_answer(text),
        NotInvoked::NotServing => RestError::unavailable("IotHubFailingOver", text),
        NotInvoked::Failed(_) => RestError::server(text),
    }
}
