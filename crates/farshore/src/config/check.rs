//! What a configuration must be before anything is started. Every refusal names the key and what would be right.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use farshore_core::ids::Region;

use super::{EtcdConfig, NodeConfig, NodeRole, RegionConfig, StoreKind, apps, hubs, realtime};

/// Recovery points are kept at most this long: fifteen days.
const RETENTION_HOURS_MAX: u64 = 24 * 15;

pub(super) fn check(config: &NodeConfig) -> Result<(), String> {
    check_listeners(config)?;
    if config.roles.is_empty() {
        return Err(
            "roles is empty: name at least one of \"control\", \"machines\", \"apps\", \"hubs\" and \"realtime\""
                .into(),
        );
    }
    if config.point_seconds == 0 {
        return Err("point_seconds must be at least 1".into());
    }
    if config.retention_hours == 0 || config.retention_hours > RETENTION_HOURS_MAX {
        return Err("retention_hours must be between 1 and 360 (15 days)".into());
    }
    if config.trust.is_none() && config.secret_file.is_none() {
        return Err("without trust = \"DIRECTORY\" the nodes know each other by a shared secret: set secret_file, or run \
                    farshore init and set trust"
            .into());
    }
    config.fencing.timings().check().map_err(|error| format!("[fencing]: {error}"))?;
    check_store(config)?;
    if config.dns.is_some() && !config.has(NodeRole::Control) {
        return Err("[dns] is served by nodes with the role control: add the role, or remove [dns]".into());
    }
    if config.compat.mobile_services && !config.has(NodeRole::Control) {
        return Err(
            "compat.mobile_services is served by nodes with the role control: add the role, or remove it"
                .into(),
        );
    }
    if config.has(NodeRole::Control) || !config.regions.is_empty() {
        check_regions(config)?;
    }
    realtime::check(config)?;
    hubs::check(config)?;
    apps::check(config)?;
    if config.has(NodeRole::Control) && config.token_file.is_none() {
        return Err(
            "the role control needs token_file: the file with the token that API clients must know".into()
        );
    }
    Ok(())
}

fn check_listeners(config: &NodeConfig) -> Result<(), String> {
    if config.nbd.ip().is_unspecified() {
        return Err(format!(
            "nbd = \"{}\" is every address and so none that a client could be told: name the one that clients reach, such as \
             10.0.0.1:{}",
            config.nbd,
            config.nbd.port()
        ));
    }
    if config.trust.is_some() {
        return Ok(());
    }
    for (key, address) in
        [("listen", config.listen), ("nbd", config.nbd), ("replication", config.replication)]
    {
        beyond_loopback(address).map_err(|why| format!("{key} = \"{address}\" {why}"))?;
    }
    Ok(())
}

pub(super) fn beyond_loopback(address: SocketAddr) -> Result<(), String> {
    if address.ip().is_loopback() {
        return Ok(());
    }
    Err(format!(
        "is reachable from elsewhere, which needs TLS and authentication: run farshore init and set trust, or use a \
         loopback address such as 127.0.0.1:{}",
        address.port()
    ))
}

/// How a region is reached, as a section's `host` says it.
pub(super) fn check_host(section: &str, host: &str) -> Result<(), String> {
    match host.is_empty() || host.contains(['/', ':', '@', ' ']) {
        true => {
            Err(format!("{section}: host = {host:?} is no host name or address: leave out scheme and port"))
        }
        false => Ok(()),
    }
}

/// What names end with, as a section's `domain` says it.
pub(super) fn check_domain(section: &str, domain: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if domain.len() <= 200 && domain.split('.').all(is_label) {
        return Ok(());
    }
    Err(format!(
        "{section}: domain = {domain:?} is no domain: write one such as iot.example.com, in small letters"
    ))
}

fn check_store(config: &NodeConfig) -> Result<(), String> {
    match (config.store, &config.etcd) {
        (StoreKind::Redb, None) => Ok(()),
        (StoreKind::Redb, Some(_)) => {
            Err("[etcd] is set, but store is \"redb\": set store = \"etcd\", or remove [etcd]".into())
        }
        (StoreKind::Etcd, None) => {
            Err("store = \"etcd\" needs [etcd] with endpoints = { REGION = \"https://HOST:2379\", … }".into())
        }
        (StoreKind::Etcd, Some(etcd)) => check_etcd(etcd),
    }
}

