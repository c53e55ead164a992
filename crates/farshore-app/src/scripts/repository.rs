//! A service's repository: what is in it, and how it becomes files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use farshore_core::moment::Moment;
use serde::{Deserialize, Serialize};

use super::error::ScriptsError;
use super::files::off_the_loop;
use super::home;
use super::object::{Id, Mode};
use super::program::{Call, Git, check_version, is_id};

/// Files of one release. Three times a large front end with its assets; packages are what a build installs.
pub(super) const FILES_MAX: u64 = 100_000;
/// Bytes of one release, unpacked.
pub(super) const RELEASE_BYTES_MAX: u64 = 2 << 30;

/// A commit, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Its id, 40 hexadecimal digits.
    pub id: String,
    /// The id of its files, the same wherever they are the same.
    pub tree: String,
    /// What its author says of it.
    pub message: String,
    /// The author's name.
    pub author: String,
    /// When it was made, by its maker's clock.
    pub at: Moment,
}

/// Every branch and tag of a repository, and the branch that deploys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refs {
    /// The branch whose commit runs: `refs/heads/main` or `refs/heads/master`.
    pub head: String,
    /// By full name, with the id of what each stands for.
    pub refs: BTreeMap<String, String>,
}

impl Default for Refs {
    /// Those of a repository that nothing was pushed to.
    fn default() -> Self {
        Self { head: "refs/heads/main".into(), refs: BTreeMap::new() }
    }
}

impl Refs {
    /// The commit that runs, if there is one.
    #[must_use]
    pub fn deployed(&self) -> Option<&str> {
        self.refs.get(&self.head).map(String::as_str)
    }
}

/// The branches whose commits become releases.
pub(super) fn deploys(name: &str) -> bool {
    matches!(name, "refs/heads/main" | "refs/heads/master")
}

/// A bare repository in a directory of this node. What is acknowledged is on the disk.
#[derive(Debug)]
pub struct Repository {
    pub(super) dir: PathBuf,
    pub(super) git: Git,
    /// A git had to be ended hard: there may be locks that belong to nobody.
    pub(super) unclean: AtomicBool,
    count: AtomicU64,
}

/// A file that a commit holds.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    pub(super) path: Vec<u8>,
    pub(super) mode: Mode,
    pub(super) id: Id,
    pub(super) bytes: u64,
}

impl Repository {
    /// Opens the repository in `dir`, which is made if it is not there. Hooks, settings and attributes are written
    /// anew each time: whatever else lay there counts for nothing. One repository is opened once at a time.
    pub fn open_or_init(dir: impl AsRef<Path>) -> Result<Self, ScriptsError> {
        let dir = dir.as_ref();
        check_version()?;
        std::fs::create_dir_all(dir).map_err(ScriptsError::disk("make", dir))?;
        let dir = dir.canonicalize().map_err(ScriptsError::disk("find", dir))?;
        home::settle(&dir)?;
        let git = Git::new(&dir);
        // Young locks may stand from before: they are looked at again before the next change.
        Ok(Self { dir, git, unclean: AtomicBool::new(true), count: AtomicU64::new(0) })
    }

    /// The same repository, where a push may send `push_bytes_max` bytes, packed, and not 1 GiB.
    #[must_use]
    pub fn with_push_bytes_max(mut self, push_bytes_max: u64) -> Self {
        self.git = self.git.with_push_bytes_max(push_bytes_max);
        self
    }

    /// Where it lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The commit that was deployed last, or `None` while nothing was.
    pub async fn head(&self) -> Result<Option<Commit>, ScriptsError> {
        match self.tip(&self.head_branch()?).await? {
            None => Ok(None),
            Some(id) => self.commit(&id).await.map(Some),
        }
    }

    /// What is known of commit `id`.
    pub async fn commit(&self, id: &str) -> Result<Commit, ScriptsError> {
        let unknown = || ScriptsError::NoCommit(id.chars().take(80).collect());
        if !is_id(id) {
            return Err(unknown());
        }
        let input = format!("{id}\n").into_bytes();
        let answer =
            self.git.call(Call { words: &["cat-file", "--batch"], input, ..Call::default() }).await?;
        parse_commit(id, &answer).ok_or_else(unknown)
    }

    /// The id of the files of commit `commit`.
    pub async fn tree_of(&self, commit: &str) -> Result<String, ScriptsError> {
        Ok(self.commit(commit).await?.tree)
    }

    /// Every branch and tag.
    pub async fn refs(&self) -> Result<Refs, ScriptsError> {
        let words = ["for-each-ref", "--format=%(objectname) %(refname)"];
        let answer = self.git.ask(&words).await?;
        let text = String::from_utf8_lossy(&answer);
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        let seen = pairs.filter(|(_, name)| !name.starts_with("refs/farshore/"));
        let refs = seen.map(|(id, name)| (name.to_owned(), id.to_owned())).collect();
        Ok(Refs { head: self.head_branch()?, refs })
    }

