//! How fast identities are imported, copied and merged.
//!
//! `cargo run --release -p farshore-hub --example registry_load -- [IDENTITIES] [DIR]`: imports so many identities from lines of
//! `devices.txt` that are made on the way, opens the registry again, copies it to a second region, changes one in a hundred
//! on both sides, and merges; then again with two in a hundred, because a merge is to cost what changed. Prints seconds, rates, and the most memory that the process ever had.

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

fn main() -> Result<(), AnyError> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let dir = arguments.next().map_or_else(|| std::env::temp_dir().join("registry-load"), PathBuf::from);
    let _ = std::fs::remove_dir_all(&dir);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(run(count, &dir))?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn run(count: u64, dir: &Path) -> Result<(), AnyError> {
    let (oslo_dir, paris_dir) = (dir.join("oslo"), dir.join("paris"));
    let oslo = Registry::open(&oslo_dir, Region::parse("oslo")?)?;
    oslo.activate(Epoch(1));
    let began = Instant::now();
    let lines = BufReader::with_capacity(1 << 20, Lines::new(count));
    let imported = import(&oslo, lines, &mut io::sink()).await?;
    say("imported", imported.created, began);
    println!("  {} MiB of file", std::fs::metadata(oslo_dir.join("registry.redb"))?.len() >> 20);
    drop(oslo);
    let began = Instant::now();
    let oslo = Registry::open(&oslo_dir, Region::parse("oslo")?)?;
    println!("opened again in {:.3} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let gets = count.min(100_000);
    for number in 0..gets {
        oslo.get(&key(number * (count / gets))?)?.ok_or("an identity is missing")?;
    }
    say("looked up one by one", gets, began);

    let paris = Registry::open(&paris_dir, Region::parse("paris")?)?;
    let began = Instant::now();
    let copied = follow(&oslo, &paris).await?;
    say("copied to the other region", copied, began);
    let echoed = Instant::now();
    follow(&paris, &oslo).await?;
    say("found to be the same there", copied, echoed);
    paris.activate(Epoch(2));
    for one_in in CHANGED {
        change(&oslo, count, one_in, 0).await?;
        change(&paris, count, one_in, one_in / 2).await?;
        let began = Instant::now();
        let merged = follow(&paris, &oslo).await? + follow(&oslo, &paris).await?;
        say("merged both ways", merged, began);
    }
    println!("  {} conflicts", oslo.conflicts(usize::MAX)?.len());
    Ok(())
}

fn say(what: &str, count: u64, began: Instant) {
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{count} {what} in {seconds:.2} s, {:.0}/s; at most {} MiB of memory",
        count as f64 / seconds,
        peak_mib()
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

/// Lines of a file that nobody has to keep.
struct Lines {
    next: u64,
    count: u64,
    line: Vec<u8>,
    at: usize,
}

impl Lines {
    fn new(count: u64) -> Self {
        Self { next: 0, count, line: Vec::new(), at: 0 }
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
                let number = self.next;
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
