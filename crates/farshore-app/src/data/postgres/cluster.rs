//! A database's directory: the server's files, the way to them, and what we know about it besides.
//!
//! ```text
//! DIR/data/        the server's own files (its user's, 0700)
//! DIR/card.json    the password, the last port, how many commits are counted (0600)
//! DIR/server.log   what the server says; DIR/server.log.1 before that
//! ```
//! `card.json` is written last when a directory is made: without it there is no database here.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use ring::rand::SecureRandom;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::programs::Programs;
use super::records::Reach;
use super::{ADMIN, DATABASE, Options, PostgresError, STANDBY, USER, cannot};
use crate::data::{DataError, Position};

/// The newest form of [`Card`] that we write and read.
const CARD_VERSION: u32 = 1;
/// The kernel takes 107 bytes as the name of a socket; this leaves room for `/.s.PGSQL.65535.lock`.
const SOCKET_DIR_BYTES_MAX: usize = 80;
/// Of the server's own note about itself, this line says whether it takes connections.
const READY_LINE: usize = 7;
/// 192 bits, in 32 letters.
const PASSWORD_BYTES: usize = 24;
/// The log that is kept for a replica which does not ask; past it the replica needs a new base. Holds what a busy app writes
/// during some minutes of a broken link, and fills no disk.
const LOG_KEPT_MIB_MAX: u32 = 1024;
/// The log that is kept in any case: commits are counted from the last saved mark on.
const LOG_KEPT_MIB_MIN: u32 = 64;

/// What is known about a database besides its files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Card {
    version: u32,
    /// Of the app's user.
    pub(super) password: String,
    /// Where it listened last; tried first.
    pub(super) port: u16,
    /// Commits are counted up to here.
    pub(super) mark: Reach,
    /// The other region needs the log from here on; `u64::MAX`: nobody follows.
    pub(super) needed_from: u64,
    /// See [`super::parcel::Chain`].
    pub(super) series: u64,
    /// It was just made or restored: users, slot and mark are to be set at the next start, before an app sees it.
    pub(super) is_fresh: bool,
    /// Commits wait for the other region from the start on: its copy was whole when this was set.
    pub(super) holds: bool,
}

impl Card {
    /// The card of a database that no server has opened yet.
    pub(super) fn fresh(mark: Reach) -> Self {
        let (password, series) = (random_text(), random_number());
        Self {
            version: CARD_VERSION,
            password,
            port: 0,
            mark,
            needed_from: u64::MAX,
            series,
            is_fresh: true,
            holds: false,
        }
    }

    /// Lets its numbers go on from `from`. What followed it before follows it no longer when they were lower.
    pub(super) fn go_on_from(&mut self, from: Position) {
        if self.mark.go_on_from(from) && !self.is_fresh {
            (self.series, self.holds, self.needed_from) = (random_number(), false, u64::MAX);
        }
    }
}

