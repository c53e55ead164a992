//! One device that asks where it belongs: its packets in, the answers out.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farshore_core::moment::Moment;
use futures_util::future::BoxFuture;
use rmqtt_codec::types::{MQTT_LEVEL_311, Publish, QoS};
use rmqtt_codec::v3::{Connect, ConnectAck, ConnectAckReason, Packet, SubscribeReturnCode};
use tokio::time::timeout;
use tracing::debug;

use super::answer::{ANSWERS, Answer, Asked, Registering, operation};
use super::proof::{self, Claim};
use super::{Admission, Behind, Known, Request};
use crate::mqtt::listener::{Arrived, Origin, Serve, Stop};
use crate::mqtt::wire::Wire;

/// Longest packet: a token, or what a device sends along.
const PACKET_MAX: usize = 16 * 1024;
/// For the first packet after the transport stands.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);
/// For a device that wants no keep-alive: nobody registers for longer.
const SILENT_MAX: Duration = Duration::from_secs(600);
/// The hub's time for an answer; the official SDKs give up after 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// When to ask again a hub that did not answer.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// For written answers to leave. A device that does not read them is cut.
const WRITE_WITHIN: Duration = Duration::from_secs(30);

/// Serves the provisioning protocol over MQTT 3.1.1: one of the two things a listener of devices can serve.
pub struct Provisioning {
    behind: Arc<dyn Behind>,
    clock: fn() -> Moment,
}

impl Provisioning {
    /// `clock` tells when a token ends.
    #[must_use]
    pub fn new(behind: Arc<dyn Behind>, clock: fn() -> Moment) -> Self {
        Self { behind, clock }
    }
}

impl fmt::Debug for Provisioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provisioning").field("behind", &self.behind).finish_non_exhaustive()
    }
}

impl Serve for Provisioning {
    fn serve(&self, arrived: Arrived, mut stop: Stop) -> BoxFuture<'static, ()> {
        let (behind, clock) = (Arc::clone(&self.behind), self.clock);
        Box::pin(async move {
            let Arrived { link, origin, place } = arrived;
            let mut wire = Wire::new(link, PACKET_MAX);
            let serving = async {
                let greeted = greet(&mut wire, origin, behind.as_ref(), clock).await;
                drop(place);
                if let Some(mut guest) = greeted {
                    guest.serve(&mut wire, behind.as_ref(), clock).await;
                }
            };
            // An answer that is lost is asked for again: there is nothing to wait for.
            tokio::select! {
                () = serving => {}
                () = stop.soon() => {}
            }
        })
    }
}

/// Waits for the first packet and answers it; `None`: the device does not stay.
async fn greet(wire: &mut Wire, origin: Origin, behind: &dyn Behind, clock: fn() -> Moment) -> Option<Guest> {
    let peer = origin.peer;
    let Ok(Some(Packet::Connect(connect))) = timeout(CONNECT_WITHIN, next(wire)).await else { return None };
    let keep_alive = Duration::from_secs(u64::from(connect.keep_alive)) * 3 / 2;
    let verdict = match claim(*connect, origin) {
        Ok(claim) => believed(claim, behind, clock).await,
        Err(code) => Err(code),
    };
    let code = verdict.as_ref().err().copied().unwrap_or(ConnectAckReason::ConnectionAccepted);
    debug!(%peer, ?code, "a device wants to be provisioned");
    let packet = Packet::ConnectAck(ConnectAck { return_code: code, session_present: false });
    send(wire, packet).await?;
    let silent = if keep_alive.is_zero() { SILENT_MAX } else { keep_alive };
    verdict.ok().map(|claim| Guest { claim, silent, granted: None, packets: 0 })
}

fn claim(connect: Connect, origin: Origin) -> Result<Claim, ConnectAckReason> {
    if connect.protocol.level() != MQTT_LEVEL_311 {
        return Err(ConnectAckReason::UnacceptableProtocolVersion);
    }
    let named = connect.username.as_deref().and_then(proof::username);
    let (scope, registration) = named.ok_or(ConnectAckReason::BadUserNameOrPassword)?;
    if *connect.client_id != *registration.as_str() {
        return Err(ConnectAckReason::IdentifierRejected);
    }
    let password = connect.password.filter(|password| !password.is_empty());
    let token = password.map(|password| String::from_utf8(password.to_vec())).transpose();
    let token = token.map_err(|_| ConnectAckReason::BadUserNameOrPassword)?;
    Ok(Claim { scope, registration, token, certificates: origin.certificates })
}

/// Refuses what is known to be wrong. When nobody can tell, the device comes in and is told to ask again: refused, some SDKs
/// would give up.
async fn believed(
    claim: Claim,
    behind: &dyn Behind,
    clock: fn() -> Moment,
) -> Result<Claim, ConnectAckReason> {
    match proof::admitted(&claim, &known(&claim, behind).await, clock()) {
        Some(Err(why)) => {
            debug!(registration = %claim.registration, %why, "a registration is not believed");
            Err(ConnectAckReason::NotAuthorized)
        }
        Some(Ok(_)) | None => Ok(claim),
    }
}

async fn known(claim: &Claim, behind: &dyn Behind) -> Known {
    let known = timeout(ANSWER_WITHIN, behind.known(&claim.scope, &claim.registration)).await;
    known.unwrap_or(Known::NotNow { retry_after: ASK_AGAIN_AFTER })
}

