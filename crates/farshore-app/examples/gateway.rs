//! A gateway by itself in front of upstreams that are there already: `gateway ADDRESS...` serves the host `todo.example`,
//! prints where as one line of JSON, and ends with its standard input. The benchmark sends its load through it.
#![expect(clippy::unwrap_used, reason = "a program for measurements ends at the first thing that is wrong")]

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use farshore_app::gateway::{Gateway, GatewayBody, GatewayOptions, Scripts, Site, SiteState, problem};
use farshore_core::ids::Region;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

/// Whom requests are for.
const HOST: &str = "todo.example";

#[derive(Debug)]
struct NoScripts;

#[async_trait]
impl Scripts for NoScripts {
    async fn call(&self, _: Request<Incoming>) -> Response<GatewayBody> {
        problem(StatusCode::NOT_FOUND, "there are no scripts here")
    }
}

#[tokio::main]
async fn main() {
    let instances: Arc<[SocketAddr]> = std::env::args().skip(1).map(|text| text.parse().unwrap()).collect();
    assert!(!instances.is_empty(), "say where the upstreams are: gateway 127.0.0.1:8000");
    let region = Region::parse("paris").unwrap();
    let http = SocketAddr::from(([127, 0, 0, 1], 0));
    let options = GatewayOptions { http, https: None, tls: None, region };
    let gateway = Gateway::open(options).await.unwrap();
    let site = Site::new("todo", vec![HOST.to_owned()], Vec::new(), Arc::new(NoScripts));
    site.set(SiteState::Here { instances, pass: None });
    gateway.put(Arc::clone(&site)).unwrap();
    println!("{}", serde_json::json!({ "http": gateway.bound().http, "host": HOST }));
    // Whoever started it holds the other end.
    let held = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = held.await;
    gateway.stop().await;
}
