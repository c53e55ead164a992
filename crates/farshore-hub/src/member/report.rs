//! What a run leaves behind.

use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use farshore_core::moment::Moment;
use serde::Serialize;

use super::{Manner, RunError};

/// Entries that are named in a report; above it they are only counted.
const FAILED_SHOWN_MAX: usize = 100;
/// What others said is shown up to this length.
const SHOWN_CHARS_MAX: usize = 200;
/// A word that is longer may be a key.
const WORD_CHARS_MAX: usize = 40;

/// An entry that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// The device, or `device/module`.
    pub id: String,
    /// Why.
    pub why: String,
}

/// What a run did, or would do. Fields are only ever added.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Report {
    /// Its number, since the hub began to serve here.
    pub run: u64,
    /// It changed nothing.
    pub plan: bool,
    /// It is still at it.
    pub running: bool,
    /// When it began.
    pub at: String,
    /// Identities that were made.
    pub created: u64,
    /// Identities that were changed.
    pub updated: u64,
    /// Identities that were deleted.
    pub deleted: u64,
    /// Identities that are the same on both sides.
    pub unchanged: u64,
    /// Identities that this hub has and the other one has not.
    pub only_here: u64,
    /// Identities that the other hub has and this one has not, where this one is not to get them.
    pub only_there: u64,
    /// Entries that were not taken over; the first hundred.
    pub failed: Vec<Failed>,
    /// How many they are.
    pub failures: u64,
    /// How long it took.
    pub seconds: f64,
    /// Why it ended early.
    pub error: Option<String>,
    /// What an operator should know.
    pub note: Option<String>,
}

/// The report of a run, while it is written.
#[derive(Debug)]
pub struct Tally {
    began: Instant,
    report: Mutex<Report>,
}

impl Tally {
    /// Of a run that begins now.
    #[must_use]
    pub fn begin(run: u64, manner: Manner, at: Moment) -> Self {
        let report = Report {
            run,
            plan: manner == Manner::Plan,
            running: true,
            at: at.to_string(),
            ..Report::default()
        };
        Self { began: Instant::now(), report: Mutex::new(report) }
    }

    /// As it is now.
    #[must_use]
    pub fn report(&self) -> Report {
        let report = self.lock();
        let seconds = if report.running { self.began.elapsed().as_secs_f64() } else { report.seconds };
        Report { seconds, ..report.clone() }
    }

    /// The run is over.
    #[must_use]
    pub fn end(&self, done: &Result<(), RunError>) -> Report {
        let mut report = self.lock();
        report.running = false;
        report.seconds = self.began.elapsed().as_secs_f64();
        report.error = done.as_ref().err().map(ToString::to_string);
        report.clone()
    }

    pub(super) fn note(&self, note: &str) {
        self.lock().note = Some(note.to_owned());
    }

    pub(super) fn add(&self, add: impl FnOnce(&mut Report)) {
        add(&mut self.lock());
    }

    pub(super) fn failed(&self, id: &str, why: &impl Display) {
        let mut report = self.lock();
        report.failures += 1;
        if report.failed.len() < FAILED_SHOWN_MAX {
            report.failed.push(Failed { id: shown(id), why: why.to_string() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What others said, as it may be shown: short, on one line, and without what may be a key.
pub(super) fn said(text: &str) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || "+/=%_-.".contains(c);
    let (mut shown_text, mut word) = (String::new(), String::new());
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }).chain([' ']) {
        if is_of_word(c) {
            word.push(c);
            continue;
        }
        shown_text.push_str(if word.len() > WORD_CHARS_MAX { "(...)" } else { &word });
        word.clear();
        shown_text.push(c);
    }
    shown_text.trim().chars().take(SHOWN_CHARS_MAX).collect()
}

/// An id that others gave, which may be anything.
fn shown(id: &str) -> String {
    /// A device and its module.
    const ID_CHARS_MAX: usize = 260;
    id.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(ID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_bounded_and_holds_no_key() {
        let tally = Tally::begin(1, Manner::Do, Moment(0));
        for number in 0..1000 {
            tally.failed(&format!("pump-{number}\n"), &"no");
        }
        let report = tally.end(&Err(RunError::Stopped));
        assert_eq!(
            (report.failed.len(), report.failures, report.failed[7].id.as_str()),
            (100, 1000, "pump-7")
        );
        assert!(report.error.unwrap().contains("stopped serving"));
        let text = format!("bad key \"{}\"\r\nof pump", "cHJpbWFyeS1zZWNyZXQ=".repeat(3));
        assert_eq!(said(&text), "bad key \"(...)\"  of pump");
        assert_eq!(said(&"a b ".repeat(500)).len(), SHOWN_CHARS_MAX);
    }
}
