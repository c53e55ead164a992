//! How fast identities are imported, copied and merged.
//!
//! `cargo run --release -p farshore-hub --example registry_load -- [IDENTITIES] [DIR] [ORDER]`: imports so many identities from
//! lines of `devices.txt` that are made on the way, opens the registry again, changes some one by one, copies it to a second
//! region, changes one in a hundred on both sides, and merges; then again with two in a hundred, because a merge is to cost what
//! changed. Prints seconds, rates, the most memory that the process ever had, and the processor's seconds and what was written, on
//! which other load has little effect. `ORDER` is `sorted`, as an export is, or `shuffled`.

use std::io::{self, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use farshore_core::ids::{Epoch, Region};
use farshore_hub::import::import;
use farshore_hub::names::Key;
use farshore_hub::registry::{Decide, Edit, Registry};
use serde_json::json;

type AnyError = Box<dyn std::error::Error>;

/// What one request between regions carries.
const BATCH_BYTES: usize = 4 << 20;
/// One of so many identities is changed before each merge.
const CHANGED: [u64; 2] = [100, 50];
/// So many change identities one by one: without company a change waits for a sync of its own.
const AT_ONCE: [u64; 2] = [1, 64];
/// How many each of them changes.
const ONLINE_EACH: u64 = 200;

fn main() -> Result<(), AnyError> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = arguments.next().map_or_else(|| std::env::temp_dir().join("registry-load"), PathBuf::from);
    let order = match arguments.next().as_deref() {
        None | Some("sorted") => Order::Sorted,
        Some("shuffled") => Order::Shuffled,
        Some(other) => return Err(format!("{other:?} is no order: sorted or shuffled").into()),
    };
    let _ = std::fs::remove_dir_all(&dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(count, &dir, order))?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn run(count: u64, dir: &Path, order: Order) -> Result<(), AnyError> {
    let (oslo_dir, paris_dir) = (dir.join("oslo"), dir.join("paris"));
    let oslo = Registry::open(&oslo_dir, Region::parse("oslo")?)?;
    oslo.activate(Epoch(1));
    let began = Began::now();
    let lines = BufReader::with_capacity(1 << 20, Lines::new(count, order));
    let imported = import(&oslo, lines, &mut io::sink()).await?;
    say("imported", imported.created, began);
    println!("  {} MiB of file", std::fs::metadata(oslo_dir.join("registry.redb"))?.len() >> 20);
    drop(oslo);
    let began = Began::now();
    let oslo = Registry::open(&oslo_dir, Region::parse("oslo")?)?;
    println!("opened again in {:.3} s", began.wall.elapsed().as_secs_f64());
    let began = Began::now();
    let gets = count.min(100_000);
    for number in 0..gets {
        oslo.get(&key(number * (count / gets))?)?.ok_or("an identity is missing")?;
    }
    say("looked up one by one", gets, began);

    for at_once in AT_ONCE {
        let began = Began::now();
        let changed = change_online(&oslo, count, at_once).await?;
        say(&format!("changed online, {at_once} at a time,"), changed, began);
    }

    let paris = Registry::open(&paris_dir, Region::parse("paris")?)?;
    let began = Began::now();
    let copied = follow(&oslo, &paris).await?;
    say("copied to the other region", copied, began);
    let echoed = Began::now();
    follow(&paris, &oslo).await?;
    say("found to be the same there", copied, echoed);
    paris.activate(Epoch(2));
    for one_in in CHANGED {
        change(&oslo, count, one_in, 0).await?;
        change(&paris, count, one_in, one_in / 2).await?;
        let began = Began::now();
        let merged = follow(&paris, &oslo).await? + follow(&oslo, &paris).await?;
        say("merged both ways", merged, began);
    }
    println!("  {} conflicts", oslo.conflicts(usize::MAX)?.len());
    Ok(())
}

/// When something began.
struct Began {
    wall: Instant,
    processor: f64,
    written: u64,
}

impl Began {
    fn now() -> Self {
        Self { wall: Instant::now(), processor: processor_seconds(), written: written_bytes() }
    }
}

/// What this process has given the disk to write.
fn written_bytes() -> u64 {
    let counts = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let count = counts.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    count.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

/// What all threads of this process have spent.
fn processor_seconds() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

fn say(what: &str, count: u64, began: Began) {
    let seconds = began.wall.elapsed().as_secs_f64();
    println!(
        "{count} {what} in {seconds:.2} s, {:.0}/s; at most {} MiB of memory; {:.2} s of processors, {} MiB written",
        count as f64 / seconds,
        peak_mib(),
        processor_seconds() - began.processor,
        (written_bytes() - began.written) >> 20
    );
}

fn key(number: u64) -> Result<Key, AnyError> {
    Ok(Key::parse(&format!("device-{number:08}"))?)
}

/// One in so many gets a tag, from `first` on; every tenth of these also in the other region.
async fn change(registry: &Registry, count: u64, one_in: u64, first: u64) -> Result<(), AnyError> {
    let mut changes: Vec<(Key, Decide<String>)> = Vec::new();
    for number in (first..count).step_by(one_in as usize) {
        let number = if (number / one_in).is_multiple_of(10) { number - first } else { number };
        // Never what is there already.
        let patch = json!({ "site": registry.region(), "one_in": one_in });
        changes.push((key(number)?, Box::new(move |_| Ok(vec![Edit::Tags { patch, replace: false }]))));
    }
    let changed = registry.change_many(changes).await;
    changed.into_iter().find_map(Result::err).map_or(Ok(()), |error| Err(error.to_string().into()))
}

/// So many at a time change one identity each, and wait until that is on the disk.
async fn change_online(registry: &Registry, count: u64, at_once: u64) -> Result<u64, AnyError> {
    let workers = (0..at_once).map(|worker| {
        let registry = registry.clone();
        tokio::spawn(async move {
            for number in 0..ONLINE_EACH {
                let key = key((worker * ONLINE_EACH + number) % count).map_err(|error| error.to_string())?;
                let patch = json!({ "at": number });
                let decide =
                    move |_: Option<&_>| Ok::<_, String>(vec![Edit::Desired { patch, replace: false }]);
                registry.change(key, decide).await.map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(())
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await??;
    }
    Ok(at_once * ONLINE_EACH)
}

/// Joins all that is new.
async fn follow(from: &Registry, to: &Registry) -> Result<u64, AnyError> {
    let mut changed = 0;
    loop {
        let batch = from.since(to.seen(&from.region()), BATCH_BYTES)?;
        let is_last = batch.is_last();
        changed += to.join(&from.region(), batch).await?.changed as u64;
        if is_last {
            return Ok(changed);
        }
    }
}

/// The most memory that the process ever had.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 10
}

/// In which order identities are imported.
#[derive(Clone, Copy)]
enum Order {
    Sorted,
    Shuffled,
}

impl Order {
    /// The identity at this place of `count`.
    fn at(self, place: u64, count: u64) -> u64 {
        /// Larger than any count and prime, so every identity comes once.
        const PRIME: u64 = 2_654_435_761;
        match self {
            Self::Sorted => place,
            Self::Shuffled => (u128::from(place) * u128::from(PRIME) % u128::from(count)) as u64,
        }
    }
}

/// Lines of a file that nobody has to keep.
struct Lines {
    next: u64,
    count: u64,
    order: Order,
    line: Vec<u8>,
    at: usize,
}

impl Lines {
    fn new(count: u64, order: Order) -> Self {
        Self { next: 0, count, order, line: Vec::new(), at: 0 }
    }
}

impl Read for Lines {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < out.len() {
            if self.at == self.line.len() {
                if self.next == self.count {
                    break;
                }
                self.line.clear();
                self.at = 0;
                let number = self.order.at(self.next, self.count);
                let (first, second) = (base64(number), base64(!number));
                writeln!(
                    self.line,
                    r#"{{"id":"device-{number:08}","status":"enabled","authentication":{{"type":"sas","symmetricKey":{{"primaryKey":"{first}","secondaryKey":"{second}"}}}},"tags":{{"site":"s{}"}},"properties":{{"desired":{{"interval":60}},"reported":{{}}}},"capabilities":{{"iotEdge":false}}}}"#,
                    number % 100
                )?;
                self.next += 1;
            }
            let part = (self.line.len() - self.at).min(out.len() - filled);
            out[filled..filled + part].copy_from_slice(&self.line[self.at..self.at + part]);
            self.at += part;
            filled += part;
        }
        Ok(filled)
    }
}

/// A key of 32 bytes: no two are the same.
fn base64(number: u64) -> String {
    use base64::Engine as _;
    let mut bytes = [7u8; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
