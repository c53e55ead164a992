//! An archive becomes a commit: for those who deploy a directory, without git.
//!
//! The archive is never unpacked. It is read twice: first every entry is judged, then the files go straight into the
//! repository, so that a refused archive leaves nothing behind.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use tar::EntryType;

use super::error::ScriptsError;
use super::files::off_the_loop;
use super::program::last_words;
use super::repository::{Commit, FILES_MAX, RELEASE_BYTES_MAX, Repository, within};

/// A whole path; what Linux takes.
const PATH_BYTES_MAX: usize = 4_096;
/// One name in it.
const NAME_BYTES_MAX: usize = 255;
/// What stands before an entry to tell its long name. Read into memory whole.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
/// What is kept of the words that go with a deploy.
const MESSAGE_CHARS_MAX: usize = 4_000;
/// A branch that is not there, for `update-ref`.
const NO_ID: &str = "0000000000000000000000000000000000000000";

/// What becomes of an entry, in the order of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Planned {
    /// A directory, or a header: git has none.
    Nothing,
    File {
        path: Vec<u8>,
        executable: bool,
        len: u64,
    },
    Link {
        path: Vec<u8>,
        leads: Vec<u8>,
    },
    /// The same file under one more name.
    Same {
        path: Vec<u8>,
        entry: usize,
    },
}

impl Repository {
    /// Makes a commit of exactly the files in the archive `tar`, on top of what was deployed last, and moves the branch
    /// that deploys to it. On return it is on the disk. `Moved` when another deploy came first; nothing is changed then.
    pub async fn commit_archive(
        &self,
        tar: &Path,
        message: &str,
        author: &str,
    ) -> Result<Commit, ScriptsError> {
        self.sweep();
        let branch = self.head_branch()?;
        let old = self.tip(&branch).await?;
        let staged = self.staged("deposit");
        let beside = format!("refs/farshore/{}", staged.file_name().unwrap_or_default().to_string_lossy());
        let header = header(&beside, message, author, old.as_deref());
        let mut git = tokio::process::Command::new("git");
        self.git.environ(&mut git);
        git.args(["fast-import", "--quiet"]).current_dir(&self.dir).process_group(0);
        let (tar, git) = (tar.to_owned(), git.into_std());
        off_the_loop(move || {
            let plan = judge(&tar)?;
            deposit(git, &tar, &plan, &header)
        })
        .await?;
        let Some(id) = self.tip(&beside).await? else {
            let words = "the commit was not made".to_owned();
            return Err(ScriptsError::Git { verb: "fast-import".into(), words });
        };
        let from = old.as_deref().unwrap_or(NO_ID);
        let moved = self.update_refs(format!("update {branch} {id} {from}\ndelete {beside}\n")).await;
        if let Err(error) = moved {
            self.update_refs(format!("delete {beside}\n")).await?;
            let now = self.tip(&branch).await?;
            return Err(if now == old { error } else { ScriptsError::Moved { branch } });
        }
        self.sync(vec![branch]).await?;
        let commit = self.commit(&id).await?;
        self.tidy().await;
        Ok(commit)
    }
}

/// The commit as `fast-import` reads it, up to its files.
fn header(name: &str, message: &str, author: &str, from: Option<&str>) -> Vec<u8> {
    let author: String =
        author.chars().filter(|char| !char.is_control() && !matches!(char, '<' | '>')).take(100).collect();
    let author = if author.trim().is_empty() { "deploy" } else { author.trim() };
    let plain = message.chars().filter(|char| *char == '\n' || !char.is_control());
    let message: String = plain.take(MESSAGE_CHARS_MAX).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = format!("commit {name}\ncommitter {author} <deploy@farshore.internal> {now} +0000\n");
    text.push_str(&format!("data {}\n{message}\n", message.len()));
    if let Some(from) = from {
        text.push_str(&format!("from {from}\n"));
    }
    text.push_str("deleteall\n");
    text.into_bytes()
}

