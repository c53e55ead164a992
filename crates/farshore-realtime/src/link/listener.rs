//! Where the links of a node's hubs arrive: shakes hands, checks the secret, and hands the connection to its hub's link.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farshore_core::ids::Region;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::greeting::{GreetingError, Secret, Side, greet};
use super::session::{Connection, SILENCE_MAX, Shared};
use super::wire::{Frame, FrameReader, FrameWriter, HELLO_MAX, Message, WireError, halves};
use crate::names::HubName;

/// From the first byte to the hello: a few round trips.
pub(super) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Handshakes at once. Strangers can take these, not more.
const HANDSHAKES_MAX: usize = 256;
/// After an error of `accept` that will not go away at once: no file descriptors, for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A connection could not be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetupError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error("the other side did not finish its greeting within {0:?}")]
    TooSlow(Duration),
    #[error("the other side did not say what it wants")]
    NoHello,
    #[error("the other region refuses: {0}")]
    Refused(String),
    #[error("{0}")]
    Misdirected(String),
    #[error(transparent)]
    Stale(#[from] super::fence::Stale),
}

/// A link that takes connections.
#[derive(Debug, Clone)]
struct Taker {
    shared: Arc<Shared>,
    connections: mpsc::Sender<Connection>,
}

/// The links of a node by the name of their hub.
#[derive(Debug, Default)]
pub(super) struct Takers {
    by_hub: Mutex<HashMap<HubName, Taker>>,
}

impl Takers {
    fn by_hub(&self) -> MutexGuard<'_, HashMap<HubName, Taker>> {
        self.by_hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on connections for the hub go to this link.
    pub(super) fn put(&self, shared: Arc<Shared>, connections: mpsc::Sender<Connection>) {
        self.by_hub().insert(shared.hub.name().clone(), Taker { shared, connections });
    }

    /// The link takes none any more.
    pub(super) fn remove(&self, shared: &Arc<Shared>) {
        let mut by_hub = self.by_hub();
        if by_hub.get(shared.hub.name()).is_some_and(|taker| Arc::ptr_eq(&taker.shared, shared)) {
            by_hub.remove(shared.hub.name());
        }
    }

    /// Reads what a peer wants and hands its connection over. The peer is greeted.
    pub(super) async fn take(
        &self,
        mut reader: FrameReader,
        mut writer: FrameWriter,
        proof: &Proof,
    ) -> Result<(), SetupError> {
        let Frame { token, message } = reader.next(HELLO_MAX, HANDSHAKE_MAX, |_| {}).await?;
        let Message::Hello(hello) = message else { return Err(SetupError::NoHello) };
        let found = self.by_hub().get(&hello.hub).cloned();
        let Some(taker) = found else {
            let why = format!("there is no link of {} here: is the item a target of this region?", hello.hub);
            return refuse(&mut writer, token, why).await;
        };
        if let Err(why) = proof.check(&hello.from).and_then(|()| taker.shared.check(&hello)) {
            return refuse(&mut writer, token, why).await;
        }
        if let Err(stale) = taker.shared.fence.see(token) {
            return refuse(&mut writer, stale.highest, stale.to_string()).await;
        }
        let connection = Connection { reader, writer, hello: *hello, unanswered: true };
        // A link that is ending closes it; the peer comes again.
        drop(taker.connections.send(connection).await);
        Ok(())
    }
}

async fn refuse(
    writer: &mut FrameWriter,
    token: farshore_core::ids::Token,
    why: String,
) -> Result<(), SetupError> {
    let frame = Frame { token, message: Message::Refused(why.clone()) };
    writer.say(&frame, SILENCE_MAX).await?;
    Err(SetupError::Misdirected(why))
}

/// Where a node is reached by the links of its partners.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The cluster's.
    pub secret: Secret,
    /// `None`: loopback addresses only.
    pub tls: Option<ListenerTls>,
}

/// How a listener knows who dials it.
#[derive(Clone)]
pub struct ListenerTls {
    /// Must require the certificate of a node.
    pub config: Arc<ServerConfig>,
    /// Which region's.
    pub region_of: RegionOf,
}

/// Which region's node a certificate names that the handshake has believed.
pub type RegionOf = Arc<dyn Fn(&CertificateDer<'_>) -> Option<Region> + Send + Sync>;

impl fmt::Debug for ListenerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListenerTls")
    }
}

/// What a peer has proved, beside knowing the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// Nothing: it is on this host.
    Loopback,
    /// It has a certificate of this region; `None`: of none.
    Certificate(Option<Region>),
}

impl Proof {
    /// A node of a region speaks for that region only.
    fn check(&self, claims: &Region) -> Result<(), String> {
        match self {
            Self::Loopback => Ok(()),
            Self::Certificate(Some(shown)) if shown == claims => Ok(()),
            Self::Certificate(Some(shown)) => Err(format!(
                "a node of {shown} cannot speak for {claims}: is its region's name right in its configuration?"
            )),
            Self::Certificate(None) => {
                Err(format!("the certificate names no region, and it speaks for {claims}"))
            }
        }
    }
}

/// Takes the connections of all links of a node.
#[derive(Debug)]
pub struct LinkListener {
    address: SocketAddr,
    takers: Arc<Takers>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl LinkListener {
    /// Listens from its return on.
    ///
    /// # Errors
    /// When the address cannot be had, or is not a loopback address and there is no TLS.
    pub async fn bind(options: ListenerOptions) -> io::Result<Self> {
        if options.tls.is_none() {
            loopback_only(options.listen, "listen for links")?;
        }
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let takers = Arc::new(Takers::default());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, options, Arc::clone(&takers), stopped));
        Ok(Self { address, takers, stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts nothing more. Links that are established go on.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }

    pub(super) fn takers(&self) -> Arc<Takers> {
        Arc::clone(&self.takers)
    }
}

/// Plain text never leaves the host.
pub(super) fn loopback_only(address: SocketAddr, what: &str) -> io::Result<()> {
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let text = format!(
        "refusing to {what} at {address} without TLS: run farshore init and set trust, or use a loopback address"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

async fn accept(
    listener: TcpListener,
    options: ListenerOptions,
    takers: Arc<Takers>,
    mut stopped: watch::Receiver<bool>,
) {
    let options = Arc::new(options);
    let turns = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let accepted = tokio::select! {
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Over the limit: closed at once, the partner comes again.
        let Ok(turn) = Arc::clone(&turns).try_acquire_owned() else { continue };
        let (options, takers) = (Arc::clone(&options), Arc::clone(&takers));
        handshakes.spawn(async move {
            let result = timeout(HANDSHAKE_MAX, welcome(stream, &options, &takers)).await;
            drop(turn);
            if let Err(error) = result.unwrap_or(Err(SetupError::TooSlow(HANDSHAKE_MAX))) {
                tracing::info!(%peer, %error, "a link was not taken");
            }
        });
    }
}

async fn welcome(stream: TcpStream, options: &ListenerOptions, takers: &Takers) -> Result<(), SetupError> {
    stream.set_nodelay(true)?;
    let ((mut reader, mut writer), proof) = match &options.tls {
        Some(ListenerTls { config, region_of }) => {
            let stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let proof = Proof::Certificate(shown.and_then(|shown| region_of(shown)));
            (halves(stream), proof)
        }
        None => (halves(stream), Proof::Loopback),
    };
    greet(Side::Listener, &options.secret, &mut reader, &mut writer, SILENCE_MAX).await?;
    takers.take(reader, writer, &proof).await
}
