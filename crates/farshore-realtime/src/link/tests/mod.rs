//! Two hubs and the link between them.

mod hostile;
mod loss;
mod sealed;
mod steady;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use farshore_core::ids::{Epoch, Region, Token};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::dial;
use super::fence::Fence;
use super::greeting::{Side as Role, greet};
use super::listener::{Proof, Takers};
use super::session::{Connection, Shared};
use super::wire::halves;
use super::{ClientConfigs, Link, LinkListener, LinkState, Options, SILENCE_MAX, Secret};
use crate::frames::{Data, Message, Protocol, Sender};
use crate::handler::Handlers;
use crate::hub::call::{Call, Scope};
use crate::hub::outbox::Pulse;
use crate::hub::{ADOPTION_GAP, Arrival, Attached, Seen, SessionCard};
use crate::live::{self, LiveHub, Settings};
use crate::names::{ConnectionId, GroupName, HubName, UserId};
use crate::permission::Permissions;
use crate::token::{AccessKey, AccessKeys};

/// Made once: it reads the system's certificates.
static HANDLERS: LazyLock<Handlers> = LazyLock::new(Handlers::new);

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn connection(number: u64) -> ConnectionId {
    ConnectionId::parse(&format!("c{number}")).unwrap()
}

fn group(number: u64) -> GroupName {
    GroupName::parse(&format!("group {number}")).unwrap()
}

fn token(epoch: u64) -> Token {
    Token::new(1, Epoch(epoch))
}

pub(super) fn settings(version: u64) -> Settings {
    let key = |byte| AccessKey::of([byte; 32]);
    Settings {
        version,
        hub: HubName::parse("chat").unwrap(),
        keys: AccessKeys { primary: key(1), secondary: key(2) },
        audiences: Vec::new(),
        handlers: Vec::new(),
        sharing: Default::default(),
        members: Vec::new(),
    }
}

fn send(to: Scope, text: &str, id: Option<u128>) -> Call {
    let mut message = Message::new(Sender::Server, Data::text(text));
    message.id = id;
    Call::Send { to, message: Arc::new(message), exclude: Vec::new(), filter: None }
}

/// One region's hub and link.
struct Side {
    hub: Arc<LiveHub>,
    link: Link,
    shared: Arc<Shared>,
    fence: Arc<Fence>,
    takers: Arc<Takers>,
    connections: mpsc::Sender<Connection>,
    partner_is_lost: Arc<AtomicBool>,
}

impl Side {
    fn new(own: &str, partner: &str) -> Self {
        Self::of(own, partner, settings(1), 1)
    }

    fn of(own: &str, partner: &str, settings: Settings, epoch: u64) -> Self {
        Self::with(own, partner, settings, epoch, None, Arc::new(Takers::default()))
    }

    /// Under TLS: how it dials, and where it is dialed.
    fn sealed(own: &str, partner: &str, tls: Option<ClientConfigs>, listener: Option<&LinkListener>) -> Self {
        let takers = listener.map(LinkListener::takers).unwrap_or_default();
        Self::with(own, partner, settings(1), 1, tls, takers)
    }

    fn with(
        own: &str,
        partner: &str,
        settings: Settings,
        epoch: u64,
        tls: Option<ClientConfigs>,
        takers: Arc<Takers>,
    ) -> Self {
        let hub = LiveHub::new(settings, HANDLERS.clone(), true);
        hub.serve(true);
        let (fence, partner_is_lost) = (Fence::new(token(epoch)), Arc::new(AtomicBool::new(false)));
        let is_lost = Arc::clone(&partner_is_lost);
        let options = Options {
            hub: Arc::clone(&hub),
            region: region(own),
            partner: region(partner),
            dial: None,
            secret: Secret::new("secret"),
            tls,
            fence: Arc::clone(&fence),
            partner_is_lost: Arc::new(move || is_lost.load(Ordering::SeqCst)),
        };
        let (link, connections) = Link::start(options, Some(Arc::clone(&takers)));
        let shared = Arc::clone(&link.shared);
        Self { hub, link, shared, fence, takers, connections, partner_is_lost }
    }

    fn open(&self, number: u64) -> Attached {
        self.open_as(number, Protocol::ReliableJson)
    }

    fn open_as(&self, number: u64, protocol: Protocol) -> Attached {
        let arrival = Arrival {
            connection: connection(number),
            user: Some(UserId::parse(&format!("user {}", number % 3)).unwrap()),
            protocol,
            permissions: Permissions::from_roles(&[
                "webpubsub.joinLeaveGroup".into(),
                "webpubsub.sendToGroup".into(),
            ]),
            groups: vec![group(number % 2)],
            state: None,
        };
        let seen = Seen { pulse: Pulse(0), now: live::now(), follows: true };
        self.hub.with(|hub| hub.open(arrival, None, seen))
    }

