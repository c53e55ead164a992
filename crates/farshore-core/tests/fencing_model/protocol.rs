//! Every step that anyone can take, one at a time, in any order.
//!
//! - **Pauses.** No step is ever forced, so each process may be stopped between any two of its steps for any time.
//! - **Crashes.** An executor that takes no more steps is dead; another claims its job. Agents restart and keep their disk.
//! - **Partitions.** Messages that are not delivered, renewals that are not stored, answers that are not received.
//! - **Time** passes between any two steps, by any amount: [`crate::zone`].

use farshore_core::fencing::TokenVerdict;
use stateright::{Model, Property};

use crate::properties;
use crate::rules::{Broken, Item, Rules};
use crate::state::{Executor, Listing, Own, Phase, Proof, Renewal, Role, Stage, Stand, State, Write, bit};
use crate::zone::Clock;

/// One step. Numbers are of executors for the first half, of regions for the second, then epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A job begins, or an executor takes it over, by compare-and-set of the executor epoch.
    Claim,
    /// Transaction: `Revoking` under the next epoch.
    Revoke(usize),
    /// The answer to that comes, or the linearizable read that resolves it; from here on the wait is counted.
    SeeRevoked(usize),
    /// Fenced(E) comes.
    TakeAnswer(usize),
    /// The wait is over.
    EndWait(usize),
    /// The operator says that the source is down.
    TakeWord(usize),
    /// The lease-attached key is seen gone.
    SeeKeyGone(usize),
    /// Transaction: the old region gets the epoch after next.
    Cancel(usize),
    /// Transaction: the point of no return, with the proof.
    Promote(usize),
    /// A replacement finds the point of no return passed.
    SeePromoting(usize),
    /// The target's answer comes.
    TakeOpened(usize),
    /// Transaction: the target owns the item, and the directory names it.
    Promoted(usize),
    /// The directory follows later: see [`Broken::DirectoryApart`].
    List,
    /// Notes the time, sends a renewal.
    Renew(usize),
    /// The store does it, if the own record still names the region.
    StoreRenewal(usize),
    /// The answer comes.
    TakeRenewal(usize),
    /// No answer came.
    GiveUpRenewal(usize),
    /// The agent finds its lease over, or thinks so early: closes clients, keeps `Fenced(E)`.
    Expire(usize),
    /// A write is accepted: see [`Broken::NoSecondCheck`].
    Accept(usize),
    /// A write is accepted and done, and passes the second check.
    Check(usize),
    /// It is acknowledged.
    Acknowledge(usize),
    /// The process ends, as by SIGKILL.
    Crash(usize),
    /// It starts.
    Start(usize),
    /// It ends and starts.
    Restart(usize),
    /// An order to fence comes.
    Fence(usize, u8),
    /// An order to open the copy comes.
    Open(usize, u8),
    /// An order to serve comes, meant for that start of the process.
    Serve(usize, u8, u8),
}

