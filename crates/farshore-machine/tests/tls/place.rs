//! A region's machines that talk TLS.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farshore_core::ids::{Epoch, ItemId, Region, StepKey, Token};
use farshore_core::workload::{
    Action, Observation, Order, ReplicationMode, ReplicationState, StepError, Workload,
};
use farshore_machine::nbd::Client;
use farshore_machine::tls::MachineTls;
use farshore_machine::workload::{Machines, MachinesOptions};
use serde_json::json;

/// Longest that anything here may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const SIZE: u64 = (6 << 20) + 100;

pub(crate) struct Place {
    pub(crate) machines: Arc<Machines>,
    orders: AtomicU64,
}

impl Place {
    pub(crate) fn open(name: &str, dir: &Path, tls: Option<MachineTls>) -> Self {
        let loopback = "127.0.0.1:0".parse().unwrap();
        let source = farshore_machine::source::Options {
            region: Some(region(name)),
            point_every: Duration::from_millis(100),
            retry_after: Duration::from_millis(50),
            ..Default::default()
        };
        let machines = Machines::open(MachinesOptions {
            region: region(name),
            dir: dir.join(name),
            nbd: loopback,
            nbd_socket: None,
            replication: loopback,
            tls,
            secret: "secret".into(),
            source,
            replica: farshore_machine::replica::Options::default(),
        });
        Self { machines: machines.unwrap(), orders: AtomicU64::new(0) }
    }

    pub(crate) async fn act(&self, epoch: u64, action: Action) -> Result<(), StepError> {
        let key = StepKey(format!("test/{}", self.orders.fetch_add(1, Ordering::Relaxed)));
        let token = Token::new(1, Epoch(epoch));
        self.machines
            .act(&Order { key, item: item(), token, action, only_if: None, lease: None, by: None })
            .await
    }

    pub(crate) async fn create(&self) {
        let disks = json!({"disks": [{"name": "root", "size_bytes": SIZE}]});
        self.act(1, Action::Create { spec: disks }).await.unwrap();
    }

    pub(crate) async fn prepare(&self, source: &Self, source_name: &str) {
        let shape = source.look().await.shape;
        self.act(1, Action::PrepareTarget { source: region(source_name), shape }).await.unwrap();
    }

    pub(crate) async fn replicate(&self, epoch: u64, target: &str, address: String) {
        let action = Action::Replicate { target: region(target), address, mode: ReplicationMode::Async };
        self.act(epoch, action).await.unwrap();
    }

    pub(crate) fn address(&self) -> String {
        self.machines.replication_addr().to_string()
    }

    pub(crate) async fn look(&self) -> Observation {
        self.machines.observe(&item()).await.unwrap()
    }

    pub(crate) async fn wait(&self, what: &str, holds: impl Fn(&Observation) -> bool) -> Observation {
        let until = Instant::now() + DEADLINE;
        loop {
            let seen = self.look().await;
            if holds(&seen) {
                return seen;
            }
            assert!(Instant::now() < until, "{what} was not seen: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn streaming(&self) {
        let streams = |seen: &Observation| {
            seen.replication.as_ref().is_some_and(|link| link.state == ReplicationState::Streaming)
        };
        self.wait("streaming", streams).await;
    }

    pub(crate) async fn disk(&self) -> Client {
        Client::connect(&self.look().await.endpoints[0].uri, DEADLINE).unwrap()
    }

    pub(crate) async fn image(&self) -> Vec<u8> {
        let mut image = vec![0; usize::try_from(SIZE).unwrap()];
        self.disk().await.read(0, &mut image).unwrap();
        image
    }
}

pub(crate) fn item() -> ItemId {
    ItemId::parse("machine/web-1").unwrap()
}

pub(crate) fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}
