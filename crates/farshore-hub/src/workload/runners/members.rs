//! Members: each setting is one, which runs on its schedule while the hub serves, and when somebody asks.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farshore_core::moment::Moment;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::now;
use super::{Runners, Shared, locked, outdated};
use crate::member::{Limits, Manner, Member, MemberSetting, Report, Tally};

/// Runs that were asked for and wait for their turn.
const ORDERS_MAX: usize = 4;
/// A setting that was just made runs by then.
const ARRANGED_WITHIN: Duration = Duration::from_secs(3);

/// A run that somebody asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::workload) struct Order {
    run: u64,
    manner: Manner,
}

/// How a member does.
#[derive(Debug, Clone, Default)]
pub(in crate::workload) struct MemberState {
    running: Option<Arc<Tally>>,
    last: Option<Report>,
    plan: Option<Report>,
    /// When it runs next.
    pub(in crate::workload) next: Option<Moment>,
    /// It cannot run.
    pub(in crate::workload) broken: Option<String>,
}

impl MemberState {
    /// The run under way, which is not a plan.
    pub(in crate::workload) fn running(&self) -> Option<Report> {
        self.running.as_ref().map(|tally| tally.report()).filter(|report| !report.plan)
    }

    /// The last run that is over.
    pub(in crate::workload) fn last(&self) -> Option<&Report> {
        self.last.as_ref()
    }

    /// The report of a run, or of a later one; `None`: it is not over.
    fn report_of(&self, run: u64) -> Option<&Report> {
        let over = || self.last.iter().chain(&self.plan);
        over()
            .find(|report| report.run == run)
            .or_else(|| over().filter(|report| report.run > run).max_by_key(|report| report.run))
    }
}

/// A member that was told to run.
pub(super) struct RunningMember {
    setting: Value,
    numbers: Arc<AtomicU64>,
    orders: mpsc::Sender<Order>,
    state: watch::Receiver<MemberState>,
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for RunningMember {
    /// Without the setting, in which a key is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningMember").finish_non_exhaustive()
    }
}

impl Drop for RunningMember {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::workload) enum NoReport {
    /// It does not run here.
    NotHere,
    /// It was never asked for here.
    UnknownRun,
    /// Enough others have asked.
    Busy,
    /// It cannot run at all.
    Broken(String),
    /// It ended while it was waited for.
    Ended,
}

impl Runners {
    /// How the member does; `None`: it does not run here.
    pub(in crate::workload) fn member(&self, name: &str) -> Option<MemberState> {
        locked(&self.shared.members).get(name).map(|running| running.state.borrow().clone())
    }

    /// Has the member run now, or waits for the run of this number; for so long.
    pub(in crate::workload) async fn run_member(
        &self,
        name: &str,
        manner: Manner,
        run: Option<u64>,
        patience: Duration,
    ) -> Result<Report, NoReport> {
        let (run, mut state) = self.order(name, manner, run).await?;
        let over = timeout(patience, state.wait_for(|state| state.report_of(run).is_some())).await;
        match over.map(|state| state.map(|state| state.report_of(run).cloned())) {
            Ok(Ok(report)) => return Ok(report.unwrap_or_default()),
            Ok(Err(_)) => return Err(NoReport::Ended),
            Err(_) => {}
        }
        let running = state.borrow().running.as_ref().map(|tally| tally.report());
        let waits = || Report { run, running: true, plan: manner == Manner::Plan, ..Report::default() };
        Ok(running.filter(|report| report.run == run).unwrap_or_else(waits))
    }

    async fn order(
        &self,
        name: &str,
        manner: Manner,
        run: Option<u64>,
    ) -> Result<(u64, watch::Receiver<MemberState>), NoReport> {
        let mut arranged = self.shared.arranged.subscribe();
        // It may have been set a moment ago.
        let there = arranged.wait_for(|()| locked(&self.shared.members).contains_key(name));
        let _ = timeout(ARRANGED_WITHIN, there).await;
        let members = locked(&self.shared.members);
        let running = members.get(name).ok_or(NoReport::NotHere)?;
        if let Some(why) = running.state.borrow().broken.clone() {
            return Err(NoReport::Broken(why));
        }
        let number = match run {
            Some(run) if run > running.numbers.load(Ordering::SeqCst) => return Err(NoReport::UnknownRun),
            Some(run) => run,
            None => {
                let place = running.orders.try_reserve().map_err(|_| NoReport::Busy)?;
                let run = running.numbers.fetch_add(1, Ordering::SeqCst) + 1;
                place.send(Order { run, manner });
                run
            }
        };
        Ok((number, running.state.clone()))
    }
}