impl Model for Rules {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::first()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        steps.push(Step::Claim);
        for executor in 0..2 {
            self.executor_steps(state, executor, steps);
        }
        if self.lacks(Broken::DirectoryApart) {
            steps.push(Step::List);
        }
        for region in 0..2 {
            if state.agents[region].up {
                self.data_steps(state, region, steps);
                self.order_steps(state, region, steps);
            } else {
                steps.push(Step::Start(region));
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = *last;
        let possible = match step {
            Step::Claim => self.claim(&mut state),
            Step::Revoke(executor) => self.revoke(&mut state, executor),
            Step::SeeRevoked(executor) => self.see_revoked(&mut state, executor),
            Step::TakeAnswer(executor) => take_answer(&mut state, executor),
            Step::EndWait(executor) => self.end_wait(&mut state, executor),
            Step::TakeWord(executor) => self.take_word(&mut state, executor),
            Step::SeeKeyGone(executor) => prove(&mut state, executor, Proof::VanishedKey),
            Step::Cancel(executor) => self.cancel(&mut state, executor),
            Step::Promote(executor) => self.promote(&mut state, executor),
            Step::SeePromoting(executor) => see_promoting(&mut state, executor),
            Step::TakeOpened(executor) => take_opened(&mut state, executor),
            Step::Promoted(executor) => self.promoted(&mut state, executor),
            Step::List => list(&mut state),
            Step::Renew(region) => renew(&mut state, region),
            Step::StoreRenewal(region) => self.store_renewal(&mut state, region),
            Step::TakeRenewal(region) => self.take_renewal(&mut state, region),
            Step::GiveUpRenewal(region) => give_up_renewal(&mut state, region),
            Step::Expire(region) => expire(&mut state, region),
            Step::Accept(region) => self.accept(&mut state, region),
            Step::Check(region) => self.check(&mut state, region),
            Step::Acknowledge(region) => self.acknowledge(&mut state, region),
            Step::Crash(region) => self.crash(&mut state, region),
            Step::Start(region) => self.start(&mut state, region),
            Step::Restart(region) => self.crash(&mut state, region) && self.start(&mut state, region),
            Step::Fence(region, epoch) => self.fence(&mut state, region, epoch),
            Step::Open(region, epoch) => self.open(&mut state, region, epoch),
            Step::Serve(region, epoch, start) => self.serve(&mut state, region, epoch, start),
        };
        if !possible {
            return None;
        }
        state.zone.pass(&self.limits);
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(self)
    }
}

/// What can be next, by stage. Each step itself says whether it is possible.
impl Rules {
    fn executor_steps(&self, state: &State, executor: usize, steps: &mut Vec<Step>) {
        match state.executors[executor].stage {
            Stage::Idle => {}
            Stage::Claimed => {
                steps.extend([
                    Step::Revoke(executor),
                    Step::SeeRevoked(executor),
                    Step::SeePromoting(executor),
                ]);
            }
            Stage::Stored => steps.push(Step::SeeRevoked(executor)),
            Stage::Waiting => {
                steps.extend([Step::TakeAnswer(executor), Step::EndWait(executor), Step::Cancel(executor)]);
                steps.push(Step::TakeWord(executor));
                if self.lacks(Broken::VanishedKeyIsProof) {
                    steps.push(Step::SeeKeyGone(executor));
                }
            }
            Stage::Proven(_) => steps.extend([Step::Promote(executor), Step::Cancel(executor)]),
            Stage::Promoting => steps.push(Step::TakeOpened(executor)),
            Stage::Opened => steps.push(Step::Promoted(executor)),
        }
    }

    fn data_steps(&self, state: &State, region: usize, steps: &mut Vec<Step>) {
        // A self-fencing item asks nobody whether a region is down, so going down and coming back is one step there.
        steps.push(if self.item == Item::Fence { Step::Restart(region) } else { Step::Crash(region) });
        if self.item == Item::Fence {
            match state.agents[region].renewal {
                Renewal::None => steps.push(Step::Renew(region)),
                Renewal::Sent => steps.extend([Step::StoreRenewal(region), Step::GiveUpRenewal(region)]),
                Renewal::Stored => steps.extend([Step::TakeRenewal(region), Step::GiveUpRenewal(region)]),
            }
            steps.push(Step::Expire(region));
        }
        // A write that was accepted and has not passed its second check changes nothing that anyone can see: to accept it
        // is a step of its own only where there is no second check.
        match state.agents[region].write {
            Write::None if self.lacks(Broken::NoSecondCheck) => steps.push(Step::Accept(region)),
            Write::None => steps.push(Step::Check(region)),
            Write::Accepted | Write::Checked => steps.push(Step::Acknowledge(region)),
        }
    }

