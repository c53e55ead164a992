//! Reserves whose capacity went to an app without a migration: by a plain failover, or by one that was given up.
//!
//! Must always hold: nothing is begun for an app that a job holds or that is part of a migration, and nothing by one look alone.

use std::collections::BTreeMap;

use farshore_core::ids::{ItemId, Kind, Name};
use farshore_core::lifecycle::{Item, Phase as ItemPhase};
use farshore_core::store::{CommitError, Compare, ReadError, Transaction};
use farshore_core::workload::Role;
use serde_json::{Value, json};

use super::record::{Migration, Open, Phase, key, open_key};
use super::rules::Shape;
use super::step::Loan;
use super::{app, is_migrating, list, new_id, sight};
use crate::engine::book::{At, put};
use crate::engine::records::{AuditLine, own_key};
use crate::engine::{Control, now};

/// Who is named in the audit.
const WHO: &str = "control-plane (used reserve)";
/// It must have looked so this often, one search after the other.
const SEARCHES_MIN: u32 = 3;

/// What one control node remembers between searches.
#[derive(Debug, Default)]
pub(super) struct Memory {
    seen: BTreeMap<(Name, Loan), u32>,
}

/// What is to be done about a reserve whose capacity is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lent {
    /// Its app runs there: it is verified, and the reserve is removed.
    Used,
    /// Its app is elsewhere: the capacity is given back.
    Idle,
    /// A job will tell, or a person must.
    Leave,
}

fn judge(secondary: &Item, primary: Option<&Item>) -> Lent {
    let Some(primary) = primary else { return Lent::Idle };
    let came_here = primary.source == secondary.source
        && primary.failover.as_ref().is_some_and(|report| report.to == secondary.source);
    match primary.phase {
        ItemPhase::FailingOver { .. } | ItemPhase::NeedsUser { .. } | ItemPhase::Deleting => Lent::Leave,
        _ if came_here => Lent::Used,
        _ if primary.source != secondary.source => Lent::Idle,
        _ => Lent::Leave,
    }
}

/// Looks at all apps once. One that is replicated itself cannot be removed like this, and is no reserve.
pub(super) async fn search(control: &Control, memory: &mut Memory) -> Result<(), ReadError> {
    let (items, busy) = control.items_and_busy().await?;
    let apps: BTreeMap<&ItemId, &Item> =
        items.iter().filter(|item| item.id.kind == Kind::App).map(|item| (&item.id, item)).collect();
    let mut seen = BTreeMap::new();
    for (id, secondary) in apps.iter().filter(|(_, item)| item.phase == ItemPhase::Unprotected) {
        let Some(loan) = loan(control, secondary) else { continue };
        let primary_id = app(&loan.to);
        let primary = apps.get(&primary_id).copied();
        if busy.contains(*id) || busy.contains(&primary_id) {
            continue;
        }
        let judged = judge(secondary, primary);
        if judged == Lent::Leave
            || is_migrating(control, &id.name).await?
            || is_migrating(control, &loan.to).await?
        {
            continue;
        }
        let pair = (id.name.clone(), loan);
        let times = memory.seen.get(&pair).copied().unwrap_or_default() + 1;
        if times >= SEARCHES_MIN {
            act(control, judged, secondary, primary, &pair.1).await?;
        }
        seen.insert(pair, times);
    }
    memory.seen = seen;
    Ok(())
}

/// As its region told last; a silent region's reserve is left alone.
fn loan(control: &Control, secondary: &Item) -> Option<Loan> {
    let Shape { lent_to, lent_by, .. } = shape_of_active(control, secondary, secondary)?;
    lent_to.map(|to| Loan { to, by: lent_by })
}

/// What the reserve's region told last of an app that is active there; `None`: nothing, or it does not answer any more.
fn shape_of_active(control: &Control, item: &Item, reserve: &Item) -> Option<Shape> {
    let seen = control.seen(&item.id).remove(&reserve.source)?;
    let answers = seen.error.is_none();
    let observation = seen.observation.filter(|seen| answers && seen.role == Role::Active)?;
    serde_json::from_value(observation.shape).ok()
}

