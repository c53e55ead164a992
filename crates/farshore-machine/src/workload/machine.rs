//! One machine in one region, and what each order does to it.
//!
//! Blocking; called with the machine's lock held, one order at a time. Every order may be repeated.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::fencing::{TokenVerdict, judge};
use farshore_core::ids::{ItemId, Region, Token};
use farshore_core::lease::Lease;
use farshore_core::workload::{
    Action, Loss, Order, PointChoice, PointKind, Promotion, ReplicationMode, Role, StepError, Watermark,
};
use rustls::ServerConfig;

use super::card::{Card, DiskCard, Layers, LinkCard, LostCard};
use super::leases::Leases;
use super::machines::now;
use super::spec::MachineSpec;
use crate::disk::Disk;
use crate::nbd::{DiskExport, Exports, Options as NbdOptions, Server};
use crate::raw::RawFile;
use crate::replica::{DivergenceInfo, Drill, Opened, Options as ReplicaOptions, Promoted, Replica, open_any};
use crate::source::{Link, Options as SourceOptions, Source};

/// What every machine of a region shares.
#[derive(Debug, Clone)]
pub(super) struct Surroundings {
    pub(super) region: Region,
    pub(super) exports: Exports,
    pub(super) nbd: std::net::SocketAddr,
    /// For NBD clients.
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) secret: String,
    pub(super) source: SourceOptions,
    /// The rights of all its machines: renewed without waiting for a long order.
    pub(super) leases: Leases,
    pub(super) replica: ReplicaOptions,
}

impl Surroundings {
    /// How the source of `item` works, and by which right.
    fn source_of(&self, item: &ItemId) -> SourceOptions {
        SourceOptions { lease: Some(self.leases.of(item)), ..self.source.clone() }
    }
}

/// One machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) dir: PathBuf,
    pub(super) around: Surroundings,
    pub(super) card: Card,
    /// Until when it may serve.
    pub(super) lease: Arc<Lease>,
    /// Told to serve since this process started.
    pub(super) confirmed: bool,
    pub(super) base: Vec<Arc<RawFile>>,
    pub(super) body: Body,
    pub(super) drill: Option<Drilling>,
}

/// What its bytes are doing.
#[derive(Debug)]
pub(super) enum Body {
    /// Serves, or served until it was fenced.
    Source { source: Source, promoted: Option<Promoted> },
    /// Receives.
    Target { replica: Replica },
    /// Died in the middle of a promotion: receives no longer, does not serve yet. The promotion is ordered again.
    Promoting { promoted: Promoted },
    /// Cannot be opened; nothing is served and nothing is touched.
    Broken { why: String },
}

/// An open test failover with a server of its own.
#[derive(Debug)]
pub(super) struct Drilling {
    pub(super) drill: Drill,
    pub(super) server: Server,
}

pub(super) fn fatal(what: impl std::fmt::Display) -> StepError {
    StepError::Fatal { what: what.to_string() }
}

fn disks(base: &[Arc<RawFile>]) -> Vec<Arc<dyn Disk>> {
    base.iter().map(|disk| Arc::clone(disk) as Arc<dyn Disk>).collect()
}

impl Machine {
    /// Makes the machine's directory under another name first, so that a crash leaves no half machine behind.
    pub(super) fn create(
        dir: &Path,
        around: Surroundings,
        order: &Order,
        spec: &MachineSpec,
    ) -> Result<Self, StepError> {
        let mut machine = Self::build(dir, around, order, spec, Layers::Plain, Role::Active)?;
        machine.serve(order.token)?;
        Ok(machine)
    }

    /// Makes an empty replica of the shape.
    pub(super) fn prepare(
        dir: &Path,
        around: Surroundings,
        order: &Order,
        shape: &MachineSpec,
    ) -> Result<Self, StepError> {
        Self::build(dir, around, order, shape, Layers::Replica, Role::Target)
    }

