//! Who is meant: devices, their modules, and the five things a device can subscribe to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest identifier of a device or module, in characters; from the contract of the official SDKs.
pub const ID_LEN_MAX: usize = 128;

/// What an identifier may contain besides letters and digits.
const MARKS: &str = "-.+%_#*?!(),:=@$'";

/// Text that is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no device or module id: {why}")]
pub struct BadId {
    /// What was given, shortened.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

macro_rules! id {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        ///
        /// 1 to 128 characters: ASCII letters, digits and `-.+%_#*?!(),:=@$'`. Case matters.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Reads an identifier.
            ///
            /// # Errors
            /// [`BadId`] says what is wrong with it.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                check(text).map_err(|why| BadId { text: text.chars().take(ID_LEN_MAX).collect(), why })?;
                Ok(Self(text.into()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(text: String) -> Result<Self, BadId> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    };
}

id!(DeviceId, "A device's identifier.");
id!(ModuleId, "The identifier of a module of a device.");

fn check(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > ID_LEN_MAX {
        return Err("it is longer than 128 characters");
    }
    if !text.chars().all(|c| c.is_ascii_alphanumeric() || MARKS.contains(c)) {
        return Err("only ASCII letters, digits and -.+%_#*?!(),:=@$' are allowed");
    }
    Ok(())
}

/// A device, or one of its modules: whatever has an identity, a twin and a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The device.
    pub device: DeviceId,
    /// Its module; `None`: the device itself.
    pub module: Option<ModuleId>,
}

impl Key {
    /// A device itself.
    #[must_use]
    pub fn device(device: DeviceId) -> Self {
        Self { device, module: None }
    }

    /// A module of a device.
    #[must_use]
    pub fn module(device: DeviceId, module: ModuleId) -> Self {
        Self { device, module: Some(module) }
    }

    /// Reads `device` or `device/module`.
    ///
    /// # Errors
    /// [`BadId`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        match text.split_once('/') {
            None => Ok(Self::device(DeviceId::parse(text)?)),
            Some((device, module)) => Ok(Self::module(DeviceId::parse(device)?, ModuleId::parse(module)?)),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            None => write!(f, "{}", self.device),
            Some(module) => write!(f, "{}/{module}", self.device),
        }
    }
}

/// What a device is subscribed to, with the quality of service it was granted (0 or 1). Replicated with the device: the official
/// SDKs do not subscribe again after a failover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize)]
pub struct Subs {
    /// `devices/{id}/messages/devicebound/#`
    pub messages: Option<u8>,
    /// `$iothub/twin/res/#`
    pub twin: Option<u8>,
    /// `$iothub/twin/PATCH/properties/desired/#`
    pub desired: Option<u8>,
    /// `$iothub/methods/POST/#`
    pub methods: Option<u8>,
    /// `devices/{id}/modules/{module}/inputs/#` and the like, which nothing is sent to yet.
    pub inputs: Option<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_as_the_contract_says() {
        for good in ["a", "Pump-1", "a.b+c%d_e#f*g?h!i(j),k:l=m@n$o'", &"x".repeat(128)] {
            assert_eq!(DeviceId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "é", "a/b", "a\\b", "a\nb", "a\"b", &"x".repeat(129)] {
            let error = DeviceId::parse(bad).unwrap_err().to_string();
            assert!(error.contains("is no device or module id"), "{error}");
        }
        assert_ne!(DeviceId::parse("Pump").unwrap(), DeviceId::parse("pump").unwrap());
    }

    #[test]
    fn a_key_is_a_device_or_a_module() {
        assert_eq!(Key::parse("pump/valve").unwrap().to_string(), "pump/valve");
        assert_eq!(Key::parse("pump").unwrap().module, None);
        assert!(Key::parse("pump/").is_err() && Key::parse("a/b/c").is_err());
    }
}
