//! The files: `app.log` is written; full, it becomes `app.log.1`, and the oldest goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::NAME;
use crate::host::shared::now;

/// Of one file.
pub(super) const SIZE_MAX: u64 = 10 * 1024 * 1024;
/// All files of an app together take 50 MiB.
pub(super) const FILES_MAX: u32 = 5;
/// What an app may print for long, in bytes a second: far more than anybody reads, and little of a disk's time.
const RATE: u64 = 1024 * 1024;
/// What it may print at once, after it was quiet.
const BURST: u64 = 8 * 1024 * 1024;

/// What an app prints is for its operators.
const MODE: u32 = 0o600;

/// See the module. All its errors are told to the node's own log: an app goes on when its log cannot be written.
#[derive(Debug)]
pub(super) struct LogFile {
    dir: PathBuf,
    file: Option<File>,
    size: u64,
    size_max: u64,
    allowance: Allowance,
    left_out: u64,
}

impl LogFile {
    /// Opened when there is something to write.
    pub(super) fn new(dir: &Path) -> Self {
        let allowance = Allowance { bytes: BURST, at: Instant::now() };
        Self { dir: dir.to_owned(), file: None, size: 0, size_max: SIZE_MAX, allowance, left_out: 0 }
    }

    /// So many more lines were left out.
    pub(super) fn left_out(&mut self, lines: u64) {
        self.left_out += lines;
    }

    /// Appends `count` whole lines, or leaves them out when there are too many.
    pub(super) fn append(&mut self, text: &str, count: u64, at: Instant) {
        if !self.allowance.take(length(text), at) {
            self.left_out += count;
            return;
        }
        self.say_left_out();
        self.write(text);
    }

    /// Says how much is missing here, if something is.
    pub(super) fn say_left_out(&mut self) {
        let lines = std::mem::take(&mut self.left_out);
        if lines > 0 {
            self.write(&format!("{} - host {lines} lines left out: too much was printed at once\n", now()));
        }
    }

    fn write(&mut self, text: &str) {
        if let Err(error) = self.try_write(text) {
            tracing::warn!(%error, dir = %self.dir.display(), "an app's log cannot be written");
            self.file = None;
        }
    }

    fn try_write(&mut self, text: &str) -> io::Result<()> {
        if self.size + length(text) > self.size_max && self.size > 0 {
            self.file = None;
            rotate(&self.dir)?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                fs::create_dir_all(&self.dir)?;
                let file =
                    OpenOptions::new().append(true).create(true).mode(MODE).open(self.dir.join(NAME))?;
                self.size = file.metadata()?.len();
                closed.insert(file)
            }
        };
        file.write_all(text.as_bytes())?;
        self.size += length(text);
        Ok(())
    }
}

/// `app.log` becomes `app.log.1`, that `app.log.2`, and so on.
fn rotate(dir: &Path) -> io::Result<()> {
    for number in (0..FILES_MAX - 1).rev() {
        match fs::rename(path(dir, number), path(dir, number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The file of `number`; 0 is the newest.
pub(super) fn path(dir: &Path, number: u32) -> PathBuf {
    match number {
        0 => dir.join(NAME),
        number => dir.join(format!("{NAME}.{number}")),
    }
}

fn length(text: &str) -> u64 {
    text.len() as u64
}

/// How much may be written now: it grows with time, up to a limit.
#[derive(Debug)]
struct Allowance {
    bytes: u64,
    at: Instant,
}

impl Allowance {
    fn take(&mut self, bytes: u64, at: Instant) -> bool {
        let grown = at.saturating_duration_since(self.at).min(Duration::from_secs(BURST / RATE));
        let grown = RATE * u64::try_from(grown.as_millis()).unwrap_or(u64::MAX) / 1000;
        if grown > 0 {
            self.bytes = (self.bytes + grown).min(BURST);
            self.at = at;
        }
        let is_allowed = self.bytes >= bytes;
        if is_allowed {
            self.bytes -= bytes;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(dir: &Path, size_max: u64) -> LogFile {
        LogFile { size_max, ..LogFile::new(dir) }
    }

    #[test]
    fn gigabytes_take_a_few_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = small(dir.path(), 10_000);
        let (start, line) = (Instant::now(), format!("{}\n", "x".repeat(999)));
        for second in 0..500 {
            log.append(&line, 1, start + Duration::from_secs(second));
        }
        let sizes: Vec<u64> =
            (0..FILES_MAX).map(|number| fs::metadata(path(dir.path(), number)).unwrap().len()).collect();
        assert!(sizes.iter().all(|size| *size <= 10_000), "{sizes:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), FILES_MAX as usize);
    }

    #[test]
    fn a_flood_is_cut_off_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path());
        let (now, line) = (Instant::now(), format!("{}\n", "x".repeat(1023)));
        for _ in 0..20_000 {
            log.append(&line, 1, now);
        }
        let kept = BURST / 1024;
        assert_eq!(log.left_out, 20_000 - kept);
        log.append("quiet again\n", 1, now + Duration::from_secs(1));
        let text = fs::read_to_string(path(dir.path(), 0)).unwrap();
        let end: Vec<&str> = text.lines().rev().take(2).collect();
        assert_eq!(end[0], "quiet again");
        assert!(
            end[1].ends_with(&format!(
                " - host {} lines left out: too much was printed at once",
                20_000 - kept
            ))
        );
    }

    #[test]
    fn a_second_writer_goes_on_where_the_first_ended() {
        let dir = tempfile::tempdir().unwrap();
        small(dir.path(), 10).append("123456789\n", 1, Instant::now());
        small(dir.path(), 10).append("next\n", 1, Instant::now());
        assert_eq!(fs::read_to_string(path(dir.path(), 0)).unwrap(), "123456789\nnext\n");
    }
}
