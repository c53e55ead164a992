//! Everything that is remembered somewhere: in the store, on agents' disks, in memories, in the network.
//!
//! Small integers stand for epochs and regions: 0 is the region that is active at first, 1 the other.

use farshore_core::fencing::{TokenVerdict, judge};
use farshore_core::ids::{Epoch, Token};

use crate::zone::{Clock, Zone};

/// The life of the store in these models; `restored` has its own.
const INCARNATION: u64 = 1;

/// A moment of the whole system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// The own record.
    pub(crate) own: Own,
    /// The directory.
    pub(crate) directory: Listing,
    /// The executor epoch of the last claim: a compare-and-set in the store.
    pub(crate) claims: u8,
    /// By claim, in turns: a new claim does not end the executor before it, which may only be paused.
    pub(crate) executors: [Executor; 2],
    /// By region.
    pub(crate) agents: [Agent; 2],
    /// Orders and answers, by region.
    pub(crate) network: [Network; 2],
    /// The highest epoch under which a client got an acknowledgement.
    pub(crate) acknowledged: u8,
    /// What must never happen, and did.
    pub(crate) faults: Faults,
    /// Time.
    pub(crate) zone: Zone,
}

/// `items/<id>/own`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Own {
    pub(crate) epoch: u8,
    pub(crate) region: usize,
    pub(crate) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// `region` may write under `epoch`.
    Serving,
    /// `region` lost the right; nobody has it.
    Revoking,
    /// The point of no return: the other region is told to open its copy.
    Promoting,
}

/// `directory/<name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Listing {
    pub(crate) epoch: u8,
    pub(crate) region: usize,
}

/// A coordinator at its job. All of it is lost with the process; what remains is in the own record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Executor {
    /// Its executor epoch.
    pub(crate) claim: u8,
    /// The own record's epoch as it last saw it.
    pub(crate) epoch: u8,
    /// The region that loses the item.
    pub(crate) source: usize,
    pub(crate) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    /// Has no job.
    Idle,
    /// Has the job. Its first transaction, or its first read, is under way.
    Claimed,
    /// The revocation is stored; the answer is under way.
    Stored,
    /// Knows that the revocation is stored. Asks the old region, and waits.
    Waiting,
    /// May promote.
    Proven(Proof),
    /// The point of no return is stored; the target is asked.
    Promoting,
    /// The target has answered.
    Opened,
}

/// Why the old region counts as stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Proof {
    /// It said so.
    Answer,
    /// It was waited out.
    Wait,
    /// A person said so.
    Word,
    /// Its lease-attached key is gone: not a proof, see [`crate::rules::Broken::VanishedKeyIsProof`].
    VanishedKey,
}

/// One region's agent and data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Agent {
    /// What it goes by.
    pub(crate) memory: Stand,
    /// What it will go by after a restart.
    pub(crate) disk: Stand,
    pub(crate) up: bool,
    /// How often its process was started again.
    pub(crate) start: u8,
    /// A holding item serves when it was confirmed since its process started.
    pub(crate) confirmed: bool,
    /// A self-fencing item serves while it has a lease. [`Clock::Lease`] runs.
    pub(crate) leased: bool,
    pub(crate) renewal: Renewal,
    pub(crate) write: Write,
}

/// What an agent knows of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stand {
    /// The highest token seen.
    pub(crate) highest: u8,
    pub(crate) role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Follows.
    Target,
    /// Was told to serve under the highest token.
    Active,
    /// Fenced itself when its lease was over: `Fenced(E)`.
    Expired,
    /// Was told to fence itself, by the highest token.
    Fenced,
}

/// The renewal under way. [`Clock::Note`] runs unless `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Renewal {
    None,
    Sent,
    /// The store has done it; the answer is under way.
    Stored,
}

/// A client's write in a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Write {
    None,
    Accepted,
    /// Passed the second check: [`Clock::Gap`] runs.
    Checked,
}

/// Everything ever sent to and by one agent, as bits by epoch. Nothing is taken out: a message may come late, often, in
/// any order or never, which is loss, or a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network {
    /// Orders to fence.
    pub(crate) fence: u8,
    /// Orders to open the copy.
    pub(crate) promote: u8,
    /// Orders to serve, by start of the process that they were meant for.
    pub(crate) serve: [u8; 3],
    /// Answers "fenced".
    pub(crate) fenced: u8,
    /// Answers "opened".
    pub(crate) opened: u8,
}

/// Noted where it happens; a property each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Faults {
    /// An acknowledgement under an epoch lower than that of an earlier one.
    pub(crate) overlap: bool,
    /// The own record changed hands without a higher epoch.
    pub(crate) epoch_reused: bool,
    /// A promotion without answer, whole wait or word.
    pub(crate) unproven: bool,
    /// An agent obeyed a token below its highest.
    pub(crate) obeyed_stale: bool,
}

impl State {
    /// Region 0 serves under epoch 1, region 1 follows.
    pub(crate) fn first() -> Self {
        let agent = |role, highest| Agent {
            memory: Stand { highest, role },
            disk: Stand { highest, role },
            up: true,
            start: 0,
            confirmed: role == Role::Active,
            leased: false,
            renewal: Renewal::None,
            write: Write::None,
        };
        let silent = Network { fence: 0, promote: 0, serve: [0; 3], fenced: 0, opened: 0 };
        let mut first = Self {
            own: Own { epoch: 1, region: 0, phase: Phase::Serving },
            directory: Listing { epoch: 1, region: 0 },
            claims: 0,
            executors: [Executor { claim: 0, epoch: 0, source: 0, stage: Stage::Idle }; 2],
            agents: [agent(Role::Active, 1), agent(Role::Target, 0)],
            network: [silent; 2],
            acknowledged: 0,
            faults: Faults::default(),
            zone: Zone::new(),
        };
        first.confirm();
        first
    }

    /// The owner is told that it may serve. Sent as soon as it is true; that it is decided now and sent later by a paused
    /// coordinator is a delay.
    pub(crate) fn confirm(&mut self) {
        if self.own.phase == Phase::Serving {
            let start = usize::from(self.agents[self.own.region].start);
            self.network[self.own.region].serve[start] |= bit(self.own.epoch);
        }
    }

    /// Changes the own record.
    pub(crate) fn put_own(&mut self, own: Own) {
        let handed_over = own.region != self.own.region || own.phase == Phase::Serving;
        if own.epoch < self.own.epoch || (handed_over && own.epoch <= self.directory.epoch) {
            self.faults.epoch_reused = true;
        }
        self.own = own;
    }

    /// Region `at` forgets its lease, its renewal and the write under way: nothing of them is acknowledged any more.
    pub(crate) fn stop_serving(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        agent.leased = false;
        agent.renewal = Renewal::None;
        agent.write = Write::None;
        self.zone.stop(Clock::Lease(at));
        self.zone.stop(Clock::Note(at));
        self.zone.stop(Clock::Gap(at));
    }

    /// Whether the executor's claim is the last and the own record as it saw it: what its transactions compare.
    pub(crate) fn current(&self, executor: usize) -> bool {
        let seen = self.executors[executor];
        seen.claim == self.claims && seen.epoch == self.own.epoch
    }
}

impl Agent {
    /// What the real arithmetic says to a token.
    pub(crate) fn judge(&self, epoch: u8) -> TokenVerdict {
        judge(token(epoch), token(self.memory.highest))
    }
}

/// The bit of an epoch.
pub(crate) fn bit(epoch: u8) -> u8 {
    1 << epoch
}

fn token(epoch: u8) -> Token {
    Token::new(INCARNATION, Epoch(u64::from(epoch)))
}
