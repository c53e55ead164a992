//! The members, what each of them may be believed, and one call to one or any of them.
//!
//! Must always hold: an answer is used only when it is of our cluster and not older than what this process had seen when
//! it asked; a commit is sent only to a member that has proven so since it last failed.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::options::{self, EtcdError, EtcdOptions};
use super::wire::{Answer, Header, RangeAnswer, RangeRequest, Refusal};

/// A list page of the longest values, with room: more than this is not etcd.
const ANSWER_LEN_MAX: usize = 512 << 20;

/// How much of a wrong answer is quoted.
const QUOTE_CHARS: usize = 120;

/// Why a call gave no answer that may be used.
#[derive(Debug)]
pub(super) enum CallError {
    /// Surely nothing arrived: there was no connection, or the member is not to be used.
    NotSent(String),
    /// It may have been done: there was no answer, or one that is not etcd's, or of a time or cluster that is not ours.
    Lost(String),
    /// etcd said why not, in its own form (HTTP status below 500). Whether nothing was done depends on what it said.
    Refused(Refusal),
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(why) | Self::Lost(why) => f.write_str(why),
            Self::Refused(refusal) => f.write_str(&refusal.message),
        }
    }
}

/// All members that were named.
#[derive(Debug)]
pub(super) struct Members {
    list: Vec<Member>,
    /// Where the last call succeeded.
    current: AtomicUsize,
    seen: Mutex<Seen>,
    client: reqwest::Client,
    call_timeout: Duration,
}

/// What the cluster has shown of itself.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    cluster: Option<u64>,
    revision: u64,
}

/// What was known when a question was sent.
#[derive(Debug, Clone, Copy)]
struct Floor {
    /// Of the cluster.
    revision: u64,
    /// Of the member asked: others may be ahead of it or behind.
    term: u64,
}

