//! Hosts of real processes: small servers in Python and shell.

mod builds;
mod life;
mod limits;
mod node;
mod stop;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::pace::Pace;
use super::{Host, HostOptions, InstanceState, InstanceView, Limits};

/// Far more than anything here takes, also while the machine is busy.
const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// Answers with `instance pid secret`; `mute-N` in its directory makes instance N silent, `sick-N` answers with 500. `/slow`
/// is answered when there is a file `go`.
const SERVER: &str = r#"
import http.server, os, time
me = os.environ["FARSHORE_INSTANCE"].split("-")[0]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        while os.path.exists("mute-" + me) or (self.path == "/slow" and not os.path.exists("go")):
            open("asked" + self.path.replace("/", "-"), "w").close()
            time.sleep(0.01)
        self.send_response(500 if os.path.exists("sick-" + me) else 200)
        body = " ".join([me, str(os.getpid()), os.environ.get("SECRET", "")]).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("listening", flush=True)
server.serve_forever()
"#;

/// A release with the server above, and a place for its log.
struct Rig {
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("release")).unwrap();
        fs::write(dir.path().join("release/server.py"), SERVER).unwrap();
        Self { dir }
    }

    fn options(&self, command: &str, instances: u32) -> HostOptions {
        options_in(self.dir.path(), command, instances)
    }

    fn host(&self, command: &str, instances: u32) -> Arc<Host> {
        Host::spawn_at(self.options(command, instances), hurried())
    }

    async fn up(&self, command: &str, instances: u32) -> Arc<Host> {
        let host = self.host(command, instances);
        host.up(WITHIN).await.unwrap();
        host
    }

    /// A file in the release's directory.
    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("release").join(name)
    }

    /// The first line of the log that contains `words`.
    async fn logged(&self, words: &str) -> String {
        let deadline = tokio::time::Instant::now() + WITHIN;
        loop {
            if let Some(line) = self.log().await.into_iter().find(|line| line.contains(words)) {
                return line;
            }
            assert!(tokio::time::Instant::now() < deadline, "{words:?} is not in the log");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn log(&self) -> Vec<String> {
        super::tail(&self.dir.path().join("log"), 1000).await
    }
}

fn options_in(dir: &Path, command: &str, instances: u32) -> HostOptions {
    HostOptions {
        command: command.to_owned(),
        dir: dir.join("release"),
        env: vec![("SECRET".to_owned(), "geheim".to_owned())],
        instances,
        limits: Limits::NONE,
        probe_path: "/status".to_owned(),
        log_dir: dir.join("log"),
        name: "todo".to_owned(),
        cgroup: None,
    }
}

/// Looks so often that no test waits long. A look may take as long as a busy machine needs.
fn hurried() -> Pace {
    Pace {
        look_every: Duration::from_millis(50),
        look_again: Duration::from_millis(10),
        look_timeout: Duration::from_secs(20),
        pause_first: Duration::from_millis(10),
        drain_max: WITHIN,
        ..Pace::default()
    }
}

/// Polls until `look` finds something.
async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + WITHIN;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen within {WITHIN:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// What an instance answers.
async fn get(address: SocketAddr) -> String {
    get_path(address, "/").await
}

async fn get_path(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

fn instance(host: &Host, number: u32) -> InstanceView {
    host.view().instances.into_iter().find(|each| each.instance == number).unwrap()
}

fn addresses(host: &Host) -> Vec<SocketAddr> {
    host.addresses().borrow().to_vec()
}

/// Instance `number` answers after at least `restarts` restarts.
fn back(host: &Host, number: u32, restarts: u32) -> Option<InstanceView> {
    Some(instance(host, number)).filter(|each| each.state == InstanceState::Up && each.restarts >= restarts)
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A number that a process has written to a file of its release, all at once.
fn number_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.strip_suffix('\n')?.parse().ok()
}

/// The process has ended. Its zombie is for the system's first process to clear away.
fn is_gone(pid: u32) -> bool {
    super::procfs::stat(pid).is_none_or(|stat| stat.is_zombie)
}
