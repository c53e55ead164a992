//! Percent-encoding, as paths, queries, tokens and property bags use it: always cut first, decoded afterwards and once.

/// Why a text could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadEncoding {
    /// `%` without two hexadecimal digits after it.
    #[error("a '%' is not followed by two hexadecimal digits: write '%25' for the sign itself")]
    Digits,
    /// The bytes are not text.
    #[error("its percent-encoded bytes are not UTF-8")]
    Utf8,
}

/// Decodes one segment of a path, one half of a parameter, or the resource of a token. A `+` stands for itself.
///
/// # Errors
/// [`BadEncoding`] says what is wrong.
pub fn decode(text: &str) -> Result<String, BadEncoding> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => pair(rest.next(), rest.next()).ok_or(BadEncoding::Digits)?,
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
    u8::try_from(char::from(byte).to_digit(16)?).ok()
}

/// Encodes whatever is not an unreserved character of RFC 3986.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
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
        for (text, expected) in [
            ("", Ok("")),
            ("us%20er%2F1", Ok("us er/1")),
            ("a+b", Ok("a+b")),
            ("%e2%82%AC", Ok("€")),
            ("%2525", Ok("%25")),
            ("%", Err(BadEncoding::Digits)),
            ("%zz", Err(BadEncoding::Digits)),
            ("%+1", Err(BadEncoding::Digits)),
            ("%ff", Err(BadEncoding::Utf8)),
        ] {
            assert_eq!(decode(text).as_deref(), expected.as_ref().map(|text| *text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded_to_the_same(text in ".{0,64}") {
            prop_assert_eq!(decode(&encode(&text)), Ok(text));
        }

        #[test]
        fn decoding_never_panics(text in ".{0,64}") {
            let _ = decode(&text);
        }
    }
}
