//! What a hub tells of itself, without I/O.

use farshore_core::ids::Epoch;
use farshore_core::moment::Moment;
use farshore_core::workload::{
    Endpoint, Loss, Observation, Point, PointKind, Replication, ReplicationState, Role, Watermark,
};
use serde_json::json;

use super::item::Item;
use crate::link::LinkState;
use crate::live::now;

/// The one point of a hub: its sessions as they are now.
pub(super) const POINT: &str = "live";

/// All that this region knows of the hub.
pub(super) fn look(item: &Item) -> Observation {
    let role = item.role();
    let settings = item.hub.settings();
    let mut warnings = Vec::new();
    if item.card.role == Role::Target && settings.version == 0 {
        warnings.push("the other region has not told the hub's keys yet: nobody can be served".to_owned());
    }
    warnings.extend(item.around.bus.iter().flat_map(|bus| bus.warnings()));
    Observation {
        token: item.card.token,
        role,
        ready: item.confirmed && (role != Role::Active || item.hub.is_serving()),
        shape: json!({ "hub": settings.hub.as_str() }),
        watermark: watermark(item),
        endpoints: if role == Role::Active { endpoints(item) } else { Vec::new() },
        replication: (role != Role::Target).then(|| replication(item)).flatten(),
        points: if offers(item) { vec![point(item)] } else { Vec::new() },
        drill: item.drill.as_ref().map(|drill| drill.view()),
        promotion: item.card.promotion.clone(),
        folding_bytes: 0,
        divergence: None,
        warnings,
        cannot_promote: None,
        start: None,
    }
}

/// A target that has its source's sessions; and whoever was promoted, until that is accepted.
fn offers(item: &Item) -> bool {
    match item.card.role {
        Role::Target => item.hub.settings().version > 0,
        Role::Active => item.card.promotion.is_some(),
        Role::Fenced | Role::Unconfirmed => false,
    }
}

/// Positions in the log of whoever is, or was, the source.
fn watermark(item: &Item) -> Watermark {
    let seq = match (item.card.role, &item.link) {
        (Role::Target, Some(link)) => link.status().applied.map_or(0, |position| position.0),
        _ => item.hub.position().0,
    };
    Watermark { epoch: Epoch(0), seq, bytes: 0, at: now() }
}

pub(super) fn point(item: &Item) -> Point {
    let watermark = watermark(item);
    Point { id: POINT.to_owned(), watermark, at: watermark.at, kind: PointKind::Crash, name: None }
}

/// What a promotion without the source may have lost: while the link was up every promise waited for this region, so it is
/// nothing but the time in which the link was down, in which the source may have served alone.
pub(super) fn loss(item: &Item) -> Loss {
    let silent = Moment(now().0.saturating_sub(last_seen(item).0));
    #[expect(clippy::cast_precision_loss, reason = "microseconds of hours are exact")]
    let seconds = silent.0 as f64 / 1e6;
    Loss { writes: 0, bytes: 0, seconds }
}

/// When the other region was last heard.
pub(super) fn last_seen(item: &Item) -> Moment {
    match item.link.as_ref().map(|link| link.status().state) {
        Some(LinkState::Disconnected { since }) => since,
        _ => now(),
    }
}

fn endpoints(item: &Item) -> Vec<Endpoint> {
    let hub = item.hub.name();
    let uri = |base: &str| format!("{}/client/hubs/{hub}", base.replacen("http", "ws", 1));
    vec![
        Endpoint { name: "pair".to_owned(), uri: uri(&item.around.pair_url) },
        Endpoint { name: "region".to_owned(), uri: uri(&item.around.url) },
    ]
}

fn replication(item: &Item) -> Option<Replication> {
    let partner = item.card.partner.as_ref()?;
    let status = item.link.as_ref()?.status();
    let state = match status.state {
        LinkState::Connected => ReplicationState::Streaming,
        LinkState::Seeding => ReplicationState::Seeding,
        LinkState::Disconnected { .. } => ReplicationState::Disconnected,
    };
    let (confirmed, at) = status.confirmed.unwrap_or_default();
    let acknowledged = Watermark { epoch: Epoch(0), seq: confirmed.0, bytes: 0, at };
    let lag_records = status.lag_records();
    Some(Replication {
        target: partner.region.clone(),
        state,
        behind_bytes: 0,
        total_bytes: 0,
        moved_bytes: status.moved_bytes,
        differed_bytes: 0,
        acknowledged,
        lag: Loss { writes: lag_records, bytes: 0, seconds: 0.0 },
        note: status.note,
    })
}
