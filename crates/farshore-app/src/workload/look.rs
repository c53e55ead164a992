//! What an app tells of itself, without I/O.

use farshore_core::moment::Moment;
use farshore_core::workload::{
    Divergence, Endpoint, Loss, Observation, Point, PointChoice, PointKind, Replication, Role, Watermark,
};
use serde_json::{Value, json};

use super::item::{Item, Matter};
use super::{capacity, now};
use crate::data::Position;

/// The point that is always there: what has arrived.
pub(super) const POINT: &str = "live";

/// All that this region knows of the app.
pub(super) fn look(item: &Item) -> Observation {
    let role = item.role();
    let card = item.card().clone();
    Observation {
        token: card.token,
        role,
        ready: is_ready(item),
        shape: shape(item),
        watermark: told_watermark(item),
        endpoints: if role == Role::Active { item.around.endpoints() } else { Vec::new() },
        replication: if role == Role::Target { None } else { replication(item) },
        points: if offers(item) { points(item) } else { Vec::new() },
        drill: item.drill_view(),
        promotion: card.promotion.clone(),
        folding_bytes: 0,
        divergence: divergence(item),
        warnings: warnings(item),
        cannot_promote: if role == Role::Target { cannot_promote(item) } else { None },
        start: None,
    }
}

/// How far it is. Where that is not known, farther than any other region can be: nobody may take it for drained.
fn told_watermark(item: &Item) -> Watermark {
    let watermark = item.watermark();
    if item.is_in_the_dark() {
        return Watermark { epoch: item.card().token.epoch, ..watermark };
    }
    watermark
}

/// Whether what the role asks for is really being done.
pub(super) fn is_ready(item: &Item) -> bool {
    match item.role() {
        // A reserve whose capacity is used has nothing to do.
        Role::Active => item.is_used_up() || item.is_up() || item.noted(Matter::Away).is_some(),
        Role::Unconfirmed => false,
        Role::Target => item.stock.engine().is_none() || item.stock.replica().is_some(),
        Role::Fenced => true,
    }
}

/// That there is no room for it here. What has not arrived yet cannot be judged.
fn cannot_promote(item: &Item) -> Option<String> {
    if !item.stock.charter().is_known() {
        return None;
    }
    let (claims, spec) = (item.around.claims(), item.stock.charter().spec.clone());
    let room = capacity::room_for(&claims, &item.id.name, &spec, item.around.options.capacity_mib);
    room.err().map(|no_room| no_room.to_string())
}

/// A target that had everything of its source once; and whoever was promoted, until that is accepted.
fn offers(item: &Item) -> bool {
    match item.role() {
        Role::Target => item.stock.is_whole(),
        Role::Active => item.card().promotion.is_some(),
        Role::Fenced | Role::Unconfirmed => false,
    }
}

/// Backups, oldest first; then what has arrived.
fn points(item: &Item) -> Vec<Point> {
    let epoch = item.watermark().epoch;
    let backups = item.known_backups();
    let one = |backup: &crate::data::backup::Backup| {
        let Position { commits, bytes, at } = backup.position;
        Point {
            id: backup.id.clone(),
            watermark: Watermark { epoch, seq: commits, bytes, at },
            at: backup.at,
            kind: PointKind::App,
            name: None,
        }
    };
    backups.iter().filter(|backup| backup.ok).map(one).chain([live_point(item)]).collect()
}

fn live_point(item: &Item) -> Point {
    let promoted = item.card().promotion.as_ref().map(|promotion| promotion.point.clone());
    if let Some(point) = promoted.filter(|point| point.id == POINT) {
        return point;
    }
    let watermark = item.watermark();
    Point { id: POINT.to_owned(), watermark, at: watermark.at, kind: PointKind::Crash, name: None }
}

/// The point that is meant.
pub(super) fn point_of(item: &Item, choice: &PointChoice) -> Result<Point, String> {
    let points = points(item);
    let found = match choice {
        PointChoice::Latest | PointChoice::LatestProcessed => return Ok(live_point(item)),
        PointChoice::Id(id) => points.into_iter().find(|point| point.id == *id),
        PointChoice::At(at) => points.into_iter().rev().find(|point| point.at <= *at),
    };
    found.ok_or_else(|| match choice {
        PointChoice::Id(id) => format!("there is no point {id} here: see farshore points {}", item.id),
        _ => format!("there is no point that old here: see farshore points {}", item.id),
    })
}

/// How far the source was when it was last heard.
pub(super) fn source_watermark(item: &Item) -> Watermark {
    let here = item.watermark();
    let heard = item.link().and_then(|link| link.status().watermark);
    let told = heard.or(item.card().source.as_ref().map(|source| source.watermark)).unwrap_or(here);
    let theirs = item.stock.replica().map(|replica| replica.theirs()).unwrap_or_default();
    if item.stock.engine().is_some() && theirs.commits > told.seq {
        return Watermark { seq: theirs.commits, bytes: theirs.bytes, at: theirs.at, ..told };
    }
    told
}

/// When the source was last heard.
pub(super) fn source_last_seen(item: &Item) -> Moment {
    let heard = item.link().and_then(|link| link.status().heard);
    heard.or(item.card().source.as_ref().map(|source| source.heard)).unwrap_or_default()
}

