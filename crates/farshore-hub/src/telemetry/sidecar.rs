//! A small text file beside a log: lines of numbers and names, each ending in its own checksum.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::error::TelemetryError;

/// Lines that were durable when `append` returned, in the order they were appended.
#[derive(Debug)]
pub(super) struct Sidecar {
    path: PathBuf,
    file: File,
    end: u64,
}

/// What was in the file.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) lines: Vec<String>,
    /// Lines that do not read as they were written, in words.
    pub(super) damaged: Vec<String>,
}

impl Sidecar {
    /// Opens or makes it. A line without its end was being written at a crash and is cut.
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), TelemetryError> {
        let disk = |error| TelemetryError::disk("open", path)(error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(disk)?;
        let bytes = std::fs::read(path).map_err(disk)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        file.set_len(whole as u64).map_err(disk)?;
        sync_name(path)?;
        let mut loaded = Loaded::default();
        for (number, line) in String::from_utf8_lossy(&bytes[..whole]).lines().enumerate() {
            match line.rsplit_once(' ') {
                Some((text, sum)) if sum == checksum(text) => loaded.lines.push(text.to_owned()),
                _ => loaded.damaged.push(format!("line {} of {} is damaged", number + 1, path.display())),
            }
        }
        Ok((Self { path: path.to_owned(), file, end: whole as u64 }, loaded))
    }

    /// Replaces all lines, so that a crash leaves either the old ones or the new.
    pub(super) fn rewrite(&mut self, lines: &[String]) -> Result<(), TelemetryError> {
        let unready = self.path.with_extension("new");
        let disk = |error| TelemetryError::disk("write", &unready)(error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unready);
        let file = file.map_err(disk)?;
        let text = text(lines);
        file.write_all_at(text.as_bytes(), 0).and_then(|()| file.sync_all()).map_err(disk)?;
        std::fs::rename(&unready, &self.path).map_err(disk)?;
        self.file = file;
        self.end = text.len() as u64;
        sync_name(&self.path)
    }

    /// Adds lines; they are durable on return. After an error none of them is there.
    pub(super) fn append(&mut self, lines: &[String]) -> Result<(), TelemetryError> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = text(lines);
        let written = self.file.write_all_at(text.as_bytes(), self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // What is left of it would be cut at the next start, or be overwritten by the next line.
            let _ = self.file.set_len(self.end);
            return Err(TelemetryError::disk("write", &self.path)(error));
        }
        self.end += text.len() as u64;
        Ok(())
    }
}

fn text(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line} {}", checksum(line)).expect("a String takes everything");
    }
    text
}

/// Makes the name of a file durable.
fn sync_name(path: &Path) -> Result<(), TelemetryError> {
    let Some(dir) = path.parent() else { return Ok(()) };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(TelemetryError::disk("sync", dir))
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32c::crc32c(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_a_torn_one_is_cut_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oslo.late");
        let (mut sidecar, loaded) = Sidecar::open(&path).unwrap();
        assert!(loaded.lines.is_empty());
        sidecar.append(&["1 2".into(), "3 4".into(), "5 6".into()]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(b"7 8 00");
        bytes[13] = b'9';
        std::fs::write(&path, bytes).unwrap();
        let (mut sidecar, loaded) = Sidecar::open(&path).unwrap();
        assert_eq!(loaded.lines, ["1 2", "5 6"]);
        assert!(loaded.damaged[0].starts_with("line 2 of "), "{:?}", loaded.damaged);
        sidecar.append(&["9 9".into()]).unwrap();
        assert_eq!(Sidecar::open(&path).unwrap().1.lines, ["1 2", "5 6", "9 9"]);
        sidecar.rewrite(&["9 9".into()]).unwrap();
        sidecar.append(&["11 12".into()]).unwrap();
        assert_eq!(Sidecar::open(&path).unwrap().1.lines, ["9 9", "11 12"]);
    }
}
