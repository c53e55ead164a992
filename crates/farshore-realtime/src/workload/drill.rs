//! A test failover of a hub: its sessions as they are now, served beside the running original and apart from it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use farshore_core::workload::{DrillView, Endpoint, Point};

use crate::handler::Handlers;
use crate::live::{LiveHub, Settings};
use crate::service::{Alone, Front, Hubs, Served, Via, bind};

/// An open test failover. Dropped, it is gone with its clients.
#[derive(Debug)]
pub(super) struct Drill {
    copy: Arc<LiveHub>,
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
        hubs.put(Served { hub: Arc::clone(&copy), pair: None, claims: Arc::new(Alone) });
        let front = Front::new(hubs, tls);
        let url = format!("{}://{address}", front.scheme());
        let _ = front.urls.set([url.clone(), url]);
        let (_never, until) = tokio::sync::watch::channel(false);
        let listening = Arc::clone(&front);
        tokio::spawn(async move {
            let _kept = _never;
            listening.listen(listener, Via::Region, until).await;
        });
        Ok(Self { copy, front, address, point })
    }

    pub(super) fn view(&self) -> DrillView {
        let scheme = self.front.scheme().replacen("http", "ws", 1);
        let uri = format!("{scheme}://{}/client/hubs/{}", self.address, self.copy.name());
        DrillView { point: self.point.clone(), endpoints: vec![Endpoint { name: "drill".to_owned(), uri }] }
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        self.front.stop();
        self.copy.serve(false);
        self.copy.send_away();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::live::now;
    use crate::names::HubName;
    use crate::token::client_token;
    use crate::workload::look::POINT;
    use crate::ws::client::{OwnedIncoming, WsClient};
    use farshore_core::workload::{PointKind, Watermark};

    #[tokio::test]
    async fn a_drill_says_where_it_is_and_takes_its_clients_with_it() {
        let name = HubName::parse("lounge").unwrap();
        let spec = serde_json::from_value::<crate::workload::HubSpec>(serde_json::json!({})).unwrap();
        let item = farshore_core::ids::ItemId::parse("realtime/chat").unwrap();
        let settings = Settings { hub: name, ..spec.settings(&item).unwrap() };
        let key = settings.keys.primary.clone();
        let hub = LiveHub::new(settings, Handlers::new(), false);
        let watermark = Watermark::default();
        let point =
            Point { id: POINT.to_owned(), at: watermark.at, watermark, kind: PointKind::Crash, name: None };
        let drill = Drill::open(&hub, None, point).await.unwrap();
        let uri = drill.view().endpoints.remove(0).uri;
        assert!(uri.ends_with("/client/hubs/lounge"), "{uri}");
        let token = client_token(&uri.replacen("ws", "http", 1), None, &[], &[], now(), 5, &key);
        let mut client =
            WsClient::connect(&format!("{uri}?access_token={token}"), &[], &[], None).await.unwrap();
        drop(drill);
        let next = tokio::time::timeout(Duration::from_secs(20), client.next()).await;
        let next = next.expect("its client is kept").unwrap();
        assert!(matches!(next, Some(OwnedIncoming::Close { code: Some(1008), .. })), "{next:?}");
    }
}
