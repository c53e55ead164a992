//! Git over HTTP: clone, fetch and push, by `git http-backend`.
//!
//! Read in this order: this file (who is let in, and how many), [`mod@route`], [`credentials`], [`child`] (the program and
//! its bounds), [`head`], [`push`] (the hook and what follows a push).
//!
//! Must always hold: nobody is let in without a password that is believed; a wrong one costs its sender time and nobody
//! else; a request takes its processes with it; after [`GitHttp::close`] no branch moves.

mod child;
mod credentials;
mod head;
mod push;
mod route;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::OptionFuture;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tokio::process::Command;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::child::{Answering, Bounds, GRACE, Pipes, Running, answering};
use self::credentials::{Presented, presented};
use self::push::{Deploys, PIPES};
use self::route::{Asked, Nowhere, Service, route};
use super::error::ScriptsError;
use super::program::PUSH_BYTES_MAX;
use super::repository::Repository;
use super::says::{Believes, OnPush};
use crate::gateway::{CameFrom, GatewayBody, Scripts};

/// Fetches at once of one repository. Packing takes a core.
const FETCHES_MAX: usize = 8;
/// Pushes at once to one repository, with the deploys that they wait for.
const PUSHES_MAX: usize = 4;
/// How long one waits for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// Where nobody says where a request comes from, all come from one place.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
/// What a wrong password costs.
const WRONG_COSTS: Duration = Duration::from_secs(1);
/// How many may be paying that at once; more are sent away at once.
const WRONG_MAX: usize = 64;
/// From the first byte to the last, with the deploy that a push waits for.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(3_600);
/// What a fetch may ask: a hundred thousand commits that it has.
const FETCH_BYTES_MAX: u64 = 16 << 20;
/// What goes around a pack in a push.
const AROUND_PACK_BYTES: u64 = 16 << 20;
/// How long the end of pushes is waited for. Git is killed after its grace; what is not gone soon after that runs no more.
const CLOSE_MAX: Duration = GRACE.saturating_add(Duration::from_secs(2));
/// When a client may ask again, in seconds.
const RETRY_AFTER_SECONDS: u32 = 5;

/// The body of an answer.
type ScriptsBody = UnsyncBoxBody<Bytes, io::Error>;

/// One repository, served to git clients.
#[derive(Debug)]
pub struct GitHttp {
    repository: Arc<Repository>,
    name: String,
    believes: Arc<dyn Believes>,
    deploys: Arc<Deploys>,
    fetches: Arc<Semaphore>,
    pushes: Arc<Semaphore>,
    wrong: Semaphore,
    /// Why nothing is taken now.
    closed: watch::Sender<Option<String>>,
    /// The node ends, and fetches with it.
    stopping: CancellationToken,
    requests: TaskTracker,
}

impl GitHttp {
    /// Serves `repository` as `name` to those whom `believes` believes; what comes to main or master is given to
    /// `on_push`.
    #[must_use]
    pub fn new(
        repository: Arc<Repository>,
        name: &str,
        believes: Arc<dyn Believes>,
        on_push: Arc<dyn OnPush>,
    ) -> Arc<Self> {
        let deploys = Deploys {
            repository: Arc::clone(&repository),
            on_push,
            tasks: TaskTracker::new(),
            last: Mutex::default(),
        };
        Arc::new(Self {
            repository,
            name: name.to_owned(),
            believes,
            deploys: Arc::new(deploys),
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            pushes: Arc::new(Semaphore::new(PUSHES_MAX)),
            wrong: Semaphore::new(WRONG_MAX),
            closed: watch::Sender::new(None),
            stopping: CancellationToken::new(),
            requests: TaskTracker::new(),
        })
    }

    /// Takes no pushes from now on, and tells pushers `why`; those under way are ended. On return no branch moves by a
    /// push any more. Fetches go on; so do deploys that have begun. It returns within seconds, whatever a client or a
    /// disk does.
    pub async fn close(&self, why: &str) {
        self.closed.send_replace(Some(why.to_owned()));
        // All turns are free when all pushes have ended. It is never closed.
        let all = u32::try_from(PUSHES_MAX).unwrap_or(u32::MAX);
        let ended = tokio::time::timeout(CLOSE_MAX, self.pushes.acquire_many(all)).await;
        if ended.is_err() {
            // Its git was killed and sits in a call to the disk, which at most ends that one call, with nobody told that it
            // was done; or it is not started yet, and then is ended before it may ask whether a branch may move.
            tracing::warn!(
                name = self.name,
                "a push that was ended is not gone: the disk of its repository is slow"
            );
        }
    }

    /// Takes pushes again.
    pub fn reopen(&self) {
        self.closed.send_replace(None);
    }