#[derive(Debug)]
struct Member {
    url: String,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    /// Highest term in its answers. A member never goes back.
    term: u64,
    trust: Trust,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Trust {
    /// Not heard since the start or since its last failure.
    #[default]
    Unproven,
    Proven,
    /// It lost what it had: nothing it says is used until the process is restarted.
    Dropped(String),
}

impl Members {
    pub(super) fn new(options: &EtcdOptions) -> Result<Self, EtcdError> {
        let member = |url| Member { url, standing: Mutex::default() };
        Ok(Self {
            list: options::check(options)?.into_iter().map(member).collect(),
            current: AtomicUsize::new(0),
            seen: Mutex::default(),
            client: options::client(options)?,
            call_timeout: options.call_timeout,
        })
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.call_timeout
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(super) fn url(&self, index: usize) -> &str {
        self.list.get(index).map_or("", |member| &member.url)
    }

    /// All members in the order to try them: where it last worked, first.
    pub(super) fn order(&self) -> Vec<usize> {
        let first = self.current.load(Ordering::Relaxed);
        (0..self.list.len()).map(|n| (first + n) % self.list.len()).collect()
    }

    pub(super) fn prefer(&self, index: usize) {
        self.current.store(index, Ordering::Relaxed);
    }

    /// Whether `index` has answered well since it last failed.
    pub(super) fn is_proven(&self, index: usize) -> bool {
        self.standing(index).is_some_and(|standing| standing.trust == Trust::Proven)
    }

    /// `index` failed: nothing is committed through it until it has answered a read, and the next call goes elsewhere.
    pub(super) fn doubt(&self, index: usize) {
        if let Some(mut standing) = self.standing(index)
            && standing.trust == Trust::Proven
        {
            standing.trust = Trust::Unproven;
        }
        let next = (index + 1) % self.list.len();
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes that the cluster has been at `revision`.
    pub(super) fn saw(&self, revision: u64) {
        let mut seen = lock(&self.seen);
        seen.revision = seen.revision.max(revision);
    }

    /// Whether this is the cluster that was seen first.
    pub(super) fn check_cluster(&self, index: usize, cluster: u64) -> Result<(), String> {
        let expected = *lock(&self.seen).cluster.get_or_insert(cluster);
        if expected == cluster {
            return Ok(());
        }
        Err(format!(
            "{} belongs to another etcd cluster ({cluster:x}) than the members seen before ({expected:x}): its answers \
             are not used; correct the list of endpoints",
            self.url(index)
        ))
    }

    fn standing(&self, index: usize) -> Option<MutexGuard<'_, Standing>> {
        self.list.get(index).map(|member| lock(&member.standing))
    }

    /// A linearizable read through `index` that proves it current, and the revision.
    pub(super) async fn prove(&self, index: usize, key: &[u8], deadline: Instant) -> Result<u64, CallError> {
        let request = RangeRequest {
            key: super::wire::Bytes(key.to_vec()),
            keys_only: true,
            limit: 1,
            ..RangeRequest::default()
        };
        let answer: RangeAnswer = self.call(index, "/v3/kv/range", &request, deadline).await?;
        Ok(answer.header().revision)
    }

    /// One call to one member.
    pub(super) async fn call<A: Answer>(
        &self,
        index: usize,
        path: &str,
        request: &(impl Serialize + Sync),
        deadline: Instant,
    ) -> Result<A, CallError> {
        let floor = self.floor(index)?;
        let body = serde_json::to_vec(request).map_err(|error| CallError::NotSent(error.to_string()))?;
        let called = timeout_at(deadline, self.post(index, path, body)).await;
        let answered = called.unwrap_or_else(|_| {
            Err(CallError::Lost(format!("{} did not answer within {:?}", self.url(index), self.call_timeout)))
        });
        let judged = answered.and_then(|bytes| self.judge::<A>(index, &bytes, floor));
        if matches!(judged, Err(CallError::NotSent(_) | CallError::Lost(_))) {
            self.doubt(index);
        }
        judged
    }

    async fn post(&self, index: usize, path: &str, body: Vec<u8>) -> Result<Vec<u8>, CallError> {
        let url = self.url(index);
        let request = self.client.post(format!("{url}{path}")).header("content-type", "application/json");
        // A member that knows of no leader says so at once.
        let request = request.header("grpc-metadata-hasleader", "true").body(body);
        let response = request.send().await.map_err(|error| unsent(url, &error))?;
        let status = response.status();
        let bytes = body_of(response).await.map_err(|why| CallError::Lost(format!("{url}: {why}")))?;
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Refusal>(&bytes) {
            Ok(refusal) if status.is_client_error() && !refusal.message.is_empty() => {
                Err(CallError::Refused(refusal))
            }
            Ok(refusal) if !refusal.message.is_empty() => {
                Err(CallError::Lost(format!("{url} answered {}: {}", status.as_u16(), refusal.message)))
            }
            _ => Err(CallError::Lost(format!("{url} answered {}: {}", status.as_u16(), quote(&bytes)))),
        }
    }

    /// What an answer to a question that is sent now must have reached; an error if none of its answers is used.
    fn floor(&self, index: usize) -> Result<Floor, CallError> {
        let Some(standing) = self.standing(index) else {
            return Err(CallError::NotSent("there is no such member".into()));
        };
        if let Trust::Dropped(why) = &standing.trust {
            return Err(CallError::NotSent(why.clone()));
        }
        let term = standing.term;
        drop(standing);
        Ok(Floor { revision: lock(&self.seen).revision, term })
    }

    fn judge<A: Answer>(&self, index: usize, bytes: &[u8], floor: Floor) -> Result<A, CallError> {
        let answer: A = serde_json::from_slice(bytes).map_err(|error| {
            CallError::Lost(format!(
                "{} does not answer as etcd does ({error}): {}",
                self.url(index),
                quote(bytes)
            ))
        })?;
        let header = answer.header();
        self.accept(index, header, floor).map_err(|why| {
            tracing::warn!(endpoint = self.url(index), "{why}");
            CallError::Lost(why)
        })?;
        Ok(answer)
    }

    /// Whether an answer with this header may be used: a linearizable one is at least as new as what was known when the
    /// question was sent.
    fn accept(&self, index: usize, header: Header, floor: Floor) -> Result<(), String> {
        self.check_cluster(index, header.cluster_id)?;
        let url = self.url(index);
        let Some(mut standing) = self.standing(index) else { return Err("there is no such member".into()) };
        if header.revision < floor.revision {
            let why = format!(
                "the revision of {url} went back from {} to {}: it lost what it had (restored from a backup?); its \
                 answers are not used until this process is restarted",
                floor.revision, header.revision
            );
            standing.trust = Trust::Dropped(why.clone());
            return Err(why);
        }
        if header.raft_term < floor.term {
            standing.trust = Trust::Unproven;
            return Err(format!(
                "the term of {url} went back from {} to {}: this answer is not used",
                floor.term, header.raft_term
            ));
        }
        standing.term = standing.term.max(header.raft_term);
        if matches!(standing.trust, Trust::Dropped(_)) {
            return Err(format!("{url} is not used until this process is restarted"));
        }
        standing.trust = Trust::Proven;
        drop(standing);
        self.saw(header.revision);
        Ok(())
    }

    /// A read of any member: asks the preferred one, and after a while without an answer the next as well. The first
    /// answer that may be used counts. A refusal by etcd itself is an answer.
    pub(super) async fn read<A: Answer>(
        &self,
        path: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<A, CallError> {
        let deadline = self.deadline();
        // The last member still has more than a quarter of the time.
        let patience = self.call_timeout / 4;
        let mut waiting = self.order().into_iter();
        let mut running = FuturesUnordered::new();
        let mut failures = Vec::new();
        let mut started = Vec::new();
        loop {
            if let Some(index) = waiting.next() {
                running.push(async move { (index, self.call::<A>(index, path, request, deadline).await) });
                started.push(index);
            }
            let next =
                if waiting.len() == 0 { deadline + self.call_timeout } else { Instant::now() + patience };
            let answered = tokio::select! {
                answered = running.next() => answered,
                () = sleep_until(next) => continue,
            };
            match answered {
                Some((index, Ok(answer))) => {
                    self.won(index, &started);
                    return Ok(answer);
                }
                Some((_, Err(CallError::Refused(refusal)))) => return Err(CallError::Refused(refusal)),
                Some((_, Err(error))) => failures.push(error.to_string()),
                None => return Err(CallError::Lost(failures.join("; "))),
            }
        }
    }

    /// Those that were asked before the winner and have not answered are doubted.
    fn won(&self, winner: usize, started: &[usize]) {
        for slower in started.iter().take_while(|index| **index != winner) {
            self.doubt(*slower);
        }
        self.prefer(winner);
    }
}

fn unsent(url: &str, error: &reqwest::Error) -> CallError {
    let why = format!("{url}: {}", causes(error));
    if error.is_connect() || error.is_builder() { CallError::NotSent(why) } else { CallError::Lost(why) }
}

/// The innermost cause says what is wrong; the outer ones repeat the address.
pub(super) fn causes(error: &reqwest::Error) -> String {
    let mut cause: &(dyn Error + 'static) = error;
    loop {
        let inside = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match inside.map(|inside| inside as &(dyn Error + 'static)).or_else(|| cause.source()) {
            Some(inner) => cause = inner,
            None => break,
        }
    }
    match cause.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(_)) => {
            format!(
                "{cause}: its certificate must be signed by the CA that is configured, and be for this host"
            )
        }
        Some(rustls::Error::AlertReceived(_)) => {
            format!("{cause}: it refused the client certificate; give one that its own CA has signed")
        }
        _ => cause.to_string(),
    }
}

async fn body_of(mut response: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        if bytes.len() + chunk.len() > ANSWER_LEN_MAX {
            return Err(format!("the answer is longer than {ANSWER_LEN_MAX} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The beginning of what was answered, for a message.
pub(super) fn quote(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(QUOTE_CHARS).collect();
    format!("{text:?}")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section here is a few moves: none is left half done by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
