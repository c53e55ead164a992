//! The talk between a push's hooks and the node: may it be, what was pushed, and what becomes of it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::super::program::is_id;
use super::super::repository::{Repository, deploys};
use super::super::says::{OnPush, Says};
use super::child::Cut;
/// The pipes of a push, beside the guard's.
pub(super) const PIPES: [&str; 2] = ["pushed", "says"];
/// What a hook may tell: 10,000 branches with long names.
const TOLD_BYTES_MAX: u64 = 4 << 20;

/// Makes releases of what is pushed. One for all pushes to a repository.
#[derive(Debug)]
pub(super) struct Deploys {
    pub(super) repository: Arc<Repository>,
    pub(super) on_push: Arc<dyn OnPush>,
    /// Deploys go on when the pusher has gone; here they are waited for.
    pub(super) tasks: TaskTracker,
    /// The commit that was given to `on_push` last.
    pub(super) last: Mutex<Option<String>>,
}

/// One line of what git tells a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moved {
    /// `None`: it was deleted.
    to: Option<String>,
    branch: String,
}

impl Deploys {
    /// Answers the hooks in `dir`: whether branches may move, then what becomes of what was pushed. An error means that
    /// the pusher must not be told that all is well.
    pub(super) async fn talk(self: &Arc<Self>, dir: &Path, by: &str) -> Result<(), Cut> {
        self.try_talk(dir, by).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the talk with the hooks of a push broke off");
            Err(Cut::Closed)
        })
    }

    async fn try_talk(self: &Arc<Self>, dir: &Path, by: &str) -> std::io::Result<Result<(), Cut>> {
        let mut both = pipe::OpenOptions::new();
        // For both directions: opening waits for nobody, and an end is told by a line.
        both.read_write(true);
        let pushed = both.open_receiver(dir.join("pushed"))?;
        let mut terminal = both.open_sender(dir.join("says"))?;
        let mut told = Vec::new();
        let mut lines = BufReader::new(pushed.take(TOLD_BYTES_MAX)).lines();
        while let Some(line) = lines.next_line().await? {
            match line.as_str() {
                "." => break,
                "?" => {
                    write(&mut terminal, self.on_push.takes().as_ref().err().map_or("yes", String::as_str))
                        .await?
                }
                line => told.extend(moved(line)),
            }
        }
        self.sync(&told).await?;
        // Between the two another region may have been given the app: what it does not know of was not done.
        if self.on_push.takes().is_err() {
            return Ok(Err(Cut::Closed));
        }
        let (says, hears) = Says::heard();
        let deploy = self.begin(told, by, says);
        relay(deploy, hears, &mut terminal).await.map(Ok)
    }

    /// The pusher's git ends after the hook: with this, what it calls done survives a power cut.
    async fn sync(&self, told: &[Moved]) -> std::io::Result<()> {
        let names = told.iter().map(|moved| moved.branch.clone()).collect();
        self.repository.sync(names).await.map_err(std::io::Error::other)
    }

    /// Starts the deploy of what was pushed, if any of it deploys.
    fn begin(self: &Arc<Self>, told: Vec<Moved>, by: &str, says: Says) -> JoinHandle<()> {
        let (this, by) = (Arc::clone(self), by.to_owned());
        self.tasks.spawn(async move { this.deploy(told, &by, says).await })
    }

    async fn deploy(&self, told: Vec<Moved>, by: &str, says: Says) {
        let stored = told.iter().filter(|moved| !deploys(&moved.branch) && moved.to.is_some());
        for moved in stored {
            if let Some(branch) = moved.branch.strip_prefix("refs/heads/") {
                says.say(format!("branch {branch} is stored; only main and master are deployed"));
            }
        }
        let mut news = told.iter().filter(|moved| deploys(&moved.branch) && moved.to.is_some());
        // With both, main is it.
        let Some(chosen) = news.clone().find(|moved| moved.branch.ends_with("/main")).or_else(|| news.next())
        else {
            return;
        };
        if let Some(to) = &chosen.to {
            self.release(&chosen.branch, to, by, says).await;
        }
    }

    async fn release(&self, branch: &str, id: &str, by: &str, says: Says) {
        let known = async {
            self.repository.set_head_branch(branch).await?;
            self.repository.commit(id).await
        };
        let commit = match known.await {
            Ok(commit) => commit,
            Err(error) => {
                says.say(format!("the push is stored, but no release was made of it: {error}"));
                return;
            }
        };
        if let Ok(mut last) = self.last.lock() {
            *last = Some(id.to_owned());
        }
        if !self.on_push.pushed(commit, by, says.clone()).await {
            says.say("the push is stored, but its release does not run");
        }
    }

    /// After a push that was cut off: the branch may have moved and nobody told of it. Where pushes are not taken any
    /// more, what runs is decided elsewhere.
    pub(super) async fn catch_up(self: &Arc<Self>, before: Option<&str>, by: &str) {
        if self.on_push.takes().is_err() {
            return;
        }
        let now = self.repository.head_branch();
        let Ok(branch) = now else { return };
        let Ok(Some(now)) = self.repository.tip(&branch).await else { return };
        let told = self.last.lock().is_ok_and(|last| last.as_deref() == Some(now.as_str()));
        if !told && before != Some(now.as_str()) {
            // Waited for with the others.
            drop(self.begin(vec![Moved { to: Some(now), branch }], by, Says::unheard()));
        }
    }
}

/// Writes what is said to the hook's pipe until the deploy has ended.
async fn relay(
    mut deploy: JoinHandle<()>,
    mut hears: mpsc::Receiver<String>,
    terminal: &mut pipe::Sender,
) -> std::io::Result<()> {
    loop {
        let line = tokio::select! {
            biased;
            Some(line) = hears.recv() => line,
            ended = &mut deploy => {
                hears.close();
                while let Ok(line) = hears.try_recv() {
                    write(terminal, &line).await?;
                }
                if ended.is_err() {
                    write(terminal, "the node failed while it made the release: see its log").await?;
                }
                return Ok(());
            }
        };
        write(terminal, &line).await?;
    }
}

async fn write(terminal: &mut pipe::Sender, line: &str) -> std::io::Result<()> {
    let line = line.replace('\n', " ");
    terminal.write_all(format!("{line}\n").as_bytes()).await
}

/// Reads `OLD NEW REF`.
fn moved(line: &str) -> Option<Moved> {
    let mut words = line.splitn(3, ' ');
    let (_, to, branch) = (words.next()?, words.next()?, words.next()?);
    let to = is_id(to).then(|| to.to_owned())?;
    Some(Moved { to: to.bytes().any(|byte| byte != b'0').then_some(to), branch: branch.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_hook_is_read() {
        let (old, new) = ("0".repeat(40), "1".repeat(40));
        let read = moved(&format!("{old} {new} refs/heads/main")).unwrap();
        assert_eq!(read, Moved { to: Some(new.clone()), branch: "refs/heads/main".into() });
        assert_eq!(moved(&format!("{new} {old} refs/heads/x")).unwrap().to, None);
        assert_eq!(moved("short line"), None);
    }
}
