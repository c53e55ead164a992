//! The configuration of each region: made on free ports the first time, and read from then on.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use farshore_core::ids::Region;
use farshore_store::etcd::local::Members;
use farshore_store::etcd::ports::HeldPort;

use super::devices;
use super::{ClientFile, ClusterOptions, Line, UpError, at, wrong};
use crate::config::{
    AppsConfig, CompatConfig, DnsConfig, EtcdConfig, FencingConfig, HubsConfig, NodeConfig, NodeRole,
    OneOrMany, RealtimeConfig, RealtimePlace, RedbConfig, RegionConfig, StoreKind, TakeOver,
};
use crate::trust::{CA_CERTIFICATE, CertRole, Trust};

/// The ports that official device SDKs, service SDKs and resolvers know, and no other.
const MQTT_PORT: u16 = 8883;
const HTTPS_PORT: u16 = 443;
const AMQP_PORT: u16 = 5671;
const DNS_PORT: u16 = 53;
/// The last byte of the first region's own address, where it has one.
const FIRST_ADDRESS: u8 = 2;

/// Name of the cluster that is made here.
const CLUSTER: &str = "farshore";

/// Files that all regions of this machine share.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) secret: PathBuf,
    pub(super) token: PathBuf,
    /// What devices are shown.
    pub(super) devices: devices::Files,
}

/// Reads each region's configuration, or makes one with free ports: nobody else chooses those as long as they are held, though
/// the nodes may listen there.
pub(super) fn configure(
    options: &ClusterOptions,
    data: &Path,
    files: &Files,
    members: Option<&Members>,
) -> Result<(Vec<NodeConfig>, Vec<HeldPort>), UpError> {
    let mut configs = Vec::new();
    // No two are the same.
    let mut held = Vec::new();
    let apps_port = apps_port(options, data, &mut held)?;
    for region in &options.regions {
        let dir = data.join(region.as_str());
        fs::create_dir_all(&dir).map_err(at("make", &dir))?;
        let path = dir.join("region.toml");
        let config = match path.exists() {
            true => NodeConfig::load(&path, std::iter::empty()).map_err(wrong)?,
            false => fresh(options, region, dir, files, apps_port, &mut held)?,
        };
        configs.push(config);
    }
    for port in &held {
        port.share().map_err(wrong)?;
    }
    let all = all_regions(options, &configs)?;
    let mut from_near = Some(seen_from_near(options, &configs, &all)?);
    enroll(options, data, &configs)?;
    for config in &mut configs {
        let seen = from_near.take().unwrap_or_else(|| all.clone());
        let looks_elsewhere = [NodeRole::Control, NodeRole::Realtime, NodeRole::Hubs, NodeRole::Apps];
        let looks_elsewhere = looks_elsewhere.iter().any(|role| config.has(*role));
        if config.store == StoreKind::Etcd || looks_elsewhere {
            config.regions = seen;
        }
        if let Some(members) = members {
            config.etcd = Some(etcd(options, members));
        }
        let path = data.join(config.region.as_str()).join("region.toml");
        fs::write(&path, toml::to_string_pretty(config).map_err(wrong)?).map_err(at("write", &path))?;
    }
    Ok((configs, held))
}

/// The address of a region that listens where everybody expects it; `None`: anywhere.
#[derive(Debug, Clone, Copy)]
struct Known(Option<IpAddr>);

impl Known {
    fn of(options: &ClusterOptions, region: &Region) -> Self {
        Self(address_of(options, region).filter(|_| options.device_ports))
    }

    fn port(self, port: u16, held: &mut Vec<HeldPort>) -> Result<SocketAddr, UpError> {
        match self.0 {
            Some(address) => Ok(SocketAddr::new(address, port)),
            None => free_port(held),
        }
    }
}

/// The region's own address of loopback; `None`: there are more regions than addresses.
fn address_of(options: &ClusterOptions, region: &Region) -> Option<IpAddr> {
    let index = options.regions.iter().position(|one| one == region)?;
    let last = FIRST_ADDRESS.checked_add(u8::try_from(index).ok()?)?;
    Some(Ipv4Addr::new(127, 0, 0, last).into())
}

