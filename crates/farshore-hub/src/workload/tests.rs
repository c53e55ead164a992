//! Two regions in one process, ordered about as the engine would: what is acknowledged is kept, what was lost is counted and comes
//! home, and nobody serves who should not.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_core::fencing::FenceTimings;
use farshore_core::ids::Epoch;
use farshore_core::workload::{PointChoice, ReplicationMode, ReplicationState};
use serde_json::json;

use super::*;
use crate::fleet::Phase;
use crate::mqtt::behind::{Behind, Hello, Outgoing, Verdict};
use crate::names::Key;
use crate::record::{Auth, Edit, NewDevice};
use crate::telemetry::{Cursor, Event};

/// The regions that can be reached.
#[derive(Debug, Default)]
struct World {
    regions: Mutex<BTreeMap<Region, Arc<DeviceHubs>>>,
    is_cut: AtomicBool,
}

/// The way from one region.
#[derive(Debug)]
struct From(Region, Arc<World>);

#[async_trait]
impl Pull for From {
    async fn pull(&self, region: &Region, item: &ItemId, request: Vec<u8>) -> Result<Vec<u8>, StepError> {
        let cut = || StepError::Retry { what: "cut".to_owned() };
        if self.1.is_cut.load(Ordering::SeqCst) {
            return Err(cut());
        }
        let other = self.1.regions.lock().unwrap().get(region).cloned().ok_or_else(cut)?;
        let answer = other.pulled(item, &self.0, &request).await?;
        // What was under way when the line was cut does not arrive.
        if self.1.is_cut.load(Ordering::SeqCst) { Err(cut()) } else { Ok(answer) }
    }
}

struct Place {
    region: Region,
    hubs: Arc<DeviceHubs>,
    world: Arc<World>,
    dir: Arc<tempfile::TempDir>,
}

static STEP: AtomicU64 = AtomicU64::new(0);

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn fleet() -> ItemId {
    ItemId::parse("hub/fleet").unwrap()
}

impl Place {
    async fn open(name: &str, world: &Arc<World>) -> Self {
        Self::open_in(name, world, Arc::new(tempfile::tempdir().unwrap())).await
    }

