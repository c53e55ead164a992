//! Query strings, decoded.

/// The parameters in order; `+` is a space, what is no UTF-8 is replaced.
#[must_use]
pub fn parse(text: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    text.split('&').filter(|part| !part.is_empty()).map(pair).collect()
}

/// The first value of a parameter.
#[must_use]
pub fn get<'a>(query: &'a [(String, String)], name: &str) -> Option<&'a str> {
    query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// Percent-decodes; a `%` without two hexadecimal digits stays.
#[must_use]
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let value = hex.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match value.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) if *byte == b'%' => {
                decoded.push(value);
                at += 3;
            }
            _ => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_nonsense_stays_as_it_is() {
        let check = |text, expected: &[(&str, &str)]| {
            let parsed = parse(text);
            let parsed: Vec<_> = parsed.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(parsed, expected, "{text}");
        };
        check("", &[]);
        check("a=1&b=2&a=3", &[("a", "1"), ("b", "2"), ("a", "3")]);
        check("a", &[("a", "")]);
        check("&&a=b=c&", &[("a", "b=c")]);
        check("x=us%20er%2F1+2", &[("x", "us er/1 2")]);
        check("x=%&y=%4&z=%zz&w=%+1", &[("x", "%"), ("y", "%4"), ("z", "%zz"), ("w", "% 1")]);
        check("x=%C3%A9&y=%ff", &[("x", "é"), ("y", "\u{fffd}")]);
    }
}
