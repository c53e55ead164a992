//! What a hub tells of itself, without I/O.

use farshore_core::moment::Moment;
use farshore_core::workload::{
    Divergence, Endpoint, Loss, Observation, Point, PointKind, Replication, ReplicationMode,
    ReplicationState, Role, Watermark,
};
use serde_json::json;

use super::item::Item;
use super::now;
use crate::link::{Link, Position};

/// The one point of a hub: what has arrived.
pub(super) const POINT: &str = "live";

/// Damaged places that are told one by one: the log has them all.
const DAMAGE_SAID_MAX: usize = 3;

/// A change is so many bytes on the wire, roughly: for progress, not for accounts.
const CHANGE_BYTES: u64 = 500;

/// All that this region knows of the hub.
pub(super) fn look(item: &Item) -> Observation {
    let role = item.role();
    let card = item.card().clone();
    let mut warnings = Vec::new();
    let stats = item.fleet.stats();
    if let Some(failing) = &stats.telemetry.failing {
        warnings.push(format!("telemetry is not acknowledged: {failing}"));
    }
    warnings.extend(damage(item, &stats.telemetry.damaged));
    warnings.extend(item.link().and_then(|link| link.status().unnoted));
    if stats.telemetry.expired_unpulled > 0 {
        warnings.push(format!(
            "{} events were deleted before the other region had them: raise retention_gib, or mend the link",
            stats.telemetry.expired_unpulled
        ));
    }
    warnings.extend(suspended(item));
    warnings.extend(item.lease.warning());
    warnings.extend(item.runners.warnings());
    if role == Role::Active && !card.is_whole {
        warnings.push(
            "devices that only the lost region knew are told to wait: when it is back, run farshore hub merge or reprotect"
                .to_owned(),
        );
    }
    Observation {
        token: card.token,
        role,
        ready: match role {
            Role::Active => item.fleet.is_serving() || card.lease.is_some(),
            Role::Unconfirmed => false,
            Role::Target | Role::Fenced => true,
        },
        shape: json!({ "spec": card.spec }),
        watermark: watermark(item),
        endpoints: if role == Role::Active { endpoints(item) } else { Vec::new() },
        replication: if role == Role::Target { None } else { replication(item) },
        points: if offers(item) { vec![point(item)] } else { Vec::new() },
        drill: item.drill_view(),
        promotion: card.promotion.clone(),
        folding_bytes: 0,
        divergence: divergence(item),
        warnings,
        cannot_promote: None,
        start: None,
    }
}

/// What of the telemetry cannot be read here: what the other region does not give, or, until it was asked, all of it.
fn damage(item: &Item, met: &[String]) -> Vec<String> {
    let lost = item.link().map(|link| link.status().lost).unwrap_or_default();
    let said = if lost.is_empty() { met } else { &lost };
    said.iter().take(DAMAGE_SAID_MAX).cloned().collect()
}

/// A target that had everything of its source once; and whoever was promoted, until that is accepted.
fn offers(item: &Item) -> bool {
    let complete = item.link().is_some_and(|link| link.status().complete_at.is_some());
    let card = item.card();
    match card.role {
        Role::Target => complete || card.theirs.is_some(),
        Role::Active => card.promotion.is_some(),
        Role::Fenced | Role::Unconfirmed => false,
    }
}

fn position(item: &Item) -> Position {
    item.link().map(|link| link.position()).unwrap_or_else(|| Position {
        epoch: item.epoch(),
        own: item.fleet.registry().own(),
        seen: 0,
        telemetry: crate::telemetry::Cursor(item.fleet.telemetry().ends()),
    })
}

/// Records of the source's count: its own changes, and the events of all logs. What a target has of its own and the source does
/// not is none of them: it must not make up for what is lacking.
fn watermark(item: &Item) -> Watermark {
    let here = position(item);
    let role = item.card().role;
    let status = item.link().map(|link| link.status()).unwrap_or_default();
    let (records, at) = match role {
        Role::Target => {
            let events = status.theirs.map_or_else(|| here.events(), |theirs| here.events_known_to(&theirs));
            (here.seen + events, status.complete_at.unwrap_or_default())
        }
        _ => (here.own + here.events(), now()),
    };
    Watermark { epoch: here.epoch, seq: records, bytes: 0, at }
}

