//! Serves a made-up directory by DNS and the concierge on loopback, for measurements: `names_serve [NAMES]`.
//!
//! Prints where as one line of JSON, then goes on until standard input closes.

use std::error::Error;
use std::io::Read as _;
use std::net::SocketAddr;

use farshore::engine::{DirectoryRecord, now};
use farshore::names::dns::{DnsOptions, NameServer, serve};
use farshore::names::{Directory, SigningKey, concierge};
use farshore::serve::{ServeLimits, listen};
use farshore_core::ids::{Epoch, ItemId, Region};
use farshore_core::workload::Endpoint;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let names: u32 = std::env::args().nth(1).as_deref().unwrap_or("1000").parse()?;
    let dir = std::env::temp_dir().join(format!("farshore-names-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let directory =
        Directory::open(&dir.join("directory.copy"), SigningKey::from_pkcs8(&SigningKey::generate()?)?);
    let records = (0..names).map(record).collect::<Result<Vec<_>, _>>()?;
    directory.update(1, 1, records)?;
    let servers = vec![NameServer { name: "ns-paris".to_owned(), addresses: vec![LOOPBACK.ip()] }];
    let options = DnsOptions { listen: LOOPBACK, zone: "farshore.internal".to_owned(), servers };
    let dns = serve(directory.clone(), options).await?;
    let listener = TcpListener::bind(LOOPBACK).await?;
    let http = listener.local_addr()?;
    println!(
        "{}",
        serde_json::json!({
            "dns": dns.address, "zone": "farshore.internal", "concierge": format!("http://{http}/concierge/v1/"),
            "first": "item-0.machine", "names": names, "pid": std::process::id(),
        })
    );
    let (closed, end) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = closed.send(());
    });
    let (stop, stopped) = watch::channel(false);
    let router = concierge::router(directory);
    let served = tokio::spawn(listen(listener, None, router, stopped, ServeLimits::default()));
    end.await?;
    stop.send(true)?;
    served.await??;
    dns.stop().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn record(number: u32) -> Result<(String, DirectoryRecord), Box<dyn Error>> {
    let item = ItemId::parse(&format!("machine/item-{number}"))?;
    let [_, high, middle, low] = number.to_be_bytes();
    let endpoint = Endpoint {
        name: "root".to_owned(),
        uri: format!("nbd://10.{high}.{middle}.{low}:10809/item-{number}/root"),
    };
    let record = DirectoryRecord {
        epoch: Epoch(1),
        item,
        region: Region::parse("paris")?,
        endpoints: vec![endpoint],
        ttl_seconds: 5,
        since: now(),
    };
    Ok((format!("item-{number}.machine"), record))
}
