//! SIGKILL of a process that writes: the log knows every acknowledged write, and every byte that may differ.
#![expect(clippy::unwrap_used, reason = "a test: what fails must stop it")]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use farshore_core::ids::{Epoch, Token};
use farshore_core::workload::Watermark;
use farshore_machine::disk::{Disk, Extent, ExtentKind};
use farshore_machine::source::{Options, Source};

const CHILD: &str = "FARSHORE_TEST_SOURCE_CHILD";
const SIZES: [u64; 2] = [1_000_003, 300_000];
const THREADS: u64 = 4;

#[derive(Debug)]
struct FileDisk {
    file: File,
    size: u64,
}

impl Disk for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }
    fn trim(&self, offset: u64, len: u64) -> io::Result<()> {
        self.zero(offset, len, false)
    }
    fn zero(&self, offset: u64, len: u64, _no_hole: bool) -> io::Result<()> {
        self.file.write_all_at(&vec![0; len as usize], offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn extents(&self, _offset: u64, len: u64, _max: usize) -> io::Result<Vec<Extent>> {
        Ok(vec![Extent { len, kind: ExtentKind::Data }])
    }
}

fn disks(dir: &Path) -> Vec<Arc<dyn Disk>> {
    let open = |(index, size): (usize, &u64)| {
        let path = dir.join(format!("disk-{index}"));
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(*size).unwrap();
        Arc::new(FileDisk { file, size: *size }) as Arc<dyn Disk>
    };
    SIZES.iter().enumerate().map(open).collect()
}

/// The child: writes from several threads until it is killed, and says after each write that it was acknowledged.
#[test]
fn child_writes_until_killed() {
    let Ok(dir) = std::env::var(CHILD) else { return };
    let dir = Path::new(&dir);
    let options = Options { log_segment_bytes: 64 * 1000, ..Options::default() };
    let source = match Source::open(&dir.join("source"), disks(dir), options.clone()) {
        Ok(source) => source,
        Err(_) => Source::create(&dir.join("source"), disks(dir), Watermark::default(), options).unwrap(),
    };
    source.serve(Token::new(1, Epoch(1)));
    source.track().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let source = &source;
            scope.spawn(move || {
                let mut state = thread + u64::from(std::process::id()) * 16;
                loop {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let disk = (state >> 20) as usize % 2;
                    let len = (state >> 24) % 9_000 + 1;
                    let offset = (state >> 40) % (SIZES[disk] - len);
                    let data: Vec<u8> = (0..len).map(|index| (state >> (index % 7)) as u8).collect();
                    source.disk(disk).write(offset, &mut data.clone()).unwrap();
                    writeln!(io::stdout(), "acknowledged {len}").unwrap();
                }
            });
        }
    });
}

/// Runs the child, kills it after `count` acknowledgements; returns how many writes and bytes were acknowledged.
fn run_child(dir: &Path, count: u64) -> (u64, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_until_killed", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut writes, mut bytes) = (0, 0);
    let mut killed = false;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(len) = line.unwrap().strip_prefix("acknowledged ") {
            writes += 1;
            bytes += len.parse::<u64>().unwrap_or_default();
        }
        if writes >= count && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    (writes, bytes)
}

#[test]
fn after_sigkill_the_count_is_what_was_acknowledged_and_no_byte_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writes, mut bytes, mut lives) = (0, 0, 0);
    for count in [20, 1, 2_500] {
        let (more, more_bytes) = run_child(dir.path(), count);
        (writes, bytes, lives) = (writes + more, bytes + more_bytes, lives + 1);
        let source = Source::open(&dir.path().join("source"), disks(dir.path()), Options::default()).unwrap();
        let (loss, exact, ranges) = source.lost_after(Watermark::default()).unwrap();
        assert!(exact);
        // Each life ends with at most one write per thread done and not yet told.
        let untold = lives * THREADS;
        assert!((writes..=writes + untold).contains(&loss.writes), "{writes} told, {loss:?}");
        assert!((bytes..=bytes + untold * 9_000).contains(&loss.bytes), "{bytes} told, {loss:?}");
        for (index, disk) in disks(dir.path()).iter().enumerate() {
            let mut whole = vec![0; disk.size() as usize];
            disk.read_at(&mut whole, 0).unwrap();
            for range in ranges.iter().filter(|range| usize::from(range.disk) == index) {
                whole[range.offset as usize..(range.offset + range.len) as usize].fill(0);
            }
            assert!(whole.iter().all(|byte| *byte == 0), "disk {index} differs where nobody knows");
        }
    }
}
