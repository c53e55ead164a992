//! Refusals, in the form that the official service SDKs read: `{"Message":"ErrorCode:DeviceNotFound;…"}`.

use http::StatusCode;

/// A refusal: a status, a code that the SDKs know, and words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RestError {
    /// What SDKs branch on first.
    pub status: StatusCode,
    /// What they branch on then.
    pub code: &'static str,
    /// What was wrong, where, and how to mend it.
    pub message: String,
}

impl RestError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// 400: something in the request.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "ArgumentInvalid", message)
    }

    /// 401: the token.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "IotHubUnauthorizedAccess", message)
    }

    /// 403: too many messages wait for the device.
    pub fn queue_full(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DeviceMaximumQueueDepthExceeded", message)
    }

    /// 404: no such hub.
    pub fn no_hub(host: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "IotHubNotFound", format!("no hub here is called {host:?}"))
    }

    /// 404: no such device or module.
    pub fn no_device(key: &crate::names::Key) -> Self {
        let code = if key.module.is_some() { "ModuleNotFound" } else { "DeviceNotFound" };
        Self::new(StatusCode::NOT_FOUND, code, format!("{key} is not registered"))
    }

    /// 404: no such thing of another sort.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 404, as the SDKs expect it: the device is not connected.
    pub fn not_online(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "DeviceNotOnline", message)
    }

    /// 405: known path, other methods.
    pub fn method(message: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "GenericMethodNotAllowed", message)
    }

    /// 409: it exists.
    pub fn exists(key: &crate::names::Key) -> Self {
        let code = if key.module.is_some() { "ModuleAlreadyExistsOnDevice" } else { "DeviceAlreadyExists" };
        Self::new(
            StatusCode::CONFLICT,
            code,
            format!("{key} is registered already: to change it, send If-Match"),
        )
    }

    /// 409: something else stands in the way.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    /// 412: it was changed since it was read.
    pub fn precondition(key: &crate::names::Key) -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "PreconditionFailed",
            format!("{key} was changed since its etag was read: read it again, or send If-Match: \"*\""),
        )
    }

    /// 412: somebody else has the message by now.
    pub fn lock_lost() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "DeviceMessageLockLost",
            "this lock is over: the message was given out again or is done",
        )
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "MessageTooLarge", message)
    }

    /// 429.
    pub fn throttled(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, message)
    }

    /// 500: ours.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "ServerError", message)
    }

    /// 502: the device answered rubbish.
    pub fn bad_answer(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "InvalidResponseWhileProxying", message)
    }

    /// 503: not here, not now.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message)
    }

    /// 504: the device did not answer.
    pub fn timed_out(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "GatewayTimeout", message)
    }

    /// The message as it travels. Some SDKs cut it at semicolons, so it has none of its own.
    pub(super) fn wire(&self) -> String {
        format!("ErrorCode:{};{}", self.code, self.message.replace(';', ","))
    }
}
