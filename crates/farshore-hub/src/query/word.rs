//! Words of a query.

use super::parse::BadQuery;

/// One word.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// A name or a keyword, as written.
    Name(String),
    /// Text between quotes.
    Text(String),
    /// A number as written; always finite.
    Number(serde_json::Number),
    /// A sign: `( ) [ ] , . * = != <> < <= > >=`.
    Sign(&'static str),
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: [&str; 15] = ["!=", "<>", "<=", ">=", "(", ")", "[", "]", ",", ".", "*", "=", "<", ">", ";"];

/// All words with the positions (in bytes) at which they begin.
pub(super) fn words(text: &str) -> Result<Vec<(usize, Word)>, BadQuery> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        let Some(first) = rest.chars().next() else { return Ok(words) };
        let (word, len) = if matches!(first, '\'' | '"') {
            quoted(rest, first).ok_or_else(|| BadQuery::at(at, "this text has no closing quote"))?
        } else if is_number(rest) {
            number(rest).ok_or_else(|| BadQuery::at(at, "this is no number"))?
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Word::Sign(sign), sign.len())
        } else if is_name(first) {
            let len = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            (Word::Name(rest[..len].to_owned()), len)
        } else {
            return Err(BadQuery::at(at, &format!("{first:?} means nothing here: texts are written 'so'")));
        };
        words.push((at, word));
        at += len;
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '-')
}

fn is_number(rest: &str) -> bool {
    let digits = rest.strip_prefix('-').unwrap_or(rest);
    digits.starts_with(|c: char| c.is_ascii_digit())
        // `2nd_floor` after a dot is a name that begins with a digit.
        && !rest.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(|c: char| is_name(c) && !matches!(c, 'e' | 'E' | '-'))
}

fn number(rest: &str) -> Option<(Word, usize)> {
    let mut len = 0;
    let bytes = rest.as_bytes();
    while let Some(byte) = bytes.get(len) {
        let signed = matches!(byte, b'-' | b'+') && (len == 0 || matches!(bytes[len - 1], b'e' | b'E'));
        if !(byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E') || signed) {
            break;
        }
        len += 1;
    }
    let number: serde_json::Number = serde_json::from_str(&rest[..len]).ok()?;
    number.as_f64().filter(|value| value.is_finite())?;
    Some((Word::Number(number), len))
}

/// Text up to the closing quote: a quote inside is written twice or after a backslash.
fn quoted(rest: &str, quote: char) -> Option<(Word, usize)> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => text.push(chars.next()?.1),
            _ if c == quote => {
                if chars.next_if(|(_, next)| *next == quote).is_none() {
                    return Some((Word::Text(text), at + quote.len_utf8()));
                }
                text.push(quote);
            }
            _ => text.push(c),
        }
    }
    None
}