    /// Writes the files of `commit` to `into`, which must not be there yet or be empty. All or nothing: they appear
    /// under that name when they are whole. A power cut may still take them; [`Self::differences`] tells.
    pub async fn checkout(&self, commit: &str, into: &Path) -> Result<(), ScriptsError> {
        self.weigh(commit).await?;
        let (parent, beside) = beside(into)?;
        std::fs::create_dir_all(&parent).map_err(ScriptsError::disk("make", &parent))?;
        home::remove(&beside)?;
        std::fs::create_dir(&beside).map_err(ScriptsError::disk("make", &beside))?;
        let index = self.staged("index");
        let written = self.write_files(commit, &index, &beside).await;
        home::remove(&index)?;
        let placed = match written {
            Ok(()) => {
                std::fs::rename(&beside, into).map_err(ScriptsError::disk("place the release at", into))
            }
            Err(error) => Err(error),
        };
        if placed.is_err() {
            home::remove(&beside)?;
        }
        placed
    }

    async fn write_files(&self, commit: &str, index: &Path, dir: &Path) -> Result<(), ScriptsError> {
        let env = [
            ("GIT_INDEX_FILE", index.as_os_str()),
            ("GIT_WORK_TREE", dir.as_os_str()),
            // The index is thrown away, and so need not be synced.
            ("GIT_CONFIG_PARAMETERS", OsStr::new("'core.fsync=none'")),
        ];
        let read = ["read-tree", commit];
        self.git.call(Call { words: &read, env: &env, ..Call::default() }).await?;
        let write = ["checkout-index", "--all", "--force", "--quiet"];
        self.git.call(Call { words: &write, env: &env, ..Call::default() }).await?;
        Ok(())
    }

    /// Writes the files of `commit` as a tar archive to `into`, synced.
    pub async fn archive(&self, commit: &str, into: &Path) -> Result<(), ScriptsError> {
        self.weigh(commit).await?;
        let words = ["archive", "--format=tar", commit];
        self.git.call(Call { words: &words, into: Some(into), ..Call::default() }).await?;
        std::fs::File::open(into).and_then(|file| file.sync_all()).map_err(ScriptsError::disk("sync", into))
    }

    /// The files of `commit`, none of which was opened yet: refused when they are too many or too big to be.
    pub(super) async fn weigh(&self, commit: &str) -> Result<Vec<Tracked>, ScriptsError> {
        let commit = self.commit(commit).await?;
        let answer = self.git.ask(&["ls-tree", "-r", "-l", "-z", "--full-tree", &commit.id]).await?;
        let tracked = parse_tree(&answer)?;
        let bytes = tracked.iter().map(|file| file.bytes).sum();
        within("the release", tracked.len() as u64, FILES_MAX, "files")?;
        within("the release", bytes, RELEASE_BYTES_MAX, "bytes")?;
        Ok(tracked)
    }

    /// The branch that deploys, whether there is anything on it or not.
    pub(super) fn head_branch(&self) -> Result<String, ScriptsError> {
        let path = self.dir.join("HEAD");
        let text = std::fs::read_to_string(&path).map_err(ScriptsError::disk("read", &path))?;
        let name = text.trim().strip_prefix("ref: ").filter(|name| deploys(name));
        Ok(name.unwrap_or("refs/heads/main").to_owned())
    }

    /// From now on `branch` is the one that deploys.
    pub(super) async fn set_head_branch(&self, branch: &str) -> Result<(), ScriptsError> {
        if deploys(branch) && self.head_branch()? != branch {
            self.git.ask(&["symbolic-ref", "HEAD", branch]).await?;
            self.sync(Vec::new()).await?;
        }
        Ok(())
    }

    /// What the ref `name` stands for.
    pub(super) async fn tip(&self, name: &str) -> Result<Option<String>, ScriptsError> {
        let answer = self.git.ask(&["for-each-ref", "--format=%(objectname) %(refname)", name]).await?;
        let text = String::from_utf8_lossy(&answer);
        let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs.find(|(_, found)| *found == name).map(|(id, _)| id.to_owned()))
    }

    /// After this the refs `names` are on the disk, and what they stand for.
    pub(super) async fn sync(&self, names: Vec<String>) -> Result<(), ScriptsError> {
        let dir = self.dir.clone();
        off_the_loop(move || home::sync_names(&dir, names.iter().map(String::as_str))).await
    }

    /// A name in the place for what is not ready yet, used once.
    pub(super) fn staged(&self, what: &str) -> PathBuf {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        self.dir.join("staging").join(format!("{count}.{what}"))
    }

    /// Called before each change: removes what a git that was ended hard has left.
    pub(super) fn sweep(&self) {
        if self.unclean.load(Ordering::Relaxed) && home::sweep(&self.dir) {
            self.unclean.store(false, Ordering::Relaxed);
        }
    }

    /// Packs anew what has come in many pieces. Called after a change; it is not part of it.
    pub(super) async fn tidy(&self) {
        if let Err(error) = self.git.ask(&["gc", "--auto", "--quiet"]).await {
            tracing::warn!(repository = %self.dir.display(), %error, "the repository could not be packed anew");
        }
    }
}

