//! The zone: every DNS name that exists, with its records ready to be sent. Pure.
//!
//! For `web-1.machine`, active in paris, with a disk at `nbd://192.0.2.7:10809/…`:
//!
//! ```text
//! web-1.machine                    A    192.0.2.7            (CNAME, where the endpoints' host is a name)
//!                                  TXT  "epoch=3" …          (at _farshore.web-1.machine, too)
//! _nbd._tcp.web-1.machine          SRV  0 0 10809 paris-host.web-1.machine
//! paris-host.web-1.machine         A    192.0.2.7
//! ```
//!
//! What is at `todo.app` is at `todo.scm`, too: where an app's scripts are fetched from and pushed to.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use farshore_core::directory::{Host, Place, Serial};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, SRV, TXT};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use super::answer::Entry;
use super::directory::View;

/// How long resolvers keep that a name does not exist: a new item is found soon.
const NEGATIVE_TTL_SECONDS: u32 = 5;
/// How long the zone's own records may be kept: they change only with the cluster's configuration.
const APEX_TTL_SECONDS: u32 = 30;
/// Addresses, and services, told of one name: an answer to anybody stays small.
const RECORDS_PER_NAME_MAX: usize = 16;

/// A server of the zone, as it tells others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its name: a label in the zone (`ns-paris`), or, with a dot at the end, any name.
    pub name: String,
    /// Its addresses; told for names in the zone.
    pub addresses: Vec<IpAddr>,
}

/// What of a zone does not come from the directory.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) name: Name,
    servers: Vec<(Name, Vec<IpAddr>)>,
}

impl Origin {
    /// # Errors
    /// Says what is no name.
    pub(super) fn new(zone: &str, servers: &[NameServer]) -> Result<Self, String> {
        let bad = |text: &str| format!("{text:?} is no DNS name: write it like farshore.internal");
        let absolute = |text: &str| {
            let mut name = Name::from_ascii(text).map_err(|_| bad(text))?.to_lowercase();
            name.set_fqdn(true);
            Ok::<_, String>(name)
        };
        let name = absolute(zone)?;
        if name.is_root() {
            return Err(bad(zone));
        }
        let server = |server: &NameServer| {
            let full = if server.name.ends_with('.') {
                server.name.clone()
            } else {
                format!("{}.{name}", server.name)
            };
            Ok::<_, String>((absolute(&full)?, server.addresses.clone()))
        };
        let servers = servers.iter().map(server).collect::<Result<_, _>>()?;
        Ok(Self { name, servers })
    }

    fn soa(&self, serial: Serial) -> Record {
        let main = self.servers.first().map_or_else(|| self.name.clone(), |(name, _)| name.clone());
        let people = self.name.prepend_label("hostmaster").unwrap_or_else(|_| self.name.clone());
        // Refresh, retry, expire: for secondaries, which there are none of; every node is a primary.
        let data = SOA::new(main, people, serial.0, 60, 10, 604_800, NEGATIVE_TTL_SECONDS);
        Record::from_rdata(self.name.clone(), NEGATIVE_TTL_SECONDS, RData::SOA(data))
    }
}

/// What exists at one DNS name. Without records: only names below it exist.
#[derive(Debug, Default)]
pub(super) struct Owner {
    pub(super) records: Vec<Record>,
    /// Sent along: addresses that the records lead to.
    pub(super) additional: Vec<Record>,
}

impl Owner {
    fn of(records: Vec<Record>) -> Self {
        Self { records, additional: Vec::new() }
    }

    pub(super) fn of_type(&self, wanted: RecordType) -> Vec<&Record> {
        self.records.iter().filter(|record| record.record_type() == wanted).collect()
    }
}

/// What one entry of the directory makes exist.
#[derive(Debug)]
struct Branch {
    entry: Arc<Entry>,
    owners: Vec<(LowerName, Arc<Owner>)>,
}

/// All of it at one serial.
#[derive(Debug)]
pub(super) struct Zone {
    pub(super) soa: Record,
    pub(super) name: LowerName,
    /// Before anything is known no name can be said to be absent.
    pub(super) is_known: bool,
    owners: HashMap<LowerName, Arc<Owner>>,
    branches: HashMap<String, Arc<Branch>>,
}