/// A device that was let in.
struct Guest {
    claim: Claim,
    silent: Duration,
    /// The quality of its subscription to answers.
    granted: Option<QoS>,
    packets: u16,
}

impl Guest {
    /// Until the device leaves, is silent for too long, or does what cannot be done here.
    async fn serve(&mut self, wire: &mut Wire, behind: &dyn Behind, clock: fn() -> Moment) {
        while let Ok(Some(packet)) = timeout(self.silent, next(wire)).await {
            let went_on = match packet {
                Packet::Publish(publish) => self.published(wire, *publish, behind, clock).await,
                Packet::Subscribe { packet_id, topic_filters } => {
                    let status =
                        topic_filters.iter().map(|(filter, qos)| self.subscribed(filter, *qos)).collect();
                    send(wire, Packet::SubscribeAck { packet_id, status }).await
                }
                Packet::Unsubscribe { packet_id, .. } => {
                    self.granted = None;
                    send(wire, Packet::UnsubscribeAck { packet_id }).await
                }
                Packet::PingRequest => send(wire, Packet::PingResponse).await,
                // Answers are small and repeatable: whether one arrived is not waited for.
                Packet::PublishAck { .. } => Some(()),
                _ => None,
            };
            if went_on.is_none() {
                break;
            }
        }
    }

    fn subscribed(&mut self, filter: &str, qos: QoS) -> SubscribeReturnCode {
        if filter != ANSWERS {
            return SubscribeReturnCode::Failure;
        }
        let granted = if qos == QoS::AtMostOnce { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        self.granted = Some(granted);
        SubscribeReturnCode::Success(granted)
    }

    async fn published(
        &mut self,
        wire: &mut Wire,
        publish: Publish,
        behind: &dyn Behind,
        clock: fn() -> Moment,
    ) -> Option<()> {
        let asked = Asked::read(&publish.topic)?;
        match (publish.qos, publish.packet_id) {
            (QoS::AtMostOnce, _) => {}
            (QoS::AtLeastOnce, Some(packet_id)) => send(wire, Packet::PublishAck { packet_id }).await?,
            _ => return None,
        }
        let answer = match &asked {
            Asked::Register { .. } => match self.registering(&publish.payload) {
                Ok(payload) => self.assign(payload, behind, clock).await,
                Err(why) => Answer::bad(&why, clock()),
            },
            Asked::Status { operation: asked, .. }
                if *asked == operation(&self.claim.scope, &self.claim.registration) =>
            {
                self.assign(None, behind, clock).await
            }
            Asked::Status { .. } => Answer::no_operation(clock()),
        };
        self.answer(wire, asked.request(), &answer).await
    }

    /// What the device sends along.
    fn registering(&self, body: &[u8]) -> Result<Option<serde_json::Value>, String> {
        let body: Registering =
            serde_json::from_slice(body).map_err(|why| format!("the body is no registration: {why}"))?;
        if body.registration != self.claim.registration.as_str() {
            return Err("the registrationId of the body is not the one in the user name".to_owned());
        }
        Ok(body.payload)
    }

    /// Proof is asked for again each time: between two questions a device may have been disabled.
    async fn assign(
        &self,
        payload: Option<serde_json::Value>,
        behind: &dyn Behind,
        clock: fn() -> Moment,
    ) -> Answer {
        let known = known(&self.claim, behind).await;
        let admission: Admission = match (proof::admitted(&self.claim, &known, clock()), known) {
            (Some(Ok(admission)), _) => admission,
            (Some(Err(why)), _) => {
                debug!(registration = %self.claim.registration, %why, "a registration is not believed");
                return Answer::unauthorized(clock());
            }
            (None, Known::NotNow { retry_after }) => return Answer::later(retry_after),
            (None, _) => return Answer::later(ASK_AGAIN_AFTER),
        };
        let Claim { scope, registration, .. } = &self.claim;
        let assigning = behind.assign(scope, registration, Request { admission, payload });
        match timeout(ANSWER_WITHIN, assigning).await {
            Ok(assignment) => Answer::assignment(scope, registration, &assignment),
            Err(_) => Answer::later(ASK_AGAIN_AFTER),
        }
    }

    /// Answers go only to who has subscribed to them.
    async fn answer(&mut self, wire: &mut Wire, request: &str, answer: &Answer) -> Option<()> {
        let Some(qos) = self.granted else { return Some(()) };
        self.packets = self.packets.checked_add(1).unwrap_or(1);
        let publish = Publish {
            dup: false,
            retain: false,
            qos,
            topic: answer.topic(request).into(),
            packet_id: NonZeroU16::new(self.packets).filter(|_| qos != QoS::AtMostOnce),
            payload: Bytes::from(answer.body.to_string()),
            properties: None,
        };
        send(wire, Packet::Publish(Box::new(publish))).await
    }
}

/// The next packet; `None`: there will be none that can be understood.
async fn next(wire: &mut Wire) -> Option<Packet> {
    loop {
        match wire.packet() {
            Ok(Some(packet)) => return Some(packet),
            Ok(None) if wire.fill().await.is_ok_and(|read| read > 0) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Writes a packet; `None`: the device does not take it.
async fn send(wire: &mut Wire, packet: Packet) -> Option<()> {
    wire.queue(packet).ok()?;
    timeout(WRITE_WITHIN, wire.flush()).await.ok()?.ok()
}
