//! The life of one instance: start it, look at it, give it up, pause, start it again; until it is told to stop.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::failure::Ending;
use super::options::Limits;
use super::pace::{Backoff, Health, Verdict};
use super::probe::{self, Look};
use super::run::{Ownership, Run};
use super::shared::Shared;
use super::view::InstanceState;

/// Starts in a row whose port seems to be another program's until it is believed: some commands start a container, whose
/// port is held by a program that is not among the command's own processes.
const FOREIGN_MAX: u32 = 2;

/// What an instance is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Keep it running, within these limits.
    Run { limits: Limits },
    /// End it, politely for so long.
    Stop { grace: Duration },
}

impl Order {
    pub(super) fn is_stop(self) -> bool {
        matches!(self, Self::Stop { .. })
    }

    /// Takes the new order in the place of the old. True when that changes anything: who was told to stop stops, at the latest
    /// after the shortest grace that it was told.
    pub(super) fn replace(&mut self, new: Self) -> bool {
        let is_news = match (*self, new) {
            (Self::Stop { grace: old }, Self::Stop { grace: new }) => new < old,
            (Self::Stop { .. }, Self::Run { .. }) => false,
            (old, new) => old != new,
        };
        if is_news {
            *self = new;
        }
        is_news
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Instance {
    number: u32,
    shared: Arc<Shared>,
    orders: watch::Receiver<Order>,
    backoff: Backoff,
    /// Starts in a row whose port was another program's.
    foreign: u32,
}

/// What happens next to a run.
enum Event {
    Ended(std::io::Result<ExitStatus>),
    Ordered(Order),
    Looked(SocketAddr, Look),
}

/// The end of a run.
struct End {
    ending: Ending,
    /// How long it had answered, if it ever did.
    up: Option<Duration>,
    /// What it printed last.
    lines: Vec<String>,
}

impl Instance {
    pub(super) fn new(number: u32, shared: Arc<Shared>, orders: watch::Receiver<Order>) -> Self {
        let backoff = Backoff::new(&shared.pace);
        Self { number, shared, orders, backoff, foreign: 0 }
    }

    /// Returns when it was told to stop, or its host was dropped, and no process of it is left.
    pub(super) async fn live(mut self) {
        while let Order::Run { limits } = self.order() {
            let end = self.run(limits).await;
            if end.ending == Ending::Stopped {
                break;
            }
            let pause = self.backoff.pause(&self.shared.pace, end.up.unwrap_or_default());
            self.note_end(end, pause);
            self.pause(pause).await;
        }
    }

    /// What is wanted now. A host that is gone wants nothing any more.
    fn order(&mut self) -> Order {
        if self.orders.has_changed().is_err() {
            return Order::Stop { grace: Duration::ZERO };
        }
        *self.orders.borrow_and_update()
    }

    /// Waits until `pause` is over, or less when it is told to stop.
    async fn pause(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                changed = self.orders.changed() => {
                    if changed.is_err() || self.orders.borrow().is_stop() {
                        return;
                    }
                }
            }
        }
    }

    /// One run, from its start until nothing of it is left.
    async fn run(&mut self, limits: Limits) -> End {
        let mut run = match Run::start(&self.shared, self.number, limits).await {
            Ok(run) => run,
            Err(why) => {
                return End { ending: Ending::NotStarted { why }, up: None, lines: Vec::new() };
            }
        };
        self.note_start(&run);
        let (ending, up) = self.watch(&mut run, limits).await;
        self.shared.report(self.number, |status| status.takes_requests = false);
        let lines = run.clean().await;
        End { ending, up, lines }
    }

    async fn watch(&mut self, run: &mut Run, mut limits: Limits) -> (Ending, Option<Duration>) {
        let mut health = Health::Starting;
        let mut up_since = None;
        loop {
            let ending = match self.select(run, health).await {
                Event::Ended(status) => Some(run.ending(status, limits)),
                Event::Ordered(Order::Stop { grace }) => {
                    self.stop(run, grace).await;
                    Some(Ending::Stopped)
                }
                Event::Ordered(Order::Run { limits: new }) => {
                    limits = new;
                    run.limit(limits);
                    None
                }
                Event::Looked(address, look) => {
                    if look.is_healthy() {
                        run.address = Some(address);
                    }
                    self.looked(run, &mut health, &look).or_else(|| self.measured(run, health, limits))
                }
            };
            if let Some(ending) = ending {
                return (ending, up_since.map(|since: Instant| since.elapsed()));
            }
            if up_since.is_none() && health != Health::Starting {
                up_since = Some(Instant::now());
            }
        }
    }