fn check_etcd(etcd: &EtcdConfig) -> Result<(), String> {
    let urls: Vec<&String> = etcd.endpoints.values().flat_map(|urls| urls.all()).collect();
    if urls.is_empty() {
        return Err("[etcd] endpoints is empty: name the client URL of each member, by region".into());
    }
    if urls.len().is_multiple_of(2) {
        return Err(format!(
            "[etcd] has {} voters: an even number tolerates no more losses than one less, and one region of two can stop \
             everything; use 3 or 5 in at least three regions",
            urls.len()
        ));
    }
    let different: BTreeSet<&&String> = urls.iter().collect();
    if different.len() != urls.len() {
        return Err("[etcd] endpoints names the same member twice".into());
    }
    for url in &urls {
        let http = url.strip_prefix("http://");
        let host = http.or_else(|| url.strip_prefix("https://"));
        if host.is_none_or(str::is_empty) {
            return Err(format!("[etcd] endpoint {url:?} is no URL: write https://HOST:2379"));
        }
        if let Some(host) = http
            && !on_loopback(host)
        {
            tracing::warn!(endpoint = %url, "etcd is reached without TLS: whoever can reach it can change who is active");
        }
    }
    let files = [&etcd.ca_file, &etcd.cert_file, &etcd.key_file];
    if etcd.cert_file.is_some() != etcd.key_file.is_some() {
        return Err("[etcd] cert_file and key_file belong together: set both or none".into());
    }
    let https = urls.iter().any(|url| url.starts_with("https://"));
    if https && etcd.ca_file.is_none() {
        return Err("[etcd] https endpoints need ca_file: the certificate authority of the members".into());
    }
    if !https && files.iter().any(|file| file.is_some()) {
        return Err("[etcd] has certificates, but its endpoints are http: write https://".into());
    }
    if !etcd.prefix.starts_with('/') || !etcd.prefix.ends_with('/') {
        return Err(format!("[etcd] prefix {:?} must start and end with a slash", etcd.prefix));
    }
    Ok(())
}

fn on_loopback(host: &str) -> bool {
    host.starts_with("127.") || host.starts_with("[::1]") || host.starts_with("localhost")
}

fn check_regions(config: &NodeConfig) -> Result<(), String> {
    let mut names: BTreeSet<&Region> = BTreeSet::new();
    for region in &config.regions {
        if !names.insert(&region.name) {
            return Err(format!("region {} is listed twice in [[regions]]", region.name));
        }
        check_region(config, region)?;
    }
    let Some(own) = config.regions.iter().find(|region| region.name == config.region) else {
        return Err(format!("[[regions]] does not list this node's own region {}", config.region));
    };
    let control = config.has(NodeRole::Control);
    // What is listed is the node of the region that others call: a further one may do less.
    if config.trust.is_some() && own.control != control && !config.is_further() {
        return Err(format!(
            "[[regions]] says control = {} for {}, but roles says otherwise: make both the same",
            own.control, config.region
        ));
    }
    for region in config.etcd.iter().flat_map(|etcd| etcd.endpoints.keys()) {
        if !names.contains(region) {
            return Err(format!("[etcd] endpoints names region {region}, which [[regions]] does not list"));
        }
    }
    Ok(())
}

fn check_region(config: &NodeConfig, region: &RegionConfig) -> Result<(), String> {
    let wanted = if config.trust.is_some() { "https://" } else { "http://" };
    if !region.agent.starts_with(wanted) {
        let why = if config.trust.is_some() { "with trust" } else { "without trust" };
        return Err(format!(
            "region {}: agent = \"{}\" must start with {wanted} {why}",
            region.name, region.agent
        ));
    }
    if config.trust.is_none() {
        beyond_loopback(region.replication).map_err(|why| {
            format!("region {}: replication = \"{}\" {why}", region.name, region.replication)
        })?;
    }
    realtime::check_region(config, region)
}

#[cfg(test)]
pub(super) mod tests {
    use crate::config::tests::{GOOD, parse};

