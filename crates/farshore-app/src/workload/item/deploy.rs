//! A commit becomes the running release: its files, its build, its start beside what runs, and the way back when it does not come up.

use std::collections::BTreeSet;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::Role;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::spawn_blocking;

use super::{Item, Matter};
use crate::charter::{Release, ReleaseState};
use crate::host::failure::PRINTED;
use crate::host::log::Splitter;
use crate::host::{Build, BuildOptions};
use crate::scripts::{Commit, Says};

/// A build that takes longer is ended.
const BUILD_MAX: Duration = Duration::from_secs(15 * 60);
/// What is read of a build's words at once.
const READ_MAX: usize = 16 * 1024;
/// Where builds keep what they want to find again, such as packages that were fetched.
const HOME: &str = "home";
/// The standby is waited for so long before a deploy is reported.
const REPLICATED_MAX: Duration = Duration::from_secs(20);
/// Releases whose files are kept beside the one that runs: to go back to.
const READY_KEPT: usize = 3;
/// What is kept of why a release failed.
const WHY_MAX: usize = 2000;

/// Why a release failed that was being made when its node died,
const UNFINISHED: &str = "it was not finished";
/// or when its region stopped serving: neither says anything of the release.
const STOPPED: &str = "the region stopped serving the app meanwhile";
/// Who makes such a release again.
const AGAIN_BY: &str = "this region, once more";

/// What a deploy did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::workload) struct Deployed {
    /// The release that runs now.
    pub(in crate::workload) release: u64,
    /// Whether the other region has it; `None`: there is none.
    pub(in crate::workload) replicated: Option<bool>,
}

impl Item {
    /// Makes this commit the running release. When it does not come up, what ran runs on.
    ///
    /// # Errors
    /// In words, which were said to the pusher too.
    pub(in crate::workload) async fn deploy(
        self: &Arc<Self>,
        commit: Commit,
        by: &str,
        says: &Says,
    ) -> Result<Deployed, String> {
        let _one = self.deploying.lock().await;
        self.deploy_alone(commit, by, says).await
    }

    /// Deploys what was pushed and not made a release of, because the node died or its region stopped serving: whoever pushes it again
    /// is told that there is nothing to push.
    pub(super) async fn catch_up(self: &Arc<Self>) {
        let _one = self.deploying.lock().await;
        let Ok(Some(head)) = self.stock.repository.head().await else { return };
        let due = {
            let charter = self.stock.charter();
            Due::of(charter.releases.iter().rev().find(|release| release.commit == head.id))
        };
        match due {
            Due::Done => {}
            Due::Given(number) => self.note(
                Matter::Deploy,
                Some(format!(
                    "release {number} was begun again by this region and not finished, because the node ended meanwhile: it is not \
                     begun once more. Push another commit, or see farshore app deploy {}",
                    self.id.name
                )),
            ),
            Due::Now => {
                if let Err(why) = self.deploy_alone(head, AGAIN_BY, &Says::unheard()).await {
                    tracing::warn!(app = %self.id, why, "what was pushed before the restart does not come up");
                }
            }
        }
    }

    /// One deploy at a time: the caller has seen to it.
    async fn deploy_alone(
        self: &Arc<Self>,
        commit: Commit,
        by: &str,
        says: &Says,
    ) -> Result<Deployed, String> {
        let number = self.stock.charter().next_release();
        says.say(format!("release {number} of {}: {}", self.id.name, short(&commit.id)));
        let done = self.deploy_as(number, &commit, by, says).await;
        if let Err(error) = self.stock.look_at_refs().await {
            tracing::warn!(app = %self.id, %error, "the branches cannot be looked at");
        }
        if let Err(why) = &done {
            says.say(format!("release {number} failed: {why}"));
            says.say(self.runs_on());
            self.note(
                Matter::Deploy,
                Some(format!("release {number} failed: {}", in_short(why, &self.id.name))),
            );
            return Err(why.clone());
        }
        self.note(Matter::Deploy, None);
        self.note(Matter::Restart, None);
        Ok(Deployed { release: number, replicated: self.replicated(says).await })
    }

