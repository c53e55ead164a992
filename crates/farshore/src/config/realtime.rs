//! Real-time hubs: where a node serves them, where the other regions do, and what is refused.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{NodeConfig, NodeRole, RegionConfig, any_port, check::beyond_loopback};

/// The section `[realtime]`, for the role `realtime`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealtimeConfig {
    /// Where clients and REST calls of this region's hubs are served.
    #[serde(default = "any_port")]
    pub listen: SocketAddr,
    /// The pair's endpoint: the same calls, for all regions.
    #[serde(default = "any_port")]
    pub pair: SocketAddr,
    /// Where sessions of the partner region arrive.
    #[serde(default = "any_port")]
    pub link: SocketAddr,
    /// Public base URL of `listen`; by default made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Public base URL of `pair`; by default made from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_url: Option<String>,
    /// How this region comes to be reached by the clients of one that is lost.
    #[serde(default)]
    pub take_over: TakeOver,
    /// The message bus that several nodes of one region share their hubs through; without it the node is alone in its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<String>,
}

impl Default for RealtimeConfig {
    fn default() -> Self {
        Self {
            listen: any_port(),
            pair: any_port(),
            link: any_port(),
            url: None,
            pair_url: None,
            take_over: TakeOver::default(),
            bus: None,
        }
    }
}

/// How a region comes to be reached by the clients of one that is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TakeOver {
    /// Names lead to it: the directory says where the hub is.
    #[default]
    Names,
    /// It listens on the lost region's own addresses as well: for one machine, or one network segment.
    Address,
}

/// `[[regions]].realtime`: where a region serves real-time hubs, as the others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealtimePlace {
    /// Its `listen`.
    pub listen: SocketAddr,
    /// Its `pair`.
    pub pair: SocketAddr,
    /// Its `link`.
    pub link: SocketAddr,
    /// Its `url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its `pair_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_url: Option<String>,
}

impl From<&RealtimeConfig> for RealtimePlace {
    fn from(own: &RealtimeConfig) -> Self {
        let RealtimeConfig { listen, pair, link, url, pair_url, take_over: _, bus: _ } = own.clone();
        Self { listen, pair, link, url, pair_url }
    }
}

impl RealtimePlace {
    /// Base URL for clients of the region, without a slash at its end.
    #[must_use]
    pub fn url(&self, tls: bool) -> String {
        public_url(self.url.as_deref(), self.listen, tls)
    }

    /// Base URL of the pair's endpoint, without a slash at its end.
    #[must_use]
    pub fn pair_url(&self, tls: bool) -> String {
        public_url(self.pair_url.as_deref(), self.pair, tls)
    }
}

/// The URL that was given, or the one of the address.
#[must_use]
pub fn public_url(given: Option<&str>, at: SocketAddr, tls: bool) -> String {
    let scheme = if tls { "https" } else { "http" };
    given.map_or_else(|| format!("{scheme}://{at}"), |given| given.trim_end_matches('/').to_owned())
}

impl NodeConfig {
    /// Whether it is there to serve the real-time hubs of another node of its region, and has nothing of its own.
    pub(super) fn is_further(&self) -> bool {
        let shares = self.realtime.as_ref().is_some_and(|own| own.bus.is_some());
        shares && self.roles.iter().all(|role| *role == NodeRole::Realtime)
    }

    /// What the node does as one of real-time hubs; `None`: it is none.
    #[must_use]
    pub fn realtime(&self) -> Option<RealtimeConfig> {
        self.has(NodeRole::Realtime).then(|| self.realtime.clone().unwrap_or_default())
    }
}

pub(super) fn check(config: &NodeConfig) -> Result<(), String> {
    if config.realtime.is_some() && !config.has(NodeRole::Realtime) {
        return Err(
            "[realtime] is served by nodes with the role realtime: add the role, or remove [realtime]".into(),
        );
    }
    let Some(own) = config.realtime() else { return Ok(()) };
    let place = RealtimePlace::from(&own);
    check_place(config, &place, "[realtime]")?;
    if let Some(bus) = &own.bus {
        let host = bus.strip_prefix("nats://").or_else(|| bus.strip_prefix("tls://"));
        if host.is_none_or(|host| host.is_empty() || host.contains('/')) {
            return Err(format!(
                "[realtime] bus = {bus:?} is no bus: write nats://HOST:4222 or tls://HOST:4222"
            ));
        }
    }
    if own.bus.is_some() && config.regions.is_empty() {
        return Err(format!(
            "[realtime] bus: [[regions]] is empty, so nothing could be told to other regions: list them as the other nodes of {} do",
            config.region
        ));
    }
    let listed = config.regions.iter().find(|region| region.name == config.region);
    if listed.is_some_and(|listed| listed.realtime.is_none()) {
        return Err(format!(
            "[[regions]] does not say where {} serves real-time hubs: add realtime = {{ listen, pair, link }} to it",
            config.region
        ));
    }
    Ok(())
}

/// Where another region is said to serve.
pub(super) fn check_region(config: &NodeConfig, region: &RegionConfig) -> Result<(), String> {
    let Some(place) = &region.realtime else { return Ok(()) };
    let who = format!("region {}: realtime", region.name);
    for (key, address) in [("listen", place.listen), ("pair", place.pair), ("link", place.link)] {
        if address.port() == 0 {
            return Err(format!("{who}: {key} = \"{address}\" has no port that others could connect to"));
        }
    }
    if place.link.ip().is_unspecified() {
        return Err(format!("{who}: link = \"{}\" is no address that others could connect to", place.link));
    }
    check_place(config, place, &who)
}

