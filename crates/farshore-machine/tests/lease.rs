//! A self-fencing machine acknowledges nothing past its deadline, whoever is asleep.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use farshore_core::fencing::FenceTimings;
use farshore_core::ids::{Epoch, ItemId, Region, StepKey, Token};
use farshore_core::lease::Lease;
use farshore_core::workload::{Action, BootTime, Order, Role, StepError, Watermark, Workload};
use farshore_machine::disk::{Disk, Extent};
use farshore_machine::nbd::Client;
use farshore_machine::raw::RawFile;
use farshore_machine::source::{Options, Source, boot_time};
use farshore_machine::workload::{Machines, MachinesOptions};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(20);
const CHILD: &str = "FARSHORE_TEST_LEASE_CHILD";

fn item() -> ItemId {
    ItemId::parse("machine/web-1").unwrap()
}

fn token(epoch: u64) -> Token {
    Token::new(1, Epoch(epoch))
}

fn open(dir: &Path) -> Arc<Machines> {
    let loopback = "127.0.0.1:0".parse().unwrap();
    Machines::open(MachinesOptions {
        region: Region::parse("paris").unwrap(),
        dir: dir.to_owned(),
        nbd: loopback,
        nbd_socket: None,
        replication: loopback,
        tls: None,
        secret: "secret".into(),
        source: Options::default(),
        replica: farshore_machine::replica::Options::default(),
    })
    .unwrap()
}

async fn act(machines: &Machines, epoch: u64, action: Action) -> Result<(), StepError> {
    let lease = Some(FenceTimings::FAST);
    let key = StepKey("test".into());
    let order = Order { key, item: item(), token: token(epoch), action, only_if: None, lease, by: None };
    machines.act(&order).await
}

async fn create(machines: &Machines) {
    let spec = json!({"disks": [{"name": "root", "size_bytes": 65536}]});
    act(machines, 1, Action::Create { spec }).await.unwrap();
}

fn soon(after: Duration) -> BootTime {
    boot_time().after(after)
}