    /// What becomes of the app when a release of it does not come up.
    fn runs_on(&self) -> String {
        let (live, has_command) = {
            let charter = self.stock.charter();
            (charter.live, charter.spec.command.is_some())
        };
        match live {
            None => "nothing runs: push a release that starts".to_owned(),
            Some(live) if !has_command => format!("release {live} stays the live one"),
            Some(live) if self.is_up() => format!("release {live} runs on"),
            Some(live) => format!(
                "release {live} stays the live one, but does not run now: farshore app show {} says why",
                self.id.name
            ),
        }
    }

    async fn deploy_as(
        self: &Arc<Self>,
        number: u64,
        commit: &Commit,
        by: &str,
        says: &Says,
    ) -> Result<(), String> {
        let stopped = || STOPPED.to_owned();
        let active = self.activity().ok_or_else(stopped)?;
        self.charter_changes(|charter| {
            charter.put_release(Release {
                number,
                commit: commit.id.clone(),
                tree: commit.tree.clone(),
                by: by.to_owned(),
                at: super::super::now(),
                message: first_line(&commit.message).to_owned(),
                state: ReleaseState::Failed,
                why: Some(UNFINISHED.to_owned()),
            });
        })
        .map_err(|error| error.to_string())?;
        let made = tokio::select! {
            biased;
            () = active.cancelled() => Err(stopped()),
            made = self.make(number, commit, says) => made,
        };
        let up = match made {
            Ok(()) => self.start(number, says).await,
            Err(why) => Err(why),
        };
        if let Err(why) = &up {
            let why: String = why.chars().take(WHY_MAX).collect();
            // It may be that this region serves no more: then the charter is not its own any more.
            if self.role() == Role::Active {
                self.charter_changes(|charter| charter.fail(number, &why))
                    .map_err(|error| error.to_string())?;
                self.forget_files(number).await;
            }
        }
        up
    }