/// The port at which all regions serve apps, each at an address of its own: so an app's URL stays the same when it goes from one to
/// the other. That of a region that was made before, else one that is free at all addresses.
fn apps_port(options: &ClusterOptions, data: &Path, held: &mut Vec<HeldPort>) -> Result<u16, UpError> {
    /// That so many are somebody else's at one of the addresses does not happen.
    const TRIES: usize = 64;
    let made = options.regions.iter().map(|region| data.join(region.as_str()).join("region.toml"));
    for path in made.filter(|path| path.exists()) {
        let config = NodeConfig::load(&path, std::iter::empty()).map_err(wrong)?;
        if let Some(apps) = config.apps.filter(|apps| apps.http.port() != 0) {
            return Ok(apps.http.port());
        }
    }
    let addresses: Vec<IpAddr> =
        options.regions.iter().filter_map(|region| address_of(options, region)).collect();
    for _ in 0..TRIES {
        let port = free_port(held)?.port();
        if addresses.iter().all(|address| TcpListener::bind((*address, port)).is_ok()) {
            return Ok(port);
        }
    }
    Err(wrong("no port is free at the loopback addresses of all regions: stop what else runs here"))
}

fn fresh(
    options: &ClusterOptions,
    region: &Region,
    dir: PathBuf,
    files: &Files,
    apps_port: u16,
    held: &mut Vec<HeldPort>,
) -> Result<NodeConfig, UpError> {
    let is_etcd = options.store == StoreKind::Etcd;
    let is_control = is_etcd || options.regions.last() == Some(region);
    let known = Known::of(options, region);
    let mut roles = vec![NodeRole::Machines, NodeRole::Apps, NodeRole::Realtime, NodeRole::Hubs];
    if is_control {
        roles.insert(0, NodeRole::Control);
    }
    let dns = match is_control {
        true => Some(DnsConfig { listen: known.port(DNS_PORT, held)?, zone: "farshore.internal".to_owned() }),
        false => None,
    };
    Ok(NodeConfig {
        region: region.clone(),
        trust: is_etcd.then(|| dir.join("trust")),
        data: dir,
        roles,
        listen: free_port(held)?,
        nbd: free_port(held)?,
        nbd_socket: None,
        replication: free_port(held)?,
        secret_file: (!is_etcd).then(|| files.secret.clone()),
        token_file: is_control.then(|| files.token.clone()),
        point_seconds: options.point_seconds,
        retention_hours: 24,
        store: options.store,
        redb: RedbConfig::default(),
        etcd: None,
        fencing: FencingConfig::default(),
        dns,
        realtime: Some(realtime(held)?),
        hubs: Some(hubs(files, known, held)?),
        apps: address_of(options, region).map(|address| apps(address, apps_port)),
        compat: CompatConfig::default(),
        regions: Vec::new(),
    })
}

/// All regions are on this machine, so that one can listen where another did.
fn realtime(held: &mut Vec<HeldPort>) -> Result<RealtimeConfig, UpError> {
    Ok(RealtimeConfig {
        listen: free_port(held)?,
        pair: free_port(held)?,
        link: free_port(held)?,
        take_over: TakeOver::Address,
        ..RealtimeConfig::default()
    })
}

/// Devices are told apart by their tokens; the certificate is the same in all regions, as the hubs' names are.
fn hubs(files: &Files, known: Known, held: &mut Vec<HeldPort>) -> Result<HubsConfig, UpError> {
    Ok(HubsConfig {
        mqtt: known.port(MQTT_PORT, held)?,
        https: known.port(HTTPS_PORT, held)?,
        amqp: known.port(AMQP_PORT, held)?,
        cert_file: Some(files.devices.certificate.clone()),
        key_file: Some(files.devices.key.clone()),
        ca_file: Some(files.devices.ca.clone()),
        ..HubsConfig::default()
    })
}

fn apps(address: IpAddr, port: u16) -> AppsConfig {
    AppsConfig { http: SocketAddr::new(address, port), ..AppsConfig::default() }
}

