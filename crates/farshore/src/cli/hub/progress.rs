//! How far something is that takes longer than two seconds: on stderr, a line that changes on a terminal, else a line now and then.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::Instant;

/// What is quicker says nothing.
const QUIET: Duration = Duration::from_secs(2);
/// In a log, a line is enough so often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Tells how far something is.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    told: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), told: None, bar: None }
    }

    /// It is so far.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.began.elapsed() < QUIET {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new_spinner();
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            });
            bar.set_message(text());
        } else if self.told.is_none_or(|told| told.elapsed() >= LINE_EVERY) {
            self.told = Some(Instant::now());
            eprintln!("{}", text());
        }
    }

    /// Something else is to be printed: the line is taken away until it changes again.
    pub(super) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