    fn build(
        dir: &Path,
        around: Surroundings,
        order: &Order,
        spec: &MachineSpec,
        layers: Layers,
        role: Role,
    ) -> Result<Self, StepError> {
        let making = dir.with_extension("making");
        if making.exists() {
            fs::remove_dir_all(&making)
                .map_err(|error| fatal(format!("cannot clear {}: {error}", making.display())))?;
        }
        let made = Self::fill(&making, order, spec, layers, role, &around).and_then(|made| {
            fs::rename(&making, dir)
                .map_err(|error| fatal(format!("cannot make {}: {error}", dir.display())))?;
            Ok(made)
        });
        let (card, base) = made.inspect_err(|_| {
            let _ = fs::remove_dir_all(&making);
        })?;
        // The directories of source and replica hold their own paths, so they are opened under the final name.
        let body = open_body(dir, &card, &base, &around).map_err(fatal)?;
        let lease = around.leases.of(&card.item);
        lease.raise(card.token);
        Ok(Self { dir: dir.to_owned(), around, card, lease, confirmed: false, base, body, drill: None })
    }

    fn fill(
        making: &Path,
        order: &Order,
        spec: &MachineSpec,
        layers: Layers,
        role: Role,
        around: &Surroundings,
    ) -> Result<(Card, Vec<Arc<RawFile>>), StepError> {
        fs::create_dir_all(making.join("disks"))
            .map_err(|error| fatal(format!("cannot make {}: {error}", making.display())))?;
        let mut cards = Vec::new();
        let mut base = Vec::new();
        for disk in &spec.disks {
            let (card, file) = make_disk(making, disk)?;
            cards.push(card);
            base.push(Arc::new(file));
        }
        let mut card = Card::new(order.item.clone(), order.token, role, cards, layers);
        card.lease = order.lease.filter(|_| role == Role::Active);
        let made = match layers {
            Layers::Replica => Replica::create(&replica_dir(making, card.life), disks(&base), around.replica)
                .map(drop)
                .map_err(fatal),
            _ => Source::create(
                &source_dir(making, card.life),
                disks(&base),
                Watermark::default(),
                around.source.clone(),
            )
            .map_err(fatal)
            .and_then(|source| source.close().map_err(fatal)),
        };
        made?;
        card.write(making).map_err(fatal)?;
        Ok((card, base))
    }

    /// Wakes a machine up from its directory. It serves nothing yet.
    pub(super) fn open(dir: &Path, around: Surroundings) -> io::Result<Self> {
        let card = Card::read(dir)?;
        let opened = card
            .disks
            .iter()
            .map(|disk| RawFile::open(dir.join(&disk.path)).map(Arc::new))
            .collect::<io::Result<Vec<_>>>();
        let (base, body) = match opened {
            Err(error) => (Vec::new(), Body::Broken { why: error.to_string() }),
            Ok(base) => {
                let body = open_body(dir, &card, &base, &around).unwrap_or_else(|why| Body::Broken { why });
                (base, body)
            }
        };
        let lease = around.leases.of(&card.item);
        lease.raise(card.token);
        let mut machine =
            Self { dir: dir.to_owned(), around, card, lease, confirmed: false, base, body, drill: None };
        machine.offer_divergence();
        Ok(machine)
    }

    /// Obeys one order. The token is checked and kept first.
    pub(super) fn obey(&mut self, order: &Order) -> Result<(), StepError> {
        self.admit(order.token)?;
        if let Body::Broken { why } = &self.body {
            return Err(fatal(why));
        }
        self.take_lease(order)?;
        match &order.action {
            Action::Create { .. } if self.card.role == Role::Active => self.serve(order.token),
            Action::PrepareTarget { .. } if self.card.role == Role::Target => Ok(()),
            Action::Create { .. } | Action::PrepareTarget { .. } => Err(fatal(format!(
                "{} is already known in {}: delete it there first",
                self.card.item, self.around.region
            ))),
            Action::Delete => Err(fatal("a machine is deleted by its region")),
            Action::Serve => self.serve(order.token),
            Action::Replicate { target, address, mode } => self.replicate(target, address, *mode),
            Action::StopReplicating => self.stop_replicating(),
            Action::Fence { lost_after } => self.fence(*lost_after),
            Action::Drain => self.drain(),
            Action::Promote { point } => self.promote(order.token, point),
            Action::ChangePoint { point } => self.change_point(point),
            Action::Commit => self.commit(),
            Action::TestFailover { point } => self.test_failover(point),
            Action::CleanUp => self.clean_up(),
            Action::Follow { source, diverged_after } => self.follow(source, *diverged_after),
            Action::DropDivergence => self.drop_divergence(),
            Action::MarkPoint { name } => self.mark_point(name),
        }
    }

