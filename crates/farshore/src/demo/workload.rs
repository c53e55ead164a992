//! The workload of the demo and of the crash tests: numbered, checksummed records on two disks over NBD, and a log of what was acknowledged.
//!
//! It stands for a client that Farshore knows nothing about. Its log is the truth that Farshore's reports are held against.
//! Records are written one after the other, alternately to the disks, so that "a prefix of the acknowledged writes over
//! both disks" is a statement about one row of numbers.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use farshore_machine::nbd::Client;

/// A record lies at the start of a slot of this size.
const SLOT: u64 = 64 * 1024;
/// Length of an ordinary record: a database page.
const PAGE: usize = 4096;
/// Length of a record of the batch: as much as a slot holds.
const BATCH: usize = 64 * 1024;
/// Magic number, number, length, checksum.
const HEADER: usize = 24;
const MAGIC: u32 = 0xFA25_403E;
/// A flush follows every so many records.
const FLUSH_EVERY: u64 = 8;
/// Pause after an ordinary record: the workload is a client, not a benchmark.
const PACE: Duration = Duration::from_micros(800);
/// Pause after a record of the batch: about 60 MB/s, so that a short outage leaves a loss that can be looked at.
const BATCH_PACE: Duration = Duration::from_millis(1);
/// A disk that does not answer for this long is lost.
const DEADLINE: Duration = Duration::from_secs(5);

/// One record as the client remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its number; each is used once.
    pub number: u64,
    /// Length in bytes.
    pub len: usize,
    /// Microseconds since 1970 when the acknowledgement was seen; `None`: it never was.
    pub acknowledged_at: Option<u64>,
}

impl Written {
    fn place(self, sizes: [u64; 2]) -> (usize, u64) {
        let disk = usize::try_from(self.number % 2).unwrap_or(0);
        let slots = sizes[disk] / SLOT;
        // Scattered, as a database writes; odd multiplier, so that all slots are visited.
        (disk, (self.number / 2).wrapping_mul(2_654_435_761) % slots * SLOT)
    }

    /// The bytes of the record: a header and a payload that follows from the number.
    fn bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        let mut state = self.number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for word in bytes.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.number.to_le_bytes());
        bytes[12..20].copy_from_slice(&(self.len as u64).to_le_bytes());
        let sum = crc32c::crc32c(&bytes[HEADER..]);
        bytes[20..24].copy_from_slice(&sum.to_le_bytes());
        bytes
    }
}

/// Everything that the client ever asked for and still believes in, in order. The last one may be unacknowledged.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// In the order of writing.
    pub records: Vec<Written>,
}

/// What an image of both disks holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The image is exactly what the first `kept` records of the history leave behind.
    pub is_prefix: bool,
    /// How many records.
    pub kept: usize,
    /// First byte that is not as expected, for the message.
    pub first_wrong: Option<(usize, u64)>,
}

impl History {
    /// Acknowledged records after the first `kept`: the truth about a loss. Records, bytes, and seconds between the last
    /// acknowledged kept and the last acknowledged lost one.
    pub fn lost_after(&self, kept: usize) -> (u64, u64, f64) {
        let lost: Vec<&Written> =
            self.records.iter().skip(kept).filter(|written| written.acknowledged_at.is_some()).collect();
        let last_kept = self.records.iter().take(kept).rev().find_map(|written| written.acknowledged_at);
        let seconds = match (last_kept, lost.last().and_then(|written| written.acknowledged_at)) {
            (Some(kept), Some(lost)) => Duration::from_micros(lost.saturating_sub(kept)).as_secs_f64(),
            _ => 0.0,
        };
        (lost.len() as u64, lost.iter().map(|written| written.len as u64).sum(), seconds)
    }

    /// Number of records up to the last acknowledged one.
    pub fn acknowledged(&self) -> usize {
        self.records
            .iter()
            .rposition(|written| written.acknowledged_at.is_some())
            .map_or(0, |index| index + 1)
    }

    /// Compares both disks, byte by byte, with what a prefix of the history leaves behind. Of a last write that nobody was told
    /// of a process that was killed may have made a part: then it does not count, and what is in its place does not matter.
    pub fn check(&self, images: &[Vec<u8>; 2]) -> Verdict {
        let kept = self.newest(images);
        let verdict = self.compare(images, kept, None);
        match self.records.split_last() {
            Some((last, before))
                if !verdict.is_prefix && last.acknowledged_at.is_none() && kept >= before.len() =>
            {
                self.compare(images, before.len(), Some(*last))
            }
            _ => verdict,
        }
    }

