//! A test failover: a copy of the app, with a database of its own, served on a port of its own beside the running one, and thrown away
//! afterwards.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::workload::{DrillView, Endpoint, Point};

use super::engines;
use super::item::{Item, limits, rule};
use crate::data::Live;
use crate::gateway::{Gateway, GatewayOptions, Site, SiteState};
use crate::host::{Host, HostOptions};
use crate::releases::remove;
use crate::spec::git_host;

/// A copy that does not come up within this will not.
const UP_MAX: Duration = Duration::from_secs(15);
/// Its instances have so long to end.
const GRACE: Duration = Duration::from_secs(1);

/// A running copy.
#[derive(Debug)]
pub(super) struct Drill {
    point: Point,
    endpoints: Vec<Endpoint>,
    gateway: Arc<Gateway>,
    host: Option<Arc<Host>>,
    database: Option<Arc<dyn Live>>,
    dir: PathBuf,
}

impl Drill {
    /// Brings back the point (`backup`; `None`: what has arrived), starts the live release on it and serves it.
    ///
    /// # Errors
    /// In words, when the copy does not come up, or would work on the database in use. Nothing of it is left then.
    pub(super) async fn open(item: &Arc<Item>, point: Point, backup: Option<String>) -> Result<Self, String> {
        if item.stock.charter().external.is_some() {
            return Err(in_use(item));
        }
        let dir = item.dir().join("drill");
        remove(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let own = item.around.gateway.bound();
        let any = |at: SocketAddr| SocketAddr::new(at.ip(), 0);
        let options = GatewayOptions {
            http: any(own.http),
            https: own.https.map(any),
            tls: item.around.options.tls.clone(),
            region: item.around.options.region.clone(),
        };
        let gateway = Gateway::open(options).await.map_err(|error| error.to_string())?;
        let endpoints = item.around.endpoints_at(gateway.bound());
        let mut drill = Self { point, endpoints, gateway, host: None, database: None, dir };
        match drill.begin(item, backup).await {
            Ok(()) => Ok(drill),
            Err(why) => {
                let closed = drill.close().await;
                Err(closed.err().map_or(why.clone(), |left| format!("{why}; {left}")))
            }
        }
    }

    async fn begin(&mut self, item: &Arc<Item>, backup: Option<String>) -> Result<(), String> {
        if let Some(engine) = item.stock.engine() {
            let dir = self.dir.join("database");
            let position = match backup {
                Some(id) => item.backups.restore(&id, &dir).await.map(|meta| meta.position),
                None => {
                    let replica = item.stock.replica().ok_or("there is no copy of its database here")?;
                    replica.restore(&dir).await
                }
            };
            let position = position.map_err(|error| error.to_string())?;
            let live = engines::open_live(engine, &dir, position).await.map_err(|error| error.to_string())?;
            self.database = Some(live);
        }
        let charter = item.stock.charter().clone();
        let site = Site::new(
            item.id.name.as_str(),
            charter.spec.hosts_of(&item.id, &item.around.options.domain),
            vec![git_host(&item.id, &item.around.options.domain)],
            item.scripts(),
        );
        site.set_keys(rule(&charter));
        for (host, certificate) in &charter.certificates {
            let set = self.gateway.set_certificate(host, &certificate.chain, &certificate.key);
            set.map_err(|error| error.to_string())?;
        }
        if let (Some(release), Some(command)) = (charter.live, charter.spec.command.clone()) {
            let host = Host::spawn(HostOptions {
                command,
                dir: item.stock.releases.dir_of(release),
                env: item.environment(self.database.as_ref().map(|live| live.env())),
                // One is enough to see whether it would come up.
                instances: 1,
                limits: limits(charter.spec.mode),
                probe_path: charter.spec.probe.clone(),
                log_dir: self.dir.join("log"),
                name: format!("{}-drill", item.id.name),
                cgroup: item.around.cgroup.clone(),
            });
            self.host = Some(Arc::clone(&host));
            host.up(UP_MAX).await.map_err(|failure| format!("the copy does not come up: {failure}"))?;
            let instances = Arc::clone(&host.addresses().borrow());
            site.set(SiteState::Here { instances, pass: None });
        }
        self.gateway.put(site)
    }

    pub(super) fn view(&self) -> DrillView {
        DrillView { point: self.point.clone(), endpoints: self.endpoints.clone() }
    }

    /// Nothing of it is left afterwards.
    pub(super) async fn close(self) -> Result<(), String> {
        self.gateway.stop().await;
        if let Some(host) = self.host {
            host.stop(GRACE).await;
        }
        if let Some(database) = self.database {
            database.stop().await.map_err(|error| error.to_string())?;
        }
        let dir = self.dir;
        let removed = tokio::task::spawn_blocking(move || {
            remove(&dir).map_err(|error| format!("{}: {error}", dir.display()))
        });
        removed.await.map_err(|error| error.to_string())?
    }
}

/// Why an app with a database of its own is not rehearsed.
fn in_use(item: &Item) -> String {
    format!(
        "the database of {} is on a server of its own, which Farshore does not copy: a rehearsal would work on the one in use. Rehearse \
         with another app that has the same scripts, and a copy of that database: farshore app create, farshore app change-database",
        item.id
    )
}