impl Shared {
    /// Ends what is not wanted, or is wanted otherwise, and begins what is.
    pub(super) async fn arrange_members(&self, wanted: &BTreeMap<String, Value>) {
        let ended = outdated(&self.members, |name, running| wanted.get(name) == Some(&running.setting));
        for (_, mut running) in ended {
            if let Some(task) = running.task.take() {
                task.abort();
                // It was aborted; how it ended is known.
                let _ = task.await;
            }
        }
        for (name, setting) in wanted {
            let mut members = locked(&self.members);
            members.entry(name.clone()).or_insert_with(|| self.begin_member(name, setting));
        }
    }

    fn begin_member(&self, name: &str, setting: &Value) -> RunningMember {
        let member =
            MemberSetting::deserialize(setting).map_err(|error| error.to_string()).and_then(|setting| {
                let member = Member::new(&setting, self.fleet.clone(), Limits::default());
                member.map(|member| (member, setting.every())).map_err(|error| error.to_string())
            });
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        let numbers = Arc::<AtomicU64>::default();
        let (told, state) = watch::channel(MemberState::default());
        let task = match member {
            Ok((member, every)) => {
                let hub = self.fleet.name().to_owned();
                let round = Round { hub, name: name.to_owned(), every, numbers: Arc::clone(&numbers), told };
                Some(tokio::spawn(round.go(member, taken)))
            }
            Err(why) => {
                tracing::warn!(hub = self.fleet.name(), member = name, why, "a member cannot run");
                told.send_modify(|state| state.broken = Some(why));
                None
            }
        };
        RunningMember { setting: setting.clone(), numbers, orders, state, task }
    }

    pub(super) fn member_warnings(&self) -> Vec<String> {
        let members = locked(&self.members);
        let failing = members.iter().filter_map(|(name, running)| {
            let state = running.state.borrow();
            let why = state.broken.as_ref().or_else(|| state.last.as_ref()?.error.as_ref())?;
            Some(format!("the member {name} was not brought up to date: {why}"))
        });
        failing.collect()
    }
}

/// What the task of a member has.
struct Round {
    hub: String,
    name: String,
    every: Duration,
    numbers: Arc<AtomicU64>,
    told: watch::Sender<MemberState>,
}

impl Round {
    /// Runs on schedule and when asked to, until it is aborted. The first run is at once.
    async fn go(self, mut member: Member, mut orders: mpsc::Receiver<Order>) {
        let mut next = Instant::now();
        loop {
            let order = tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => order,
                    None => return,
                },
                () = sleep_until(next) => {
                    Order { run: self.numbers.fetch_add(1, Ordering::SeqCst) + 1, manner: Manner::Do }
                }
            };
            let began = Instant::now();
            let tally = Arc::new(Tally::begin(order.run, order.manner, now()));
            self.told.send_modify(|state| state.running = Some(Arc::clone(&tally)));
            let done = member.run(order.manner, &tally).await;
            if order.manner == Manner::Do {
                next = (began + self.every).max(Instant::now());
            }
            self.tell(order.manner, tally.end(&done), next);
        }
    }

    fn tell(&self, manner: Manner, report: Report, next: Instant) {
        if let Some(error) = &report.error {
            tracing::warn!(hub = self.hub, member = self.name, error, "a member was not brought up to date");
        }
        self.told.send_modify(|state| {
            state.running = None;
            state.next = Some(now().after(next.saturating_duration_since(Instant::now())));
            match manner {
                Manner::Plan => state.plan = Some(report),
                Manner::Do => state.last = Some(report),
            }
        });
    }
}
