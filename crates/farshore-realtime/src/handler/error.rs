//! Why a handler did not do what it was asked.

use std::time::Duration;

use super::template::BadTemplate;

/// Why an event got no usable answer. None of the texts holds a query string, a header or a body: those may be secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// The setting is not usable; the event was not sent.
    #[error(transparent)]
    Template(#[from] BadTemplate),
    /// Too many events wait for this server already; the event was not sent.
    #[error(
        "{upstream} has {waiting_max} events or {bytes_max} bytes of them waiting: it is too slow or does not answer"
    )]
    Busy {
        /// Scheme, host and port.
        upstream: String,
        /// The limit of events.
        waiting_max: usize,
        /// The limit of bytes.
        bytes_max: usize,
    },
    /// No connection, or one that broke before the answer was complete. The handler may have seen the event.
    #[error("{upstream} could not be asked: {why}")]
    Unreachable {
        /// Scheme, host and port.
        upstream: String,
        /// What the network says.
        why: String,
    },
    /// The time for the event is over, retries included. The handler may have seen it.
    #[error("{upstream} did not answer within {deadline:?}")]
    Deadline {
        /// Scheme, host and port.
        upstream: String,
        /// How long it had.
        deadline: Duration,
    },
    /// It answered, and said no.
    #[error("{upstream} answered with status {status}")]
    Status {
        /// Scheme, host and port.
        upstream: String,
        /// Any but 2xx.
        status: u16,
    },
    /// It answered too much.
    #[error("{upstream} answered with more than {max} bytes")]
    TooLarge {
        /// Scheme, host and port.
        upstream: String,
        /// The limit.
        max: usize,
    },
    /// It answered something that means nothing here.
    #[error("{upstream} answered what cannot be used: {what}")]
    Rubbish {
        /// Scheme, host and port.
        upstream: String,
        /// What is wrong, and what would be right.
        what: String,
    },
    /// It does not want our events.
    #[error(
        "{upstream} does not allow events from {origin}: let it answer OPTIONS with 2xx and the header WebHook-Allowed-Origin: * or {origin} (it gave status {status}, {found})"
    )]
    NotAllowed {
        /// Scheme, host and port.
        upstream: String,
        /// Who we said we are.
        origin: String,
        /// Its status.
        status: u16,
        /// The header as it was, or that there was none.
        found: String,
    },
}