    fn order_steps(&self, state: &State, region: usize, steps: &mut Vec<Step>) {
        let network = state.network[region];
        for epoch in 1..=self.epochs {
            if network.fence & bit(epoch) != 0 {
                steps.push(Step::Fence(region, epoch));
            }
            if network.promote & bit(epoch) != 0 {
                steps.push(Step::Open(region, epoch));
            }
            for (start, orders) in (0..).zip(network.serve) {
                if orders & bit(epoch) != 0 {
                    steps.push(Step::Serve(region, epoch, start));
                }
            }
        }
    }
}

/// The executors' half. Steps say `false` where they are not possible.
impl Rules {
    fn claim(&self, state: &mut State) -> bool {
        if state.claims == self.claims {
            return false;
        }
        state.claims += 1;
        let executor = usize::from(state.claims % 2);
        state.executors[executor] = Executor {
            claim: state.claims,
            epoch: state.own.epoch,
            source: state.own.region,
            stage: Stage::Claimed,
        };
        state.zone.stop(Clock::Wait(executor));
        if self.lacks(Broken::WaitFromSending) && state.own.phase == Phase::Serving {
            state.zone.start(Clock::Wait(executor));
        }
        true
    }

    fn revoke(&self, state: &mut State, executor: usize) -> bool {
        let next = state.own.epoch + 1;
        if !state.current(executor) || state.own.phase != Phase::Serving || next > self.epochs {
            return false;
        }
        state.put_own(Own { epoch: next, phase: Phase::Revoking, ..state.own });
        state.executors[executor].stage = Stage::Stored;
        state.executors[executor].epoch = next;
        true
    }

    fn see_revoked(&self, state: &mut State, executor: usize) -> bool {
        let replaces = state.executors[executor].stage == Stage::Claimed;
        if replaces && (!state.current(executor) || state.own.phase != Phase::Revoking) {
            return false;
        }
        let clock = Clock::Wait(executor);
        if self.item == Item::Fence || self.lacks(Broken::HoldWaitedOut) {
            if replaces && self.lacks(Broken::WaitContinued) {
                state.zone.start_anywhere(clock);
            } else if !self.lacks(Broken::WaitFromSending) || !state.zone.runs(clock) {
                state.zone.start(clock);
            }
        }
        state.executors[executor].stage = Stage::Waiting;
        let Executor { epoch, source, .. } = state.executors[executor];
        state.network[source].fence |= bit(epoch);
        true
    }

    fn end_wait(&self, state: &mut State, executor: usize) -> bool {
        state.zone.at_least(Clock::Wait(executor), self.wait) && prove(state, executor, Proof::Wait)
    }

    fn take_word(&self, state: &mut State, executor: usize) -> bool {
        let true_word = !state.agents[state.own.region].up || self.lacks(Broken::WordWhileUp);
        // Of an executor that was replaced nobody asks for anything.
        self.item == Item::Hold && true_word && state.current(executor) && prove(state, executor, Proof::Word)
    }

    fn cancel(&self, state: &mut State, executor: usize) -> bool {
        if !state.current(executor) || state.own.phase != Phase::Revoking {
            return false;
        }
        let granted =
            if self.lacks(Broken::CancelGrantsOldEpoch) { state.own.epoch - 1 } else { state.own.epoch + 1 };
        if granted > self.epochs {
            return false;
        }
        state.put_own(Own { epoch: granted, phase: Phase::Serving, ..state.own });
        state.directory.epoch = granted;
        state.confirm();
        dismiss(state, executor);
        true
    }

    fn promote(&self, state: &mut State, executor: usize) -> bool {
        let Stage::Proven(proof) = state.executors[executor].stage else { return false };
        let Executor { epoch, source, .. } = state.executors[executor];
        let unchanged = state.current(executor) && state.own.phase == Phase::Revoking;
        if !unchanged && !self.lacks(Broken::PromotionUnconditional) {
            return false;
        }
        state.faults.unproven |= proof == Proof::VanishedKey || !unchanged;
        state.put_own(Own { epoch, phase: Phase::Promoting, ..state.own });
        state.network[1 - source].promote |= bit(epoch);
        state.executors[executor].stage = Stage::Promoting;
        true
    }