    /// Keeps by which timings the machine fences itself, before it serves by them.
    fn take_lease(&mut self, order: &Order) -> Result<(), StepError> {
        let begins = matches!(order.action, Action::Create { .. } | Action::Serve | Action::Promote { .. });
        if !begins || self.card.lease == order.lease {
            return Ok(());
        }
        self.card.lease = order.lease;
        self.keep_card()
    }

    /// The right to serve under `token` was not renewed in time: stops, unless it was renewed meanwhile.
    pub(super) fn expire(&mut self, token: Token) -> Result<(), StepError> {
        let serves = self.card.role == Role::Active && self.confirmed;
        if !self.lease.lapse(token)? || !serves {
            return Ok(());
        }
        tracing::warn!(item = %self.card.item, %token, "the right to serve was not renewed in time: fenced");
        self.fence(None)
    }

    /// Refuses a lower token; keeps a higher one durably before anything is done with it.
    pub(super) fn admit(&mut self, token: Token) -> Result<(), StepError> {
        match judge(token, self.card.token) {
            TokenVerdict::Stale { highest } => Err(StepError::Fenced { current: highest }),
            TokenVerdict::Current => Ok(()),
            TokenVerdict::Newer => {
                self.lease.raise(token);
                self.card.token = token;
                self.keep_card()
            }
        }
    }

    fn keep_card(&self) -> Result<(), StepError> {
        self.card
            .write(&self.dir)
            .map_err(|error| fatal(format!("cannot write {}: {error}", self.dir.join("card.json").display())))
    }

    fn source(&self) -> Result<&Source, StepError> {
        match &self.body {
            Body::Source { source, .. } => Ok(source),
            Body::Target { .. } | Body::Promoting { .. } => Err(fatal(format!(
                "{} is the target in {}, not the source",
                self.card.item, self.around.region
            ))),
            Body::Broken { why } => Err(fatal(why)),
        }
    }

    fn replica(&self) -> Result<&Replica, StepError> {
        match &self.body {
            Body::Target { replica } => Ok(replica),
            Body::Promoting { .. } => Err(fatal(format!(
                "{} is in the middle of a promotion in {}: fail over again to complete it",
                self.card.item, self.around.region
            ))),
            Body::Source { .. } => Err(fatal(format!(
                "{} is the source in {}, not the target",
                self.card.item, self.around.region
            ))),
            Body::Broken { why } => Err(fatal(why)),
        }
    }

    fn serve(&mut self, token: Token) -> Result<(), StepError> {
        let source = self.source()?.clone();
        if self.card.role != Role::Active || self.card.lost.is_some() {
            self.card.role = Role::Active;
            self.card.lost = None;
            self.keep_card()?;
            self.withdraw_divergence();
            self.offer_divergence();
        }
        self.lease.begin(self.card.token, self.card.lease);
        source.serve(token);
        self.confirmed = true;
        for (index, disk) in self.card.disks.iter().enumerate() {
            let name = export_name(&self.card.item, "", &disk.name);
            self.around.exports.insert(&name, Arc::new(source.disk(index)));
        }
        self.connect()
    }

    /// Starts or renews the sending, as the card says.
    fn connect(&self) -> Result<(), StepError> {
        let Some(link) = &self.card.link else { return Ok(()) };
        let link = Link {
            target: link.target.clone(),
            address: link.address.clone(),
            item: self.card.item.to_string(),
            token: self.card.token,
            mode: link.mode,
            secret: self.around.secret.clone(),
            full: link.full,
        };
        self.source()?.replicate(link).map_err(fatal)
    }

