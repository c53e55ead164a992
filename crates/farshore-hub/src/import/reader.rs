//! Many lines, in. One thread reads, checks and prepares while the registry writes what was read before.

use std::io::{self, BufRead, Write};

use serde::Serialize;
use tokio::sync::mpsc;

use super::line::{LineError, propose};
use crate::names::Key;
use crate::registry::{BULK_CHANGES_MAX, Became, Proposal, Proposed, Registry};

/// Longest line. The largest identity that can exist has tags of 8 KiB and two sections of 32 KiB, with metadata for each leaf.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// Text of the lines of one batch: long lines are fewer in one, so that what waits in memory is bounded in bytes, too.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Batches that are read ahead of the registry; with the one that is read and the two that it has this bounds the memory.
const BATCHES_AHEAD_MAX: usize = 1;

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Imported {
    /// Lines that were read; empty ones do not count.
    pub lines: u64,
    /// Identities that were made.
    pub created: u64,
    /// Identities that were changed.
    pub updated: u64,
    /// Identities that were deleted.
    pub deleted: u64,
    /// Lines that changed nothing, because all was so already.
    pub unchanged: u64,
    /// Lines with an error.
    pub failed: u64,
}

/// Why an import ended early. What was imported before stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(
        "cannot read the identities: {0}; what came before is imported, and importing the file again does the rest"
    )]
    Read(io::Error),
    /// The errors cannot be written.
    #[error("cannot write the file of errors: {0}; what came before is imported")]
    Errors(io::Error),
    /// The registry failed.
    #[error("{0}; what came before is imported, and importing the file again does the rest")]
    Registry(String),
}

/// A line of the file of errors. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorView<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    error_code: &'a str,
    error_message: String,
}

/// Lines that were read together.
#[derive(Default)]
struct Lines {
    good: Vec<(u64, Proposal<LineError>)>,
    bad: Vec<(u64, LineError)>,
    bytes: usize,
}

impl Lines {
    fn len(&self) -> usize {
        self.good.len() + self.bad.len()
    }

    fn is_full(&self) -> bool {
        self.len() >= BULK_CHANGES_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

/// Lines that are being written.
struct Sent {
    places: Vec<(u64, Key)>,
    bad: Vec<(u64, LineError)>,
    proposed: Proposed<LineError>,
}

/// Imports all lines of `lines`; what is wrong with one goes to `errors`, a line of JSON for each. Every line's change is on the
/// disk on return.
///
/// # Errors
/// [`ImportError`]
pub async fn import(
    registry: &Registry,
    lines: impl BufRead + Send + 'static,
    errors: &mut (impl Write + Send),
) -> Result<Imported, ImportError> {
    let (sender, mut batches) = mpsc::channel(BATCHES_AHEAD_MAX);
    let reading = tokio::task::spawn_blocking(move || read(lines, &sender));
    let mut imported = Imported::default();
    let mut sent: Option<Sent> = None;
    while let Some(batch) = batches.recv().await {
        // The writer has the next batch before it has synced the last.
        let Some(earlier) = sent.replace(Sent::to(registry, batch).await) else { continue };
        if let Err(error) = earlier.settle(errors, &mut imported).await {
            // When this returns nothing is written any more.
            if let Some(later) = sent {
                later.proposed.results().await;
            }
            return Err(error);
        }
    }
    if let Some(last) = sent {
        last.settle(errors, &mut imported).await?;
    }
    match reading.await {
        Ok(read) => read.map_err(ImportError::Read)?,
        Err(_) => return Err(ImportError::Registry("the reader of the identities broke off".to_owned())),
    }
    errors.flush().map_err(ImportError::Errors)?;
    Ok(imported)
}

impl Sent {
    async fn to(registry: &Registry, batch: Lines) -> Self {
        let places = batch.good.iter().map(|(number, proposal)| (*number, proposal.key.clone())).collect();
        let proposals = batch.good.into_iter().map(|(_, proposal)| proposal).collect();
        Self { places, bad: batch.bad, proposed: registry.propose(proposals).await }
    }

    /// Counts what became of the lines once they are on the disk, and tells of those with errors.
    async fn settle(
        self,
        errors: &mut (impl Write + Send),
        imported: &mut Imported,
    ) -> Result<(), ImportError> {
        imported.lines += (self.places.len() + self.bad.len()) as u64;
        let mut failed: Vec<(u64, Option<Key>, LineError)> =
            self.bad.into_iter().map(|(number, error)| (number, None, error)).collect();
        let mut broken = None;
        for ((number, key), result) in self.places.into_iter().zip(self.proposed.results().await) {
            match result {
                Ok(Became::Created) => imported.created += 1,
                Ok(Became::Updated) => imported.updated += 1,
                Ok(Became::Deleted) => imported.deleted += 1,
                Ok(Became::Unchanged) => imported.unchanged += 1,
                Err(error) => {
                    let error = LineError::from(error);
                    if let LineError::Registry(what) = &error {
                        broken = Some(what.clone());
                    }
                    failed.push((number, Some(key), error));
                }
            }
        }
        failed.sort_by_key(|(number, ..)| *number);
        imported.failed += failed.len() as u64;
        tell(failed, errors).map_err(ImportError::Errors)?;
        // The rest would fail the same way, a million times.
        broken.map_or(Ok(()), |what| Err(ImportError::Registry(what)))
    }
}

fn tell(failed: Vec<(u64, Option<Key>, LineError)>, errors: &mut impl Write) -> io::Result<()> {
    for (line, key, error) in failed {
        let (error_code, error_message) = (error.code(), error.to_string());
        let view = ErrorView { line, id: key.map(|key| key.to_string()), error_code, error_message };
        serde_json::to_writer(&mut *errors, &view)?;
        errors.write_all(b"\n")?;
    }
    Ok(())
}

fn read(mut lines: impl BufRead, batches: &mpsc::Sender<Lines>) -> io::Result<()> {
    let (mut number, mut batch, mut text) = (0, Lines::default(), Vec::new());
    while let Some(whole) = next_line(&mut lines, &mut text)? {
        number += 1;
        let line = trimmed(&text, number);
        if line.is_empty() {
            continue;
        }
        batch.bytes += line.len();
        let proposed = if whole { propose(line) } else { Err(too_long()) };
        match proposed {
            Ok(proposal) => batch.good.push((number, proposal)),
            Err(error) => batch.bad.push((number, error)),
        }
        if batch.is_full() && batches.blocking_send(std::mem::take(&mut batch)).is_err() {
            return Ok(());
        }
    }
    // Nobody waits for it any longer if the import ended early.
    let _ = batches.blocking_send(batch);
    Ok(())
}

fn too_long() -> LineError {
    LineError::Malformed(format!("the line is longer than {LINE_BYTES_MAX} bytes"))
}

/// Without what editors add.
fn trimmed(line: &[u8], number: u64) -> &[u8] {
    const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
    let line = if number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line) } else { line };
    line.trim_ascii()
}

/// Reads a line into `text`; `Some(false)`: only its beginning, because it is too long. `None`: there is none.
fn next_line(lines: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<Option<bool>> {
    text.clear();
    let (mut whole, mut any) = (true, false);
    loop {
        let available = match lines.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if available.is_empty() {
            return Ok(any.then_some(whole));
        }
        any = true;
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = end.map_or(available, |end| &available[..end]);
        let room = LINE_BYTES_MAX - text.len();
        whole &= part.len() <= room;
        text.extend_from_slice(&part[..part.len().min(room)]);
        let used = end.map_or(available.len(), |end| end + 1);
        lines.consume(used);
        if end.is_some() {
            return Ok(Some(whole));
        }
    }
}
