//! Which change: made where, when, and under which right to write.

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;

use crate::clock::Stamp;
use crate::versions::VersionVector;

/// One change. The order is that of the rights first and of the stamps second: what a region wrote after it had lost its
/// right loses against what its successor wrote, whatever their clocks say.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// The right it was made under.
    pub epoch: Epoch,
    /// When and where. No two changes have the same; those of one region rise.
    pub stamp: Stamp,
}

impl Mark {
    /// Who made it.
    #[must_use]
    pub fn region(&self) -> &Region {
        &self.stamp.region
    }

    /// When, by that region's clock.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.stamp.moment()
    }

    /// Writes what no other change has: where it was made, and the tick there.
    pub(super) fn write_dot(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.stamp.ticks().to_le_bytes());
        out.extend_from_slice(self.region().as_str().as_bytes());
        out.push(0);
    }

    /// Whether a version has seen this change: then it holds it, or has replaced it.
    #[must_use]
    pub fn is_in(&self, seen: &VersionVector) -> bool {
        seen.covers(&self.stamp.region, self.stamp.ticks())
    }
}
