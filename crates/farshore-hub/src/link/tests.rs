use std::convert::Infallible;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::names::Key;
use crate::record::{Auth, Edit, NewDevice};
use crate::telemetry::{Event, SEGMENT_BYTES_MIN, TelemetryOptions};
use async_trait::async_trait;
use bytes::Bytes;

/// One region of a hub, whose line to the other can be cut.
struct Side {
    region: Region,
    registry: Registry,
    telemetry: Telemetry,
    duties: Arc<Duties>,
    link: Arc<OnceLock<Link>>,
    noted: Arc<Noted>,
    dir: tempfile::TempDir,
}

/// Calls the other side in this process.
#[derive(Debug, Clone)]
struct Line {
    from: Region,
    to: Arc<OnceLock<Link>>,
    is_cut: Arc<AtomicBool>,
}

#[async_trait]
impl Pull for Line {
    async fn pull(&self, _: &Region, _: &ItemId, request: Vec<u8>) -> Result<Vec<u8>, StepError> {
        let cut = || StepError::Retry { what: "cut".to_owned() };
        if self.is_cut.load(Ordering::SeqCst) {
            return Err(cut());
        }
        let answer = self.to.get().ok_or_else(cut)?.answer(&self.from, &request).await?;
        if self.is_cut.load(Ordering::SeqCst) { Err(cut()) } else { Ok(answer) }
    }
}

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn token(epoch: u64) -> Token {
    Token::new(1, Epoch(epoch))
}

fn open(name: &str, role: Role) -> Side {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("registry"), region(name)).unwrap();
    let options = TelemetryOptions { segment_bytes: SEGMENT_BYTES_MIN, ..TelemetryOptions::default() };
    let telemetry = Telemetry::open(&dir.path().join("telemetry"), region(name), options).unwrap();
    registry.activate(Epoch(1));
    let duties = Arc::new(Duties::new(Duty { token: token(1), role }));
    let noted = Arc::new(Noted::new(dir.path().to_owned()));
    Side { region: region(name), registry, telemetry, duties, link: Arc::default(), noted, dir }
}

struct Pair {
    paris: Side,
    oslo: Side,
    is_cut: Arc<AtomicBool>,
}

impl Pair {
    /// Paris serves, oslo follows.
    fn start() -> Self {
        let pair = Self {
            paris: open("paris", Role::Active),
            oslo: open("oslo", Role::Target),
            is_cut: Arc::default(),
        };
        pair.connect(&pair.paris, &pair.oslo);
        pair.connect(&pair.oslo, &pair.paris);
        pair
    }

