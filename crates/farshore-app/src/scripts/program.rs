//! How the program `git` is called: with settings that are ours alone, within limits, and never left behind.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::error::ScriptsError;

/// What one question to git may take. A repository at its limits is packed in a minute on a busy machine.
const CALL_TIME_MAX: Duration = Duration::from_secs(600);
/// What git may answer: 100,000 files with long names.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// How much of git's complaint is shown.
const WORDS_BYTES_MAX: usize = 2_000;
/// The first that syncs what it is told to, with settings from its environment.
const VERSION_MIN: (u32, u32) = (2, 36);
/// What a push may send, packed. More does not belong into a release.
pub(super) const PUSH_BYTES_MAX: u64 = 1 << 30;

/// Given on each call, above the repository's own configuration, so that nothing that lies there counts.
const SETTINGS: [(&str, &str); 33] = [
    // A release that was acknowledged survives a power cut.
    ("core.fsync", "all"),
    ("core.fsyncMethod", "fsync"),
    // Few packs are synced faster than many objects.
    ("receive.unpackLimit", "1"),
    ("fastimport.unpackLimit", "0"),
    // Who moved a branch from where.
    ("core.logAllRefUpdates", "true"),
    ("core.filesRefLockTimeout", "3000"),
    ("core.packedRefsTimeout", "3000"),
    // Files are written as they are in the repository.
    ("core.autocrlf", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("core.quotePath", "false"),
    ("core.fsmonitor", "false"),
    ("tar.umask", "0022"),
    // The directory is the node's; whoever owns it, its hooks and settings are written at each open.
    ("safe.directory", "*"),
    // Housekeeping is called by the node, never left running behind a push.
    ("gc.autoDetach", "false"),
    ("gc.writeCommitGraph", "false"),
    ("maintenance.auto", "false"),
    ("maintenance.autoDetach", "false"),
    ("receive.autogc", "false"),
    // Bad objects are refused at the door; the name space of the node is nobody else's.
    ("receive.fsckObjects", "true"),
    ("transfer.hideRefs", "refs/farshore"),
    ("receive.denyDeleteCurrent", "refuse"),
    ("receive.shallowUpdate", "false"),
    ("receive.keepAlive", "5"),
    ("uploadpack.allowFilter", "true"),
    ("http.receivepack", "true"),
    ("http.uploadpack", "true"),
    ("http.getanyfile", "false"),
    // What packing may use beside the services of the node.
    ("pack.threads", "2"),
    ("pack.windowMemory", "64m"),
    ("pack.deltaCacheSize", "64m"),
];

/// The program, for one repository.
#[derive(Debug, Clone)]
pub(super) struct Git {
    dir: PathBuf,
    push_bytes_max: u64,
}

/// One call: what is asked, with what on its input and around it.
#[derive(Debug, Default)]
pub(super) struct Call<'a> {
    /// Its words, the command first.
    pub(super) words: &'a [&'a str],
    /// Beside the settings.
    pub(super) env: &'a [(&'a str, &'a OsStr)],
    /// On its input.
    pub(super) input: Vec<u8>,
    /// A file on its input instead.
    pub(super) from: Option<&'a Path>,
    /// A file for its output; then the answer is empty.
    pub(super) into: Option<&'a Path>,
}

