//! Where PostgreSQL's programs are, and whose they are when they run.
//!
//! The server refuses to run as root. A node that is root runs it as `postgres` (else as `nobody`); any other node runs it
//! as itself. The directories on the way to the data may be closed to that user: it is then given the right to pass
//! through them, and no other right.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::PostgresError;

/// Where packages put the programs, by version.
const PLACES: [&str; 3] = ["/usr/lib/postgresql", "/usr/local/pgsql", "/usr/pgsql"];
/// Who may run a server when the node is root, in this order.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// What a list of rights is stored under.
const RIGHTS: &str = "system.posix_acl_access";
/// The right to pass through a directory.
const PASS: u16 = 1;

/// The programs, and who runs them.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    bin: PathBuf,
    account: Account,
}

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    is_us: bool,
}

impl Programs {
    /// Finds the newest that are installed.
    pub(super) fn find() -> Result<Self, PostgresError> {
        let bin = newest().ok_or(PostgresError::NotInstalled)?;
        Ok(Self { bin, account: Account::choose()? })
    }

    /// A command that runs as the server's user, in `/`, with an environment of nothing but what it needs.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        self.account.become_it(&mut command);
        command
    }

    /// A shell that runs as the server's user.
    pub(super) fn shell(&self) -> Command {
        let mut command = Command::new("/bin/sh");
        self.account.become_it(&mut command);
        command
    }

    /// The full path of a program.
    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// The names of this node's and the server's user on this machine.
    pub(super) fn users(&self) -> Vec<String> {
        let us = rustix::process::geteuid().as_raw();
        let mut users = vec![self.account.name.clone()];
        users.extend(user_by_id(us).filter(|name| *name != self.account.name));
        users
    }

    /// Makes a directory for the server alone, and the way to it passable for the server.
    pub(super) fn make_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        self.give(dir, 0o700)?;
        self.open_way(dir)
    }

    /// Gives a file or directory to the server.
    pub(super) fn give(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        if !self.account.is_us {
            std::os::unix::fs::chown(path, Some(self.account.uid), Some(self.account.gid))?;
        }
        Ok(())
    }

    fn open_way(&self, dir: &Path) -> io::Result<()> {
        if self.account.is_us {
            return Ok(());
        }
        for above in dir.canonicalize()?.ancestors().skip(1) {
            self.account.let_pass(above)?;
        }
        Ok(())
    }
}

impl Account {
    fn choose() -> Result<Self, PostgresError> {
        let us = rustix::process::geteuid();
        if !us.is_root() {
            let name = user_by_id(us.as_raw()).ok_or(PostgresError::NoUser)?;
            return Ok(Self {
                name,
                uid: us.as_raw(),
                gid: rustix::process::getegid().as_raw(),
                is_us: true,
            });
        }
        let found = USERS.iter().find_map(|name| user_by_name(name));
        let (name, uid, gid) = found.ok_or(PostgresError::NoUser)?;
        Ok(Self { name, uid, gid, is_us: false })
    }

    fn become_it(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
        if !self.is_us {
            command.uid(self.uid).gid(self.gid);
        }
    }

    fn let_pass(&self, dir: &Path) -> io::Result<()> {
        let meta = fs::metadata(dir)?;
        let class = match () {
            () if meta.uid() == self.uid => 0o100,
            () if meta.gid() == self.gid => 0o010,
            () => 0o001,
        };
        if meta.mode() & class != 0 {
            return Ok(());
        }
        let mut stored = vec![0; 4096];
        let rights = match rustix::fs::getxattr(dir, RIGHTS, &mut stored) {
            Ok(len) => Rights::parse(&stored[..len]),
            Err(_) => Rights::of_mode(meta.mode()),
        };
        let rights = rights.with_pass(self.uid);
        rustix::fs::setxattr(dir, RIGHTS, &rights.bytes(), rustix::fs::XattrFlags::empty())
            .map_err(|error| cannot_pass(&self.name, dir, error.into()))
    }
}

fn cannot_pass(user: &str, dir: &Path, error: io::Error) -> io::Error {
    let dir = dir.display();
    let words = format!("the user {user} cannot pass through {dir} ({error}): allow it by `chmod o+x {dir}`");
    io::Error::new(error.kind(), words)
}

