//! Regions in memory that keep the contract of `Workload`: small state machines that count the effects of each key, and
//! fail where a test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use farshore::engine::{Control, Options, RegionRecord};
use farshore_core::agents::Agents;
use farshore_core::command::Command;
use farshore_core::fencing::OnControlLoss;
use farshore_core::ids::{Epoch, ItemId, JobId, Region, StepKey, Token};
use farshore_core::job::{Job, JobState};
use farshore_core::lifecycle::Item;
use farshore_core::moment::Moment;
use farshore_core::workload::{
    Action, Divergence, DrillView, Endpoint, Loss, Observation, Order, Point, PointChoice, PointKind,
    Promotion, Replication, ReplicationMode, ReplicationState, Role, StepError, Watermark,
};
use farshore_store::MemStore;
use serde_json::{Value, json};

/// What one region remembers of one item.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) token: Token,
    pub(crate) role: Role,
    pub(crate) watermark: Watermark,
    pub(crate) points: Vec<Point>,
    pub(crate) replicates_to: Option<Region>,
    pub(crate) drill: Option<Point>,
    pub(crate) promotion: Option<Promotion>,
    pub(crate) divergence: Option<Divergence>,
}

#[derive(Debug, Default)]
struct Place {
    down: bool,
    copies: BTreeMap<ItemId, Copy>,
    done: BTreeSet<StepKey>,
}

/// What a test makes go wrong.
#[derive(Debug, Default)]
struct Faults {
    /// `/STEP/HALF`, the end of an order's key: answered with a fatal error, nothing done.
    fatal_at: Option<String>,
    /// The first answer to each key is lost after the effect.
    lose_answers: bool,
    lost: BTreeSet<StepKey>,
    /// Nothing is sent from source to target.
    link_down: bool,
}

/// What was asked of a region.
pub(crate) type Question = (Region, Value);

#[derive(Debug, Default)]
struct World {
    places: BTreeMap<Region, Place>,
    faults: Faults,
    effects: BTreeMap<StepKey, u32>,
    reached: u32,
    /// What was asked, oldest first.
    questions: Vec<Question>,
    /// The answer to each sort of question.
    answers: BTreeMap<String, Result<Value, StepError>>,
}

/// All regions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sim {
    world: Arc<Mutex<World>>,
    /// Where the control plane is.
    here: Option<Region>,
}

impl Sim {
    fn new(names: &[&str]) -> Self {
        let sim = Self::default();
        for name in names {
            sim.world().places.insert(region(name), Place::default());
        }
        sim
    }
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }
    pub(crate) fn set_down(&self, name: &str, down: bool) {
        self.world().places.get_mut(&region(name)).unwrap().down = down;
    }
    pub(crate) fn set_link_down(&self, down: bool) {
        self.world().faults.link_down = down;
    }
    pub(crate) fn lose_answers(&self) {
        self.world().faults.lose_answers = true;
    }
    pub(crate) fn fail_at(&self, key_end: &str) {
        let mut world = self.world();
        world.faults.fatal_at = Some(key_end.to_owned());
        world.reached = 0;
    }
    pub(crate) fn mend(&self) {
        self.world().faults = Faults::default();
    }
    /// How often the failing order was given.
    pub(crate) fn reached(&self) -> u32 {
        self.world().reached
    }
    /// From now on questions of this sort (`{"ask": SORT}`) are answered so.
    pub(crate) fn answer(&self, sort: &str, answer: Result<Value, StepError>) {
        self.world().answers.insert(sort.to_owned(), answer);
    }
    /// What was asked since the last time.
    pub(crate) fn questions(&self) -> Vec<Question> {
        std::mem::take(&mut self.world().questions)
    }
    /// Effects by key.
    pub(crate) fn effects(&self) -> BTreeMap<StepKey, u32> {
        self.world().effects.clone()
    }
    pub(crate) fn copy(&self, name: &str, item: &ItemId) -> Option<Copy> {
        self.world().places.get(&region(name)).unwrap().copies.get(item).cloned()
    }
    pub(crate) fn change(&self, name: &str, item: &ItemId, change: impl FnOnce(&mut Copy)) {
        let mut world = self.world();
        change(world.places.get_mut(&region(name)).unwrap().copies.get_mut(item).unwrap());
    }
    /// Writes at every active copy.
    pub(crate) fn write(&self, item: &ItemId, writes: u64) {
        let mut world = self.world();
        for place in world.places.values_mut() {
            let copy = place.copies.get_mut(item).filter(|copy| copy.role == Role::Active);
            if let Some(copy) = copy {
                copy.watermark.seq += writes;
                copy.watermark.bytes += 4096 * writes;
            }
        }
        world.ship(item);
    }
    /// What matters of all regions: role, replication, drill, point.
    pub(crate) fn picture(&self, item: &ItemId) -> Vec<String> {
        let world = self.world();
        let copies = world.places.iter().filter_map(|(name, place)| Some((name, place.copies.get(item)?)));
        copies
            .map(|(name, copy)| {
                let point = copy.promotion.as_ref().map(|promotion| &promotion.point.id);
                let to = copy.replicates_to.as_ref().map(Region::as_str);
                format!("{name}: {:?} to {to:?} drill {} point {point:?}", copy.role, copy.drill.is_some())
            })
            .collect()
    }
}

