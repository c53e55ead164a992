//! Patterns of group names in roles: `?` is one character, `*` any run, neither a dot; `**` any run at all; `\` takes the
//! next `*`, `?` or `\` for itself.

use serde::{Deserialize, Serialize};

use crate::names::LONG_NAME_LEN_MAX;

/// Asterisks in one pattern, each counted.
pub const ASTERISKS_MAX: usize = 5;

/// One checked pattern, kept as its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Box<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Exactly(char),
    /// `?`
    One,
    /// `*`
    Run,
    /// `**` or more
    Anything,
}

impl Pattern {
    /// None if it is empty, too long, has more than [`ASTERISKS_MAX`] asterisks or an escape of anything but `*`, `?`, `\`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.chars().nth(LONG_NAME_LEN_MAX).is_some() {
            return None;
        }
        let mut asterisks = 0;
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' if !matches!(chars.next(), Some('*' | '?' | '\\')) => return None,
                '*' => asterisks += 1,
                _ => {}
            }
        }
        (asterisks <= ASTERISKS_MAX).then(|| Self(text.into()))
    }

    /// Whether it matches every group.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.len() > 1 && self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether all of `text` matches, in at most its length times the pattern's steps.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // reached[i]: the parts so far can match exactly the first i characters.
        let mut reached = vec![false; text.len() + 1];
        reached[0] = true;
        for part in self.parts() {
            advance(&mut reached, &text, part);
            if !reached.contains(&true) {
                return false;
            }
        }
        reached[text.len()]
    }

    fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        let mut chars = self.0.chars().peekable();
        std::iter::from_fn(move || {
            Some(match chars.next()? {
                '?' => Part::One,
                '\\' => Part::Exactly(chars.next().unwrap_or('\\')),
                '*' if chars.next_if_eq(&'*').is_none() => Part::Run,
                '*' => {
                    while chars.next_if_eq(&'*').is_some() {}
                    Part::Anything
                }
                other => Part::Exactly(other),
            })
        })
    }
}

/// One part further: from what the parts before could match to what they and `part` can.
fn advance(reached: &mut [bool], text: &[char], part: Part) {
    let takes = |c: char| match part {
        Part::Exactly(exactly) => c == exactly,
        Part::One | Part::Run => c != '.',
        Part::Anything => true,
    };
    match part {
        Part::Exactly(_) | Part::One => {
            for (i, c) in text.iter().enumerate().rev() {
                reached[i + 1] = reached[i] && takes(*c);
            }
            reached[0] = false;
        }
        Part::Run | Part::Anything => {
            for (i, c) in text.iter().enumerate() {
                reached[i + 1] |= reached[i] && takes(*c);
            }
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        Self::parse(&text).ok_or("this is not a valid pattern of group names")
    }
}
impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.into()
    }
}
