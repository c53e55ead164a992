//! Connection strings: `Endpoint=https://host;AccessKey=…;Version=1.0;`, as applications are configured with.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::AccessKey;
use super::audience::split_port;

/// Longest connection string that is read.
pub const CONNECTION_STRING_LEN_MAX: usize = 8 * 1024;

/// Where a hub or a pair is, and the key to it. Its `Display` is the secret itself; its `Debug` hides the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ConnectionString {
    /// `http(s)://host[:port][/path]`, without a slash at its end.
    pub endpoint: String,
    /// Signs the calls.
    pub key: AccessKey,
}

/// A connection string that cannot be used. Never repeats it: it holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection string is not valid: {0}")]
pub struct BadConnectionString(pub &'static str);

impl ConnectionString {
    /// Reads `Endpoint=…;AccessKey=…;Port=…;Version=…` in any order; the keys' case does not matter and unknown ones are
    /// left alone. An endpoint without a scheme is https; `Port` replaces the endpoint's own.
    pub fn parse(text: &str) -> Result<Self, BadConnectionString> {
        if text.len() > CONNECTION_STRING_LEN_MAX {
            return Err(BadConnectionString("it is longer than 8 KiB"));
        }
        let (mut endpoint, mut key, mut port) = (None, None, None);
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part
                .split_once('=')
                .ok_or(BadConnectionString("a part of it has no =, write Name=value;"))?;
            let place = match name.trim().to_ascii_lowercase().as_str() {
                "endpoint" => &mut endpoint,
                "accesskey" => &mut key,
                "port" => &mut port,
                _ => continue,
            };
            if place.replace(value.trim()).is_some() {
                return Err(BadConnectionString("it says Endpoint, AccessKey or Port twice"));
            }
        }
        let endpoint = endpoint.ok_or(BadConnectionString("it has no Endpoint=https://host"))?;
        let key = key.ok_or(BadConnectionString("it has no AccessKey=…"))?;
        Ok(Self {
            endpoint: full_endpoint(endpoint, port)?,
            key: AccessKey::parse(key)
                .map_err(|_| BadConnectionString("its AccessKey is empty or too long"))?,
        })
    }
}

impl FromStr for ConnectionString {
    type Err = BadConnectionString;
    fn from_str(text: &str) -> Result<Self, BadConnectionString> {
        Self::parse(text)
    }
}

impl TryFrom<String> for ConnectionString {
    type Error = BadConnectionString;
    fn try_from(text: String) -> Result<Self, BadConnectionString> {
        Self::parse(&text)
    }
}

impl From<ConnectionString> for String {
    fn from(whole: ConnectionString) -> Self {
        whole.to_string()
    }
}

impl fmt::Display for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint={};AccessKey={};Version=1.0;", self.endpoint, self.key.expose())
    }
}

fn full_endpoint(endpoint: &str, port: Option<&str>) -> Result<String, BadConnectionString> {
    let with_scheme =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") };
    let uri: http::Uri = with_scheme.parse().map_err(|_| {
        BadConnectionString("its Endpoint is not a URL: write https://host or https://host:port")
    })?;
    let scheme = uri
        .scheme_str()
        .filter(|scheme| *scheme == "http" || *scheme == "https")
        .ok_or(BadConnectionString("its Endpoint must start with http:// or https://"))?;
    let authority = uri.authority().ok_or(BadConnectionString("its Endpoint names no host"))?;
    if authority.host().is_empty() || authority.as_str().contains('@') || uri.query().is_some() {
        return Err(BadConnectionString("its Endpoint may be only a scheme, a host, a port and a path"));
    }
    let path = uri.path().trim_end_matches('/');
    // Not `authority.port()`: that finds none where the number is too large.
    let port = port.or(split_port(authority.as_str()).1);
    let Some(port) = port else { return Ok(format!("{scheme}://{}{path}", authority.host())) };
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(format!("{scheme}://{}:{port}{path}", authority.host())),
        Ok(_) | Err(_) => Err(BadConnectionString("its port must be a number from 1 to 65535")),
    }
}
