//! Listening in a lost partner's place: on its own addresses, so that its clients need not be told anything.
//!
//! Works where the addresses can be had: on one machine, or where they move with the failover (a floating address, a router's
//! rule). As long as the partner listens itself, they cannot be had on one machine, and are not asked for as long as its link is up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Front, Via, bind};

/// Between two attempts to listen on an address that somebody still holds.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Listens on the partner's addresses while it is `lost`.
#[derive(Debug)]
pub(crate) struct Floating {
    /// The partner's own endpoint, and its endpoint of the pair.
    pub(crate) addresses: [(SocketAddr, Via); 2],
}

impl Floating {
    /// Goes on until everything stops.
    pub(crate) async fn run(self, front: Arc<Front>, mut lost: watch::Receiver<bool>) {
        let mut stop = front.stopped();
        loop {
            tokio::select! {
                now_lost = lost.wait_for(|lost| *lost) => if now_lost.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let (over, until) = watch::channel(false);
            let mut listeners = JoinSet::new();
            for (address, via) in self.addresses {
                listeners.spawn(hold(Arc::clone(&front), address, via, until.clone()));
            }
            tokio::select! {
                back = lost.wait_for(|lost| !*lost) => if back.is_err() { return },
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let _ = over.send(true);
            while listeners.join_next().await.is_some() {}
        }
    }
}

async fn hold(front: Arc<Front>, address: SocketAddr, via: Via, mut until: watch::Receiver<bool>) {
    loop {
        match bind(address).await {
            Ok(listener) => {
                tracing::warn!(%address, "listening in the lost region's place");
                return front.listen(listener, via, until).await;
            }
            Err(error) => tracing::debug!(%address, %error, "cannot listen in the lost region's place yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            _ = until.wait_for(|over| *over) => return,
        }
    }
}