    fn replicate(&mut self, target: &Region, address: &str, mode: ReplicationMode) -> Result<(), StepError> {
        self.source()?;
        // A promoted machine has followed its differences from its first write on; every other one sends everything.
        let full = self.card.layers == Layers::Plain && self.card.promotion.is_none() && self.card.life == 1;
        self.card.link = Some(LinkCard { target: target.clone(), address: address.to_owned(), mode, full });
        self.keep_card()?;
        self.connect()
    }

    fn stop_replicating(&mut self) -> Result<(), StepError> {
        self.source()?.stop_replicating().map_err(fatal)?;
        self.card.link = None;
        self.keep_card()
    }

    fn fence(&mut self, lost_after: Option<Watermark>) -> Result<(), StepError> {
        if matches!(self.body, Body::Target { .. } | Body::Promoting { .. }) {
            return Err(fatal(format!("{} follows already in {}", self.card.item, self.around.region)));
        }
        let source = self.source()?.clone();
        self.lease.end();
        self.card.role = Role::Fenced;
        self.keep_card()?;
        source.fence().map_err(|error| fatal(format!("cannot stop {}: {error}", self.card.item)))?;
        self.withdraw("");
        let Some(after) = lost_after else { return Ok(()) };
        // Another region was promoted: it would refuse whatever is still sent. The log of what it lacks stays.
        source.stop_shipping();
        self.card.link = None;
        let (loss, exact, _) = source.lost_after(after).map_err(fatal)?;
        self.card.lost = Some(LostCard { after, loss, exact });
        self.keep_card()?;
        self.offer_divergence();
        Ok(())
    }

    /// The sending goes on by itself; the verdict is the target's watermark.
    fn drain(&self) -> Result<(), StepError> {
        if self.card.link.is_none() {
            return Err(fatal(format!(
                "{} replicates nowhere: there is nothing to drain to",
                self.card.item
            )));
        }
        self.source().map(drop)
    }

    fn promote(&mut self, token: Token, point: &PointChoice) -> Result<(), StepError> {
        if self.card.role == Role::Active && self.card.promotion.is_some() {
            return self.serve(token);
        }
        self.end_drill()?;
        let (promoted, received) = match &self.body {
            Body::Promoting { promoted } => (promoted.clone(), promoted.point().watermark),
            _ => {
                let replica = self.replica()?;
                let promoted = replica.promote(point).map_err(fatal)?;
                (promoted, replica.status().durable)
            }
        };
        let (last_known, source_last_seen) = promoted.source_last_known();
        let source_last_known = last_known.max(received);
        let point = promoted.point();
        let known = loss_between(source_last_known, point.watermark);
        let at_failover = bound(known, now().since(source_last_seen));
        let promotion = Promotion { source_last_known, source_last_seen, at_failover, point };
        let mut card = self.card.clone();
        card.life += 1;
        card.role = Role::Active;
        card.layers = Layers::Promoted;
        card.link = None;
        card.lost = None;
        card.promotion = Some(promotion.clone());
        // The epoch of a position is that of its last write: until the first one here, it is the point's.
        let source_dir = source_dir(&self.dir, card.life);
        if source_dir.exists() {
            fs::remove_dir_all(&source_dir)
                .map_err(|error| fatal(format!("cannot clear {}: {error}", source_dir.display())))?;
        }
        let source = Source::create(
            &source_dir,
            promoted.disks(),
            promotion.point.watermark,
            self.around.source_of(&self.card.item),
        )
        .map_err(fatal)?;
        source.track().map_err(fatal)?;
        self.card = card;
        self.keep_card()?;
        self.body = Body::Source { source, promoted: Some(promoted) };
        self.offer_divergence();
        self.serve(token)
    }

