//! The listeners of a node, and which of its hubs somebody means who comes to them.
//!
//! Read in this order: this file (names and hubs), `faces` (who is asked on behalf of whom: MQTT, AMQP, provisioning, REST),
//! `listen` (the sockets).
//!
//! Must always hold: who names a hub that is not here is told to come again, never that they are wrong: the hub may be on its way.

mod faces;
mod listen;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::fleet::Fleet;
use crate::rest;

pub use listen::{Addresses, ListenError, Listeners};

/// One hub of the node.
#[derive(Debug, Clone)]
pub struct Served {
    fleet: Fleet,
    names: Vec<String>,
    rest: Arc<rest::Hub>,
}

impl Served {
    /// A hub under these names. Import and export jobs read and write in `exchange` only.
    #[must_use]
    pub fn new(fleet: &Fleet, names: Vec<String>, exchange: Option<PathBuf>) -> Self {
        let options = rest::HubOptions { names: names.clone(), files: exchange };
        let (registry, telemetry) = (fleet.registry().clone(), fleet.telemetry().clone());
        let rest = rest::Hub::new(options, registry, telemetry, Arc::new(fleet.clone()));
        Self { fleet: fleet.clone(), names, rest }
    }

    /// What is alive of it.
    #[must_use]
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }
}

/// The hubs of a node.
#[derive(Debug, Default)]
pub struct Fronts {
    hubs: RwLock<BTreeMap<String, Served>>,
}

impl Fronts {
    /// Whether a hub may be called so.
    ///
    /// # Errors
    /// Another one is; says which.
    pub fn check_free(&self, hub: &str, names: &[String]) -> Result<(), String> {
        let taken = |name: &String| name.parse::<IpAddr>().is_err() && names.contains(name);
        for (other, served) in &*self.read() {
            if let Some(name) = served.names.iter().find(|name| taken(name)).filter(|_| other != hub) {
                return Err(format!("the hub {other} is called {name} already: give another with \"hosts\""));
            }
        }
        Ok(())
    }

    /// From now on the hub is served.
    pub fn put(&self, served: Served) {
        let name = served.fleet.name().to_owned();
        self.write().insert(name, served);
    }

    /// The hub is not here any more.
    pub fn remove(&self, hub: &str) {
        self.write().remove(hub);
    }

    /// The hub that is called so, with a port or without. A name that no hub has, such as an address, means the only one there is.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<Served> {
        let plain = crate::sas::token::without_port(host);
        let hubs = self.read();
        let is_called = |served: &&Served| served.names.iter().any(|name| name.eq_ignore_ascii_case(plain));
        let mut called = hubs.values().filter(is_called);
        match (called.next(), called.next(), hubs.len()) {
            (Some(one), None, _) => Some(one.clone()),
            (None, None, 1) => hubs.values().next().cloned(),
            _ => None,
        }
    }

    /// The hub that devices name when they ask where they belong: by one of its names, or by its id.
    fn find_scope(&self, scope: &str) -> Option<Served> {
        let by_id = self.read().get(scope).cloned();
        by_id.or_else(|| self.find(scope))
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Served>> {
        self.hubs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Served>> {
        self.hubs.write().unwrap_or_else(PoisonError::into_inner)
    }
}
