//! One client's connection: what is known of it, and when it is to end.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::Shared;
use super::site;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) from: IpAddr,
    /// Its address, as a header says it.
    pub(super) address: HeaderValue,
    pub(super) tls: bool,
    /// The count of turns when it was opened.
    opened: u64,
    requests: AtomicU64,
    under_way: AtomicUsize,
    leave: Notify,
    /// Also held by tunnels that the connection has become.
    _place: OwnedSemaphorePermit,
}

impl Client {
    pub(super) fn new(
        shared: Arc<Shared>,
        from: IpAddr,
        tls: bool,
        place: OwnedSemaphorePermit,
    ) -> Arc<Self> {
        let text = from.to_canonical().to_string();
        // An address has no characters that a header may not have.
        let address = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("unknown"));
        Arc::new(Self {
            shared,
            from,
            address,
            tls,
            opened: site::turns(),
            requests: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            leave: Notify::new(),
            _place: place,
        })
    }

    /// The count of turns when it was opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Asks the connection to finish what is under way and to take nothing more.
    pub(super) fn leave(&self) {
        self.leave.notify_one();
    }

    /// Returns when it was asked to leave, when it was idle for too long, or when the gateway stops.
    pub(super) async fn leaving(self: Arc<Self>) {
        tokio::select! {
            () = self.leave.notified() => {}
            () = self.quiet(self.shared.limits.idle) => {}
            () = self.shared.stopping.cancelled() => {}
        }
    }

    /// Returns when it has nothing under way although it was asked to leave, or when the gateway ends it.
    pub(super) async fn left(self: Arc<Self>) {
        tokio::select! {
            () = self.quiet(self.shared.limits.leave) => {}
            () = self.shared.cut.cancelled() => {}
        }
    }

    /// Between once and twice the limit after the last request: a clock for each request would cost more than it gives.
    async fn quiet(&self, idle: Duration) {
        let mut before = self.requests.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle).await;
            let requests = self.requests.load(Ordering::Relaxed);
            if self.under_way.load(Ordering::Relaxed) == 0 && requests == before {
                return;
            }
            before = requests;
        }
    }
}

/// A request under way on a connection, counted until dropped.
#[derive(Debug)]
pub(super) struct Busy(Arc<Client>);

impl Busy {
    pub(super) fn start(client: &Arc<Client>) -> Self {
        client.requests.fetch_add(1, Ordering::Relaxed);
        client.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(client))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
