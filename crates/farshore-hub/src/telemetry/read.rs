//! Reading by cursor: the logs of all regions as one stream.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use farshore_core::ids::Region;
use farshore_core::moment::Moment;

use super::error::{Damage, TelemetryError};
use super::event::{Cursor, Event, Page, Stored};
use super::frame::Head;
use super::log::{Found, Log};
use super::marks::{Place, Stands};
use super::shared::Shared;

/// Most bytes of events in one page, so that a page fits in an answer; one more event may be in it.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// What an event takes for reading ahead, roughly.
const EVENT_BYTES: usize = 512;

/// So many duplicates in a row are worth a page that holds nothing but a new cursor.
const PASSED_MAX: usize = 1000;

/// The events that a consumer has not been given, at most `limit`, and its next cursor.
pub(super) fn page(shared: &Shared, cursor: &Cursor, limit: usize) -> Result<Page, TelemetryError> {
    let mut reading = Reading::new(shared, cursor, limit);
    let mut page = Page::default();
    let mut bytes = 0;
    while page.events.len() < limit && bytes < PAGE_BYTES_MAX {
        let stored = match reading.next() {
            Ok(Some(stored)) => stored,
            Ok(None) => break,
            // What is before the damaged place is given first; the next read begins with it.
            Err(_) if !page.events.is_empty() => break,
            Err(error) => return Err(error),
        };
        bytes += stored.event.body.len() + EVENT_BYTES;
        page.events.push(stored);
    }
    page.next = reading.cursor(cursor);
    page.missed = reading.missed;
    Ok(page)
}

/// Whether [`page`] would give an event or an error, or has so much to pass that the cursor should be moved.
pub(super) fn has_news(shared: &Shared, cursor: &Cursor) -> bool {
    let logs = shared.logs();
    let regions: Vec<_> = logs.iter().map(|log| log.region.clone()).collect();
    let stands = Stands::of(cursor, &regions);
    let twins = shared.twins.read().unwrap_or_else(PoisonError::into_inner);
    let mut passed = 0;
    logs.iter().any(|log| {
        let start = stands.next(log.number).max(log.start());
        (start..log.end()).any(|offset| {
            passed += 1;
            let place = Place { log: log.number, offset };
            passed > PASSED_MAX || !twins.was_given(place, &|log| stands.next(log))
        })
    })
}

/// The logs, each with the frame that it would give next.
struct Reading<'a> {
    shared: &'a Shared,
    sources: Vec<Source>,
    stands: Stands,
    missed: BTreeMap<Region, u64>,
    bytes_ahead: usize,
}

struct Source {
    log: Arc<Log>,
    frames: Box<dyn Iterator<Item = (Head, Bytes)> + Send>,
    head: Option<(Head, Bytes)>,
}

impl<'a> Reading<'a> {
    fn new(shared: &'a Shared, cursor: &Cursor, limit: usize) -> Self {
        let logs = shared.logs();
        let regions: Vec<_> = logs.iter().map(|log| log.region.clone()).collect();
        let sources =
            logs.into_iter().map(|log| Source { log, frames: Box::new(std::iter::empty()), head: None });
        Self {
            shared,
            sources: sources.collect(),
            stands: Stands::of(cursor, &regions),
            missed: BTreeMap::new(),
            bytes_ahead: limit.saturating_mul(EVENT_BYTES),
        }
    }

    /// The earliest event of those that come next, by moment, then by region: the same for everyone who stands here.
    fn next(&mut self) -> Result<Option<Stored>, TelemetryError> {
        for at in 0..self.sources.len() {
            self.fill(at)?;
        }
        let earliest = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(at, source)| Some(((source.head.as_ref()?.0.enqueued, &source.log.region), at)))
            .min()
            .map(|(_, at)| at);
        let Some(at) = earliest else { return Ok(None) };
        let (head, payload) = self.sources[at].head.take().expect("only sources with a head were compared");
        let log = &self.sources[at].log;
        let event = Event::decode(&payload, head.enqueued).map_err(|_| unknown(log, head.offset))?;
        self.stands.0[at] = head.offset + 1;
        let late = log.late.read().unwrap_or_else(PoisonError::into_inner).contains(head.offset);
        let region = log.region.clone();
        Ok(Some(Stored { region, offset: head.offset, epoch: head.epoch, late, event }))
    }

    /// Brings the next frame of a log that was not given in another place.
    fn fill(&mut self, at: usize) -> Result<(), TelemetryError> {
        loop {
            if self.sources[at].head.is_none() {
                self.sources[at].head = self.pull(at)?;
            }
            let Some((head, _)) = &self.sources[at].head else { return Ok(()) };
            let log = &self.sources[at].log;
            let place = Place { log: log.number, offset: head.offset };
            let twins = self.shared.twins.read().unwrap_or_else(PoisonError::into_inner);
            if !twins.was_given(place, &|log| self.stands.next(log)) {
                return Ok(());
            }
            drop(twins);
            self.stands.0[at] = place.offset + 1;
            self.sources[at].head = None;
        }
    }

    fn pull(&mut self, at: usize) -> Result<Option<(Head, Bytes)>, TelemetryError> {
        let source = &mut self.sources[at];
        if let Some(next) = source.frames.next() {
            return Ok(Some(next));
        }
        let wanted = self.stands.next(source.log.number);
        let Found::In(segment, from) = source.log.find(wanted) else { return Ok(None) };
        if from > wanted && wanted > 0 {
            *self.missed.entry(source.log.region.clone()).or_default() += from - wanted;
        }
        self.stands.0[at] = from;
        source.frames = Box::new(segment.read(from, self.bytes_ahead)?.frames());
        Ok(source.frames.next())
    }

    /// The cursor after what was given and passed.
    fn cursor(&self, before: &Cursor) -> Cursor {
        let mut next = before.clone();
        for (source, &offset) in self.sources.iter().zip(&self.stands.0) {
            if offset > 0 {
                next.0.insert(source.log.region.clone(), offset);
            }
        }
        next
    }
}

fn unknown(log: &Log, offset: u64) -> TelemetryError {
    let (file, at) = match log.find(offset) {
        Found::In(segment, _) => (segment.path().to_owned(), 0),
        Found::End => Default::default(),
    };
    let why = "an event of a later version: update this node";
    TelemetryError::Damaged(Damage { region: log.region.clone(), offset, next: offset + 1, file, at, why })
}

/// When an event came in; `None`: it is not there.
pub(super) fn enqueued(
    shared: &Shared,
    origin: &Region,
    offset: u64,
) -> Result<Option<Moment>, TelemetryError> {
    let Some(log) = shared.log(origin) else { return Ok(None) };
    let Found::In(segment, from) = log.find(offset) else { return Ok(None) };
    if from != offset {
        return Ok(None);
    }
    Ok(segment.read(offset, 1)?.frames().next().map(|(head, _)| head.enqueued))
}
