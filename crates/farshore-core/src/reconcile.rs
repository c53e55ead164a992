//! What must be mended when a region is seen to differ from the item's record, and no job does it.
//!
//! A pure function of one look; called about once a second for each item and region. One thing at a time: what is still
//! wrong is seen at the next look.
//!
//! Must always hold: nothing here gives the right to write to a region that is not the item's source, except to a target
//! that was promoted under the present token after the source had stopped; and nothing here acts on an item whose store
//! may be older than its agents.

use crate::command::Verb;
use crate::ids::{Region, Token};
use crate::lifecycle::{Event, FailoverReport, Item, KeptDivergence, Phase, Stage};
use crate::workload::{Action, Divergence, Loss, Observation, Role, Watermark};

/// One look at one region.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The item, read after the look: its epoch is at least that of every order given before.
    pub item: &'a Item,
    /// What the job does that is being carried out now; a stuck job does nothing.
    pub job: Option<Verb>,
    /// Where it was looked.
    pub region: &'a Region,
    /// What was seen.
    pub seen: &'a Observation,
    /// The store's incarnation.
    pub incarnation: u64,
    /// The last position that this region has confirmed to count its lost writes from.
    pub told: Option<Watermark>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Mend {
    /// Give the region this order.
    Order {
        /// Short, for the order's key and for people.
        what: &'static str,
        /// Under this token.
        token: Token,
        /// The order.
        action: Action,
    },
    /// Record this event.
    Record(Event),
}

/// Whether the region knows a token that the store cannot have given: the store was restored from a backup.
#[must_use]
pub fn ahead_of_store(item: &Item, incarnation: u64, region: &Region, token: Token) -> Option<Event> {
    let store = Token::new(incarnation, item.epoch);
    // A higher incarnation wins over a higher epoch on the wire; it does not make the store remember.
    if token <= store && token.epoch <= item.epoch {
        return None;
    }
    if matches!(item.phase, Phase::NeedsUser { .. }) {
        return None;
    }
    let why = format!(
        "region {region} knows token {token}, but the store gave out {store} at most: the store was restored from an \
         older backup; find out which region is active before anything else"
    );
    Some(Event::AheadOfStore { why })
}

/// What must be done about what was seen, if anything.
#[must_use]
pub fn reconcile(view: View<'_>) -> Option<Mend> {
    if matches!(view.item.phase, Phase::NeedsUser { .. } | Phase::Deleting) {
        return None;
    }
    if let Some(event) = ahead_of_store(view.item, view.incarnation, view.region, view.seen.token) {
        return Some(Mend::Record(event));
    }
    if *view.region == view.item.source { view.at_source() } else { view.elsewhere() }
}

