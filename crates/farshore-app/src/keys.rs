//! The keys of an app: what its clients, its administrators and its pushers show.
//!
//! Must always hold: a key is in files of mode 0600 and in answers to who asks for keys, and nowhere else. Users of the app stay
//! logged in across a failover because what signs their tokens is derived from the master key, which travels.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// Characters of a key that is made here.
pub const KEY_LEN: usize = 32;
/// A key that is brought along has at least so many characters: fewer could be guessed.
const KEY_LEN_MIN: usize = 16;
/// And at most so many: it travels in a header.
const KEY_LEN_MAX: usize = 128;
/// What keys are made of: safe in a URL, a header and a shell.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Which key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyType {
    /// What clients show in `X-ZUMO-APPLICATION`.
    Application,
    /// What administrators show in `X-ZUMO-MASTER`; tokens of users are signed by what is derived from it.
    Master,
    /// The password for git.
    Deployment,
}

/// The keys of one app. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// See [`KeyType::Application`].
    pub application: String,
    /// See [`KeyType::Master`].
    pub master: String,
    /// See [`KeyType::Deployment`].
    pub deployment: String,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// The system gave no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers: no key was made; look at /dev/urandom")]
pub struct NoRandom;

impl Keys {
    /// New ones.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn make() -> Result<Self, NoRandom> {
        Ok(Self { application: make()?, master: make()?, deployment: make()? })
    }

    /// None at all: of a replica that was not told yet.
    #[must_use]
    pub fn none() -> Self {
        Self { application: String::new(), master: String::new(), deployment: String::new() }
    }

    /// Replaces one key by a new one. The others stay.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn regenerate(&mut self, which: KeyType) -> Result<(), NoRandom> {
        let place = match which {
            KeyType::Application => &mut self.application,
            KeyType::Master => &mut self.master,
            KeyType::Deployment => &mut self.deployment,
        };
        *place = make()?;
        Ok(())
    }

    /// Whether this is the password for git. Takes as long for a wrong one as for the right one.
    #[must_use]
    pub fn is_deployment(&self, password: &str) -> bool {
        !self.deployment.is_empty() && bool::from(self.deployment.as_bytes().ct_eq(password.as_bytes()))
    }
}

/// Whether a key that is brought along can be used.
///
/// # Errors
/// In words; the key is not in them.
pub fn check(key: &str) -> Result<(), String> {
    if key.len() < KEY_LEN_MIN || key.len() > KEY_LEN_MAX || !key.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(format!(
            "the key cannot be used: it has from {KEY_LEN_MIN} to {KEY_LEN_MAX} visible characters of ASCII"
        ));
    }
    Ok(())
}

/// A new key.
fn make() -> Result<String, NoRandom> {
    let mut random = [0_u8; KEY_LEN];
    SystemRandom::new().fill(&mut random).map_err(|_| NoRandom)?;
    Ok(random.iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_long_different_and_not_shown() {
        let keys = Keys::make().unwrap();
        let other = Keys::make().unwrap();
        assert_eq!(keys.application.len(), KEY_LEN);
        check(&keys.master).unwrap();
        assert!(keys.application != keys.master && keys.master != other.master);
        assert_eq!(format!("{keys:?}"), "Keys(..)");
    }

    #[test]
    fn one_key_is_made_anew_and_the_others_stay() {
        let old = Keys::make().unwrap();
        let mut new = old.clone();
        new.regenerate(KeyType::Application).unwrap();
        assert!(new.application != old.application);
        assert_eq!((new.master, new.deployment), (old.master, old.deployment));
    }

    #[test]
    fn nobody_gets_in_with_no_key() {
        assert!(!Keys::none().is_deployment(""));
        let keys = Keys::make().unwrap();
        assert!(keys.is_deployment(&keys.deployment) && !keys.is_deployment(&keys.master));
    }

    #[test]
    fn a_bad_key_is_refused_without_being_told() {
        for bad in ["short", "with a space in it, long enough", &"x".repeat(129)] {
            let said = check(bad).unwrap_err();
            assert!(!said.contains(bad), "{said}");
        }
    }
}
