//! A test failover of a hub: its sessions as they are now, served beside the running original and apart from it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use farshore_core::ids::ItemId;
use farshore_core::workload::{DrillView, Endpoint, Point};

use crate::handler::Handlers;
use crate::live::{LiveHub, Settings};
use crate::service::{Alone, Front, Hubs, Served, Via, bind};

/// An open test failover. Dropped, it is gone with its clients.
#[derive(Debug)]
pub(super) struct Drill {
    front: Arc<Front>,
    address: SocketAddr,
    point: Point,
}

impl Drill {
    /// Serves a copy on a port of its own, on loopback. Handlers are not told of what happens in it.
    pub(super) async fn open(
        hub: &LiveHub,
        tls: Option<Arc<rustls::ServerConfig>>,
        point: Point,
    ) -> io::Result<Self> {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let address = listener.local_addr()?;
        let settings = Settings { handlers: Vec::new(), members: Vec::new(), ..(*hub.settings()).clone() };
        let copy = LiveHub::new(settings, Handlers::new(), false);
        copy.apply_snapshot(hub.copies());
        copy.adopt();
        copy.serve(true);
        let hubs = Arc::<Hubs>::default();
        hubs.put(Served { hub: copy, pair: None, claims: Arc::new(Alone) });
        let front = Front::new(hubs, tls);
        let url = format!("{}://{address}", front.scheme());
        let _ = front.urls.set([url.clone(), url]);
        let (_never, until) = tokio::sync::watch::channel(false);
        let listening = Arc::clone(&front);
        tokio::spawn(async move {
            let _kept = _never;
            listening.listen(listener, Via::Region, until).await;
        });
        Ok(Self { front, address, point })
    }

    pub(super) fn view(&self, item: &ItemId) -> DrillView {
        let scheme = self.front.scheme().replacen("http", "ws", 1);
        let hub = item.name.as_str().replace('-', "_");
        let uri = format!("{scheme}://{}/client/hubs/{hub}", self.address);
        DrillView { point: self.point.clone(), endpoints: vec![Endpoint { name: "drill".to_owned(), uri }] }
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        self.front.stop();
    }
}