    /// How many records there are up to the newest whose beginning is on the disks.
    fn newest(&self, images: &[Vec<u8>; 2]) -> usize {
        let index: HashMap<u64, usize> =
            self.records.iter().enumerate().map(|(index, written)| (written.number, index)).collect();
        let mut kept = 0;
        for image in images {
            for slot in image.chunks(PAGE.max(SLOT as usize)) {
                let number = record_number(slot);
                kept = kept.max(number.and_then(|number| index.get(&number)).map_or(0, |index| index + 1));
            }
        }
        kept
    }

    fn compare(&self, images: &[Vec<u8>; 2], kept: usize, torn: Option<Written>) -> Verdict {
        let sizes = [images[0].len() as u64, images[1].len() as u64];
        let place = |written: &Written| {
            let (disk, offset) = written.place(sizes);
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            (disk, start..start + written.len)
        };
        let mut expected = [vec![0_u8; images[0].len()], vec![0_u8; images[1].len()]];
        for written in &self.records[..kept] {
            let (disk, range) = place(written);
            expected[disk][range].copy_from_slice(&written.bytes());
        }
        if let Some((disk, range)) = torn.as_ref().map(place) {
            expected[disk][range.clone()].copy_from_slice(&images[disk][range]);
        }
        let first_wrong = (0..2).find_map(|disk| {
            let wrong = expected[disk].iter().zip(&images[disk]).position(|(want, have)| want != have)?;
            Some((disk, wrong as u64))
        });
        Verdict { is_prefix: first_wrong.is_none(), kept, first_wrong }
    }
}

fn record_number(slot: &[u8]) -> Option<u64> {
    let magic = slot.first_chunk::<4>()?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return None;
    }
    slot.get(4..12)?.try_into().ok().map(u64::from_le_bytes)
}

/// Reads both disks whole.
pub fn read_images(uris: &[String; 2]) -> io::Result<[Vec<u8>; 2]> {
    let read = |uri: &str| -> io::Result<Vec<u8>> {
        let mut client = Client::connect(uri, DEADLINE)?;
        let size = usize::try_from(client.size()).map_err(io::Error::other)?;
        let mut image = vec![0; size];
        for (index, chunk) in image.chunks_mut(1 << 20).enumerate() {
            client.read((index as u64) << 20, chunk)?;
        }
        client.disconnect()?;
        Ok(image)
    };
    Ok([read(&uris[0])?, read(&uris[1])?])
}

/// Says where the disks are served now; asked again after each interruption.
pub type Resolver = Arc<dyn Fn() -> Option<[String; 2]> + Send + Sync>;

/// A running client.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    history: Mutex<History>,
    stop: AtomicBool,
    batch: AtomicBool,
    /// Gives up at the first lost connection (its host went down with the region) instead of coming back.
    mortal: AtomicBool,
    interruptions: Mutex<Vec<Duration>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Writer {
    /// Starts to write after the records of `history`, numbering on from `next`.
    pub fn start(history: History, next: u64, resolver: Resolver) -> Self {
        let shared = Arc::new(Shared {
            history: Mutex::new(history),
            stop: AtomicBool::new(false),
            batch: AtomicBool::new(false),
            mortal: AtomicBool::new(false),
            interruptions: Mutex::new(Vec::new()),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || run(&theirs, next, &resolver));
        Self { shared, thread: Some(thread) }
    }

    /// From now on writes large records, as a nightly batch does.
    pub fn start_batch(&self) {
        self.shared.batch.store(true, Ordering::SeqCst);
    }

    /// From now on a lost connection ends the client.
    pub fn be_mortal(&self) {
        self.shared.mortal.store(true, Ordering::SeqCst);
    }

    /// What was written so far.
    pub fn history(&self) -> History {
        lock(&self.shared.history).clone()
    }

    /// Records acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        lock(&self.shared.history).acknowledged()
    }

    /// Longest time without an answer since the start.
    pub fn longest_interruption(&self) -> Duration {
        lock(&self.shared.interruptions).iter().copied().max().unwrap_or_default()
    }

    /// Waits for the record under way, flushes, and ends.
    pub fn stop(mut self) -> History {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.join();
        self.history()
    }

    /// Waits until a mortal client has noticed its end.
    pub fn wait(mut self) -> History {
        self.join();
        self.history()
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.join();
    }
}

struct Disks {
    clients: [Client; 2],
    sizes: [u64; 2],
}

fn connect(resolver: &Resolver) -> Option<Disks> {
    let uris = resolver()?;
    let clients = [Client::connect(&uris[0], DEADLINE).ok()?, Client::connect(&uris[1], DEADLINE).ok()?];
    let sizes = [clients[0].size(), clients[1].size()];
    Some(Disks { clients, sizes })
}