/// Reads the whole archive and says what becomes of each entry, or why it cannot be taken.
fn judge(tar: &Path) -> Result<Vec<Planned>, ScriptsError> {
    weigh_extensions(tar)?;
    let mut plan = Vec::new();
    let mut files: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    let mut bytes = 0_u64;
    each_entry(tar, |index, entry| {
        let planned = plan_of(entry, &files)?;
        if let Planned::File { len, .. } = planned {
            bytes = bytes.saturating_add(len);
            within("the archive", bytes, RELEASE_BYTES_MAX, "bytes")?;
        }
        within("the archive", index as u64, 2 * FILES_MAX, "entries")?;
        if let Some(path) = planned.path() {
            if files.insert(path.to_vec(), index).is_some() {
                return Err(refuse(path, "is in it twice: pack the directory again"));
            }
            within("the archive", files.len() as u64, FILES_MAX, "files")?;
        }
        plan.push(planned);
        Ok(())
    })?;
    if files.is_empty() {
        return Err(refuse(b".", "holds no file: pack the directory that has the service in it"));
    }
    for path in files.keys() {
        let over = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end]);
        if over.into_iter().any(|over| files.contains_key(over)) {
            return Err(refuse(path, "lies below a file or a link: pack the directory again"));
        }
    }
    Ok(plan)
}

/// Long names are read into memory before we are asked: refuses those that are too long to be names.
fn weigh_extensions(tar: &Path) -> Result<(), ScriptsError> {
    let mut archive = tar::Archive::new(BufReader::new(open(tar)?));
    let entries = archive.entries().map_err(ScriptsError::disk("read", tar))?.raw(true);
    for entry in entries {
        let entry = entry.map_err(ScriptsError::disk("read the archive", tar))?;
        let kind = entry.header().entry_type();
        let extends = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_global_extensions()
            || kind.is_pax_local_extensions();
        if extends && entry.size() > EXTENSION_BYTES_MAX {
            return Err(refuse(
                &entry.path_bytes(),
                "has a header that is too long: pack the directory again",
            ));
        }
    }
    Ok(())
}

fn plan_of(
    entry: &mut tar::Entry<'_, impl Read>,
    files: &BTreeMap<Vec<u8>, usize>,
) -> Result<Planned, ScriptsError> {
    let told = entry.path_bytes().into_owned();
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) {
        return Ok(Planned::Nothing);
    }
    let path = clean(&told).map_err(|why| refuse(&told, why))?;
    let leads = entry.link_name_bytes().map(|leads| leads.into_owned()).unwrap_or_default();
    if kind.is_dir() {
        return Ok(Planned::Nothing);
    }
    if path.is_empty() {
        return Err(refuse(&told, "has no name: pack the directory again"));
    }
    match kind {
        EntryType::Regular | EntryType::Continuous => {
            let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
            Ok(Planned::File { path, executable, len: entry.size() })
        }
        EntryType::Symlink => {
            stays_inside(&path, &leads).map_err(|why| refuse(&told, why))?;
            Ok(Planned::Link { path, leads })
        }
        EntryType::Link => {
            let first = clean(&leads).ok().and_then(|first| files.get(&first).copied());
            let why = "is a hard link to nothing before it: pack the directory again";
            first.map(|entry| Planned::Same { path, entry }).ok_or_else(|| refuse(&told, why))
        }
        EntryType::GNUSparse => Err(refuse(&told, "is sparse: pack it without --sparse")),
        _ => Err(refuse(&told, "is neither a file nor a directory nor a link: leave it out")),
    }
}

impl Planned {
    fn path(&self) -> Option<&[u8]> {
        match self {
            Self::Nothing => None,
            Self::File { path, .. } | Self::Link { path, .. } | Self::Same { path, .. } => Some(path),
        }
    }
}

/// The path below the root of the release, or why there is none.
fn clean(told: &[u8]) -> Result<Vec<u8>, &'static str> {
    if told.first() == Some(&b'/') {
        return Err("is absolute: pack the directory from inside, with `tar -C DIR .`");
    }
    if told.len() > PATH_BYTES_MAX || told.split(|byte| *byte == b'/').any(|name| name.len() > NAME_BYTES_MAX)
    {
        return Err("has a name that is too long");
    }
    if told.contains(&b'\\') || told.contains(&0) {
        return Err("has a backslash or a zero in its name, which git refuses: rename it");
    }
    let names = told.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let names: Vec<&[u8]> = names.collect();
    if names.contains(&&b".."[..]) {
        return Err("leads out of the release by `..`: pack the directory from inside, with `tar -C DIR .`");
    }
    if names.iter().any(|name| is_git(name)) {
        return Err("belongs to a git repository: leave `.git` out, or push it");
    }
    Ok(names.join(&b'/'))
}

