//! The fleet's back end: registers and revokes devices by REST, and reads what they said through a consumer group, as the official
//! service SDKs would, with one connection string for both regions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farshore_core::moment::Moment;
use farshore_hub::sas::{ConnectionString, Credential, Token, new_key};
use reqwest::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::client::Identity;
use crate::demo::client::{Broken, Client, broken, text};
use crate::engine::now;

/// The item's name, and the hub's.
pub(super) const HUB: &str = "fleet";
const API_VERSION: &str = "2021-04-12";
const GROUP: &str = "demo";
/// The policy that may do everything.
const POLICY: &str = "iothubowner";
/// Longer than any act, in microseconds.
const TOKEN_LIFE: u64 = 3_600_000_000;
/// Most events of a page.
const PAGE_LEN: usize = 1000;
/// Most identities of a bulk request.
const BULK_LEN: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);
const CURSOR: &str = "x-farshore-cursor";

/// A back end. The hub's name in its requests is the same in both regions; only the address differs.
#[derive(Debug)]
pub(super) struct Desk {
    host: String,
    key: String,
    ca: String,
    http: reqwest::Client,
}

/// What was read so far: how often each message was.
#[derive(Debug, Default)]
pub(super) struct Reading {
    times: HashMap<String, u32>,
    pub(super) late: u64,
}

impl Reading {
    fn note(&mut self, event: &Value) -> Result<(), Broken> {
        *self.times.entry(text(event, "/systemProperties/$.mid")?).or_default() += 1;
        self.late += u64::from(event["late"] == true);
        Ok(())
    }

    /// Different messages.
    pub(super) fn distinct(&self) -> u64 {
        self.times.len() as u64
    }

    /// Messages that were read more than once.
    pub(super) fn twice(&self) -> usize {
        self.times.values().filter(|times| **times > 1).count()
    }

    /// Those that were never read.
    pub(super) fn missing<'a>(&self, owed: &'a [String]) -> Vec<&'a str> {
        owed.iter().map(String::as_str).filter(|id| !self.times.contains_key(*id)).collect()
    }
}

impl Desk {
    /// Asks Farshore for the connection string.
    pub(super) async fn find(api: &Client) -> Result<Self, Broken> {
        let told = api.get(&format!("hubs/{HUB}/connection-string?policy={POLICY}")).await?;
        let string = ConnectionString::parse(&text(&told, "/connection_string")?).map_err(broken)?;
        let Credential::Policy { key, .. } = string.credential else {
            return Err(broken("the connection string is not that of a policy"));
        };
        let ca = text(&told, "/ca")?;
        crate::trust::provider();
        let trusted = reqwest::Certificate::from_pem(ca.as_bytes()).map_err(broken)?;
        let http = reqwest::Client::builder().timeout(PATIENCE).connect_timeout(PATIENCE).no_proxy();
        let http = http.tls_certs_only([trusted]).build().map_err(broken)?;
        Ok(Self { host: string.host, key, ca, http })
    }