impl World {
    /// Everything that is connected arrives.
    fn ship(&mut self, item: &ItemId) {
        if self.faults.link_down {
            return;
        }
        let links: Vec<(Region, Watermark)> = self
            .places
            .values()
            .filter(|place| !place.down)
            .filter_map(|place| {
                let copy = place.copies.get(item)?;
                Some((copy.replicates_to.clone()?, copy.watermark))
            })
            .collect();
        for (to, watermark) in links {
            let Some(place) = self.places.get_mut(&to).filter(|place| !place.down) else { continue };
            let Some(copy) = place.copies.get_mut(item).filter(|copy| copy.role == Role::Target) else {
                continue;
            };
            copy.watermark = watermark;
            if copy.points.iter().all(|point| point.watermark.seq != watermark.seq) {
                copy.points.push(point_at(watermark, None));
            }
        }
    }

    fn act(&mut self, region: &Region, order: &Order) -> Result<(), StepError> {
        let ship_to = self.streams(region, &order.item);
        let place = self.places.get_mut(region).unwrap();
        if place.down {
            return Err(no_answer(region));
        }
        if let Some(end) = &self.faults.fatal_at
            && order.key.0.ends_with(end)
        {
            self.reached += 1;
            return Err(StepError::Fatal { what: "made to fail".to_owned() });
        }
        if place.done.contains(&order.key) {
            return Ok(());
        }
        if let Some(copy) = place.copies.get(&order.item)
            && order.token < copy.token
        {
            return Err(StepError::Fenced { current: copy.token });
        }
        place.done(order)?;
        if let Action::MarkPoint { name } = &order.action {
            let copy = place.copies.get(&order.item).unwrap();
            let (to, point) = (copy.replicates_to.clone(), point_at(copy.watermark, Some(name)));
            assert!(ship_to, "only a streaming source marks points");
            let target = self.places.get_mut(&to.unwrap()).unwrap();
            target.copies.get_mut(&order.item).unwrap().points.push(point);
        }
        self.places.get_mut(region).unwrap().done.insert(order.key.clone());
        *self.effects.entry(order.key.clone()).or_default() += 1;
        self.ship(&order.item);
        if self.faults.lose_answers && self.faults.lost.insert(order.key.clone()) {
            return Err(no_answer(region));
        }
        Ok(())
    }

    fn streams(&self, region: &Region, item: &ItemId) -> bool {
        let copy = self.places.get(region).and_then(|place| place.copies.get(item));
        let to = copy.and_then(|copy| copy.replicates_to.as_ref());
        let target = to.and_then(|to| self.places.get(to)).filter(|place| !place.down);
        let target = target.and_then(|place| place.copies.get(item));
        !self.faults.link_down && target.is_some_and(|copy| copy.role == Role::Target)
    }

