//! Measures the source's write path: 4 KiB random writes from a few threads, as a server would issue them, untracked,
//! tracked without a target, and replicating to a target that only counts, over loopback.
//!
//! `cargo run --release -p farshore-machine --example source_write_path [DIRECTORY]`

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farshore_core::ids::{Epoch, Region, Token};
use farshore_core::moment::Moment;
use farshore_core::workload::{PointKind, ReplicationMode, ReplicationState, Watermark};
use farshore_machine::disk::{Disk, Extent, ExtentKind};
use farshore_machine::record::{Block, Record};
use farshore_machine::sink::{Resume, Sink};
use farshore_machine::source::{Link, Options, Source};
use farshore_machine::wire::frame::{Hello, Refused};
use farshore_machine::wire::receiver::{Receiver, Sinks};

const SIZE: u64 = 1 << 30;
const THREADS: u64 = 4;
const RUN: Duration = Duration::from_secs(4);
const TOKEN: Token = Token { incarnation: 1, epoch: Epoch(1) };

/// A file, and nothing around it.
#[derive(Debug)]
struct Raw(File);

impl Disk for Raw {
    fn size(&self) -> u64 {
        SIZE
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, false)
    }
    fn zero(&self, offset: u64, len: u64, _no_hole: bool) -> io::Result<()> {
        self.0.write_all_at(&vec![0; usize::try_from(len).map_err(io::Error::other)?], offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn extents(&self, _offset: u64, len: u64, _max: usize) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { len, kind: ExtentKind::Hole }])
    }
}

/// A target that counts and remembers how late the records came.
#[derive(Debug, Default)]
struct Counting {
    last: Mutex<Watermark>,
    records: AtomicU64,
    lags: Mutex<Vec<u64>>,
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Counting {
    fn last(&self) -> std::sync::MutexGuard<'_, Watermark> {
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Sink for Counting {
    fn resume(&self) -> io::Result<Resume> {
        Ok(Resume { durable: None, catching_up: false, diverged: Vec::new() })
    }
    fn source_alive(&self, _head: Watermark, _now: Moment) {}
    fn append(&self, records: &[Record]) -> io::Result<()> {
        if let Some(record) = records.last() {
            *self.last() = record.watermark();
            self.records.fetch_add(records.len() as u64, Ordering::Relaxed);
            let lag = now().saturating_sub(record.at.0);
            self.lags.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(lag);
        }
        Ok(())
    }
    fn begin_catch_up(&self, from: Watermark) -> io::Result<()> {
        *self.last() = from;
        Ok(())
    }
    fn blocks(&self, _blocks: &[Block]) -> io::Result<u64> {
        Ok(0)
    }
    fn end_catch_up(&self, at: Watermark) -> io::Result<()> {
        *self.last() = at;
        Ok(())
    }
    fn point(&self, _: Watermark, _: Moment, _: PointKind, _: Option<&str>) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<Watermark> {
        Ok(*self.last())
    }
}

#[derive(Debug)]
struct One(Arc<Counting>);

impl Sinks for One {
    fn open(&self, _hello: &Hello) -> Result<Arc<dyn Sink>, Refused> {
        Ok(Arc::clone(&self.0) as Arc<dyn Sink>)
    }
    fn check_token(&self, _item: &str, _token: Token) -> Result<(), Refused> {
        Ok(())
    }
}

/// Writes for a while from several threads; prints and returns how many a second.
fn measure(what: &str, write: impl Fn(u64, &mut Vec<u8>) -> io::Result<()> + Sync) -> io::Result<()> {
    let start = Instant::now();
    let count = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let write = &write;
                scope.spawn(move || -> io::Result<u64> {
                    let (mut state, mut count) = (thread + 1, 0);
                    while start.elapsed() < RUN {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let mut data = vec![(state >> 40) as u8; 4096];
                        data[..8].copy_from_slice(&state.to_le_bytes());
                        write((state >> 30) % (SIZE / 4096) * 4096, &mut data)?;
                        count += 1;
                    }
                    Ok(count)
                })
            })
            .collect();
        workers.into_iter().try_fold(0, |sum, worker| {
            Ok::<u64, io::Error>(sum + worker.join().map_err(|_| io::Error::other("a writer panicked"))??)
        })
    })?;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    println!("{what:<36} {rate:>9.0} writes/s {:>7.2} us each, all threads", 1e6 / rate);
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("source-write-path-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = run(&dir);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn run(dir: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    let path = dir.join("disk");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    for offset in (0..SIZE).step_by(1 << 20) {
        file.write_all_at(&vec![1; 1 << 20], offset)?;
    }
    let disk: Arc<dyn Disk> = Arc::new(Raw(file));
    measure("plain file", |offset, data| disk.write_at(data, offset))?;
    let source = Source::create(
        &dir.join("source"),
        vec![Arc::clone(&disk)],
        Watermark::default(),
        Options::default(),
    )?;
    source.serve(TOKEN);
    let export = source.disk(0);
    measure("source, not protected", |offset, data| export.write(offset, data))?;
    source.track()?;
    measure("source, tracked, no target (first)", |offset, data| export.write(offset, data))?;
    measure("source, tracked, no target (again)", |offset, data| export.write(offset, data))?;
    let sink = Arc::new(Counting::default());
    let receiver =
        Receiver::start(TcpListener::bind("127.0.0.1:0")?, Arc::new(One(Arc::clone(&sink))), None)?;
    source.replicate(Link {
        target: Region::parse("oslo")?,
        address: receiver.address().to_string(),
        item: "machine/bench".into(),
        token: TOKEN,
        mode: ReplicationMode::Async,
        secret: String::new(),
        full: false,
    })?;
    while source.replication().is_none_or(|it| it.state != ReplicationState::Streaming) {
        std::thread::yield_now();
    }
    measure("source, replicating over loopback", |offset, data| export.write(offset, data))?;
    while !source.drained() {
        std::thread::yield_now();
    }
    let mut lags = sink.lags.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    lags.sort_unstable();
    let at = |share: usize| lags.get(lags.len() * share / 100).copied().unwrap_or_default();
    let (records, moved) =
        (sink.records.load(Ordering::Relaxed), source.replication().map(|it| it.moved_bytes));
    println!(
        "{records} records sent, {} MiB moved; lag of a batch p50 {} us, p99 {} us",
        moved.unwrap_or_default() >> 20,
        at(50),
        at(99)
    );
    Ok(())
}
