//! The few lines of shell around every command, and how it is started.
//!
//! The node holds the writing end of a pipe, and a small shell inside the command's process group waits at the other. When
//! the node ends, whatever ended it, the kernel closes the pipe, the shell reads its end and kills its whole group. Nothing
//! in the node has to run for that.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::procfs;

/// In the arguments of the shell that guards, so that it can be told from the app.
const NAME: &str = "farshore-guard";

/// `$1` is the command, `$2` the cgroup to be in, or nothing.
///
/// - The cgroup first, so that everything that follows is in it.
/// - When memory runs out, the app goes before the node (`oom_score_adj`; raising it needs no rights). No core files: they
///   would fill the disk.
/// - The guard ignores the signals that are sent to the group to stop or to tell the app something, and holds neither the
///   app's output nor its input.
/// - The last line leaves no further shell between the node and the command.
const SCRIPT: &str = r#"
[ -z "$2" ] || echo 0 >"$2/cgroup.procs" || exit 125
{ echo 500 >/proc/self/oom_score_adj; } 2>/dev/null
ulimit -c 0
exec 3<&0 </dev/null
(trap '' HUP INT QUIT USR1 USR2 ALRM TERM PIPE; read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 &
exec 3<&-
exec /bin/sh -c "$1"
"#;

/// Words at the beginning of a command that are the shell's own, and no program's.
const SHELL_WORDS: &[&str] = &[
    "!", ".", ":", "{", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "done", "elif",
    "else", "esac", "eval", "exec", "exit", "export", "fg", "fi", "for", "getopts", "hash", "if", "in",
    "jobs", "local", "read", "readonly", "return", "set", "shift", "then", "times", "trap", "type", "ulimit",
    "umask", "unalias", "unset", "until", "wait", "while",
];

/// Where programs are looked for when the node itself was started without a `PATH`.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is started.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) command: &'a str,
    pub(super) dir: &'a Path,
    pub(super) env: &'a [(String, String)],
    /// The value of `PORT`, for what listens.
    pub(super) port: Option<u16>,
    /// The value of `FARSHORE_INSTANCE`.
    pub(super) id: &'a str,
    pub(super) cgroup: Option<PathBuf>,
}

/// Starts it in a process group of its own. It lives as long as the standard input of the child is held.
///
/// # Errors
/// The directory is not there, or the system has no process left.
pub(super) fn spawn(start: &Start<'_>) -> io::Result<Child> {
    let path = std::env::var("PATH").unwrap_or_else(|_| PATH_DEFAULT.to_owned());
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", SCRIPT, NAME, &line(start.command)])
        .arg(start.cgroup.as_deref().unwrap_or(Path::new("")))
        .current_dir(start.dir)
        .env_clear()
        .env("PATH", path)
        .env("HOME", start.dir)
        .env("LANG", "C.UTF-8")
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .envs(start.port.map(|port| ("PORT", port.to_string())))
        .env("FARSHORE_INSTANCE", start.id)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn()
}

/// The command as the shell gets it: one program is put in the place of its shell, so that signals and its status are its own.
fn line(command: &str) -> Cow<'_, str> {
    let first = command.split_ascii_whitespace().next().unwrap_or_default();
    let is_one_program = !first.is_empty()
        && !first.contains('=')
        && !SHELL_WORDS.contains(&first)
        && !command.contains([';', '&', '|', '(', ')', '`', '\n']);
    if is_one_program { Cow::Owned(format!("exec {command}")) } else { Cow::Borrowed(command) }
}

/// Whether `pid` is a guard, or a shell that has not become its command yet.
pub(super) fn is_guard(pid: u32) -> bool {
    procfs::has_argument(pid, NAME)
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn only_a_single_program_takes_the_place_of_its_shell() {
        for command in
            ["node server.js", "  npm start", "python3 -m http.server $PORT >/dev/null", "./run 'a b' # fast"]
        {
            assert_eq!(line(command), format!("exec {command}"));
        }
        for command in [
            "",
            "cd web; node .",
            "A=1 node .",
            "exec node .",
            "a && b",
            "a | b",
            "(a)",
            "a\nb",
            "if a\nthen b",
            "a `b`",
            "set -e",
        ] {
            assert_eq!(line(command), command);
        }
    }
}
