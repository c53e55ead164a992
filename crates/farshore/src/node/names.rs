//! The node's names: the directory's copy, DNS and the concierge. They answer with the last record also when the store is away.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_core::store::{CommitError, Compare, Store, Transaction, Write as Change};
use serde::{Deserialize, Serialize};

use super::control::Late;
use super::{NodeError, wrong};
use crate::config::{NodeConfig, RegionConfig};
use crate::engine::Meta;
use crate::names::dns::{self, DnsOptions, DnsServer, NameServer};
use crate::names::{Directory, SigningKey, concierge, follow};

/// Where all control nodes find the key that answers are signed with.
const KEY_RECORD: &str = "names/key";
/// Where the store says which life of the cluster this is.
const META_RECORD: &str = "meta";
/// Between two attempts at a store that does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The record [`KEY_RECORD`].
#[derive(Serialize, Deserialize)]
struct KeyRecord {
    /// PKCS #8, in base64.
    pkcs8: String,
}

/// What the node's names are made of.
#[derive(Debug)]
pub(super) struct Names {
    store: Arc<dyn Store>,
    dir: PathBuf,
    dns: Option<DnsOptions>,
}

impl Names {
    /// Checks what can be checked before anything is served.
    ///
    /// # Errors
    /// When DNS cannot listen where it should.
    pub(super) fn new(config: &NodeConfig, store: Arc<dyn Store>) -> Result<Self, NodeError> {
        let dir = config.data.join("names");
        std::fs::create_dir_all(&dir)
            .map_err(|error| wrong(format!("cannot use {}: {error}", dir.display())))?;
        let dns = config.dns.as_ref().map(|dns| DnsOptions {
            listen: dns.listen,
            zone: dns.zone.clone(),
            servers: config.regions.iter().filter(|region| region.control).filter_map(name_server).collect(),
        });
        if let Some(dns) = &dns {
            UdpSocket::bind(dns.listen).map_err(|error| {
                wrong(format!(
                    "cannot serve DNS on {}: {error}; is another server there? set another address for listen in [dns]",
                    dns.listen
                ))
            })?;
        }
        Ok(Self { store, dir, dns })
    }

    /// Serves for as long as the node runs: at once with what is on the disk, and from then on with what the store says.
    pub(super) async fn run(self, late: Late) {
        let key = self.key().await;
        let directory = Directory::open(&self.dir.join("directory"), key);
        late.names_arrive(concierge::router(directory.clone()));
        // Dropped with this task, it ends.
        let _dns = self.start_dns(&directory).await;
        let incarnation = self.incarnation().await;
        follow(directory, Arc::clone(&self.store), incarnation).await;
    }

    async fn start_dns(&self, directory: &Directory) -> Option<DnsServer> {
        let options = self.dns.clone()?;
        match dns::serve(directory.clone(), options).await {
            Ok(server) => {
                tracing::info!(address = %server.address, "DNS");
                Some(server)
            }
            Err(error) => {
                tracing::error!(%error, "names are told by the concierge only");
                None
            }
        }
    }

    /// The cluster's key: from the disk, or from the store, where the first node puts it.
    async fn key(&self) -> SigningKey {
        let path = self.dir.join("key");
        loop {
            match self.try_key(&path).await {
                Ok(key) => return key,
                Err(why) => {
                    tracing::warn!(why, "names wait for the key that they are signed with");
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
        }
    }

    async fn try_key(&self, path: &Path) -> Result<SigningKey, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        match std::fs::read(path) {
            Ok(pkcs8) => return SigningKey::from_pkcs8(&pkcs8).map_err(|error| text(&error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
        }
        let entry = self.store.get(KEY_RECORD).await.map_err(|error| text(&error))?;
        let pkcs8 = match entry {
            Some(entry) => {
                let record: KeyRecord = serde_json::from_slice(&entry.value).map_err(|error| text(&error))?;
                STANDARD.decode(record.pkcs8).map_err(|error| text(&error))?
            }
            None => self.make_key().await?,
        };
        let key = SigningKey::from_pkcs8(&pkcs8).map_err(|error| text(&error))?;
        keep(path, &pkcs8).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(key)
    }

    async fn make_key(&self) -> Result<Vec<u8>, String> {
        let pkcs8 = SigningKey::generate().map_err(|error| error.to_string())?;
        let record = KeyRecord { pkcs8: STANDARD.encode(&pkcs8) };
        let value = serde_json::to_vec(&record).map_err(|error| error.to_string())?;
        let transaction = Transaction {
            compares: vec![Compare::Absent(KEY_RECORD.to_owned())],
            writes: vec![Change::Put(KEY_RECORD.to_owned(), value)],
        };
        match self.store.commit(transaction).await {
            Ok(_) => Ok(pkcs8),
            Err(CommitError::Conflict { .. }) => Err("another node was first".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Rises only while no node runs.
    async fn incarnation(&self) -> u64 {
        loop {
            if let Ok(Some(entry)) = self.store.get(META_RECORD).await
                && let Ok(meta) = serde_json::from_slice::<Meta>(&entry.value)
            {
                return meta.incarnation;
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// Written whole, and readable by the node's owner only.
fn keep(path: &Path, pkcs8: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(pkcs8)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

/// A control node by its region's name, at the address of its URL.
fn name_server(region: &RegionConfig) -> Option<NameServer> {
    let host = region.agent.split_once("://").map_or(region.agent.as_str(), |(_, host)| host);
    let host = host.trim_end_matches('/');
    let address = host.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| host.parse::<IpAddr>());
    Some(NameServer { name: format!("ns-{}", region.name), addresses: vec![address.ok()?] })
}