    fn observe(&mut self, region: &Region, item: &ItemId) -> Result<Observation, StepError> {
        self.ship(item);
        let streams = self.streams(region, item);
        let place = self.places.get(region).unwrap();
        if place.down {
            return Err(no_answer(region));
        }
        let copy = place.copies.get(item).ok_or(StepError::Unknown)?;
        let replication = copy.replicates_to.clone().map(|target| Replication {
            target,
            state: if streams { ReplicationState::Streaming } else { ReplicationState::Disconnected },
            behind_bytes: 0,
            total_bytes: 0,
            moved_bytes: 0,
            differed_bytes: 0,
            acknowledged: copy.watermark,
            lag: Loss::default(),
            note: None,
        });
        Ok(Observation {
            token: copy.token,
            role: copy.role,
            ready: true,
            shape: json!({"disks": []}),
            watermark: copy.watermark,
            endpoints: vec![Endpoint { name: "root".to_owned(), uri: format!("nbd://{region}/root") }],
            replication,
            points: copy.points.clone(),
            drill: copy.drill.clone().map(|point| DrillView { point, endpoints: Vec::new() }),
            promotion: copy.promotion.clone(),
            folding_bytes: 0,
            divergence: copy.divergence.clone(),
            warnings: Vec::new(),
            cannot_promote: None,
            start: None,
        })
    }
}

impl Place {
    fn done(&mut self, order: &Order) -> Result<(), StepError> {
        let fresh = |role, seq| Copy {
            token: order.token,
            role,
            watermark: Watermark { epoch: order.token.epoch, seq, bytes: seq * 4096, at: Moment(seq) },
            points: Vec::new(),
            replicates_to: None,
            drill: None,
            promotion: None,
            divergence: None,
        };
        match &order.action {
            Action::Create { .. } => {
                let old = self.copies.insert(order.item.clone(), fresh(Role::Active, 10));
                assert!(old.is_none(), "created twice");
            }
            Action::PrepareTarget { .. } => {
                let old = self.copies.insert(order.item.clone(), fresh(Role::Target, 0));
                assert!(old.is_none(), "prepared twice");
            }
            Action::Delete => drop(self.copies.remove(&order.item).ok_or(StepError::Unknown)?),
            action => {
                let copy = self.copies.get_mut(&order.item).ok_or(StepError::Unknown)?;
                copy.token = order.token;
                copy.done(action)?;
            }
        }
        Ok(())
    }
}

impl Copy {
    fn done(&mut self, action: &Action) -> Result<(), StepError> {
        match action {
            Action::Serve => self.role = Role::Active,
            Action::Replicate { target, .. } => self.replicates_to = Some(target.clone()),
            Action::StopReplicating => self.replicates_to = None,
            Action::Fence { lost_after } => self.fence(*lost_after)?,
            Action::Promote { point } | Action::ChangePoint { point } => self.promote(point)?,
            Action::Commit => {
                self.promotion = None;
                self.points.clear();
            }
            Action::TestFailover { point } => self.drill = Some(self.choose(point)?),
            Action::CleanUp => self.drill = None,
            Action::Follow { .. } => {
                self.role = Role::Target;
                self.replicates_to = None;
                self.points.clear();
            }
            Action::DropDivergence => self.divergence = None,
            Action::Drain | Action::MarkPoint { .. } => {}
            Action::Create { .. } | Action::PrepareTarget { .. } | Action::Delete => {
                unreachable!("done by the place")
            }
        }
        Ok(())
    }

    fn fence(&mut self, lost_after: Option<Watermark>) -> Result<(), StepError> {
        if self.role == Role::Target {
            return Err(StepError::Fatal { what: "it follows already".to_owned() });
        }
        self.role = Role::Fenced;
        self.divergence = lost_after.map(|after| Divergence {
            after,
            loss: loss(self.watermark.seq - after.seq, self.watermark.bytes - after.bytes),
            exact: true,
            endpoints: kept_at(self.watermark.seq - after.seq),
        });
        Ok(())
    }

