//! A directory with a few names, served by DNS and the concierge, and the tools that people ask with.

use std::net::SocketAddr;
use std::path::Path;

use farshore::engine::DirectoryRecord;
use farshore::names::dns::{DnsOptions, DnsServer, NameServer, serve};
use farshore::names::{Directory, SigningKey, concierge};
use farshore::serve::{ServeLimits, listen};
use farshore_core::ids::{Epoch, ItemId, Region};
use farshore_core::moment::Moment;
use farshore_core::workload::Endpoint;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) const ZONE: &str = "farshore.internal";

pub(crate) fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
}

/// A record of `KIND/NAME` under its name in the directory.
pub(crate) fn record(item: &str, epoch: u64, region: &str, uris: &[&str]) -> (String, DirectoryRecord) {
    let item = ItemId::parse(item).unwrap();
    let endpoints = uris
        .iter()
        .enumerate()
        .map(|(number, uri)| Endpoint { name: format!("part-{number}"), uri: (*uri).to_owned() });
    let record = DirectoryRecord {
        epoch: Epoch(epoch),
        item: item.clone(),
        region: Region::parse(region).unwrap(),
        endpoints: endpoints.collect(),
        ttl_seconds: 5,
        since: Moment::from_millis(1_700_000_000_000 + epoch),
    };
    (format!("{}.{}", item.name, item.kind), record)
}

/// What the tests ask about.
pub(crate) fn records() -> Vec<(String, DirectoryRecord)> {
    let mut long = record("machine/long", 1, "oslo", &["nbd://192.0.2.9:10809/long/root"]);
    long.1.ttl_seconds = 86_400;
    let many: Vec<String> = (1..=40).map(|n| format!("nbd://[2001:db8::{n:x}]:10809/many")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    vec![
        record(
            "machine/web-1",
            3,
            "paris",
            &["nbd://192.0.2.7:10809/web-1/root", "nbd://192.0.2.7:10810/web-1/log"],
        ),
        record("machine/six", 1, "oslo", &["nbd://[2001:db8::1]/six/root"]),
        record("app/shop", 2, "oslo", &["https://shop.oslo.example.com/"]),
        record("app/alias", 1, "oslo", &["https://web-1.machine.farshore.internal/"]),
        record("machine/many", 1, "bergen", &many),
        long,
    ]
}

pub(crate) async fn dns(directory: &Directory) -> DnsServer {
    let servers = ["paris", "oslo"].iter().zip(1..).map(|(region, n)| NameServer {
        name: format!("ns-{region}"),
        addresses: vec![SocketAddr::from(([192, 0, 2, n], 53)).ip()],
    });
    let options =
        DnsOptions { listen: ([127, 0, 0, 1], 0).into(), zone: ZONE.to_owned(), servers: servers.collect() };
    serve(directory.clone(), options).await.unwrap()
}

pub(crate) fn directory(dir: &Path) -> Directory {
    let directory = Directory::open(&dir.join("directory.copy"), key());
    directory.update(1, 100, records()).unwrap();
    directory
}

/// A concierge that ends when this is dropped.
pub(crate) struct Concierge {
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
    _stop: watch::Sender<bool>,
}

pub(crate) async fn concierge(directory: &Directory) -> Concierge {
    farshore::trust::provider();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (told, stop) = watch::channel(false);
    let router = concierge::router(directory.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { listen(listener, None, router, stop, ServeLimits::default()).await.unwrap() });
    Concierge { address, _tasks: tasks, _stop: told }
}

/// What a program prints.
pub(crate) async fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().await.unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `dig` at the server.
pub(crate) async fn dig(server: SocketAddr, question: &str) -> String {
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let mut args = vec![at.as_str(), "-p", &port, "+tries=1", "+time=5", "+norecurse"];
    args.extend(question.split(' '));
    run("dig", &args).await
}