fn check_place(config: &NodeConfig, place: &RealtimePlace, who: &str) -> Result<(), String> {
    for (key, address) in [("listen", place.listen), ("pair", place.pair), ("link", place.link)] {
        if config.trust.is_none() {
            beyond_loopback(address).map_err(|why| format!("{who}: {key} = \"{address}\" {why}"))?;
        }
    }
    for (key, url, address) in [("url", &place.url, place.listen), ("pair_url", &place.pair_url, place.pair)]
    {
        match url {
            Some(url) => check_url(url).map_err(|why| format!("{who}: {key} = {url:?} {why}"))?,
            None if address.ip().is_unspecified() => {
                return Err(format!(
                    "{who}: {address} is every address and so none that a client could be told: set {key} to the URL that \
                     clients reach"
                ));
            }
            None => {}
        }
    }
    Ok(())
}

fn check_url(url: &str) -> Result<(), &'static str> {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match host.map(|host| host.trim_end_matches('/')) {
        Some(host) if !host.is_empty() && !host.contains(['/', '?', '#', '@']) => Ok(()),
        _ => Err("is no base URL: write https://HOST or https://HOST:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check::tests::REAL;
    use crate::config::tests::{GOOD, parse};

    const ROLES: (&str, &str) = ("FARSHORE_NODE_ROLES", "[\"control\", \"realtime\"]");

    /// A region that says where it serves.
    fn listed() -> String {
        let place = "realtime = { listen = \"127.0.0.1:3\", pair = \"127.0.0.1:4\", link = \"127.0.0.1:5\" }";
        format!("{GOOD}\n{place}")
    }

    #[test]
    fn what_is_wrong_is_named() {
        let listed = listed();
        for (text, key, value, why) in [
            (
                &*listed,
                "LISTEN",
                "10.0.0.1:80",
                "[realtime]: listen = \"10.0.0.1:80\" is reachable from elsewhere",
            ),
            (&*listed, "LINK", "10.0.0.1:80", "needs TLS and authentication"),
            (&*listed, "COLOUR", "red", "unknown field `colour`"),
            (&*listed, "TAKE_OVER", "force", "unknown variant `force`"),
            (&*listed, "URL", "hub.example.com", "is no base URL"),
            (&*listed, "PAIR_URL", "https://hub.example.com/x", "is no base URL"),
            (&*listed, "BUS", "amqp://x", "is no bus: write nats://HOST:4222"),
            (&*listed, "BUS", "nats://", "is no bus"),
            (GOOD, "BUS", "nats://x:4222", "does not say where oslo serves real-time hubs"),
        ] {
            let key = format!("FARSHORE_NODE_REALTIME__{key}");
            let error = parse(text, &[ROLES, (&key, value)]).unwrap_err();
            assert!(error.contains(why), "{key}={value}: {error}");
        }
        let error = parse(GOOD, &[("FARSHORE_NODE_REALTIME__BUS", "nats://x:1")]).unwrap_err();
        assert!(error.contains("add the role, or remove [realtime]"), "{error}");
        let alone = "region = \"oslo\"\ndata = \"d\"\nsecret_file = \"s\"\nroles = [\"realtime\"]";
        let error = parse(alone, &[("FARSHORE_NODE_REALTIME__BUS", "nats://x:1")]).unwrap_err();
        assert!(error.contains("list them as the other nodes of oslo do"), "{error}");
        let error = parse(&listed.replace("127.0.0.1:5", "10.0.0.1:5"), &[]).unwrap_err();
        assert!(error.contains("region oslo: realtime: link = \"10.0.0.1:5\""), "{error}");
        let error = parse(&listed.replace("127.0.0.1:5", "127.0.0.1:0"), &[]).unwrap_err();
        assert!(error.contains("has no port"), "{error}");
    }

    #[test]
    fn with_tls_it_may_listen_anywhere_and_tells_its_public_names() {
        let (oslo, rest) = REAL.split_once("control = true").unwrap();
        let place =
            "realtime = { listen = \"10.0.0.2:443\", pair = \"10.0.0.2:444\", link = \"10.0.0.2:7402\" }";
        let text = format!("{oslo}control = true\n{place}\n{rest}");
        let roles = ("FARSHORE_NODE_ROLES", "[\"control\", \"realtime\"]");
        let any = ("FARSHORE_NODE_REALTIME__LISTEN", "0.0.0.0:443");
        let error = parse(&text, &[roles, any]).unwrap_err();
        assert!(error.contains("set url to the URL that clients reach"), "{error}");
        let url = ("FARSHORE_NODE_REALTIME__URL", "https://hub.example.com/");
        let config = parse(&text, &[roles, any, url]).unwrap();
        let own = RealtimePlace::from(&config.realtime().unwrap());
        assert_eq!(own.url(true), "https://hub.example.com");
        let told = config.regions[0].realtime.as_ref().unwrap();
        assert_eq!(
            (told.url(true).as_str(), told.pair_url(false).as_str()),
            ("https://10.0.0.2:443", "http://10.0.0.2:444")
        );
        assert_eq!(parse(REAL, &[]).unwrap().realtime(), None);
        // A further node of the region lists the node with the role control, and has not the role itself.
        let further = ("FARSHORE_NODE_ROLES", "[\"realtime\"]");
        assert!(parse(&text, &[further]).unwrap_err().contains("make both the same"));
        let bus = ("FARSHORE_NODE_REALTIME__BUS", "tls://bus.example.com:4222");
        assert!(parse(&text, &[further, bus]).unwrap().is_further());
    }
}