    fn promote(&mut self, choice: &PointChoice) -> Result<(), StepError> {
        let point = self.choose(choice)?;
        self.role = Role::Active;
        self.drill = None;
        let last = self.watermark;
        let (writes, bytes) = (last.seq - point.watermark.seq, last.bytes - point.watermark.bytes);
        self.promotion = Some(Promotion {
            point,
            source_last_known: last,
            source_last_seen: Moment(1),
            at_failover: loss(writes, bytes),
        });
        Ok(())
    }

    fn choose(&self, choice: &PointChoice) -> Result<Point, StepError> {
        let found = match choice {
            PointChoice::Latest | PointChoice::LatestProcessed => self.points.last(),
            PointChoice::Id(id) => self.points.iter().find(|point| point.id == *id),
            PointChoice::At(at) => self.points.iter().rev().find(|point| point.at <= *at),
        };
        found.cloned().ok_or_else(|| StepError::Fatal { what: format!("no point {choice:?}") })
    }
}

fn loss(writes: u64, bytes: u64) -> Loss {
    Loss { writes, bytes, seconds: if writes > 0 { 1.1 } else { 0.0 } }
}

/// Nothing is offered where nothing was lost.
fn kept_at(writes: u64) -> Vec<Endpoint> {
    let endpoint = Endpoint { name: "root".to_owned(), uri: "nbd://lost/root".to_owned() };
    if writes > 0 { vec![endpoint] } else { Vec::new() }
}

fn point_at(watermark: Watermark, name: Option<&str>) -> Point {
    let id = name.map_or_else(|| format!("p{}", watermark.seq), |name| format!("n-{name}"));
    let kind = if name.is_some() { PointKind::Named } else { PointKind::Crash };
    Point { id, watermark, at: Moment(watermark.seq), kind, name: name.map(str::to_owned) }
}

fn no_answer(region: &Region) -> StepError {
    StepError::Retry { what: format!("{region}: connection refused") }
}

#[async_trait]
impl Agents for Sim {
    async fn known(&self, region: &Region) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        let world = self.world();
        let place = world.places.get(region).unwrap();
        if place.down {
            return Err(no_answer(region));
        }
        Ok(place.copies.iter().map(|(id, copy)| (id.clone(), copy.token, copy.role)).collect())
    }
    async fn observe(&self, region: &Region, item: &ItemId) -> Result<Observation, StepError> {
        self.world().observe(region, item)
    }
    async fn act(&self, region: &Region, order: &Order) -> Result<(), StepError> {
        self.world().act(region, order)
    }
    async fn ask(&self, region: &Region, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        let mut world = self.world();
        let place = world.places.get(region).unwrap();
        if place.down {
            return Err(no_answer(region));
        }
        if question["ask"] == "room" {
            return world.answers.get("room").cloned().unwrap_or_else(|| Ok(json!({ "no_room": null })));
        }
        assert!(place.copies.contains_key(item), "{region} has no {item}");
        world.questions.push((region.clone(), question.clone()));
        let sort = question["ask"].as_str().unwrap();
        world
            .answers
            .get(sort)
            .cloned()
            .unwrap_or_else(|| Err(StepError::Fatal { what: format!("no {sort} here") }))
    }
    fn here(&self) -> Option<&Region> {
        self.here.as_ref()
    }
}

