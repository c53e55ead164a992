//! Sockets and threads: one thread per listener, one per connection, and the helpers of each connection.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;

use super::handshake::{TlsTerms, shake};
use super::proto::HANDSHAKE_TIMEOUT;
use super::registry::Exports;
use super::session;
use super::stream::Stream;

/// Connections at once. Each costs a thread, half a megabyte of buffers, and at most `work`'s helpers with their
/// replies; a hypervisor opens one to sixteen per disk.
const CONNECTIONS_MAX: usize = 512;
/// Pause after an accept failed for want of descriptors or memory, which only time mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long clients have to take their last replies when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What to serve, where.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Path of a Unix socket.
    pub unix: Option<PathBuf>,
    /// Port 0 takes a free one. Beyond loopback it needs `tls`.
    pub tcp: Option<SocketAddr>,
    /// Lets TCP clients begin TLS; beyond loopback they must. It decides whose certificates are accepted.
    pub tls: Option<Arc<ServerConfig>>,
    /// The exports; may change while served.
    pub exports: Exports,
    /// Bounds on clients.
    pub limits: Limits,
}

/// Bounds on what clients may take up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; further ones are closed at once.
    pub connections: usize,
    /// Time for a handshake from the first byte to the last.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: CONNECTIONS_MAX, handshake: HANDSHAKE_TIMEOUT }
    }
}

/// A running NBD server. Dropping it stops it.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Vec<Arc<Listener>>,
    acceptors: Mutex<Vec<JoinHandle<()>>>,
    tcp: Option<SocketAddr>,
    unix: Option<PathBuf>,
}

#[derive(Debug)]
struct Shared {
    exports: Exports,
    limits: Limits,
    stopping: AtomicBool,
    next: AtomicU64,
    connections: Mutex<BTreeMap<u64, Arc<Stream>>>,
    left: Condvar,
}

#[derive(Debug)]
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, TlsTerms),
}

impl Server {
    /// Binds the sockets and serves on threads of its own.
    pub fn start(options: Options) -> io::Result<Self> {
        let mut listeners = Vec::new();
        let mut tcp = None;
        if let Some(address) = options.tcp {
            let terms = TlsTerms::on(address, options.tls)?;
            let listener = bind_tcp(address)?;
            tcp = Some(listener.local_addr()?);
            listeners.push(Arc::new(Listener::Tcp(listener, terms)));
        }
        if let Some(path) = &options.unix {
            listeners.push(Arc::new(Listener::Unix(bind_unix(path)?)));
        }
        let shared = Arc::new(Shared {
            exports: options.exports,
            limits: options.limits,
            stopping: AtomicBool::new(false),
            next: AtomicU64::new(0),
            connections: Mutex::default(),
            left: Condvar::new(),
        });
        let server = Self { shared, listeners, acceptors: Mutex::default(), tcp, unix: options.unix };
        for listener in &server.listeners {
            let (shared, listener) = (Arc::clone(&server.shared), Arc::clone(listener));
            // If this fails, dropping `server` ends what was started.
            let thread = std::thread::Builder::new()
                .name("nbd-accept".into())
                .spawn(move || accept(&shared, &listener))?;
            lock(&server.acceptors).push(thread);
        }
        Ok(server)
    }

    /// Where it listens on TCP, if it does.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Stops listening, lets running requests finish, closes the connections, and returns when nothing is left.
    /// Stopping twice is fine.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        for listener in &self.listeners {
            // Wakes up `accept`.
            let _ = rustix::net::shutdown(&**listener, rustix::net::Shutdown::Both);
        }
        let acceptors = std::mem::take(&mut *lock(&self.acceptors));
        let first = !acceptors.is_empty();
        for thread in acceptors {
            drop(thread.join());
        }
        self.shared.end_connections();
        if let (Some(path), true) = (&self.unix, first) {
            drop(std::fs::remove_file(path));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn end_connections(&self) {
        let streams = lock(&self.connections);
        streams.values().for_each(|stream| stream.shutdown(Shutdown::Read));
        let (streams, _) = self
            .left
            .wait_timeout_while(streams, STOP_GRACE, |streams| !streams.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        streams.values().for_each(|stream| stream.shutdown(Shutdown::Both));
        drop(
            self.left
                .wait_while(streams, |streams| !streams.is_empty())
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Serves a new connection on a thread of its own, or drops it when there are too many.
    fn welcome(self: &Arc<Self>, stream: Stream, terms: TlsTerms) {
        let stream = Arc::new(stream);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut connections = lock(&self.connections);
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            if connections.len() >= self.limits.connections {
                tracing::warn!(limit = self.limits.connections, "NBD connection refused: too many");
                return;
            }
            connections.insert(id, Arc::clone(&stream));
        }
        let seat = Seat { shared: Arc::clone(self), id };
        let spawned = std::thread::Builder::new().name("nbd".into()).spawn(move || {
            let seat = seat;
            if let Err(error) = converse(&seat.shared, &stream, &terms) {
                tracing::debug!(%error, "NBD connection ended");
            }
            // Others may hold the stream for a moment longer; the client need not wait for them.
            stream.finish();
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "NBD connection refused: no thread for it");
        }
    }
}

/// A connection's place among the connections, given up when dropped.
struct Seat {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.shared.connections).remove(&self.id);
        self.shared.left.notify_all();
    }
}

fn converse(shared: &Shared, stream: &Arc<Stream>, terms: &TlsTerms) -> io::Result<()> {
    stream.tune();
    let deadline = Instant::now() + shared.limits.handshake;
    let Some(agreement) = shake(stream, &shared.exports, terms, deadline)? else { return Ok(()) };
    // From here on a client may be silent for as long as it likes.
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    session::serve(stream, &agreement)
}

fn accept(shared: &Arc<Shared>, listener: &Listener) {
    while !shared.stopping.load(Ordering::Acquire) {
        let accepted = match listener {
            Listener::Unix(listener) => {
                listener.accept().map(|(stream, _)| (Stream::Unix(stream), TlsTerms::None))
            }
            Listener::Tcp(listener, terms) => {
                listener.accept().map(|(stream, _)| (stream.into(), terms.clone()))
            }
        };
        match accepted {
            Ok((stream, terms)) => shared.welcome(stream, terms),
            Err(_) if shared.stopping.load(Ordering::Acquire) => return,
            Err(error) => {
                tracing::warn!(%error, "accepting an NBD connection failed");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Binds `path`, replacing a socket that nobody listens on any more.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on socket {}: {error}", path.display()))
    };
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        match UnixStream::connect(path) {
            Ok(_) => {
                return Err(explain(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another server listens there",
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(explain)?;
            }
            Err(error) => return Err(explain(error)),
        }
    }
    UnixListener::bind(path).map_err(explain)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener, _) => listener.as_fd(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
