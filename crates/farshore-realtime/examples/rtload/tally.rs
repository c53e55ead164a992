//! What came, and when: counts of deliveries, and how long each took.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Bytes of data in every message.
const MESSAGE_BYTES: usize = 256;
/// Starts what the receiver looks for; no protocol under test uses it.
const MARK: u8 = b'@';
/// The mark, the message's number (8 hex digits) and when it was published (16).
pub(crate) const MARK_BYTES: usize = 25;

/// One message as a receiver sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) number: u32,
    nanos: u64,
}

/// The deliveries of all clients.
#[derive(Debug)]
pub(crate) struct Tally {
    began: Instant,
    deliveries: Cell<u64>,
    expected: Cell<u64>,
    all_came: Notify,
    micros: RefCell<Vec<u32>>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            deliveries: Cell::new(0),
            expected: Cell::new(u64::MAX),
            all_came: Notify::new(),
            micros: RefCell::default(),
        }
    }
}

impl Tally {
    /// Starts again from nothing.
    pub(crate) fn expect(&self, deliveries: u64) {
        self.deliveries.set(0);
        self.expected.set(deliveries);
        self.micros.borrow_mut().clear();
    }

    /// The data of message `number`, published at `at`.
    pub(crate) fn message(&self, number: u32, at: Instant) -> String {
        let nanos = u64::try_from(at.duration_since(self.began).as_nanos()).unwrap_or(u64::MAX);
        format!("{}{number:08x}{nanos:016x}{:x<2$}", char::from(MARK), "", MESSAGE_BYTES - MARK_BYTES)
    }

    /// A message came to one client.
    pub(crate) fn came(&self, mark: Mark, now: Instant) {
        let sent = self.began + Duration::from_nanos(mark.nanos);
        let micros = now.saturating_duration_since(sent).as_micros();
        self.micros.borrow_mut().push(u32::try_from(micros).unwrap_or(u32::MAX));
        self.deliveries.set(self.deliveries.get() + 1);
        if self.deliveries.get() == self.expected.get() {
            self.all_came.notify_one();
        }
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.deliveries.get()
    }

    /// Waits for as many as were expected.
    pub(crate) async fn reached(&self) {
        while self.deliveries.get() < self.expected.get() {
            self.all_came.notified().await;
        }
    }

    /// How long each delivery took, in milliseconds.
    pub(crate) fn delays(&self) -> Spread {
        Spread::of(self.micros.borrow().iter().map(|&micros| f64::from(micros) / 1_000.0).collect())
    }
}

/// Finds the messages in what one client is sent; a message may begin in one piece and go on in the next.
#[derive(Debug, Default)]
pub(crate) struct Finder {
    begun: Vec<u8>,
}

impl Finder {
    pub(crate) fn find(&mut self, piece: &[u8], mut on: impl FnMut(Mark)) {
        let mut joined = std::mem::take(&mut self.begun);
        let mut rest = if joined.is_empty() {
            piece
        } else {
            joined.extend_from_slice(piece);
            joined.as_slice()
        };
        while let Some(at) = rest.iter().position(|&byte| byte == MARK) {
            rest = &rest[at..];
            let Some(mark) = rest.first_chunk::<MARK_BYTES>() else {
                self.begun.extend_from_slice(rest);
                return;
            };
            match read(mark) {
                Some(mark) => {
                    on(mark);
                    rest = rest.get(MESSAGE_BYTES..).unwrap_or_default();
                }
                None => rest = &rest[1..],
            }
        }
    }
}

fn read(mark: &[u8; MARK_BYTES]) -> Option<Mark> {
    let text = std::str::from_utf8(&mark[1..]).ok()?;
    let number = u32::from_str_radix(text.get(..8)?, 16).ok()?;
    Some(Mark { number, nanos: u64::from_str_radix(text.get(8..)?, 16).ok()? })
}

/// Many measurements of one thing.
#[derive(Debug)]
pub(crate) struct Spread {
    sorted: Vec<f64>,
}

impl Spread {
    pub(crate) fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        Self { sorted: all }
    }

    /// The value that this share of all does not exceed; `None` of nothing.
    pub(crate) fn at(&self, share: f64) -> Option<f64> {
        let place = (self.sorted.len() as f64 * share) as usize;
        self.sorted.get(place.min(self.sorted.len().checked_sub(1)?)).copied()
    }
}
