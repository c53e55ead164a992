//! What is spoken to, and how: the protocols of Farshore's clients and of its peers.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::Deserialize;
use serde_json::json;

use crate::frames::{TEXT, frame};

/// A server and a way to be its client.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    pub(crate) protocol: Protocol,
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) path: String,
    /// Where a client whose session is gone begins anew; `host:port`.
    #[serde(default)]
    pub(crate) fallback: Option<String>,
    /// Every client has a name and a token of its own.
    #[serde(default)]
    pub(crate) token: Option<TokenMaker>,
}

/// What is said over the WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// Nothing: a message is a frame.
    Plain,
    Json,
    ReliableJson,
    SocketIo,
    Nats,
}

/// Signs the clients' tokens, as an application's server does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenMaker {
    audience: String,
    key: String,
    /// Seconds since 1970.
    expires: u64,
}

/// What a client that is not yet ready does about a payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It can receive messages now.
    Ready,
    Say(&'static str),
    Wait,
}

impl Protocol {
    pub(crate) fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Json => Some("json.webpubsub.azure.v1"),
            Self::ReliableJson => Some("json.reliable.webpubsub.azure.v1"),
            Self::Plain | Self::SocketIo | Self::Nats => None,
        }
    }

    /// Whether the server speaks first.
    pub(crate) fn greets(self) -> bool {
        self != Self::Plain
    }

    /// Brings a new connection to where it receives messages.
    pub(crate) fn step(self, payload: &[u8]) -> Step {
        match self {
            Self::Plain | Self::Json | Self::ReliableJson => Step::Ready,
            Self::SocketIo if payload.starts_with(b"0{") => Step::Say("40"),
            Self::SocketIo if payload.starts_with(b"40{") => Step::Ready,
            Self::Nats if payload.starts_with(b"INFO") => Step::Say(
                "CONNECT {\"verbose\":false,\"pedantic\":false,\"echo\":false}\r\nSUB room 1\r\nPING\r\n",
            ),
            Self::Nats if payload.starts_with(b"PONG") => Step::Ready,
            Self::SocketIo | Self::Nats => Step::Wait,
        }
    }

    /// What the server's own sign of life is answered with.
    pub(crate) fn answer(self, payload: &[u8]) -> Option<Vec<u8>> {
        match (self, payload) {
            (Self::SocketIo, b"2") => Some(frame(TEXT, b"3")),
            (Self::Nats, b"PING\r\n") => Some(frame(TEXT, b"PONG\r\n")),
            _ => None,
        }
    }
}

impl Target {
    /// Path and query of client `number`.
    pub(crate) fn path_of(&self, number: u32) -> String {
        match &self.token {
            Some(maker) => format!("{}?access_token={}", self.path, maker.token(number)),
            None => self.path.clone(),
        }
    }
}

impl TokenMaker {
    fn token(&self, number: u32) -> String {
        let claims = json!({"aud": self.audience, "exp": self.expires, "sub": format!("user-{number}")});
        let [head, claims] = [r#"{"alg":"HS256","typ":"JWT"}"#.to_owned(), claims.to_string()]
            .map(|part| URL_SAFE_NO_PAD.encode(part));
        let signed = format!("{head}.{claims}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
    }
}
