//! What a message carries, and the texts beside it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The four kinds of payload. Whoever makes one vouches for what the kind promises; everything that comes from a client is
/// checked by the decoders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Data {
    /// UTF-8.
    Text(Bytes),
    /// One JSON value, to the byte as it was sent.
    Json(Bytes),
    /// Any bytes.
    Binary(Bytes),
    /// An encoded `google.protobuf.Any`.
    Protobuf(Bytes),
}

impl Data {
    /// Text data.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// The payload's bytes, whatever they mean.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        let (Self::Text(bytes) | Self::Json(bytes) | Self::Binary(bytes) | Self::Protobuf(bytes)) = self;
        bytes
    }

    /// How JSON frames call this kind: `text`, `json`, `binary` or `protobuf`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Json(_) => "json",
            Self::Binary(_) => "binary",
            Self::Protobuf(_) => "protobuf",
        }
    }
}

/// Texts that travel beside a message's data: `X-WebPubSub-Metadata-*` of a request, `metadata` of a frame.
pub type Metadata = BTreeMap<String, String>;

/// Longest key, in bytes.
pub const METADATA_KEY_LEN_MAX: usize = 256;
/// Longest value, in bytes.
pub const METADATA_VALUE_LEN_MAX: usize = 1024;
/// All keys and values together, in bytes: what a careful HTTP server takes as headers.
pub const METADATA_LEN_MAX: usize = 8 * 1024;

/// Whether metadata may travel: keys are tokens as in HTTP headers, all is ASCII, and within the limits.
///
/// # Errors
///
/// Says which key or limit.
pub fn check_metadata(metadata: &Metadata) -> Result<(), String> {
    let mut total = 0;
    for (key, value) in metadata {
        if key.is_empty() || key.len() > METADATA_KEY_LEN_MAX || !key.bytes().all(is_token) {
            return Err(format!("a metadata key must be 1 to {METADATA_KEY_LEN_MAX} characters of a token"));
        }
        if value.len() > METADATA_VALUE_LEN_MAX || !value.is_ascii() {
            return Err(format!("metadata {key:.32}: at most {METADATA_VALUE_LEN_MAX} ASCII characters"));
        }
        total += key.len() + value.len();
    }
    if total > METADATA_LEN_MAX {
        return Err(format!("the metadata is longer than {METADATA_LEN_MAX} bytes"));
    }
    Ok(())
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn metadata_is_tokens_and_ascii_within_limits() {
        assert_eq!(check_metadata(&metadata(&[])), Ok(()));
        assert_eq!(check_metadata(&metadata(&[("trace-id", "a b"), ("x!", "")])), Ok(()));
        assert!(check_metadata(&metadata(&[("", "a")])).is_err());
        assert!(check_metadata(&metadata(&[("a b", "a")])).is_err());
        assert!(check_metadata(&metadata(&[("a", "é")])).is_err());
        assert!(check_metadata(&metadata(&[("a", &"v".repeat(1025))])).is_err());
        assert!(check_metadata(&metadata(&[(&"k".repeat(257), "v")])).is_err());
        let many: Metadata = (0..9).map(|key| (format!("k{key}"), "v".repeat(1000))).collect();
        assert!(check_metadata(&many).is_err());
    }
}