/// Refuses `have` over `max`.
pub(super) fn within(what: &str, have: u64, max: u64, unit: &'static str) -> Result<(), ScriptsError> {
    if have > max {
        return Err(ScriptsError::TooBig { what: what.into(), have, max, unit });
    }
    Ok(())
}

/// The directory over `into`, and a name in it for what will be `into`.
fn beside(into: &Path) -> Result<(PathBuf, PathBuf), ScriptsError> {
    let (Some(parent), Some(name)) = (into.parent(), into.file_name()) else {
        let source = std::io::Error::from(std::io::ErrorKind::InvalidInput);
        return Err(ScriptsError::Disk { what: "place a release at", path: into.to_owned(), source });
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = std::path::absolute(parent).map_err(ScriptsError::disk("find", parent))?;
    let mut new = OsStr::new(".").to_owned();
    new.push(name);
    new.push(".new");
    let beside = parent.join(new);
    Ok((parent, beside))
}

/// Reads what `cat-file --batch` tells of one commit.
fn parse_commit(id: &str, answer: &[u8]) -> Option<Commit> {
    let text = String::from_utf8_lossy(answer);
    let (told, rest) = text.split_once('\n')?;
    if told.split(' ').nth(1) != Some("commit") {
        return None;
    }
    let (header, message) = rest.split_once("\n\n").unwrap_or((rest, ""));
    let field = |name: &str| header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let seconds = field("committer")?.rsplit(' ').nth(1)?.parse::<u64>().unwrap_or(0);
    let author = field("author")?.split(" <").next().unwrap_or_default();
    Some(Commit {
        id: id.to_owned(),
        tree: field("tree")?.to_owned(),
        message: message.trim_end().to_owned(),
        author: author.to_owned(),
        at: Moment::from_millis(seconds.saturating_mul(1_000)),
    })
}

/// Reads what `ls-tree -r -l -z` tells.
fn parse_tree(answer: &[u8]) -> Result<Vec<Tracked>, ScriptsError> {
    let lines = answer.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let parsed = lines.map(|line| {
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let told = std::str::from_utf8(&line[..tab]).ok()?;
        let mut words = told.split_ascii_whitespace();
        let mode = Mode::parse(words.next()?)?;
        let id = Id::parse(words.nth(1)?)?;
        // A module has no size here.
        let bytes = words.next()?.parse().unwrap_or(0);
        Some(Tracked { path: line[tab + 1..].to_vec(), mode, id, bytes })
    });
    let unread =
        || ScriptsError::Git { verb: "ls-tree".into(), words: "it listed what cannot be read".into() };
    parsed.collect::<Option<Vec<_>>>().ok_or_else(unread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_read_with_its_message_of_several_lines() {
        let id = "1".repeat(40);
        let text = format!(
            "{id} commit 200\ntree {}\nparent {id}\nauthor Ann B <a@b> 5 +0100\ncommitter C <c@d> 1700000000 +0000\n\nfirst\n\nsecond\n\n",
            "2".repeat(40)
        );
        let commit = parse_commit(&id, text.as_bytes()).unwrap();
        assert_eq!(commit.message, "first\n\nsecond");
        assert_eq!(commit.author, "Ann B");
        assert_eq!(commit.tree, "2".repeat(40));
        assert_eq!(commit.at, Moment::from_millis(1_700_000_000_000));
    }

    #[test]
    fn what_is_missing_or_no_commit_is_none() {
        let id = "1".repeat(40);
        assert_eq!(parse_commit(&id, format!("{id} missing\n").as_bytes()), None);
        assert_eq!(parse_commit(&id, format!("{id} tree 0\n\n").as_bytes()), None);
    }

    #[test]
    fn a_tree_is_read_with_names_of_any_bytes() {
        let id = "1".repeat(40);
        let text = format!("100755 blob {id}      12\ta b\n\tc\0160000 commit {id}       -\tsub\0");
        let tracked = parse_tree(text.as_bytes()).unwrap();
        assert_eq!(tracked[0].path, b"a b\n\tc");
        assert_eq!((tracked[0].mode, tracked[0].bytes), (Mode::Executable, 12));
        assert_eq!((tracked[1].mode, tracked[1].bytes), (Mode::Module, 0));
        assert!(parse_tree(b"nonsense\0").is_err());
    }
}