/// The paths of one database.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    pub(super) fn at(dir: &Path) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self { dir: dir.canonicalize().unwrap_or(dir) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.dir.join("data/pg_wal")
    }

    /// The version of the server that made the files.
    fn version(&self) -> u32 {
        let text = fs::read_to_string(self.dir.join("data/PG_VERSION")).unwrap_or_default();
        text.trim().parse().unwrap_or_default()
    }

    /// Whether a server that runs here takes connections, by what it writes down itself.
    pub(super) fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        text.lines().nth(READY_LINE).is_some_and(|status| status.trim() == "ready")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Where the socket's directory is: beside the data, or, when that name is too long for a socket, a short one.
    pub(super) fn socket_dir(&self) -> PathBuf {
        let near = self.dir.join("socket");
        if near.as_os_str().len() <= SOCKET_DIR_BYTES_MAX {
            return near;
        }
        let hash = Sha256::digest(near.as_os_str().as_encoded_bytes());
        let name: String = hash.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        std::env::temp_dir().join(format!("farshore-{name}"))
    }

    pub(super) fn socket(&self, port: u16) -> PathBuf {
        self.socket_dir().join(format!(".s.PGSQL.{port}"))
    }

    /// Makes the files of an empty server. Refuses a directory that exists with something in it.
    pub(super) async fn init(&self, programs: &Programs, options: &Options) -> Result<(), DataError> {
        let data = self.data();
        refuse_used(&self.dir)?;
        programs.make_dir(&data).map_err(DataError::io("make the database directory", &data))?;
        let mut command = programs.command("initdb");
        command.arg("-D").arg(&data).args(["-U", ADMIN, "--auth-local=peer", "--auth-host=reject"]);
        // Text is ordered by its bytes: an order that differs between two systems' libraries breaks indexes in the region
        // that takes over.
        command.args([
            "--encoding=UTF8",
            "--locale=C",
            "--lc-ctype=C.UTF-8",
            "--data-checksums",
            "--no-instructions",
        ]);
        command.arg("--no-sync");
        run(command, "initdb").await.map_err(cannot("make a database", &data))?;
        if options.sync_new_files {
            // One call for a thousand files.
            sync_all(&data).await.map_err(DataError::io("make durable", &data))?;
        }
        self.write_access(programs)?;
        self.save(&Card::fresh(Reach::default()))
    }

    /// Writes who may connect: on the socket the node's and the server's users as [`ADMIN`], told by the kernel; on TCP the
    /// app's user with its password, to its database; nobody else.
    pub(super) fn write_access(&self, programs: &Programs) -> Result<(), DataError> {
        let hba = format!(
            "local all {ADMIN} peer map=node\nlocal replication {ADMIN} peer map=node\n\
             host {DATABASE} {USER} 127.0.0.1/32 scram-sha-256\n"
        );
        let ident: String =
            programs.users().iter().map(|user| format!("node \"{user}\" {ADMIN}\n")).collect();
        self.put(programs, "pg_hba.conf", &hba)?;
        self.put(programs, "pg_ident.conf", &ident)
    }

    /// Writes how the server runs.
    pub(super) fn write_settings(&self, programs: &Programs, run: &Running) -> Result<(), DataError> {
        self.put(programs, "postgresql.conf", &settings(self, run))
    }

    fn put(&self, programs: &Programs, name: &str, text: &str) -> Result<(), DataError> {
        let path = self.data().join(name);
        let failed = |error| DataError::io("write the settings", &path)(error);
        replace(&path, text.as_bytes()).map_err(failed)?;
        programs.give(&path, 0o600).map_err(failed)
    }

    /// Makes the way to the data passable and the socket's directory new. Nobody may be running here.
    pub(super) fn prepare(&self, programs: &Programs) -> Result<(), DataError> {
        let data = self.data();
        programs.make_dir(&data).map_err(DataError::io("open the way to", &data))?;
        remove_if_there(&data.join("postmaster.pid"))?;
        let socket_dir = self.socket_dir();
        let failed = |error| DataError::io("make the directory of the socket", &socket_dir)(error);
        own_dir(&socket_dir).map_err(failed)?;
        programs.make_dir(&socket_dir).map_err(failed)
    }

    /// Removes what a server that has ended left outside its data.
    pub(super) fn clear_socket(&self) {
        // Best effort: it is made anew at the next start.
        fs::remove_dir_all(self.socket_dir()).unwrap_or_default();
    }

    pub(super) fn load(&self) -> Result<Card, DataError> {
        let path = self.dir.join("card.json");
        let missing =
            || DataError::Missing { what: format!("a PostgreSQL database at {}", self.dir.display()) };
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            read => read.map_err(DataError::io("read", &path))?,
        };
        let card = serde_json::from_slice::<Card>(&bytes).ok().filter(|card| card.version == CARD_VERSION);
        card.ok_or_else(|| DataError::Corrupt {
            what: "it is no card of a database that this version knows".to_owned(),
            path,
            mend: "restore the database from its replica or a backup",
        })
    }

    pub(super) fn save(&self, card: &Card) -> Result<(), DataError> {
        let path = self.dir.join("card.json");
        let text = serde_json::to_vec_pretty(card).expect("a card is plain data");
        replace(&path, &text).map_err(DataError::io("write", &path))
    }
}

