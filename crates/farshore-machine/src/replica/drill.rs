//! A throw-away copy of a machine at a point: a view of the journal and a layer that nobody keeps.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use farshore_core::workload::Point;

use super::divergence::Keeping;
use super::error::ReplicaError;
use super::index::View;
use super::layered::{Layered, Sheets};
use super::sheet::Sheet;
use super::shelf::Shelf;
use super::state::remove;
use crate::disk::Disk;
use crate::record::BLOCK;

/// A running test failover. Cleaned up when it is dropped, too; not kept over a restart.
#[derive(Debug)]
pub struct Drill {
    dir: PathBuf,
    point: Point,
    disks: Vec<Arc<Layered>>,
    /// How many drills hold the base where it is.
    holds: Arc<AtomicUsize>,
    is_over: AtomicBool,
}

impl Drill {
    pub(super) fn open(
        dir: PathBuf,
        point: Point,
        disks: &[Arc<Keeping>],
        shelf: &Arc<Shelf>,
        views: Vec<View>,
        holds: Arc<AtomicUsize>,
    ) -> Result<Self, ReplicaError> {
        let mut layered = Vec::new();
        for (number, (disk, view)) in disks.iter().zip(views).enumerate() {
            let layer = Sheet::throw_away(&dir, number, disk.size(), BLOCK)
                .map_err(ReplicaError::io("make the drill's layer in", &dir))?;
            let sheets = Sheets::Layer { view: Arc::new(view), layer: Arc::new(layer) };
            let base: Arc<dyn Disk> = Arc::<Keeping>::clone(disk);
            layered.push(Arc::new(Layered::new(number, base, Arc::clone(shelf), sheets)));
        }
        holds.fetch_add(1, Ordering::AcqRel);
        Ok(Self { dir, point, disks: layered, holds, is_over: AtomicBool::new(false) })
    }

    /// The copy's disks, for reading and writing.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.disks.iter().map(|disk| Arc::<Layered>::clone(disk) as Arc<dyn Disk>).collect()
    }

    /// The point that was opened.
    #[must_use]
    pub fn point(&self) -> &Point {
        &self.point
    }

    /// Removes the copy; its disks give errors from now on. Repeated it changes nothing.
    pub fn clean_up(&self) -> Result<(), ReplicaError> {
        self.disks.iter().for_each(|disk| disk.close());
        remove(&self.dir).map_err(ReplicaError::io("remove the drill in", &self.dir))?;
        if !self.is_over.swap(true, Ordering::AcqRel) {
            self.holds.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            tracing::warn!(%error, "the drill's files are left; they are removed at the next start");
        }
    }
}