/// Names that some file system takes for `.git`; git refuses to write them.
fn is_git(name: &[u8]) -> bool {
    let name = name.to_ascii_lowercase();
    let rest = name.strip_prefix(b".git").or_else(|| name.strip_prefix(b"git~1"));
    rest.is_some_and(|rest| {
        rest.is_empty() || matches!(rest[0], b':') || rest.iter().all(|byte| b" .".contains(byte))
    })
}

/// Whether a link at `path` to `leads` ends inside, whatever the other links are: it first goes up, no further than the
/// root, and then only down.
fn stays_inside(path: &[u8], leads: &[u8]) -> Result<(), &'static str> {
    if leads.is_empty() || leads.len() > PATH_BYTES_MAX || leads.contains(&0) {
        return Err("is a link without a place to lead to: leave it out");
    }
    if leads[0] == b'/' {
        return Err("is a link to an absolute path: make it relative");
    }
    let names = leads.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    let names: Vec<&[u8]> = names.collect();
    let up = names.iter().take_while(|name| **name == b"..").count();
    let depth = path.iter().filter(|byte| **byte == b'/').count();
    if up > depth {
        return Err("is a link that leads out of the release: leave it out");
    }
    if names[up..].contains(&&b".."[..]) {
        return Err("is a link that goes down and up again: name the place directly");
    }
    Ok(())
}

/// Second reading: gives the files and then the commit to `git fast-import`.
fn deposit(
    mut git: std::process::Command,
    tar: &Path,
    plan: &[Planned],
    header: &[u8],
) -> Result<(), ScriptsError> {
    git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = git.spawn().map_err(ScriptsError::NoGit)?;
    let fed = child.stdin.take().map_or(Ok(()), |stdin| feed(stdin, tar, plan, header));
    let out = child.wait_with_output().map_err(ScriptsError::NoGit)?;
    if !out.status.success() {
        let words = last_words(&out.stderr);
        return Err(ScriptsError::Git { verb: "fast-import".into(), words });
    }
    fed
}

fn feed(stdin: impl Write, tar: &Path, plan: &[Planned], header: &[u8]) -> Result<(), ScriptsError> {
    let mut to = BufWriter::with_capacity(1 << 16, stdin);
    let told = ScriptsError::disk("give to git what is in", tar);
    // Without the last word `done` git makes nothing of what it got.
    if let Err(error) = to.write_all(b"feature done\n") {
        return Err(told(error));
    }
    each_entry(tar, |index, entry| {
        let mark = index + 1;
        match plan.get(index) {
            Some(Planned::File { len, .. }) => write_file(&mut to, mark, *len, entry),
            Some(Planned::Link { leads, .. }) => {
                write_file(&mut to, mark, leads.len() as u64, &mut leads.as_slice())
            }
            Some(Planned::Nothing | Planned::Same { .. }) => Ok(()),
            None => Err(io::Error::other("the archive changed while it was read")),
        }
        .map_err(ScriptsError::disk("give to git what is in", tar))
    })?;
    write_commit(&mut to, plan, header).map_err(told)
}

fn write_file(to: &mut impl Write, mark: usize, len: u64, content: &mut impl Read) -> io::Result<()> {
    write!(to, "blob\nmark :{mark}\ndata {len}\n")?;
    let copied = io::copy(&mut content.take(len), to)?;
    if copied != len {
        return Err(io::Error::other("an entry is shorter than it says"));
    }
    to.write_all(b"\n")
}

fn write_commit(to: &mut impl Write, plan: &[Planned], header: &[u8]) -> io::Result<()> {
    to.write_all(header)?;
    for (index, planned) in plan.iter().enumerate() {
        let mode = |entry: usize| match plan.get(entry) {
            Some(Planned::File { executable: true, .. }) => "100755",
            Some(Planned::Link { .. }) => "120000",
            _ => "100644",
        };
        let Some(path) = planned.path() else { continue };
        let first = first_of(plan, index);
        write!(to, "M {} :{} ", mode(first), first + 1)?;
        to.write_all(&quoted(path))?;
        to.write_all(b"\n")?;
    }
    to.write_all(b"done\n")?;
    to.flush()
}

