//! Pieces of a log on their way to the partner, and how they are checked there.

use farshore_core::ids::Region;

use super::error::{Damage, TelemetryError};
use super::event::{Meta, RawBatch};
use super::frame::{self, Head, Parsed};
use super::log::{Found, Log};
use super::shared::Shared;
use super::window::{Id, Identifier};

/// Most bytes of one piece, whatever is asked for; one more frame may be in it.
const RAW_BYTES_MAX: usize = 8 << 20;

/// A piece whose frames were all read, with where each begins.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) origin: Region,
    pub(super) from: u64,
    pub(super) next: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) frames: Vec<(usize, Head, Option<Id>)>,
}

impl Checked {
    /// The bytes of the frames that begin where a damaged place does, up to its end or this piece's.
    pub(super) fn covering(&self, damage: &Damage) -> Option<&[u8]> {
        let place = |offset: u64| self.frames.binary_search_by_key(&offset, |(_, head, _)| head.offset).ok();
        let start = self.frames[place(damage.offset)?].0;
        let end = place(damage.next).map_or(self.bytes.len(), |after| self.frames[after].0);
        Some(&self.bytes[start..end])
    }
}

/// Reads every frame of a piece. Nothing of it is taken unless all of it is as it was written.
pub(super) fn check(batch: RawBatch, identifier: &Identifier) -> Result<Checked, TelemetryError> {
    let RawBatch { origin, from, next, frames: bytes } = batch;
    let (mut at, mut wanted, mut frames) = (0, from, Vec::new());
    while at < bytes.len() {
        let bad = |why| TelemetryError::BadBatch { origin: origin.clone(), from, at, why };
        let (head, payload) = match frame::parse(&bytes[at..]) {
            Parsed::Frame(head, payload) if head.offset == wanted => (head, payload),
            Parsed::Frame(..) => return Err(bad("another event is there")),
            Parsed::Short { .. } => return Err(bad("it ends within an event")),
            Parsed::End => return Err(bad("there is nothing")),
            Parsed::Bad(why) => return Err(bad(why)),
        };
        // An event of a later version is kept for a later version to read; it has no identity until then.
        let id = Meta::read(payload).ok().and_then(|(meta, _)| identifier.of(&meta));
        frames.push((at, head, id));
        at += head.total();
        wanted += 1;
    }
    if wanted != next {
        let why = "it holds fewer or more events than it says";
        return Err(TelemetryError::BadBatch { origin, from, at, why });
    }
    Ok(Checked { origin, from, next, bytes, frames })
}

/// The frames of a log from an offset on.
pub(super) fn raw(
    shared: &Shared,
    origin: &Region,
    from: u64,
    max_bytes: usize,
) -> Result<RawBatch, TelemetryError> {
    let mut batch = RawBatch { origin: origin.clone(), from, next: from, frames: Vec::new() };
    let Some(log) = shared.log(origin) else {
        return if from == 0 { Ok(batch) } else { Err(beyond(origin, from, 0)) };
    };
    let end = log.end();
    if from > end {
        return Err(beyond(origin, from, end));
    }
    let most = max_bytes.clamp(1, RAW_BYTES_MAX);
    while batch.frames.len() < most && batch.next < end {
        match piece(&log, batch.next, most - batch.frames.len(), end) {
            Ok(None) => break,
            Ok(Some((frames, next))) => {
                batch.frames.extend_from_slice(&frames);
                batch.next = next;
            }
            // What is before the damaged place is given first.
            Err(_) if !batch.frames.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(batch)
}

/// The next frames, at most those before `end`; `None`: a gap lies before them, or there are none.
fn piece(
    log: &Log,
    at: u64,
    bytes_max: usize,
    end: u64,
) -> Result<Option<(bytes::Bytes, u64)>, TelemetryError> {
    let Found::In(segment, from) = log.find(at) else { return Ok(None) };
    if from != at {
        return Err(TelemetryError::Gone { origin: log.region.clone(), from: at, start: from });
    }
    let piece = segment.read(at, bytes_max)?;
    let (mut len, mut next) = (0, at);
    for (head, _) in piece.frames() {
        if head.offset >= end || (len >= bytes_max && len > 0) {
            break;
        }
        len += head.total();
        next = head.offset + 1;
    }
    Ok((len > 0).then(|| (piece.bytes.slice(..len), next)))
}

fn beyond(origin: &Region, from: u64, end: u64) -> TelemetryError {
    TelemetryError::Beyond { origin: origin.clone(), from, end }
}