    fn promoted(&self, state: &mut State, executor: usize) -> bool {
        let Executor { epoch, source, .. } = state.executors[executor];
        let unchanged = state.current(executor) && state.own.phase == Phase::Promoting;
        if !unchanged && !self.lacks(Broken::PromotionUnconditional) {
            return false;
        }
        let region = 1 - source;
        state.put_own(Own { epoch, region, phase: Phase::Serving });
        if !self.lacks(Broken::DirectoryApart) {
            state.directory = Listing { epoch, region };
        }
        state.confirm();
        dismiss(state, executor);
        true
    }
}

fn prove(state: &mut State, executor: usize, proof: Proof) -> bool {
    state.executors[executor].stage = Stage::Proven(proof);
    state.zone.stop(Clock::Wait(executor));
    true
}

fn take_answer(state: &mut State, executor: usize) -> bool {
    let Executor { epoch, source, .. } = state.executors[executor];
    state.network[source].fenced & bit(epoch) != 0 && prove(state, executor, Proof::Answer)
}

fn see_promoting(state: &mut State, executor: usize) -> bool {
    state.executors[executor].stage = Stage::Promoting;
    state.current(executor) && state.own.phase == Phase::Promoting
}

fn take_opened(state: &mut State, executor: usize) -> bool {
    let Executor { epoch, source, .. } = state.executors[executor];
    state.executors[executor].stage = Stage::Opened;
    state.network[1 - source].opened & bit(epoch) != 0
}

fn list(state: &mut State) -> bool {
    state.directory = Listing { epoch: state.own.epoch, region: state.own.region };
    state.own.phase == Phase::Serving
}

/// The executor has no job any more.
fn dismiss(state: &mut State, executor: usize) {
    state.executors[executor] = Executor { claim: 0, epoch: 0, source: 0, stage: Stage::Idle };
    state.zone.stop(Clock::Wait(executor));
}

/// The regions' half: leases and the data path.
impl Rules {
    fn store_renewal(&self, state: &mut State, region: usize) -> bool {
        let owner = Own { epoch: state.agents[region].memory.highest, region, phase: Phase::Serving };
        state.agents[region].renewal = Renewal::Stored;
        state.own == owner || self.lacks(Broken::RenewalUnconditional)
    }

    fn take_renewal(&self, state: &mut State, region: usize) -> bool {
        if self.lacks(Broken::LeaseFromAnswer) {
            state.zone.start(Clock::Lease(region));
        } else {
            state.zone.start_at(Clock::Lease(region), Clock::Note(region));
        }
        state.agents[region].leased = true;
        give_up_renewal(state, region)
    }

    /// The check of the data path.
    fn may_serve(&self, state: &mut State, region: usize) -> bool {
        let agent = state.agents[region];
        if agent.memory.role != Role::Active {
            return false;
        }
        match self.item {
            Item::Hold => agent.confirmed,
            Item::Fence if agent.confirmed && self.lacks(Broken::RestartServes) && agent.start > 0 => true,
            Item::Fence if self.lacks(Broken::LeaseClockStands) => agent.leased,
            Item::Fence => agent.leased && state.zone.at_most(Clock::Lease(region), self.lease),
        }
    }

    fn accept(&self, state: &mut State, region: usize) -> bool {
        state.agents[region].write = Write::Accepted;
        self.may_serve(state, region)
    }

    fn check(&self, state: &mut State, region: usize) -> bool {
        if !self.may_serve(state, region) {
            return false;
        }
        state.agents[region].write = Write::Checked;
        if self.item == Item::Fence {
            state.zone.start(Clock::Gap(region));
        }
        true
    }

    /// The check and the acknowledgement are not one step: a process that is not paused acknowledges within S of its
    /// check, and that is what S is for in W. One that is paused just there is the documented hole: only the receiver's
    /// own check of the epoch closes it, so it is left out here, and shown to exist by [`Broken::PausedAfterCheck`].
    ///
    /// A fence by order, unlike an expiry, waits for the writes under way before it answers.
    fn acknowledge(&self, state: &mut State, region: usize) -> bool {
        let bounded = self.item == Item::Fence
            && !self.lacks(Broken::PausedAfterCheck)
            && state.agents[region].write == Write::Checked;
        if bounded && !state.zone.at_most(Clock::Gap(region), self.gap) {
            return false;
        }
        let epoch = state.agents[region].memory.highest;
        state.faults.overlap |= epoch < state.acknowledged;
        state.acknowledged = state.acknowledged.max(epoch);
        state.agents[region].write = Write::None;
        state.zone.stop(Clock::Gap(region));
        true
    }

