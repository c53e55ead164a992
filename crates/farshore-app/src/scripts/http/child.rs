//! `git http-backend` for one request: fed, read, and gone when the request is over.
//!
//! It leads a process group. A guard in that group waits on a pipe that this node holds, so that the group also ends
//! with the node, however that dies. An end before time is first asked for: git then takes its locks with it.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use rustix::fs::{CWD, Mode};
use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::error::ScriptsError;
use super::super::home;
use super::super::program::{last_words, signal_group};
use super::super::repository::Repository;
use super::head::{HEAD_BYTES_MAX, Head, end_of_head, parse};

const GUARD: &str = include_str!("guard.sh");
/// Pieces of an answer that wait for a slow client: half a megabyte.
const PIECES_WAITING_MAX: usize = 8;
/// One piece.
const PIECE_BYTES: usize = 64 << 10;
/// How long git may take to end when asked. It has a few files to remove.
pub(super) const GRACE: Duration = Duration::from_secs(3);
/// How long a client may send nothing in the middle of a request, or take nothing of an answer.
const CLIENT_SILENCE_MAX: Duration = Duration::from_secs(60);
/// What a client may go on sending after git has answered: enough to read the answer, which a reset would take.
const IGNORED_BYTES_MAX: u64 = 64 << 20;
/// What is kept of git's complaints, for the log.
const COMPLAINT_BYTES_MAX: usize = 8 << 10;

/// Why a request was ended before git was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// The client is gone, or stopped sending.
    Client,
    /// It sent more than a request may have.
    TooBig,
    /// Its time was over.
    Time,
    /// The repository was closed.
    Closed,
}

impl Cut {
    fn words(self) -> &'static str {
        match self {
            Self::Client => "the client went away",
            Self::TooBig => "the request is too big",
            Self::Time => "the request took too long",
            Self::Closed => "the repository was closed",
        }
    }
}

/// Pipes through which a hook and the guard know the node. Removed when dropped.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) dir: PathBuf,
    /// Held open; nothing is ever written.
    _alive: File,
}

impl Pipes {
    /// Makes `alive` and those in `names`.
    pub(super) fn make(repository: &Repository, names: &[&str]) -> Result<Self, ScriptsError> {
        let staged = repository.staged("push");
        let dir = repository.dir().join("push").join(staged.file_name().unwrap_or_default());
        std::fs::create_dir(&dir).map_err(ScriptsError::disk("make", &dir))?;
        let make = |name: &str| {
            let path = dir.join(name);
            let made = rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR);
            made.map_err(|error| ScriptsError::disk("make the pipe", &path)(error.into()))
        };
        make("alive")?;
        names.iter().try_for_each(|name| make(name))?;
        let path = dir.join("alive");
        // For both directions: neither side waits for the other to open it.
        let alive = File::options().read(true).write(true).open(&path);
        Ok(Self { _alive: alive.map_err(ScriptsError::disk("open", &path))?, dir: dir.clone() })
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        // What cannot be removed now is removed when the repository is opened again.
        let _ = home::remove(&self.dir);
    }
}

/// The program at work.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    pipes: Pipes,
}

/// What one request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Of its body, as it comes.
    pub(super) bytes_max: u64,
    /// From its first byte to its last.
    pub(super) time_max: Duration,
}

/// The answer as it comes from git.
#[derive(Debug)]
pub(super) struct Answer {
    pieces: mpsc::Receiver<Bytes>,
    cut: Arc<OnceLock<Cut>>,
    _gone: DropGuard,
}

/// Where the node's side of an [`Answer`] is written to.
#[derive(Debug)]
pub(super) struct Answering {
    head: oneshot::Sender<Head>,
    pieces: mpsc::Sender<Bytes>,
    cut: Arc<OnceLock<Cut>>,
    gone: CancellationToken,
}

/// Both ends of an answer; the head comes first.
pub(super) fn answering() -> (Answering, oneshot::Receiver<Head>, Answer) {
    let (head, heads) = oneshot::channel();
    let (pieces, taken) = mpsc::channel(PIECES_WAITING_MAX);
    let (cut, gone) = (Arc::new(OnceLock::new()), CancellationToken::new());
    let answer = Answer { pieces: taken, cut: Arc::clone(&cut), _gone: gone.clone().drop_guard() };
    (Answering { head, pieces, cut, gone }, heads, answer)
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.pieces.poll_recv(context).map(|piece| match (piece, self.cut.get()) {
            (Some(piece), _) => Some(Ok(Frame::data(piece))),
            // Ended as if it were whole, a client would believe it.
            (None, Some(cut)) => Some(Err(io::Error::other(cut.words()))),
            (None, None) => None,
        })
    }
}

