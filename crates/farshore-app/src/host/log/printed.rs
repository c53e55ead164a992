//! Follows what a run prints, on both of its pipes, until they are closed.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::AppLog;
use super::line::Splitter;
use crate::host::shared::now;

/// What is read at once.
const READ_MAX: usize = 16 * 1024;
/// What is read of a pipe in [`WINDOW`]. Printing faster than 16 MiB a second, an app waits: its lines would be left out of the
/// log anyway, and reading them would take the node's time.
const WINDOW_BYTES: usize = 1024 * 1024;
const WINDOW: Duration = Duration::from_micros(62_500);
/// Lines that are kept to say what a run printed before it failed.
const LINES_KEPT: usize = 10;
/// Of each of them, in characters.
const WIDTH_KEPT: usize = 300;
/// Pipes of a run without processes are closed; nobody waits longer for one that somebody has taken elsewhere.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// The last lines of a run.
type Kept = Arc<Mutex<LastLines>>;

/// The end of what was printed, and before it the last line that said what went wrong: many lines about where may follow it.
#[derive(Debug, Default)]
struct LastLines {
    error: Option<String>,
    lines: VecDeque<String>,
}

impl LastLines {
    fn add(&mut self, line: &str) {
        if self.lines.len() == LINES_KEPT {
            let first = self.lines.pop_front();
            self.error = first.filter(|line| names_error(line)).or_else(|| self.error.take());
        }
        self.lines.push_back(line.chars().take(WIDTH_KEPT).collect());
    }

    fn all(&self) -> Vec<String> {
        self.error.iter().chain(&self.lines).cloned().collect()
    }
}

/// A line such as `TypeError: a is not a function`; a frame of the stack under it may have the word in a name.
fn names_error(line: &str) -> bool {
    line.contains("Error") && !line.trim_start().starts_with("at ")
}

/// See the module.
#[derive(Debug)]
pub(in crate::host) struct Printed {
    kept: Kept,
    followers: Vec<JoinHandle<()>>,
}

impl Printed {
    /// Takes the pipes of `child`.
    pub(in crate::host) fn follow(child: &mut Child, instance: u32, log: &AppLog) -> Self {
        let kept = Kept::default();
        let out = child.stdout.take().map(|pipe| {
            tokio::spawn(follow(pipe, format!("{instance} out"), log.clone(), Arc::clone(&kept)))
        });
        let err = child.stderr.take().map(|pipe| {
            tokio::spawn(follow(pipe, format!("{instance} err"), log.clone(), Arc::clone(&kept)))
        });
        Self { kept, followers: out.into_iter().chain(err).collect() }
    }

    /// The last lines.
    pub(in crate::host) fn lines(&self) -> Vec<String> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).all()
    }

    /// Everything was read. The last lines.
    pub(in crate::host) async fn end(&mut self) -> Vec<String> {
        for mut follower in self.followers.drain(..) {
            if tokio::time::timeout(CLOSED_WITHIN, &mut follower).await.is_err() {
                follower.abort();
            }
        }
        self.lines()
    }
}

async fn follow(mut pipe: impl AsyncRead + Unpin, label: String, log: AppLog, kept: Kept) {
    let mut splitter = Splitter::default();
    let mut bytes = vec![0; READ_MAX];
    let (mut window, mut window_bytes) = (Instant::now(), 0);
    loop {
        let read = pipe.read(&mut bytes).await.unwrap_or(0);
        let mut batch =
            Batch { text: String::new(), count: 0, time: now().to_string(), label: &label, kept: &kept };
        if read == 0 {
            splitter.rest(|line| batch.add(line));
        } else {
            splitter.feed(&bytes[..read], |line| batch.add(line));
        }
        if batch.count > 0 {
            log.put(batch.text, batch.count);
        }
        if read == 0 {
            return;
        }
        window_bytes += read;
        if window_bytes >= WINDOW_BYTES {
            tokio::time::sleep_until(window + WINDOW).await;
            (window, window_bytes) = (Instant::now(), 0);
        }
    }
}

/// The lines of one read.
struct Batch<'a> {
    text: String,
    count: u64,
    time: String,
    label: &'a str,
    kept: &'a Kept,
}

impl Batch<'_> {
    fn add(&mut self, line: &str) {
        let _ = writeln!(self.text, "{} {} {line}", self.time, self.label);
        self.count += 1;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).add(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_what_went_wrong_is_not_pushed_out_by_its_stack() {
        let mut kept = LastLines::default();
        for line in ["listening", "Error: an earlier one", "loader:1031", "Error [X]: No such module: sqlite"]
        {
            kept.add(line);
        }
        let frames: Vec<String> =
            (0..LINES_KEPT).map(|at| format!("    at new NodeError{at} (a.js)")).collect();
        frames.iter().for_each(|frame| kept.add(frame));
        let expected = std::iter::once("Error [X]: No such module: sqlite".to_owned()).chain(frames);
        assert_eq!(kept.all(), expected.collect::<Vec<_>>());
        for number in 0..2 * LINES_KEPT {
            kept.add(&number.to_string());
        }
        assert_eq!(kept.all().len(), LINES_KEPT + 1, "no more than one such line is kept");
    }

    #[test]
    fn few_lines_are_all_there_once() {
        let mut kept = LastLines::default();
        kept.add("Error: one");
        kept.add("two");
        assert_eq!(kept.all(), ["Error: one", "two"]);
    }
}