fn all_regions(options: &ClusterOptions, configs: &[NodeConfig]) -> Result<Vec<RegionConfig>, UpError> {
    let scheme = if options.store == StoreKind::Etcd { "https" } else { "http" };
    let regions = configs.iter().map(|config| RegionConfig {
        name: config.region.clone(),
        agent: format!("{scheme}://{}", config.listen),
        replication: config.replication,
        control: config.has(NodeRole::Control),
        realtime: config.realtime().as_ref().map(RealtimePlace::from),
    });
    let mut all: Vec<RegionConfig> = regions.collect();
    // Between the first region and the one it is protected to.
    if let (Some(Line(lay)), Some([near, far, ..])) = (&options.line, all.get_mut(..)) {
        far.replication = lay(far.replication).map_err(wrong)?;
        // What the far region pulls from the near one, it asks its agent for.
        near.agent = format!("{scheme}://{}", lay(near_listen(configs)?).map_err(wrong)?);
    }
    Ok(all)
}

/// The same as the first region has it: what it asks the second one goes over the line, too.
fn seen_from_near(
    options: &ClusterOptions,
    configs: &[NodeConfig],
    all: &[RegionConfig],
) -> Result<Vec<RegionConfig>, UpError> {
    let mut seen = all.to_vec();
    if let (Some(Line(lay)), [_, far, ..], [_, config, ..]) = (&options.line, &mut seen[..], configs) {
        let (scheme, _) = far.agent.split_once("://").unwrap_or(("http", ""));
        far.agent = format!("{scheme}://{}", lay(config.listen).map_err(wrong)?);
    }
    Ok(seen)
}

fn near_listen(configs: &[NodeConfig]) -> Result<std::net::SocketAddr, UpError> {
    configs.first().map(|config| config.listen).ok_or_else(|| wrong("a cluster has regions"))
}

/// Members choose their ports anew when they are started.
fn etcd(options: &ClusterOptions, members: &Members) -> EtcdConfig {
    let endpoint = |region: &Region| (region.clone(), OneOrMany::One(members.endpoint(region.as_str())));
    EtcdConfig {
        endpoints: options.regions.iter().map(endpoint).collect::<BTreeMap<_, _>>(),
        prefix: "/farshore/".to_owned(),
        ca_file: None,
        cert_file: None,
        key_file: None,
    }
}

/// Makes the authority in the first region, and a certificate for every other one.
fn enroll(options: &ClusterOptions, data: &Path, configs: &[NodeConfig]) -> Result<(), UpError> {
    let mut first: Option<Trust> = None;
    for config in configs.iter().filter(|config| config.trust.is_some()) {
        let dir = data.join(config.region.as_str()).join("trust");
        let made = dir.join(CA_CERTIFICATE).exists();
        let trust = match (&first, made) {
            (_, true) => Trust::open(&dir).map_err(wrong)?,
            (None, false) => {
                Trust::init(&dir, CLUSTER, &config.region, &[], SystemTime::now()).map_err(wrong)?
            }
            (Some(authority), false) => {
                authority.enroll(&dir, &config.region, CertRole::Control, SystemTime::now()).map_err(wrong)?
            }
        };
        first.get_or_insert(trust);
    }
    debug_assert_eq!(first.is_some(), options.store == StoreKind::Etcd);
    Ok(())
}

/// How the CLI finds this cluster.
pub(super) fn client_file(
    configs: &[NodeConfig],
    data: &Path,
    files: &Files,
    store: StoreKind,
) -> ClientFile {
    let is_etcd = store == StoreKind::Etcd;
    let scheme = if is_etcd { "https" } else { "http" };
    let controls = configs.iter().filter(|config| config.has(NodeRole::Control));
    let mut apis = controls.map(|config| format!("{scheme}://{}", config.listen));
    let first = configs.first().map(|config| data.join(config.region.as_str()).join("trust"));
    ClientFile {
        api: apis.next().unwrap_or_default(),
        others: apis.collect(),
        token_file: files.token.clone(),
        ca_file: first.filter(|_| is_etcd).map(|dir| dir.join(CA_CERTIFICATE)),
    }
}

fn free_port(held: &mut Vec<HeldPort>) -> Result<SocketAddr, UpError> {
    let port = HeldPort::any().map_err(wrong)?;
    let address = port.address();
    held.push(port);
    Ok(address)
}