/// What a promotion may have lost: what the source had told of and not given; and in time, everything since it was last heard.
pub(super) fn loss(item: &Item) -> Loss {
    let (here, theirs) = (item.watermark(), source_watermark(item));
    let status = item.link().map(|link| link.status()).unwrap_or_default();
    let (writes, bytes) = (theirs.seq.saturating_sub(here.seq), theirs.bytes.saturating_sub(here.bytes));
    // A source that was fenced first, and told everything, cannot have more.
    if status.is_up && status.role == Some(Role::Fenced) && writes == 0 {
        return Loss::default();
    }
    let since = if writes == 0 { source_last_seen(item) } else { here.at };
    Loss { writes, bytes, seconds: seconds_between(since, now()) }
}

fn seconds_between(from: Moment, to: Moment) -> f64 {
    to.since(from).as_secs_f64()
}

/// What only this region has, once another was made active without it.
fn divergence(item: &Item) -> Option<Divergence> {
    let lost = item.card().lost.clone()?;
    let crate::data::Loss { commits, bytes, seconds } = lost.loss;
    if commits == 0 && lost.exact {
        return None;
    }
    let uri = format!("file://{}", lost.dir.display());
    Some(Divergence {
        after: lost.after,
        loss: Loss { writes: commits, bytes, seconds },
        exact: lost.exact,
        endpoints: vec![Endpoint { name: "database".to_owned(), uri }],
    })
}

fn replication(item: &Item) -> Option<Replication> {
    let target = item.card().partner.clone()?;
    let link = item.link()?;
    let (status, state) = (link.status(), link.phase());
    let here = item.watermark();
    let confirmed = item.stock.live().and_then(|live| live.confirmed());
    let acknowledged = match (item.stock.engine(), confirmed) {
        (None, _) if link.lacks().is_none() => here,
        (Some(_), Some(Position { commits, bytes, at })) => {
            Watermark { epoch: here.epoch, seq: commits, bytes, at }
        }
        _ => Watermark { epoch: here.epoch, at: unconfirmed_since(item), ..Watermark::default() },
    };
    let lag = Loss {
        writes: here.seq.saturating_sub(acknowledged.seq),
        bytes: here.bytes.saturating_sub(acknowledged.bytes),
        seconds: if here.seq > acknowledged.seq { seconds_between(acknowledged.at, here.at) } else { 0.0 },
    };
    let (copied, of) = status.has.as_ref().map_or((0, 0), |has| (has.copied, has.of));
    Some(Replication {
        target,
        state,
        behind_bytes: of.saturating_sub(copied),
        total_bytes: of,
        moved_bytes: status.moved_bytes,
        differed_bytes: 0,
        acknowledged,
        lag,
        note: status.note.or(link.lacks().map(|lacks| format!("the other region does not have {lacks} yet"))),
    })
}

/// From when on a region that has confirmed nothing may lack what is written here, as early as it can be: while the other region
/// was this one's source, it had everything; and nothing was written before the first release. Never the beginning of time, which
/// would be told as a lag of decades.
fn unconfirmed_since(item: &Item) -> Moment {
    let followed = {
        let card = item.card();
        let promotion = card.promotion.as_ref().map(|promotion| promotion.source_last_seen);
        promotion.filter(|seen| *seen > Moment::default()).or(card.source.as_ref().map(|source| source.heard))
    };
    let first_release = || item.stock.charter().releases.first().map(|release| release.at);
    followed.or_else(first_release).unwrap_or_else(|| item.watermark().at)
}

/// What a target needs to know of it, and what others ask of it; nothing secret.
fn shape(item: &Item) -> Value {
    let claims = item.around.claims();
    let healthy = item.role() == Role::Active && is_ready(item) && item.noted(Matter::Away).is_none();
    let charter = item.stock.charter();
    json!({
        "spec": charter.spec,
        "mode": charter.spec.mode,
        "instances": charter.spec.instances,
        "reserve_for": charter.spec.reserve_for,
        "lent_to": charter.lent_to,
        "lent_by": charter.lent_by,
        "healthy": healthy,
        "release": charter.live,
        "tree": charter.live_release().map(|release| release.tree.clone()),
        "capacity": {
            "mib": item.around.options.capacity_mib,
            "used_mib": capacity::used_mib(&claims),
        },
    })
}

fn warnings(item: &Item) -> Vec<String> {
    let mut warnings = item.notes();
    warnings.extend(item.lease.warning());
    match item.role() {
        Role::Target => {
            let claims = item.around.claims();
            let here = item.around.options.region.as_str();
            let spec = item.stock.charter().spec.clone();
            warnings.extend(capacity::reserve_warning(&claims, &item.id.name, &spec, here));
            warnings.extend(item.link().and_then(|link| link.status().note));
        }
        Role::Active => {
            let mib = item.around.options.capacity_mib;
            let used = capacity::used_mib(&item.around.claims());
            if used > mib {
                warnings.push(format!(
                    "the apps of this region use {used} MiB and it has {mib}: raise capacity_mib, or scale some down"
                ));
            }
            warnings.extend(item.stock.live().into_iter().flat_map(|live| live.warnings()));
            warnings.extend(suspended(item));
        }
        Role::Fenced | Role::Unconfirmed => {}
    }
    warnings
}

/// That the other region is not waited for, though it should be.
fn suspended(item: &Item) -> Option<String> {
    let partner = item.card().partner.clone()?;
    let is_suspended = item.is_synchronous() && !item.gate.is_in_force();
    is_suspended.then(|| {
        format!(
            "answers go out when what they did is durable here, though protection is synchronous: until {partner} is heard and keeps up again"
        )
    })
}
