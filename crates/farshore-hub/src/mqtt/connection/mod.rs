//! One connection, from its first byte to its last: one task each.
//!
//! Read in this order: `hello` (the first packet understood), this file (waiting for it, and for the hub's verdict), `acks`,
//! `requests` and `deliveries` (what is under way in either direction), `live` (the loop).

mod acks;
mod deliveries;
mod hello;
mod live;
mod requests;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;
use futures_util::future::BoxFuture;
use rmqtt_codec::v3::{ConnectAck, ConnectAckReason, Packet};
use tokio::time::timeout;
use tracing::debug;

use self::hello::{Introduced, Refusal};
use self::live::Live;
use super::behind::{Behind, Hello, Session, Telemetered, Verdict};
use super::listener::{Arrived, Origin, Serve, Stop};
use super::wire::Wire;

/// Longest body of a message from a device; the official SDKs know the same.
pub const MESSAGE_MAX: usize = 256 * 1024;
/// Longest packet from a device: a message, the longest topic that MQTT knows, and the headers.
const PACKET_MAX: usize = MESSAGE_MAX + 64 * 1024 + 16;
/// Longest first packet: a will and the longest token; less than a packet, because anybody may send one.
const CONNECT_MAX: usize = 72 * 1024;
/// For the first packet after the transport stands; a device that is behind a slow link needs one round trip.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// A hub answers earlier; this is the longest that the official SDKs wait at all.
const VERDICT_WITHIN: Duration = Duration::from_secs(60);
/// What a device may send while it waits for its CONNACK; then it is not read until it has it.
const EAGER_MAX: usize = 64 * 1024;
/// How the official SDK for Python names itself in its user name.
const PYTHON_SDK: &str = "DeviceClientType=azure-iot-device-iothub-py";
/// For a last word to leave before the connection is cut.
const LAST_WORD_WITHIN: Duration = Duration::from_secs(5);

/// Serves devices that speak MQTT 3.1.1, for the hub behind it.
pub struct Mqtt {
    behind: Arc<dyn Behind>,
    clock: fn() -> Moment,
}

impl Mqtt {
    /// `clock` tells when a token ends.
    #[must_use]
    pub fn new(behind: Arc<dyn Behind>, clock: fn() -> Moment) -> Self {
        Self { behind, clock }
    }
}

impl fmt::Debug for Mqtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mqtt").field("behind", &self.behind).finish_non_exhaustive()
    }
}

impl Serve for Mqtt {
    fn serve(&self, arrived: Arrived, stop: Stop) -> BoxFuture<'static, ()> {
        Box::pin(serve(Arc::clone(&self.behind), self.clock, arrived, stop))
    }
}

async fn serve(behind: Arc<dyn Behind>, clock: fn() -> Moment, arrived: Arrived, mut stop: Stop) {
    // In boxes of their own: what they need is gone while the connection lives.
    let greeted = tokio::select! {
        greeted = Box::pin(greet(behind, arrived)) => greeted,
        () = stop.soon() => None,
    };
    if let Some((wire, guest)) = greeted {
        let now = clock();
        Live::new(wire, guest, now).run(stop).await;
    }
}

/// A connection that was let in.
struct Guest {
    hello: Greeted,
    session: Arc<dyn Session>,
    will: Option<Telemetered>,
}

/// What of a hello is still needed then.
struct Greeted {
    key: crate::names::Key,
    keep_alive: Duration,
}

