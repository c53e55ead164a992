//! Puts the room of real-time hubs into a node.

use std::sync::Arc;

use farshore_realtime::link::{ClientConfigs, ListenerTls};
use farshore_realtime::workload::{PartnerAddress, Realtime, RealtimeOptions, RealtimeTls, TakeOver};

use super::{NodeError, RealtimeReady, wrong};
use crate::agent::Credentials;
use crate::config::{self, NodeConfig};
use crate::trust::{Trust, peer_identity, provider};

/// Opens the region's hubs; `None`: the node has not this role.
pub(super) async fn open(
    config: &NodeConfig,
    credentials: &Credentials,
) -> Result<Option<Arc<Realtime>>, NodeError> {
    let Some(own) = config.realtime() else { return Ok(None) };
    provider();
    let others = config.regions.iter().filter(|region| region.name != config.region);
    let partners = others.filter_map(|region| {
        let place = region.realtime.clone()?;
        let config::RealtimePlace { listen, pair, link, url, pair_url } = place;
        Some((region.name.clone(), PartnerAddress { listen, pair, link, url, pair_url }))
    });
    let options = RealtimeOptions {
        region: config.region.clone(),
        dir: config.data.join("realtime"),
        listen: own.listen,
        pair: own.pair,
        link: own.link,
        url: own.url,
        pair_url: own.pair_url,
        partners: partners.collect(),
        take_over: match own.take_over {
            config::TakeOver::Names => TakeOver::Names,
            config::TakeOver::Address => TakeOver::Address,
        },
        secret: match credentials {
            Credentials::Secret(secret) => secret.clone(),
            Credentials::Trust(trust) => trust.ca_hash(),
        },
        tls: match credentials {
            Credentials::Secret(_) => None,
            Credentials::Trust(trust) => Some(tls(trust)),
        },
        bus: own.bus,
    };
    Realtime::open(options).await.map(Some).map_err(wrong)
}

/// Clients need no certificate; they are believed by their tokens.
fn tls(trust: &Trust) -> RealtimeTls {
    let mut clients = (*trust.server()).clone();
    // WebSocket is HTTP/1.1.
    clients.alpn_protocols = vec![b"http/1.1".to_vec()];
    let to = trust.clone();
    RealtimeTls {
        clients: Arc::new(clients),
        link_server: ListenerTls {
            config: trust.server_nodes(),
            region_of: Arc::new(|shown| {
                peer_identity(Some(std::slice::from_ref(shown))).map(|peer| peer.region)
            }),
        },
        to: ClientConfigs(Arc::new(move |region| to.client(region))),
    }
}

/// Where it listens, for whoever waits for the node.
pub(super) fn ready(realtime: &Realtime) -> RealtimeReady {
    let bound = realtime.bound();
    RealtimeReady { listen: bound.listen, pair: bound.pair, link: bound.link }
}