    fn change_point(&mut self, point: &PointChoice) -> Result<(), StepError> {
        let token = self.card.token;
        let Body::Source { source, promoted: Some(promoted) } = &self.body else {
            return Err(fatal(format!(
                "{} was not failed over: there is no point to change",
                self.card.item
            )));
        };
        let Some(promotion) = self.card.promotion.clone() else {
            return Err(fatal(format!(
                "the failover of {} is committed: its other points are gone",
                self.card.item
            )));
        };
        let (source, promoted) = (source.clone(), promoted.clone());
        // Clients must not see one disk before and another after: they are cut off and come back.
        source.fence().map_err(fatal)?;
        self.withdraw("");
        let changed = promoted.change_point(point).map_err(fatal);
        if changed.is_ok() {
            let point = promoted.point();
            let known = |point: Watermark| loss_between(promotion.source_last_known, point);
            let silence = promotion.at_failover.seconds - known(promotion.point.watermark).seconds;
            let at_failover = bound(known(point.watermark), Duration::from_secs_f64(silence.max(0.0)));
            self.card.promotion = Some(Promotion { point, at_failover, ..promotion });
            self.keep_card()?;
        }
        self.serve(token)?;
        changed
    }

    fn commit(&mut self) -> Result<(), StepError> {
        if self.card.promotion.is_none() {
            return Ok(());
        }
        let Body::Source { source, promoted: Some(promoted) } = &self.body else {
            return Err(fatal(format!("{} was not failed over: there is nothing to commit", self.card.item)));
        };
        // What had arrived here after the point is not served, but the old source has it: a part of the way home. Before
        // the commit the point may still change, and with it this part.
        source.mark_dirty(&promoted.received_after_point().map_err(fatal)?).map_err(fatal)?;
        promoted.commit().map_err(fatal)?;
        self.card.promotion = None;
        self.keep_card()
    }

    fn test_failover(&mut self, point: &PointChoice) -> Result<(), StepError> {
        if self.drill.is_some() {
            return Ok(());
        }
        let drill = self.replica()?.test_failover(point).map_err(fatal)?;
        let exports = Exports::new();
        for (disk, bytes) in self.card.disks.iter().zip(drill.disks()) {
            exports.insert(
                &export_name(&self.card.item, "@drill", &disk.name),
                Arc::new(DiskExport::new(bytes, false)),
            );
        }
        // A server of its own: nobody who is connected to production can reach the drill by accident, nor the other way.
        let address = std::net::SocketAddr::new(self.around.nbd.ip(), 0);
        let server = Server::start(NbdOptions {
            tcp: Some(address),
            tls: self.around.tls.clone(),
            exports,
            ..NbdOptions::default()
        })
        .map_err(|error| fatal(format!("cannot serve the test failover on {address}: {error}")))?;
        self.drill = Some(Drilling { drill, server });
        Ok(())
    }

    fn clean_up(&mut self) -> Result<(), StepError> {
        self.end_drill()
    }

    pub(super) fn end_drill(&mut self) -> Result<(), StepError> {
        let Some(drilling) = &self.drill else { return Ok(()) };
        drilling.server.stop();
        drilling.drill.clean_up().map_err(fatal)?;
        self.drill = None;
        Ok(())
    }