/// The rest of the engine's world: one store, one item that all tests use.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) store: MemStore,
    pub(crate) sim: Sim,
    pub(crate) item: ItemId,
    pub(crate) regions: &'static [&'static str],
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::of(&["oslo", "paris"])
    }

    /// With as many failure domains as fencing needs.
    pub(crate) fn with_three_regions() -> Self {
        Self::of(&["bergen", "oslo", "paris"])
    }

    /// A hub of a kind that two regions may serve at once, and a control plane in the region `here`.
    pub(crate) fn with_hub_seen_from(here: &str) -> Self {
        let mut bench = Self { item: ItemId::parse("realtime/chat").unwrap(), ..Self::new() };
        bench.sim.here = Some(region(here));
        bench
    }

    fn of(regions: &'static [&'static str]) -> Self {
        let item = ItemId::parse("machine/web-1").unwrap();
        Self { store: MemStore::new(), sim: Sim::new(regions), item, regions }
    }

    pub(crate) async fn control(&self, options: Options) -> Control {
        let regions = self.regions.iter().map(|name| RegionRecord {
            name: region(name),
            agent_url: String::new(),
            replication: format!("{name}:1"),
            realtime: format!("{name}:2"),
            since: Moment(1),
        });
        let (store, sim) = (Arc::new(self.store.clone()), Arc::new(self.sim.clone()));
        Control::start(store, sim, regions.collect(), options).await.unwrap()
    }

    pub(crate) async fn item(&self, control: &Control) -> Item {
        control.item(&self.item).await.unwrap().unwrap()
    }

    /// Asks, and waits until the job rests.
    pub(crate) async fn run(&self, control: &Control, command: Command) -> Job {
        let job = control.submit(&self.item, command, "ann", None).await.unwrap();
        rested(control, &job.id).await
    }

    /// Runs all commands; each must succeed.
    pub(crate) async fn play(&self, control: &Control, commands: &[Command]) {
        for command in commands {
            let job = self.run(control, command.clone()).await;
            assert_eq!(job.state, JobState::Succeeded, "{command:?}: {:?}", job.notes);
        }
    }

    /// Waits until the item is as wanted.
    pub(crate) async fn until(&self, control: &Control, wanted: impl Fn(&Item) -> bool) -> Item {
        let revision = control.revision().await.unwrap();
        let store: &dyn farshore_core::store::Store = &self.store;
        let mut watch = store.watch("items/", revision).await.unwrap();
        loop {
            let item = self.item(control).await;
            if wanted(&item) {
                return item;
            }
            watch.next().await.unwrap();
        }
    }
}

/// Waits until the job has ended or is stuck.
pub(crate) async fn rested(control: &Control, id: &JobId) -> Job {
    job_until(control, id, |job| job.state.is_terminal() || matches!(job.state, JobState::Stuck { .. })).await
}

/// Waits until the job is as wanted.
pub(crate) async fn job_until(control: &Control, id: &JobId, wanted: impl Fn(&Job) -> bool) -> Job {
    let mut watch = control.watch_jobs(control.revision().await.unwrap()).await.unwrap();
    loop {
        let job = control.job(id).await.unwrap().unwrap();
        if wanted(&job) {
            return job;
        }
        watch.next().await.unwrap();
    }
}

pub(crate) fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

/// Looks rarely, so that only jobs act.
pub(crate) fn jobs_only() -> Options {
    Options { health_every: Duration::from_secs(86_400), ..Options::default() }
}

pub(crate) fn create() -> Command {
    Command::Create {
        region: region("paris"),
        spec: json!({}),
        on_control_loss: OnControlLoss::Hold,
        automatic: false,
    }
}
pub(crate) fn create_fencing() -> Command {
    Command::Create {
        region: region("paris"),
        spec: json!({}),
        on_control_loss: OnControlLoss::Fence,
        automatic: false,
    }
}
pub(crate) fn protect() -> Command {
    Command::Protect { target: region("oslo"), mode: ReplicationMode::Async }
}
pub(crate) fn test_failover() -> Command {
    Command::TestFailover { point: PointChoice::Latest }
}
pub(crate) fn failover() -> Command {
    Command::Failover { planned: false, point: PointChoice::Latest, source_is_down: false }
}
pub(crate) fn planned() -> Command {
    Command::Failover { planned: true, point: PointChoice::Latest, source_is_down: false }
}
pub(crate) fn source_is_down() -> Command {
    Command::Failover { planned: false, point: PointChoice::Latest, source_is_down: true }
}
pub(crate) fn change_point(id: &str) -> Command {
    Command::ChangePoint { point: PointChoice::Id(id.to_owned()) }
}
pub(crate) fn token(epoch: u64) -> Token {
    Token::new(1, Epoch(epoch))
}

pub(crate) fn adopt(active: &str) -> Command {
    Command::Adopt { region: region(active), above: Epoch::default(), others_are_down: false }
}