    /// The release's files, built.
    async fn make(&self, number: u64, commit: &Commit, says: &Says) -> Result<(), String> {
        let releases = self.stock.releases.clone();
        let cleared = spawn_blocking(move || releases.clear(number)).await;
        cleared.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let dir = self.stock.releases.dir_of(number);
        self.stock.repository.checkout(&commit.id, &dir).await.map_err(|error| error.to_string())?;
        let build = self.stock.charter().spec.build.clone();
        if let Some(command) = build {
            says.say(format!("building: {command}"));
            self.build(&command, number, says).await?;
        }
        let releases = self.stock.releases.clone();
        let finished = spawn_blocking(move || releases.finish(number)).await;
        finished.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    /// The command sees what the app's processes will see, and nothing of the node's environment.
    async fn build(&self, command: &str, number: u64, says: &Says) -> Result<(), String> {
        let home = self.dir().join(HOME);
        std::fs::create_dir_all(&home).map_err(|error| format!("cannot make {}: {error}", home.display()))?;
        let home = ("HOME".to_owned(), home.display().to_string());
        let mut build = Build::start(&BuildOptions {
            command,
            dir: &self.stock.releases.dir_of(number),
            env: &[vec![home], self.environment(None)].concat(),
            log_dir: &self.dir().join("log"),
        })
        .map_err(|why| format!("the build cannot be started: {why}"))?;
        let (out, err) = build.output();
        let told = async {
            let ((), ()) = tokio::join!(tell(out, says), tell(err, says));
            build.ended().await
        };
        let ended = tokio::time::timeout(BUILD_MAX, told).await;
        build.end().await;
        match ended {
            Ok(Ok(status)) => judged(status),
            Ok(Err(error)) => Err(format!("the build cannot be waited for: {error}")),
            Err(_) => {
                Err(format!("the build took longer than {} minutes and was ended", BUILD_MAX.as_secs() / 60))
            }
        }
    }

    /// Starts it beside what runs.
    async fn start(self: &Arc<Self>, number: u64, says: &Says) -> Result<(), String> {
        let has_command = self.stock.charter().spec.command.is_some();
        if has_command && !self.is_used_up() {
            says.say("starting");
            self.roll(Some(number)).await?;
        } else {
            self.charter_changes(|charter| charter.go_live(number)).map_err(|error| error.to_string())?;
        }
        self.publish();
        if self.role() != Role::Active {
            says.say(format!("release {number} is the live one, but {STOPPED}"));
            return Ok(());
        }
        self.prune().await;
        match has_command {
            true => says.say(format!("release {number} runs")),
            false => says.say(format!("release {number} is there; the app has no command, so nothing runs")),
        }
        Ok(())
    }

    /// Goes back to a release that is here; `None`: to the newest one before the one that runs.
    ///
    /// # Errors
    /// In words; what ran runs on.
    pub(in crate::workload) async fn roll_back(
        self: &Arc<Self>,
        to: Option<u64>,
        says: &Says,
    ) -> Result<Deployed, String> {
        let _one = self.deploying.lock().await;
        let number = self.release_back(to)?;
        says.say(format!("going back to release {number}"));
        self.start(number, says)
            .await
            .inspect_err(|why| says.say(format!("release {number} failed: {why}")))?;
        self.note(Matter::Deploy, None);
        Ok(Deployed { release: number, replicated: self.replicated(says).await })
    }

    fn release_back(&self, to: Option<u64>) -> Result<u64, String> {
        let here = self.stock.here();
        let charter = self.stock.charter();
        let is_good =
            |release: &Release| release.state == ReleaseState::Ready && here.contains(&release.number);
        match to {
            Some(number) if charter.live == Some(number) => Err(format!("release {number} runs already")),
            Some(number) => match charter.release(number) {
                None => Err(format!("there is no release {number}: see farshore app releases")),
                Some(release) if is_good(release) => Ok(number),
                Some(_) => Err(format!(
                    "the files of release {number} are not kept: push commit {} again",
                    charter.release(number).map_or("", |release| short(&release.commit))
                )),
            },
            None => charter
                .releases
                .iter()
                .rev()
                .find(|release| Some(release.number) < charter.live && is_good(release))
                .map(|release| release.number)
                .ok_or_else(|| {
                    "there is no earlier release to go back to: see farshore app releases".to_owned()
                }),
        }
    }

    /// Waits until the other region has the release, and says whether it has.
    async fn replicated(&self, says: &Says) -> Option<bool> {
        let link = self.link()?;
        let partner = self.card().partner.clone()?;
        if !link.status().is_up {
            says.say(format!("{partner} does not answer: it gets the release when it does"));
            return Some(false);
        }
        if link.status().role != Some(Role::Target) {
            says.say(format!("{partner} does not follow: it gets the release when it does"));
            return Some(false);
        }
        match link.has_files(REPLICATED_MAX).await {
            Ok(()) => {
                says.say(format!("{partner} has it too"));
                Some(true)
            }
            Err(lacks) => {
                says.say(format!("{lacks}: it gets the release as soon as it can"));
                Some(false)
            }
        }
    }

    /// Keeps the files of what runs and of the last few before it.
    async fn prune(&self) {
        let keep: BTreeSet<u64> = {
            let charter = self.stock.charter();
            let ready = charter.releases.iter().rev().filter(|release| release.state == ReleaseState::Ready);
            ready.map(|release| release.number).take(READY_KEPT).chain(charter.live).collect()
        };
        let stock = Arc::clone(&self.stock);
        let pruned = spawn_blocking(move || {
            stock.releases.keep_only(&keep)?;
            stock.look_at_releases()
        });
        if let Ok(Err(error)) = pruned.await {
            tracing::warn!(app = %self.id, %error, "the files of old releases stay");
        }
    }

    async fn forget_files(&self, number: u64) {
        let releases = self.stock.releases.clone();
        if let Ok(Err(error)) = spawn_blocking(move || releases.clear(number)).await {
            tracing::warn!(app = %self.id, %error, "the files of a failed release stay");
        }
    }
}

/// Whether the newest commit is still to be deployed, after a start of the node.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// It runs, or did not come up for a reason of its own.
    Done,
    /// Nothing is known against it.
    Now,
    /// This region's own attempt, of this number, ended with the node: it may well be what ended the node.
    Given(u64),
}