fn run(shared: &Shared, first: u64, resolver: &Resolver) {
    let mut next = first;
    let mut disks: Option<Disks> = None;
    let mut silent_since = std::time::Instant::now();
    while !shared.stop.load(Ordering::SeqCst) {
        let Some(open) = &mut disks else {
            if shared.mortal.load(Ordering::SeqCst) {
                return;
            }
            disks = connect(resolver);
            if disks.is_none() {
                std::thread::sleep(Duration::from_millis(20));
            }
            continue;
        };
        match write_one(shared, open, next) {
            Ok(()) => {
                lock(&shared.interruptions).push(silent_since.elapsed());
                silent_since = std::time::Instant::now();
                next += 1;
                std::thread::sleep(if shared.batch.load(Ordering::SeqCst) { BATCH_PACE } else { PACE });
            }
            // Not acknowledged: the same record is written again, wherever the disks are then.
            Err(_) => disks = None,
        }
    }
    if let Some(open) = &mut disks {
        let _ = open.clients.iter_mut().try_for_each(Client::flush);
    }
}

fn write_one(shared: &Shared, disks: &mut Disks, number: u64) -> io::Result<()> {
    let len = if shared.batch.load(Ordering::SeqCst) { BATCH } else { PAGE };
    let mut written = Written { number, len, acknowledged_at: None };
    {
        let mut history = lock(&shared.history);
        match history.records.last_mut() {
            // A repeat keeps its first length: the earlier attempt may have reached the disk.
            Some(last) if last.number == number => written.len = last.len,
            _ => history.records.push(written),
        }
    }
    let (disk, offset) = written.place(disks.sizes);
    disks.clients[disk].write(offset, &written.bytes(), false)?;
    if let Some(last) = lock(&shared.history).records.last_mut() {
        last.acknowledged_at = Some(now_micros());
    }
    if number.is_multiple_of(FLUSH_EVERY) {
        disks.clients.iter_mut().try_for_each(Client::flush)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(count: u64) -> History {
        let record = |number| Written { number, len: PAGE, acknowledged_at: Some(number * 1_000_000) };
        History { records: (1..=count).map(record).collect() }
    }

    fn images(history: &History, kept: usize) -> [Vec<u8>; 2] {
        let sizes = [SLOT * 5, SLOT * 3 + 100];
        let mut images = sizes.map(|size| vec![0; usize::try_from(size).unwrap()]);
        for written in &history.records[..kept] {
            let (disk, offset) = written.place(sizes);
            let start = usize::try_from(offset).unwrap();
            images[disk][start..start + written.len].copy_from_slice(&written.bytes());
        }
        images
    }

    #[test]
    fn every_prefix_is_recognised() {
        let history = history(40);
        for kept in 0..=40 {
            let verdict = history.check(&images(&history, kept));
            assert_eq!(verdict, Verdict { is_prefix: true, kept, first_wrong: None });
        }
    }

    #[test]
    fn a_missing_middle_record_a_torn_one_and_a_foreign_byte_are_recognised() {
        let history = history(40);
        let mut hole = history.clone();
        hole.records.remove(37);
        assert!(!history.check(&images(&hole, 39)).is_prefix);
        let mut torn = images(&history, 40);
        let (disk, offset) = history.records[39].place([SLOT * 5, SLOT * 3 + 100]);
        torn[disk][usize::try_from(offset).unwrap() + 2048..][..2048].fill(0);
        assert!(!history.check(&torn).is_prefix);
        let mut unanswered = history.clone();
        unanswered.records[39].acknowledged_at = None;
        assert_eq!(unanswered.check(&torn), Verdict { is_prefix: true, kept: 39, first_wrong: None });
        assert_eq!(unanswered.check(&images(&history, 40)).kept, 40);
        let mut further = torn.clone();
        let (disk, offset) = history.records[38].place([SLOT * 5, SLOT * 3 + 100]);
        further[disk][usize::try_from(offset).unwrap() + 2048..][..2048].fill(0);
        assert!(!unanswered.check(&further).is_prefix, "one that was answered");
        let mut foreign = images(&history, 40);
        *foreign[1].last_mut().unwrap() = 1;
        assert!(!history.check(&foreign).is_prefix);
    }

    #[test]
    fn a_loss_is_counted_from_acknowledgements() {
        let mut history = history(10);
        history.records[9].acknowledged_at = None;
        assert_eq!(history.lost_after(7), (2, 8192, 2.0));
        assert_eq!(history.lost_after(10), (0, 0, 0.0));
        assert_eq!(history.acknowledged(), 9);
    }
}
