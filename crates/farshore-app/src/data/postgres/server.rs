//! A running server: started, watched, told to end, and never left behind.
//!
//! The server is a child of a small shell, the guard, which holds a pipe from the node. The node sends the guard the names of
//! signals for the server. When the pipe closes, because the node ended or was killed, the guard ends the server at once; so
//! a region that is gone answers nobody. The server's own children each lead a process group, so what is left of a server
//! that was killed is found by the directory that its processes work in, and killed before the next start.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cluster::{Cluster, Running};
use super::programs::Programs;
use super::wire::{Connection, WireError};
use super::{ADMIN, PostgresError, cannot};
use crate::data::DataError;

/// Runs the server, passes signals on to it, and ends it when nobody holds the pipe any more: at once, but in order; after
/// eight seconds by force.
const GUARD: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(
  while read -r signal <&3; do kill -"$signal" "$server"; done
  kill -QUIT "$server"
  for _ in 0 1 2 3 4 5 6 7; do kill -0 "$server" || exit; sleep 1; done
  kill -KILL "$server"
) 2>/dev/null &
guard=$!
exec 3<&-
wait "$server"
status=$?
kill -KILL "$guard"
exit "$status"
"#;

/// A server that has much to replay after a crash is waited for this long.
const START_WITHIN: Duration = Duration::from_secs(1800);
/// How often a server that starts is asked whether it is ready.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// The port that the system offers can be taken by another before the server takes it.
const START_ATTEMPTS_MAX: u32 = 4;
/// Writing out all pages takes this long at most; then the server ends at once and replays its log at the next start.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// What was killed is gone within this.
const KILLED_WITHIN: Duration = Duration::from_secs(10);
/// Lines of the log that an error shows.
const LINES_SHOWN_MAX: usize = 12;
/// Past it the log begins anew; the one before is kept.
const LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A server that answers.
#[derive(Debug)]
pub(super) struct Server {
    guard: Option<ChildStdin>,
    ended: watch::Receiver<Option<String>>,
    tasks: Vec<JoinHandle<()>>,
    said: Arc<Said>,
    cluster: Cluster,
    port: u16,
}

impl Server {
    /// Starts the server and waits until it is out of recovery and answers. `run.port` is tried first; 0: any.
    pub(super) async fn start(
        programs: &Programs,
        cluster: &Cluster,
        run: &Running,
    ) -> Result<Self, DataError> {
        let mut run = run.clone();
        let mut attempt = 0;
        loop {
            attempt += 1;
            run.port = free_port(run.port).map_err(DataError::io("find a free port for", cluster.dir()))?;
            let data = cluster.data();
            let ended = tokio::task::spawn_blocking(move || end_leftovers(&data)).await;
            let ended = ended.unwrap_or_else(|error| Err(io::Error::other(error)));
            ended.map_err(DataError::io("end what was left running in", &cluster.data()))?;
            let mut server = Self::spawn(programs, cluster, &run)?;
            match server.wait_until_ready().await {
                Ok(()) => return Ok(server),
                Err(error)
                    if attempt < START_ATTEMPTS_MAX && server.said.mentions("Address already in use") =>
                {
                    tracing::info!(port = run.port, %error, "another took the database's port: trying the next");
                    run.port = 0;
                }
                Err(error) => {
                    server.kill().await;
                    return Err(cannot("start the server", cluster.dir())(error));
                }
            }
        }
    }

    fn spawn(programs: &Programs, cluster: &Cluster, run: &Running) -> Result<Self, DataError> {
        cluster.prepare(programs)?;
        cluster.write_access(programs)?;
        cluster.write_settings(programs, run)?;
        let mut shell = programs.shell();
        shell.args(["-c", GUARD, "guard"]).arg(programs.path("postgres")).arg("-D").arg(cluster.data());
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = shell.spawn().map_err(DataError::io("start the server of", cluster.dir()))?;
        let said = Arc::new(Said::default());
        let (tell, ended) = watch::channel(None);
        let log =
            child.stderr.take().map(|from| tokio::spawn(keep_log(from, said.clone(), cluster.log().into())));
        let guard = child.stdin.take();
        let tasks = log.into_iter().chain([tokio::spawn(watch_child(child, tell))]).collect();
        Ok(Self { guard, ended, tasks, said, cluster: cluster.clone(), port: run.port })
    }

