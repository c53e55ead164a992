//! The node's control plane: opened when its store answers, and served from then on. What the region serves does not wait for it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use farshore_core::moment::Moment;
use farshore_core::store::Store;
use farshore_store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use farshore_store::redb::RedbStore;
use tower::ServiceExt;

use super::{NodeError, wrong};
use crate::agent::RegionAgents;
use crate::api::Problem;
use crate::config::{EtcdConfig, NodeConfig, StoreKind};
use crate::engine::{Control, Options, RegionRecord, StartError, now};

/// Between two attempts to open the control plane on a store that does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Opens what the control plane remembers in. Members of etcd need not be reachable yet.
///
/// # Errors
/// When the file is damaged or in use, or the options cannot be right.
pub fn open_store(config: &NodeConfig) -> Result<Arc<dyn Store>, NodeError> {
    match (config.store, &config.etcd) {
        (StoreKind::Etcd, Some(etcd)) => {
            let store = EtcdStore::connect(etcd_options(config, etcd)?).map_err(wrong)?;
            Ok(Arc::new(store))
        }
        _ => Ok(Arc::new(RedbStore::open(&config.store_path()).map_err(wrong)?)),
    }
}

fn etcd_options(config: &NodeConfig, etcd: &EtcdConfig) -> Result<EtcdOptions, NodeError> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read(path).map_err(|error| wrong(format!("[etcd]: cannot read {}: {error}", path.display())))
    };
    let tls = match (&etcd.ca_file, &etcd.cert_file, &etcd.key_file) {
        (Some(ca), Some(cert), Some(key)) => {
            Some(EtcdTls { ca_pem: read(ca)?, cert_pem: read(cert)?, key_pem: read(key)? })
        }
        (Some(ca), ..) => Some(EtcdTls { ca_pem: read(ca)?, cert_pem: Vec::new(), key_pem: Vec::new() }),
        _ => None,
    };
    Ok(EtcdOptions {
        endpoints: etcd.urls(&config.region),
        prefix: etcd.prefix.clone(),
        tls,
        ..EtcdOptions::default()
    })
}

/// What the node's control plane is made of.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) store: Arc<dyn Store>,
    pub(super) agents: Arc<RegionAgents>,
    pub(super) regions: Vec<RegionRecord>,
    pub(super) options: Options,
}

impl Plan {
    pub(super) fn new(config: &NodeConfig, agents: RegionAgents) -> Result<Self, NodeError> {
        let since: Moment = now();
        let regions = config.regions.iter().map(|region| RegionRecord {
            name: region.name.clone(),
            agent_url: region.agent.clone(),
            replication: region.replication.to_string(),
            realtime: region.realtime.as_ref().map(|place| place.link.to_string()).unwrap_or_default(),
            since,
        });
        let options = Options {
            executor: format!("{}/{}", config.region, ulid::Ulid::generate()),
            fencing: config.fencing.timings(),
            // One writer needs no copy: its reads are as good as its store.
            mirror: config.store == StoreKind::Etcd,
            ..Options::default()
        };
        Ok(Self { store: open_store(config)?, agents: Arc::new(agents), regions: regions.collect(), options })
    }

    pub(super) async fn start(&self) -> Result<Control, StartError> {
        let (store, agents) = (Arc::clone(&self.store), Arc::clone(&self.agents));
        Control::start(store, agents, self.regions.clone(), self.options.clone()).await
    }

    /// Tries until the store answers.
    pub(super) async fn start_patiently(&self) -> Control {
        let mut told = String::new();
        loop {
            match self.start().await {
                Ok(control) => return control,
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::warn!(%error, "the control plane waits for its store");
                        told = error;
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }
}

/// What the concierge's routes begin with.
const CONCIERGE: &str = "/concierge/";

/// Routes that come later: the control plane's when its store has answered, the names' when their key is there.
#[derive(Debug, Clone)]
pub(super) struct Late {
    control: Arc<OnceLock<Router>>,
    names: Arc<OnceLock<Router>>,
    since: Moment,
}

impl Late {
    pub(super) fn new() -> Self {
        Self { control: Arc::default(), names: Arc::default(), since: now() }
    }

    pub(super) fn control_arrives(&self, routes: Router) {
        let _ = self.control.set(routes);
    }

    pub(super) fn names_arrive(&self, routes: Router) {
        let _ = self.names.set(routes);
    }

    /// Answers with the routes, or says that they are not there yet.
    pub(super) fn router(&self) -> Router {
        Router::new().fallback(late).with_state(self.clone())
    }
}

async fn late(State(late): State<Late>, request: Request) -> Response {
    let path = request.uri().path();
    let routes = if path.starts_with(CONCIERGE) { &late.names } else { &late.control };
    if let Some(routes) = routes.get() {
        return match routes.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    if path == "/livez" {
        return "ok".into_response();
    }
    let detail = format!(
        "the control plane of this node waits for its store since {}: what this region serves goes on; ask another \
         control node, and see the node's log",
        late.since
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail).into_response()
}
