//! Connection strings: `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…` and the device's `HostName=…;DeviceId=…;…`.

use std::fmt;

use crate::names::{DeviceId, Key, ModuleId};

/// Text that is no connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no connection string: {0}; write HostName=HOST;SharedAccessKeyName=POLICY;SharedAccessKey=KEY"
)]
pub struct BadConnectionString(String);

/// How its holder proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A key of a policy.
    Policy {
        /// Its name.
        name: String,
        /// Base64.
        key: String,
    },
    /// A key of a device or module.
    Device {
        /// Who.
        who: Key,
        /// Base64.
        key: String,
    },
    /// A device's or module's certificate.
    Certificate {
        /// Who.
        who: Key,
    },
    /// A token that somebody made already.
    Signature(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { name, .. } => write!(f, "Policy({name})"),
            Self::Device { who, .. } => write!(f, "Device({who})"),
            Self::Certificate { who } => write!(f, "Certificate({who})"),
            Self::Signature(_) => f.write_str("Signature"),
        }
    }
}

/// A parsed connection string. Its `Debug` shows no key; its `Display` is the text with the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionString {
    /// The hub's logical name: what tokens are for.
    pub host: String,
    /// Where to connect instead.
    pub gateway: Option<String>,
    /// The proof.
    pub credential: Credential,
}

impl ConnectionString {
    /// Reads a connection string; names of fields in any case and order.
    ///
    /// # Errors
    /// [`BadConnectionString`] says what is missing or wrong.
    pub fn parse(text: &str) -> Result<Self, BadConnectionString> {
        let fields = fields(text)?;
        let get = |wanted: &str| {
            fields
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
                .map(|(_, value)| (*value).to_owned())
        };
        let host = get("HostName").ok_or_else(|| bad("HostName is missing"))?;
        let who = match (get("DeviceId"), get("ModuleId")) {
            (None, None) => None,
            (None, Some(_)) => return Err(bad("ModuleId stands without DeviceId")),
            (Some(device), module) => Some(Key {
                device: DeviceId::parse(&device).map_err(|error| bad(&error.to_string()))?,
                module: module
                    .map(|module| ModuleId::parse(&module))
                    .transpose()
                    .map_err(|error| bad(&error.to_string()))?,
            }),
        };
        let is_x509 = get("x509").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let credential =
            match (who, get("SharedAccessKeyName"), get("SharedAccessKey"), get("SharedAccessSignature")) {
                (_, _, None, Some(signature)) => Credential::Signature(signature),
                (_, Some(name), Some(key), None) => Credential::Policy { name, key: checked(key)? },
                (Some(who), None, Some(key), None) => Credential::Device { who, key: checked(key)? },
                (Some(who), None, None, None) if is_x509 => Credential::Certificate { who },
                (_, _, Some(_), Some(_)) => {
                    return Err(bad("give SharedAccessKey or SharedAccessSignature, not both"));
                }
                (None, None, Some(_), None) => {
                    return Err(bad("SharedAccessKey needs SharedAccessKeyName or DeviceId"));
                }
                (_, _, None, None) => return Err(bad("SharedAccessKey is missing")),
            };
        Ok(Self { host, gateway: get("GatewayHostName"), credential })
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostName={}", self.host)?;
        match &self.credential {
            Credential::Policy { name, key } => {
                write!(f, ";SharedAccessKeyName={name};SharedAccessKey={key}")?
            }
            Credential::Device { who, key } => {
                write_who(f, who)?;
                write!(f, ";SharedAccessKey={key}")?;
            }
            Credential::Certificate { who } => {
                write_who(f, who)?;
                f.write_str(";x509=true")?;
            }
            Credential::Signature(token) => write!(f, ";SharedAccessSignature={token}")?,
        }
        self.gateway.as_ref().map_or(Ok(()), |gateway| write!(f, ";GatewayHostName={gateway}"))
    }
}

fn write_who(f: &mut fmt::Formatter<'_>, who: &Key) -> fmt::Result {
    write!(f, ";DeviceId={}", who.device)?;
    who.module.as_ref().map_or(Ok(()), |module| write!(f, ";ModuleId={module}"))
}

fn fields(text: &str) -> Result<Vec<(&str, &str)>, BadConnectionString> {
    let mut fields: Vec<(&str, &str)> = Vec::new();
    for field in text.trim().split(';').filter(|field| !field.trim().is_empty()) {
        let (name, value) = field.split_once('=').ok_or_else(|| bad("a field has no '='"))?;
        let name = name.trim();
        if fields.iter().any(|(seen, _)| seen.eq_ignore_ascii_case(name)) {
            return Err(bad(&format!("{name:?} is given twice")));
        }
        if value.is_empty() {
            return Err(bad(&format!("{name:?} is empty")));
        }
        fields.push((name, value));
    }
    Ok(fields)
}

fn checked(key: String) -> Result<String, BadConnectionString> {
    super::token::check_key(&key).map_err(|error| bad(&error.to_string()))?;
    Ok(key)
}

fn bad(why: &str) -> BadConnectionString {
    BadConnectionString(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_strings_are_written_as_they_were_read() {
        for text in [
            "HostName=contoso.hub;SharedAccessKeyName=iothubowner;SharedAccessKey=c2VjcmV0PT0=",
            "HostName=127.0.0.2:8443;DeviceId=pump;SharedAccessKey=c2VjcmV0PT0=;GatewayHostName=127.0.0.3",
            "HostName=contoso.hub;DeviceId=pump;ModuleId=valve;x509=true",
            "HostName=contoso.hub;SharedAccessSignature=SharedAccessSignature sr=a&sig=b&se=1",
        ] {
            let parsed = ConnectionString::parse(text).unwrap();
            assert_eq!(parsed.to_string(), text);
            assert!(!format!("{parsed:?}").contains("c2Vj"));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("", "HostName is missing"),
            ("HostName", "no '='"),
            ("HostName=", "\"HostName\" is empty"),
            ("HostName=a;hostname=b", "\"hostname\" is given twice"),
            ("HostName=a", "SharedAccessKey is missing"),
            ("HostName=a;SharedAccessKey=YQ==", "needs SharedAccessKeyName or DeviceId"),
            ("HostName=a;ModuleId=b;SharedAccessKey=YQ==", "without DeviceId"),
            ("HostName=a;DeviceId=b c;SharedAccessKey=YQ==", "is no device or module id"),
            ("HostName=a;DeviceId=b;SharedAccessKey=???", "base64"),
            ("HostName=a;DeviceId=b;SharedAccessKey=YQ==;SharedAccessSignature=x", "not both"),
        ] {
            let error = ConnectionString::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
