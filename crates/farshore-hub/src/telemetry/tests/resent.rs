//! However devices send again, and wherever: every event is read exactly once.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What happens to two regions and a consumer that moves between them.
#[derive(Debug, Clone)]
enum Step {
    /// A device says something, in one of the regions: perhaps not for the first time.
    Send { far: bool, device: u8, id: Option<u8> },
    /// A region's log is shipped to the other one, in pieces of this size; how many of them.
    Ship { far: bool, bytes: usize, pieces: usize },
    /// The consumer reads a page.
    Read { limit: usize },
    /// The consumer goes to the other region, if that has everything that it has read.
    Move,
    /// A region is started again.
    Restart { far: bool },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<bool>(), 0..2u8, prop::option::weighted(0.9, 0..12u8))
            .prop_map(|(far, device, id)| Step::Send { far, device, id }),
        3 => (any::<bool>(), 1..1000usize, 1..4usize)
            .prop_map(|(far, bytes, pieces)| Step::Ship { far, bytes, pieces }),
        3 => (1..5usize).prop_map(|limit| Step::Read { limit }),
        1 => Just(Step::Move),
        1 => any::<bool>().prop_map(|far| Step::Restart { far }),
    ]
}

/// What an event is, for whoever compares.
fn name(event: &Event) -> String {
    format!("{} {} {:?}", event.key, event.system("$.mid").unwrap_or("-"), event.property("n"))
}

struct World {
    dirs: [TempDir; 2],
    regions: [Option<Telemetry>; 2],
    /// Everything with an id once, and everything without one as often as it was said.
    said: BTreeSet<String>,
    sent: u64,
    reads_far: bool,
    cursor: Cursor,
    read: Vec<String>,
}

const NAMES: [&str; 2] = ["oslo", "paris"];

impl World {
    fn new() -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let regions = [Some(open(&dirs[0], NAMES[0])), Some(open(&dirs[1], NAMES[1]))];
        Self {
            dirs,
            regions,
            said: BTreeSet::new(),
            sent: 0,
            reads_far: false,
            cursor: Cursor::default(),
            read: Vec::new(),
        }
    }

    fn at(&self, far: bool) -> &Telemetry {
        self.regions[usize::from(far)].as_ref().unwrap()
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Send { far, device, id } => self.send(far, device, id).await,
            Step::Ship { far, bytes, pieces } => {
                for _ in 0..pieces {
                    self.ship(far, bytes).await;
                }
            }
            Step::Read { limit } => {
                self.page(limit);
            }
            Step::Move => {
                let there = self.at(!self.reads_far).ends();
                let has_all = self
                    .cursor
                    .0
                    .iter()
                    .all(|(region, next)| there.get(region).is_some_and(|end| end >= next));
                self.reads_far ^= has_all;
            }
            Step::Restart { far } => {
                let at = usize::from(far);
                self.regions[at] = None;
                self.regions[at] = Some(open(&self.dirs[at], NAMES[at]));
            }
        }
    }

    async fn send(&mut self, far: bool, device: u8, id: Option<u8>) {
        self.sent += 1;
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        let mut event = event(&format!("pump-{device}"), &id, self.sent);
        if id.is_empty() {
            event.properties.push(("n".into(), Some(self.sent.to_string())));
        }
        self.said.insert(name(&event));
        let kept = self.at(far).append(Epoch(1 + u64::from(far)), event).await.unwrap();
        assert!(kept != Kept::Duplicate || !id.is_empty());
    }

    async fn ship(&self, far: bool, bytes: usize) -> bool {
        let (from, to, origin) = (self.at(far), self.at(!far), region(NAMES[usize::from(far)]));
        let at = to.ends().get(&origin).copied().unwrap_or(0);
        let batch = from.raw(&origin, at, bytes).unwrap();
        let next = batch.next;
        let extended = to.extend(batch.clone()).await.unwrap();
        assert_eq!(extended.next, next);
        assert_eq!(to.extend(batch).await.unwrap(), Extended { next, duplicates: 0 });
        next > at
    }

    fn page(&mut self, limit: usize) -> bool {
        let page = self.at(self.reads_far).read(&self.cursor, limit).unwrap();
        let has_more = !page.events.is_empty() || page.next != self.cursor;
        self.read.extend(page.events.iter().map(|stored| name(&stored.event)));
        self.cursor = page.next;
        has_more
    }

    /// Everything is shipped; then the consumer reads to the end, and so do two that begin now.
    async fn end(mut self) {
        for far in [false, true] {
            while self.ship(far, 5000).await {}
        }
        while self.page(3) {}
        let once = |mut read: Vec<String>, who: &str| {
            read.sort_unstable();
            assert_eq!(read, self.said.iter().cloned().collect::<Vec<_>>(), "{who}");
        };
        once(self.read.clone(), "the consumer that moved");
        for far in [false, true] {
            let (events, _) = all(self.at(far), &Cursor::default(), 4);
            once(events.iter().map(|stored| name(&stored.event)).collect(), NAMES[usize::from(far)]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_event_is_read_exactly_once(steps in prop::collection::vec(any_step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.step(step).await;
            }
            world.end().await;
        });
    }
}
