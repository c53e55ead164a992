//! Who serves an app, as requests see it: a state is never changed, another takes its place.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use farshore_core::ids::Region;

use super::site::{Pass, SiteState};
use super::upstream::{Address, Upstream};

/// Those among whom requests are shared out.
#[derive(Debug)]
pub(super) struct Instances {
    all: Box<[Arc<Upstream>]>,
    /// Where the next search begins: equals take turns.
    next: AtomicUsize,
}

impl Instances {
    pub(super) fn new(all: Box<[Arc<Upstream>]>) -> Self {
        Self { all, next: AtomicUsize::new(0) }
    }

    pub(super) fn all(&self) -> &[Arc<Upstream>] {
        &self.all
    }

    /// The one with the fewest requests under way that `tried` does not have, and its number.
    pub(super) fn choose(&self, tried: &[usize]) -> Option<(usize, &Arc<Upstream>)> {
        if let ([only], []) = (&*self.all, tried) {
            return Some((0, only));
        }
        let count = self.all.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let numbers = (0..count).map(|step| first.wrapping_add(step) % count);
        let number = numbers
            .filter(|number| !tried.contains(number))
            .min_by_key(|number| self.all[*number].under_way())?;
        Some((number, &self.all[number]))
    }
}

/// Who serves, with the kept connections to them.
#[derive(Debug)]
pub(super) enum Who {
    Here { instances: Instances, pass: Option<Arc<dyn Pass>> },
    There { region: Region, gateway: Arc<Upstream> },
    Recovering { why: String, retry_after: Duration },
    Empty,
}

/// A state of an app, from when it is set until the last request that saw it has been answered.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) who: Who,
    under_way: AtomicUsize,
    /// Another state has taken its place.
    retired: AtomicBool,
}

impl Live {
    pub(super) fn new(who: Who) -> Self {
        Self { who, under_way: AtomicUsize::new(0), retired: AtomicBool::new(false) }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    pub(super) fn enter(&self) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
    }

    /// True: it was the last one, and somebody may wait for that.
    pub(super) fn exit(&self) -> bool {
        self.under_way.fetch_sub(1, Ordering::SeqCst) == 1 && self.retired.load(Ordering::SeqCst)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }
}

impl Who {
    /// Keeps the connections that the state before has and this one can use.
    pub(super) fn new(state: SiteState, before: &Self) -> Self {
        match state {
            SiteState::Here { instances, pass } => {
                let upstream = |to: &SocketAddr| before.upstream(&Address::Instance(*to));
                Self::Here { instances: Instances::new(instances.iter().map(upstream).collect()), pass }
            }
            SiteState::There { region, http, https } => {
                Self::There { region, gateway: before.upstream(&Address::Gateway { http, https }) }
            }
            SiteState::Recovering { why, retry_after } => Self::Recovering { why, retry_after },
            SiteState::Empty => Self::Empty,
        }
    }

    pub(super) fn upstreams(&self) -> &[Arc<Upstream>] {
        match self {
            Self::Here { instances, .. } => instances.all(),
            Self::There { gateway, .. } => std::slice::from_ref(gateway),
            Self::Recovering { .. } | Self::Empty => &[],
        }
    }

    fn upstream(&self, address: &Address) -> Arc<Upstream> {
        let known = self.upstreams().iter().find(|upstream| upstream.address() == address);
        known.map_or_else(|| Arc::new(Upstream::new(address.clone())), Arc::clone)
    }

    /// Clients that came in this state must connect again in the other. Other instances are nothing to them.
    pub(super) fn is_turn(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Here { .. } | Self::Empty, Self::Here { .. } | Self::Empty) => false,
            (Self::There { region: a, .. }, Self::There { region: b, .. }) => a != b,
            (Self::Recovering { .. }, Self::Recovering { .. }) => false,
            _ => true,
        }
    }
}