    /// Ends pushes and fetches, and waits for deploys under way. For the node's end.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.close("the node is stopping").await;
        self.requests.close();
        self.requests.wait().await;
        self.deploys.tasks.close();
        self.deploys.tasks.wait().await;
    }

    /// Answers one request of a git client.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<ScriptsBody>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Send,
    {
        let (parts, body) = request.into_parts();
        let asked = match route(&self.name, &parts.method, parts.uri.path(), parts.uri.query()) {
            Ok(asked) => asked,
            Err(nowhere) => return self.nowhere(nowhere),
        };
        let by = match self.let_in(&parts).await {
            Ok(presented) => presented.user,
            Err(refusal) => return refusal,
        };
        if let Err(why) = self.takes(asked.service) {
            return later(&why);
        }
        let Some(turn) = self.turn(asked.service).await else {
            return later("too many are at work on this repository: try again in a moment");
        };
        // It may have been closed while this one waited for its turn.
        if let Err(why) = self.takes(asked.service) {
            return later(&why);
        }
        match self.serve(asked, &parts, body, by, turn).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(name = self.name, %error, "git could not be served");
                plain(StatusCode::INTERNAL_SERVER_ERROR, "the node could not start git: see its log")
            }
        }
    }

    async fn serve<B>(
        &self,
        asked: Asked,
        parts: &Parts,
        body: B,
        by: String,
        turn: OwnedSemaphorePermit,
    ) -> Result<Response<ScriptsBody>, ScriptsError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Send,
    {
        let pushes = asked.service == Service::Push && asked.path != "/info/refs";
        if pushes {
            self.repository.sweep();
        }
        let pipes = Pipes::make(&self.repository, if pushes { &PIPES } else { &[] })?;
        let dir = pipes.dir.clone();
        let mut command = Command::new("sh");
        self.repository.git.environ(&mut command);
        environ(&mut command, &self.repository, asked, &parts.headers, &by);
        command.env("FARSHORE_PUSH", &dir);
        let (answering, head, answer) = answering();
        if pushes {
            let before = self.repository.head().await?.map(|commit| commit.id);
            let running = Running::start(command, pipes, true)?;
            self.push(running, body, answering, Pushing { dir, by, before, turn });
        } else {
            let running = Running::start(command, pipes, asked.path != "/info/refs")?;
            self.read(asked.service, running, body, answering, turn);
        }
        let Ok(head) = head.await else {
            return Ok(plain(StatusCode::BAD_GATEWAY, "git ended without an answer: see the node's log"));
        };
        let mut response = Response::new(answer.boxed_unsync());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        Ok(response)
    }

    /// What moves no branch. Of a push, which begins with one, it ends with the pushes: its turn is one of theirs.
    fn read<B>(
        &self,
        service: Service,
        running: Running,
        body: B,
        answering: Answering,
        turn: OwnedSemaphorePermit,
    ) where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Send,
    {
        let bounds = Bounds { bytes_max: FETCH_BYTES_MAX, time_max: REQUEST_TIME_MAX };
        let stopping = self.stopping.clone();
        let closing = (service == Service::Push).then(|| closing(self.closed.subscribe()));
        self.requests.spawn(async move {
            let over = async {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    Some(()) = OptionFuture::from(closing) => {}
                }
            };
            let ended = running.serve(body, bounds, answering, std::future::ready(Ok(())), over).await;
            tracing::trace!(?ended, "a request that reads is over");
            drop(turn);
        });
    }

    fn push<B>(&self, running: Running, body: B, answering: Answering, pushing: Pushing)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Send,
    {
        let bounds = Bounds { bytes_max: PUSH_BYTES_MAX + AROUND_PACK_BYTES, time_max: REQUEST_TIME_MAX };
        let (deploys, closed) = (Arc::clone(&self.deploys), self.closed.subscribe());
        self.requests.spawn(async move {
            let Pushing { dir, by, before, turn } = pushing;
            let talk = deploys.talk(&dir, &by);
            let ended = running.serve(body, bounds, answering, talk, closing(closed.clone())).await;
            if let Err((why, hard)) = ended {
                tracing::debug!(?why, hard, "a push was ended");
                deploys.repository.unclean.fetch_or(hard, std::sync::atomic::Ordering::Relaxed);
                if closed.borrow().is_none() {
                    deploys.catch_up(before.as_deref(), &by).await;
                }
            }
            drop(turn);
            deploys.repository.tidy().await;
        });
    }

    /// Who it is, or the answer to whom we do not believe.
    async fn let_in(&self, parts: &Parts) -> Result<Presented, Response<ScriptsBody>> {
        let Some(presented) = presented(&parts.headers) else {
            return Err(self.unauthorized("a token is needed as the password, with any user name"));
        };
        let from = parts.extensions.get().map_or(NOWHERE, |CameFrom(from)| *from);
        if self.believes.believes(&presented.user, &presented.password, from).await {
            return Ok(presented);
        }
        let Ok(_waits) = self.wrong.try_acquire() else {
            return Err(plain(StatusCode::TOO_MANY_REQUESTS, "too many wrong passwords: try again later"));
        };
        tokio::time::sleep(WRONG_COSTS).await;
        Err(self.unauthorized("this password is not believed: use a token or the deployment key"))
    }

    fn unauthorized(&self, why: &str) -> Response<ScriptsBody> {
        let mut response = plain(StatusCode::UNAUTHORIZED, why);
        let safe = |char: &char| char.is_ascii_alphanumeric() || matches!(char, '-' | '.' | '_');
        let realm: String = self.name.chars().filter(safe).collect();
        let asks = HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        response.headers_mut().insert(WWW_AUTHENTICATE, asks.unwrap_or(HeaderValue::from_static("Basic")));
        response
    }

    fn takes(&self, service: Service) -> Result<(), String> {
        if service == Service::Fetch {
            return Ok(());
        }
        if let Some(why) = &*self.closed.borrow() {
            return Err(why.clone());
        }
        self.deploys.on_push.takes()
    }

    async fn turn(&self, service: Service) -> Option<OwnedSemaphorePermit> {
        let turns = match service {
            Service::Fetch => &self.fetches,
            Service::Push => &self.pushes,
        };
        tokio::time::timeout(TURN_WAIT_MAX, Arc::clone(turns).acquire_owned()).await.ok()?.ok()
    }

    fn nowhere(&self, nowhere: Nowhere) -> Response<ScriptsBody> {
        match nowhere {
            Nowhere::Unknown => {
                let words = format!("nothing is here: clone /{}.git or the root of this host", self.name);
                plain(StatusCode::NOT_FOUND, &words)
            }
            Nowhere::Dumb => plain(StatusCode::FORBIDDEN, "this git is too old: use git 1.6.6 or later"),
            Nowhere::Method => {
                let mut response =
                    plain(StatusCode::METHOD_NOT_ALLOWED, "this is git's, with another method");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, POST"));
                response
            }
        }
    }
}