    /// Where it listens on loopback.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Becomes something when the server has ended: its exit status.
    pub(super) fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    /// Makes the server read its settings again.
    pub(super) async fn reload(&mut self) -> io::Result<()> {
        self.signal("HUP").await
    }

    async fn signal(&mut self, name: &str) -> io::Result<()> {
        match &mut self.guard {
            Some(guard) => guard.write_all(format!("{name}\n").as_bytes()).await,
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Ends it: connections are closed, everything is written out. On return no process of it is left. False: it had to be
    /// ended by force, and replays its log at the next start.
    pub(super) async fn stop(mut self) -> bool {
        let mut is_clean = true;
        if self.signal("INT").await.is_err() || !self.wait_ended(STOP_WITHIN).await {
            is_clean = false;
            self.signal("QUIT").await.unwrap_or_default();
            self.wait_ended(KILLED_WITHIN).await;
        }
        self.kill().await;
        is_clean
    }

    /// Ends it at once, by force.
    pub(super) async fn kill(mut self) {
        self.signal("KILL").await.unwrap_or_default();
        self.guard = None;
        self.wait_ended(KILLED_WITHIN).await;
        let data = self.cluster.data();
        let end = tokio::task::spawn_blocking(move || end_leftovers(&data)).await;
        if let Ok(Err(error)) = end {
            tracing::warn!(%error, dir = %self.cluster.dir().display(), "a server's processes do not end");
        }
        self.cluster.clear_socket();
        for task in self.tasks.drain(..) {
            task.abort();
            task.await.unwrap_or_default();
        }
    }

    async fn wait_ended(&mut self, within: Duration) -> bool {
        tokio::time::timeout(within, self.ended.wait_for(Option::is_some)).await.is_ok()
    }

    async fn wait_until_ready(&mut self) -> Result<(), PostgresError> {
        let socket = self.cluster.socket(self.port);
        let until = Instant::now() + START_WITHIN;
        loop {
            // Each question takes a process: none is asked before there is somebody to answer it.
            if self.cluster.is_ready() && is_serving(&socket).await? {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(PostgresError::Late { waited: START_WITHIN, said: self.said.last() });
            }
            if self.wait_ended(READY_PAUSE).await {
                let status = self.ended.borrow().clone().unwrap_or_default();
                return Err(PostgresError::Ended { status, said: self.said.last() });
            }
        }
    }
}

async fn is_serving(socket: &Path) -> Result<bool, WireError> {
    let mut connection = Connection::open(socket, ADMIN, "postgres", "farshore start").await?;
    Ok(connection.value("SELECT pg_is_in_recovery()").await? == "f")
}

async fn watch_child(mut child: Child, tell: watch::Sender<Option<String>>) {
    let status = child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string());
    tell.send_replace(Some(status));
}

/// The last lines that the server said.
#[derive(Debug, Default)]
struct Said(Mutex<VecDeque<String>>);

impl Said {
    fn push(&self, line: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_SHOWN_MAX {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    fn mentions(&self, words: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(words))
    }

    fn last(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

async fn keep_log(from: ChildStderr, said: Arc<Said>, path: Arc<Path>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        said.push(&line);
        // A log that cannot be written must not stop the database; the last lines are kept in memory.
        append(&path, &line).unwrap_or_default();
    }
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{line}")?;
    if file.metadata()?.len() > LOG_BYTES_MAX {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    Ok(())
}

/// A port of loopback that is free now: `wanted` if it is.
fn free_port(wanted: u16) -> io::Result<u16> {
    let listener =
        TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)))?;
    Ok(listener.local_addr()?.port())
}

/// Kills every process that works in `data`: what an earlier node, or a server that was killed, has left.
pub(super) fn end_leftovers(data: &Path) -> io::Result<()> {
    let until = Instant::now() + KILLED_WITHIN;
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    loop {
        let found = working_in(&data);
        if found.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("{} processes do not end", found.len()),
            ));
        }
        found.into_iter().for_each(|pid| kill_process(pid, Signal::KILL).unwrap_or_default());
        std::thread::sleep(READY_PAUSE);
    }
}

fn working_in(data: &Path) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let works_here = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data);
    pids.filter(works_here).filter_map(Pid::from_raw).collect()
}
