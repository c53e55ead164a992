//! What can go wrong with the scripts of a service.

use std::io;
use std::path::{Path, PathBuf};

/// Why the repository did not do what was asked. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum ScriptsError {
    /// The disk, or the program that was to be started.
    #[error("cannot {what} {}: {source}", path.display())]
    Disk {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The program `git` cannot be started.
    #[error("cannot start git: {0}: install git 2.36 or later on this node")]
    NoGit(io::Error),
    /// It is one that does not sync what it writes.
    #[error("this node has {0:?}: install git 2.36 or later")]
    OldGit(String),
    /// `git` ended with an error; its own words.
    #[error("git {verb} failed: {words}")]
    Git {
        /// Which of its commands.
        verb: String,
        /// The last lines of what it said.
        words: String,
    },
    /// `git` was still at work when its time was over; it has been ended.
    #[error("git {verb} took more than {seconds} s and was ended: try again when the node has less to do")]
    Slow {
        /// Which of its commands.
        verb: String,
        /// Its limit.
        seconds: u64,
    },
    /// Not an id, or nothing here has it.
    #[error("{0:?} is no commit of this repository: use an id that `releases` lists")]
    NoCommit(String),
    /// More than a release may hold.
    #[error("{what} has {have} {unit}, and at most {max} are allowed: leave out what a build can make")]
    TooBig {
        /// The release or archive.
        what: String,
        /// How much it has.
        have: u64,
        /// How much it may have.
        max: u64,
        /// Of what.
        unit: &'static str,
    },
    /// An archive that cannot become a release.
    #[error("the archive's entry {entry:?} {why}")]
    Archive {
        /// Its name as the archive tells it.
        entry: String,
        /// What is wrong with it, and how to mend it.
        why: &'static str,
    },
    /// Another deploy came first.
    #[error(
        "branch {branch} was changed by somebody else meanwhile: look at what they deployed and deploy again"
    )]
    Moved {
        /// The branch.
        branch: String,
    },
    /// What another region sent cannot be taken.
    #[error("what came from the other region does not fit: {0}: it is asked for again from the start")]
    Unfit(String),
}

impl ScriptsError {
    /// A closure that says what was tried with which file.
    pub(super) fn disk(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Disk { what, path, source }
    }
}