    fn follow(&mut self, from: &Region, after: Watermark) -> Result<(), StepError> {
        if self.card.role == Role::Target {
            return Ok(());
        }
        let Body::Source { source, promoted } = &self.body else {
            return Err(fatal(format!("{} cannot follow {from}: it was not a source here", self.card.item)));
        };
        if let Some(promoted) = promoted {
            if !promoted.folded() {
                let what = format!(
                    "the commit of {} is still being folded: {} bytes left",
                    self.card.item,
                    promoted.folding_bytes()
                );
                return Err(StepError::Retry { what });
            }
            if promoted.divergence().is_some() {
                return Err(fatal(format!(
                    "{} still keeps writes of an earlier failover in {}: copy what you need, then drop-divergence, then reprotect",
                    self.card.item, self.around.region
                )));
            }
            promoted.stop();
        }
        source.fence().map_err(fatal)?;
        let (loss, exact, own) = source.lost_after(after).map_err(fatal)?;
        source.close().map_err(fatal)?;
        self.withdraw("");
        self.withdraw_divergence();
        let divergence = (loss.writes > 0).then_some(DivergenceInfo { after, loss, exact });
        let mut card = self.card.clone();
        card.life += 1;
        card.role = Role::Target;
        card.layers = Layers::Replica;
        card.link = None;
        card.promotion = None;
        card.lease = None;
        card.lost = Some(LostCard { after, loss, exact });
        self.lease.end();
        let dir = replica_dir(&self.dir, card.life);
        if dir.exists() {
            fs::remove_dir_all(&dir)
                .map_err(|error| fatal(format!("cannot clear {}: {error}", dir.display())))?;
        }
        let replica = Replica::adopt(&dir, disks(&self.base), self.around.replica, after, own, divergence)
            .map_err(fatal)?;
        self.card = card;
        self.keep_card()?;
        self.body = Body::Target { replica };
        self.offer_divergence();
        Ok(())
    }

    fn drop_divergence(&mut self) -> Result<(), StepError> {
        match &self.body {
            Body::Target { replica } => replica.drop_divergence().map_err(fatal)?,
            Body::Source { promoted: Some(promoted), .. } | Body::Promoting { promoted } => {
                promoted.drop_divergence().map_err(fatal)?;
            }
            Body::Source { promoted: None, .. } => {}
            Body::Broken { why } => return Err(fatal(why)),
        }
        self.withdraw_divergence();
        if matches!(self.body, Body::Target { .. }) {
            self.card.lost = None;
        }
        self.keep_card()?;
        self.offer_divergence();
        match self.kept() {
            None => Ok(()),
            Some(_) => Err(fatal(format!(
                "{} has not been reprotected yet: only a target can drop the writes that it alone has",
                self.card.item
            ))),
        }
    }

    fn mark_point(&self, name: &str) -> Result<(), StepError> {
        let retry = |error: io::Error| StepError::Retry { what: format!("cannot mark a point: {error}") };
        self.source()?.mark_point(PointKind::Named, Some(name.to_owned())).map(drop).map_err(retry)
    }

    /// Ends everything that runs, cleanly.
    pub(super) fn close(&mut self) {
        let _ = self.end_drill();
        self.lease.end();
        self.withdraw("");
        self.withdraw_divergence();
        match &self.body {
            Body::Source { source, promoted } => {
                if let Err(error) = source.close() {
                    tracing::error!(item = %self.card.item, %error, "not closed cleanly: it will catch up after the next start");
                }
                if let Some(promoted) = promoted {
                    promoted.stop();
                }
            }
            Body::Promoting { promoted } => promoted.stop(),
            Body::Target { .. } | Body::Broken { .. } => {}
        }
    }

    fn withdraw(&self, suffix: &str) {
        for disk in &self.card.disks {
            self.around.exports.remove(&export_name(&self.card.item, suffix, &disk.name));
        }
    }

    fn withdraw_divergence(&self) {
        self.withdraw("@diverged");
    }

    /// What only this side has: found when it was fenced, or kept since an earlier failover.
    pub(super) fn kept(&self) -> Option<LostCard> {
        let keep = |info: DivergenceInfo| LostCard { after: info.after, loss: info.loss, exact: info.exact };
        match &self.body {
            Body::Source { promoted, .. } => {
                self.card.lost.or_else(|| promoted.as_ref().and_then(Promoted::divergence).map(keep))
            }
            Body::Target { replica } => replica.divergence().map(keep).or(self.card.lost),
            Body::Promoting { promoted } => promoted.divergence().map(keep).or(self.card.lost),
            Body::Broken { .. } => None,
        }
    }

