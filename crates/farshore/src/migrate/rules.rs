//! When a migration is taken: everything that can be refused, as a function of what was seen.

use farshore_app::mode::Mode;
use farshore_app::reserve::{self, Capacity, Refusal, Service, State};
use farshore_core::ids::{Name, Region};
use farshore_core::lifecycle::{Item, Phase};
use farshore_core::store::Revision;
use serde::Deserialize;

use super::Asked;
use crate::engine::SubmitError;

/// What an app's region tells of it beside what all kinds tell (`shape`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Shape {
    pub(super) mode: Mode,
    pub(super) instances: u32,
    #[serde(default)]
    pub(super) reserve_for: Option<Name>,
    #[serde(default)]
    pub(super) lent_to: Option<Name>,
    #[serde(default)]
    pub(super) lent_by: Option<String>,
    #[serde(default)]
    pub(super) healthy: bool,
    #[serde(default)]
    pub(super) release: Option<u64>,
    #[serde(default)]
    pub(super) tree: Option<String>,
}

/// One of the two apps.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) item: Item,
    pub(super) at: Revision,
    /// From whoever knows it: its region, else what was last seen of it, else the region that follows it.
    pub(super) shape: Option<Shape>,
    /// Its region answers, and serves it.
    pub(super) serves: bool,
    /// Why its region does not answer, if it does not.
    pub(super) silent: Option<String>,
    /// A migration of it is under way.
    pub(super) migrating: bool,
    /// A job is under way, and what it does.
    pub(super) busy: Option<String>,
}

/// A migration that may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) primary_at: Revision,
    pub(super) secondary_at: Revision,
    pub(super) from: Region,
    pub(super) capacity: Capacity,
    pub(super) silent: Option<String>,
    pub(super) pushed_last: Option<String>,
    pub(super) release_last: Option<u64>,
}

/// Whether `primary` may be recovered onto `secondary` now.
///
/// # Errors
/// The first rule that is broken, in the order in which a person would mend them.
pub(super) fn admit(asked: &Asked, primary: &Seen, secondary: &Seen) -> Result<Admitted, SubmitError> {
    let capacity = reserve::check(&service(asked, primary)?, &service(asked, secondary)?, asked.force)
        .map_err(|refusal| refused(code(&refusal), refusal.to_string()))?;
    check_secondary(asked, secondary)?;
    for one in [primary, secondary] {
        if let Some(busy) = &one.busy {
            return Err(refused("busy", format!("{} is busy: {busy}; wait for its end", one.item.id)));
        }
    }
    let answers = primary.silent.is_none();
    check_way(&primary.item, &capacity.region, answers)?;
    if let Some(why) = &primary.silent
        && !asked.source_is_down
        && primary.item.lease.is_none()
    {
        let why = format!(
            "region {} does not answer ({why}): if you know that it is down, say so (source_is_down; this is recorded)",
            primary.item.source
        );
        return Err(refused("source-unreachable", why));
    }
    Ok(Admitted {
        primary_at: primary.at,
        secondary_at: secondary.at,
        from: primary.item.source.clone(),
        capacity,
        silent: primary.silent.clone(),
        pushed_last: primary.shape.as_ref().and_then(|shape| shape.tree.clone()),
        release_last: primary.shape.as_ref().and_then(|shape| shape.release),
    })
}

/// As the rules for reserves look at it.
fn service(asked: &Asked, seen: &Seen) -> Result<Service, SubmitError> {
    let name = seen.item.id.name.clone();
    let Some(shape) = &seen.shape else {
        let why = format!(
            "nobody who answers knows how large {} is: start a node of {}, or of the region that follows it",
            seen.item.id, seen.item.source
        );
        return Err(refused("mode-unknown", why));
    };
    // A reserve that nothing was deployed to has nothing that could be ill.
    let well = shape.healthy || (name == asked.secondary && shape.release.is_none());
    let state = match seen.silent {
        Some(_) => State::Unknown,
        None if seen.serves && well => State::Healthy,
        None => State::Unhealthy,
    };
    Ok(Service {
        name,
        region: seen.item.source.clone(),
        mode: shape.mode,
        instances: shape.instances,
        state,
        migrating: seen.migrating,
    })
}

/// What it would be a pity to remove, or could not be removed.
fn check_secondary(asked: &Asked, secondary: &Seen) -> Result<(), SubmitError> {
    let id = &secondary.item.id;
    let shape = secondary.shape.as_ref();
    if let Some(other) = shape.and_then(|shape| shape.lent_to.as_ref()).filter(|name| **name != asked.primary)
    {
        let why = format!("the capacity of {id} is used by app/{other}: choose another secondary");
        return Err(refused("lent", why));
    }
    if let Some(other) =
        shape.and_then(|shape| shape.reserve_for.as_ref()).filter(|name| **name != asked.primary)
        && !asked.force
    {
        let why = format!("{id} is the reserve of app/{other}: use --force to take it all the same");
        return Err(refused("reserved", why));
    }
    if secondary.item.phase != Phase::Unprotected {
        let why = format!(
            "{id} is {}, and a secondary must not be replicated itself: disable it first (farshore disable {id})",
            secondary.item.phase.as_str()
        );
        return Err(refused("secondary-protected", why));
    }
    Ok(())
}

/// There is a way from what the primary is to being active in `to`.
fn check_way(item: &Item, to: &Region, answers: bool) -> Result<(), SubmitError> {
    let id = &item.id;
    if let Some(target) = item.target.as_ref().filter(|target| *target != to) {
        let why = format!(
            "{id} replicates to {target}, not to {to}: choose a secondary in {target}, or disable {id} and protect it \
             toward {to} first"
        );
        return Err(refused("replicates-elsewhere", why));
    }
    let follows = matches!(item.phase, Phase::Protected { .. } | Phase::FailingOver { .. });
    match item.phase {
        _ if follows => Ok(()),
        Phase::Unprotected | Phase::FailedOver | Phase::Committed if answers => Ok(()),
        Phase::Unprotected | Phase::FailedOver | Phase::Committed => {
            let why = format!(
                "{id} is {} and its region {} does not answer: nothing that could be recovered is in {to}",
                item.phase.as_str(),
                item.source
            );
            Err(refused("not-protected", why))
        }
        _ => {
            let why =
                format!("{id} is {}: see farshore status {id} for what is possible", item.phase.as_str());
            Err(refused("not-now", why))
        }
    }
}

fn refused(code: &'static str, why: String) -> SubmitError {
    SubmitError::Refused { code, why, possible: Vec::new() }
}

fn code(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::SameName(_) => "same-name",
        Refusal::SameRegion { .. } => "same-region",
        Refusal::TooSmall { .. } => "too-small",
        Refusal::SecondaryNotHealthy(_) => "secondary-not-healthy",
        Refusal::PrimaryHealthy(_) => "primary-healthy",
        Refusal::UnderWay(_) => "migration-under-way",
    }
}

#[cfg(test)]
mod tests;
