//! The target side of a machine: receives its writes, keeps a day of moments, and brings any of them back at once.
//!
//! Read in this order: `segment` (the bytes on the disk), `journal` (append, sync, reopen) and `shelf` (read, never without
//! checking), `points` (recovery points, retention), `index` (which entry holds each byte), `replica` (the whole), with
//! `receive` (the sink of the wire), `head` (what a catch-up compares with) and `retire` (points expire, the disks move
//! forward) and `scrub` (damage is found before it matters); then `blockmap`, `sheet` and `layered` (disks made of layers), `promoted` and `fold` (failover, change of the
//! point, commit), `drill`, `divergence`; `state` and `recover` (what is remembered, and opening it).
//!
//! Must always hold:
//! - the disks are the fold of all entries before `base`, plus possibly some of those before the oldest offered point, and
//!   are touched by nothing but a seed, a fold, and writes after a commit;
//! - a point is offered only if everything up to it is durable, and it is a prefix of the source's writes;
//! - what does not match its checksum is an error and is never served.

mod blockmap;
mod divergence;
mod drill;
mod error;
mod fold;
mod head;
mod index;
mod journal;
mod layered;
mod points;
mod promoted;
mod receive;
mod recover;
#[expect(clippy::module_inception, reason = "the room is named after its main thing")]
mod replica;
mod retire;
mod scrub;
mod segment;
mod sheet;
mod shelf;
mod state;

use std::path::Path;
use std::sync::Arc;

use farshore_core::workload::Point;

pub use drill::Drill;
pub use error::ReplicaError;
pub use points::{KEEP, KEEP_ALL, Retention, THEN_EVERY};
pub use promoted::Promoted;
pub use replica::{Options, Replica, ReplicaStatus};
pub use state::DivergenceInfo;

use crate::disk::Disk;
use crate::record::Range;

/// What a replica's directory turned out to be.
#[derive(Debug)]
pub enum Opened {
    /// It receives.
    Replica(Replica),
    /// It is served at a point; committed or not, folded or not.
    Promoted(Promoted),
    /// It was folded and nothing but its disks is left.
    Plain {
        /// The point it was opened at.
        point: Point,
        /// What had been received past that point.
        received_after_point: Vec<Range>,
    },
}

/// Opens a replica's directory, whatever it is.
pub fn open_any(dir: &Path, disks: Vec<Arc<dyn Disk>>, options: Options) -> Result<Opened, ReplicaError> {
    let state = state::State::load(dir)?;
    match state.phase {
        state::Phase::Virgin { .. } | state::Phase::Following => {
            Replica::open(dir, disks, options).map(Opened::Replica)
        }
        state::Phase::Plain(chosen) if state.divergence.is_none() => {
            promoted::remove_folded(dir)?;
            Ok(Opened::Plain { point: chosen.point, received_after_point: promoted::load_received(dir)? })
        }
        _ => Promoted::open(dir, disks, options).map(Opened::Promoted),
    }
}
