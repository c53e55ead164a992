//! Two regions' machines with real sockets and real files: one life from protection to the way home, ordered by hand.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use farshore_core::ids::{Epoch, ItemId, Region, StepKey, Token};
use farshore_core::workload::{
    Action, Observation, Order, PointChoice, ReplicationMode, ReplicationState, Role, StepError, Workload,
};
use farshore_machine::nbd::Client;
use farshore_machine::workload::{Machines, MachinesOptions};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(20);
const SIZES: [u64; 2] = [3 * 1024 * 1024 + 100, 1024 * 1024 + 7];

struct Place {
    machines: Arc<Machines>,
    orders: std::cell::Cell<u64>,
}

impl Place {
    fn open(name: &str, dir: &std::path::Path) -> Self {
        let region = Region::parse(name).unwrap();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let machines = Machines::open(MachinesOptions {
            region: region.clone(),
            dir: dir.join(name),
            nbd: loopback,
            nbd_socket: None,
            replication: loopback,
            tls: None,
            secret: "secret".into(),
            source: farshore_machine::source::Options {
                region: Some(region),
                point_every: Duration::from_millis(100),
                // A source that was cut off notices late that another has taken over.
                retry_after: Duration::from_secs(3),
                ..Default::default()
            },
            replica: farshore_machine::replica::Options::default(),
        })
        .unwrap();
        Self { machines, orders: std::cell::Cell::new(0) }
    }

    async fn act(&self, epoch: u64, action: Action) -> Result<(), StepError> {
        self.orders.set(self.orders.get() + 1);
        let order = Order {
            key: StepKey(format!("test/{}", self.orders.get())),
            item: item(),
            token: Token::new(1, Epoch(epoch)),
            action,
            only_if: None,
            lease: None,
            by: None,
        };
        self.machines.act(&order).await
    }

    async fn look(&self) -> Observation {
        self.machines.observe(&item()).await.unwrap()
    }

