//! What an operator says of a member.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sas::{ConnectionString, Credential};
use crate::trust::{self, BadAuthority};

/// Between two runs, if nothing is said.
pub const EVERY_DEFAULT: u32 = 300;
/// A list of a hundred thousand devices takes longer than a few seconds: a hub is not to be listed all the time.
pub const EVERY_MIN: u32 = 10;
/// At least once a day, so that a member that fails is noticed.
pub const EVERY_MAX: u32 = 86_400;

/// Which side is made like the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// This hub takes over what the other one has.
    #[default]
    From,
    /// The other hub is given what this one has.
    To,
}

impl Direction {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
        }
    }
}

/// A member as it is kept and replicated. Fields are only ever added.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSetting {
    /// `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…`: a secret.
    pub connection_string: String,
    /// Seconds between the beginnings of two runs.
    #[serde(default = "every_default")]
    pub every_seconds: u32,
    /// Which side is made like the other.
    #[serde(default)]
    pub direction: Direction,
    /// What only the side has that is made like the other, is deleted.
    #[serde(default)]
    pub prune: bool,
    /// Whose certificates are believed (PEM); `None`: whom this system believes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

fn every_default() -> u32 {
    EVERY_DEFAULT
}

impl fmt::Debug for MemberSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { every_seconds, direction, prune, .. } = self;
        f.debug_struct("MemberSetting")
            .field("every_seconds", every_seconds)
            .field("direction", direction)
            .field("prune", prune)
            .finish_non_exhaustive()
    }
}

/// A setting that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMember {
    /// The connection string.
    #[error("connection_string: {0}")]
    ConnectionString(String),
    /// The schedule.
    #[error("every_seconds: {0} is not between {EVERY_MIN} and {EVERY_MAX}")]
    Every(u32),
    /// The authority.
    #[error("ca: {0}")]
    Authority(#[from] BadAuthority),
    /// The system gives no client.
    #[error("no connection can be made: {0}")]
    Client(String),
}

/// Who is asked, and as whom.
#[derive(Clone)]
pub(super) struct Way {
    /// The hub's name: what tokens are for.
    pub(super) host: String,
    /// Where it is.
    pub(super) at: String,
    pub(super) policy: String,
    pub(super) key: String,
}

impl MemberSetting {
    /// Between the beginnings of two runs.
    #[must_use]
    pub fn every(&self) -> Duration {
        Duration::from_secs(u64::from(self.every_seconds.clamp(EVERY_MIN, EVERY_MAX)))
    }

    /// The host and the policy: what may be shown of the connection string.
    ///
    /// # Errors
    /// [`BadMember`]
    pub fn shown(&self) -> Result<(String, String), BadMember> {
        self.way().map(|way| (way.host, way.policy))
    }

    /// Whether a member can run with it.
    ///
    /// # Errors
    /// [`BadMember`]
    pub fn check(&self) -> Result<(), BadMember> {
        self.way()?;
        trust::client_config(self.ca.as_deref())?;
        Ok(())
    }

    pub(super) fn way(&self) -> Result<Way, BadMember> {
        if !(EVERY_MIN..=EVERY_MAX).contains(&self.every_seconds) {
            return Err(BadMember::Every(self.every_seconds));
        }
        let wrong = |why: String| BadMember::ConnectionString(why);
        let parsed =
            ConnectionString::parse(&self.connection_string).map_err(|error| wrong(error.to_string()))?;
        let Credential::Policy { name, key } = parsed.credential else {
            return Err(wrong(
                "it must name a policy of the other hub: SharedAccessKeyName and SharedAccessKey".into(),
            ));
        };
        let at = parsed.gateway.unwrap_or_else(|| parsed.host.clone());
        if let Some(bad) = [&parsed.host, &at].into_iter().find(|host| !is_authority(host)) {
            return Err(wrong(format!("{:?} is no host name, with or without a port", shortened(bad))));
        }
        Ok(Way { host: parsed.host, at, policy: name, key })
    }
}

/// `HOST` or `HOST:PORT`, and nothing that would lead elsewhere in an address.
fn is_authority(text: &str) -> bool {
    /// A name of 253 characters and a port.
    const LEN_MAX: usize = 260;
    text.len() <= LEN_MAX && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c))
}

fn shortened(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(connection_string: &str) -> MemberSetting {
        serde_json::from_value(serde_json::json!({ "connection_string": connection_string })).unwrap()
    }

    #[test]
    fn what_is_not_said_is_as_usual_and_no_key_is_shown() {
        let setting = setting("HostName=other.test;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0");
        assert_eq!(
            (setting.every(), setting.direction, setting.prune),
            (Duration::from_secs(300), Direction::From, false)
        );
        assert_eq!(setting.shown().unwrap(), ("other.test".to_owned(), "iothubowner".to_owned()));
        assert!(!format!("{setting:?}").contains("c2Vj"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_words() {
        for (text, why) in [
            ("HostName=a", "SharedAccessKey is missing"),
            ("HostName=a;DeviceId=b;SharedAccessKey=YQ==", "it must name a policy"),
            (
                "HostName=a;SharedAccessSignature=SharedAccessSignature sr=a&sig=b&se=1",
                "it must name a policy",
            ),
            ("HostName=a/b?c@d;SharedAccessKeyName=p;SharedAccessKey=YQ==", "is no host name"),
            ("HostName=a;GatewayHostName=x y;SharedAccessKeyName=p;SharedAccessKey=YQ==", "is no host name"),
        ] {
            let error = setting(text).way().err().unwrap().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let often = MemberSetting {
            every_seconds: 1,
            ..setting("HostName=a;SharedAccessKeyName=p;SharedAccessKey=YQ==")
        };
        assert_eq!(often.way().err().unwrap().to_string(), "every_seconds: 1 is not between 10 and 86400");
    }
}
