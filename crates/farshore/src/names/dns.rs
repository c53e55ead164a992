//! Authoritative DNS for the directory, over UDP and TCP.
//!
//! Every control node is a primary: what it answers is from its own view of the store. No recursion, no transfers, no
//! long answers: whoever forges a sender's address gains nothing by it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::HINFO;
use hickory_proto::rr::{DNSClass, LowerName, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use super::directory::Directory;
use super::zone::{Origin, Owner, Zone};

pub use super::zone::NameServer;

/// Longest answer over UDP: passes every path unfragmented, as resolvers agreed on the DNS flag day of 2020.
const UDP_ANSWER_LEN_MAX: u16 = 1232;
/// A TCP connection that asks nothing for so long is closed.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Answers that wait for a slow reader, per connection.
const TCP_ANSWERS_QUEUED_MAX: usize = 8;
/// How often a port that is free for UDP is looked for until it is free for TCP, too.
const PORTS_TRIED_MAX: usize = 20;
/// How many aliases within the zone are followed.
const ALIASES_MAX: usize = 4;

/// What is served, and where.
#[derive(Debug, Clone)]
pub struct DnsOptions {
    /// The address, UDP and TCP; with port 0 the system chooses one that is free for both.
    pub listen: SocketAddr,
    /// The zone's name: `farshore.internal`.
    pub zone: String,
    /// The control nodes that serve it.
    pub servers: Vec<NameServer>,
}

/// DNS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The options cannot be right.
    #[error("[dns]: {0}")]
    Options(String),
    /// The address is not to be had.
    #[error("cannot serve DNS on {listen}: {source}; is another server there? set another address")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A running server. Dropped, it ends.
pub struct DnsServer {
    /// Where it listens, UDP and TCP.
    pub address: SocketAddr,
    server: hickory_server::Server<Handler>,
    _tasks: JoinSet<()>,
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl DnsServer {
    /// Runs until something that cannot be mended happens to its sockets.
    pub async fn run(&mut self) {
        if let Err(error) = self.server.block_until_done().await {
            tracing::error!(%error, address = %self.address, "DNS is not served any more");
        }
    }

    /// Ends it after the questions that are being answered.
    pub async fn stop(mut self) {
        if let Err(error) = self.server.shutdown_gracefully().await {
            tracing::warn!(%error, "DNS ended badly");
        }
    }
}

/// Starts to answer, on the current runtime.
///
/// # Errors
/// When the zone's name is none, or the address is not to be had.
pub async fn serve(directory: Directory, options: DnsOptions) -> Result<DnsServer, DnsError> {
    let origin = Origin::new(&options.zone, &options.servers).map_err(DnsError::Options)?;
    let (udp, tcp) =
        bind(options.listen).await.map_err(|source| DnsError::Listen { listen: options.listen, source })?;
    let address = tcp.local_addr().map_err(|source| DnsError::Listen { listen: options.listen, source })?;
    // Changes from here on are seen by the task, those before by the first zone.
    let mut changes = directory.changes();
    let zone = Zone::new(&origin, &directory.view(), None);
    let shown = Arc::new(RwLock::new(Arc::new(zone)));
    let mut tasks = JoinSet::new();
    let current = Arc::clone(&shown);
    tasks.spawn(async move {
        while changes.changed().await.is_ok() {
            let before = read(&current);
            let next = Zone::new(&origin, &directory.view(), Some(&before));
            *current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        }
    });
    let mut server = hickory_server::Server::new(Handler { shown });
    server.register_socket(udp);
    server.register_listener(tcp, TCP_IDLE, TCP_ANSWERS_QUEUED_MAX);
    Ok(DnsServer { address, server, _tasks: tasks })
}

async fn bind(listen: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tried = 1;
    loop {
        let udp = UdpSocket::bind(listen).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if listen.port() != 0 || tried >= PORTS_TRIED_MAX => return Err(error),
            Err(_) => tried += 1,
        }
    }
}

fn read(shown: &RwLock<Arc<Zone>>) -> Arc<Zone> {
    Arc::clone(&shown.read().unwrap_or_else(PoisonError::into_inner))
}

struct Handler {
    shown: Arc<RwLock<Arc<Zone>>>,
}

/// What is answered to one question.
#[derive(Debug, Default)]
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authority: Option<Record>,
    additional: Vec<Record>,
}

