//! Upgrades: bytes both ways, ended when the app moves.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;

use super::super::{GatewayLimits, SiteState};
use super::doubles::{Client, HOST, Instance, Rig, until};

async fn open(rig: &Rig) -> Client {
    let mut client = rig.client().await;
    let request =
        format!("GET /upgrade HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n");
    let answer = client.ask(&request).await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("echo")), "{answer:?}");
    client
}

async fn echo(client: &mut Client) {
    client.send("there and back").await;
    let mut back = [0; 14];
    client.stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there and back");
}

#[tokio::test]
async fn a_tunnel_carries_both_ways_and_is_counted() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = open(&rig).await;
    echo(&mut client).await;
    echo(&mut client).await;
    assert_eq!((rig.site.figures().tunnels, rig.site.figures().under_way), (1, 0));
    drop(client);
    until("the tunnel has ended", || rig.site.figures().tunnels == 0).await;
    assert_eq!(rig.site.figures().bytes, 56);
}

#[tokio::test]
async fn a_tunnel_ends_when_the_app_moves() {
    let instance = Instance::start("one").await;
    // Enough for an echo on a busy machine.
    let limits = GatewayLimits { tunnel_grace: Duration::from_secs(8), ..GatewayLimits::default() };
    let rig = Rig::within("paris", instance.here(), limits).await;
    let mut client = open(&rig).await;
    rig.site.set(instance.here());
    echo(&mut client).await;
    rig.there("127.0.0.1:1".parse().unwrap());
    // The grace: what is on its way still comes.
    echo(&mut client).await;
    assert!(client.is_closed().await);
    until("the tunnel has ended", || rig.site.figures().tunnels == 0).await;
}

#[tokio::test]
async fn a_tunnel_goes_through_both_gateways() {
    let instance = Instance::start("far").await;
    let far = Rig::of("oslo", instance.here()).await;
    let near = Rig::new(SiteState::Empty).await;
    near.there(far.http());
    let mut client = open(&near).await;
    echo(&mut client).await;
    assert_eq!((near.site.figures().tunnels, far.site.figures().tunnels), (1, 1));
}

#[tokio::test]
async fn an_upgrade_that_the_app_refuses_is_an_ordinary_answer() {
    let instance = Instance::start("one").await;
    let rig = Rig::new(instance.here()).await;
    let mut client = rig.client().await;
    let asked = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n");
    assert_eq!(client.ask(&asked).await.body, "one");
    let http = format!("GET /seen HTTP/1.1\r\nhost: {HOST}\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n");
    let seen = client.ask(&http).await.json();
    assert_eq!(seen["headers"]["upgrade"], serde_json::Value::Null);
    // Nobody asked here, and the instance does it all the same.
    client.get("/upgrade").await.check_problem(502, &["nobody had asked"]);
}