impl View<'_> {
    fn token(&self) -> Token {
        Token::new(self.incarnation, self.item.epoch)
    }

    fn order(&self, what: &'static str, action: Action) -> Option<Mend> {
        Some(Mend::Order { what, token: self.token(), action })
    }

    /// The region that has the right to write.
    fn at_source(&self) -> Option<Mend> {
        if matches!(self.item.phase, Phase::FailingOver { .. }) {
            return None;
        }
        match self.seen.role {
            // The store was restored, and another region may know better.
            Role::Unconfirmed if !self.is_vouched() => None,
            Role::Unconfirmed => self.order("serve", Action::Serve),
            // What a failover that was given up could not take back.
            Role::Fenced if !self.is_vouched() => None,
            Role::Fenced if self.job.is_none() && self.seen.token < self.token() => {
                self.order("serve", Action::Serve)
            }
            // It has fenced itself because it could not renew its right, and nobody else was given it.
            Role::Fenced if self.job.is_none() && self.item.lease.is_some() => {
                self.order("serve", Action::Serve)
            }
            _ => None,
        }
    }

    /// A store that was never restored knows all that it has ever given out.
    fn is_vouched(&self) -> bool {
        self.incarnation <= 1 || self.item.vouched >= self.incarnation
    }

    /// A region that has no right to write.
    fn elsewhere(&self) -> Option<Mend> {
        let report = self.item.failover.as_ref().filter(|report| report.from == *self.region);
        if let Some(event) = report.and_then(|report| self.divergence(report)) {
            return Some(Mend::Record(event));
        }
        match self.item.phase {
            Phase::FailingOver { stage: Stage::Promoting, .. } if self.promoted_and_restarted() => {
                self.order("serve", Action::Serve)
            }
            Phase::FailedOver | Phase::Committed
                if !matches!(self.job, Some(Verb::Reprotect | Verb::Disable)) =>
            {
                self.old_source(report?)
            }
            Phase::Protected { .. } if self.job.is_none() && self.writes() => {
                self.order("fence", Action::Fence { lost_after: None })
            }
            _ => None,
        }
    }

    /// The promotion was done, and then the region restarted before the job saw it: a repeated order changes nothing there.
    fn promoted_and_restarted(&self) -> bool {
        self.item.target.as_ref() == Some(self.region)
            && self.seen.role == Role::Unconfirmed
            && self.seen.token == self.token()
            && self.seen.promotion.is_some()
    }

    fn writes(&self) -> bool {
        matches!(self.seen.role, Role::Active | Role::Unconfirmed) && self.seen.token < self.token()
    }

    /// The source that was failed over from: must be fenced, and must count what was lost.
    fn old_source(&self, report: &FailoverReport) -> Option<Mend> {
        let after = report.promotion.point.watermark;
        let fence = || self.order("fence", Action::Fence { lost_after: Some(after) });
        match self.seen.role {
            Role::Active | Role::Unconfirmed => fence(),
            Role::Fenced if self.seen.token < self.token() => fence(),
            Role::Fenced => {
                let counted = self.seen.divergence.as_ref().map(|divergence| divergence.after);
                let known = counted == Some(after) || (counted.is_none() && self.told == Some(after));
                let wanted = report.loss_final.is_none() || counted.is_some();
                if wanted && !known { fence() } else { None }
            }
            Role::Target => None,
        }
    }

    /// News about the writes that only this region has.
    fn divergence(&self, report: &FailoverReport) -> Option<Event> {
        if self.job == Some(Verb::DropDivergence) || matches!(self.item.phase, Phase::FailingOver { .. }) {
            return None;
        }
        let after = report.promotion.point.watermark;
        let kept = |divergence: Divergence| {
            Event::DivergenceSeen(KeptDivergence { region: self.region.clone(), divergence })
        };
        match &self.seen.divergence {
            Some(seen) if seen.after == after => {
                let recorded = self.item.divergence.as_ref().filter(|kept| kept.region == *self.region);
                // That nothing was lost is told by the report alone: nothing is kept.
                let nothing = seen.loss.writes == 0 && seen.endpoints.is_empty();
                let known = nothing || recorded.is_some_and(|kept| same(&kept.divergence, seen));
                (!known || report.loss_final.is_none()).then(|| kept(seen.clone()))
            }
            Some(_) => None,
            None if report.loss_final.is_none() && self.has_counted(after) => {
                Some(kept(Divergence { after, loss: Loss::default(), exact: true, endpoints: Vec::new() }))
            }
            None => None,
        }
    }

    /// The region was told from where to count, and has nothing to show: nothing was lost.
    fn has_counted(&self, after: Watermark) -> bool {
        let current = self.seen.token >= self.token();
        match self.seen.role {
            Role::Fenced => current && self.told == Some(after),
            // It follows, which it does only after it has kept what it alone had.
            Role::Target => current && self.seen.ready && matches!(self.item.phase, Phase::Protected { .. }),
            Role::Active | Role::Unconfirmed => false,
        }
    }
}

/// Seconds are left out: a number that was written and read again may differ in its last digit.
fn same(recorded: &Divergence, seen: &Divergence) -> bool {
    let key = |one: &Divergence| (one.after, one.loss.writes, one.loss.bytes, one.exact);
    key(recorded) == key(seen) && recorded.endpoints == seen.endpoints
}

#[cfg(test)]
mod tests;