    /// Serves what only this side has, read-only, for as long as it is kept.
    fn offer_divergence(&mut self) {
        let lost = self.card.lost.is_some_and(|lost| lost.loss.writes > 0);
        let kept: Vec<Arc<dyn Disk>> = match &self.body {
            Body::Source { promoted: Some(promoted), .. } if lost => promoted.disks(),
            Body::Source { promoted: None, .. } if lost => disks(&self.base),
            Body::Source { promoted: Some(promoted), .. } | Body::Promoting { promoted } => {
                promoted.divergence_disks()
            }
            Body::Target { replica } => replica.divergence_disks(),
            Body::Source { promoted: None, .. } | Body::Broken { .. } => Vec::new(),
        };
        for (disk, bytes) in self.card.disks.iter().zip(kept) {
            let name = export_name(&self.card.item, "@diverged", &disk.name);
            self.around.exports.insert(&name, Arc::new(DiskExport::new(bytes, true)));
        }
    }
}

/// `web-1/root`; with a suffix `web-1@drill/root`.
pub(super) fn export_name(item: &ItemId, suffix: &str, disk: &str) -> String {
    format!("{}{suffix}/{disk}", item.name)
}

/// What can be said of a loss without the source: at least the writes that are known of, and at most the time up to its
/// last sign of life and the silence after it.
fn bound(known: Loss, silence: Duration) -> Loss {
    Loss { seconds: known.seconds + silence.as_secs_f64(), ..known }
}

/// What lies between two positions of one history.
pub(super) fn loss_between(last: Watermark, kept: Watermark) -> Loss {
    Loss {
        writes: last.seq.saturating_sub(kept.seq),
        bytes: last.bytes.saturating_sub(kept.bytes),
        seconds: if last.seq > kept.seq { last.at.since(kept.at).as_secs_f64() } else { 0.0 },
    }
}

fn source_dir(dir: &Path, life: u64) -> PathBuf {
    dir.join(format!("source-{life}"))
}

fn replica_dir(dir: &Path, life: u64) -> PathBuf {
    dir.join(format!("replica-{life}"))
}

fn make_disk(making: &Path, disk: &super::spec::DiskSpec) -> Result<(DiskCard, RawFile), StepError> {
    let name = disk.name.to_string();
    if let Some(path) = &disk.path {
        let file = RawFile::open(path).map_err(fatal)?;
        if disk.size_bytes != 0 && disk.size_bytes != file.size() {
            let (path, have, want) = (path.display(), file.size(), disk.size_bytes);
            return Err(fatal(format!(
                "disk {name}: {path} has {have} bytes, not {want}: give the size that it has, {have}"
            )));
        }
        return Ok((DiskCard { name, size_bytes: file.size(), path: path.clone(), brought: true }, file));
    }
    let path = PathBuf::from("disks").join(format!("{name}.raw"));
    let file = RawFile::create(making.join(&path), disk.size_bytes).map_err(fatal)?;
    Ok((DiskCard { name, size_bytes: disk.size_bytes, path, brought: false }, file))
}

fn open_body(dir: &Path, card: &Card, base: &[Arc<RawFile>], around: &Surroundings) -> Result<Body, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    if card.layers == Layers::Replica {
        let opened = open_any(&replica_dir(dir, card.life), disks(base), around.replica);
        return match opened.map_err(|error| text(&error))? {
            Opened::Replica(replica) => Ok(Body::Target { replica }),
            Opened::Promoted(promoted) => Ok(Body::Promoting { promoted }),
            Opened::Plain { .. } => {
                Err(format!("{} was folded without a word on its card: a defect", dir.display()))
            }
        };
    }
    let promoted = match card.layers {
        // The promotion belongs to the life in which the machine was a replica.
        Layers::Promoted => Some(
            Promoted::open(&replica_dir(dir, card.life - 1), disks(base), around.replica)
                .map_err(|error| text(&error))?,
        ),
        _ => None,
    };
    let bytes = promoted.as_ref().map_or_else(|| disks(base), Promoted::disks);
    let source = Source::open(&source_dir(dir, card.life), bytes, around.source_of(&card.item))
        .map_err(|error| text(&error))?;
    Ok(Body::Source { source, promoted })
}
