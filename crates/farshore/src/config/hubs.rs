//! Device hubs: where a node serves them, with which certificate, and what is refused.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::{beyond_loopback, check_domain, check_host};
use super::{NodeConfig, NodeRole, any_port};

/// The section `[hubs]`, for the role `hubs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubsConfig {
    /// Where devices connect by MQTT over TLS. Official device SDKs know no other port than 8883.
    #[serde(default = "any_port")]
    pub mqtt: SocketAddr,
    /// Where back ends call, and devices connect by WebSocket. Some official SDKs know no other port than 443.
    #[serde(default = "any_port")]
    pub https: SocketAddr,
    /// Where back ends send messages to devices by AMQP. Official SDKs know no other port than 5671.
    #[serde(default = "any_port")]
    pub amqp: SocketAddr,
    /// How this region's listeners are reached, as a host name or address without a port; by default the addresses above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The domain under which hubs are called `NAME.hub.DOMAIN` by their devices, the same in all regions.
    #[serde(default = "domain")]
    pub domain: String,
    /// The certificate that devices and back ends are shown (PEM, its chain after it), with `key_file`. It must be good for the
    /// hubs' names. By default the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// What devices and back ends must believe to accept that certificate (PEM): told to them with their connection strings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The directory in which import and export jobs may read and write; without it there are none by REST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<PathBuf>,
}

fn domain() -> String {
    "farshore.internal".to_owned()
}

impl Default for HubsConfig {
    fn default() -> Self {
        Self {
            mqtt: any_port(),
            https: any_port(),
            amqp: any_port(),
            host: None,
            domain: domain(),
            cert_file: None,
            key_file: None,
            ca_file: None,
            exchange: None,
        }
    }
}

impl NodeConfig {
    /// What the node does as one of device hubs; `None`: it is none.
    #[must_use]
    pub fn hubs(&self) -> Option<HubsConfig> {
        self.has(NodeRole::Hubs).then(|| self.hubs.clone().unwrap_or_default())
    }
}

pub(super) fn check(config: &NodeConfig) -> Result<(), String> {
    if config.hubs.is_some() && !config.has(NodeRole::Hubs) {
        return Err("[hubs] is served by nodes with the role hubs: add the role, or remove [hubs]".into());
    }
    let Some(own) = config.hubs() else { return Ok(()) };
    match (&own.cert_file, &own.key_file) {
        (Some(_), None) => return Err("[hubs] has a cert_file: set key_file, its key".into()),
        (None, Some(_)) => return Err("[hubs] has a key_file: set cert_file, its certificate".into()),
        (None, None) if config.trust.is_none() => {
            return Err("[hubs] needs a certificate, because devices speak TLS only: set cert_file and key_file, or run \
                        farshore init and set trust"
                .into());
        }
        _ => {}
    }
    for (key, address) in [("mqtt", own.mqtt), ("https", own.https), ("amqp", own.amqp)] {
        if config.trust.is_none() {
            beyond_loopback(address).map_err(|why| format!("[hubs]: {key} = \"{address}\" {why}"))?;
        }
        if address.ip().is_unspecified() && own.host.is_none() {
            return Err(format!(
                "[hubs]: {key} = \"{address}\" is every address and so none that a device could be told: set host to the one \
                 that devices reach"
            ));
        }
    }
    if let Some(host) = &own.host {
        check_host("[hubs]", host)?;
    }
    check_domain("[hubs]", &own.domain)
}

#[cfg(test)]
mod tests {
    use crate::config::check::tests::REAL;
    use crate::config::tests::{GOOD, parse};

    const ROLES: (&str, &str) = ("FARSHORE_NODE_ROLES", "[\"control\", \"hubs\"]");

    #[test]
    fn what_is_wrong_is_named() {
        for (text, key, value, why) in [
            (GOOD, "DOMAIN", "a.b", "[hubs] needs a certificate, because devices speak TLS only"),
            (GOOD, "CERT_FILE", "/c.pem", "set key_file"),
            (GOOD, "KEY_FILE", "/c.pem", "set cert_file"),
            (GOOD, "COLOUR", "red", "unknown field `colour`"),
            (REAL, "DOMAIN", "Iot.Example", "is no domain"),
            (REAL, "HOST", "https://x", "leave out scheme and port"),
            (REAL, "MQTT", "0.0.0.0:8883", "set host to the one that devices reach"),
        ] {
            let key = format!("FARSHORE_NODE_HUBS__{key}");
            let error = parse(text, &[ROLES, (&key, value)]).unwrap_err().to_string();
            assert!(error.contains(why), "{key}: {error}");
        }
        let error = parse(GOOD, &[("FARSHORE_NODE_HUBS__DOMAIN", "a.b")]).unwrap_err().to_string();
        assert!(error.contains("add the role, or remove [hubs]"), "{error}");
    }

    #[test]
    fn loopback_needs_a_certificate_and_nothing_else() {
        let with =
            [ROLES, ("FARSHORE_NODE_HUBS__CERT_FILE", "/c.pem"), ("FARSHORE_NODE_HUBS__KEY_FILE", "/k.pem")];
        let config = parse(GOOD, &with).unwrap();
        assert_eq!(config.hubs().unwrap().domain, "farshore.internal");
        let beyond = [&with[..], &[("FARSHORE_NODE_HUBS__MQTT", "10.0.0.1:8883")]].concat();
        let error = parse(GOOD, &beyond).unwrap_err().to_string();
        assert!(error.contains("mqtt = \"10.0.0.1:8883\" is reachable from elsewhere"), "{error}");
    }
}