/// Waits for the first packet and for the verdict about it, and tells the device. `None`: it is over.
async fn greet(behind: Arc<dyn Behind>, arrived: Arrived) -> Option<(Wire, Guest)> {
    let Arrived { link, origin, place } = arrived;
    let peer = origin.peer;
    let mut wire = Wire::new(link, CONNECT_MAX);
    let introduced = match timeout(CONNECT_WITHIN, first(&mut wire, origin)).await {
        Ok(Some(introduced)) => introduced,
        Ok(None) | Err(_) => return None,
    };
    drop(place);
    let Introduced { hello, will } = match introduced {
        Ok(introduced) => introduced,
        Err(refusal) => {
            debug!(%peer, "refused: {refusal}");
            if let Refusal::Code { code, .. } = refusal {
                refuse(&mut wire, code).await;
            }
            return None;
        }
    };
    let greeted = Greeted { key: hello.key.clone(), keep_alive: hello.keep_alive };
    let (clean, is_lost_by_codes) = (hello.clean, is_lost_by_codes(&hello.query));
    let session = match verdict(&*behind, hello, &mut wire).await? {
        Verdict::Open(session) => session,
        Verdict::Unavailable if is_lost_by_codes => {
            debug!(%peer, key = %greeted.key, "not admitted: hung up on");
            let _ = timeout(LAST_WORD_WITHIN, last_word(&mut wire)).await;
            return None;
        }
        verdict => {
            debug!(%peer, key = %greeted.key, "not admitted: {verdict:?}");
            refuse(&mut wire, code_of(&verdict)).await;
            return None;
        }
    };
    let session_present = !clean && session.is_present();
    let accepted = ConnectAck { return_code: ConnectAckReason::ConnectionAccepted, session_present };
    wire.queue(Packet::ConnectAck(accepted)).ok()?;
    wire.allow(PACKET_MAX);
    Some((wire, Guest { hello: greeted, session, will }))
}

/// Reads until the first packet is whole. `None`: the other side went away.
async fn first(wire: &mut Wire, origin: Origin) -> Option<Result<Introduced, Refusal>> {
    loop {
        match wire.packet() {
            Ok(Some(packet)) => return Some(hello::introduced(packet, origin)),
            Ok(None) => {}
            Err(error) => return Some(Err(hello::unreadable(&error))),
        }
        // What does not begin like a CONNECT is not waited for.
        if wire.unread().first().is_some_and(|first| *first != 0x10) {
            return Some(Err(Refusal::Close("it does not begin like MQTT".to_owned())));
        }
        match wire.fill().await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return None,
        }
    }
}

/// Waits for the hub. What the device sends meanwhile is kept for later; `None`: it went away.
async fn verdict(behind: &dyn Behind, hello: Hello, wire: &mut Wire) -> Option<Verdict> {
    let verdict = timeout(VERDICT_WITHIN, behind.admit(hello));
    tokio::pin!(verdict);
    loop {
        tokio::select! {
            verdict = &mut verdict => return Some(verdict.unwrap_or(Verdict::Unavailable)),
            filled = wire.fill(), if wire.unread().len() < EAGER_MAX => match filled {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            },
        }
    }
}

/// Whether this is the official SDK for Python, which takes a return code for two events: that it was refused and, a little later, that
/// its connection ended. When it has something to send it connects again after the first, and the second ends that attempt:
/// sometimes it then waits for ever. A connection that only ends is one event, after which it connects again as well.
fn is_lost_by_codes(query: &str) -> bool {
    query.split('&').any(|pair| pair.starts_with(PYTHON_SDK))
}

fn code_of(verdict: &Verdict) -> ConnectAckReason {
    match verdict {
        Verdict::Open(_) => ConnectAckReason::ConnectionAccepted,
        Verdict::BadIdentifier => ConnectAckReason::IdentifierRejected,
        Verdict::Unavailable => ConnectAckReason::ServiceUnavailable,
        Verdict::BadCredentials => ConnectAckReason::BadUserNameOrPassword,
        Verdict::Unauthorized => ConnectAckReason::NotAuthorized,
    }
}

async fn refuse(wire: &mut Wire, return_code: ConnectAckReason) {
    let refused = ConnectAck { return_code, session_present: false };
    if wire.queue(Packet::ConnectAck(refused)).is_ok() {
        let _ = timeout(LAST_WORD_WITHIN, last_word(wire)).await;
    }
}

/// Writes what is queued and waits for the other side to close: closed earlier, with something of it unread, TCP would take back
/// what was just written.
async fn last_word(wire: &mut Wire) {
    if wire.finish().await.is_ok() {
        wire.discard();
        while let Ok(1..) = wire.fill().await {
            wire.discard();
        }
    }
}