impl Zone {
    /// The zone of a view; what `before` holds of unchanged entries is used again.
    pub(super) fn new(origin: &Origin, view: &View, before: Option<&Self>) -> Self {
        let known = |entry: &Arc<Entry>| {
            let branch = before?.branches.get(&entry.name)?;
            Arc::ptr_eq(&branch.entry, entry).then(|| Arc::clone(branch))
        };
        let branch = |entry: &Arc<Entry>| known(entry).or_else(|| branch(origin, entry).map(Arc::new));
        let branches: HashMap<String, Arc<Branch>> =
            view.entries.values().filter_map(|entry| Some((entry.name.clone(), branch(entry)?))).collect();
        let soa = origin.soa(view.serial);
        let mut zone = Self {
            name: LowerName::new(&origin.name),
            is_known: view.is_known(),
            owners: HashMap::new(),
            branches: HashMap::new(),
            soa,
        };
        zone.add_apex(origin);
        for (name, owner) in branches.values().flat_map(|branch| &branch.owners) {
            zone.add(name.clone(), Arc::clone(owner));
        }
        zone.branches = branches;
        zone
    }

    pub(super) fn owner(&self, name: &LowerName) -> Option<&Arc<Owner>> {
        self.owners.get(name)
    }

    fn add_apex(&mut self, origin: &Origin) {
        let ns = |(name, _): &(Name, Vec<IpAddr>)| {
            Record::from_rdata(origin.name.clone(), APEX_TTL_SECONDS, RData::NS(NS(name.clone())))
        };
        let mut apex = Owner::of(origin.servers.iter().map(ns).collect());
        apex.records.push(self.soa.clone());
        for (name, addresses) in &origin.servers {
            let records: Vec<_> =
                addresses.iter().map(|address| address_record(name, APEX_TTL_SECONDS, *address)).collect();
            apex.additional.extend(records.iter().cloned());
            if origin.name.zone_of(name) && *name != origin.name {
                self.add(LowerName::new(name), Arc::new(Owner::of(records)));
            }
        }
        self.owners.insert(self.name.clone(), Arc::new(apex));
    }

    /// Adds a name and, without records, those between it and the apex.
    fn add(&mut self, name: LowerName, owner: Arc<Owner>) {
        let mut above = name.base_name();
        while self.name.zone_of(&above) && !self.owners.contains_key(&above) {
            let next = above.base_name();
            self.owners.insert(above, Arc::default());
            above = next;
        }
        self.owners.insert(name, owner);
    }
}

/// `None`: the name does not fit into DNS.
fn branch(origin: &Origin, entry: &Arc<Entry>) -> Option<Branch> {
    let mut full = Name::from_ascii(&entry.name).ok()?.to_lowercase();
    full.set_fqdn(false);
    let name = full.append_domain(&origin.name).ok()?;
    let places: Vec<Place> =
        entry.record.endpoints.iter().filter_map(|endpoint| Place::of(&endpoint.uri)).collect();
    let ttl = entry.ttl_seconds();
    let hosts = hosts(entry, &name, &places);
    let facts = facts(entry);
    let mut records = own_records(&name, ttl, &places);
    if !records.iter().any(|record| record.record_type() == RecordType::CNAME) {
        records.push(Record::from_rdata(name.clone(), ttl, RData::TXT(facts.clone())));
    }
    let mut owners = vec![(LowerName::new(&name), Arc::new(Owner::of(records)))];
    let told = name.prepend_label("_farshore").ok()?;
    let told_records = vec![Record::from_rdata(told.clone(), ttl, RData::TXT(facts))];
    owners.push((LowerName::new(&told), Arc::new(Owner::of(told_records))));
    for (address, host) in &hosts {
        let record = address_record(host, ttl, *address);
        owners.push((LowerName::new(host), Arc::new(Owner::of(vec![record]))));
    }
    owners.extend(services(&name, ttl, &places, &hosts));
    owners.extend(scripts(origin, entry, ttl, &places));
    Some(Branch { entry: Arc::clone(entry), owners })
}