/// The entry that has the content of entry `index`: names of names lead back to the first.
fn first_of(plan: &[Planned], index: usize) -> usize {
    let mut at = index;
    // Each step leads to an earlier entry.
    while let Some(Planned::Same { entry, .. }) = plan.get(at) {
        at = *entry;
    }
    at
}

/// A path as `fast-import` reads any.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut all = vec![b'"'];
    for byte in path {
        match byte {
            b'"' => all.extend_from_slice(b"\\\""),
            b'\\' => all.extend_from_slice(b"\\\\"),
            b'\n' => all.extend_from_slice(b"\\n"),
            _ => all.push(*byte),
        }
    }
    all.push(b'"');
    all
}

fn each_entry<'a>(
    tar: &Path,
    mut seen: impl FnMut(usize, &mut tar::Entry<'_, BufReader<File>>) -> Result<(), ScriptsError> + 'a,
) -> Result<(), ScriptsError> {
    let mut archive = tar::Archive::new(BufReader::new(open(tar)?));
    let entries = archive.entries().map_err(ScriptsError::disk("read", tar))?;
    for (index, entry) in entries.enumerate() {
        seen(index, &mut entry.map_err(ScriptsError::disk("read the archive", tar))?)?;
    }
    Ok(())
}

fn open(tar: &Path) -> Result<File, ScriptsError> {
    File::open(tar).map_err(ScriptsError::disk("read", tar))
}

fn refuse(entry: &[u8], why: &'static str) -> ScriptsError {
    let shown: String = String::from_utf8_lossy(entry).chars().take(200).collect();
    ScriptsError::Archive { entry: shown, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_below_the_root_only() {
        assert_eq!(clean(b"./a/./b//c").unwrap(), b"a/b/c");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert_eq!(clean(b".gitignore").unwrap(), b".gitignore");
        for path in [
            "/etc/passwd",
            "a/../b",
            "..",
            ".git/config",
            "a/.GIT/hooks/x",
            ".git .",
            "git~1",
            "a\\b",
            ".git::$DATA",
        ] {
            assert!(clean(path.as_bytes()).is_err(), "{path}");
        }
        assert!(clean(&[b'a'; 300]).is_err());
    }

    #[test]
    fn links_may_lead_up_to_the_root_and_then_down() {
        for (path, leads) in [("l", "a"), ("l", "./a/b"), ("d/l", "../a"), ("d/e/l", "../../a"), ("l", ".")] {
            assert_eq!(stays_inside(path.as_bytes(), leads.as_bytes()), Ok(()), "{path} -> {leads}");
        }
        for (path, leads) in [
            ("l", "/etc"),
            ("l", ".."),
            ("d/l", "../../x"),
            ("l", "a/../b"),
            ("l", ""),
            ("d/l", "../x/../../y"),
        ] {
            assert!(stays_inside(path.as_bytes(), leads.as_bytes()).is_err(), "{path} -> {leads}");
        }
    }

    proptest::proptest! {
        // Each makes a directory; a busy disk takes its time.
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]

        /// Whatever links an archive has: when none is refused, none leads out, however they lead through one another.
        #[test]
        fn links_that_are_taken_never_lead_out(
            links in proptest::collection::vec(("[ab](/[ab]){0,2}", "((\\.\\./){0,3})([abc](/[abc.]){0,2}|\\.|\\.\\.)"), 1..6),
        ) {
            let outer = tempfile::tempdir().unwrap();
            let root = outer.path().canonicalize().unwrap().join("x/release");
            std::fs::create_dir_all(&root).unwrap();
            for (path, leads) in &links {
                if stays_inside(path.as_bytes(), leads.as_bytes()).is_ok() {
                    let at = root.join(path);
                    // What lies below a link is refused by another rule.
                    let parent = at.parent().unwrap();
                    if std::fs::create_dir_all(parent).is_ok() && parent.canonicalize().unwrap() == parent {
                        let _ = std::os::unix::fs::symlink(leads, &at);
                    }
                }
            }
            for (path, _) in &links {
                if let Ok(real) = root.join(path).canonicalize() {
                    proptest::prop_assert!(real.starts_with(&root), "{links:?}: {path} is {}", real.display());
                }
            }
        }
    }

    #[test]
    fn names_with_quotes_and_line_ends_are_quoted() {
        assert_eq!(quoted(b"a\"b\\c\nd\xff"), b"\"a\\\"b\\\\c\\nd\xff\"");
    }
}