    /// Waits, and changes nothing.
    async fn select(&mut self, run: &mut Run, health: Health) -> Event {
        let (pace, path) = (&self.shared.pace, &self.shared.options.probe_path);
        let (addresses, age) = (run.addresses(), run.started.elapsed());
        let look = async {
            tokio::time::sleep(health.pause(pace, age)).await;
            probe::look_at_any(&addresses, path, pace.look_timeout).await
        };
        tokio::select! {
            biased;
            status = run.child.wait() => Event::Ended(status),
            changed = self.orders.changed() => Event::Ordered(match changed {
                Ok(()) => *self.orders.borrow_and_update(),
                Err(_) => Order::Stop { grace: Duration::ZERO },
            }),
            (address, look) = look => Event::Looked(address, look),
        }
    }

    /// Lets it end, not longer than the shortest grace that is told meanwhile.
    async fn stop(&mut self, run: &mut Run, grace: Duration) {
        self.shared.report(self.number, |status| status.enter(InstanceState::Stopping));
        self.say("is stopped");
        let mut deadline = Instant::now() + grace;
        let polite = run.end_politely(self.shared.pace.drain_max.min(grace / 2));
        tokio::pin!(polite);
        loop {
            tokio::select! {
                () = &mut polite => return,
                () = tokio::time::sleep_until(deadline) => return,
                changed = self.orders.changed() => match (changed, *self.orders.borrow_and_update()) {
                    (Err(_), _) => return,
                    (Ok(()), Order::Stop { grace }) => deadline = deadline.min(Instant::now() + grace),
                    (Ok(()), Order::Run { .. }) => {}
                },
            }
        }
    }

    /// Takes note of a look. Returns why the run is over, if it is.
    fn looked(&mut self, run: &Run, health: &mut Health, look: &Look) -> Option<Ending> {
        if look.is_healthy() && *health == Health::Starting {
            if self.foreign < FOREIGN_MAX && run.ownership() == Ownership::Others {
                self.foreign += 1;
                return Some(Ending::PortTaken { port: run.port.number() });
            }
            self.foreign = 0;
        }
        let verdict = health.saw(look, &self.shared.pace, run.started.elapsed());
        if verdict == Verdict::GiveUp {
            return Some(Ending::Silent { why: look.say(&self.shared.options.probe_path) });
        }
        self.note_look(run, *health, look, &verdict);
        None
    }

    /// Sees how much memory an instance that is up uses. Returns why the run is over, if it is.
    fn measured(&self, run: &Run, health: Health, limits: Limits) -> Option<Ending> {
        if health == Health::Starting {
            return None;
        }
        let used_bytes = run.memory_bytes();
        self.shared.report(self.number, |status| status.memory_bytes = used_bytes);
        let limit_bytes = limits.memory_bytes;
        if run.has_cgroup() || limit_bytes == 0 || used_bytes <= limit_bytes {
            return None;
        }
        let used_bytes = run.memory_bytes_exactly();
        (used_bytes > limit_bytes).then_some(Ending::OverMemory { used_bytes, limit_bytes })
    }

    fn note_start(&self, run: &Run) {
        let (pid, port) = (run.pid(), run.port.number());
        self.shared.report(self.number, |status| {
            status.enter(InstanceState::Starting);
            (status.pid, status.port) = (Some(pid), Some(port));
            status.look = None;
        });
        self.say(&format!("started: pid {pid}, port {port}"));
    }

    fn note_look(&self, run: &Run, health: Health, look: &Look, verdict: &Verdict) {
        let words = (!look.is_healthy()).then(|| look.say(&self.shared.options.probe_path));
        let state = match health {
            Health::Starting => InstanceState::Starting,
            Health::Up { misses: 0 } => InstanceState::Up,
            Health::Up { .. } => InstanceState::Unresponsive,
        };
        let lines = if state == InstanceState::Starting { run.lines() } else { Vec::new() };
        self.shared.report(self.number, |status| {
            status.enter(state);
            status.address = run.address;
            status.look.clone_from(&words);
            status.lines = lines;
            if *verdict == Verdict::Answers {
                (status.takes_requests, status.failed_starts) = (true, 0);
            } else if *verdict == Verdict::Refuses {
                status.takes_requests = false;
            }
        });
        if *verdict == Verdict::Answers {
            self.say("answers");
        } else if let (Some(words), true) = (words, state == InstanceState::Unresponsive) {
            self.say(&format!("does not answer: {words}"));
        }
    }

    fn note_end(&self, end: End, pause: Duration) {
        self.say(&format!("{}; it is started again in {pause:?}", end.ending));
        tracing::warn!(app = self.shared.options.name, instance = self.number, "an instance {}", end.ending);
        self.shared.report(self.number, |status| {
            status.enter(InstanceState::Waiting);
            status.gone();
            status.restarts += 1;
            if end.up.is_none() {
                status.failed_starts += 1;
            }
            (status.last_ending, status.lines) = (Some(end.ending), end.lines);
        });
    }

    fn say(&self, words: &str) {
        self.shared.log.say(self.number, words);
    }
}

impl Drop for Instance {
    /// Also when its task fails: nobody waits for it in vain.
    fn drop(&mut self) {
        self.shared.forget(self.number);
    }
}