/// How far the source was when it was last heard.
pub(super) fn source_watermark(item: &Item) -> Watermark {
    let theirs = item.link().and_then(|link| link.status().theirs).or_else(|| item.card().theirs.clone());
    theirs.map_or_else(
        || watermark(item),
        |theirs| Watermark {
            epoch: theirs.epoch,
            seq: theirs.own + theirs.events(),
            bytes: 0,
            at: source_last_seen(item),
        },
    )
}

/// When the source was last heard.
pub(super) fn source_last_seen(item: &Item) -> Moment {
    let heard = item.link().and_then(|link| link.status().heard);
    heard.or(item.card().heard).unwrap_or_default()
}

pub(super) fn point(item: &Item) -> Point {
    let watermark = watermark(item);
    Point { id: POINT.to_owned(), watermark, at: watermark.at, kind: PointKind::Crash, name: None }
}

/// What a promotion may have lost: what the source had told of and not given; and in time, everything since it was last complete.
pub(super) fn loss(item: &Item, is_whole: bool) -> Loss {
    if is_whole {
        return Loss::default();
    }
    let known = source_watermark(item).seq.saturating_sub(watermark(item).seq);
    let complete_at = item.link().and_then(|link| link.status().complete_at);
    let since = complete_at.unwrap_or_else(|| source_last_seen(item));
    #[expect(clippy::cast_precision_loss, reason = "microseconds of hours are exact")]
    let seconds = now().0.saturating_sub(since.0) as f64 / 1e6;
    Loss { writes: known, bytes: 0, seconds }
}

/// What only this region has, once another was made active without it.
fn divergence(item: &Item) -> Option<Divergence> {
    let (after, role) = {
        let card = item.card();
        (card.lost_after?, card.role)
    };
    if role != Role::Fenced {
        return None;
    }
    let own = watermark(item);
    let writes = own.seq.saturating_sub(after.seq);
    if writes == 0 {
        return None;
    }
    let link = item.link();
    let bytes =
        link.as_ref().filter(|link| link.status().theirs.is_some()).map_or(0, |link| link.behind().bytes);
    #[expect(clippy::cast_precision_loss, reason = "microseconds of hours are exact")]
    let seconds = own.at.0.saturating_sub(after.at.0) as f64 / 1e6;
    Some(Divergence { after, loss: Loss { writes, bytes, seconds }, exact: true, endpoints: Vec::new() })
}

fn endpoints(item: &Item) -> Vec<Endpoint> {
    item.around.endpoints()
}

fn replication(item: &Item) -> Option<Replication> {
    let target = item.card().partner.clone()?;
    let link = item.link()?;
    let (status, behind, phase) = (link.status(), link.behind(), link.phase());
    let lag_bytes = behind.bytes + behind.changes * CHANGE_BYTES;
    let theirs = status.theirs.clone().unwrap_or_default();
    let acknowledged = Watermark {
        epoch: theirs.epoch,
        seq: theirs.seen + theirs.events(),
        bytes: 0,
        at: status.heard.unwrap_or_default(),
    };
    Some(Replication {
        target,
        state: phase,
        behind_bytes: if phase == ReplicationState::Streaming { 0 } else { lag_bytes },
        total_bytes: lag_bytes,
        moved_bytes: status.moved_bytes,
        differed_bytes: 0,
        acknowledged,
        lag: Loss { writes: behind.records(), bytes: behind.bytes, seconds: seconds_behind(&link) },
        note: status.note,
    })
}

/// That the other region is not waited for, though it should be.
fn suspended(item: &Item) -> Option<String> {
    let card = item.card();
    let (is_sync, role, partner) = (card.mode == ReplicationMode::Sync, card.role, card.partner.clone()?);
    drop(card);
    let is_waited_for = item.link().is_some_and(|link| link.awaited().borrow().is_some());
    (is_sync && role == Role::Active && !is_waited_for).then(|| {
        format!(
            "what devices say is acknowledged when it is durable here, though protection is synchronous: until {partner} is heard and \
             keeps up again"
        )
    })
}

/// How old the oldest event is that the other region lacks.
fn seconds_behind(link: &Link) -> f64 {
    let Some(oldest) = link.behind().oldest else { return 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "microseconds of hours are exact")]
    let seconds = now().0.saturating_sub(oldest.0) as f64 / 1e6;
    seconds
}
