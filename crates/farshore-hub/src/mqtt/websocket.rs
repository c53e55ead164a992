//! MQTT inside WebSocket: for devices that only get out by port 443.
//!
//! What comes in binary frames is a stream of bytes and nothing else, so frames are not joined to messages: their headers are cut out
//! and their mask is removed where they were read to. The way in is an HTTP server's request, [`upgrade`]d; the port is often
//! shared with the hub's REST API.

mod frames;
mod stream;

use std::convert::Infallible;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use tracing::debug;

use self::stream::WebSocket;
use super::listener::{Arrived, Door, Origin};
use super::wire::Link;

/// The path of the contract.
pub const PATH: &str = "/$iothub/websocket";
/// What is spoken inside.
const SUBPROTOCOL: &str = "mqtt";
/// The constant of RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a client's key before base64.
const KEY_LEN: usize = 16;

/// Why a request does not become a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUpgrade {
    /// No such path.
    #[error("devices connect to {PATH}")]
    Path,
    /// A plain request.
    #[error("this is a WebSocket endpoint: ask with Connection: Upgrade and Upgrade: websocket")]
    Plain,
    /// Another version.
    #[error("only version 13 of WebSocket is spoken here: send Sec-WebSocket-Version: 13")]
    Version,
    /// The key is missing or malformed.
    #[error("Sec-WebSocket-Key is missing or is not 16 bytes in base64")]
    Key,
    /// Something else is to be spoken inside.
    #[error("only MQTT is spoken here: send Sec-WebSocket-Protocol: mqtt")]
    Subprotocol,
}

impl NoUpgrade {
    fn status(self) -> StatusCode {
        match self {
            Self::Path => StatusCode::NOT_FOUND,
            Self::Plain | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key | Self::Subprotocol => StatusCode::BAD_REQUEST,
        }
    }
}

/// Answers a request of an HTTP server that lets connections be upgraded, and brings the device in once the answer is out.
pub fn upgrade<B>(request: Request<B>, origin: Origin, door: &Door) -> Response<Full<Bytes>> {
    let answer = match accepted(&request) {
        Ok(answer) => answer,
        Err(why) => return refused(why),
    };
    let upgraded = hyper::upgrade::on(request);
    let inside = door.clone();
    door.attend(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let place = inside.place().await;
                let link = Box::new(WebSocket::new(TokioIo::new(upgraded)));
                inside.enter(Arrived { link, origin, place });
            }
            Err(error) => debug!(peer = %origin.peer, "no WebSocket: {error}"),
        }
    });
    answer
}

/// An HTTP server for nothing else.
pub(super) async fn serve(link: Box<dyn Link>, origin: Origin, door: Door) -> std::io::Result<()> {
    let service = service_fn(|request| {
        let answer = upgrade(request, origin.clone(), &door);
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(link), service);
    connection.with_upgrades().await.map_err(std::io::Error::other)
}

fn accepted<B>(request: &Request<B>) -> Result<Response<Full<Bytes>>, NoUpgrade> {
    if request.uri().path() != PATH {
        return Err(NoUpgrade::Path);
    }
    let headers = request.headers();
    if !lists(headers, &UPGRADE, "websocket") || !lists(headers, &CONNECTION, "upgrade") {
        return Err(NoUpgrade::Plain);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(NoUpgrade::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).ok_or(NoUpgrade::Key)?;
    if STANDARD.decode(key).is_ok_and(|bytes| bytes.len() != KEY_LEN) || STANDARD.decode(key).is_err() {
        return Err(NoUpgrade::Key);
    }
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let said = answer.headers_mut();
    if headers.contains_key(SEC_WEBSOCKET_PROTOCOL) {
        if !lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
            return Err(NoUpgrade::Subprotocol);
        }
        said.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    said.insert(UPGRADE, HeaderValue::from_static("websocket"));
    said.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let proof = STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()));
    said.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::try_from(proof).map_err(|_| NoUpgrade::Key)?);
    Ok(answer)
}

fn refused(why: NoUpgrade) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::from(format!("{why}\n")));
    *answer.status_mut() = why.status();
    if why == NoUpgrade::Version {
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    if why == NoUpgrade::Plain {
        answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    answer
}

/// Whether a comma-separated header lists `wanted`, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("sec-websocket-protocol", "other, mqtt"),
    ];

    fn asked(path: &str, headers: &[(&str, &str)]) -> Result<Response<Full<Bytes>>, NoUpgrade> {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        accepted(&request.body(()).unwrap())
    }

    #[test]
    fn an_upgrade_is_answered_as_in_the_standard() {
        for path in [PATH.to_owned(), format!("{PATH}?iothub-no-client-cert=true")] {
            let answer = asked(&path, &GOOD).unwrap();
            assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
            assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            assert_eq!(answer.headers()[SEC_WEBSOCKET_PROTOCOL], "mqtt");
        }
        assert!(!asked(PATH, &GOOD[..4]).unwrap().headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn whatever_is_missing_is_said() {
        assert_eq!(asked("/other", &GOOD).unwrap_err(), NoUpgrade::Path);
        for (at, value, expected) in [
            (0, "close", NoUpgrade::Plain),
            (1, "h2c", NoUpgrade::Plain),
            (2, "8", NoUpgrade::Version),
            (3, "c2hvcnQ=", NoUpgrade::Key),
            (3, "%%", NoUpgrade::Key),
            (4, "amqp", NoUpgrade::Subprotocol),
        ] {
            let mut headers = GOOD;
            headers[at].1 = value;
            assert_eq!(asked(PATH, &headers).unwrap_err(), expected, "{value}");
        }
    }
}
