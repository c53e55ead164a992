//! What went wrong, for people, and the exit status for scripts.

use crate::api::Problem;

/// It was tried and failed.
pub(super) const FAILED: u8 = 1;
/// It was asked for in a wrong way.
pub(super) const USAGE: u8 = 2;
/// It does not fit the present state; nothing was changed.
pub(super) const REFUSED: u8 = 3;

/// Why the program ends with another status than 0.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn failed(text: impl Into<String>) -> Self {
        Self { code: FAILED, text: text.into() }
    }
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { code: USAGE, text: text.into() }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = match problem.status {
            400 | 413 | 415 => USAGE,
            403 | 404 | 409 | 412 | 422 => REFUSED,
            _ => FAILED,
        };
        Self { code, text: problem.detail }
    }
}