/// How a server runs that is about to start.
#[derive(Debug, Clone)]
pub(super) struct Running {
    /// Where it listens on loopback.
    pub(super) port: u16,
    /// Commits wait for the other region.
    pub(super) synchronous: bool,
    /// Memory for its pages.
    pub(super) shared_buffers_mib: u32,
}

fn settings(cluster: &Cluster, run: &Running) -> String {
    let Running { port, shared_buffers_mib, .. } = run;
    let sockets = cluster.socket_dir().display().to_string().replace('\'', "''");
    let standby = if run.synchronous { STANDBY } else { "" };
    // A restored server makes its thousand files durable before it starts: file by file that takes seconds.
    let sync_at_once = if cluster.version() >= 14 { "recovery_init_sync_method = syncfs\n" } else { "" };
    format!(
        "# Written by the node at each start.\n\
         listen_addresses = '127.0.0.1'\nport = {port}\n\
         unix_socket_directories = '{sockets}'\nunix_socket_permissions = 0700\n\
         ssl = off\npassword_encryption = 'scram-sha-256'\n\
         max_connections = 100\nshared_buffers = {shared_buffers_mib}MB\nhuge_pages = off\njit = off\n\
         {sync_at_once}wal_level = replica\nfsync = on\nfull_page_writes = on\nsynchronous_commit = on\n\
         synchronous_standby_names = '{standby}'\n\
         max_wal_senders = 8\nmax_replication_slots = 4\nwal_sender_timeout = 0\n\
         wal_keep_size = {LOG_KEPT_MIB_MIN}MB\nmax_slot_wal_keep_size = {LOG_KEPT_MIB_MAX}MB\n\
         min_wal_size = 32MB\nmax_wal_size = 256MB\n\
         archive_mode = off\nhot_standby = off\nrestore_command = '/bin/false'\n\
         recovery_target_timeline = 'latest'\n\
         logging_collector = off\nlog_destination = 'stderr'\nlog_line_prefix = '%m [%p] '\n\
         log_checkpoints = off\nlog_timezone = 'UTC'\ntimezone = 'UTC'\n"
    )
}

/// Runs a program to its end; its error words are the error.
pub(super) async fn run(
    mut command: tokio::process::Command,
    program: &'static str,
) -> Result<Vec<u8>, PostgresError> {
    let failed = |said: String| PostgresError::Program { program, said };
    command.stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(failed(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim())))
}

/// Refuses a directory with something in it.
pub(super) fn refuse_used(dir: &Path) -> Result<(), DataError> {
    let is_used = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if is_used { Err(DataError::Exists(dir.to_owned())) } else { Ok(()) }
}

/// Writes a file as a whole or not at all; only its owner may read it.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes everything on a directory's file system durable.
async fn sync_all(dir: &Path) -> io::Result<()> {
    let dir = fs::File::open(dir)?;
    let sync = tokio::task::spawn_blocking(move || rustix::fs::syncfs(dir)).await;
    sync.map_err(io::Error::other)?.map_err(io::Error::from)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn remove_if_there(path: &Path) -> Result<(), DataError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(DataError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes a directory anew. A directory of that name which someone else made, in a place open to all, is refused.
fn own_dir(dir: &Path) -> io::Result<()> {
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() && meta.mode() & 0o077 == 0 => fs::remove_dir_all(dir)?,
        Ok(_) => {
            let words = "it is there already, and not closed to others: remove it";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, words));
        }
        Err(_) => {}
    }
    fs::DirBuilder::new().mode(0o700).create(dir)
}

fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    ring::rand::SystemRandom::new().fill(&mut bytes).expect("the system has randomness");
    bytes
}

fn random_text() -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random::<PASSWORD_BYTES>())
}

/// A number that nothing else has.
pub(super) fn random_number() -> u64 {
    u64::from_le_bytes(random())
}