impl Due {
    /// By the last release that was made of it.
    fn of(last: Option<&Release>) -> Self {
        let Some(last) = last else { return Self::Now };
        match last.why.as_deref().filter(|_| last.state == ReleaseState::Failed) {
            Some(UNFINISHED) if last.by == AGAIN_BY => Self::Given(last.number),
            Some(UNFINISHED | STOPPED) => Self::Now,
            _ => Self::Done,
        }
    }
}

async fn tell(output: Option<impl AsyncRead + Unpin>, says: &Says) {
    if let Some(output) = output {
        each_line(output, |line| says.say(line)).await;
    }
}

/// Calls `each` with every line of `output`. Of one that is too long its beginning is kept, however much follows.
async fn each_line(mut output: impl AsyncRead + Unpin, mut each: impl FnMut(&str)) {
    let mut splitter = Splitter::default();
    let mut bytes = vec![0; READ_MAX];
    loop {
        // A pipe that breaks has ended.
        match output.read(&mut bytes).await.unwrap_or(0) {
            0 => return splitter.rest(each),
            read => splitter.feed(&bytes[..read], &mut each),
        }
    }
}

fn judged(status: ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("the build failed ({status})")) }
}

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Why a release failed, in one line; what it printed is found elsewhere.
fn in_short(why: &str, app: impl std::fmt::Display) -> String {
    let line = first_line(why);
    match line.strip_suffix(PRINTED) {
        Some(what) => format!("{what}: farshore app log {app} shows what it printed"),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_died_of_is_begun_once_more_and_not_for_ever() {
        let last = |by: &str, state, why: Option<&str>| {
            let release = Release {
                number: 2,
                commit: "c".to_owned(),
                tree: "t".to_owned(),
                by: by.to_owned(),
                at: crate::workload::now(),
                message: String::new(),
                state,
                why: why.map(str::to_owned),
            };
            Due::of(Some(&release))
        };
        let failed = |by: &str, why: &str| last(by, ReleaseState::Failed, Some(why));
        assert_eq!(Due::of(None), Due::Now);
        assert_eq!(failed("me", UNFINISHED), Due::Now);
        assert_eq!(failed("me", STOPPED), Due::Now);
        assert_eq!(failed(AGAIN_BY, STOPPED), Due::Now, "the region stopped serving: it did not die of it");
        assert_eq!(failed(AGAIN_BY, UNFINISHED), Due::Given(2));
        assert_eq!(failed("me", "the build failed"), Due::Done);
        assert_eq!(last("me", ReleaseState::Live, None), Due::Done);
        assert_eq!(last(AGAIN_BY, ReleaseState::Ready, None), Due::Done);
    }

    #[test]
    fn a_failure_in_short_says_where_the_rest_is() {
        let whole = format!("instance 1 of todo ended with status 1{PRINTED}\n  | Error: no such module");
        let short = "instance 1 of todo ended with status 1: farshore app log todo shows what it printed";
        assert_eq!(in_short(&whole, "todo"), short);
        assert_eq!(in_short("the build failed\nmore", "todo"), "the build failed");
    }

    #[tokio::test]
    async fn a_build_that_ends_no_line_takes_no_more_than_a_line() {
        let endless = tokio::io::repeat(b'x').take(20 << 20);
        let mut lines = Vec::new();
        each_line(endless.chain(&b"\nnext\nlast"[..]), |line| lines.push(line.to_owned())).await;
        assert_eq!(lines[1..], ["next", "last"]);
        assert!(lines[0].len() < READ_MAX, "{}", lines[0].len());
    }
}
