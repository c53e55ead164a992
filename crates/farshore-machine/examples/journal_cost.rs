//! What a failover costs by the length of the journal: time from opening the replica to the first read of the promoted
//! disk, and the memory of the process after that. One row per count of records.
//!
//! `cargo run --release -p farshore-machine --example journal_cost -- [DIR] [DISK_GIB]`

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::{PointChoice, Watermark};
use farshore_machine::disk::{Disk, Extent, ExtentKind};
use farshore_machine::record::{BLOCK, Op, Record};
use farshore_machine::replica::{Options, Replica};
use farshore_machine::sink::Sink;

/// Records per call, about as many as the wire brings at once.
const BATCH: u64 = 256;

/// A sparse file; nothing but a base that is never written here.
#[derive(Debug)]
struct Sparse(File, u64);

impl Disk for Sparse {
    fn size(&self) -> u64 {
        self.1
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }
    fn trim(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn zero(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn extents(&self, _: u64, len: u64, _: usize) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { len, kind: ExtentKind::Hole }])
    }
}

fn disks(dir: &Path, size: u64) -> io::Result<Vec<Arc<dyn Disk>>> {
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(dir.join("base.raw"))?;
    file.set_len(size)?;
    Ok(vec![Arc::new(Sparse(file, size))])
}

/// Resident memory of this process in MiB.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Highest resident memory so far in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn record(seq: u64, size: u64, payload: &Arc<[u8]>) -> Record {
    let block = seq.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    Record {
        seq,
        epoch: Epoch(1),
        at: Moment::from_millis(seq),
        bytes: seq * BLOCK,
        disk: 0,
        offset: block % (size / BLOCK) * BLOCK,
        len: BLOCK,
        op: Op::Write(Arc::clone(payload)),
    }
}

/// Fills a replica; returns how long that took per record in microseconds.
fn fill(dir: &Path, size: u64, records: u64) -> Result<f64, Box<dyn Error>> {
    let replica = Replica::create(&dir.join("replica"), disks(dir, size)?, Options::default())?;
    replica.begin_catch_up(Watermark::default())?;
    replica.end_catch_up(Watermark::default())?;
    let payload: Arc<[u8]> = vec![0x5a; usize::try_from(BLOCK)?].into();
    let begun = Instant::now();
    let mut seq = 0;
    while seq < records {
        let batch: Vec<Record> =
            (seq + 1..=(seq + BATCH).min(records)).map(|seq| record(seq, size, &payload)).collect();
        seq += batch.len() as u64;
        replica.append(&batch)?;
    }
    replica.sync()?;
    Ok(begun.elapsed().as_secs_f64() * 1e6 / records as f64)
}

/// Opens, promotes, reads; prints one row.
fn measure(dir: &Path, size: u64, records: u64) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    let replica = Replica::open(&dir.join("replica"), disks(dir, size)?, Options::default())?;
    let opened = begun.elapsed();
    let promoted = replica.promote(&PointChoice::Latest)?;
    let was_promoted = begun.elapsed();
    let mut bytes = vec![0; usize::try_from(BLOCK)?];
    let last = record(records, size, &bytes.clone().into());
    promoted.disks()[0].read_at(&mut bytes, last.offset)?;
    let first_read = begun.elapsed();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    println!(
        "measured records={records} open_ms={:.1} promoted_ms={:.1} first_read_ms={:.1} rss_mib={} peak_mib={}",
        ms(opened),
        ms(was_promoted),
        ms(first_read),
        resident_mib(),
        peak_mib()
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().unwrap_or_else(|| "journal-cost".to_owned()));
    let size = arguments.next().map_or(Ok(64), |gib| gib.parse::<u64>())? << 30;
    // A process of its own for each measurement, so that one does not count another's memory.
    if let Some(records) = arguments.next() {
        return measure(&dir, size, records.parse()?);
    }
    for records in [1_000, 10_000, 100_000, 1_000_000] {
        std::fs::create_dir_all(&dir)?;
        let append_us = fill(&dir, size, records)?;
        println!("appended records={records} us_per_record={append_us:.2} rss_mib={}", resident_mib());
        let gib = (size >> 30).to_string();
        let status = std::process::Command::new(std::env::current_exe()?)
            .args([dir.as_os_str(), gib.as_ref(), records.to_string().as_ref()])
            .status()?;
        std::fs::remove_dir_all(&dir)?;
        if !status.success() {
            return Err(format!("the measurement of {records} records failed: {status}").into());
        }
    }
    Ok(())
}