async fn act(
    control: &Control,
    judged: Lent,
    secondary: &Item,
    primary: Option<&Item>,
    loan: &Loan,
) -> Result<(), ReadError> {
    match (judged, primary) {
        (Lent::Used, Some(primary)) => verify_and_remove(control, secondary, primary).await,
        (Lent::Idle, _) => {
            give_back(control, secondary, loan).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Begins a migration where its last part begins. One that has ended for the same failover is not repeated.
async fn verify_and_remove(control: &Control, secondary: &Item, primary: &Item) -> Result<(), ReadError> {
    let Some(failover) = &primary.failover else { return Ok(()) };
    let (name, reserve) = (&primary.id.name, &secondary.id.name);
    let earlier = list(control).await?.into_iter().any(|earlier| {
        earlier.primary == *name
            && earlier.secondary == *reserve
            && earlier.updated_at >= failover.requested_at
    });
    if earlier {
        return Ok(());
    }
    // What cannot be seen yet is looked at again.
    let active = |item: &Item| shape_of_active(control, item, secondary);
    let (Some(reserve_has), Some(has)) = (active(secondary), active(primary)) else { return Ok(()) };
    let mode = reserve_has.mode.max(has.mode);
    let now = now();
    let migration = Migration {
        id: new_id(Some(format!("used {name} {reserve} {}", failover.requested_at.0))),
        primary: name.clone(),
        secondary: reserve.clone(),
        asked_by: WHO.to_owned(),
        source_is_down: false,
        from: failover.from.clone(),
        to: secondary.source.clone(),
        mode,
        // How many it has is its own: the failover has given it as many as there is room for.
        instances: has.instances.clamp(1, mode.instances_max()),
        pushed_last: None,
        release_last: None,
        phase: Phase::Verifying,
        since: now,
        trouble: None,
        stuck: false,
        silent_since: None,
        unfit: None,
        created_at: failover.requested_at,
        updated_at: now,
        report: None,
    };
    if let Err(error) = store(control, &migration).await {
        tracing::debug!(%error, app = %primary.id, "its used reserve is looked at later");
    }
    Ok(())
}

async fn store(control: &Control, migration: &Migration) -> Result<(), CommitError> {
    let (primary, secondary) = (app(&migration.primary), app(&migration.secondary));
    let open = Open { id: migration.id.clone() };
    let mut compares = vec![
        Compare::Absent(key(&migration.id)),
        Compare::Absent(open_key(&migration.primary)),
        Compare::Absent(open_key(&migration.secondary)),
    ];
    for id in [&primary, &secondary] {
        let read = control.book().item(id).await;
        let at = read.map_err(|error| CommitError::Unavailable(error.to_string()))?;
        let Some(At { revision, .. }) = at else { return Ok(()) };
        compares.push(Compare::At(own_key(id), revision));
    }
    let writes = vec![
        put(key(&migration.id), migration)?,
        put(open_key(&migration.primary), &open)?,
        put(open_key(&migration.secondary), &open)?,
    ];
    let what =
        format!("{primary} uses the capacity of {secondary}, which is removed when {primary} is well there");
    let line = AuditLine { who: WHO.to_owned(), what, item: Some(primary), job: None };
    control.book().commit(Transaction { compares, writes }, Some(line)).await.map(drop)
}

/// What was lent anew meanwhile stays lent: it is said which loan is meant.
async fn give_back(control: &Control, secondary: &Item, loan: &Loan) {
    let (id, Loan { to, by }) = (&secondary.id, loan);
    let what = format!("the capacity of {id} is its own again: app/{to} does not use it");
    if control.note_in_audit(WHO, &what, id).await.is_err() {
        return;
    }
    let take_back = json!({"ask": "take-back", "of": to, "migration": by});
    let asked = sight::ask::<Value>(control, &secondary.source, id, take_back).await;
    if let Err(error) = asked {
        tracing::warn!(app = %id, %error, "its capacity is not given back yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_core::fencing::OnControlLoss;
    use farshore_core::ids::Region;
    use farshore_core::lifecycle::{FailoverReport, Stage, StopProof};
    use farshore_core::moment::Moment;
    use farshore_core::workload::{Loss, Point, PointKind, Promotion, Watermark};

    fn item(name: &str, region: &str) -> Item {
        let (id, region) = (ItemId::parse(&format!("app/{name}")).unwrap(), Region::parse(region).unwrap());
        Item { phase: ItemPhase::Unprotected, ..Item::new(id, region, OnControlLoss::Hold, Moment(1)) }
    }

    fn came(from: &str, to: &str) -> Item {
        let [from, to] = [from, to].map(|name| Region::parse(name).unwrap());
        let point = Point {
            id: "p".to_owned(),
            watermark: Watermark::default(),
            at: Moment(1),
            kind: PointKind::Crash,
            name: None,
        };
        let promotion = Promotion {
            point,
            source_last_known: Watermark::default(),
            source_last_seen: Moment(1),
            at_failover: Loss::default(),
        };
        let report = FailoverReport {
            planned: false,
            from,
            to: to.clone(),
            requested_at: Moment(2),
            rto_seconds: 1.0,
            proof: StopProof::Acknowledged,
            promotion,
            loss_final: None,
            exact: false,
        };
        Item { failover: Some(report), phase: ItemPhase::FailedOver, ..item("todo", to.as_str()) }
    }

    #[test]
    fn a_lent_reserve_is_used_or_idle_or_left_alone() {
        let reserve = item("spare", "oslo");
        let here = came("paris", "oslo");
        assert_eq!(judge(&reserve, Some(&here)), Lent::Used);
        assert_eq!(judge(&reserve, Some(&Item { phase: ItemPhase::Committed, ..here.clone() })), Lent::Used);
        assert_eq!(judge(&reserve, Some(&item("todo", "paris"))), Lent::Idle, "it never came");
        assert_eq!(judge(&reserve, None), Lent::Idle, "it was removed");
        assert_eq!(judge(&reserve, Some(&item("todo", "oslo"))), Lent::Leave, "it was made there");
        let moving = ItemPhase::FailingOver { planned: false, stage: Stage::Promoting };
        assert_eq!(judge(&reserve, Some(&Item { phase: moving, ..item("todo", "paris") })), Lent::Leave);
    }
}
