//! From text to words: one token at a time, so that what is wrong further on does not hide what is wrong here.

use super::FilterError;

/// One word of a filter. Positions are bytes; errors count them as the official service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind<'a>,
    pub(super) start: usize,
    pub(super) end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    End,
    Open,
    Close,
    Comma,
    /// A sign that the language knows and filters do not.
    Sign,
    /// What is between the quotes; a quote inside is still doubled.
    Text(&'a str),
    /// Begins with a digit, or with a sign and a digit.
    Number(&'a str),
    /// A name, a keyword, or `true`, `false`, `null`.
    Word(&'a str),
}

#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The next token; [`Kind::End`] again and again at the end.
    pub(super) fn next(&mut self) -> Result<Token<'a>, FilterError> {
        let rest = self.text[self.at..].trim_start();
        let start = self.text.len() - rest.len();
        let (kind, len) = match rest.chars().next() {
            None => (Kind::End, 0),
            Some('(') => (Kind::Open, 1),
            Some(')') => (Kind::Close, 1),
            Some(',') => (Kind::Comma, 1),
            Some('\'') => self.quoted(rest)?,
            Some('-' | '+') if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => number(rest),
            Some(c) if c.is_ascii_digit() => number(rest),
            Some('-' | '=' | '/' | '?' | '.' | '*' | ':') => (Kind::Sign, 1),
            Some(c) if begins_word(c) => {
                let len = rest.find(|c| !continues_word(c)).unwrap_or(rest.len());
                (Kind::Word(&rest[..len]), len)
            }
            Some(c) => {
                return Err(self.error(start, |at, text| {
                    format!("Syntax error: character '{c}' is not valid at position {at} in '{text}'.")
                }));
            }
        };
        self.at = start + len;
        Ok(Token { kind, start, end: self.at })
    }

    /// An error about the whole filter at a byte position, counted in UTF-16 units as the official service does.
    pub(super) fn error(&self, at: usize, detail: impl FnOnce(usize, &str) -> String) -> FilterError {
        let units = self.text[..at].encode_utf16().count();
        FilterError::new(self.text, detail(units, self.text))
    }

    /// A text in quotes, at whose beginning `rest` is.
    fn quoted(&self, rest: &'a str) -> Result<(Kind<'a>, usize), FilterError> {
        let bytes = rest.as_bytes();
        let mut at = 1;
        while at < bytes.len() {
            match (bytes[at], bytes.get(at + 1)) {
                (b'\'', Some(b'\'')) => at += 2,
                (b'\'', _) => return Ok((Kind::Text(&rest[1..at]), at + 1)),
                _ => at += 1,
            }
        }
        Err(self.error(self.text.len(), |at, text| {
            format!("There is an unterminated string literal at position {at} in '{text}'.")
        }))
    }
}

/// A sign or a digit, then all that could belong to a number of any kind.
fn number(rest: &str) -> (Kind<'_>, usize) {
    let len = rest[1..]
        .find(|c: char| !c.is_alphanumeric() && c != '.' && c != '_')
        .map_or(rest.len(), |at| at + 1);
    (Kind::Number(&rest[..len]), len)
}

fn begins_word(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

/// With dots: a dotted name is one name that nobody knows.
fn continues_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '$' | '.')
}
