//! A machine opened for writes at a point: views of the journal with layers over them, until a commit folds all into the
//! disks.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farshore_core::workload::{Point, PointChoice, Watermark};

use super::Options;
use super::blockmap::BlockMap;
use super::divergence::{self, Keeping};
use super::error::ReplicaError;
use super::fold::Folder;
use super::head::views;
use super::journal::{Found, Journal};
use super::layered::{Layered, Sheets};
use super::points::{self, Offered};
use super::recover::{Recovered, Stream, journal_dir, recover};
use super::replica::{drop_kept, pack, unpack};
use super::segment::Place;
use super::sheet::Sheet;
use super::state::{self, Chosen, DivergenceInfo, Phase, State, remove};
use crate::disk::Disk;
use crate::record::{BLOCK, Range};

/// A promoted machine. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct Promoted(pub(super) Arc<Inner>);

/// What the handles and the folding thread share.
#[derive(Debug)]
pub(super) struct Inner {
    dir: PathBuf,
    disks: Vec<Arc<Keeping>>,
    pub(super) layered: Vec<Arc<Layered>>,
    core: Mutex<Core>,
    drills: Arc<AtomicUsize>,
    pub(super) folder: Folder,
}

#[derive(Debug)]
struct Core {
    state: State,
    journal: Journal,
    points: Vec<Offered>,
    stream: Stream,
    damaged_at: Option<Place>,
}

impl Promoted {
    /// Opens the disks as `state`, which is made durable, says. Nothing was changed on an error.
    pub(super) fn start(
        dir: &Path,
        disks: Vec<Arc<Keeping>>,
        options: Options,
        state: State,
        drills: &Arc<AtomicUsize>,
    ) -> Result<Self, ReplicaError> {
        let Found { journal, marks, damaged_at } =
            Journal::open(&journal_dir(dir), options.segment_bytes, state.base, state.base_watermark)
                .map_err(ReplicaError::io("open the journal in", dir))?;
        let (points, stream) = super::recover::replay(&marks, &state);
        let recovered = Recovered { state, journal, disks, points, stream, damaged_at };
        let promoted = Self::assemble(dir, recovered, drills)?;
        promoted.0.core().state.store(dir)?;
        Ok(promoted)
    }

    /// Opens a directory that was promoted, after a restart. A committed one goes on folding.
    pub fn open(dir: &Path, disks: Vec<Arc<dyn Disk>>, options: Options) -> Result<Self, ReplicaError> {
        let recovered = recover(dir, disks, &options)?;
        if matches!(recovered.state.phase, Phase::Virgin { .. } | Phase::Following) {
            let text = format!("the replica in {} was not promoted: open it as a replica", dir.display());
            return Err(ReplicaError::WrongState(text));
        }
        let phase = recovered.state.phase.clone();
        let promoted = Self::assemble(dir, recovered, &Arc::default())?;
        match phase {
            Phase::Plain(_) => remove_folded(dir)?,
            Phase::Committed(_) => promoted.0.start_folding(),
            _ => {}
        }
        Ok(promoted)
    }