    /// Without waiting for the other region.
    fn call(&self, call: Call) {
        self.hub.change(|hub| hub.call(call, live::now()));
    }

    fn owns(&self, number: u64) -> bool {
        self.shared.owns(&connection(number))
    }

    /// Everything here is there, as far as the partner has said.
    fn is_level(&self) -> bool {
        let status = self.link.status();
        status.state == LinkState::Connected && status.lag_records() == 0 && self.hub.is_partner_here()
    }

    /// Its reliable sessions, so that they can be compared.
    fn cards(&self) -> Vec<SessionCard> {
        let mut cards = self.hub.snapshot().sessions;
        cards.sort_by(|one, other| one.connection.cmp(&other.connection));
        cards.iter_mut().for_each(|card| card.attached = false);
        cards
    }
}

/// Waits until something is so.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until each has all of the other.
async fn level(one: &Side, other: &Side) {
    let until = Instant::now() + Duration::from_secs(20);
    while !(one.is_level() && other.is_level()) {
        assert!(Instant::now() < until, "{:#?} {:#?}", one.link.status(), other.link.status());
        sleep(Duration::from_millis(2)).await;
    }
}

/// Connects `dialer` with `listener` by these two ends. False: one of them did not want to, or the line was cut.
async fn join<S>(dialer: &Side, listener: &Side, near: S, far: S) -> bool
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let secret = Secret::new("secret");
    let listens = async {
        let (mut reader, mut writer) = halves(far);
        greet(Role::Listener, &secret, &mut reader, &mut writer, SILENCE_MAX).await.ok()?;
        listener.takers.take(reader, writer, &Proof::Loopback).await.ok()
    };
    let dials = async {
        let (mut reader, mut writer) = halves(near);
        greet(Role::Dialer, &secret, &mut reader, &mut writer, SILENCE_MAX).await.ok()?;
        let connection = dial::ask(&dialer.shared, reader, writer).await.ok()?;
        dialer.connections.send(connection).await.ok()
    };
    let (listened, dialed) = tokio::join!(listens, dials);
    listened.is_some() && dialed.is_some()
}

async fn plug(dialer: &Side, listener: &Side) {
    let (near, far) = duplex(4096);
    assert!(join(dialer, listener, near, far).await);
}

/// A line whose bytes pass one place.
#[derive(Debug, Clone)]
struct Line {
    frozen: Arc<AtomicBool>,
}

/// Two ends; `forth` and `back`: how many bytes pass before the line is cut.
fn line(forth: usize, back: usize) -> (DuplexStream, DuplexStream, Line) {
    let line = Line { frozen: Arc::default() };
    let ((near, left), (right, far)) = (duplex(4096), duplex(4096));
    let (left_read, left_write) = tokio::io::split(left);
    let (right_read, right_write) = tokio::io::split(right);
    let (one, other) = (line.clone(), line.clone());
    tokio::spawn(async move {
        // Whichever ends first ends both: a line is cut as a whole.
        tokio::select! {
            () = pump(left_read, right_write, forth, one) => {}
            () = pump(right_read, left_write, back, other) => {}
        }
    });
    (near, far, line)
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut budget: usize,
    line: Line,
) {
    let mut buf = [0; 1024];
    while budget > 0 {
        let most = budget.min(buf.len());
        let Ok(read @ 1..) = from.read(&mut buf[..most]).await else { return };
        while line.frozen.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(10)).await;
        }
        if to.write_all(&buf[..read]).await.is_err() {
            return;
        }
        budget -= read;
    }
    let _ = to.flush().await;
}

/// What `copy` has of `original`'s sessions is what `original` has. Ends `copy`: its copies become its own.
async fn assert_same(original: &Side, copy: &Side) {
    let expected = original.cards();
    let own: Vec<_> = copy.cards().into_iter().map(|card| card.connection).collect();
    copy.link.stop().await;
    copy.hub.adopt();
    let mut found = copy.cards();
    found.retain(|card| !own.contains(&card.connection));
    assert_eq!(found.len(), expected.len());
    for (mut card, expected) in found.into_iter().zip(expected) {
        card.last -= ADOPTION_GAP;
        card.events -= ADOPTION_GAP;
        let bytes = |card: &SessionCard| postcard::to_allocvec(card).unwrap();
        assert!(bytes(&card) == bytes(&expected), "{card:#?} {expected:#?}");
    }
}
