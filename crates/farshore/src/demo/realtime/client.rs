//! One reliable client, which does what the official JavaScript client (1.1.0) does: acknowledges each second, drops what comes
//! again under its old number, comes back at once and then each second to the same URL, and begins anew only when it is told
//! that its session is gone, or after half a minute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farshore_realtime::ws::client::{OwnedIncoming, WsClient};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::hub::{Hub, Shore};
use super::tally::Tally;

/// Between two attempts to come back.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);
/// For as long a session is asked for.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(30);
const ACKNOWLEDGE_EVERY: Duration = Duration::from_secs(1);
const PING_EVERY: Duration = Duration::from_secs(20);
/// Close code of a session that cannot be recovered.
const GONE: u16 = 1008;
/// Close code with which a client answers a close frame.
const NORMAL: u16 = 1000;

/// What is known of a client from outside.
#[derive(Debug, Default)]
pub(super) struct Member {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) tally: Tally,
    /// It has a connection on which the hub has spoken.
    pub(super) is_connected: bool,
    /// When its session went on, on another connection: the first frame of each.
    pub(super) back: Vec<Instant>,
    /// How often it had to begin anew.
    pub(super) anew: u64,
}

impl Member {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the client reads of a frame.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    event: Option<String>,
    connection_id: Option<String>,
    reconnection_token: Option<String>,
    sequence_id: Option<u64>,
    data: Option<Body>,
}

/// What the application reads of a message.
#[derive(Debug, Deserialize)]
struct Body {
    number: usize,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The session is gone, or there is no hope left.
    Gone,
    Broken,
}

/// What a client keeps over several connections.
#[derive(Debug, Default)]
struct Session {
    connection: Option<(String, String)>,
    sequence: u64,
    acknowledged: u64,
}

/// From the first connection to the end of the act, when it is aborted.
pub(super) async fn live(number: usize, member: Arc<Member>, hub: Arc<Hub>) {
    let mut shore = Shore::Home;
    loop {
        match visits(number, shore, &member, &hub).await {
            // It had a session, which is gone: it begins anew at once.
            Some(()) => member.known().anew += 1,
            None => {
                shore = shore.other();
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
        }
    }
}

/// One session, over all its connections, until it is gone; `None`: there was none.
async fn visits(number: usize, shore: Shore, member: &Member, hub: &Hub) -> Option<()> {
    let url = hub.client_url(shore, number).ok()?;
    let socket = hub.connect(&url).await.ok()?;
    let mut session = Session::default();
    let mut end = session.visit(socket, member, false).await;
    while end == End::Broken {
        end = session.recover(&url, member, hub).await;
    }
    session.connection.map(|_| ())
}

impl Session {
    /// Asks for the session at the URL that is known, however old its token is, until there is a connection again; returns when
    /// that one is over.
    async fn recover(&mut self, url: &str, member: &Member, hub: &Hub) -> End {
        let Some((connection, token)) = &self.connection else { return End::Gone };
        let url = format!("{url}&awps_connection_id={connection}&awps_reconnection_token={token}");
        let attempts = async {
            loop {
                match hub.connect(&url).await {
                    Ok(socket) => return socket,
                    Err(_) => tokio::time::sleep(BETWEEN_ATTEMPTS).await,
                }
            }
        };
        match timeout(RECOVERY_PATIENCE, attempts).await {
            Ok(socket) => self.visit(socket, member, true).await,
            Err(_) => End::Gone,
        }
    }

    /// One connection from its upgrade to its end.
    async fn visit(&mut self, mut socket: WsClient, member: &Member, is_return: bool) -> End {
        let end = self.listen(&mut socket, member, is_return).await;
        member.known().is_connected = false;
        end
    }

    async fn listen(&mut self, socket: &mut WsClient, member: &Member, is_return: bool) -> End {
        let (mut acknowledge, mut ping) = (interval(ACKNOWLEDGE_EVERY), interval(PING_EVERY));
        acknowledge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ping.reset();
        loop {
            let said = tokio::select! {
                incoming = socket.next() => match incoming {
                    Ok(Some(OwnedIncoming::Text(text))) => {
                        self.hear(&text, member, is_return);
                        Ok(())
                    }
                    Ok(Some(OwnedIncoming::Close { code, .. })) => {
                        // A courtesy: the connection is over in any case.
                        let _ = socket.close(code.unwrap_or(NORMAL), "").await;
                        return if code == Some(GONE) { End::Gone } else { End::Broken };
                    }
                    Ok(Some(_)) => Ok(()),
                    Ok(None) | Err(_) => return End::Broken,
                },
                _ = acknowledge.tick() => self.acknowledge(socket).await,
                _ = ping.tick() => socket.send_text(r#"{"type":"ping"}"#).await,
            };
            if said.is_err() {
                return End::Broken;
            }
        }
    }

    async fn acknowledge(&mut self, socket: &mut WsClient) -> std::io::Result<()> {
        if self.sequence == self.acknowledged {
            return Ok(());
        }
        self.acknowledged = self.sequence;
        let frame = json!({"type": "sequenceAck", "sequenceId": self.sequence});
        socket.send_text(&frame.to_string()).await
    }

    fn hear(&mut self, text: &str, member: &Member, is_return: bool) {
        // What it does not know is not for this client.
        let Ok(frame) = serde_json::from_str::<Frame>(text) else { return };
        let mut known = member.known();
        if !known.is_connected {
            known.is_connected = true;
            if is_return {
                known.back.push(Instant::now());
            }
        }
        match frame.kind.as_str() {
            "system" if frame.event.as_deref() == Some("connected") => {
                if let (Some(connection), Some(token)) = (frame.connection_id, frame.reconnection_token) {
                    self.connection = Some((connection, token));
                }
            }
            "message" if self.is_new(frame.sequence_id) => {
                if let Some(body) = frame.data {
                    known.tally.note(body.number);
                }
            }
            _ => {}
        }
    }

    /// What was sent again under its old number is not shown to the application a second time.
    fn is_new(&mut self, sequence: Option<u64>) -> bool {
        let Some(sequence) = sequence else { return true };
        let is_new = sequence > self.sequence;
        self.sequence = self.sequence.max(sequence);
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_once_under_its_number_and_again_under_another() {
        let (mut session, member) = (Session::default(), Member::default());
        let message = |sequence: u64, number: usize| {
            format!(
                r#"{{"type":"message","from":"server","dataType":"json","data":{{"number":{number}}},"sequenceId":{sequence}}}"#
            )
        };
        for (sequence, number) in [(1, 1), (2, 2), (1, 1), (2, 2), (3, 2)] {
            session.hear(&message(sequence, number), &member, true);
        }
        let known = member.known();
        assert_eq!((known.tally.messages(), known.tally.duplicates()), (2, 1));
        assert_eq!((known.back.len(), session.sequence), (1, 3));
    }

    #[test]
    fn the_newest_token_is_the_one_to_come_back_with() {
        let (mut session, member) = (Session::default(), Member::default());
        for token in ["old", "new"] {
            let frame = json!({"type": "system", "event": "connected", "connectionId": "c", "reconnectionToken": token});
            session.hear(&frame.to_string(), &member, false);
        }
        assert_eq!(session.connection, Some(("c".to_owned(), "new".to_owned())));
        assert!(member.known().back.is_empty());
    }
}