impl Running {
    /// Starts the program with what is set in `command`, whose program and words are put in here.
    pub(super) fn start(mut command: Command, pipes: Pipes, with_input: bool) -> Result<Self, ScriptsError> {
        command.args(["-c", GUARD, "farshore-git"]).arg(pipes.dir.join("alive"));
        command.stdin(if with_input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        Ok(Self { child: command.spawn().map_err(ScriptsError::NoGit)?, pipes })
    }

    /// Feeds and reads until git is done, or until `closed` or one of the bounds says stop; `talk` goes on beside. On
    /// return no process of the request is left. `Err` says why it was ended; then `true`: it had to be hard.
    pub(super) async fn serve<B>(
        mut self,
        body: B,
        bounds: Bounds,
        answering: Answering,
        talk: impl Future<Output = Result<(), Cut>>,
        closed: impl Future<Output = ()>,
    ) -> Result<(), (Cut, bool)>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let Answering { head, pieces, cut, gone } = answering;
        let id = self.child.id();
        let (stdin, stdout, stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let (mut stdout, mut stderr) = (stdout, stderr);
        let whole = AtomicBool::new(false);
        let ended = {
            let pump = pump(stdout.as_mut(), head, pieces, &whole);
            let mut work = Box::pin(async {
                tokio::try_join!(pump, feed(body, stdin, bounds.bytes_max), listen(stderr.as_mut()))
            });
            // It may have to wait for a hook that is never run; git's end is its end.
            let talk = async {
                match talk.await {
                    Ok(()) => std::future::pending().await,
                    Err(cut) => cut,
                }
            };
            let hung_up = async {
                gone.cancelled().await;
                if whole.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
            };
            let ended = tokio::select! {
                done = &mut work => done.map(drop),
                cut = talk => Err(cut),
                () = hung_up => Err(Cut::Client),
                () = closed => Err(Cut::Closed),
                () = tokio::time::sleep(bounds.time_max) => Err(Cut::Time),
            };
            if let Err(why) = ended {
                // Before the work and with it the answer's other end is dropped. Set once only.
                let _ = cut.set(why);
            }
            ended
        };
        let hard = self.end(id, ended.is_err(), stdout, stderr).await;
        ended.map_err(|why| (why, hard))
    }

    /// Waits for every process of the group; asks them to end first if `early`. True when that did not help.
    async fn end(
        &mut self,
        id: Option<u32>,
        early: bool,
        stdout: Option<impl AsyncRead + Unpin>,
        stderr: Option<impl AsyncRead + Unpin>,
    ) -> bool {
        let signal = |signal| id.map(|id| signal_group(id, signal));
        if early {
            signal(Signal::TERM);
        }
        let leave = async {
            // Whoever writes there is still at work, the leader or one of the others.
            tokio::join!(exhaust(stdout), exhaust(stderr));
            // An error says that it is waited for already.
            let _ = self.child.wait().await;
        };
        let hard = timeout(GRACE, leave).await.is_err();
        // The guard is left, which also keeps the group's id from being given away.
        signal(Signal::KILL);
        let _ = self.child.wait().await;
        tracing::trace!(dir = %self.pipes.dir.display(), early, hard, "git is gone");
        hard
    }
}

/// Passes the answer on: the head, then piece by piece.
async fn pump(
    stdout: Option<&mut (impl AsyncRead + Unpin)>,
    head: oneshot::Sender<Head>,
    pieces: mpsc::Sender<Bytes>,
    whole: &AtomicBool,
) -> Result<(), Cut> {
    let Some(stdout) = stdout else { return Ok(()) };
    let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
    let at = loop {
        // A pipe that breaks has ended.
        let got = stdout.read_buf(&mut buffer).await.unwrap_or(0);
        if let Some(at) = end_of_head(&buffer) {
            break at;
        }
        if got == 0 || buffer.len() > HEAD_BYTES_MAX {
            return Ok(());
        }
    };
    let Some(parsed) = parse(&buffer.split_to(at)) else { return Ok(()) };
    head.send(parsed).map_err(|_| Cut::Client)?;
    loop {
        if !buffer.is_empty() {
            let taken = timeout(CLIENT_SILENCE_MAX, pieces.send(buffer.split().freeze())).await;
            taken.map_err(|_| Cut::Client)?.map_err(|_| Cut::Client)?;
        }
        buffer.reserve(PIECE_BYTES);
        if stdout.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            whole.store(true, Ordering::Relaxed);
            return Ok(());
        }
    }
}

/// Passes the request's body on. When git does not want more of it, the rest is read and left out. Of a request that has
/// none by its nature nothing is read: what is sent there nonetheless is not waited for.
async fn feed<B>(mut body: B, stdin: Option<impl AsyncWriteExt + Unpin>, bytes_max: u64) -> Result<(), Cut>
where
    B: Body<Data = Bytes> + Unpin,
{
    if stdin.is_none() {
        return Ok(());
    }
    let (mut stdin, mut seen, mut ignored) = (stdin, 0_u64, 0_u64);
    loop {
        let frame = timeout(CLIENT_SILENCE_MAX, body.frame()).await.map_err(|_| Cut::Client)?;
        let Some(frame) = frame else { return Ok(()) };
        let Ok(data) = frame.map_err(|_| Cut::Client)?.into_data() else { continue };
        seen += data.len() as u64;
        if seen > bytes_max {
            return Err(Cut::TooBig);
        }
        if let Some(to) = &mut stdin {
            if to.write_all(&data).await.is_ok() {
                continue;
            }
            stdin = None;
        }
        ignored += data.len() as u64;
        if ignored > IGNORED_BYTES_MAX {
            return Err(Cut::TooBig);
        }
    }
}

/// Reads complaints for the log.
async fn listen(stderr: Option<&mut (impl AsyncRead + Unpin)>) -> Result<(), Cut> {
    let Some(stderr) = stderr else { return Ok(()) };
    let mut words = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match stderr.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(got) if words.len() < COMPLAINT_BYTES_MAX => words.extend_from_slice(&piece[..got]),
            Ok(_) => {}
        }
    }
    if !words.is_empty() {
        tracing::debug!(words = last_words(&words), "git http-backend said");
    }
    Ok(())
}

async fn exhaust(pipe: Option<impl AsyncRead + Unpin>) {
    if let Some(mut pipe) = pipe {
        // Nobody reads it any more.
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
}
