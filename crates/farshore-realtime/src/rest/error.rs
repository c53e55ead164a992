//! What a caller is told when a call is refused: a status, a code for programs, a sentence for people.

use http::StatusCode;

use super::operation::API_VERSIONS;

/// Why a call was refused. Nothing was changed, except where [`RestError::NotServing`] says that it is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestError {
    /// Something in the request is not as it must be; `target` is the part.
    #[error("{message}")]
    Bad {
        /// The parameter, header or part.
        target: &'static str,
        /// What is wrong, and how to mend it.
        message: String,
    },
    /// The asked version of the interface is not one of ours.
    #[error("the api-version '{0}' is not supported: ask for one of {versions}", versions = API_VERSIONS.join(", "))]
    Version(String),
    /// No operation has this path.
    #[error("no operation has this path")]
    Path,
    /// The path exists, the method does not.
    #[error("this path does not take the method {method}: use one of {allow}", allow = allowed.join(", "))]
    Method {
        /// What was used.
        method: String,
        /// What may be used.
        allowed: Vec<&'static str>,
    },
    /// No hub here has that name.
    #[error("no hub '{0}' is served here: check its name and the region of the endpoint")]
    Hub(String),
    /// No token, or one that is not believed.
    #[error("{0}")]
    Unauthorized(String),
    /// What was named does not exist.
    #[error("no such {0}")]
    Absent(Absent),
    /// The body is of a type that no message can have.
    #[error(
        "the content type '{0}' is not supported: use application/json, text/plain (UTF-8) or application/octet-stream"
    )]
    MediaType(String),
    /// The body of this call must be JSON.
    #[error("the content type '{0}' is not supported here: use application/json")]
    NotJson(String),
    /// The body did not arrive in time.
    #[error("the body did not arrive within {seconds} s: send it again")]
    TooSlow {
        /// The limit.
        seconds: u64,
    },
    /// A part of the protocol that is not offered.
    #[error("{0}")]
    NotOffered(&'static str),
    /// This region cannot answer now. A message may have been given to some of its receivers.
    #[error("{0}")]
    NotServing(String),
}

/// What a call named and what does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// A connection.
    Connection,
    /// A group: nobody is in it.
    Group,
    /// A user: none of the connections is theirs.
    User,
    /// A permission.
    Permission,
}

impl std::fmt::Display for Absent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connection => "connection",
            Self::Group => "group: nobody is in it",
            Self::User => "user: none of the connections is theirs",
            Self::Permission => "permission: the connection does not have it",
        })
    }
}

impl RestError {
    /// Something is wrong with `target`.
    pub(super) fn bad(target: &'static str, message: impl Into<String>) -> Self {
        Self::Bad { target, message: message.into() }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Bad { .. } | Self::Version(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Path | Self::Hub(_) | Self::Absent(_) => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::MediaType(_) | Self::NotJson(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotOffered(_) => StatusCode::NOT_IMPLEMENTED,
            Self::NotServing(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The code for programs, in the body and in the header `x-ms-error-code`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bad { .. } => "Error.BadRequest",
            Self::Version(_) => "Error.UnsupportedApiVersion",
            Self::Unauthorized(_) => "Error.Unauthorized",
            Self::Path => "Error.NotFound",
            Self::Hub(_) => "Error.Hub.NotExisted",
            Self::Absent(Absent::Connection) => "Warning.Connection.NotExisted",
            Self::Absent(Absent::Group) => "Warning.Group.NotExisted",
            Self::Absent(Absent::User) => "Warning.User.NotExisted",
            Self::Absent(Absent::Permission) => "Warning.Permission.NotExisted",
            Self::Method { .. } => "Error.MethodNotAllowed",
            Self::TooSlow { .. } => "Error.RequestTimeout",
            Self::MediaType(_) | Self::NotJson(_) => "Error.UnsupportedMediaType",
            Self::NotOffered(_) => "Error.NotImplemented",
            Self::NotServing(_) => "Error.ServiceUnavailable",
        }
    }

    /// The part of the request that is meant, where it is one.
    #[must_use]
    pub fn target(&self) -> Option<&'static str> {
        match self {
            Self::Bad { target, .. } => Some(target),
            Self::Version(_) => Some("api-version"),
            Self::Hub(_) => Some("hub"),
            Self::Unauthorized(_) => Some("Authorization"),
            Self::MediaType(_) | Self::NotJson(_) => Some("Content-Type"),
            _ => None,
        }
    }
}