impl Git {
    /// For the bare repository in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), push_bytes_max: PUSH_BYTES_MAX }
    }

    /// The same, with another limit for a push.
    pub(super) fn with_push_bytes_max(mut self, push_bytes_max: u64) -> Self {
        self.push_bytes_max = push_bytes_max;
        self
    }

    /// Puts into `command` the whole environment that git and its children get.
    pub(super) fn environ(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        command.env_clear();
        command.env("PATH", path).env("LC_ALL", "C").env("HOME", &self.dir).env("GIT_DIR", &self.dir);
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        command.env("GIT_ATTR_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0");
        command.env("GIT_NO_REPLACE_OBJECTS", "1");
        command.env("GIT_COMMITTER_NAME", "farshore").env("GIT_COMMITTER_EMAIL", "node@farshore.internal");
        let hooks = self.dir.join("hooks");
        let push_bytes_max = self.push_bytes_max.to_string();
        let own = [
            ("core.hooksPath", hooks.as_os_str()),
            ("receive.maxInputSize", OsStr::new(push_bytes_max.as_str())),
        ];
        let fixed = SETTINGS.iter().map(|(key, value)| (*key, OsStr::new(*value)));
        let mut count = 0_usize;
        for (key, value) in fixed.chain(own) {
            command.env(format!("GIT_CONFIG_KEY_{count}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
    }

    /// What git answers to `words`.
    pub(super) async fn ask(&self, words: &[&str]) -> Result<Vec<u8>, ScriptsError> {
        self.call(Call { words, ..Call::default() }).await
    }

    /// What git answers to `call`. Dropped or out of time, git is ended; it then takes its lock files with it.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Vec<u8>, ScriptsError> {
        let verb = call.words.first().copied().unwrap_or_default().to_owned();
        let mut group = self.start(&call)?;
        let input = call.input;
        let talk = async {
            let child = &mut group.child;
            let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // Git says itself why it does not read on.
                    let _ = stdin.write_all(&input).await;
                }
            };
            let (_, out, err) = tokio::join!(feed, drain(stdout), drain(stderr));
            (child.wait().await, out, err)
        };
        let Ok((status, out, err)) = tokio::time::timeout(CALL_TIME_MAX, talk).await else {
            return Err(ScriptsError::Slow { verb, seconds: CALL_TIME_MAX.as_secs() });
        };
        let status = status.map_err(ScriptsError::NoGit)?;
        if !status.success() {
            let words = last_words(&err);
            let words = if words.is_empty() { status.to_string() } else { words };
            return Err(ScriptsError::Git { verb, words });
        }
        if out.len() as u64 > ANSWER_BYTES_MAX {
            let (have, max) = (out.len() as u64, ANSWER_BYTES_MAX);
            return Err(ScriptsError::TooBig {
                what: format!("the answer of git {verb}"),
                have,
                max,
                unit: "bytes",
            });
        }
        Ok(out)
    }

    fn start(&self, call: &Call<'_>) -> Result<Group, ScriptsError> {
        let mut command = Command::new("git");
        self.environ(&mut command);
        command.args(call.words).current_dir(&self.dir).process_group(0);
        for (name, value) in call.env {
            command.env(name, value);
        }
        command.stdin(match call.from {
            Some(path) => std::fs::File::open(path).map_err(ScriptsError::disk("read", path))?.into(),
            None if call.input.is_empty() => Stdio::null(),
            None => Stdio::piped(),
        });
        command.stdout(match call.into {
            Some(path) => std::fs::File::create(path).map_err(ScriptsError::disk("write", path))?.into(),
            None => Stdio::piped(),
        });
        command.stderr(Stdio::piped());
        Ok(Group { child: command.spawn().map_err(ScriptsError::NoGit)? })
    }
}

/// A call's processes. Dropped before its end, they are asked to end; git then takes its lock files with it.
#[derive(Debug)]
struct Group {
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        // No id: it has been waited for, and there is nothing to end.
        if let Some(id) = self.child.id() {
            signal_group(id, Signal::TERM);
        }
    }
}

/// Sends `signal` to the group that process `id` leads, if it is still there.
pub(super) fn signal_group(id: u32, signal: Signal) {
    if let Some(group) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        // Gone already is what was wanted.
        let _ = kill_process_group(group, signal);
    }
}

async fn drain(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut all = Vec::new();
    if let Some(pipe) = pipe {
        // A pipe that breaks has ended; one byte more than allowed tells that there was more.
        let _ = pipe.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut all).await;
    }
    all
}

/// The end of a complaint, on one line.
pub(super) fn last_words(bytes: &[u8]) -> String {
    let tail = &bytes[bytes.len().saturating_sub(WORDS_BYTES_MAX)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ")
}

/// Refuses a git that would not heed our settings. Asked once in the life of a node.
pub(super) fn check_version() -> Result<(), ScriptsError> {
    static GOOD: OnceLock<()> = OnceLock::new();
    if GOOD.get().is_some() {
        return Ok(());
    }
    let told = std::process::Command::new("git").arg("version").stdin(Stdio::null()).output();
    let told = String::from_utf8_lossy(&told.map_err(ScriptsError::NoGit)?.stdout).trim().to_owned();
    if version(&told).is_none_or(|version| version < VERSION_MIN) {
        return Err(ScriptsError::OldGit(told));
    }
    // Another thread may have seen it, too.
    let _ = GOOD.set(());
    Ok(())
}

/// Reads `git version 2.47.3 (…)`.
fn version(told: &str) -> Option<(u32, u32)> {
    let mut numbers = told.split_whitespace().nth(2)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether `text` is an object's id as git writes it in full.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_different_builds_tell_them() {
        assert_eq!(version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(version("git version 2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert_eq!(version("git version 3.0.rc1"), Some((3, 0)));
        assert_eq!(version(""), None);
        check_version().unwrap();
    }

    #[test]
    fn complaints_are_shown_on_one_line_and_not_whole() {
        assert_eq!(last_words(b"error: one\n\nfatal: two\n"), "error: one; fatal: two");
        assert_eq!(last_words(&[b'x'; 5_000]).len(), WORDS_BYTES_MAX);
    }

    #[test]
    fn ids_are_forty_small_digits() {
        assert!(is_id(&"0a".repeat(20)));
        assert!(!is_id(&"0A".repeat(20)));
        assert!(!is_id("0a"));
        assert!(!is_id(&"-".repeat(40)));
    }
}
