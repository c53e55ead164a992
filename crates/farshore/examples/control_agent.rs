//! A region's agent without disks, for measurements of the control plane: `control_agent REGION SECRET-FILE LEDGER`.
//!
//! The routes, the ledger of orders and the orders' turns are the real ones; only the work behind them is a few words in
//! memory, and every observation says that one more write has come. Prints where it listens as one line of JSON; answers
//! each line on standard input with the counts so far (`copy NAME COPIES` first makes `copy-0`, … of machine NAME); ends
//! when standard input closes.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use farshore::agent::{AgentState, Callers, Credentials, Ledger, Peers, Workloads, router, view_router};
use farshore::engine::now;
use farshore::serve::{ServeLimits, listen};
use farshore_core::ids::{ItemId, Kind, Region, Token};
use farshore_core::workload::{
    Action, DrillView, Endpoint, Loss, Observation, Order, Point, PointKind, Replication, ReplicationState,
    Role, StepError, Watermark, Workload,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// What a healthy machine offers a person to choose from.
const POINTS: u64 = 12;

/// What is remembered of an item.
#[derive(Debug, Clone)]
struct Card {
    token: Token,
    role: Role,
    to: Option<Region>,
    drill: bool,
    seq: u64,
}

/// All items of the region.
#[derive(Debug)]
struct Cards {
    region: Region,
    cards: Mutex<BTreeMap<ItemId, Card>>,
    observed: AtomicU64,
    orders: AtomicU64,
}

impl Cards {
    fn cards(&self) -> MutexGuard<'_, BTreeMap<ItemId, Card>> {
        self.cards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `copy NAME COPIES`, or an empty line.
    fn obey(&self, line: &str) -> Result<(), Box<dyn Error>> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["copy", name, copies] = words.as_slice() else { return Ok(()) };
        let copies: u32 = copies.parse()?;
        let mut cards = self.cards();
        let pattern = cards.get(&ItemId::parse(&format!("machine/{name}"))?).cloned();
        let pattern = pattern.ok_or("there is no such machine to copy")?;
        for number in 0..copies {
            cards.insert(ItemId::parse(&format!("machine/copy-{number}"))?, pattern.clone());
        }
        Ok(())
    }

    fn observation(&self, item: &ItemId, card: &Card) -> Observation {
        let watermark =
            Watermark { epoch: card.token.epoch, seq: card.seq, bytes: card.seq * 4096, at: now() };
        let points = (0..POINTS).map(|number| Point {
            id: format!("p{number:04}"),
            watermark,
            at: now(),
            kind: PointKind::Crash,
            name: None,
        });
        let endpoints = vec![Endpoint {
            name: "root".to_owned(),
            uri: format!("nbd://127.0.0.1:1/{}/{}/root", self.region, item.name),
        }];
        let points: Vec<Point> = if card.role == Role::Target { points.collect() } else { Vec::new() };
        Observation {
            token: card.token,
            role: card.role,
            ready: true,
            shape: json!({"disks": [{"name": "root", "size_bytes": 1_048_576}]}),
            watermark,
            endpoints: if card.role == Role::Active { endpoints.clone() } else { Vec::new() },
            replication: card.to.clone().map(|target| streaming(target, watermark)),
            drill: points
                .last()
                .filter(|_| card.drill)
                .map(|point| DrillView { point: point.clone(), endpoints }),
            points,
            promotion: None,
            folding_bytes: 0,
            divergence: None,
            warnings: Vec::new(),
            cannot_promote: None,
            start: None,
        }
    }
}

fn streaming(target: Region, acknowledged: Watermark) -> Replication {
    Replication {
        target,
        state: ReplicationState::Streaming,
        behind_bytes: 0,
        total_bytes: 1_048_576,
        moved_bytes: 1_048_576,
        differed_bytes: 0,
        acknowledged,
        lag: Loss::default(),
        note: None,
    }
}

#[async_trait]
impl Workload for Cards {
    fn kind(&self) -> Kind {
        Kind::Machine
    }

    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        Ok(self.cards().iter().map(|(id, card)| (id.clone(), card.token, card.role)).collect())
    }

    async fn observe(&self, item: &ItemId) -> Result<Observation, StepError> {
        let mut cards = self.cards();
        let card = cards.get_mut(item).ok_or(StepError::Unknown)?;
        card.seq += 1;
        self.observed.fetch_add(1, Ordering::Relaxed);
        Ok(self.observation(item, card))
    }

    async fn act(&self, order: &Order) -> Result<(), StepError> {
        let mut cards = self.cards();
        self.orders.fetch_add(1, Ordering::Relaxed);
        if let Some(card) = cards.get(&order.item)
            && order.token < card.token
        {
            return Err(StepError::Fenced { current: card.token });
        }
        let fresh = |role| Card { token: order.token, role, to: None, drill: false, seq: 1 };
        match &order.action {
            Action::Create { .. } => drop(cards.insert(order.item.clone(), fresh(Role::Active))),
            Action::PrepareTarget { .. } => drop(cards.insert(order.item.clone(), fresh(Role::Target))),
            Action::Delete => drop(cards.remove(&order.item)),
            action => {
                let card = cards.get_mut(&order.item).ok_or(StepError::Unknown)?;
                card.token = order.token;
                match action {
                    Action::Replicate { target, .. } => card.to = Some(target.clone()),
                    Action::StopReplicating => card.to = None,
                    Action::TestFailover { .. } => card.drill = true,
                    Action::CleanUp => card.drill = false,
                    Action::Serve => card.role = Role::Active,
                    other => {
                        return Err(StepError::Fatal { what: format!("nothing measured orders {other:?}") });
                    }
                }
            }
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [region, secret_file, ledger] = arguments.as_slice() else {
        return Err("call it as control_agent REGION SECRET-FILE LEDGER".into());
    };
    let secret = std::fs::read_to_string(secret_file)?.trim().to_owned();
    let cards = Arc::new(Cards {
        region: Region::parse(region)?,
        cards: Mutex::default(),
        observed: AtomicU64::new(0),
        orders: AtomicU64::new(0),
    });
    let workloads = Workloads::from([(Kind::Machine, Arc::clone(&cards) as Arc<dyn Workload>)]);
    let agent = AgentState::new(workloads, Ledger::open(Path::new(ledger))?);
    let callers = Callers::Secret(secret.as_str().into());
    let peers = Peers::new(BTreeMap::new(), &Credentials::Secret(secret))?;
    let routes = router(agent.clone(), callers.clone()).merge(view_router(agent, peers, callers));
    let listener = TcpListener::bind(LOOPBACK).await?;
    println!("{}", json!({"url": format!("http://{}", listener.local_addr()?)}));
    let (stop, stopped) = watch::channel(false);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if let Err(error) = cards.obey(&line) {
                println!("{}", json!({"error": error.to_string()}));
                continue;
            }
            let observed = cards.observed.load(Ordering::Relaxed);
            let orders = cards.orders.load(Ordering::Relaxed);
            println!("{}", json!({"observed": observed, "orders": orders, "items": cards.cards().len()}));
        }
        let _ = stop.send(true);
    });
    listen(listener, None, routes, stopped, ServeLimits::default()).await?;
    Ok(())
}
