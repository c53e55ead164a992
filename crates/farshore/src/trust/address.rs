//! An address that a certificate is good for: what browsers, curl and QEMU compare with what they connected to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use farshore_core::ids::Region;
use serde::{Deserialize, Serialize};

/// Longest DNS name.
const DNS_LEN_MAX: usize = 253;
/// Longest part of one.
const LABEL_LEN_MAX: usize = 63;
/// Most addresses in one certificate: more make handshakes slow, and nobody has them.
pub(super) const ADDRESSES_MAX: usize = 32;
/// The zone of names that every node's certificate has, whatever its addresses.
const ZONE: &str = "farshore.internal";

/// An IP address or a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name, in lower case.
    Dns(String),
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no address for a certificate: {why}")]
pub struct InvalidAddress {
    /// The text.
    pub text: String,
    /// What is wrong, as advice.
    pub why: &'static str,
}

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let bad = |why| Err(InvalidAddress { text: text.to_owned(), why });
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        if text.contains(':') || text.contains('/') {
            return bad("write an IP address or a DNS name, without a port and without https://");
        }
        if text.is_empty() || text.len() > DNS_LEN_MAX {
            return bad("a DNS name has 1 to 253 characters");
        }
        if !text.split('.').all(is_label) {
            return bad("a DNS name has letters, digits and inner hyphens between its dots, at most 63 each");
        }
        // `300.1.1.1` is a mistyped IP address, not a name: no top-level domain is a number.
        if text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
            return bad("it is neither an IP address nor a DNS name");
        }
        Ok(Self::Dns(text.to_ascii_lowercase()))
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= LABEL_LEN_MAX
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl Address {
    /// The name that a node of this region always has: `paris.prod.farshore.internal`.
    #[must_use]
    pub fn of_region(region: &Region, cluster: &str) -> Self {
        Self::Dns(format!("{region}.{cluster}.{ZONE}"))
    }

    /// Whether it is a name that says a region: only that region's nodes may have it.
    pub(super) fn is_internal(&self) -> bool {
        match self {
            Self::Ip(_) => false,
            Self::Dns(name) => name == ZONE || name.ends_with(&format!(".{ZONE}")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => fmt::Display::fmt(ip, f),
            Self::Dns(name) => f.pad(name),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;
    fn try_from(text: String) -> Result<Self, InvalidAddress> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_ip_or_dns() {
        assert_eq!("10.0.0.1".parse(), Ok(Address::Ip("10.0.0.1".parse().unwrap())));
        assert_eq!("::1".parse(), Ok(Address::Ip("::1".parse().unwrap())));
        assert_eq!("DR.example.org".parse(), Ok(Address::Dns("dr.example.org".to_owned())));
        for bad in ["", "a..b", "-a", "a_b", "https://a", "a:80", "300.1.1.1", "*.example.org", "a b"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_regions_are_told_apart() {
        let paris = Address::of_region(&Region::parse("paris").unwrap(), "prod");
        assert_eq!(paris.to_string(), "paris.prod.farshore.internal");
        assert!(paris.is_internal());
        assert!(!"example.org".parse::<Address>().unwrap().is_internal());
        assert!(!"notfarshore.internal".parse::<Address>().unwrap().is_internal());
    }
}