    fn crash(&self, state: &mut State, region: usize) -> bool {
        if state.agents[region].start == self.restarts {
            return false;
        }
        state.stop_serving(region);
        let agent = &mut state.agents[region];
        agent.up = false;
        agent.memory = agent.disk;
        agent.confirmed = false;
        true
    }

    fn start(&self, state: &mut State, region: usize) -> bool {
        let agent = &mut state.agents[region];
        agent.up = true;
        agent.start += 1;
        agent.confirmed = self.lacks(Broken::RestartServes) && agent.memory.role == Role::Active;
        if state.own.region == region {
            state.confirm();
        }
        true
    }
}

fn renew(state: &mut State, region: usize) -> bool {
    state.agents[region].renewal = Renewal::Sent;
    state.zone.start(Clock::Note(region));
    state.agents[region].memory.role == Role::Active
}

fn give_up_renewal(state: &mut State, region: usize) -> bool {
    state.agents[region].renewal = Renewal::None;
    state.zone.stop(Clock::Note(region));
    true
}

fn expire(state: &mut State, region: usize) -> bool {
    let possible = state.agents[region].memory.role == Role::Active && state.agents[region].leased;
    state.stop_serving(region);
    let agent = &mut state.agents[region];
    agent.memory.role = Role::Expired;
    agent.disk = agent.memory;
    possible
}

/// The regions' half: orders. Each is judged by its token, and is durable before it is answered.
impl Rules {
    /// Whether the agent obeys.
    fn obeys(&self, state: &mut State, region: usize, epoch: u8) -> bool {
        match state.agents[region].judge(epoch) {
            TokenVerdict::Current | TokenVerdict::Newer => true,
            TokenVerdict::Stale { .. } => {
                state.faults.obeyed_stale |= self.lacks(Broken::OldTokensObeyed);
                self.lacks(Broken::OldTokensObeyed)
            }
        }
    }

    fn fence(&self, state: &mut State, region: usize, epoch: u8) -> bool {
        let agent = state.agents[region];
        let obeys = self.obeys(state, region, epoch);
        // Opened under this very token: the order is for the region that had the item before.
        if !obeys || (agent.memory.highest == epoch && agent.memory.role == Role::Active) {
            return false;
        }
        state.stop_serving(region);
        let agent = &mut state.agents[region];
        agent.memory = Stand { highest: epoch, role: Role::Fenced };
        agent.confirmed = false;
        if !self.lacks(Broken::FenceNotKept) {
            agent.disk = agent.memory;
        }
        state.network[region].fenced |= bit(epoch);
        true
    }

    fn open(&self, state: &mut State, region: usize, epoch: u8) -> bool {
        if !self.obeys(state, region, epoch) {
            return false;
        }
        if state.agents[region].memory.highest == epoch && state.agents[region].memory.role != Role::Target {
            return false;
        }
        self.become_active(state, region, epoch);
        if !self.lacks(Broken::PromotionNotKept) {
            state.agents[region].disk = state.agents[region].memory;
        }
        state.network[region].opened |= bit(epoch);
        true
    }

    fn serve(&self, state: &mut State, region: usize, epoch: u8, start: u8) -> bool {
        let agent = state.agents[region];
        let meant = start == agent.start || self.lacks(Broken::ConfirmationOutlivesStart);
        let fenced = agent.memory == Stand { highest: epoch, role: Role::Fenced };
        if !meant || fenced || !self.obeys(state, region, epoch) {
            return false;
        }
        self.become_active(state, region, epoch);
        state.agents[region].disk = state.agents[region].memory;
        true
    }

    /// Serves under `epoch`, or goes on to; what was under way under another epoch is not acknowledged.
    fn become_active(&self, state: &mut State, region: usize, epoch: u8) {
        let active = Stand { highest: epoch, role: Role::Active };
        if state.agents[region].memory != active {
            state.stop_serving(region);
        }
        state.agents[region].memory = active;
        state.agents[region].confirmed = self.item == Item::Hold || state.agents[region].confirmed;
    }
}
