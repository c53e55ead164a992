//! Thousands of WebSocket clients in one process, and a publisher: the load of the benchmark of real-time hubs.
//!
//! Obeys one JSON order a line on standard input and answers each with one line of JSON; ends when standard input closes.
//! Read in this order: this file (the orders), `target` (what is spoken to, and how), `client` (one connection's life),
//! `frames` (RFC 6455 as far as a client needs it), `tally` (what came, and when), `publish` (the messages).
//!
//! Must always hold: one thread, one buffer for all that is read, so that what is measured is the server.

mod client;
mod frames;
mod publish;
mod tally;
mod target;

use std::cell::Cell;
use std::error::Error;
use std::io::BufRead as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use client::Crowd;
use publish::{Publisher, Run};
use target::Target;

/// Connections that are being opened at the same time: below every peer's accept queue (511 in Node).
const OPENING_AT_A_TIME: usize = 128;
/// Messages on their way to the server at the same time, each on a connection of its own.
const PUBLISHING_AT_A_TIME: usize = 10;

/// What can be asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    /// Opens clients and waits until each is ready to receive.
    Connect { target: Target, clients: u32, seconds_max: u64 },
    /// Says where the messages of later orders go.
    Publisher(Publisher),
    /// Publishes, and waits until every client has everything; 0 per second: as fast as it is taken.
    Publish { messages: u32, per_second: f64, seconds_max: u64 },
    /// Kills a process while messages flow, and waits until every client is back and has what it was owed.
    Kill { pid: i32, per_second: f64, seconds_before: u64, seconds_max: u64 },
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, obey())
}

async fn obey() -> Result<(), Box<dyn Error>> {
    let (send, mut lines) = mpsc::channel::<String>(1);
    // A thread of its own: a blocking read must not hold up the runtime's end.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let mut stage = Stage::default();
    while let Some(line) = lines.recv().await {
        let done = match serde_json::from_str(&line) {
            Ok(order) => stage.carry_out(order).await,
            Err(error) => Err(error.into()),
        };
        println!("{}", done.unwrap_or_else(|error| json!({"error": error.to_string()})));
    }
    Ok(())
}

/// Who is there.
#[derive(Debug, Default)]
struct Stage {
    crowd: Option<Rc<Crowd>>,
    publisher: Option<Publisher>,
}

impl Stage {
    async fn carry_out(&mut self, order: Order) -> Result<Value, Box<dyn Error>> {
        match order {
            Order::Connect { target, clients, seconds_max } => {
                let began = Instant::now();
                let crowd = Crowd::gather(target, clients, OPENING_AT_A_TIME);
                self.crowd = Some(Rc::clone(&crowd));
                crowd.all_ready(Duration::from_secs(seconds_max)).await?;
                Ok(json!({"connected": crowd.ready(), "seconds": began.elapsed().as_secs_f64()}))
            }
            Order::Publisher(publisher) => {
                self.publisher = Some(publisher);
                Ok(json!({}))
            }
            Order::Publish { messages, per_second, seconds_max } => {
                let (crowd, publisher) = self.both()?;
                publish(crowd, publisher, Run::new(messages, per_second), Duration::from_secs(seconds_max))
                    .await
            }
            Order::Kill { pid, per_second, seconds_before, seconds_max } => {
                let (crowd, publisher) = self.both()?;
                let pid = Pid::from_raw(pid).ok_or("a process has a number above 0")?;
                let patience = Duration::from_secs(seconds_max);
                kill(crowd, publisher, pid, per_second, Duration::from_secs(seconds_before), patience).await
            }
        }
    }

    fn both(&self) -> Result<(&Rc<Crowd>, &Publisher), Box<dyn Error>> {
        let crowd = self.crowd.as_ref().ok_or("nobody is connected: order `connect` first")?;
        Ok((crowd, self.publisher.as_ref().ok_or("nobody publishes: order `publisher` first")?))
    }
}

async fn publish(
    crowd: &Rc<Crowd>,
    publisher: &Publisher,
    run: Run,
    patience: Duration,
) -> Result<Value, Box<dyn Error>> {
    let expected = u64::from(run.messages) * u64::from(crowd.ready());
    crowd.tally.expect(expected);
    let began = Instant::now();
    let published = run.publish(publisher, &crowd.tally, PUBLISHING_AT_A_TIME);
    // Some servers take a message only when it is on its way to everybody: both are waited for together.
    let taken = tokio::time::timeout(patience, published).await.unwrap_or_default();
    let _ = tokio::time::timeout(patience.saturating_sub(began.elapsed()), crowd.tally.reached()).await;
    let delays = crowd.tally.delays();
    Ok(json!({
        "expected": expected, "deliveries": crowd.tally.deliveries(), "taken": taken.messages, "refusal": taken.refusal,
        "seconds": began.elapsed().as_secs_f64(), "p50_ms": delays.at(0.5), "p99_ms": delays.at(0.99),
        "max_ms": delays.at(1.0), "dropped": crowd.dropped(),
    }))
}

async fn kill(
    crowd: &Rc<Crowd>,
    publisher: &Publisher,
    pid: Pid,
    per_second: f64,
    before: Duration,
    patience: Duration,
) -> Result<Value, Box<dyn Error>> {
    crowd.tally.expect(u64::MAX);
    crowd.forget();
    let going = Rc::new(Cell::new(true));
    let flow = tokio::task::spawn_local(publish::flow(
        publisher.clone(),
        Rc::clone(&crowd.tally),
        per_second,
        Rc::clone(&going),
    ));
    tokio::time::sleep(before).await;
    crowd.come_back_from_now_on();
    let killed = Instant::now();
    kill_process(pid, Signal::KILL)?;
    let all_back = crowd.all_back(patience).await.is_ok();
    let times = crowd.absences(killed);
    going.set(false);
    let acknowledged = flow.await?;
    // Nobody says that nothing more will come: what was owed is waited for, and what is missing then is lost.
    crowd.all_owed(&acknowledged, patience.saturating_sub(killed.elapsed())).await;
    let owed = crowd.owed(&acknowledged);
    Ok(json!({
        "all_back": all_back, "back": crowd.ready(), "clients": crowd.members(), "p50_seconds": times.at(0.5), "p99_seconds": times.at(0.99),
        "last_seconds": times.at(1.0), "recovered": crowd.recovered(), "published": acknowledged.len(),
        "owed": owed.owed, "lost": owed.lost, "duplicates": owed.duplicates,
    }))
}