    /// Three regions, three voters, TLS.
    pub(in crate::config) const REAL: &str = r#"
        region = "oslo"
        data = "d"
        listen = "10.0.0.2:7443"
        trust = "t"
        token_file = "t"
        store = "etcd"
        [etcd]
        endpoints = { paris = "http://127.0.0.1:1", oslo = ["http://127.0.0.1:2"], bergen = "http://127.0.0.1:3" }
        [[regions]]
        name = "oslo"
        agent = "https://10.0.0.2:7443"
        replication = "10.0.0.2:7401"
        control = true
        [[regions]]
        name = "paris"
        agent = "https://10.0.0.1:7443"
        replication = "10.0.0.1:7401"
        control = true
        [[regions]]
        name = "bergen"
        agent = "https://10.0.0.3:7443"
        replication = "10.0.0.3:7401"
    "#;

    #[test]
    fn what_is_wrong_is_named() {
        for (text, environment, why) in [
            ("", vec![], "missing field `region`"),
            (GOOD, vec![("FARSHORE_NODE_COLOUR", "red")], "unknown field `colour`"),
            (GOOD, vec![("FARSHORE_NODE_LISTEN", "0.0.0.0:80")], "needs TLS and authentication"),
            (GOOD, vec![("FARSHORE_NODE_LISTEN", "here")], "listen"),
            (GOOD, vec![("FARSHORE_NODE_REGION", "Oslo")], "lower-case"),
            (GOOD, vec![("FARSHORE_NODE_REGION", "rome")], "does not list this node's own region rome"),
            (GOOD, vec![("FARSHORE_NODE_POINT_SECONDS", "0")], "at least 1"),
            (GOOD, vec![("FARSHORE_NODE_RETENTION_HOURS", "1000")], "between 1 and 360"),
            (GOOD, vec![("FARSHORE_NODE_ROLES", "[]")], "roles is empty"),
            (GOOD, vec![("FARSHORE_NODE_ROLES", "[\"cook\"]")], "unknown variant `cook`"),
            (GOOD, vec![("FARSHORE_NODE_FENCING__RENEW_SECONDS", "6")], "must fit in half the lease"),
            (GOOD, vec![("FARSHORE_NODE_STORE", "etcd")], "needs [etcd]"),
            (GOOD, vec![("FARSHORE_NODE_TRUST", "t")], "must start with https://"),
            (REAL, vec![("FARSHORE_NODE_NBD", "0.0.0.0:10809")], "is every address and so none"),
            (REAL, vec![("FARSHORE_NODE_STORE", "redb")], "[etcd] is set, but store is \"redb\""),
            (REAL, vec![("FARSHORE_NODE_ETCD__PREFIX", "x")], "must start and end with a slash"),
            (REAL, vec![("FARSHORE_NODE_ETCD__CA_FILE", "x")], "its endpoints are http"),
            (REAL, vec![("FARSHORE_NODE_ETCD__CERT_FILE", "x")], "belong together"),
            (REAL, vec![("FARSHORE_NODE_ETCD__ENDPOINTS__BERGEN", "[]")], "2 voters"),
            (REAL, vec![("FARSHORE_NODE_ETCD__ENDPOINTS__BERGEN", "ftp://x")], "is no URL"),
            (REAL, vec![("FARSHORE_NODE_ETCD__ENDPOINTS__BERGEN", "https://x:1")], "need ca_file"),
            (
                REAL,
                vec![("FARSHORE_NODE_ETCD__ENDPOINTS__BERGEN", "http://127.0.0.1:1")],
                "same member twice",
            ),
            (REAL, vec![("FARSHORE_NODE_ROLES", "[\"machines\"]")], "make both the same"),
        ] {
            let error = parse(text, &environment).unwrap_err();
            assert!(error.contains(why), "{environment:?}: {error}");
        }
    }

    #[test]
    fn three_regions_with_tls_may_listen_anywhere() {
        let config = parse(REAL, &[]).unwrap();
        let urls = config.etcd.as_ref().unwrap().urls(&config.region);
        assert_eq!(urls, ["http://127.0.0.1:2", "http://127.0.0.1:3", "http://127.0.0.1:1"]);
        assert_eq!(config.fencing.timings(), farshore_core::fencing::FenceTimings::STANDARD);
    }
}
