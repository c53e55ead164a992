//! What the headers of a send say about the message: its metadata and the id that the pair gave it.

use http::HeaderMap;

use super::error::RestError;
use crate::frames::Metadata;

/// Headers that become metadata begin so; the rest of the name is the key.
const PREFIX: &str = "x-webpubsub-metadata-";
/// Each key and value goes to every receiver; these are the limits of other servers of the protocol.
const KEY_LEN_MAX: usize = 256;
/// See [`KEY_LEN_MAX`].
const VALUE_LEN_MAX: usize = 1024;
/// All keys and values together.
const METADATA_LEN_MAX: usize = 8 * 1024;

/// The header under which a pair says which message this is, so that both regions know it as one.
pub const MESSAGE_ID: &str = "x-farshore-message-id";

/// The metadata of a message. Keys are in lower case, as header names are; of repeated headers the last counts.
pub(super) fn metadata(headers: &HeaderMap) -> Result<Metadata, RestError> {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(PREFIX) else { continue };
        let value =
            value.to_str().map_err(|_| bad(format!("the value of '{key}' must be printable ASCII")))?;
        check_one(key, value.trim())?;
        metadata.insert(key.to_owned(), value.trim().to_owned());
    }
    let len: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if len > METADATA_LEN_MAX {
        return Err(bad(format!("all keys and values together may have {METADATA_LEN_MAX} bytes")));
    }
    Ok(metadata)
}

fn check_one(key: &str, value: &str) -> Result<(), RestError> {
    if key.is_empty() {
        return Err(bad(format!("a header '{PREFIX}' needs a key behind it")));
    }
    if key.len() > KEY_LEN_MAX {
        return Err(bad(format!("a key may have {KEY_LEN_MAX} bytes")));
    }
    if value.len() > VALUE_LEN_MAX {
        return Err(bad(format!("the value of '{key}' may have {VALUE_LEN_MAX} bytes")));
    }
    Ok(())
}

fn bad(why: String) -> RestError {
    RestError::bad("metadata", format!("Invalid metadata: {why}."))
}

/// The id of the message, where the caller gives one: 1 to 32 hexadecimal digits.
pub(super) fn message_id(headers: &HeaderMap) -> Result<Option<u128>, RestError> {
    let Some(value) = headers.get(MESSAGE_ID) else { return Ok(None) };
    let hex = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex.and_then(|text| u128::from_str_radix(text, 16).ok()).map(Some).ok_or_else(|| {
        RestError::bad(MESSAGE_ID, format!("Invalid {MESSAGE_ID}: give 1 to 32 hexadecimal digits."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers written as `name: value` lines.
    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                http::HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn what_becomes_metadata() {
        for (lines, expected) in [
            (&[][..], "{}"),
            (&[("X-WebPubSub-Metadata-Trace", " a, b ")], r#"{"trace": "a, b"}"#),
            (
                &[("x-webpubsub-metadata-a", "1"), ("X-Other", "2"), ("X-WebPubSub-Metadata-A", "3")],
                r#"{"a": "3"}"#,
            ),
            (&[("x-webpubsub-metadata-empty", "")], r#"{"empty": ""}"#),
            (&[("x-webpubsub-metadata", "no")], "{}"),
        ] {
            assert_eq!(format!("{:?}", metadata(&headers(lines)).unwrap()), expected);
        }
    }

    #[test]
    fn what_is_too_much_metadata() {
        let (key, value) = ("k".repeat(KEY_LEN_MAX), "v".repeat(VALUE_LEN_MAX));
        let fits = format!("{PREFIX}{key}");
        assert_eq!(metadata(&headers(&[(&fits, &value)])).unwrap().len(), 1);
        for lines in [
            vec![(format!("{PREFIX}{key}k"), String::new())],
            vec![(fits.clone(), format!("{value}v"))],
            vec![(PREFIX.to_owned(), "no key".to_owned())],
            vec![(format!("{PREFIX}a"), "\u{e9}".to_owned())],
            (0..9).map(|n| (format!("{PREFIX}{n}"), value.clone())).collect(),
        ] {
            let lines: Vec<_> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert!(matches!(metadata(&headers(&lines)), Err(RestError::Bad { target: "metadata", .. })));
        }
    }

    #[test]
    fn ids_are_hexadecimal() {
        for (text, expected) in [
            ("0", Some(0)),
            ("ff", Some(255)),
            ("00000000000000000000000000000010", Some(16)),
            ("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", Some(u128::MAX)),
            ("1FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF", None),
            ("", None),
            ("+1", None),
            ("-1", None),
            ("0x1", None),
            ("xyz", None),
        ] {
            assert_eq!(message_id(&headers(&[(MESSAGE_ID, text)])).ok().flatten(), expected, "{text}");
        }
        assert_eq!(message_id(&HeaderMap::new()), Ok(None));
    }
}