fn wait_past(until: BootTime) {
    let limit = Instant::now() + DEADLINE;
    while boot_time() < until {
        assert!(Instant::now() < limit, "the boot clock stands still");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The signal stops one thread, and that one the others, a while after it was sent.
fn wait_stopped(process: u32) {
    let limit = Instant::now() + DEADLINE;
    let stopped = || {
        let mut threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        threads.all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
    };
    while !stopped() {
        assert!(Instant::now() < limit, "the child does not stop");
        std::thread::sleep(Duration::from_millis(1));
    }
}

async fn connect(machines: &Machines) -> Client {
    let seen = machines.observe(&item()).await.unwrap();
    Client::connect(&seen.endpoints[0].uri, DEADLINE).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_serves_only_while_renewed_and_again_after_an_order() {
    let dir = tempfile::tempdir().unwrap();
    let machines = open(dir.path());
    create(&machines).await;
    let seen = machines.observe(&item()).await.unwrap();
    assert!(!seen.ready && seen.warnings.iter().any(|text| text.contains("not renewed")), "{seen:?}");
    assert!(connect(&machines).await.write(0, &[1; 512], false).is_err());
    assert_eq!(machines.leased().await.unwrap()[0].until, None);
    let stale = machines.renewed(&item(), token(0), soon(DEADLINE)).await;
    assert_eq!(stale, Err(StepError::Fenced { current: token(1) }));

    let far = soon(Duration::from_secs(3));
    machines.renewed(&item(), token(1), far).await.unwrap();
    machines.renewed(&item(), token(1), BootTime(1)).await.unwrap();
    assert_eq!(machines.leased().await.unwrap()[0].until, Some(far), "a lower moment shortens nothing");
    let mut client = connect(&machines).await;
    client.write(0, &[2; 512], true).unwrap();
    machines.expired(&item(), token(1)).await.unwrap();
    assert_eq!(machines.observe(&item()).await.unwrap().role, Role::Active, "it is still good");
    wait_past(far);
    assert!(client.write(0, &[3; 512], false).is_err());
    machines.expired(&item(), token(1)).await.unwrap();
    machines.expired(&item(), token(1)).await.unwrap();
    assert_eq!(machines.known().await.unwrap(), [(item(), token(1), Role::Fenced)]);
    assert!(machines.renewed(&item(), token(1), soon(DEADLINE)).await.is_err());
    machines.stop();
    drop(machines);

    let machines = open(dir.path());
    assert_eq!(machines.known().await.unwrap(), [(item(), token(1), Role::Fenced)]);
    act(&machines, 2, Action::Serve).await.unwrap();
    assert!(!machines.observe(&item()).await.unwrap().ready);
    machines.renewed(&item(), token(2), soon(DEADLINE * 10)).await.unwrap();
    connect(&machines).await.write(0, &[4; 512], true).unwrap();
    assert!(machines.observe(&item()).await.unwrap().ready);
    machines.stop();
}

/// A disk on which everything takes a nanosecond of the test's clock.
#[derive(Debug)]
struct Slow(RawFile, Arc<AtomicU64>);

impl Slow {
    fn tick(&self) -> &RawFile {
        self.1.fetch_add(1, Ordering::SeqCst);
        &self.0
    }
}

impl Disk for Slow {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.tick().read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.tick().write_at(buf, offset)
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.tick().trim(offset, len)
    }
    fn zero(&self, offset: u64, len: u64, no_hole: bool) -> io::Result<()> {
        self.tick().zero(offset, len, no_hole)
    }
    fn sync(&self) -> io::Result<()> {
        self.tick().sync()
    }
    fn extents(&self, offset: u64, len: u64, max: usize) -> io::Result<Vec<Extent>> {
        self.tick().extents(offset, len, max)
    }
}

/// The clock passes the deadline between the acceptance of each kind of request and its reply.
#[test]
fn what_was_accepted_in_time_is_not_acknowledged_too_late() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicU64::new(1));
    let raw = RawFile::create(dir.path().join("disk"), 65536).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(Slow(raw, Arc::clone(&now)));
    let clock = Arc::clone(&now);
    let lease = Arc::new(Lease::new(Arc::new(move || BootTime(clock.load(Ordering::SeqCst)))));
    let options = Options { lease: Some(Arc::clone(&lease)), ..Options::default() };
    let source =
        Source::create(&dir.path().join("source"), vec![disk], Watermark::default(), options).unwrap();
    lease.begin(token(1), Some(FenceTimings::FAST));
    source.serve(token(1));
    let disk = source.disk(0);
    for request in 0..40_u64 {
        let until = now.load(Ordering::SeqCst) + request / 5 % 3;
        lease.renew(token(1), BootTime(until)).unwrap();
        let done = match request % 5 {
            0 => disk.write(0, &mut vec![7; 512]),
            1 => disk.read(0, &mut [0; 512]),
            2 => disk.flush(),
            3 => disk.trim(0, 512),
            _ => disk.zero(0, 512, false),
        };
        assert_eq!(done.is_ok(), now.load(Ordering::SeqCst) < until, "request {request}: {done:?}");
    }
}

/// The child of the test below: a machine in a process that can be stopped. Each line of input is a right of so many ms.
#[tokio::test(flavor = "multi_thread")]
async fn child_serves_while_it_is_told() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let machines = open(Path::new(&dir));
    create(&machines).await;
    let uri = machines.observe(&item()).await.unwrap().endpoints[0].uri.clone();
    println!("\nuri {uri}");
    for line in std::io::stdin().lock().lines() {
        let until = soon(Duration::from_millis(line.unwrap().parse().unwrap()));
        machines.renewed(&item(), token(1), until).await.unwrap();
        println!("\nuntil {}", until.0);
    }
}

fn answer(out: &mut impl BufRead, word: &str) -> String {
    loop {
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 0, "the child ended before it said {word}");
        if let Some(rest) = line.trim().strip_prefix(word) {
            return rest.trim().to_owned();
        }
    }
}

struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_that_slept_through_its_deadline_acknowledges_nothing_when_it_wakes() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child_serves_while_it_is_told", "--nocapture"]).env(CHILD, dir.path());
    let mut child = Reaped(child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut input = child.0.stdin.take().unwrap();
    let uri = answer(&mut out, "uri");
    writeln!(input, "3000").unwrap();
    let until = BootTime(answer(&mut out, "until").parse().unwrap());
    let mut client = Client::connect(&uri, DEADLINE).unwrap();
    client.write(0, &[1; 4096], false).unwrap();
    let pid = Pid::from_child(&child.0);
    kill_process(pid, Signal::STOP).unwrap();
    wait_stopped(child.0.id());
    let (queued, was_queued) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        queued.send(()).unwrap();
        client.write(4096, &[2; 4096], false)
    });
    was_queued.recv().unwrap();
    wait_past(until);
    kill_process(pid, Signal::CONT).unwrap();
    assert!(writer.join().unwrap().is_err(), "a write was acknowledged after its deadline");
}
