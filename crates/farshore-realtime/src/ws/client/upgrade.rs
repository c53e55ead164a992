//! The client's half of the handshake: where to, what to ask, and whether the answer is right.

use std::fmt::Write as _;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::super::handshake::{accept_key, lists};
use super::ConnectError;

/// Status line and headers of an answer.
const ANSWER_HEAD_MAX: usize = 16 * 1024;
/// What is kept of the body of a refusal, for people to read.
const REFUSAL_BODY_MAX: usize = 64 * 1024;

/// Where a URL leads.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    authority: String,
    path: String,
}

impl Target {
    pub(super) fn parse(url: &str) -> Result<Self, ConnectError> {
        let bad = || ConnectError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(bad)?;
        let port = uri.port_u16();
        Ok(Self {
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            authority: port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }

    /// The request as it is sent.
    pub(super) fn request(
        &self,
        key: &str,
        subprotocols: &[&str],
        headers: &[(&str, &str)],
    ) -> Result<String, ConnectError> {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n",
            self.path, self.authority
        );
        let offer = subprotocols.join(", ");
        let offered = (!subprotocols.is_empty()).then_some(("Sec-WebSocket-Protocol", offer.as_str()));
        for (name, value) in headers.iter().copied().chain(offered) {
            let good = name.parse::<HeaderName>().is_ok() && value.parse::<HeaderValue>().is_ok();
            if !good {
                return Err(ConnectError::Header(name.to_owned()));
            }
            // Writing into a String cannot fail.
            let _ = write!(request, "{name}: {value}\r\n");
        }
        request.push_str("\r\n");
        Ok(request)
    }
}

/// `Sec-WebSocket-Key`.
pub(super) fn key(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    headers: HeaderMap,
    /// What came behind the headers: frames already, or the body of a refusal.
    pub(super) rest: Vec<u8>,
}

/// Reads an answer's head, and the body of a refusal as far as it is kept.
pub(super) async fn read_answer(read: &mut (dyn AsyncRead + Send + Unpin)) -> io::Result<Answer> {
    let mut bytes = Vec::with_capacity(1024);
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > ANSWER_HEAD_MAX {
            return Err(invalid("the headers of the answer do not end"));
        }
        if read.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let rest = bytes.split_off(end);
    let (status, headers) = parse_head(&bytes).ok_or_else(|| invalid("the answer is not HTTP"))?;
    let mut answer = Answer { status, headers, rest };
    if answer.status != 101 {
        let body = answer.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let body = body.unwrap_or(0).min(REFUSAL_BODY_MAX);
        while answer.rest.len() < body && read.read_buf(&mut answer.rest).await? > 0 {}
        answer.rest.truncate(body);
    }
    Ok(answer)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn parse_head(bytes: &[u8]) -> Option<(u16, HeaderMap)> {
    let mut lines = std::str::from_utf8(bytes).ok()?.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.append(name.parse::<HeaderName>().ok()?, value.trim().parse().ok()?);
    }
    Some((status, headers))
}

impl Answer {
    /// The subprotocol that was agreed, if the answer is right.
    pub(super) fn check(&self, key: &str, offered: &[&str]) -> Result<Option<String>, ConnectError> {
        if self.status != 101 {
            let body = Bytes::copy_from_slice(&self.rest);
            return Err(ConnectError::Refused { status: self.status, body });
        }
        if !lists(&self.headers, &UPGRADE, "websocket") {
            return Err(ConnectError::Handshake("it does not upgrade to websocket"));
        }
        if self.headers.get(SEC_WEBSOCKET_ACCEPT).is_none_or(|accept| accept != accept_key(key).as_str()) {
            return Err(ConnectError::Handshake("Sec-WebSocket-Accept does not fit the key"));
        }
        let Some(chosen) = self.headers.get(SEC_WEBSOCKET_PROTOCOL) else { return Ok(None) };
        match chosen.to_str() {
            Ok(chosen) if offered.contains(&chosen) => Ok(Some(chosen.to_owned())),
            _ => Err(ConnectError::Handshake("the server chose a subprotocol that was not offered")),
        }
    }
}
