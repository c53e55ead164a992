//! Calls to the `/trust/v1/…` of control nodes.

use std::error::Error;
use std::time::Duration;

use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::Problem;

/// Signing takes milliseconds and using up a token one transaction.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// A node that is gone must not hold up the next one.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Posts `body` and reads the answer.
///
/// # Errors
/// Why not, for people.
pub(super) async fn ask<T: DeserializeOwned>(
    config: ClientConfig,
    base: &str,
    path: &str,
    body: &impl Serialize,
) -> Result<T, String> {
    if !base.starts_with("https://") {
        return Err(format!("{base} does not start with https://"));
    }
    super::provider();
    let http = reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(ANSWER_DEADLINE)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| innermost(&error))?;
    let url = format!("{}/trust/v1/{path}", base.trim_end_matches('/'));
    let response = http.post(url).json(body).send().await.map_err(|error| why(&error))?;
    let status = response.status();
    if status.is_success() {
        return response.json().await.map_err(|error| innermost(&error));
    }
    match response.json::<Problem>().await {
        Ok(problem) => Err(problem.detail),
        Err(_) => Err(format!("it answered {status}, but not as a control node")),
    }
}

fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() { "no answer in time".to_owned() } else { innermost(error) }
}

/// The innermost cause: what a person can act on.
fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
