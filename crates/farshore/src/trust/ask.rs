//! Calls to the `/trust/v1/…` of control nodes.

use std::error::Error;
use std::io;
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
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let said = innermost(error);
    match advice(error) {
        Some(advice) => format!("{said}; {advice}"),
        None => said,
    }
}

/// The innermost cause: what a person can act on.
fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(|| error.to_string(), ToString::to_string)
}

/// What to do about a handshake that failed for the time of day.
fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    use rustls::CertificateError;
    let tls = tls_error(error)?;
    match tls {
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => Some(
            "compare the clocks of both hosts; if they are right, the other node must renew its certificate",
        ),
        _ => None,
    }
}

/// The handshake's own error, which libraries wrap in those of the system.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    match (error.downcast_ref(), error.downcast_ref::<io::Error>()) {
        (Some(found), _) => Some(found),
        (None, Some(wrapped)) => wrapped.get_ref().and_then(|inner| tls_error(inner)),
        (None, None) => error.source().and_then(tls_error),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause| (*cause).source())
}
