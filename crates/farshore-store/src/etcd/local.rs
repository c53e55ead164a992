//! Real etcd members on this machine's loopback, for trying out, for the demo and for tests. Not for production: one
//! machine is one failure domain.
//!
//! Must always hold: no member outlives the process that started it, even when that is killed. Each member runs under a
//! shell whose standard input is a pipe from here: when the pipe closes, for whatever reason, the shell kills it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep, timeout_at};

use super::options;
use super::ports::HeldPort;
use super::{EtcdError, EtcdOptions, EtcdTls};

/// Runs `"$@"`, tells its process id, and kills it when standard input ends.
const SUPERVISOR: &str = r#"log="$1"; shift; "$@" </dev/null >>"$log" 2>&1 & member=$!; echo "$member"; exec >/dev/null
read -r _; kill -9 "$member" 2>/dev/null; wait "$member""#;

/// Three members need half a second on an idle machine; a busy one syncs ten times slower.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at a member that starts.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How much of a member's log is shown when it does not start.
const LOG_LINES_SHOWN: usize = 5;

/// A demo or a test runs for hours, and writes ten times a second; then etcd forgets the oldest.
const REVISIONS_KEPT: &str = "100000";

/// Why members cannot be started or ended.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Something on this machine failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// There is no etcd to run.
    #[error(
        "cannot run {program}: {source}; install etcd (Debian: apt-get install etcd-server) or name its program"
    )]
    Program {
        /// What was to be run.
        program: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A member that runs does not answer.
    #[error("the etcd member {name} did not become ready within {START_LIMIT:?}; the end of {}:\n{tail}", log.display())]
    NotReady {
        /// Which.
        name: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A member ended by itself.
    #[error("the etcd member {name} has ended; the end of {}:\n{tail}", log.display())]
    Ended {
        /// Which.
        name: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// No member has this name.
    #[error("there is no etcd member {0}")]
    Unknown(String),
    /// The certificates cannot be used.
    #[error(transparent)]
    Options(#[from] EtcdError),
}

/// How members are started.
#[derive(Debug, Clone, Default)]
pub struct MembersOptions {
    /// The program; otherwise `etcd` from the path.
    pub program: Option<PathBuf>,
    /// Clients must speak TLS and present a certificate.
    pub tls: Option<MembersTls>,
}

/// Files for members that ask their clients for certificates, and a client's own to see whether they are up.
#[derive(Debug, Clone)]
pub struct MembersTls {
    /// The CA of clients.
    pub ca_file: PathBuf,
    /// The members' certificate.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// How to look whether they are up.
    pub client: EtcdTls,
}

/// Real etcd members as processes. Dropping it kills them and keeps their data.
#[derive(Debug)]
pub struct Members {
    dir: PathBuf,
    options: MembersOptions,
    http: reqwest::Client,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    place: Place,
    life: Life,
}

/// Where a member listens; kept in a file, so that the same members can be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    name: String,
    client_port: u16,
    peer_port: u16,
}

#[derive(Debug)]
enum Life {
    Running {
        supervisor: Box<Child>,
        /// Closing it ends the member.
        pipe: ChildStdin,
        pid: u32,
    },
    /// The ports are kept so that nobody else gets them.
    Down { _ports: Vec<HeldPort> },
}

impl Members {
    /// Starts a member per name, with data in `dir`, and waits until all of them serve. A directory that has been used
    /// before must be given the same names: then they go on with their data, at their ports.
    pub async fn start(dir: &Path, names: &[&str], program: Option<&Path>) -> Result<Self, LocalError> {
        let options = MembersOptions { program: program.map(Path::to_owned), tls: None };
        Self::start_with(dir, names, options).await
    }

    /// As [`Members::start`], with TLS.
    pub async fn start_with(dir: &Path, names: &[&str], options: MembersOptions) -> Result<Self, LocalError> {
        fs::create_dir_all(dir).map_err(doing(|| format!("cannot make {}", dir.display())))?;
        let tls = options.tls.as_ref().map(|tls| tls.client.clone());
        let http = options::client(&EtcdOptions { tls, ..EtcdOptions::default() })?;
        let mut members = Vec::new();
        for (place, ports) in places(dir, names)? {
            members.push(Member { place, life: Life::Down { _ports: ports } });
        }
        let mut members = Self { dir: dir.to_owned(), options, http, members };
        for name in names {
            members.launch(name).await?;
        }
        for name in names {
            members.ready(name).await?;
        }
        Ok(members)
    }

    /// Base URL of a member's client port; empty for a name that is none.
    #[must_use]
    pub fn endpoint(&self, name: &str) -> String {
        self.find(name).map(|member| self.client_url(&member.place)).unwrap_or_default()
    }

    /// All of them, in the order of the names.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| self.client_url(&member.place)).collect()
    }

    /// The names, in the order in which they were given.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.place.name.clone()).collect()
    }

    /// Process of a running member.
    #[must_use]
    pub fn pid(&self, name: &str) -> Option<u32> {
        match self.find(name)?.life {
            Life::Running { pid, .. } => Some(pid),
            Life::Down { .. } => None,
        }
    }

    /// Where a member writes what it does.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    /// Kills a member (SIGKILL). On return it is gone; its data and ports are kept. One that is down stays so.
    pub async fn kill(&mut self, name: &str) -> Result<(), LocalError> {
        let member = self.find_mut(name)?;
        // Its own ports for now; the real ones are free only when it is gone.
        let Life::Running { mut supervisor, pipe, .. } =
            std::mem::replace(&mut member.life, Life::Down { _ports: Vec::new() })
        else {
            return Ok(());
        };
        drop(pipe);
        supervisor.wait().await.map_err(doing(|| format!("cannot wait for the etcd member {name}")))?;
        let place = member.place.clone();
        member.life = Life::Down { _ports: hold(&place).unwrap_or_default() };
        Ok(())
    }

    /// Starts a member that is down, and waits until it serves. With fewer than a majority up this cannot succeed:
    /// use [`Members::launch`] for the first ones.
    pub async fn restart(&mut self, name: &str) -> Result<(), LocalError> {
        self.launch(name).await?;
        self.ready(name).await
    }

    /// Starts a member that is down, and does not wait.
    pub async fn launch(&mut self, name: &str) -> Result<(), LocalError> {
        let Life::Down { .. } = self.find(name).ok_or_else(|| LocalError::Unknown(name.into()))?.life else {
            return Ok(());
        };
        let mut command = self.command(name)?;
        let member = self.find_mut(name)?;
        member.life = Life::Down { _ports: Vec::new() };
        let mut supervisor =
            command.spawn().map_err(doing(|| "cannot run sh to supervise etcd".to_owned()))?;
        let (Some(pipe), Some(told)) = (supervisor.stdin.take(), supervisor.stdout.take()) else {
            let source = io::Error::other("it has no pipes");
            return Err(LocalError::Io { what: "cannot supervise etcd".into(), source });
        };
        let mut line = String::new();
        BufReader::new(told)
            .read_line(&mut line)
            .await
            .map_err(doing(|| format!("cannot read the process id of the etcd member {name}")))?;
        let pid = line.trim().parse().map_err(|_| LocalError::Io {
            what: format!("cannot start the etcd member {name}"),
            source: io::Error::other(format!("its supervisor said {line:?}")),
        })?;
        member.life = Life::Running { supervisor: Box::new(supervisor), pipe, pid };
        Ok(())
    }

    /// Kills all members and keeps their data.
    pub async fn stop(&mut self) -> Result<(), LocalError> {
        for name in self.names() {
            self.kill(&name).await?;
        }
        Ok(())
    }

    /// Waits until a member serves: it knows a leader.
    async fn ready(&self, name: &str) -> Result<(), LocalError> {
        let deadline = Instant::now() + START_LIMIT;
        let url = format!("{}/health", self.endpoint(name));
        while Instant::now() < deadline {
            let answered = timeout_at(deadline, self.http.get(&url).send()).await;
            if let Ok(Ok(response)) = answered
                && response.status().is_success()
            {
                return Ok(());
            }
            if !self.pid(name).is_some_and(is_running) {
                let (log, tail) = self.log_end(name);
                return Err(LocalError::Ended { name: name.into(), log, tail });
            }
            sleep(LOOK_EVERY).await;
        }
        let (log, tail) = self.log_end(name);
        Err(LocalError::NotReady { name: name.into(), log, tail })
    }

    fn log_end(&self, name: &str) -> (PathBuf, String) {
        let log = self.log(name);
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default().join("\n");
        (log, tail)
    }

    fn command(&self, name: &str) -> Result<Command, LocalError> {
        let member = self.find(name).ok_or_else(|| LocalError::Unknown(name.into()))?;
        let program = self.program()?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(SUPERVISOR).arg("etcd-supervisor").arg(self.log(name)).arg(program);
        command.args(self.flags(&member.place));
        // A variable of the environment that contradicts a flag is fatal to etcd.
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"ETCD_") && key != "ETCD_UNSUPPORTED_ARCH" {
                command.env_remove(key);
            }
        }
        // Ctrl-C in a terminal goes to whole groups; when members end is decided here.
        command.process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Ok(command)
    }

    fn program(&self) -> Result<PathBuf, LocalError> {
        let named = self.options.program.clone().unwrap_or_else(|| PathBuf::from("etcd"));
        let found = if named.components().count() > 1 {
            named.is_file().then(|| named.clone())
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|dir| dir.join(&named)).find(|file| file.is_file())
        };
        found.ok_or_else(|| LocalError::Program {
            program: named.display().to_string(),
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    fn flags(&self, place: &Place) -> Vec<String> {
        let peer = |place: &Place| format!("http://127.0.0.1:{}", place.peer_port);
        let named = |member: &Member| format!("{}={}", member.place.name, peer(&member.place));
        let cluster: Vec<_> = self.members.iter().map(named).collect();
        let data = self.dir.join(&place.name).display().to_string();
        let client = self.client_url(place);
        let mut flags = vec![
            ("--name", place.name.clone()),
            ("--data-dir", data),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer(place)),
            ("--initial-advertise-peer-urls", peer(place)),
            ("--initial-cluster", cluster.join(",")),
            ("--initial-cluster-token", "farshore-local".into()),
            ("--auto-compaction-mode", "revision".into()),
            ("--auto-compaction-retention", REVISIONS_KEPT.into()),
        ];
        if let Some(tls) = &self.options.tls {
            flags.push(("--cert-file", tls.cert_file.display().to_string()));
            flags.push(("--key-file", tls.key_file.display().to_string()));
            flags.push(("--trusted-ca-file", tls.ca_file.display().to_string()));
        }
        let mut flags: Vec<_> =
            flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        if self.options.tls.is_some() {
            flags.push("--client-cert-auth".into());
        }
        flags
    }

    fn client_url(&self, place: &Place) -> String {
        let scheme = if self.options.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", place.client_port)
    }

    fn find(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.place.name == name)
    }

    fn find_mut(&mut self, name: &str) -> Result<&mut Member, LocalError> {
        let found = self.members.iter_mut().find(|member| member.place.name == name);
        found.ok_or_else(|| LocalError::Unknown(name.into()))
    }
}