/// The name of an app's scripts: they are where the app is.
fn scripts(origin: &Origin, entry: &Entry, ttl: u32, places: &[Place]) -> Option<(LowerName, Arc<Owner>)> {
    let app = entry.name.strip_suffix(".app")?;
    let mut name = Name::from_ascii(format!("{app}.scm")).ok()?.to_lowercase();
    name.set_fqdn(false);
    let name = name.append_domain(&origin.name).ok()?;
    let records = own_records(&name, ttl, places);
    (!records.is_empty()).then(|| (LowerName::new(&name), Arc::new(Owner::of(records))))
}

fn facts(entry: &Entry) -> TXT {
    TXT::new(vec![
        format!("epoch={}", entry.token.epoch),
        format!("incarnation={}", entry.token.incarnation),
        format!("active={}", entry.record.region),
    ])
}

/// Addresses, or the one name that stands for all.
fn own_records(name: &Name, ttl: u32, places: &[Place]) -> Vec<Record> {
    let addresses: BTreeSet<IpAddr> = places.iter().filter_map(|place| address_of(&place.host)).collect();
    if !addresses.is_empty() {
        let told = addresses.into_iter().take(RECORDS_PER_NAME_MAX);
        return told.map(|address| address_record(name, ttl, address)).collect();
    }
    let alias = places.iter().find_map(|place| name_of(&place.host));
    alias.map(|to| Record::from_rdata(name.clone(), ttl, RData::CNAME(CNAME(to)))).into_iter().collect()
}

/// A name for each address, which SRV records can lead to: `paris-host`, `paris-host-2`.
fn hosts(entry: &Entry, name: &Name, places: &[Place]) -> Vec<(IpAddr, Name)> {
    let addresses: BTreeSet<IpAddr> = places.iter().filter_map(|place| address_of(&place.host)).collect();
    let label = |number: usize| match number {
        0 => format!("{}-host", entry.record.region),
        _ => format!("{}-host-{}", entry.record.region, number + 1),
    };
    let told = addresses.into_iter().take(RECORDS_PER_NAME_MAX).enumerate();
    told.filter_map(|(number, address)| Some((address, name.prepend_label(label(number)).ok()?))).collect()
}

/// `_nbd._tcp`: a service for each scheme of the endpoints.
fn services(
    name: &Name,
    ttl: u32,
    places: &[Place],
    hosts: &[(IpAddr, Name)],
) -> Vec<(LowerName, Arc<Owner>)> {
    let schemes: BTreeSet<&str> = places.iter().map(|place| place.scheme.as_str()).collect();
    let service = |scheme: &str| {
        let owner_name = name.prepend_label("_tcp").ok()?.prepend_label(format!("_{scheme}")).ok()?;
        let of_scheme = places.iter().filter(|place| place.scheme == scheme);
        let targets: BTreeSet<(u16, Name, Option<IpAddr>)> = of_scheme
            .filter_map(|place| {
                let address = address_of(&place.host);
                let host = match address {
                    Some(address) => {
                        hosts.iter().find(|(of, _)| *of == address).map(|(_, host)| host.clone())
                    }
                    None => name_of(&place.host),
                };
                Some((place.port?, host?, address))
            })
            .collect();
        let mut owner = Owner::default();
        for (port, host, address) in targets.into_iter().take(RECORDS_PER_NAME_MAX) {
            let additional = address.map(|address| address_record(&host, ttl, address));
            owner.additional.extend(additional.filter(|record| !owner.additional.contains(record)));
            let data = RData::SRV(SRV::new(0, 0, port, host));
            owner.records.push(Record::from_rdata(owner_name.clone(), ttl, data));
        }
        (!owner.records.is_empty()).then(|| (LowerName::new(&owner_name), Arc::new(owner)))
    };
    schemes.into_iter().filter_map(service).collect()
}

fn address_of(host: &Host) -> Option<IpAddr> {
    match host {
        Host::Address(address) => Some(*address),
        Host::Name(_) => None,
    }
}

fn name_of(host: &Host) -> Option<Name> {
    match host {
        Host::Address(_) => None,
        Host::Name(text) => Name::from_ascii(format!("{text}.")).ok(),
    }
}

fn address_record(name: &Name, ttl: u32, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), ttl, data)
}
