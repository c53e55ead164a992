//! What a token looks like: `fst_ID_SECRET`.
//!
//! `ID` (10 characters) names its record; `SECRET` is 40 random characters (200 bits) and 6 of a checksum over all that is
//! before them, so that a mistyped token is told from one that was revoked, without asking anybody. One letter case, no
//! characters that look alike; programs that search for leaked secrets find `fst_[a-z2-9]{10}_[a-z2-9]{46}`.
//!
//! A fast hash is enough for a secret of 200 random bits: nobody can try them all. It would not be for a password.

use std::fmt;

use ring::rand::SecureRandom;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Says what it is, to people and to programs that search for secrets.
const PREFIX: &str = "fst";
/// 32 characters, so that five random bits make one; none that is taken for another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 50 bits: names a record, is no secret.
const ID_LEN: usize = 10;
/// 200 bits.
const SECRET_LEN: usize = 40;
/// 30 bits: one mistyped token in a billion passes for another.
const CHECK_LEN: usize = 6;
/// Random bytes that a token is made of.
pub const RANDOM_LEN: usize = ID_LEN + SECRET_LEN;

/// A whole token. Shown once, to who asked for it; never printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, ..)", self.id())
    }
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoToken {
    /// It does not begin like one.
    #[error("this is no token of farshore: they begin with fst_")]
    Foreign,
    /// It begins like one, and the rest does not fit.
    #[error("this token was mistyped or cut off (its checksum does not fit): copy all of it again")]
    Mistyped,
}

/// The system gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes: no token was made")]
pub struct NoRandom;

impl Token {
    /// A new one, from the system's source of random bytes.
    ///
    /// # Errors
    /// When that gives none.
    pub fn generate() -> Result<Self, NoRandom> {
        let mut random = [0; RANDOM_LEN];
        ring::rand::SystemRandom::new().fill(&mut random).map_err(|_| NoRandom)?;
        Ok(Self::from_random(&random))
    }

    /// The token that these bytes make.
    #[must_use]
    pub fn from_random(random: &[u8; RANDOM_LEN]) -> Self {
        let letters: String = random.iter().map(|byte| letter(u32::from(*byte))).collect();
        let (id, secret) = letters.split_at(ID_LEN);
        let checked = format!("{PREFIX}_{id}_{secret}");
        let check = checksum(&checked);
        Self { text: checked + &check }
    }

    /// Reads what a client sent.
    ///
    /// # Errors
    /// When it is no token; says which of the two mistakes it is.
    pub fn parse(text: &str) -> Result<Self, NoToken> {
        let text = text.trim();
        let rest =
            text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_')).ok_or(NoToken::Foreign)?;
        let (id, secret) = rest.split_once('_').ok_or(NoToken::Mistyped)?;
        let letters = |part: &str| part.bytes().all(|byte| ALPHABET.contains(&byte));
        let long_enough = id.len() == ID_LEN && secret.len() == SECRET_LEN + CHECK_LEN;
        if !long_enough || !letters(id) || !letters(secret) {
            return Err(NoToken::Mistyped);
        }
        let (checked, check) = text.split_at(text.len() - CHECK_LEN);
        if checksum(checked) != check {
            return Err(NoToken::Mistyped);
        }
        Ok(Self { text: text.to_owned() })
    }

    /// Names the token's record; no secret.
    #[must_use]
    pub fn id(&self) -> &str {
        let start = PREFIX.len() + 1;
        self.text.get(start..start + ID_LEN).unwrap_or_default()
    }

    /// The whole token, for the one answer that shows it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What is stored of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.text)
    }
}

/// Whether a text could be the id of a token: it becomes a part of a key in the store.
#[must_use]
pub fn plausible_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

fn letter(bits: u32) -> char {
    char::from(ALPHABET[(bits & 31) as usize])
}

fn checksum(text: &str) -> String {
    let sum = crc32c::crc32c(text.as_bytes());
    (0..CHECK_LEN).map(|at| letter(sum >> (5 * at))).collect()
}

/// SHA-256 of a token. What is compared is this, in constant time.
#[derive(Clone)]
pub struct TokenHash([u8; 32]);

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl TokenHash {
    /// Of any text; spaces around it do not count.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.trim().as_bytes()).into())
    }

    /// Takes the same time for every token of the same length.
    #[must_use]
    pub fn accepts(&self, token: &str) -> bool {
        *self == Self::of(token)
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&hex)
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom("a token's hash has 64 hexadecimal digits");
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::from_random(&std::array::from_fn(|at| u8::try_from(at * 7 % 256).unwrap()))
    }

    #[test]
    fn a_token_is_read_as_it_was_made() {
        let token = token();
        assert_eq!(token.reveal().len(), 4 + ID_LEN + 1 + SECRET_LEN + CHECK_LEN);
        assert_eq!(Token::parse(&format!(" {}\n", token.reveal())), Ok(token.clone()));
        assert!(plausible_id(token.id()), "{}", token.id());
        assert!(token.hash().accepts(token.reveal()));
        assert!(!format!("{token:?} {:?}", token.hash()).contains(&token.reveal()[15..20]));
        assert_ne!(Token::generate().unwrap(), Token::generate().unwrap());
    }

    #[test]
    fn every_typo_of_one_character_is_told_from_an_unknown_token() {
        let right = token().reveal().to_owned();
        for at in PREFIX.len() + 1..right.len() {
            for other in ['a', '9', '_', 'O', 'é'] {
                let mut wrong: Vec<char> = right.chars().collect();
                if wrong[at] == other {
                    continue;
                }
                wrong[at] = other;
                let wrong: String = wrong.into_iter().collect();
                assert_eq!(Token::parse(&wrong), Err(NoToken::Mistyped), "{wrong}");
            }
        }
        for cut in PREFIX.len() + 1..right.len() {
            assert_eq!(Token::parse(&right[..cut]), Err(NoToken::Mistyped), "{cut}");
        }
        for foreign in ["", "fst", "Bearer", "farshore-0123456789", "FST_a_b"] {
            assert_eq!(Token::parse(foreign), Err(NoToken::Foreign), "{foreign}");
        }
    }

    #[test]
    fn a_hash_is_read_as_it_was_written_and_nothing_else_is() {
        let hash = token().hash();
        let text = serde_json::to_string(&hash).unwrap();
        assert_eq!(text.len(), 66);
        assert_eq!(serde_json::from_str::<TokenHash>(&text).unwrap(), hash);
        for wrong in ["\"\"", "\"zz\"", "3", &format!("\"{}\"", "é".repeat(32)), &text.replace('0', "x")] {
            assert!(serde_json::from_str::<TokenHash>(wrong).is_err(), "{wrong}");
        }
    }
}
