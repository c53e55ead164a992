//! The last lines of a log, over its files.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::file::{FILES_MAX, path};

/// More than anybody scrolls through.
const LINES_MAX: usize = 10_000;
/// A file is read from its end in pieces of this size.
const PIECE: u64 = 64 * 1024;

/// The last `lines` lines that the app in `dir` (its `log_dir`) printed, the newest last; fewer when there are not so many. At
/// most 10,000. What cannot be read is left out.
pub async fn tail(dir: &Path, lines: usize) -> Vec<String> {
    let dir = PathBuf::from(dir);
    tokio::task::spawn_blocking(move || tail_of(&dir, lines.min(LINES_MAX))).await.unwrap_or_default()
}

fn tail_of(dir: &Path, lines: usize) -> Vec<String> {
    let mut newest_first = Vec::new();
    for number in 0..FILES_MAX {
        if newest_first.len() >= lines {
            break;
        }
        let text = end_of(&path(dir, number), lines - newest_first.len()).unwrap_or_default();
        newest_first.extend(text.lines().rev().map(str::to_owned));
    }
    newest_first.truncate(lines);
    newest_first.reverse();
    newest_first
}

/// The end of a file, with at least its last `lines` lines.
fn end_of(path: &Path, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    let (mut start, mut bytes) = (size, Vec::new());
    while start > 0 && bytes.iter().filter(|byte| **byte == b'\n').count() <= lines {
        let piece = PIECE.min(start);
        start -= piece;
        file.seek(SeekFrom::Start(start))?;
        let mut read = Vec::new();
        (&mut file).take(piece).read_to_end(&mut read)?;
        read.append(&mut bytes);
        bytes = read;
    }
    // The first line of what was read may be a part.
    let whole =
        if start > 0 { bytes.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1) } else { 0 };
    Ok(String::from_utf8_lossy(&bytes[whole..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn the_end_is_read_over_files_and_pieces() {
        let dir = tempfile::tempdir().unwrap();
        assert!(tail(dir.path(), 10).await.is_empty());
        let numbered = |from: u32, to: u32| -> String {
            (from..to).map(|number| format!("{number} {}\n", "x".repeat(100))).collect()
        };
        fs::write(path(dir.path(), 1), numbered(0, 3000)).unwrap();
        fs::write(path(dir.path(), 0), numbered(3000, 5000)).unwrap();
        for lines in [0, 1, 7, 1999, 2000, 2001, 4000, 5000, 6000] {
            let tail = tail(dir.path(), lines).await;
            let first: usize = 5000 - lines.min(5000);
            assert_eq!(tail.len(), lines.min(5000));
            let numbers = tail.iter().map(|line| line.split(' ').next().unwrap().parse::<usize>().unwrap());
            assert!(numbers.eq(first..5000), "{lines}");
        }
    }
}