    async fn open_in(name: &str, world: &Arc<World>, dir: Arc<tempfile::TempDir>) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let options = HubsOptions {
            region: region(name),
            dir: dir.path().join("hubs"),
            addresses: Addresses { mqtt: any, https: any, amqp: any },
            host: None,
            domain: "example".to_owned(),
            tls: None,
            ca: None,
            exchange: None,
            far: Arc::new(From(region(name), Arc::clone(world))),
        };
        // The files are somebody else's until the last question of an earlier life has been answered.
        let give_up = Instant::now() + Duration::from_secs(20);
        let hubs = loop {
            match DeviceHubs::open(options.clone()).await {
                Ok(hubs) => break hubs,
                Err(error) => assert!(Instant::now() < give_up, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        world.regions.lock().unwrap().insert(region(name), Arc::clone(&hubs));
        Self { region: region(name), hubs, world: Arc::clone(world), dir }
    }

    /// As after a crash of the node: what is not on the disk is gone.
    async fn restart(self) -> Self {
        self.world.regions.lock().unwrap().remove(&self.region);
        self.hubs.stop().await;
        let Self { region, hubs, world, dir } = self;
        drop(hubs);
        Self::open_in(region.as_str(), &world, dir).await
    }

    async fn act(&self, epoch: u64, action: Action) -> Result<(), StepError> {
        self.act_with(epoch, action, None).await
    }

    async fn act_with(
        &self,
        epoch: u64,
        action: Action,
        lease: Option<FenceTimings>,
    ) -> Result<(), StepError> {
        let step = STEP.fetch_add(1, Ordering::SeqCst);
        let key = serde_json::from_value(json!(format!("test/{step}"))).unwrap();
        let token = Token::new(1, Epoch(epoch));
        self.hubs.act(&Order { key, item: fleet(), token, action, only_if: None, lease, by: None }).await
    }

    async fn look(&self) -> Observation {
        self.hubs.observe(&fleet()).await.unwrap()
    }

    fn item(&self) -> Arc<Item> {
        self.hubs.item(&fleet()).unwrap()
    }

    async fn device(&self, id: &str) {
        let auth = Auth::Sas { primary: "a2V5".to_owned(), secondary: "a2V5".to_owned() };
        let create = vec![Edit::Create(NewDevice::with(auth))];
        let registry = self.item().fleet.registry().clone();
        registry.change(Key::parse(id).unwrap(), |_| Ok::<_, Infallible>(create)).await.unwrap();
    }

    async fn says(&self, message: &str, epoch: u64) {
        let event = Event {
            key: Key::parse("pump").unwrap(),
            generation: "1".into(),
            enqueued: now(),
            system: vec![("$.mid".to_owned(), message.to_owned())],
            properties: Vec::new(),
            body: Bytes::new(),
        };
        self.item().fleet.telemetry().append(Epoch(epoch), event).await.unwrap();
    }

    fn knows(&self, id: &str) -> bool {
        self.item().fleet.registry().get(&Key::parse(id).unwrap()).unwrap().is_some()
    }

    fn heard(&self) -> usize {
        self.item().fleet.telemetry().read(&Cursor::default(), 1000).unwrap().events.len()
    }

    async fn until(&self, what: &str, check: impl Fn(&Observation) -> bool) -> Observation {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let seen = self.look().await;
            if check(&seen) {
                return seen;
            }
            assert!(Instant::now() < give_up, "{what}: {seen:#?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Paris serves, oslo follows and has everything.
async fn protected() -> (Place, Place) {
    let world = Arc::<World>::default();
    let (paris, oslo) = (Place::open("paris", &world).await, Place::open("oslo", &world).await);
    paris.act(1, Action::Create { spec: json!({}) }).await.unwrap();
    paris.device("pump").await;
    let shape = paris.look().await.shape;
    oslo.act(1, Action::PrepareTarget { source: region("paris"), shape }).await.unwrap();
    let action = Action::Replicate {
        target: region("oslo"),
        address: "unused".to_owned(),
        mode: ReplicationMode::Async,
    };
    paris.act(1, action).await.unwrap();
    paris.until("streaming", streams).await;
    oslo.until("a point", |seen| !seen.points.is_empty()).await;
    (paris, oslo)
}

fn streams(seen: &Observation) -> bool {
    let replication = seen.replication.as_ref();
    replication.is_some_and(|link| link.state == ReplicationState::Streaming && link.lag.writes == 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_loses_nothing_and_the_way_home_is_the_same_again() {
    let (paris, oslo) = protected().await;
    for number in 0..20 {
        paris.says(&number.to_string(), 1).await;
    }
    paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    assert_eq!(paris.look().await.role, Role::Fenced);
    paris.act(2, Action::Drain).await.unwrap();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let promotion = oslo.look().await.promotion.unwrap();
    assert_eq!((promotion.at_failover.writes, promotion.at_failover.seconds), (0, 0.0));
    assert_eq!(promotion.point.watermark.seq, promotion.source_last_known.seq);
    assert_eq!(oslo.heard(), 20);
    let phase = oslo.item().fleet.phase();
    assert!(matches!(phase, Phase::Open { standing: crate::fleet::Standing::Current, .. }), "{phase:?}");
    oslo.act(2, Action::Commit).await.unwrap();
    let after = promotion.point.watermark;
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    oslo.says("over there", 2).await;
    oslo.device("new").await;
    oslo.act(2, Action::Fence { lost_after: None }).await.unwrap();
    oslo.act(2, Action::Drain).await.unwrap();
    paris.act(3, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert!(paris.knows("new"));
    assert_eq!(paris.heard(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_hub_lets_go_of_its_devices_when_another_region_serves_them() {
    let (paris, oslo) = protected().await;
    let expires = now().after(Duration::from_secs(3600));
    let password = crate::sas::Token::make("fleet.hub.example/devices/pump", "a2V5", None, expires).ok();
    let hello = Hello {
        key: Key::parse("pump").unwrap(),
        host: "fleet.hub.example".to_owned(),
        query: String::new(),
        password,
        certificates: Vec::new(),
        clean: false,
        keep_alive: Duration::from_secs(60),
        peer: "127.0.0.1:1".parse().unwrap(),
    };
    let Verdict::Open(session) = paris.item().fleet.admit(hello).await else { panic!("not let in") };
    let (served, elsewhere) = (oslo.item(), oslo.item());
    let gone = tokio::spawn(async move { (session.next().await, served.fleet.is_serving()) });
    paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    assert!(!paris.item().fleet.is_serving());
    paris.act(2, Action::Drain).await.unwrap();
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert!(elsewhere.fleet.is_serving());
    let (last, was_served) = gone.await.unwrap();
    assert!(matches!(last, Outgoing::Close(_)), "{last:?}");
    assert!(was_served, "it was sent away while nobody served it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_lost_region_had_is_counted_and_merged() {
    let (paris, oslo) = protected().await;
    let world = Arc::clone(&paris.world);
    world.is_cut.store(true, Ordering::SeqCst);
    paris.says("only here", 1).await;
    paris.device("late").await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let seen = oslo.look().await;
    assert!(
        seen.ready && seen.warnings.iter().any(|warning| warning.contains("farshore hub merge")),
        "{seen:#?}"
    );
    let phase = oslo.item().fleet.phase();
    assert!(matches!(phase, Phase::Open { standing: crate::fleet::Standing::Behind, .. }), "{phase:?}");
    let after = seen.promotion.unwrap().point.watermark;
    oslo.device("new").await;
    world.is_cut.store(false, Ordering::SeqCst);
    // Paris hears of the higher token by itself, and stops first.
    paris.until("paris fenced itself", |seen| seen.role == Role::Fenced).await;
    assert!(!paris.item().fleet.is_serving());
    paris.act(2, Action::Fence { lost_after: Some(after) }).await.unwrap();
    let lost = paris.until("counted", |seen| seen.divergence.is_some()).await.divergence.unwrap();
    assert_eq!((lost.loss.writes, lost.exact), (2, true));
    assert!(!oslo.knows("late"), "nothing is merged before somebody asks for it");
    oslo.act(2, Action::Commit).await.unwrap();
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    let action = Action::Replicate {
        target: region("paris"),
        address: "unused".to_owned(),
        mode: ReplicationMode::Async,
    };
    oslo.act(2, action).await.unwrap();
    oslo.until("all of it is there", |seen| streams(seen) && seen.warnings.is_empty()).await;
    assert!(oslo.knows("late") && paris.knows("new"));
    assert_eq!((oslo.heard(), paris.heard()), (1, 1));
    assert!(paris.look().await.divergence.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_restarted_serves_nobody_until_it_is_told_to() {
    let (paris, oslo) = protected().await;
    paris.says("before", 1).await;
    let paris = paris.restart().await;
    let seen = paris.look().await;
    assert_eq!((seen.role, seen.ready), (Role::Unconfirmed, false));
    assert!(!paris.item().fleet.is_serving());
    let refused = paris.act(0, Action::Serve).await.unwrap_err();
    assert!(matches!(refused, StepError::Fenced { .. }), "{refused}");
    paris.act(1, Action::Serve).await.unwrap();
    assert!(paris.item().fleet.is_serving());
    assert_eq!(paris.heard(), 1);
    let oslo = oslo.restart().await;
    oslo.until("oslo follows again", |seen| seen.role == Role::Target && !seen.points.is_empty()).await;
    paris.until("streaming again", streams).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_fences_itself_acknowledges_nothing_without_its_right() {
    let (paris, _oslo) = protected().await;
    paris.act_with(1, Action::Serve, Some(FenceTimings::FAST)).await.unwrap();
    assert!(!paris.item().fleet.is_serving(), "not renewed yet");
    let leased = paris.hubs.leased().await.unwrap();
    assert_eq!((leased.len(), leased[0].until), (1, None));
    let until = boot_time().after(Duration::from_millis(300));
    paris.hubs.renewed(&fleet(), leased[0].token, until).await.unwrap();
    assert!(paris.item().fleet.is_serving());
    while boot_time() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!paris.item().fleet.is_serving(), "its right is over");
    paris.hubs.expired(&fleet(), leased[0].token).await.unwrap();
    assert_eq!(paris.look().await.role, Role::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_is_beside_and_leaves_nothing() {
    let (_paris, oslo) = protected().await;
    oslo.act(1, Action::TestFailover { point: PointChoice::Latest }).await.unwrap();
    let drill = oslo.look().await.drill.unwrap();
    assert_eq!(drill.endpoints.len(), 3);
    let port = drill.endpoints[1].uri.rsplit(':').next().unwrap().to_owned();
    assert!(tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_ok());
    oslo.act(1, Action::CleanUp).await.unwrap();
    assert!(oslo.look().await.drill.is_none());
    assert!(tokio::net::TcpStream::connect(format!("127.0.0.1:{port}")).await.is_err());
    assert!(!oslo.dir.path().join("hubs/fleet/drill").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_gone_and_can_be_made_again() {
    let (paris, _oslo) = protected().await;
    paris.act(1, Action::Delete).await.unwrap();
    assert!(matches!(paris.hubs.observe(&fleet()).await, Err(StepError::Unknown)));
    assert!(!paris.dir.path().join("hubs/fleet").exists());
    paris.act(1, Action::Delete).await.unwrap();
    paris.act(2, Action::Create { spec: json!({"hosts": ["iot.example"]}) }).await.unwrap();
    assert!(!paris.knows("pump"));
    let bad = json!({"hosts": ["Iot Example"]});
    let other = Order {
        item: ItemId::parse("hub/other").unwrap(),
        key: serde_json::from_value(json!("test/bad")).unwrap(),
        token: Token::new(1, Epoch(1)),
        action: Action::Create { spec: bad },
        only_if: None,
        lease: None,
        by: None,
    };
    let refused = paris.hubs.act(&other).await.unwrap_err().to_string();
    assert!(refused.contains("is no host name"), "{refused}");
    let taken = Order { action: Action::Create { spec: json!({"hosts": ["iot.example"]}) }, ..other };
    let refused = paris.hubs.act(&taken).await.unwrap_err().to_string();
    assert!(refused.contains("the hub fleet is called iot.example already"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronous_protection_waits_for_the_other_region_and_says_when_it_does_not() {
    let (paris, oslo) = protected().await;
    let action = Action::Replicate {
        target: region("oslo"),
        address: "unused".to_owned(),
        mode: ReplicationMode::Sync,
    };
    paris.act(1, action).await.unwrap();
    paris.until("streaming", streams).await;
    let is_waited_for = || paris.item().link().unwrap().awaited().borrow().is_some();
    paris.until("oslo is waited for", |_| is_waited_for()).await;
    let told = |seen: &Observation| {
        seen.warnings.iter().any(|warning| warning.contains("though protection is synchronous"))
    };
    paris.until("nothing is wrong", |seen| !told(seen)).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    paris.until("that it is suspended", |seen| told(seen) && !is_waited_for()).await;
    paris.world.is_cut.store(false, Ordering::SeqCst);
    paris.until("oslo is waited for again", |seen| !told(seen) && is_waited_for()).await;
    assert!(oslo.item().link().unwrap().awaited().borrow().is_none(), "a target acknowledges nothing");
    let paris = paris.restart().await;
    paris.act(1, Action::Serve).await.unwrap();
    let is_waited_for = || paris.item().link().unwrap().awaited().borrow().is_some();
    paris.until("it is remembered", |_| is_waited_for()).await;
}
