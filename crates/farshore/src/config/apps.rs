//! App services: where a node's gateway answers, with which certificate, how much memory apps have, and what is refused.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::{check_domain, check_host};
use super::{NodeConfig, NodeRole, any_port};

/// One process of the smallest mode.
const CAPACITY_MIB_MIN: u64 = 128;

/// The section `[apps]`, for the role `apps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppsConfig {
    /// Where clients of apps are answered in plain text: on loopback only, because their keys and rows go over it.
    #[serde(default = "any_port")]
    pub http: SocketAddr,
    /// Where clients of apps are answered over TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// How this region's gateway is reached, as a host name or address without a port; by default the addresses above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The domain under which apps are called `NAME.app.DOMAIN`, and their scripts `NAME.scm.DOMAIN`, the same in all regions.
    #[serde(default = "domain")]
    pub domain: String,
    /// Memory that the processes of all apps of the region may take together.
    #[serde(default = "capacity_mib")]
    pub capacity_mib: u64,
    /// The certificate that clients are shown (PEM, its chain after it), with `key_file`. It must be good for the apps' names;
    /// apps may have others for host names of their own. By default the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

fn domain() -> String {
    "farshore.internal".to_owned()
}
fn capacity_mib() -> u64 {
    4096
}

impl Default for AppsConfig {
    fn default() -> Self {
        Self {
            http: any_port(),
            https: None,
            host: None,
            domain: domain(),
            capacity_mib: capacity_mib(),
            cert_file: None,
            key_file: None,
        }
    }
}

impl NodeConfig {
    /// What the node does as one of app services; `None`: it is none.
    #[must_use]
    pub fn apps(&self) -> Option<AppsConfig> {
        self.has(NodeRole::Apps).then(|| self.apps.clone().unwrap_or_default())
    }
}

pub(super) fn check(config: &NodeConfig) -> Result<(), String> {
    if config.apps.is_some() && !config.has(NodeRole::Apps) {
        return Err("[apps] is served by nodes with the role apps: add the role, or remove [apps]".into());
    }
    let Some(own) = config.apps() else { return Ok(()) };
    if !own.http.ip().is_loopback() {
        return Err(format!(
            "[apps]: http = \"{}\" is reachable from elsewhere, and would carry keys and rows in plain text: keep it on loopback, \
             such as 127.0.0.1:{}, and set https for clients elsewhere",
            own.http,
            own.http.port()
        ));
    }
    check_tls(config, &own)?;
    if let Some(host) = &own.host {
        check_host("[apps]", host)?;
    }
    check_domain("[apps]", &own.domain)?;
    if own.capacity_mib < CAPACITY_MIB_MIN {
        return Err(format!(
            "[apps]: capacity_mib = {} is too little for one process of the smallest mode: give at least {CAPACITY_MIB_MIN}",
            own.capacity_mib
        ));
    }
    Ok(())
}

fn check_tls(config: &NodeConfig, own: &AppsConfig) -> Result<(), String> {
    match (&own.cert_file, &own.key_file) {
        (Some(_), None) => return Err("[apps] has a cert_file: set key_file, its key".into()),
        (None, Some(_)) => return Err("[apps] has a key_file: set cert_file, its certificate".into()),
        _ => {}
    }
    let Some(https) = own.https else {
        return match own.cert_file {
            Some(_) => Err(
                "[apps] has a certificate, but no https: set https to where clients are answered over TLS"
                    .into(),
            ),
            None => Ok(()),
        };
    };
    if own.cert_file.is_none() && config.trust.is_none() {
        return Err("[apps]: https needs a certificate: set cert_file and key_file, or run farshore init and set trust".into());
    }
    if https.port() != 0 && https == own.http {
        return Err(format!("[apps]: http and https are both \"{https}\": give each its own port"));
    }
    if https.ip().is_unspecified() && own.host.is_none() {
        return Err(format!(
            "[apps]: https = \"{https}\" is every address and so none that a client could be told: set host to the one that \
             clients reach"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::config::check::tests::REAL;
    use crate::config::tests::{GOOD, parse};

    const ROLES: (&str, &str) = ("FARSHORE_NODE_ROLES", "[\"control\", \"apps\"]");

    #[test]
    fn what_is_wrong_is_named() {
        for (text, key, value, why) in [
            (GOOD, "HTTP", "0.0.0.0:80", "http = \"0.0.0.0:80\" is reachable from elsewhere"),
            (REAL, "HTTP", "10.0.0.2:80", "keep it on loopback, such as 127.0.0.1:80"),
            (GOOD, "HTTPS", "127.0.0.1:443", "https needs a certificate"),
            (REAL, "HTTPS", "0.0.0.0:443", "set host to the one that clients reach"),
            (GOOD, "CERT_FILE", "/c.pem", "set key_file"),
            (GOOD, "KEY_FILE", "/c.pem", "set cert_file"),
            (GOOD, "DOMAIN", "Apps.Example", "is no domain"),
            (GOOD, "HOST", "https://x", "leave out scheme and port"),
            (GOOD, "CAPACITY_MIB", "64", "give at least 128"),
            (GOOD, "COLOUR", "red", "unknown field `colour`"),
        ] {
            let key = format!("FARSHORE_NODE_APPS__{key}");
            let error = parse(text, &[ROLES, (&key, value)]).unwrap_err();
            assert!(error.contains(why), "{key}: {error}");
        }
        let error = parse(GOOD, &[("FARSHORE_NODE_APPS__DOMAIN", "a.b")]).unwrap_err();
        assert!(error.contains("add the role, or remove [apps]"), "{error}");
    }

    #[test]
    fn loopback_needs_nothing_and_https_the_nodes_certificate_or_another() {
        let own = parse(GOOD, &[ROLES]).unwrap().apps().unwrap();
        assert_eq!((own.capacity_mib, own.domain.as_str(), own.https), (4096, "farshore.internal", None));
        let https = ("FARSHORE_NODE_APPS__HTTPS", "10.0.0.2:443");
        assert!(parse(REAL, &[ROLES, https]).is_ok());
        let files = [("FARSHORE_NODE_APPS__CERT_FILE", "/c.pem"), ("FARSHORE_NODE_APPS__KEY_FILE", "/k.pem")];
        assert!(parse(GOOD, &[&[ROLES, https], &files[..]].concat()).is_ok());
        let error = parse(GOOD, &[&[ROLES], &files[..]].concat()).unwrap_err();
        assert!(error.contains("but no https"), "{error}");
    }
}
