//! Three regions with etcd as real processes, for measurements: `control_cluster DATA PROGRAM`.
//!
//! Prints where the control nodes are as one line of JSON, then obeys lines on standard input: `kill REGION` (SIGKILL of its
//! node and its member of etcd), `start REGION`; answers each with a line of JSON. Ends when standard input closes.

use std::error::Error;
use std::io::BufRead as _;
use std::path::Path;

use farshore::up::{Cluster, ClusterOptions};
use serde_json::json;
use tokio::sync::mpsc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [data, program] = arguments.as_slice() else {
        return Err("call it as control_cluster DATA PROGRAM".into());
    };
    let options =
        ClusterOptions { program: Some(program.into()), ..ClusterOptions::with_etcd(Path::new(data)) };
    let regions = options.regions.clone();
    let mut cluster = Cluster::start(options).await?;
    let apis: serde_json::Map<String, serde_json::Value> =
        regions.iter().zip(cluster.apis()).map(|(region, api)| (region.to_string(), json!(api))).collect();
    println!("{}", json!({"apis": apis, "token": cluster.token(), "ca": cluster.ca_file()}));
    let (send, mut lines) = mpsc::channel(1);
    // A thread of its own: a blocking read must not hold up the runtime's end.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = lines.recv().await {
        let done = match line.split_once(' ') {
            Some(("kill", region)) => cluster.kill(region).await.map_err(|error| error.to_string()),
            Some(("start", region)) => cluster.start_region(region).await.map_err(|error| error.to_string()),
            _ => Err(format!("{line:?} is neither kill REGION nor start REGION")),
        };
        println!("{}", done.map_or_else(|error| json!({"error": error}), |()| json!({"done": line})));
    }
    cluster.stop().await?;
    Ok(())
}
