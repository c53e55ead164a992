//! All clients: who is ready, who is back, and what each was owed.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::{Member, life};
use crate::tally::{Spread, Tally};
use crate::target::{Protocol, Target};

/// What one read takes: many messages of a burst.
const READ_BYTES: usize = 64 * 1024;
/// A reliable client acknowledges each second; a tenth of them at a time, as if each had its own clock.
const TURNS_PER_SECOND: u32 = 10;
/// Seconds between a client's pings, as in the official one.
const PING_SECONDS: u32 = 20;
/// Nothing has come for so long: nothing will.
const SILENCE: Duration = Duration::from_secs(5);
/// Between two looks at what is still owed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// All clients.
#[derive(Debug)]
pub(crate) struct Crowd {
    pub(super) target: Target,
    pub(crate) tally: Rc<Tally>,
    /// One for all: there is one thread, and nothing stays in it.
    pub(super) buffer: RefCell<Vec<u8>>,
    members: Vec<Rc<Member>>,
    ready: Cell<u32>,
    back: Cell<u32>,
    dropped: Cell<u32>,
    returning: Cell<bool>,
    changed: Notify,
    opening: Semaphore,
}

/// Messages that the server took, times clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    pub(crate) owed: u64,
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
}

impl Crowd {
    pub(crate) fn gather(target: Target, clients: u32, at_a_time: usize) -> Rc<Self> {
        let members = (0..clients)
            .map(|number| Rc::new(Member { number, path: target.path_of(number), ..Member::default() }))
            .collect();
        let crowd = Rc::new(Self {
            target,
            tally: Rc::default(),
            buffer: RefCell::new(vec![0; READ_BYTES]),
            members,
            ready: Cell::new(0),
            back: Cell::new(0),
            dropped: Cell::new(0),
            returning: Cell::new(false),
            changed: Notify::new(),
            opening: Semaphore::new(at_a_time),
        });
        for member in &crowd.members {
            tokio::task::spawn_local(life(Rc::clone(&crowd), Rc::clone(member)));
        }
        if matches!(crowd.target.protocol, Protocol::Json | Protocol::ReliableJson) {
            tokio::task::spawn_local(keep_alive(Rc::clone(&crowd)));
        }
        crowd
    }

    /// A place among those that connect at the same time; in a storm there is no queue.
    pub(super) async fn gate(&self) -> Option<SemaphorePermit<'_>> {
        if self.returning.get() { None } else { self.opening.acquire().await.ok() }
    }

    pub(super) fn returning(&self) -> bool {
        self.returning.get()
    }

    pub(super) fn arrived(&self, member: &Member) {
        member.ready.set(true);
        self.ready.set(self.ready.get() + 1);
        if self.returning.get() {
            member.back.set(Some(Instant::now()));
            self.back.set(self.back.get() + 1);
        }
        self.changed.notify_one();
    }

    pub(super) fn left(&self, member: &Member) {
        member.stream.replace(None);
        if member.ready.replace(false) {
            self.ready.set(self.ready.get() - 1);
            self.dropped.set(self.dropped.get() + u32::from(!self.returning.get()));
        }
        if member.back.replace(None).is_some() {
            self.back.set(self.back.get() - 1);
        }
        self.changed.notify_one();
    }

    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn ready(&self) -> u32 {
        self.ready.get()
    }

    /// Connections that ended though nobody was killed.
    pub(crate) fn dropped(&self) -> u32 {
        self.dropped.get()
    }

    pub(crate) async fn all_ready(&self, patience: Duration) -> Result<(), Box<dyn Error>> {
        self.all(&self.ready, "ready", patience).await
    }

    /// After the loss: every client has left and come back.
    pub(crate) async fn all_back(&self, patience: Duration) -> Result<(), Box<dyn Error>> {
        self.all(&self.back, "back", patience).await
    }

    async fn all(&self, count: &Cell<u32>, what: &str, patience: Duration) -> Result<(), Box<dyn Error>> {
        let everybody = self.members.len();
        let wait = async {
            while (count.get() as usize) < everybody {
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(patience, wait).await.map_err(|_| {
            format!("{} of {everybody} clients are {what} after {} s", count.get(), patience.as_secs()).into()
        })
    }

    /// From here on a client that loses its connection behaves like the official one.
    pub(crate) fn come_back_from_now_on(&self) {
        self.returning.set(true);
    }

    /// Seconds from `lost` until each client was back.
    pub(crate) fn absences(&self, lost: Instant) -> Spread {
        let back = self.members.iter().filter_map(|member| member.back.get());
        Spread::of(back.map(|back| back.duration_since(lost).as_secs_f64()).collect())
    }

    /// Clients that go on with the session they had.
    pub(crate) fn recovered(&self) -> usize {
        self.members.iter().filter(|member| member.ready.get() && member.recovered.get()).count()
    }

    /// Forgets which messages have come.
    pub(crate) fn forget(&self) {
        for member in &self.members {
            member.seen.borrow_mut().clear();
            member.duplicates.set(0);
        }
    }

    pub(crate) fn owed(&self, taken: &[u32]) -> Owed {
        let lost =
            self.members.iter().map(|member| taken.iter().filter(|&&number| !member.has(number)).count());
        Owed {
            owed: (self.members.len() * taken.len()) as u64,
            lost: lost.sum::<usize>() as u64,
            duplicates: self.members.iter().map(|member| member.duplicates.get()).sum(),
        }
    }

    /// Waits until nothing is owed, or nothing has come for a while.
    pub(crate) async fn all_owed(&self, taken: &[u32], patience: Duration) {
        let began = Instant::now();
        let (mut last, mut since) = (self.tally.deliveries(), began);
        while self.owed(taken).lost > 0 && since.elapsed() < SILENCE && began.elapsed() < patience {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.tally.deliveries() > last {
                (last, since) = (self.tally.deliveries(), Instant::now());
            }
        }
    }
}

/// Acknowledges and pings as the official client does.
async fn keep_alive(crowd: Rc<Crowd>) {
    let mut due = tokio::time::interval(Duration::from_secs(1) / TURNS_PER_SECOND);
    for turn in 0_u32.. {
        due.tick().await;
        for member in
            crowd.members.iter().filter(|member| member.number % TURNS_PER_SECOND == turn % TURNS_PER_SECOND)
        {
            member.acknowledge();
            if turn / TURNS_PER_SECOND % PING_SECONDS == member.number / TURNS_PER_SECOND % PING_SECONDS {
                member.ping();
            }
        }
    }
}
