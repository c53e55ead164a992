//! A served repository, a client, and somebody who deploys.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::scripts::{Believes, Commit, GitHttp, OnPush, Repository, Says};

/// Far more than anything here takes, on a disk that others keep busy, too.
const DEADLINE: Duration = Duration::from_secs(240);

/// Believes one password, and remembers where passwords came from.
#[derive(Debug, Default)]
pub(super) struct Believer {
    pub(super) from: Mutex<BTreeSet<IpAddr>>,
}

#[async_trait]
impl Believes for Believer {
    async fn believes(&self, _user: &str, password: &str, from: IpAddr) -> bool {
        self.from.lock().unwrap().insert(from);
        password == "token"
    }
}

/// Deploys at once, or waits to be let; says what it is told to say.
#[derive(Debug)]
pub(super) struct Deployer {
    pub(super) commits: Mutex<Vec<(Commit, String)>>,
    pub(super) comes_up: AtomicBool,
    /// How many deploys may end.
    pub(super) gate: Semaphore,
    pub(super) ended: Mutex<usize>,
    pub(super) takes: Mutex<Result<(), String>>,
    /// How often it is still taken.
    pub(super) takes_times: AtomicUsize,
}

#[async_trait]
impl OnPush for Deployer {
    async fn pushed(&self, commit: Commit, by: &str, says: Says) -> bool {
        says.say(format!("building {}", commit.message));
        self.commits.lock().unwrap().push((commit, by.to_owned()));
        self.gate.acquire().await.unwrap().forget();
        *self.ended.lock().unwrap() += 1;
        let up = self.comes_up.load(Ordering::Relaxed);
        says.say(if up {
            "release 4 runs"
        } else {
            "the release did not come up: exit 1; release 3 goes on"
        });
        up
    }

    fn takes(&self) -> Result<(), String> {
        let one_less = |times: usize| times.checked_sub(1);
        self.takes_times
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .map_err(|_| "todo is being left".to_owned())?;
        self.takes.lock().unwrap().clone()
    }
}

/// All of it, in a directory that goes away.
#[derive(Debug)]
pub(super) struct Rig {
    pub(super) dir: TempDir,
    pub(super) repository: Arc<Repository>,
    pub(super) http: Arc<GitHttp>,
    pub(super) deployer: Arc<Deployer>,
    pub(super) believer: Arc<Believer>,
    pub(super) port: u16,
    /// `METHOD path header` of what came.
    pub(super) seen: Arc<Mutex<BTreeSet<String>>>,
}

impl Rig {
    pub(super) async fn new() -> Self {
        Self::with(|repository| repository).await
    }

    pub(super) async fn with(change: impl FnOnce(Repository) -> Repository) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = Arc::new(change(Repository::open_or_init(dir.path().join("git")).unwrap()));
        let deployer = Arc::new(Deployer {
            commits: Mutex::default(),
            comes_up: AtomicBool::new(true),
            gate: Semaphore::new(1_000),
            ended: Mutex::default(),
            takes: Mutex::new(Ok(())),
            takes_times: AtomicUsize::new(usize::MAX),
        });
        let on_push = Arc::clone(&deployer) as Arc<dyn OnPush>;
        let believer = Arc::<Believer>::default();
        let believes = Arc::clone(&believer) as Arc<dyn Believes>;
        let http = GitHttp::new(Arc::clone(&repository), "todo", believes, on_push);
        let seen = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(serve(listener, Arc::clone(&http), Arc::clone(&seen)));
        Self { dir, repository, http, deployer, believer, port, seen }
    }

    /// With the right password.
    pub(super) fn url(&self, path: &str) -> String {
        self.url_with("ann:token", path)
    }

    pub(super) fn url_with(&self, credentials: &str, path: &str) -> String {
        format!("http://{credentials}@127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A client's repository with one commit on main, and `origin` at the server.
    pub(super) async fn work(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).unwrap();
        git(&path, &["init", "-q", "-b", "main"]).await;
        git(&path, &["remote", "add", "origin", &self.url("/todo.git")]).await;
        change(&path, "service/api/hello.js", "exports.get = 1;\n", "first").await;
        path
    }

    /// Until no process knows the repository, and no pipes wait for one.
    pub(super) async fn no_process_is_left(&self) {
        let dir = self.repository.dir().to_str().unwrap().to_owned();
        let pipes = || std::fs::read_dir(self.repository.dir().join("push")).unwrap().count();
        until("the last process of a request ends", || users_of(&dir).is_empty() && pipes() == 0).await;
    }
}

async fn serve(listener: TcpListener, http: Arc<GitHttp>, seen: Arc<Mutex<BTreeSet<String>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (http, seen) = (Arc::clone(&http), Arc::clone(&seen));
        tokio::spawn(async move {
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let (http, seen) = (Arc::clone(&http), Arc::clone(&seen));
                async move {
                    let note = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                        format!("{} {name}: {}", request.uri().path(), value.to_str().unwrap())
                    };
                    seen.lock().unwrap().extend(request.headers().iter().map(note));
                    Ok::<_, std::convert::Infallible>(http.answer(request).await)
                }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that goes away is part of the tests.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The ids of processes that have `dir` in their environment or words.
pub(super) fn users_of(dir: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(id) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let about = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if id != std::process::id() && about.windows(dir.len()).any(|window| window == dir.as_bytes()) {
            found.push(id);
        }
    }
    found
}

/// Waits for `holds`, with a deadline.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client's git, ready to be started.
pub(super) fn client(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(words).current_dir(dir).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "Ann").env(format!("GIT_{role}_EMAIL"), "ann@example.org");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a client's git and returns what it did, well or not.
pub(super) async fn try_git(dir: &Path, words: &[&str]) -> Output {
    tokio::time::timeout(DEADLINE, client(dir, words).output()).await.unwrap().unwrap()
}

/// Runs a client's git, which must do well; returns both of what it says, errors last.
pub(super) async fn git(dir: &Path, words: &[&str]) -> String {
    let output = try_git(dir, words).await;
    assert!(output.status.success(), "git {words:?}: {}", said(&output));
    said(&output)
}

pub(super) fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).trim_end().to_owned()
}

/// Writes a file and commits it.
pub(super) async fn change(dir: &Path, path: &str, text: impl AsRef<[u8]>, message: &str) {
    let file = dir.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
    git(dir, &["add", "-A"]).await;
    git(dir, &["commit", "-q", "-m", message]).await;
}

/// Bytes that do not pack.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}