    fn assemble(dir: &Path, recovered: Recovered, drills: &Arc<AtomicUsize>) -> Result<Self, ReplicaError> {
        let Recovered { state, journal, disks, points, stream, damaged_at } = recovered;
        let shelf = Arc::clone(journal.shelf());
        let core = Core { state, journal, points, stream, damaged_at };
        let sheets = core.sheets(dir, &disks).map_err(ReplicaError::io("open the layers in", dir))?;
        let layered = disks.iter().zip(sheets).enumerate().map(|(number, (disk, sheets))| {
            let base: Arc<dyn Disk> = Arc::<Keeping>::clone(disk);
            Arc::new(Layered::new(number, base, Arc::clone(&shelf), sheets))
        });
        let layered = layered.collect();
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            disks,
            layered,
            folder: Folder::new(matches!(core.state.phase, Phase::Plain(_))),
            core: Mutex::new(core),
            drills: Arc::clone(drills),
        })))
    }

    /// The machine's disks. The same handles stay valid through changes of the point and the commit.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<dyn Disk>> {
        self.0.layered.iter().map(|disk| Arc::<Layered>::clone(disk) as Arc<dyn Disk>).collect()
    }

    /// The point that is served.
    #[must_use]
    pub fn point(&self) -> Point {
        self.0.core().chosen().point.clone()
    }

    /// The points that can be changed to, oldest first. None after the commit.
    #[must_use]
    pub fn points(&self) -> Vec<Point> {
        let core = self.0.core();
        match core.state.phase {
            Phase::Promoted(_) => core.points.iter().map(|offered| offered.point.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// What the old target had received past the point: the new side does not have it, the old source does, so it belongs
    /// to the delta of a reprotect. Whole blocks, sorted, disjoint. Also known after the commit.
    pub fn received_after_point(&self) -> Result<Vec<Range>, ReplicaError> {
        let core = self.0.core();
        match core.state.phase {
            Phase::Committed(_) | Phase::Plain(_) => load_received(&self.0.dir),
            _ => Ok(core.received_after(core.chosen().until)?),
        }
    }

    /// Serves another moment instead. What was written since stays in the layer of the point that is left: coming back to
    /// it finds it again, until the commit. The disks must not be written to meanwhile.
    pub fn change_point(&self, choice: &PointChoice) -> Result<(), ReplicaError> {
        let mut core = self.0.core();
        if !matches!(core.state.phase, Phase::Promoted(_)) {
            let text = "the point was committed and the others are gone: it cannot be changed any longer";
            return Err(ReplicaError::WrongState(text.to_owned()));
        }
        let Offered { point, until } = core.choose(choice)?;
        if until == core.chosen().until {
            return Ok(());
        }
        let before = core.state.phase.clone();
        core.state.phase = Phase::Promoted(Chosen { point, until });
        let changed = self.0.change(&core);
        if changed.is_err() {
            core.state.phase = before;
        }
        changed
    }

    /// Accepts the state: the other points and layers go, and everything is folded into the disks in the background while
    /// they are served. Durable on return; repeated it changes nothing.
    pub fn commit(&self) -> io::Result<()> {
        let mut core = self.0.core();
        let chosen = match &core.state.phase {
            Phase::Promoted(chosen) => chosen.clone(),
            _ => return Ok(()),
        };
        if self.0.drills.load(Ordering::Acquire) > 0 {
            let text = "a test failover is still open on these disks: clean it up, then commit";
            return Err(ReplicaError::WrongState(text.to_owned()).into());
        }
        let received = core.received_after(chosen.until)?;
        state::store(&received_path(&self.0.dir), &pack(&received))?;
        let maps = done_maps(&self.0.dir, &self.0.disks)?;
        let mut committed = core.state.clone();
        committed.phase = Phase::Committed(chosen);
        committed.store(&self.0.dir)?;
        core.state = committed;
        for (disk, done) in self.0.layered.iter().zip(maps) {
            if let Sheets::Layer { view, layer } = disk.sheets() {
                disk.swap(Sheets::Folding { view, layer, done });
            }
        }
        drop(core);
        self.0.start_folding();
        Ok(())
    }

    /// Bytes that are still to be folded; 0 before the commit and when done.
    #[must_use]
    pub fn folding_bytes(&self) -> u64 {
        self.0.folder.remaining()
    }

    /// Everything is in the disks; the journal and the layers are gone.
    #[must_use]
    pub fn folded(&self) -> bool {
        self.0.folder.is_done()
    }

    /// What is wrong, if anything: damage in the journal, or why folding stopped.
    #[must_use]
    pub fn damaged(&self) -> Option<String> {
        self.0.core().journal.shelf().damaged().or_else(|| self.0.folder.failure())
    }

    /// What was last known of the source: its highest position, and when it was heard of.
    #[must_use]
    pub fn source_last_known(&self) -> (Watermark, farshore_core::moment::Moment) {
        self.0.core().journal.source()
    }

    /// Stops folding and waits for its thread; [`Promoted::open`] goes on with it.
    pub fn stop(&self) {
        self.0.folder.stop();
    }

    /// What is known of a kept divergence of an earlier life.
    #[must_use]
    pub fn divergence(&self) -> Option<DivergenceInfo> {
        self.0.core().state.divergence
    }

    /// The diverged disks, read-only. Empty without a divergence.
    #[must_use]
    pub fn divergence_disks(&self) -> Vec<Arc<dyn Disk>> {
        match self.divergence() {
            Some(_) => self.0.disks.iter().map(divergence::browse).collect(),
            None => Vec::new(),
        }
    }

    /// Gives up the kept divergence. Repeated it changes nothing.
    pub fn drop_divergence(&self) -> Result<(), ReplicaError> {
        let mut core = self.0.core();
        core.state.divergence = None;
        core.state.store(&self.0.dir)?;
        drop_kept(&self.0.dir, &self.0.disks)
    }
}

impl Inner {
    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the state's point the one that is served.
    fn change(&self, core: &Core) -> Result<(), ReplicaError> {
        for disk in &self.layered {
            disk.flush()?;
        }
        let sheets = core.sheets(&self.dir, &self.disks)?;
        core.state.store(&self.dir)?;
        for (disk, sheets) in self.layered.iter().zip(sheets) {
            disk.swap(sheets);
        }
        Ok(())
    }

    fn start_folding(self: &Arc<Self>) {
        let work = self.layered.iter().map(|disk| disk.to_fold()).collect();
        Folder::start(self, work);
    }

    /// Everything is in the disks, durably: from now on they are all there is.
    pub(super) fn finish(&self) -> io::Result<()> {
        let mut core = self.core();
        let mut plain = core.state.clone();
        plain.phase = Phase::Plain(core.chosen().clone());
        plain.store(&self.dir)?;
        core.state = plain;
        for disk in &self.layered {
            disk.swap(Sheets::Base);
        }
        remove_folded(&self.dir)
    }
}

impl Core {
    fn chosen(&self) -> &Chosen {
        match &self.state.phase {
            Phase::Promoted(chosen) | Phase::Committed(chosen) | Phase::Plain(chosen) => chosen,
            Phase::Virgin { .. } | Phase::Following => unreachable!("checked when it was opened"),
        }
    }

    fn choose(&self, choice: &PointChoice) -> Result<Offered, ReplicaError> {
        let latest = match self.damaged_at {
            Some(_) if *choice == PointChoice::Latest => {
                let text = self.journal.shelf().damaged();
                return Err(ReplicaError::WrongState(
                    text.unwrap_or_else(|| "the journal is damaged".into()),
                ));
            }
            Some(_) => None,
            None => self.stream.latest(self.journal.last(), self.journal.end()),
        };
        points::choose(choice, &self.points, latest)
    }

    /// The sheets that the state asks for.
    fn sheets(&self, dir: &Path, disks: &[Arc<Keeping>]) -> io::Result<Vec<Sheets>> {
        let chosen = match &self.state.phase {
            Phase::Plain(_) => return Ok(vec![Sheets::Base; disks.len()]),
            _ => self.chosen(),
        };
        let views = views(&self.journal, disks.len(), self.state.base, chosen.until)?;
        let layer_dir = layer_dir(dir, chosen.until);
        let layers: io::Result<Vec<_>> = disks
            .iter()
            .enumerate()
            .map(|(number, disk)| Sheet::open(&layer_dir, number, disk.size(), BLOCK).map(Arc::new))
            .collect();
        let layers = views.into_iter().map(Arc::new).zip(layers?);
        if matches!(self.state.phase, Phase::Committed(_)) {
            let all = layers.zip(done_maps(dir, disks)?);
            return Ok(all.map(|((view, layer), done)| Sheets::Folding { view, layer, done }).collect());
        }
        Ok(layers.map(|(view, layer)| Sheets::Layer { view, layer }).collect())
    }

    /// Blocks of all entries from `until` on, merged.
    fn received_after(&self, until: Place) -> io::Result<Vec<Range>> {
        let mut ranges = Vec::new();
        let sizes = &self.state.disks;
        self.journal.for_each_segment(until, self.journal.end(), |_, entries| {
            for entry in entries {
                let size = sizes.get(usize::from(entry.disk)).copied().unwrap_or(0);
                let start = entry.offset / BLOCK * BLOCK;
                let end = (entry.offset + entry.len).next_multiple_of(BLOCK).min(size);
                ranges.push(Range { disk: entry.disk, offset: start, len: end.saturating_sub(start) });
            }
            merge(&mut ranges);
            Ok(())
        })?;
        Ok(ranges)
    }
}

fn merge(ranges: &mut Vec<Range>) {
    ranges.sort_unstable();
    ranges.dedup_by(|later, earlier| {
        let end = earlier.offset + earlier.len;
        let touches = later.disk == earlier.disk && later.offset <= end;
        if touches {
            earlier.len = end.max(later.offset + later.len) - earlier.offset;
        }
        touches
    });
}

/// Each point has its own layer until the commit.
fn layer_dir(dir: &Path, until: Place) -> PathBuf {
    dir.join("layers").join(format!("{:010}-{:010}", until.segment, until.pos))
}

fn done_maps(dir: &Path, disks: &[Arc<Keeping>]) -> io::Result<Vec<Arc<BlockMap>>> {
    let dir = dir.join("fold");
    state::make_dir(&dir)?;
    let open = |(number, disk): (usize, &Arc<Keeping>)| {
        BlockMap::open(&dir.join(format!("disk-{number}.raw")), disk.size(), BLOCK).map(Arc::new)
    };
    let maps = disks.iter().enumerate().map(open).collect::<io::Result<_>>()?;
    state::sync_dir(&dir)?;
    Ok(maps)
}

pub(super) fn remove_folded(dir: &Path) -> io::Result<()> {
    for gone in ["journal", "layers", "fold"] {
        remove(&dir.join(gone))?;
    }
    Ok(())
}

fn received_path(dir: &Path) -> PathBuf {
    dir.join("received.json")
}

pub(super) fn load_received(dir: &Path) -> Result<Vec<Range>, ReplicaError> {
    state::load::<Vec<(u16, u64, u64)>>(&received_path(dir)).map(unpack)
}