    /// What a device must believe.
    pub(super) fn device_tls(&self) -> Result<Arc<rustls::ClientConfig>, Broken> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca.as_bytes()) {
            roots.add(certificate.map_err(broken)?).map_err(broken)?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Arc::new(config))
    }

    /// Registers devices, each with a key of its own; returns what each is given.
    pub(super) async fn register(&self, at: SocketAddr, ids: &[String]) -> Result<Vec<Identity>, Broken> {
        let keys: Vec<String> = ids.iter().map(|_| new_key()).collect();
        let lines: Vec<Value> =
            ids.iter().zip(&keys).map(|(id, key)| identity(id, "create", "enabled", key)).collect();
        self.bulk(at, &lines).await?;
        let given = ids.iter().zip(&keys).map(|(id, key)| {
            let resource = format!("{}/devices/{id}", self.host);
            let token = Token::make(&resource, key, None, soon()).map_err(broken)?;
            Ok(Identity { id: id.clone(), host: self.host.clone(), token })
        });
        given.collect()
    }

    /// Gives each device another key.
    pub(super) async fn rotate(&self, at: SocketAddr, ids: &[String]) -> Result<Vec<String>, Broken> {
        let keys: Vec<String> = ids.iter().map(|_| new_key()).collect();
        let lines: Vec<Value> =
            ids.iter().zip(&keys).map(|(id, key)| identity(id, "update", "enabled", key)).collect();
        self.bulk(at, &lines).await?;
        Ok(keys)
    }

    /// Locks devices out; what is known of them stays.
    pub(super) async fn disable(&self, at: SocketAddr, ids: &[String]) -> Result<(), Broken> {
        for id in ids {
            let path = format!("devices/{id}");
            let mut device = self.call(at, Method::GET, &path, None).await?.1;
            device["status"] = json!("disabled");
            self.call(at, Method::PUT, &path, Some(&device)).await?;
        }
        Ok(())
    }

    /// Deletes devices.
    pub(super) async fn delete(&self, at: SocketAddr, ids: &[String]) -> Result<(), Broken> {
        let lines: Vec<Value> = ids.iter().map(|id| json!({"id": id, "importMode": "delete"})).collect();
        self.bulk(at, &lines).await
    }

    async fn bulk(&self, at: SocketAddr, lines: &[Value]) -> Result<(), Broken> {
        for piece in lines.chunks(BULK_LEN) {
            let (_, answer) = self.call(at, Method::POST, "devices", Some(&json!(piece))).await?;
            if answer["isSuccessful"] != true {
                return Err(broken(format!(
                    "a bulk request was not carried out whole: {}",
                    answer["errors"]
                )));
            }
        }
        Ok(())
    }

    /// How many identities a region knows; a standby answers, too.
    pub(super) async fn identities(&self, at: SocketAddr) -> Result<u64, Broken> {
        let (_, answer) = self.call(at, Method::GET, "statistics/devices", None).await?;
        answer["totalDeviceCount"].as_u64().ok_or_else(|| broken(format!("no count in {answer}")))
    }

    /// The first key of a device.
    pub(super) async fn key_of(&self, at: SocketAddr, id: &str) -> Result<String, Broken> {
        let (_, device) = self.call(at, Method::GET, &format!("devices/{id}"), None).await?;
        text(&device, "/authentication/symmetricKey/primaryKey")
    }

    /// Reads on from where the group stands, which only the hub remembers, until there is no more.
    pub(super) async fn read_on(&self, at: SocketAddr, reading: &mut Reading) -> Result<(), Broken> {
        let path = format!("messages/events?group={GROUP}&max={PAGE_LEN}");
        loop {
            let (cursor, page) = self.call(at, Method::GET, &path, None).await?;
            let events = page.as_array().map(Vec::as_slice).unwrap_or_default();
            events.iter().try_for_each(|event| reading.note(event))?;
            let cursor = cursor.ok_or_else(|| broken("a page of events came without its cursor"))?;
            let body = json!({"group": GROUP, "cursor": cursor});
            self.call(at, Method::POST, "messages/events/checkpoint", Some(&body)).await?;
            if events.len() < PAGE_LEN {
                return Ok(());
            }
        }
    }

    /// How far the group has read, as a region knows it.
    pub(super) async fn cursor(&self, at: SocketAddr) -> Result<Value, Broken> {
        let (_, groups) = self.call(at, Method::GET, "messages/events/groups", None).await?;
        let groups = groups.as_array().cloned().unwrap_or_default();
        let ours = groups.into_iter().find(|group| group["group"] == GROUP);
        Ok(ours.map(|mut group| group["cursor"].take()).unwrap_or_default())
    }

    /// The cursor that came with the answer, and what was answered: JSON, or an array of a page's lines.
    async fn call(
        &self,
        at: SocketAddr,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Option<Value>, Value), Broken> {
        let joint = if path.contains('?') { '&' } else { '?' };
        let url = format!("https://{at}/{path}{joint}api-version={API_VERSION}");
        let token = Token::make(&self.host, &self.key, Some(POLICY), soon()).map_err(broken)?;
        let mut request =
            self.http.request(method.clone(), url).header("host", &self.host).header("authorization", token);
        if method == Method::PUT {
            request = request.header("if-match", "\"*\"");
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(broken)?;
        let status = answer.status();
        let cursor =
            answer.headers().get(CURSOR).and_then(|cursor| serde_json::from_slice(cursor.as_bytes()).ok());
        let text = answer.text().await.map_err(broken)?;
        if !status.is_success() {
            return Err(broken(format!("{method} {path}: {status}: {text}")));
        }
        let lines = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
        let mut values: Vec<Value> = lines.collect::<Result<_, _>>().map_err(broken)?;
        let is_page = cursor.is_some();
        Ok((cursor, if is_page { Value::Array(values) } else { values.pop().unwrap_or_default() }))
    }
}

fn identity(id: &str, mode: &str, status: &str, key: &str) -> Value {
    json!({"id": id, "importMode": mode, "status": status,
        "authentication": {"type": "sas", "symmetricKey": {"primaryKey": key, "secondaryKey": key}}})
}

fn soon() -> Moment {
    Moment(now().0 + TOKEN_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_twice_or_never_is_known() {
        let mut reading = Reading::default();
        for (id, late) in [("a-1", false), ("a-2", true), ("a-2", true)] {
            reading.note(&json!({"systemProperties": {"$.mid": id}, "late": late})).unwrap();
        }
        let owed = ["a-1", "a-2", "a-3"].map(str::to_owned);
        assert_eq!((reading.distinct(), reading.twice(), reading.late), (2, 1, 2));
        assert_eq!(reading.missing(&owed), ["a-3"]);
        assert!(reading.note(&json!({"systemProperties": {}})).is_err());
    }
}
