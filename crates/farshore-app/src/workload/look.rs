//! What an app tells of itself, without I/O.

use farshore_core::workload::{Observation, Role, Watermark};
use serde_json::{Value, json};

use super::capacity;
use super::item::Item;
use super::now;

/// All that this region knows of the app.
pub(super) fn look(item: &Item) -> Observation {
    let role = item.role();
    let card = item.card().clone();
    Observation {
        token: card.token,
        role,
        ready: role != Role::Unconfirmed,
        shape: shape(item),
        watermark: watermark(item),
        endpoints: if role == Role::Active { item.around.endpoints() } else { Vec::new() },
        replication: None,
        points: Vec::new(),
        drill: None,
        promotion: card.promotion.clone(),
        folding_bytes: 0,
        divergence: None,
        warnings: warnings(item),
        start: None,
    }
}

fn watermark(item: &Item) -> Watermark {
    let epoch = item.card().epoch;
    Watermark { epoch, seq: item.charter().tag.version, bytes: 0, at: now() }
}

/// What a target needs to know of it, and what others ask of it; nothing secret.
fn shape(item: &Item) -> Value {
    let role = item.role();
    let claims = item.around.claims();
    let charter = item.charter();
    json!({
        "spec": charter.spec,
        "mode": charter.spec.mode,
        "instances": charter.spec.instances,
        "reserve_for": charter.spec.reserve_for,
        "lent_to": charter.lent_to,
        "healthy": role == Role::Active,
        "release": charter.live,
        "tree": charter.live_release().map(|release| release.tree.clone()),
        "capacity": {
            "mib": item.around.options.capacity_mib,
            "used_mib": capacity::used_mib(&claims),
        },
    })
}

fn warnings(item: &Item) -> Vec<String> {
    let mut warnings: Vec<String> = item.lease.warning().into_iter().collect();
    if item.role() == Role::Target {
        let claims = item.around.claims();
        let here = item.around.options.region.as_str();
        warnings.extend(capacity::reserve_warning(&claims, &item.id.name, &item.charter().spec, here));
    }
    warnings
}
