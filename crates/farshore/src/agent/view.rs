//! What a region sees of the others: it looks when a control node asks it to, and keeps nothing.
//!
//! Routes: `GET /agent/v1/alive` (the agent's own answer), `POST /agent/v1/view` (looks at other regions and at endpoints),
//! `POST /agent/v1/observations` (what is known here of many items at once).
//!
//! Must always hold: a look has a deadline and there are at most so many at once; only the cluster's nodes may ask.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Json, Router};
use farshore_core::agents::{LookAt, RegionView};
use farshore_core::ids::{ItemId, Region};
use farshore_core::workload::{Observation, StepError};
use futures_util::StreamExt;
use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::peers::{Peers, unreachable};
use super::server::{AgentState, Callers, check_node};

/// One look. Shorter than the deadline of whoever asked, so that the others' answers are not lost with one.
const LOOK_DEADLINE: Duration = Duration::from_millis(1_000);
/// Looks under way at a time: all of [`ENDPOINTS_MAX`] fail within the deadline of whoever asked only if few rounds are
/// needed.
const LOOKS_MAX: usize = 256;
/// Endpoints looked at in one answer; control nodes send no more.
pub(crate) const ENDPOINTS_MAX: usize = 256;
/// Items looked at in one answer; control nodes send no more.
pub(crate) const ITEMS_MAX: usize = 256;

#[derive(Debug, Clone)]
struct Observer {
    agent: AgentState,
    peers: Peers,
}

/// The routes of this file.
pub fn view_router(agent: AgentState, peers: Peers, callers: Callers) -> Router {
    Router::new()
        .route("/agent/v1/alive", get(alive))
        .route("/agent/v1/view", post(view))
        .route("/agent/v1/observations", post(observations))
        .layer(from_fn_with_state(callers, check_node))
        .with_state(Observer { agent, peers })
}

async fn alive() -> &'static str {
    "ok\n"
}

async fn view(State(observer): State<Observer>, Json(at): Json<LookAt>) -> Json<RegionView> {
    Json(look(&observer.peers, &at).await)
}

async fn observations(
    State(observer): State<Observer>,
    Json(items): Json<Vec<ItemId>>,
) -> Json<Vec<Result<Observation, StepError>>> {
    Json(observe_all(&observer.agent, &items).await)
}

/// What is known here of each of these items.
pub(super) async fn observe_all(agent: &AgentState, items: &[ItemId]) -> Vec<Result<Observation, StepError>> {
    let items: Vec<ItemId> = items.iter().take(ITEMS_MAX).cloned().collect();
    let looks = items.into_iter().map(|item| {
        let agent = agent.clone();
        async move { agent.observe(&item).await }
    });
    stream::iter(looks).buffered(LOOKS_MAX).collect().await
}

/// Looks at everything at once.
pub(super) async fn look(peers: &Peers, at: &LookAt) -> RegionView {
    let mut others = Vec::new();
    for region in peers.regions() {
        if at.regions.contains(region) {
            let (peers, region) = (peers.clone(), region.clone());
            others.push(async move { (region.clone(), answers(&peers, &region).await.err()) });
        }
    }
    let mut serving = Vec::new();
    for uri in at.endpoints.iter().take(ENDPOINTS_MAX).cloned() {
        if let Some(endpoint) = Reach::parse(&uri) {
            serving.push(async move { (uri, endpoint.serves().await.err()) });
        }
    }
    let (regions, endpoints) = tokio::join!(
        stream::iter(others).buffer_unordered(LOOKS_MAX).collect::<BTreeMap<Region, Option<String>>>(),
        stream::iter(serving).buffer_unordered(LOOKS_MAX).collect::<BTreeMap<String, Option<String>>>(),
    );
    RegionView { regions, endpoints }
}

/// TCP, HTTP and the agent's own answer in one.
async fn answers(peers: &Peers, region: &Region) -> Result<(), String> {
    let request = peers.request(Method::GET, region, "/agent/v1/alive").map_err(|error| error.to_string())?;
    let response = request.timeout(LOOK_DEADLINE).send().await;
    let status = response.map_err(|error| unreachable(region, &error))?.status();
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("region {region} answered {status}")),
    }
}

/// Where an endpoint is, and what it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reach {
    address: String,
    nbd: bool,
}

/// What an NBD server says first: `NBDMAGIC`, `IHAVEOPT`, two bytes of flags.
const NBD_GREETING: &[u8; 16] = b"NBDMAGICIHAVEOPT";
/// "I know the fixed handshake", then `NBD_OPT_ABORT` with no data: a polite good-bye.
const NBD_GOODBYE: &[u8; 20] = b"\0\0\0\x01IHAVEOPT\0\0\0\x02\0\0\0\0";

impl Reach {
    /// `None`: it cannot be reached from another machine (a socket in the file system), or is no URI.
    fn parse(uri: &str) -> Option<Self> {
        let (scheme, rest) = uri.split_once("://")?;
        let address = rest.split(['/', '?']).next()?;
        let port = match scheme {
            "nbd" | "nbds" => "10809",
            "http" | "ws" => "80",
            "https" | "wss" => "443",
            "mqtt" => "1883",
            "mqtts" => "8883",
            _ => return None,
        };
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { address.to_owned() } else { format!("{address}:{port}") };
        Some(Self { address, nbd: scheme.starts_with("nbd") })
    }

    async fn serves(&self) -> Result<(), String> {
        match tokio::time::timeout(LOOK_DEADLINE, self.greet()).await {
            Ok(result) => result.map_err(|error| format!("{}: {error}", self.address)),
            Err(_) => Err(format!("{} did not answer within {LOOK_DEADLINE:?}", self.address)),
        }
    }

    async fn greet(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(&self.address).await?;
        if !self.nbd {
            return Ok(());
        }
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).await?;
        if !greeting.starts_with(NBD_GREETING) {
            return Err(std::io::Error::other("it does not speak NBD: is another program on its port?"));
        }
        stream.write_all(NBD_GOODBYE).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn reach(uri: &str) -> Option<(String, bool)> {
        Reach::parse(uri).map(|reach| (reach.address, reach.nbd))
    }

    #[test]
    fn endpoints_are_reached_where_their_uri_says() {
        let at = |address: &str, nbd| Some((address.to_owned(), nbd));
        assert_eq!(reach("nbd://127.0.0.1:4711/web-1/root"), at("127.0.0.1:4711", true));
        assert_eq!(reach("nbds://disks.example/web-1"), at("disks.example:10809", true));
        assert_eq!(reach("http://[::1]:8080/x?y"), at("[::1]:8080", false));
        assert_eq!(reach("https://[::1]/"), at("[::1]:443", false));
        assert_eq!(reach("nbd+unix:///web-1?socket=/run/x"), None);
        assert_eq!(reach("nonsense"), None);
    }

    async fn greeted_with(text: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("nbd://{}/a", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(text).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
        });
        let found = Reach::parse(&uri).unwrap().serves().await;
        server.await.unwrap();
        found
    }

    #[tokio::test]
    async fn a_disk_serves_when_it_says_so_itself() {
        assert_eq!(greeted_with(b"NBDMAGICIHAVEOPT\0\x03").await, Ok(()));
        assert!(greeted_with(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap_err().contains("does not speak NBD"));
        assert!(greeted_with(b"NBD").await.is_err());
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(Reach::parse(&format!("nbd://{gone}/a")).unwrap().serves().await.is_err());
    }
}
