//! A test failover: a copy of the hub's identities, served on ports of its own beside the running one, and thrown away afterwards.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use farshore_core::ids::Region;
use farshore_core::workload::{DrillView, Endpoint, Point};

use super::item::Item;
use super::{look, now};
use crate::fleet::{Fleet, FleetOptions, Standing};
use crate::front::{Addresses, Fronts, Listeners, Served};

/// Bytes of identities that are copied at a time.
const PIECE: usize = 4 << 20;
/// Whose changes those of the copy are: no region's.
const NOBODY: &str = "drill";

/// A running copy.
#[derive(Debug)]
pub(super) struct Drill {
    point: Point,
    fleet: Fleet,
    listeners: Listeners,
    endpoints: Vec<Endpoint>,
    dir: PathBuf,
}

impl Drill {
    pub(super) async fn open(item: &Arc<Item>) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let dir = item.around.dir_of(&item.card().item).join(NOBODY);
        remove(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let region = Region::parse(NOBODY).map_err(|error| text(&error))?;
        let names = item.names();
        let name = format!("{}-drill", item.fleet.name());
        let options = FleetOptions { hosts: names.clone(), ..FleetOptions::new(&name, region, dir.clone()) };
        let fleet = Fleet::open(options).map_err(|error| text(&error))?;
        copy(item, &fleet).await?;
        fleet.open_to_devices(item.epoch(), Standing::Current);
        let fronts = Arc::new(Fronts::default());
        fronts.put(Served::new(&fleet, names, None));
        let own = item.around.bound();
        let any = |address: std::net::SocketAddr| std::net::SocketAddr::new(address.ip(), 0);
        let addresses = Addresses { mqtt: any(own.mqtt), https: any(own.https), amqp: any(own.amqp) };
        let listeners = Listeners::open(addresses, item.around.options.tls.clone(), fronts, now)
            .await
            .map_err(|error| text(&error))?;
        let endpoints = item.around.endpoints_at(listeners.bound());
        Ok(Self { point: look::point(item), fleet, listeners, endpoints, dir })
    }

    pub(super) fn view(&self) -> DrillView {
        DrillView { point: self.point.clone(), endpoints: self.endpoints.clone() }
    }

    /// Nothing of it is left afterwards.
    pub(super) async fn close(self) -> Result<(), String> {
        self.fleet.fence().await;
        self.listeners.stop().await;
        self.fleet.telemetry().close().await;
        let dir = self.dir;
        let removed = tokio::task::spawn_blocking(move || {
            remove(&dir).map_err(|error| format!("{}: {error}", dir.display()))
        });
        removed.await.map_err(|error| error.to_string())?
    }
}

async fn copy(item: &Arc<Item>, to: &Fleet) -> Result<(), String> {
    let (from, registry) = (item.around.options.region.clone(), item.fleet.registry().clone());
    let mut since = 0;
    loop {
        let read = registry.clone();
        let batch = tokio::task::spawn_blocking(move || read.since(since, PIECE));
        let batch = batch.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        since = batch.upto;
        let is_last = batch.is_last();
        to.registry().join(&from, batch).await.map_err(|error| error.to_string())?;
        if is_last {
            return Ok(());
        }
    }
}

fn remove(dir: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