/// The places in `dir`, as they were; or new ones, written down. The ports are held until their members start.
fn places(dir: &Path, names: &[&str]) -> Result<Vec<(Place, Vec<HeldPort>)>, LocalError> {
    let file = dir.join("members.json");
    let kept = match fs::read(&file) {
        Ok(bytes) => serde_json::from_slice::<Vec<Place>>(&bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return new_places(&file, names),
        Err(error) => Err(error),
    };
    let kept = kept.map_err(doing(|| format!("cannot read {}", file.display())))?;
    if !kept.iter().map(|place| place.name.as_str()).eq(names.iter().copied()) {
        return Err(LocalError::Io {
            what: format!("cannot start the members {}", names.join(", ")),
            source: io::Error::other(format!("{} names others: use another directory", file.display())),
        });
    }
    Ok(kept.into_iter().map(|place| (place.clone(), hold(&place).unwrap_or_default())).collect())
}

fn new_places(file: &Path, names: &[&str]) -> Result<Vec<(Place, Vec<HeldPort>)>, LocalError> {
    let mut made = Vec::new();
    for name in names {
        let two = || io::Result::Ok((HeldPort::any()?, HeldPort::any()?));
        let (client, peer) = two().map_err(doing(|| "no free ports".to_owned()))?;
        let (client_port, peer_port) = (client.address().port(), peer.address().port());
        made.push((Place { name: (*name).to_owned(), client_port, peer_port }, vec![client, peer]));
    }
    let places: Vec<_> = made.iter().map(|(place, _)| place).collect();
    let json = serde_json::to_vec_pretty(&places).map_err(io::Error::other);
    let written = json.and_then(|json| fs::write(file, json));
    written.map_err(doing(|| format!("cannot write {}", file.display())))?;
    Ok(made)
}

fn hold(place: &Place) -> io::Result<Vec<HeldPort>> {
    Ok(vec![HeldPort::again(place.client_port)?, HeldPort::again(place.peer_port)?])
}

/// A member that has ended stays in the process table until its supervisor ends, too.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn doing(what: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> LocalError {
    move |source| LocalError::Io { what: what(), source }
}