/// A directory's list of rights, as the kernel stores it: version 2, then tag, rights and id of each entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rights(Vec<(u16, u16, u32)>);

impl Rights {
    const OWNER: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x04;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    const NOBODY: u32 = u32::MAX;

    fn of_mode(mode: u32) -> Self {
        let bits = |shift: u32| u16::try_from(mode >> shift & 7).unwrap_or(0);
        let entries = [(Self::OWNER, bits(6)), (Self::GROUP, bits(3)), (Self::OTHER, bits(0))];
        Self(entries.into_iter().map(|(tag, rights)| (tag, rights, Self::NOBODY)).collect())
    }

    fn parse(stored: &[u8]) -> Self {
        let entry = |entry: &[u8]| {
            let short = |at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
            (short(0), short(2), u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]))
        };
        Self(stored.get(4..).unwrap_or_default().chunks_exact(8).map(entry).collect())
    }

    fn with_pass(mut self, uid: u32) -> Self {
        let group = self.0.iter().find(|entry| entry.0 == Self::GROUP).map_or(0, |entry| entry.1);
        match self.0.iter_mut().find(|entry| entry.0 == Self::USER && entry.2 == uid) {
            Some(entry) => entry.1 |= PASS,
            None => self.0.push((Self::USER, PASS, uid)),
        }
        match self.0.iter_mut().find(|entry| entry.0 == Self::MASK) {
            Some(entry) => entry.1 |= PASS,
            None => self.0.push((Self::MASK, group | PASS, Self::NOBODY)),
        }
        self.0.sort_by_key(|entry| (entry.0, entry.2));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = 2_u32.to_le_bytes().to_vec();
        for (tag, rights, id) in &self.0 {
            out.extend_from_slice(&tag.to_le_bytes());
            out.extend_from_slice(&rights.to_le_bytes());
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }
}

fn newest() -> Option<PathBuf> {
    let packaged = PLACES.iter().flat_map(|place| {
        let versions = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
        versions.chain([PathBuf::from(place)]).map(|dir| dir.join("bin"))
    });
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&on_path)
        .filter_map(|dir| dir.join("postgres").canonicalize().ok()?.parent().map(Path::to_owned))
        .collect();
    let complete = |bin: &PathBuf| {
        ["postgres", "initdb", "pg_basebackup"].iter().all(|program| bin.join(program).is_file())
    };
    packaged.chain(on_path).filter(complete).max_by_key(|bin| version(bin))
}

/// The version that a directory `…/15/bin` or `…/pgsql-15/bin` is named after; 0 when it is not.
fn version(bin: &Path) -> u32 {
    let name = bin.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let digits = |name: String| name.chars().filter(char::is_ascii_digit).collect::<String>().parse().ok();
    name.and_then(digits).unwrap_or(0)
}

fn users() -> Vec<(String, u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((name, fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    text.lines().filter_map(user).collect()
}

fn user_by_name(name: &str) -> Option<(String, u32, u32)> {
    users().into_iter().find(|user| user.0 == name)
}

fn user_by_id(uid: u32) -> Option<String> {
    users().into_iter().find(|user| user.1 == uid).map(|user| user.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_pass_is_added_and_nothing_else_changes() {
        let rights = Rights::of_mode(0o40740).with_pass(101);
        let expected = [
            (Rights::OWNER, 7, Rights::NOBODY),
            (Rights::USER, PASS, 101),
            (Rights::GROUP, 4, Rights::NOBODY),
            (Rights::MASK, 5, Rights::NOBODY),
            (Rights::OTHER, 0, Rights::NOBODY),
        ];
        assert_eq!(rights.0, expected);
        assert_eq!(Rights::parse(&rights.bytes()), rights);
        assert_eq!(rights.clone().with_pass(101), rights);
    }

    #[test]
    fn the_newest_version_is_told_by_its_directory() {
        assert_eq!(version(Path::new("/usr/lib/postgresql/15/bin")), 15);
        assert_eq!(version(Path::new("/usr/pgsql-17/bin")), 17);
        assert_eq!(version(Path::new("/opt/postgres/bin")), 0);
    }
}
