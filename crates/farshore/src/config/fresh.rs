//! A first configuration for a node of a cluster on several hosts: every address said once, the rest as it usually is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use farshore_core::ids::Region;

use super::{
    AppsConfig, CompatConfig, DnsConfig, EtcdConfig, FencingConfig, HubsConfig, NodeConfig, NodeRole,
    OneOrMany, RealtimeConfig, RealtimePlace, RedbConfig, RegionConfig, StoreKind, check, dns_zone,
    etcd_prefix,
};

/// API, agent and concierge.
const HTTP_PORT: u16 = 7443;
/// Replication.
const REPLICATION_PORT: u16 = 7401;
/// Clients of real-time hubs.
const REALTIME_PORT: u16 = 8443;
/// The same for the pair's endpoint.
const PAIR_PORT: u16 = 8444;
/// Sessions between regions.
const LINK_PORT: u16 = 7402;
/// Devices: official SDKs know no other port.
const MQTT_PORT: u16 = 8883;
/// Back ends of device hubs, and devices by WebSocket: official SDKs know no other port.
const HTTPS_PORT: u16 = 443;
/// Clients of apps: device hubs have 443, because official SDKs know no other port.
const APPS_HTTPS_PORT: u16 = 9443;
/// The same in plain text, for programs on the same host.
const APPS_HTTP_PORT: u16 = 9080;
/// Back ends that send to devices: official SDKs know no other port.
const AMQP_PORT: u16 = 5671;
/// Disks: NBD's own.
const NBD_PORT: u16 = 10809;
/// Names: DNS's own.
const DNS_PORT: u16 = 53;
/// Clients of etcd: its own.
const ETCD_PORT: u16 = 2379;

/// What a first configuration is made from.
#[derive(Debug, Clone)]
pub struct Fresh {
    /// The node's region.
    pub region: Region,
    /// The address of the host in each region.
    pub hosts: BTreeMap<Region, IpAddr>,
    /// Where the node keeps everything; its trust is in `trust` below it.
    pub data: PathBuf,
    /// The directory with `ca-cert.pem`, `client-cert.pem` and `client-key.pem` for etcd; without it etcd is reached in plain
    /// text.
    pub etcd_files: Option<PathBuf>,
}

impl Fresh {
    /// The configuration: control node, machines, app services, real-time hubs, device hubs, etcd and DNS in every region.
    ///
    /// # Errors
    /// What a node would refuse, with what would be right.
    pub fn config(&self) -> Result<NodeConfig, String> {
        let Some(own) = self.hosts.get(&self.region) else {
            return Err(format!("--hosts does not name this node's own region {}", self.region));
        };
        let at = |port| SocketAddr::new(*own, port);
        let config = NodeConfig {
            region: self.region.clone(),
            data: self.data.clone(),
            roles: vec![
                NodeRole::Control,
                NodeRole::Machines,
                NodeRole::Apps,
                NodeRole::Realtime,
                NodeRole::Hubs,
            ],
            listen: at(HTTP_PORT),
            nbd: at(NBD_PORT),
            nbd_socket: None,
            replication: at(REPLICATION_PORT),
            trust: Some(self.data.join("trust")),
            secret_file: None,
            token_file: Some(self.data.join("token")),
            point_seconds: 5,
            retention_hours: 24,
            store: StoreKind::Etcd,
            redb: RedbConfig::default(),
            etcd: Some(self.etcd()),
            fencing: FencingConfig::default(),
            dns: Some(DnsConfig { listen: at(DNS_PORT), zone: dns_zone() }),
            realtime: Some(realtime(*own)),
            hubs: Some(hubs(*own)),
            apps: Some(apps(*own)),
            compat: CompatConfig::default(),
            regions: self.regions(),
        };
        check::check(&config)?;
        Ok(config)
    }

    fn etcd(&self) -> EtcdConfig {
        let scheme = if self.etcd_files.is_some() { "https" } else { "http" };
        let url = |host: &IpAddr| OneOrMany::One(format!("{scheme}://{}", SocketAddr::new(*host, ETCD_PORT)));
        let file = |name: &str| self.etcd_files.as_deref().map(|dir: &Path| dir.join(name));
        EtcdConfig {
            endpoints: self.hosts.iter().map(|(region, host)| (region.clone(), url(host))).collect(),
            prefix: etcd_prefix(),
            ca_file: file("ca-cert.pem"),
            cert_file: file("client-cert.pem"),
            key_file: file("client-key.pem"),
        }
    }

    fn regions(&self) -> Vec<RegionConfig> {
        let region = |(name, host): (&Region, &IpAddr)| RegionConfig {
            name: name.clone(),
            agent: format!("https://{}", SocketAddr::new(*host, HTTP_PORT)),
            replication: SocketAddr::new(*host, REPLICATION_PORT),
            control: true,
            realtime: Some(RealtimePlace::from(&realtime(*host))),
        };
        self.hosts.iter().map(region).collect()
    }
}

fn realtime(host: IpAddr) -> RealtimeConfig {
    RealtimeConfig {
        listen: SocketAddr::new(host, REALTIME_PORT),
        pair: SocketAddr::new(host, PAIR_PORT),
        link: SocketAddr::new(host, LINK_PORT),
        ..RealtimeConfig::default()
    }
}

fn hubs(host: IpAddr) -> HubsConfig {
    HubsConfig {
        mqtt: SocketAddr::new(host, MQTT_PORT),
        https: SocketAddr::new(host, HTTPS_PORT),
        amqp: SocketAddr::new(host, AMQP_PORT),
        ..HubsConfig::default()
    }
}

fn apps(host: IpAddr) -> AppsConfig {
    AppsConfig {
        http: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), APPS_HTTP_PORT),
        https: Some(SocketAddr::new(host, APPS_HTTPS_PORT)),
        ..AppsConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(hosts: &[(&str, &str)]) -> Fresh {
        let host = |(region, host): &(&str, &str)| (Region::parse(region).unwrap(), host.parse().unwrap());
        Fresh {
            region: Region::parse("paris").unwrap(),
            hosts: hosts.iter().map(host).collect(),
            data: "/var/lib/farshore".into(),
            etcd_files: Some("/etc/etcd/pki".into()),
        }
    }

    #[test]
    fn what_is_made_is_what_is_read() {
        let fresh = fresh(&[("paris", "10.0.0.1"), ("oslo", "10.0.0.2"), ("bergen", "fd00::3")]);
        let config = fresh.config().unwrap();
        let text = toml::to_string_pretty(&config).unwrap();
        assert!(text.contains("https://[fd00::3]:2379"), "{text}");
        let read = crate::config::tests::parse(&text, &[]).unwrap();
        assert_eq!(read, config);
    }

    #[test]
    fn an_even_number_of_hosts_is_refused() {
        let error = fresh(&[("paris", "10.0.0.1"), ("oslo", "10.0.0.2")]).config().unwrap_err();
        assert!(error.contains("2 voters"), "{error}");
        let error = fresh(&[("oslo", "10.0.0.2")]).config().unwrap_err();
        assert!(error.contains("own region paris"), "{error}");
    }
}
