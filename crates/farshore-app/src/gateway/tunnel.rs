//! After an upgrade: bytes both ways, until one side ends, or the app moves and the grace is over.

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::sync::watch;

use super::forward::Way;
use super::site::OpenTunnel;

/// Joins the two connections once both are free of HTTP. The client's place among the connections stays taken.
pub(super) fn open(way: Way<'_>, client: OnUpgrade, instance: OnUpgrade) {
    let open = OpenTunnel::start(Arc::clone(way.site));
    let mut turns = way.site.turns();
    let holder = Arc::clone(way.client);
    way.client.shared.tasks.spawn(async move {
        let joined = async {
            match tokio::try_join!(client, instance) {
                Ok((client, instance)) => carry(&open, client, instance).await,
                Err(error) => tracing::debug!(%error, "an upgrade came to nothing"),
            }
        };
        tokio::select! {
            () = joined => {}
            () = moved(&mut turns, holder.shared.limits.tunnel_grace) => {}
            () = holder.shared.stopping.cancelled() => {}
        }
    });
}

async fn carry(open: &OpenTunnel, client: Upgraded, instance: Upgraded) {
    let (mut client, mut instance) = (TokioIo::new(client), TokioIo::new(instance));
    // An error is one side's end.
    if let Ok((sent, received)) = copy_bidirectional(&mut client, &mut instance).await {
        open.site().count_bytes(sent + received);
    }
}

/// Returns a grace after the app moved.
async fn moved(turns: &mut watch::Receiver<u64>, grace: Duration) {
    match turns.changed().await {
        Ok(()) => tokio::time::sleep(grace).await,
        // The site is gone from the gateway, and whoever serves its tunnels ends them.
        Err(_) => std::future::pending().await,
    }
}
