//! How a run ended, and why a start failed: words for people, and types for those who decide.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// How a run of an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its command ended by itself.
    Exited {
        /// With this status.
        status: i32,
    },
    /// A signal that the host did not send.
    Killed {
        /// Its number.
        signal: i32,
    },
    /// The kernel killed it for want of memory.
    OutOfMemory {
        /// Its limit, when that was reached; otherwise the whole machine had none left.
        limit_bytes: Option<u64>,
    },
    /// The host killed it, because no cgroup keeps it within its limit.
    OverMemory {
        /// What it used.
        used_bytes: u64,
        /// What it may use.
        limit_bytes: u64,
    },
    /// It did not answer, and the host killed it.
    Silent {
        /// What was seen last.
        why: String,
    },
    /// Somebody else listens on the port that it was given; it gets another.
    PortTaken {
        /// The port.
        port: u16,
    },
    /// It could not even be started.
    NotStarted {
        /// Why.
        why: String,
    },
    /// The host was told to stop it.
    Stopped,
}

impl Ending {
    /// Starting it again cannot help: the shell has not found the command, or may not run it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Exited { status: 126 | 127 })
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { status: 127 } => write!(f, "ended with status 127 (the command was not found)"),
            Self::Exited { status: 126 } => write!(f, "ended with status 126 (the command may not be run)"),
            Self::Exited { status } => write!(f, "ended with status {status}"),
            Self::Killed { signal } => write!(f, "was ended by {}", signal_name(*signal)),
            Self::OutOfMemory { limit_bytes: Some(limit) } => {
                write!(f, "was killed out of memory: its limit is {} MiB", mib(*limit))
            }
            Self::OutOfMemory { limit_bytes: None } => {
                write!(f, "was killed by the kernel, because the machine was out of memory")
            }
            Self::OverMemory { used_bytes, limit_bytes } => {
                write!(f, "was killed: it used {} MiB of its {} MiB", mib(*used_bytes), mib(*limit_bytes))
            }
            Self::Silent { why } => write!(f, "was killed, because it did not answer: {why}"),
            Self::PortTaken { port } => {
                write!(f, "was started anew: port {port} was taken by another program")
            }
            Self::NotStarted { why } => write!(f, "could not be started: {why}"),
            Self::Stopped => write!(f, "was stopped"),
        }
    }
}

impl Serialize for Ending {
    /// As the words that people read.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn mib(bytes: u64) -> u64 {
    bytes / (1024 * 1024)
}

fn signal_name(number: i32) -> String {
    let name = match number {
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

/// Why the instances of an app are not up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartFailure {
    /// It ended, more than once unless that cannot help.
    #[error("instance {instance} of {name} {ending} before it answered, {}{}", times(*.starts), last_words(.lines))]
    Ended {
        /// The app.
        name: String,
        /// The instance's number, from 1.
        instance: u32,
        /// How it ended the last time.
        ending: Ending,
        /// How many starts in a row ended so.
        starts: u32,
        /// What it printed last.
        lines: Vec<String>,
    },
    /// It runs, but does not answer.
    #[error(
        "instance {instance} of {name} was not up within {within:?}: {look}; the command must answer on 127.0.0.1 and the \
         port in $PORT{}",
        last_words(.lines)
    )]
    Late {
        /// The app.
        name: String,
        /// The instance's number, from 1.
        instance: u32,
        /// How long it had.
        within: Duration,
        /// What was seen last.
        look: String,
        /// What it printed last.
        lines: Vec<String>,
    },
    /// The host was stopped meanwhile.
    #[error("{name} was stopped before it was up")]
    Stopped {
        /// The app.
        name: String,
    },
}

fn times(starts: u32) -> String {
    match starts {
        0 | 1 => "at its first start".to_owned(),
        _ => format!("{starts} times in a row"),
    }
}

/// Between what happened and the lines that it printed last.
pub(crate) const PRINTED: &str = "; it printed last:";

fn last_words(lines: &[String]) -> String {
    if lines.is_empty() {
        return "; it printed nothing".to_owned();
    }
    let mut words = PRINTED.to_owned();
    for line in lines {
        words.push_str("\n  | ");
        words.push_str(line);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_how_it_ended_and_what_it_printed() {
        let failure = StartFailure::Ended {
            name: "todo".to_owned(),
            instance: 2,
            ending: Ending::Exited { status: 1 },
            starts: 5,
            lines: vec!["Error: Cannot find module 'express'".to_owned()],
        };
        assert_eq!(
            failure.to_string(),
            "instance 2 of todo ended with status 1 before it answered, 5 times in a row; it printed last:\n  \
             | Error: Cannot find module 'express'"
        );
        let late = StartFailure::Late {
            name: "todo".to_owned(),
            instance: 1,
            within: Duration::from_secs(30),
            look: "nothing listens on its port".to_owned(),
            lines: Vec::new(),
        };
        assert_eq!(
            late.to_string(),
            "instance 1 of todo was not up within 30s: nothing listens on its port; the command must answer on 127.0.0.1 \
             and the port in $PORT; it printed nothing"
        );
    }

    #[test]
    fn memory_is_named_as_the_cause() {
        let limit = 512 * 1024 * 1024;
        let by_kernel = Ending::OutOfMemory { limit_bytes: Some(limit) };
        assert_eq!(by_kernel.to_string(), "was killed out of memory: its limit is 512 MiB");
        let by_host = Ending::OverMemory { used_bytes: 2 * limit, limit_bytes: limit };
        assert_eq!(by_host.to_string(), "was killed: it used 1024 MiB of its 512 MiB");
        assert_eq!(Ending::Killed { signal: 11 }.to_string(), "was ended by SIGSEGV");
    }
}
