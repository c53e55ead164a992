//! One look at a member, from end to end: a message goes in by REST and must come out at a client.
//!
//! The client stays connected between looks, under a user id of its own. Regions of ours know it as a probe: they do not
//! count it, do not ask their event handlers about it and do not send it what is for everybody. Other servers do: that is
//! read and thrown away.

use std::io;
use std::time::{Duration, Instant};

use farshore_core::moment::Moment;
use serde_json::json;

use super::place::{NoReply, Place, Reply, ws_of};
use super::verdict::Round;
use super::wire::Wire;
use crate::hub::call::{Call, Scope};
use crate::live::now;
use crate::names::UserId;
use crate::token::{self, AccessKey};
use crate::ws::client::{ConnectError, OwnedIncoming, WsClient};

/// Each step of a round, connecting and the message, may take this long. An overloaded region is slower than a dead one is
/// missed.
const STEP_MAX: Duration = Duration::from_secs(1);
/// Checked at connecting only.
const TOKEN_SECONDS: u64 = 600;

/// The claim that tells the client of a probe from others: no event handler is asked about it and nobody counts it. Only
/// who has a key of the hub can say it.
pub const PROBE_CLAIM: &str = "farshore.probe";

/// Names of users that are probes begin so.
const PROBE_USER: &str = "farshore-probe-";

/// Whether a call is a probe's message to itself: no operator wants to see it counted.
pub(crate) fn is_for_one(call: &Call) -> bool {
    matches!(call, Call::Send { to: Scope::User(user), .. } if user.as_str().starts_with(PROBE_USER))
}

/// The looking eye of one member.
#[derive(Debug)]
pub(super) struct Probe {
    user: UserId,
    client: Option<WsClient>,
    /// Bad rounds in a row on this connection.
    bad: u8,
}

/// The connection of a probe has ended: a reason to look at once.
#[derive(Debug)]
pub(super) struct Ended;

impl Probe {
    pub(super) fn new() -> Self {
        let user = format!("{PROBE_USER}{:032x}", rand::random::<u128>());
        let user = UserId::parse(&user).expect("letters, hyphens and digits are a user id");
        Self { user, client: None, bad: 0 }
    }

    /// Sends one message around.
    pub(super) async fn round(&mut self, place: &Place) -> Round {
        let round = self.look(place).await;
        match &round {
            Round::Good(_) => self.bad = 0,
            Round::Refused(_) => self.client = None,
            // One message may be lost on a good connection, and a new one may have to wait behind thousands of clients.
            Round::Bad(_) if self.bad == 0 => self.bad = 1,
            Round::Bad(_) => {
                self.client = None;
                self.bad = 0;
            }
        }
        round
    }

    async fn look(&mut self, place: &Place) -> Round {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => match connect(place, &self.user).await {
                Ok(client) => client,
                Err(round) => return round,
            },
        };
        let started = Instant::now();
        let word = format!("{:032x}", rand::random::<u128>());
        let wire = Wire::text_to_user(&self.user, &word);
        let sent = async { sent(place.ask(&wire).await).map_err(|round| (round, Connection::MayBeGood)) };
        let heard = async { hear(&mut client, &word).await.map_err(|round| (round, Connection::IsBroken)) };
        // The first failure ends the round: a refused connection is known at once.
        let both = async { tokio::try_join!(sent, heard) };
        let round = match tokio::time::timeout(STEP_MAX, both).await {
            Ok(Ok(_)) => Round::Good(started.elapsed()),
            Ok(Err((round, Connection::IsBroken))) => return round,
            Ok(Err((round, Connection::MayBeGood))) => round,
            Err(_) => Round::Bad(format!("a message did not come through within {STEP_MAX:?}")),
        };
        self.client = Some(client);
        round
    }

    /// Reads what nobody waits for, until the connection ends. Never returns without one.
    pub(super) async fn drain(&mut self) -> Ended {
        let Some(client) = &mut self.client else { return std::future::pending().await };
        loop {
            match client.next().await {
                Ok(Some(OwnedIncoming::Close { .. }) | None) | Err(_) => break,
                Ok(Some(_)) => {}
            }
        }
        self.client = None;
        Ended
    }
}

/// What a failed round says of the probe's own connection.
#[derive(Debug)]
enum Connection {
    MayBeGood,
    IsBroken,
}

/// What the answer to the message says.
fn sent(reply: Result<Reply, NoReply>) -> Result<(), Round> {
    match reply {
        Ok(reply) if reply.status.is_success() => Ok(()),
        Ok(reply) => Err(Round::Bad(format!("it answered {} to a message", reply.status.as_u16()))),
        Err(NoReply::Refused(why)) => Err(Round::Refused(why)),
        Err(error) => Err(Round::Bad(format!("a message could not be sent: {}", error.why()))),
    }
}

/// Waits for a word.
async fn hear(client: &mut WsClient, word: &str) -> Result<(), Round> {
    let broke = |why: String| Err(Round::Bad(format!("a client's connection broke: {why}")));
    loop {
        match client.next().await {
            Ok(Some(OwnedIncoming::Text(text))) if text == word => return Ok(()),
            Ok(Some(OwnedIncoming::Close { code, reason })) => {
                return broke(format!("closed with {} {reason}", code.unwrap_or_default()));
            }
            Ok(None) => return broke("it ended".to_owned()),
            Ok(Some(_)) => {}
            Err(error) => return broke(error.to_string()),
        }
    }
}

/// Connects, under each key until one is believed.
async fn connect(place: &Place, user: &UserId) -> Result<WsClient, Round> {
    let mut refusal = Round::Bad("there is no key to it".to_owned());
    for key in place.keys() {
        let url = url(place, user, &key, now());
        let connecting = WsClient::connect(&url, &[], &[], place.tls.clone());
        match tokio::time::timeout(STEP_MAX, connecting).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) if error.status() == Some(401) => refusal = round_of(&error),
            Ok(Err(error)) => return Err(round_of(&error)),
            Err(_) => return Err(Round::Bad(format!("a client could not connect within {STEP_MAX:?}"))),
        }
    }
    Err(refusal)
}

fn url(place: &Place, user: &UserId, key: &AccessKey, now: Moment) -> String {
    let (audience, seconds) = (place.audience(), now.0 / 1_000_000);
    let claims = json!({
        "aud": audience, "sub": user.as_str(), "iat": seconds, "exp": seconds + TOKEN_SECONDS, PROBE_CLAIM: true,
    });
    format!("{}?access_token={}", ws_of(&audience), token::sign(&claims, key))
}

fn round_of(error: &ConnectError) -> Round {
    match error {
        ConnectError::Io { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
            Round::Refused(source.to_string())
        }
        ConnectError::Io { source, .. } => Round::Bad(format!("a client could not connect: {source}")),
        error => Round::Bad(format!("a client could not connect: {error}")),
    }
}
