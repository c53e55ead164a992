//! What the node says to a pusher while a release is made.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::repository::Commit;

/// Lines that wait for a slow terminal. A deploy never waits for it: what is more is counted.
const LINES_WAITING_MAX: usize = 1_024;
/// What one line may have; a longer one is cut.
const LINE_CHARS_MAX: usize = 1_000;

/// Whom a repository lets in.
#[async_trait]
pub trait Believes: Send + Sync + std::fmt::Debug {
    /// Whether `password` is good for this repository. `user` is only told to people. `from` is where it came from: who sends many
    /// wrong ones from there need not be listened to.
    async fn believes(&self, user: &str, password: &str, from: IpAddr) -> bool;
}

/// What happens after a push to a branch that deploys.
#[async_trait]
pub trait OnPush: Send + Sync + std::fmt::Debug {
    /// Makes `commit` the running release and tells the pusher of it through `says`. True when it came up. It is
    /// called to its end also when the pusher has gone.
    async fn pushed(&self, commit: Commit, by: &str, says: Says) -> bool;

    /// Whether this region takes pushes now; else why not, in words for the pusher.
    fn takes(&self) -> Result<(), String> {
        Ok(())
    }
}

/// The pusher's terminal: each line comes as `remote: …`. Cheap to clone; nobody waits for the reader.
#[derive(Debug, Clone)]
pub struct Says {
    lines: mpsc::Sender<String>,
    left_out: Arc<AtomicU64>,
}

impl Says {
    /// A terminal and the other end of it.
    #[must_use]
    pub fn heard() -> (Self, mpsc::Receiver<String>) {
        let (lines, hears) = mpsc::channel(LINES_WAITING_MAX);
        (Self { lines, left_out: Arc::default() }, hears)
    }

    /// A terminal that nobody looks at.
    #[must_use]
    pub fn unheard() -> Self {
        Self::heard().0
    }

    /// Says `text`, which may have several lines. What would move a cursor or ring a bell is left out.
    pub fn say(&self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            let plain = line.chars().map(|char| if char == '\t' { ' ' } else { char });
            let line: String = plain.filter(|char| !char.is_control()).take(LINE_CHARS_MAX).collect();
            let left_out = self.left_out.load(Ordering::Relaxed);
            if left_out > 0 && self.lines.try_send(format!("({left_out} lines left out)")).is_ok() {
                self.left_out.fetch_sub(left_out, Ordering::Relaxed);
            }
            if let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(line) {
                self.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(hears: &mut mpsc::Receiver<String>) -> Vec<String> {
        std::iter::from_fn(|| hears.try_recv().ok()).collect()
    }

    #[test]
    fn lines_are_told_one_by_one_and_cannot_move_the_cursor() {
        let (says, mut hears) = Says::heard();
        says.say("one\n\ttwo \u{1b}[2Jthree\r\n");
        says.say("x".repeat(5_000));
        let lines = all(&mut hears);
        assert_eq!(lines[..2], ["one", " two [2Jthree"]);
        assert_eq!(lines[2].len(), LINE_CHARS_MAX);
    }

    #[test]
    fn what_a_slow_terminal_misses_is_counted() {
        let (says, mut hears) = Says::heard();
        for count in 0..LINES_WAITING_MAX + 7 {
            says.say(count.to_string());
        }
        assert_eq!(all(&mut hears).len(), LINES_WAITING_MAX);
        says.say("on");
        assert_eq!(all(&mut hears), ["(7 lines left out)", "on"]);
        drop(hears);
        says.say("nobody hears it, and nobody waits");
    }
}
