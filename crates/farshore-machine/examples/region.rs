//! One region's machines without a control plane, driven by JSON lines: what `./bench` and the crash tests use to measure
//! and to kill the data path alone.
//!
//! `region NAME DIR [POINT_SECONDS]` prints `{"nbd": …, "replication": …, "socket": …}`, then answers each line on standard
//! input: `{"act": ORDER}` with `{"ok": true}` or `{"error": …}`, `{"observe": "machine/NAME"}` with the observation. It ends
//! when standard input does.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Duration;

use farshore_core::ids::{ItemId, Region};
use farshore_core::workload::{Order, Workload};
use farshore_machine::workload::{Machines, MachinesOptions};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let region = Region::parse(&arguments.next().ok_or("which region?")?)?;
    let dir = PathBuf::from(arguments.next().ok_or("which directory?")?);
    let point_every = Duration::from_secs(arguments.next().map_or(Ok(5), |text| text.parse())?);
    std::fs::create_dir_all(&dir)?;
    let socket = dir.join("nbd.sock");
    let loopback = "127.0.0.1:0".parse()?;
    let machines = Machines::open(MachinesOptions {
        nbd_socket: Some(socket.clone()),
        source: farshore_machine::source::Options {
            region: Some(region.clone()),
            point_every,
            ..Default::default()
        },
        replica: farshore_machine::replica::Options::default(),
        dir: dir.join("machines"),
        nbd: loopback,
        replication: loopback,
        tls: None,
        secret: "bench".into(),
        region,
    })?;
    let addresses =
        json!({"nbd": machines.nbd_addr(), "replication": machines.replication_addr(), "socket": socket});
    println!("{addresses}");
    for line in std::io::stdin().lock().lines() {
        let answer = match answer(&machines, &serde_json::from_str(&line?)?).await {
            Ok(answer) => answer,
            Err(error) => json!({ "error": error.to_string() }),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    machines.stop();
    Ok(())
}

async fn answer(machines: &Machines, question: &Value) -> Result<Value, Box<dyn std::error::Error>> {
    if let Some(order) = question.get("act") {
        let order: Order = serde_json::from_value(order.clone())?;
        machines.act(&order).await?;
        return Ok(json!({ "ok": true }));
    }
    let item = question.get("observe").and_then(Value::as_str).ok_or("ask {\"act\"} or {\"observe\"}")?;
    Ok(serde_json::to_value(machines.observe(&ItemId::parse(item)?).await?)?)
}
