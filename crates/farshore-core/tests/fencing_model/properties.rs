//! What must always hold, and what must be possible, lest a model in which nothing happens passes.

use stateright::Property;

use crate::rules::{Item, Rules};
use crate::state::{Phase, Role, Stage, State, bit};

/// The promise.
pub(crate) const DISJOINT: &str = "acknowledgements of different epochs do not overlap";
/// Ownership changes under a higher epoch only.
pub(crate) const EPOCHS_RISE: &str = "the own record changes hands under a higher epoch only";
/// Fencing by tokens.
pub(crate) const HIGHEST_WINS: &str = "nothing is obeyed below the highest token seen";
/// Durability of what was answered.
pub(crate) const KEPT: &str = "what an agent answered for outlives its process";
/// Names.
pub(crate) const DIRECTORY: &str = "the directory names the owner, and never a region fenced for good";
/// The only ways to a promotion.
pub(crate) const PROVEN: &str = "a promotion has an answer, a whole wait or an operator's word";

/// All properties of a model by these rules.
pub(crate) fn of(rules: &Rules) -> Vec<Property<Rules>> {
    let mut properties = vec![
        Property::<Rules>::always(DISJOINT, |_, state| !state.faults.overlap),
        Property::<Rules>::always(EPOCHS_RISE, |_, state| !state.faults.epoch_reused),
        Property::<Rules>::always(HIGHEST_WINS, |_, state| !state.faults.obeyed_stale),
        Property::<Rules>::always(KEPT, |_, state| kept(state)),
        Property::<Rules>::always(DIRECTORY, |_, state| directory(state)),
        Property::<Rules>::always(PROVEN, |_, state| !state.faults.unproven),
        Property::<Rules>::sometimes("a failover completes with the old region's answer", |_, state| {
            moved(state) && state.network[0].fenced & bit(state.own.epoch) != 0
        }),
        Property::<Rules>::sometimes("a failover completes without any answer", |_, state| {
            moved(state) && state.network[0].fenced == 0
        }),
        Property::<Rules>::sometimes("the new region acknowledges", |_, state| {
            moved(state) && state.acknowledged == state.own.epoch
        }),
        Property::<Rules>::sometimes(
            "after a cancelled failover the old region acknowledges again",
            |_, state| state.own.region == 0 && state.own.epoch == 3 && state.acknowledged == 3,
        ),
        Property::<Rules>::sometimes("replaced before revoking", |_, state| {
            replaced(state, |s| s == Stage::Claimed)
        }),
        Property::<Rules>::sometimes("replaced when revoked", |_, state| {
            replaced(state, |s| s == Stage::Stored)
        }),
        Property::<Rules>::sometimes("replaced while waiting", |_, state| {
            replaced(state, |s| s == Stage::Waiting)
        }),
        Property::<Rules>::sometimes("replaced with a proof in hand", |_, state| {
            replaced(state, |stage| matches!(stage, Stage::Proven(_)))
        }),
        Property::<Rules>::sometimes("replaced while promoting", |_, state| {
            replaced(state, |s| s == Stage::Promoting)
        }),
        Property::<Rules>::sometimes("replaced when opened", |_, state| {
            replaced(state, |s| s == Stage::Opened)
        }),
    ];
    if rules.restarts == 0 {
        return properties;
    }
    properties.push(Property::<Rules>::sometimes("a region acknowledges after a restart", |_, state| {
        state.agents[0].start == 1 && state.own.region == 0 && state.acknowledged > 1
    }));
    properties.extend(match rules.item {
        Item::Fence => vec![
            Property::<Rules>::sometimes("restarted while active", |_, state| restarted(state, Role::Active)),
            Property::<Rules>::sometimes("restarted while fenced", |_, state| restarted(state, Role::Fenced)),
            Property::<Rules>::sometimes("restarted while expired", |_, state| {
                restarted(state, Role::Expired)
            }),
        ],
        Item::Hold => vec![
            Property::<Rules>::sometimes("down while active", |_, state| down(state, Role::Active)),
            Property::<Rules>::sometimes("down while fenced", |_, state| down(state, Role::Fenced)),
            Property::<Rules>::sometimes("down while the other is promoted", |_, state| {
                state.own.phase == Phase::Promoting && !state.agents[state.own.region].up
            }),
        ],
    });
    properties
}

fn moved(state: &State) -> bool {
    state.own.region == 1 && state.own.phase == Phase::Serving
}

fn replaced(state: &State, at: fn(Stage) -> bool) -> bool {
    state.executors.iter().any(|executor| executor.claim < state.claims && at(executor.stage))
}

fn down(state: &State, role: Role) -> bool {
    state.agents.iter().any(|agent| !agent.up && agent.memory.role == role)
}

fn restarted(state: &State, role: Role) -> bool {
    state.agents.iter().any(|agent| agent.start > 0 && agent.memory.role == role)
}

fn kept(state: &State) -> bool {
    state.agents.iter().zip(&state.network).all(|(agent, network)| {
        let answered = network.fenced | network.opened;
        u32::from(agent.memory.highest) + answered.leading_zeros() >= u8::BITS - 1
    })
}

fn directory(state: &State) -> bool {
    let listed = state.directory;
    let stand = state.agents[listed.region].memory;
    let fenced = stand.role == Role::Fenced && stand.highest >= listed.epoch;
    // Until the promoted transaction the old region is named, whatever happens to it.
    state.own.phase != Phase::Serving
        || (!fenced && (listed.region, listed.epoch) == (state.own.region, state.own.epoch))
}