impl Reply {
    fn refusal(code: ResponseCode) -> Self {
        Self { code, ..Self::default() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut out: R,
    ) -> ResponseInfo {
        let reply = reply(&read(&self.shown), request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        let edns = request.edns.as_ref().map(|asked| edns_for(asked, request.protocol(), reply.code));
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let response =
            builder.build(metadata, &reply.answers, None::<&Record>, &reply.authority, &reply.additional);
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer could not be sent");
                ResponseInfo::from(hickory_proto::op::Header { metadata, counts: Default::default() })
            }
        }
    }
}

/// Ours, no longer than theirs.
fn edns_for(asked: &Edns, protocol: Protocol, code: ResponseCode) -> Edns {
    let mut edns = Edns::new();
    let len_max = match protocol {
        Protocol::Udp => asked.max_payload().clamp(512, UDP_ANSWER_LEN_MAX),
        _ => UDP_ANSWER_LEN_MAX,
    };
    edns.set_max_payload(len_max).set_rcode_high(code.high());
    edns
}

fn reply(zone: &Zone, request: &Request) -> Reply {
    if request.metadata.op_code != OpCode::Query {
        return Reply::refusal(ResponseCode::NotImp);
    }
    if request.version() > 0 {
        return Reply::refusal(ResponseCode::BADVERS);
    }
    let [question] = request.queries.queries() else { return Reply::refusal(ResponseCode::FormErr) };
    let (name, wanted) = (question.name(), question.query_type());
    let is_transfer = matches!(wanted, RecordType::AXFR | RecordType::IXFR);
    if question.query_class() != DNSClass::IN || is_transfer || !zone.name.zone_of(name) {
        return Reply::refusal(ResponseCode::Refused);
    }
    if !zone.is_known {
        return Reply::refusal(ResponseCode::ServFail);
    }
    let Some(owner) = zone.owner(name) else {
        return Reply {
            code: ResponseCode::NXDomain,
            authoritative: true,
            authority: Some(zone.soa.clone()),
            ..Reply::default()
        };
    };
    found(zone, name, owner, wanted)
}

fn found(zone: &Zone, name: &LowerName, owner: &Owner, wanted: RecordType) -> Reply {
    let mut reply = Reply { authoritative: true, ..Reply::default() };
    if wanted == RecordType::ANY {
        // RFC 8482: whoever wants everything may be a victim of whoever asked.
        let data = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
        reply.answers.push(Record::from_rdata(name.into(), zone.soa.ttl, data));
        return reply;
    }
    reply.answers = owner.of_type(wanted).into_iter().cloned().collect();
    if reply.answers.is_empty() {
        reply.answers = aliased(zone, owner, wanted);
    }
    if reply.answers.is_empty() {
        reply.authority = Some(zone.soa.clone());
    } else {
        reply.additional.clone_from(&owner.additional);
    }
    if wanted == RecordType::SOA {
        reply.additional.clear();
    }
    reply
}

/// The alias, and what it leads to as far as that is in the zone.
fn aliased(zone: &Zone, owner: &Owner, wanted: RecordType) -> Vec<Record> {
    let mut answers: Vec<Record> = Vec::new();
    let mut next = owner.of_type(RecordType::CNAME).first().copied().cloned();
    for _ in 0..ALIASES_MAX {
        let Some(alias) = next.take() else { break };
        let RData::CNAME(to) = &alias.data else { break };
        let target = zone.owner(&LowerName::new(&to.0)).cloned();
        answers.push(alias);
        let Some(target) = target else { break };
        answers.extend(target.of_type(wanted).into_iter().cloned());
        next = target.of_type(RecordType::CNAME).first().copied().cloned();
    }
    answers
}
