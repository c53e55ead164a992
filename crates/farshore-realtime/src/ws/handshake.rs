//! The upgrade from HTTP to WebSocket (RFC 6455, section 4), as functions of headers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The constant of RFC 6455, 1.3, which proves that the server knows what a WebSocket is.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a client's key before base64.
const KEY_LEN: usize = 16;
/// Nobody offers more; the rest is not looked at.
const SUBPROTOCOLS_MAX: usize = 64;

/// `Sec-WebSocket-Accept` for the client's `Sec-WebSocket-Key`.
#[must_use]
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

/// Why a request is no upgrade to WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoUpgrade {
    /// A plain request: answer 400, or 426 with `Upgrade: websocket`.
    #[error("this is a WebSocket endpoint: ask with Connection: Upgrade and Upgrade: websocket")]
    Plain,
    /// Another version: answer 426 with `Sec-WebSocket-Version: 13`.
    #[error("only version 13 of WebSocket is spoken here: send Sec-WebSocket-Version: 13")]
    Version,
    /// The key is missing or not 16 bytes in base64: answer 400.
    #[error("Sec-WebSocket-Key is missing or is not 16 bytes in base64")]
    Key,
}

/// The `Sec-WebSocket-Accept` with which to answer a client's upgrade.
///
/// # Errors
///
/// The request is no valid upgrade.
pub fn accept(headers: &HeaderMap) -> Result<String, NoUpgrade> {
    if !lists(headers, &UPGRADE, "websocket") || !lists(headers, &CONNECTION, "upgrade") {
        return Err(NoUpgrade::Plain);
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(NoUpgrade::Version);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).ok_or(NoUpgrade::Key)?;
    match STANDARD.decode(key) {
        Ok(bytes) if bytes.len() == KEY_LEN => Ok(accept_key(key)),
        _ => Err(NoUpgrade::Key),
    }
}

/// The subprotocols that a client offers, in its order of preference.
#[must_use]
pub fn offered(headers: &HeaderMap) -> Vec<&str> {
    tokens(headers, &SEC_WEBSOCKET_PROTOCOL).take(SUBPROTOCOLS_MAX).collect()
}

/// Whether a comma-separated header lists `wanted`, in any case.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_key_of_the_standard_is_answered_as_in_the_standard() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_upgrade_is_known_by_its_four_headers() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert_eq!(accept(&headers(&good)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let without = |name: &str| {
            let rest: Vec<_> = good.into_iter().filter(|pair| pair.0 != name).collect();
            accept(&headers(&rest))
        };
        assert_eq!(without("connection"), Err(NoUpgrade::Plain));
        assert_eq!(without("upgrade"), Err(NoUpgrade::Plain));
        assert_eq!(without("sec-websocket-version"), Err(NoUpgrade::Version));
        assert_eq!(without("sec-websocket-key"), Err(NoUpgrade::Key));
        let mut short = good;
        short[3].1 = "c2hvcnQ=";
        assert_eq!(accept(&headers(&short)), Err(NoUpgrade::Key));
    }

    #[test]
    fn offers_are_read_over_several_lines() {
        let offered_by = headers(&[
            ("sec-websocket-protocol", "json.webpubsub.azure.v1, mine"),
            ("sec-websocket-protocol", " ,other"),
        ]);
        assert_eq!(offered(&offered_by), ["json.webpubsub.azure.v1", "mine", "other"]);
        assert!(offered(&headers(&[])).is_empty());
    }
}
