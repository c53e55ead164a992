//! What a machine tells of itself, without I/O.

use std::net::SocketAddr;

use farshore_core::ids::{ItemId, Token};
use farshore_core::workload::{
    Divergence, DrillView, Endpoint, Observation, Point, PointKind, Role, Watermark,
};
use serde_json::{Value, json};

use super::machine::{Body, Machine, export_name};
use crate::replica::Promoted;

/// The newest points are told one by one: what an operator chooses from in an incident.
const POINTS_NEWEST: usize = 100;
/// Older points are thinned evenly to this many; any moment can still be chosen by time.
const POINTS_OLDER: usize = 200;

impl Machine {
    /// Its name, highest token and role.
    pub(super) fn known(&self) -> (ItemId, Token, Role) {
        (self.card.item.clone(), self.card.token, self.role())
    }

    /// All that this region knows of the machine.
    pub(super) fn look(&self) -> Observation {
        let mut observation = Observation {
            token: self.card.token,
            role: self.role(),
            ready: false,
            shape: self.shape(),
            watermark: Watermark::default(),
            endpoints: Vec::new(),
            replication: None,
            points: Vec::new(),
            drill: self.drill_view(),
            promotion: self.card.promotion.clone(),
            folding_bytes: 0,
            divergence: self.divergence(),
            warnings: Vec::new(),
            cannot_promote: None,
            start: None,
        };
        match &self.body {
            Body::Source { source, promoted } => {
                observation.ready =
                    self.confirmed && (self.card.role != Role::Active || self.lease.is_valid());
                observation.warnings.extend(self.lease.warning());
                observation.watermark = source.watermark();
                observation.replication = source.replication();
                if observation.role == Role::Active && self.confirmed {
                    observation.endpoints = self.endpoints("", self.around.nbd);
                }
                if let Some(promoted) = promoted {
                    observation.warnings.extend(promoted.damaged());
                    self.look_at_promoted(promoted, &mut observation);
                }
            }
            Body::Target { replica } => {
                let status = replica.status();
                observation.ready = status.damaged.is_none();
                observation.watermark = status.durable;
                observation.points = thinned(replica.points());
                observation.warnings.extend(status.damaged);
            }
            // Not ready: the job that promotes sees it and orders again.
            Body::Promoting { promoted } => observation.watermark = promoted.point().watermark,
            Body::Broken { why } => observation.warnings.push(why.clone()),
        }
        observation
    }

    fn look_at_promoted(&self, promoted: &Promoted, observation: &mut Observation) {
        if self.card.promotion.is_some() {
            observation.points = thinned(promoted.points());
        } else {
            observation.folding_bytes = promoted.folding_bytes();
        }
    }

    fn role(&self) -> Role {
        match self.card.role {
            Role::Active if !self.confirmed => Role::Unconfirmed,
            role => role,
        }
    }

    fn shape(&self) -> Value {
        let disks: Vec<Value> = self
            .card
            .disks
            .iter()
            .map(|disk| json!({"name": disk.name, "size_bytes": disk.size_bytes}))
            .collect();
        json!({ "disks": disks })
    }

    fn endpoints(&self, suffix: &str, address: SocketAddr) -> Vec<Endpoint> {
        // Beyond loopback the server speaks TLS only.
        let scheme = if address.ip().is_loopback() { "nbd" } else { "nbds" };
        let uri = |disk: &str| format!("{scheme}://{address}/{}", export_name(&self.card.item, suffix, disk));
        self.card
            .disks
            .iter()
            .map(|disk| Endpoint { name: disk.name.clone(), uri: uri(&disk.name) })
            .collect()
    }

    fn drill_view(&self) -> Option<DrillView> {
        let drilling = self.drill.as_ref()?;
        let address = drilling.server.tcp_addr()?;
        Some(DrillView {
            point: drilling.drill.point().clone(),
            endpoints: self.endpoints("@drill", address),
        })
    }

    fn divergence(&self) -> Option<Divergence> {
        let lost = self.kept()?;
        let endpoints =
            if lost.loss.writes > 0 { self.endpoints("@diverged", self.around.nbd) } else { Vec::new() };
        Some(Divergence { after: lost.after, loss: lost.loss, exact: lost.exact, endpoints })
    }
}

/// The newest points, all that a person named, and an even choice of the others; oldest first.
fn thinned(points: Vec<Point>) -> Vec<Point> {
    let older = points.len().saturating_sub(POINTS_NEWEST);
    if older <= POINTS_OLDER {
        return points;
    }
    let step = older.div_ceil(POINTS_OLDER);
    points
        .into_iter()
        .enumerate()
        .filter(|(index, point)| *index >= older || index % step == 0 || point.kind == PointKind::Named)
        .map(|(_, point)| point)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_core::moment::Moment;

    #[test]
    fn points_are_thinned_but_the_newest_the_oldest_and_the_named_stay() {
        let point = |index: u64| Point {
            id: format!("p{index}"),
            watermark: Watermark { seq: index, ..Watermark::default() },
            at: Moment(index),
            kind: if index == 777 { PointKind::Named } else { PointKind::Crash },
            name: None,
        };
        let shown = thinned((0..5_000).map(point).collect());
        assert!(shown.len() <= POINTS_NEWEST + POINTS_OLDER + 1, "{}", shown.len());
        assert_eq!(shown.first().unwrap().id, "p0");
        assert_eq!(shown.last().unwrap().id, "p4999");
        assert!(shown.iter().any(|point| point.id == "p777"));
        assert!(shown.is_sorted_by_key(|point| point.at));
    }
}
