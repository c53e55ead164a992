//! Percent-encoding: decoded once, after the path has been cut at its slashes, so that `us%20er%2F1` is one name.

/// Why a text could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadEncoding {
    /// `%` without two hexadecimal digits after it.
    #[error("a '%' is not followed by two hexadecimal digits: write '%25' for the sign itself")]
    Digits,
    /// The bytes are not text.
    #[error("its percent-encoded bytes are not UTF-8")]
    Utf8,
}

/// What a `+` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plus {
    /// Itself, in a path.
    Plus,
    /// A space, in a query.
    Space,
}

/// Decodes one segment of a path or one half of a query parameter.
pub(super) fn decode(text: &str, plus: Plus) -> Result<String, BadEncoding> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => pair(rest.next(), rest.next()).ok_or(BadEncoding::Digits)?,
            b'+' if plus == Plus::Space => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).map_err(|_| BadEncoding::Utf8)
}

/// One byte from two hexadecimal digits.
fn pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    Some(digit(high?)? << 4 | digit(low?)?)
}

fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Encodes whatever is not an unreserved character of RFC 3986, for a link that we give out.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_decoded() {
        for (text, plus, expected) in [
            ("", Plus::Plus, Ok("")),
            ("plain", Plus::Plus, Ok("plain")),
            ("us%20er%2F1", Plus::Plus, Ok("us er/1")),
            ("a+b", Plus::Plus, Ok("a+b")),
            ("a+b", Plus::Space, Ok("a b")),
            ("a%2Bb", Plus::Space, Ok("a+b")),
            ("%e2%82%AC", Plus::Plus, Ok("€")),
            ("%3Asend", Plus::Plus, Ok(":send")),
            ("%25", Plus::Plus, Ok("%")),
            ("%2525", Plus::Plus, Ok("%25")),
            ("%", Plus::Plus, Err(BadEncoding::Digits)),
            ("%2", Plus::Plus, Err(BadEncoding::Digits)),
            ("%zz", Plus::Plus, Err(BadEncoding::Digits)),
            ("%+1", Plus::Plus, Err(BadEncoding::Digits)),
            ("%2%20", Plus::Plus, Err(BadEncoding::Digits)),
            ("%ff", Plus::Plus, Err(BadEncoding::Utf8)),
            ("%e2%82", Plus::Plus, Err(BadEncoding::Utf8)),
        ] {
            assert_eq!(decode(text, plus).as_deref(), expected.as_ref().map(|text| *text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_to_the_same(text in ".{0,64}") {
            prop_assert_eq!(decode(&encode(&text), Plus::Plus), Ok(text.clone()));
            prop_assert_eq!(decode(&encode(&text), Plus::Space), Ok(text));
        }

        #[test]
        fn decoding_never_panics(text in ".{0,64}") {
            let _ = decode(&text, Plus::Space);
        }
    }
}
