//! Who comes in when: a token bucket that lets devices wait for their CONNACK instead of refusing them.
//!
//! Seen with the official SDKs: a device that is refused comes again up to ten times a second, one that is held waits quietly. So
//! everybody waits in one line, first come first served, until the hub is open and there is a token; only whoever has waited as
//! long as their SDK would bear, or finds the line full, is told to come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::gate::Phase;

/// How devices are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdmissionOptions {
    /// Connections accepted per second, in the long run.
    pub per_second: u32,
    /// Connections accepted at once after a quiet time.
    pub burst: u32,
    /// Nobody waits longer for their CONNACK: the SDKs give up after 60 s, or when their keep-alive ends.
    pub hold_max: Duration,
    /// Nobody waits longer for a hub that was fenced or follows another: the device is to look for the one that took over.
    pub fenced_hold_max: Duration,
    /// This many wait at once; more are told to come again.
    pub held_max: usize,
}

impl Default for AdmissionOptions {
    fn default() -> Self {
        Self {
            // A third of what one core bears of full TLS handshakes with their tokens (`./bench hub`): the rest is for those who
            // are in already.
            per_second: 2_000,
            burst: 500,
            hold_max: Duration::from_secs(45),
            fenced_hold_max: Duration::from_secs(5),
            held_max: 100_000,
        }
    }
}

impl AdmissionOptions {
    /// How long a device with this keep-alive is held: three quarters of it, because the SDKs' sockets give up after it.
    #[must_use]
    pub fn hold(&self, keep_alive: Duration) -> Duration {
        if keep_alive.is_zero() { self.hold_max } else { self.hold_max.min(keep_alive * 3 / 4) }
    }
}

/// The bucket itself; time is an argument.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    burst: u32,
    tokens: u32,
    /// Up to here tokens have been counted.
    counted: Instant,
}

impl Bucket {
    /// Takes a token, or says how long until there is one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.counted);
        let new = u32::try_from(passed.as_nanos() / self.interval.as_nanos()).unwrap_or(u32::MAX);
        if self.tokens.saturating_add(new) >= self.burst {
            (self.tokens, self.counted) = (self.burst, now);
        } else {
            self.tokens += new;
            self.counted += self.interval * new;
        }
        if self.tokens == 0 {
            return Err((self.counted + self.interval).saturating_duration_since(now));
        }
        self.tokens -= 1;
        Ok(())
    }
}

/// The line before one hub.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Its lock is the line: whoever holds it is the first, waits for the hub to open and for a token, and goes in.
    bucket: Mutex<Bucket>,
    held: AtomicUsize,
    held_max: usize,
    refused: AtomicUsize,
    /// Tokens given back, not yet counted: whoever gives one back does not stand in line for it.
    returned: AtomicU32,
}

/// A place among those who wait. Dropped when the device goes in, is refused, or has gone away.
#[derive(Debug)]
pub(crate) struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Admission {
    pub(crate) fn new(options: &AdmissionOptions) -> Self {
        let interval = Duration::from_secs(1) / options.per_second.max(1);
        let burst = options.burst.max(1);
        Self {
            bucket: Mutex::new(Bucket { interval, burst, tokens: burst, counted: Instant::now() }),
            held: AtomicUsize::new(0),
            held_max: options.held_max,
            refused: AtomicUsize::new(0),
            returned: AtomicU32::new(0),
        }
    }

    /// How many wait.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How many were told to come again.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A place to wait; `None`: there is none left.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place> {
        let before = self.held.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        (before < self.held_max).then_some(place)
    }

    /// Waits for one's turn: the hub is open, those before are in, and there is a token, which is now taken. Dropped meanwhile, it
    /// has taken nothing. `false`: the hub is gone.
    pub(crate) async fn turn(&self, phase: &mut watch::Receiver<Phase>) -> bool {
        let mut bucket = self.bucket.lock().await;
        loop {
            if phase.wait_for(|phase| matches!(phase, Phase::Open { .. })).await.is_err() {
                return false;
            }
            let returned = self.returned.swap(0, Ordering::Relaxed);
            bucket.tokens = bucket.tokens.saturating_add(returned).min(bucket.burst);
            match bucket.take(Instant::now()) {
                Ok(()) => return true,
                Err(wait) => sleep(wait).await,
            }
        }
    }

    /// Gives a token back: whoever took it does not come in.
    pub(crate) fn give_back(&self) {
        self.returned.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use farshore_core::ids::Epoch;

    use super::super::gate::Standing;
    use super::*;

    fn open() -> Phase {
        Phase::Open { epoch: Epoch(1), standing: Standing::Current }
    }

    #[test]
    fn devices_are_held_for_less_than_their_sdk_would_wait() {
        let options = AdmissionOptions::default();
        for (keep_alive, hold) in [(60, 45), (180, 45), (20, 15), (0, 45)] {
            assert_eq!(options.hold(Duration::from_secs(keep_alive)), Duration::from_secs(hold));
        }
        assert_eq!(options.hold(Duration::from_secs(5)), Duration::from_millis(3750));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_waited_come_in_at_the_rate_and_in_their_order() {
        let options = AdmissionOptions { per_second: 10, burst: 2, ..AdmissionOptions::default() };
        let admission = Arc::new(Admission::new(&options));
        let phase = watch::Sender::new(Phase::StandingBy);
        let (came, mut order) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..6 {
            let (admission, mut phase, came) = (Arc::clone(&admission), phase.subscribe(), came.clone());
            tokio::spawn(async move {
                admission.turn(&mut phase).await;
                came.send((number, Instant::now())).unwrap();
            });
            tokio::task::yield_now().await;
        }
        sleep(Duration::from_secs(30)).await;
        assert!(order.try_recv().is_err(), "nobody comes into a hub that stands by");
        let opened = Instant::now();
        phase.send_replace(open());
        for (expected, millis) in [(0, 0), (1, 0), (2, 100), (3, 200), (4, 300), (5, 400)] {
            let (number, at) = order.recv().await.unwrap();
            assert_eq!(number, expected);
            let late = at.saturating_duration_since(opened).as_millis();
            assert!((millis..millis + 5).contains(&late), "{number} came in after {late} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_has_taken_nothing_and_holds_nobody_up() {
        let options =
            AdmissionOptions { per_second: 1, burst: 1, held_max: 2, ..AdmissionOptions::default() };
        let admission = Arc::new(Admission::new(&options));
        let phase = watch::Sender::new(Phase::StandingBy);
        let (first, second) = (admission.place().unwrap(), admission.place().unwrap());
        assert!(admission.place().is_none(), "the line is full");
        assert_eq!(admission.held(), 2);
        let gone = tokio::time::timeout(Duration::from_secs(1), admission.turn(&mut phase.subscribe())).await;
        assert!(gone.is_err());
        drop(first);
        phase.send_replace(open());
        let opened = Instant::now();
        assert!(admission.turn(&mut phase.subscribe()).await);
        assert_eq!(opened.elapsed(), Duration::ZERO, "the token of the one who went away is there");
        drop(second);
        assert_eq!(admission.held(), 0);
    }
}