    fn connect(&self, own: &Side, other: &Side) {
        let line =
            Line { from: own.region.clone(), to: Arc::clone(&other.link), is_cut: Arc::clone(&self.is_cut) };
        let link = Link::spawn(LinkOptions {
            item: ItemId::parse("hub/fleet").unwrap(),
            here: own.region.clone(),
            partner: other.region.clone(),
            registry: own.registry.clone(),
            telemetry: own.telemetry.clone(),
            far: Arc::new(line),
            duties: Arc::clone(&own.duties),
            before: 1_000_000,
            epoch: Epoch(1),
            noted: Arc::clone(&own.noted),
            mode: ReplicationMode::Sync,
        });
        own.link.set(link).unwrap();
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

impl Side {
    async fn device(&self, id: &str) {
        let auth = Auth::Sas { primary: "a2V5".to_owned(), secondary: "a2V5".to_owned() };
        let create = vec![Edit::Create(NewDevice::with(auth))];
        self.registry.change(Key::parse(id).unwrap(), |_| Ok::<_, Infallible>(create)).await.unwrap();
    }

    async fn disable(&self, id: &str) {
        let edit = vec![Edit::Status { enabled: false, reason: String::new() }];
        self.registry.change(Key::parse(id).unwrap(), |_| Ok::<_, Infallible>(edit)).await.unwrap();
    }

    async fn tag(&self, id: &str, place: &str) {
        let edit = vec![Edit::Tags { patch: serde_json::json!({ "place": place }), replace: false }];
        self.registry.change(Key::parse(id).unwrap(), |_| Ok::<_, Infallible>(edit)).await.unwrap();
    }

    async fn says(&self, id: &str, message: &str, epoch: u64) {
        let event = Event {
            key: Key::parse(id).unwrap(),
            generation: "1".into(),
            enqueued: now(),
            system: vec![("$.mid".to_owned(), message.to_owned())],
            properties: Vec::new(),
            body: Bytes::from_static(b"{}"),
        };
        self.telemetry.append(Epoch(epoch), event).await.unwrap();
    }

    /// Says so much that it fills several files.
    async fn says_much(&self, count: u64) {
        let body = Bytes::from(vec![b'x'; 500]);
        let kept: Vec<_> = (0..count)
            .map(|number| {
                let event = Event {
                    key: Key::parse("pump").unwrap(),
                    generation: "1".into(),
                    enqueued: now(),
                    system: vec![("$.mid".to_owned(), number.to_string())],
                    properties: Vec::new(),
                    body: body.clone(),
                };
                self.telemetry.append(Epoch(1), event)
            })
            .collect();
        for kept in kept {
            kept.await.unwrap();
        }
    }

    /// Spoils a few bytes in the middle of the second file of paris's log here.
    fn spoil(&self, at: u64) {
        let mut files: Vec<_> = std::fs::read_dir(self.dir.path().join("telemetry/paris"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        let file = std::fs::OpenOptions::new().write(true).open(&files[1]).unwrap();
        file.write_all_at(&[0xff; 8], at).unwrap();
    }

    fn link(&self) -> &Link {
        self.link.get().unwrap()
    }

    fn knows(&self, id: &str) -> bool {
        self.registry.get(&Key::parse(id).unwrap()).unwrap().is_some()
    }

    fn heard(&self) -> Vec<String> {
        let page = self.telemetry.read(&Cursor::default(), 1000).unwrap();
        page.events.iter().map(|stored| stored.event.system("$.mid").unwrap().to_owned()).collect()
    }

    fn becomes(&self, role: Role, epoch: u64) {
        self.registry.activate(Epoch(epoch));
        self.duties.set(Duty { token: token(epoch), role });
    }
}

async fn until(what: &str, check: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < give_up, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_active_region_has_the_other_one_has_soon() {
    let pair = Pair::start();
    for number in 0..50 {
        pair.paris.device(&format!("pump-{number}")).await;
        pair.paris.says("pump-1", &number.to_string(), 1).await;
    }
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    assert!(pair.oslo.knows("pump-0") && pair.oslo.knows("pump-49"));
    assert_eq!(pair.oslo.heard().len(), 50);
    assert_eq!(pair.paris.link().behind(), Behind::default());
    assert_eq!(pair.paris.link().phase(), ReplicationState::Streaming);
    until("oslo is complete", || pair.oslo.link().status().complete_at.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_while_the_line_was_cut_is_counted_and_comes_later() {
    let pair = Pair::start();
    pair.paris.device("pump").await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    pair.cut(true);
    pair.paris.disable("pump").await;
    pair.paris.says("pump", "a", 1).await;
    assert!(pair.paris.link().drained(Duration::from_millis(50)).await.is_err(), "nothing is confirmed");
    let behind = pair.paris.link().behind();
    assert_eq!((behind.changes, behind.events, behind.records()), (1, 1, 2));
    assert!(behind.oldest.is_some() && behind.bytes > 0);
    until("silence is noticed", || pair.paris.link().phase() == ReplicationState::Disconnected).await;
    pair.cut(false);
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    assert_eq!(pair.oslo.heard(), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_gets_the_rest_of_a_source_that_was_fenced_under_a_token_it_was_not_told() {
    let pair = Pair::start();
    pair.paris.device("pump").await;
    until("oslo follows", || pair.oslo.knows("pump")).await;
    pair.cut(true);
    pair.paris.device("late").await;
    pair.paris.becomes(Role::Fenced, 2);
    pair.cut(false);
    until("oslo has the rest", || pair.oslo.knows("late")).await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_come_together_when_they_are_merged_and_not_before() {
    let pair = Pair::start();
    pair.paris.device("pump").await;
    pair.paris.device("valve").await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    pair.cut(true);
    // What paris acknowledges in its last moments, oslo never had; the device sends one of the two again.
    pair.paris.device("late").await;
    pair.paris.says("pump", "sent-again", 1).await;
    pair.paris.says("pump", "only-paris", 1).await;
    pair.oslo.becomes(Role::Active, 2);
    pair.oslo.disable("valve").await;
    pair.oslo.device("new").await;
    pair.oslo.says("pump", "sent-again", 2).await;
    pair.cut(false);
    // Paris is still under its old token, and then fenced: nothing flows by itself.
    until("paris hears of the higher token", || *pair.paris.duties.watch().borrow() == token(2)).await;
    pair.paris.becomes(Role::Fenced, 2);
    until("oslo knows", || pair.oslo.link().status().role == Some(Role::Fenced)).await;
    assert!(!pair.oslo.knows("late") && !pair.paris.knows("new"));

    let plan = pair.oslo.link().merge(true).await.unwrap();
    let report = plan.report.unwrap();
    assert_eq!((report.created, plan.late_events), (1, 2), "{report}");
    assert!(!pair.oslo.knows("late"), "a plan changes nothing");
    let done = pair.oslo.link().merge(false).await.unwrap();
    assert_eq!((done.late_events, done.duplicates), (2, 1));
    assert!(pair.oslo.knows("late"));
    let heard = pair.oslo.heard();
    assert_eq!(heard.iter().filter(|message| *message == "sent-again").count(), 1, "{heard:?}");
    assert!(heard.contains(&"only-paris".to_owned()));
    let again = pair.oslo.link().merge(false).await.unwrap();
    assert_eq!((again.late_events, again.report.unwrap().created), (0, 0), "done again it does nothing");

    pair.paris.becomes(Role::Target, 2);
    pair.oslo.link().drained(Duration::from_secs(20)).await.unwrap();
    assert!(pair.paris.knows("new"));
    let valve = pair.paris.registry.get(&Key::parse("valve").unwrap()).unwrap().unwrap();
    assert!(!valve.enabled, "what was revoked on the far shore stays revoked");
    assert_eq!(pair.paris.heard().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_lost_its_disk_gets_everything_back() {
    let mut pair = Pair::start();
    pair.paris.device("pump").await;
    pair.paris.says("pump", "a", 1).await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    pair.oslo.becomes(Role::Active, 2);
    pair.oslo.says("pump", "b", 2).await;
    // A new paris, with nothing; oslo is told of it as of any target.
    let old = std::mem::replace(&mut pair.paris, open("paris", Role::Target));
    drop(old);
    pair.paris.becomes(Role::Target, 2);
    let link = Arc::<OnceLock<Link>>::default();
    let line = Line {
        from: pair.oslo.region.clone(),
        to: Arc::clone(&pair.paris.link),
        is_cut: Arc::clone(&pair.is_cut),
    };
    let oslo = LinkOptions { far: Arc::new(line), ..pair.oslo.link().shared.options.clone() };
    assert!(link.set(Link::spawn(oslo)).is_ok());
    pair.oslo.link = link;
    pair.connect(&pair.paris, &pair.oslo);
    pair.oslo.link().drained(Duration::from_secs(20)).await.unwrap();
    assert!(pair.paris.knows("pump"));
    assert_eq!(pair.paris.heard().len(), 2);
    // It goes on where its earlier life ended, and not over it.
    pair.paris.becomes(Role::Active, 3);
    pair.paris.says("pump", "c", 3).await;
    assert_eq!(pair.paris.telemetry.ends()[&region("paris")], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_rubbish_are_refused() {
    let pair = Pair::start();
    let stranger = pair.paris.link().answer(&region("rome"), &[]).await.unwrap_err().to_string();
    assert!(stranger.contains("is shared with oslo here, not with rome"), "{stranger}");
    for rubbish in [&[][..], &[9, 1], &[1, 2, 3]] {
        let refused = pair.paris.link().answer(&region("oslo"), rubbish).await.unwrap_err().to_string();
        assert!(refused.contains("other region of the hub"), "{refused}");
    }
    pair.paris.duties.set(Duty { token: token(5), role: Role::Active });
    until("oslo hears of the higher token", || *pair.oslo.duties.watch().borrow() == token(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_source_is_still_drained_by_a_target_that_was_told_nothing_yet() {
    let pair = Pair::start();
    pair.paris.device("pump").await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    pair.cut(true);
    pair.paris.says("pump", "last words", 1).await;
    pair.paris.becomes(Role::Fenced, 2);
    pair.cut(false);
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    assert_eq!(pair.oslo.heard(), ["last words"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disk_has_spoilt_in_either_region_is_mended_from_the_other() {
    let pair = Pair::start();
    pair.paris.says_much(400).await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    let whole = pair.paris.heard();
    assert_eq!(whole.len(), 400);
    pair.cut(true);
    pair.paris.spoil(20_000);
    pair.oslo.spoil(40_000);
    // One is met by who reads, the other by who looks.
    pair.paris.telemetry.read(&Cursor(pair.paris.telemetry.starts()), 400).unwrap();
    for side in [&pair.paris, &pair.oslo] {
        until("the damage is met", || {
            side.telemetry.check_another().unwrap();
            !side.telemetry.damages().is_empty()
        })
        .await;
        assert!(side.telemetry.read(&Cursor::default(), 1000).is_ok(), "what is before it is given");
    }
    pair.cut(false);
    for side in [&pair.paris, &pair.oslo] {
        until("it is mended", || side.telemetry.damages().is_empty()).await;
        assert_eq!(side.heard(), whole);
        assert_eq!(side.link().status().lost, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_spoilt_in_both_regions_is_said_and_the_rest_is_mended() {
    let pair = Pair::start();
    pair.paris.says_much(400).await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    for side in [&pair.paris, &pair.oslo] {
        side.spoil(20_000);
    }
    pair.paris.spoil(50_000);
    for side in [&pair.paris, &pair.oslo] {
        until("it is said", || {
            side.telemetry.check_another().unwrap();
            side.telemetry.damages().len() == 1 && side.link().status().lost.len() == 1
        })
        .await;
    }
    let said = pair.paris.link().status().lost.remove(0);
    assert!(said.contains("oslo does not give them") && said.contains("restore that file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_on_after_what_was_spoilt_before_it_had_it() {
    let pair = Pair::start();
    pair.paris.device("pump").await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    pair.cut(true);
    pair.paris.says_much(400).await;
    pair.paris.spoil(20_000);
    let behind = pair.paris.link().behind().events;
    assert_eq!(behind, 400);
    pair.cut(false);
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    assert_eq!(pair.oslo.telemetry.ends()[&pair.paris.region], 400);
    let damage = pair.paris.telemetry.damages().remove(0);
    let (mut cursor, mut missed, mut heard) = (Cursor::default(), 0, 0);
    while cursor.next(&pair.paris.region) < 400 {
        let page = pair.oslo.telemetry.read(&cursor, 1000).unwrap();
        missed += page.missed.values().sum::<u64>();
        heard += page.events.len() as u64;
        cursor = page.next;
    }
    assert_eq!((missed, heard), (damage.next - damage.offset, 400 - (damage.next - damage.offset)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_had_changed_is_noted_in_both_once() {
    let pair = Pair::start();
    pair.paris.device("pump").await;
    pair.paris.link().drained(Duration::from_secs(20)).await.unwrap();
    pair.cut(true);
    pair.oslo.becomes(Role::Active, 2);
    pair.oslo.tag("pump", "north").await;
    pair.paris.tag("pump", "south").await;
    pair.paris.becomes(Role::Fenced, 2);
    pair.paris.becomes(Role::Target, 2);
    pair.cut(false);
    pair.oslo.link().drained(Duration::from_secs(20)).await.unwrap();
    for side in [&pair.paris, &pair.oslo] {
        until("it is noted", || side.noted.latest(9).unwrap().0 == 1).await;
        let (_, lines) = side.noted.latest(9).unwrap();
        let line = &lines[0];
        assert_eq!(
            (&line["winner"]["value"], &line["losers"][0]["value"]),
            (&"north".into(), &"south".into())
        );
    }
    // Another change of the same device, which is still contested: nothing new.
    pair.oslo.disable("pump").await;
    pair.oslo.link().drained(Duration::from_secs(20)).await.unwrap();
    assert_eq!(pair.paris.noted.latest(9).unwrap().0, 1);
    pair.oslo.tag("pump", "west").await;
    pair.oslo.link().drained(Duration::from_secs(20)).await.unwrap();
    assert_eq!(pair.paris.registry.conflicts(9).unwrap(), [], "it was decided");
    assert_eq!(pair.paris.noted.latest(9).unwrap().0, 1, "and is remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_region_is_waited_for_while_it_keeps_up_and_not_while_it_is_away() {
    let pair = Pair::start();
    pair.paris.says("pump", "a", 1).await;
    let awaited = pair.paris.link().awaited();
    until("it is waited for", || *awaited.borrow() == Some(1)).await;
    assert_eq!(pair.oslo.heard(), ["a"], "what is confirmed is there");
    pair.cut(true);
    pair.paris.says("pump", "b", 1).await;
    assert!((*awaited.borrow()).is_none_or(|upto| upto < 2), "nobody confirms what nobody has");
    until("it is not waited for", || awaited.borrow().is_none()).await;
    pair.cut(false);
    until("it is waited for again", || *awaited.borrow() == Some(2)).await;
}