    async fn wait(&self, what: &str, holds: impl Fn(&Observation) -> bool) -> Observation {
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

    async fn disks(&self) -> [Client; 2] {
        let seen = self.look().await;
        [0, 1].map(|index| Client::connect(&seen.endpoints[index].uri, DEADLINE).unwrap())
    }

    async fn images(&self) -> [Vec<u8>; 2] {
        self.disks().await.map(|mut client| read(&mut client))
    }
}

fn read(client: &mut Client) -> Vec<u8> {
    let mut image = vec![0; usize::try_from(client.size()).unwrap()];
    client.read(0, &mut image).unwrap();
    image
}

fn item() -> ItemId {
    ItemId::parse("machine/web-1").unwrap()
}

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

async fn protect(source: &Place, target: &Place, epoch: u64) {
    let action = Action::Replicate {
        target: region("oslo"),
        address: target.machines.replication_addr().to_string(),
        mode: ReplicationMode::Async,
    };
    source.act(epoch, action).await.unwrap();
    streaming(source).await;
}

async fn streaming(source: &Place) {
    let is_streaming = |seen: &Observation| {
        seen.replication.as_ref().is_some_and(|link| link.state == ReplicationState::Streaming)
    };
    source.wait("streaming", is_streaming).await;
}

async fn create(paris: &Place, oslo: &Place) {
    let disks = json!({"disks": [{"name": "root", "size_bytes": SIZES[0]}, {"name": "data", "size_bytes": SIZES[1]}]});
    paris.act(1, Action::Create { spec: disks }).await.unwrap();
    let shape = paris.look().await.shape;
    oslo.act(1, Action::PrepareTarget { source: region("paris"), shape }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_to_the_far_shore_and_comes_home() {
    let dir = tempfile::tempdir().unwrap();
    let (paris, oslo) = (Place::open("paris", dir.path()), Place::open("oslo", dir.path()));
    create(&paris, &oslo).await;
    let mut clients = paris.disks().await;
    clients[0].write(4000, &[1; 9000], false).unwrap();
    protect(&paris, &oslo, 1).await;
    clients[1].write(1024 * 1024, &[2; 7], true).unwrap();
    clients[0].write(SIZES[0] - 5, &[3; 5], false).unwrap();
    clients[0].flush().unwrap();
    let before = paris.images().await;
    let head = paris.look().await.watermark;
    oslo.wait("all writes at the target", |seen| seen.watermark.seq >= head.seq).await;

    // A drill beside the running original.
    oslo.act(1, Action::TestFailover { point: PointChoice::Latest }).await.unwrap();
    let drill = oslo.look().await.drill.unwrap();
    let mut copy = Client::connect(&drill.endpoints[0].uri, DEADLINE).unwrap();
    assert!(read(&mut copy) == before[0], "the drill shows the replicated content");
    copy.write(0, &[9; 512], true).unwrap();
    oslo.act(1, Action::CleanUp).await.unwrap();
    assert!(oslo.look().await.drill.is_none());

    // The region is lost; what it does afterwards nobody else has.
    paris.act(1, Action::StopReplicating).await.err();
    let point = oslo.look().await.points.last().unwrap().clone();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let promoted = oslo.wait("an active oslo", |seen| seen.role == Role::Active && seen.ready).await;
    let promotion = promoted.promotion.unwrap();
    assert!(promotion.point.watermark.seq >= point.watermark.seq);
    assert!(oslo.images().await == before, "the far shore has everything that arrived");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_is_counted_and_the_way_home_moves_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let (paris, oslo) = (Place::open("paris", dir.path()), Place::open("oslo", dir.path()));
    create(&paris, &oslo).await;
    protect(&paris, &oslo, 1).await;
    let mut clients = paris.disks().await;
    for number in 0..50_u8 {
        clients[usize::from(number % 2)].write(u64::from(number) * 4096, &[number + 1; 4096], false).unwrap();
    }
    let head = paris.look().await.watermark;
    oslo.wait("all writes at the target", |seen| seen.watermark.seq >= head.seq).await;
    // Three writes that only paris has: cut off, so that it cannot learn of its successor and fence itself before them.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let cut = Action::Replicate {
        target: region("oslo"),
        address: nobody.local_addr().unwrap().to_string(),
        mode: ReplicationMode::Async,
    };
    paris.act(1, cut).await.unwrap();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    for number in 0..3_u8 {
        clients[0].write(u64::from(number) * 4096, &[0xEE; 4096], false).unwrap();
    }
    let only_paris = paris.images().await;
    let mut over = oslo.disks().await;
    over[1].write(100_000, &[0xAA; 5000], true).unwrap();
    let promotion = oslo.look().await.promotion.unwrap();
    let after = promotion.point.watermark;
    assert_eq!(after.seq, head.seq);

    paris.act(2, Action::Fence { lost_after: Some(after) }).await.unwrap();
    let seen = paris.look().await;
    assert_eq!(seen.role, Role::Fenced);
    let kept = seen.divergence.unwrap();
    assert_eq!((kept.loss.writes, kept.loss.bytes, kept.exact), (3, 3 * 4096, true));
    assert!(clients[0].write(0, &[1; 512], false).is_err(), "a fenced machine takes no writes");
    let mut old = Client::connect(&kept.endpoints[0].uri, DEADLINE).unwrap();
    assert!(read(&mut old) == only_paris[0], "what only paris has can be looked at");
    assert!(old.write(0, &[1; 512], false).is_err(), "and not be changed");
    drop(old);

    oslo.act(2, Action::Commit).await.unwrap();
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    let action = Action::Replicate {
        target: region("paris"),
        address: paris.machines.replication_addr().to_string(),
        mode: ReplicationMode::Async,
    };
    oslo.act(2, action).await.unwrap();
    streaming(&oslo).await;
    let link = oslo.look().await.replication.unwrap();
    assert_eq!(link.differed_bytes, 5 * 4096, "three blocks of paris and two of oslo");
    assert!(link.moved_bytes < 6 * 4096 + 4096, "{} bytes moved", link.moved_bytes);
    let kept = paris.look().await.divergence.unwrap();
    let mut old = Client::connect(&kept.endpoints[0].uri, DEADLINE).unwrap();
    assert!(read(&mut old) == only_paris[0], "the divergent writes outlive the reprotect");

    // Planned failback: stop, drain, promote.
    over[0].write(8192, &[0xBB; 4096], false).unwrap();
    let final_images = oslo.images().await;
    oslo.act(3, Action::Fence { lost_after: None }).await.unwrap();
    oslo.act(3, Action::Drain).await.unwrap();
    let last = oslo.look().await.watermark;
    paris.wait("drained", |seen| (seen.watermark.epoch, seen.watermark.seq) >= (last.epoch, last.seq)).await;
    paris.act(3, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert!(paris.images().await == final_images, "nothing is lost on the way home");
    paris.act(3, Action::Commit).await.unwrap();
    let kept = paris.look().await.divergence.unwrap();
    let mut old = Client::connect(&kept.endpoints[0].uri, DEADLINE).unwrap();
    assert!(read(&mut old) == only_paris[0], "and the way home");
    paris.act(3, Action::DropDivergence).await.unwrap();
    assert!(paris.look().await.divergence.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_died_in_the_middle_is_completed_when_it_is_ordered_again() {
    let dir = tempfile::tempdir().unwrap();
    let (paris, oslo) = (Place::open("paris", dir.path()), Place::open("oslo", dir.path()));
    create(&paris, &oslo).await;
    protect(&paris, &oslo, 1).await;
    paris.disks().await[0].write(4096, &[5; 4096], true).unwrap();
    let (head, before) = (paris.look().await.watermark, paris.images().await);
    oslo.wait("all writes at the target", |seen| seen.watermark.seq >= head.seq).await;
    paris.machines.stop();
    oslo.machines.stop();
    drop(oslo);
    // As a crash leaves it: the replica is promoted, the card does not say so yet.
    let machine = dir.path().join("oslo/web-1");
    let disks = ["root", "data"].map(|name| {
        Arc::new(farshore_machine::raw::RawFile::open(machine.join(format!("disks/{name}.raw"))).unwrap())
            as Arc<dyn farshore_machine::disk::Disk>
    });
    let options = farshore_machine::replica::Options::default();
    let replica =
        farshore_machine::replica::Replica::open(&machine.join("replica-1"), disks.into(), options).unwrap();
    replica.promote(&PointChoice::Latest).unwrap().stop();
    drop(replica);
    let oslo = Place::open("oslo", dir.path());
    let seen = oslo.look().await;
    assert_eq!((seen.role, seen.ready, seen.warnings), (Role::Target, false, Vec::new()));
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert!(oslo.images().await == before, "everything that had arrived is served");
    oslo.act(2, Action::Commit).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_woken_machine_serves_nothing_until_it_is_told_to_and_refuses_old_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let paris = Place::open("paris", dir.path());
    let disks = json!({"disks": [{"name": "root", "size_bytes": 1_000_000}]});
    paris.act(4, Action::Create { spec: disks.clone() }).await.unwrap();
    let uri = paris.look().await.endpoints[0].uri.clone();
    Client::connect(&uri, DEADLINE).unwrap().write(0, &[7; 4096], true).unwrap();
    paris.machines.stop();
    drop(paris);
    let paris = Place::open("paris", dir.path());
    let seen = paris.look().await;
    assert_eq!((seen.role, seen.endpoints.len()), (Role::Unconfirmed, 0));
    assert_eq!(
        paris.act(3, Action::Serve).await,
        Err(StepError::Fenced { current: Token::new(1, Epoch(4)) })
    );
    paris.act(4, Action::Serve).await.unwrap();
    let seen = paris.look().await;
    let mut block = [0; 4096];
    Client::connect(&seen.endpoints[0].uri, DEADLINE).unwrap().read(0, &mut block).unwrap();
    assert_eq!(block, [7; 4096]);
    // The same again changes nothing; another machine of the name is refused.
    paris.act(4, Action::Create { spec: disks }).await.unwrap();
    paris.act(5, Action::Delete).await.unwrap();
    assert_eq!(paris.machines.observe(&item()).await, Err(StepError::Unknown));
    assert!(std::fs::read_dir(dir.path().join("paris")).unwrap().next().is_none(), "nothing is left behind");
}