#[async_trait]
impl Scripts for GitHttp {
    async fn call(&self, request: Request<Incoming>) -> Response<GatewayBody> {
        self.answer(request).await.map(GatewayBody::stream)
    }
}

/// Until nothing is taken any more.
async fn closing(mut closed: watch::Receiver<Option<String>>) {
    // The sender lives as long as the one who serves.
    let _ = closed.wait_for(Option::is_some).await;
}

/// What goes with a push.
#[derive(Debug)]
struct Pushing {
    dir: std::path::PathBuf,
    by: String,
    before: Option<String>,
    turn: OwnedSemaphorePermit,
}

/// What `git http-backend` reads of a request.
fn environ(command: &mut Command, repository: &Repository, asked: Asked, headers: &HeaderMap, by: &str) {
    // It finds the repository by these.
    command.env_remove("GIT_DIR");
    command.env("GIT_PROJECT_ROOT", repository.dir()).env("PATH_INFO", asked.path);
    command.env("GIT_HTTP_EXPORT_ALL", "1").env("GIT_HTTP_MAX_REQUEST_BUFFER", FETCH_BYTES_MAX.to_string());
    let method = if asked.path == "/info/refs" { "GET" } else { "POST" };
    command.env("REQUEST_METHOD", method).env("QUERY_STRING", asked.query);
    command.env("REMOTE_USER", by).env("GIT_COMMITTER_NAME", by);
    command.env("GIT_COMMITTER_EMAIL", "push@farshore.internal");
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let passed = [
        ("content-type", "CONTENT_TYPE"),
        ("content-length", "CONTENT_LENGTH"),
        ("content-encoding", "HTTP_CONTENT_ENCODING"),
    ];
    for (header, name) in passed {
        if let Some(value) = text(header) {
            command.env(name, value);
        }
    }
    let version = text("git-protocol").filter(|version| is_version(version));
    if let Some(version) = version {
        command.env("HTTP_GIT_PROTOCOL", version).env("GIT_PROTOCOL", version);
    }
}

/// What `Git-Protocol` may say: `version=2` and what follows it.
fn is_version(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'=' | b':' | b'-' | b'.');
    text.len() <= 64 && text.bytes().all(plain)
}

/// Words for a person; git shows them as `remote: …`.
fn plain(status: StatusCode, words: &str) -> Response<ScriptsBody> {
    let body = Full::new(Bytes::from(format!("{words}\n"))).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Not now.
fn later(why: &str) -> Response<ScriptsBody> {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
    response
}
