//! DNS, asked with `dig`.

use std::net::SocketAddr;
use std::time::Duration;

use farshore::names::Directory;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::names_stage::{self as stage, dig, key, record, records};

/// The answer to a question, with what it says in one line each, spaces made one.
async fn ask(server: SocketAddr, question: &str) -> String {
    let text = dig(server, question).await;
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[track_caller]
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        match part.strip_prefix('!') {
            Some(absent) => assert!(!text.contains(absent), "{absent:?} should not be in:\n{text}"),
            None => assert!(text.contains(part), "{part:?} is not in:\n{text}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_finds_what_is_active() {
    let dir = tempfile::tempdir().unwrap();
    let server = stage::dns(&stage::directory(dir.path())).await;
    for (question, expected) in [
        (
            "web-1.machine.farshore.internal A",
            &[
                "status: NOERROR",
                "flags: qr aa;",
                "!recursion requested",
                "web-1.machine.farshore.internal. 5 IN A 192.0.2.7",
            ][..],
        ),
        ("web-1.machine.farshore.internal A +tcp", &["flags: qr aa;", "IN A 192.0.2.7", "(TCP)"]),
        (
            "web-1.machine.farshore.internal A +noedns",
            &["flags: qr aa;", "IN A 192.0.2.7", "!OPT PSEUDOSECTION"],
        ),
        (
            "web-1.machine.farshore.internal A +recurse",
            &["flags: qr aa rd;", "recursion requested but not available"],
        ),
        (
            "WEB-1.Machine.Farshore.INTERNAL A",
            &["status: NOERROR", "WEB-1.Machine.Farshore.INTERNAL. IN A", "192.0.2.7"],
        ),
        ("six.machine.farshore.internal AAAA", &["5 IN AAAA 2001:db8::1"]),
        ("shop.app.farshore.internal A", &["5 IN CNAME shop.oslo.example.com."]),
        ("shop.scm.farshore.internal A", &["5 IN CNAME shop.oslo.example.com."]),
        ("web-1.scm.farshore.internal A", &["status: NXDOMAIN"]),
        ("shop.app.farshore.internal CNAME", &["5 IN CNAME shop.oslo.example.com."]),
        ("alias.app.farshore.internal A", &["CNAME web-1.machine.farshore.internal.", "IN A 192.0.2.7"]),
        ("long.machine.farshore.internal A", &["30 IN A 192.0.2.9"]),
        (
            "_nbd._tcp.web-1.machine.farshore.internal SRV",
            &[
                "SRV 0 0 10809 paris-host.web-1.machine.farshore.internal.",
                "SRV 0 0 10810 paris-host.web-1.machine.farshore.internal.",
                "ADDITIONAL SECTION:\nparis-host.web-1.machine.farshore.internal. 5 IN A 192.0.2.7",
            ],
        ),
        ("paris-host.web-1.machine.farshore.internal A", &["5 IN A 192.0.2.7"]),
        ("_https._tcp.shop.app.farshore.internal SRV", &["SRV 0 0 443 shop.oslo.example.com."]),
        ("web-1.machine.farshore.internal TXT", &["\"epoch=3\" \"incarnation=1\" \"active=paris\""]),
        ("_farshore.shop.app.farshore.internal TXT", &["\"epoch=2\" \"incarnation=1\" \"active=oslo\""]),
    ] {
        let answer = ask(server.address, question).await;
        has(&answer, expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_said_with_the_zones_soa() {
    let dir = tempfile::tempdir().unwrap();
    let server = stage::dns(&stage::directory(dir.path())).await;
    let soa = "AUTHORITY SECTION:\nfarshore.internal. 5 IN SOA ns-paris.farshore.internal. hostmaster.farshore.internal.";
    for (question, expected) in [
        ("web-9.machine.farshore.internal A", &["status: NXDOMAIN", "flags: qr aa;", soa, "ANSWER: 0"][..]),
        ("web-1.machine.farshore.internal AAAA", &["status: NOERROR", "flags: qr aa;", soa, "ANSWER: 0"]),
        ("web-1.machine.farshore.internal TYPE65280", &["status: NOERROR", soa, "ANSWER: 0"]),
        // Nothing is there, but names below it are.
        ("machine.farshore.internal A", &["status: NOERROR", soa, "ANSWER: 0"]),
        ("_tcp.web-1.machine.farshore.internal SRV", &["status: NOERROR", soa, "ANSWER: 0"]),
        ("_http._tcp.web-1.machine.farshore.internal SRV", &["status: NXDOMAIN", soa]),
        ("farshore.internal A", &["status: NOERROR", soa, "ANSWER: 0"]),
        ("example.com A", &["status: REFUSED", "ANSWER: 0", "!SOA"]),
        (". NS", &["status: REFUSED"]),
        ("notfarshore.internal A", &["status: REFUSED"]),
        ("web-1.machine.farshore.internal CH A", &["status: REFUSED"]),
        ("farshore.internal AXFR", &["Transfer failed."]),
        ("farshore.internal IXFR=1 +notcp", &["!192.0.2.7"]),
        ("web-1.machine.farshore.internal ANY +notcp", &["HINFO \"RFC8482\"", "!192.0.2.7"]),
        ("web-1.machine.farshore.internal A +edns=1 +noednsneg", &["status: BADVERS"]),
        ("web-1.machine.farshore.internal A +opcode=NOTIFY", &["status: NOTIMP"]),
    ] {
        let answer = ask(server.address, question).await;
        has(&answer, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_zone_tells_its_servers() {
    let dir = tempfile::tempdir().unwrap();
    let server = stage::dns(&stage::directory(dir.path())).await;
    let ns = ask(server.address, "farshore.internal NS").await;
    has(
        &ns,
        &[
            "30 IN NS ns-paris.farshore.internal.",
            "30 IN NS ns-oslo.farshore.internal.",
            "ns-oslo.farshore.internal. 30 IN A 192.0.2.2",
        ],
    );
    has(&ask(server.address, "ns-paris.farshore.internal A").await, &["30 IN A 192.0.2.1"]);
    has(
        &ask(server.address, "farshore.internal SOA").await,
        &["IN SOA ns-paris.farshore.internal.", "ANSWER: 1"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_into_a_datagram_is_asked_for_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let server = stage::dns(&stage::directory(dir.path())).await;
    let question = "_nbd._tcp.many.machine.farshore.internal SRV +noedns";
    let cut = ask(server.address, &format!("{question} +notcp +ignore")).await;
    has(&cut, &["flags: qr aa tc;"]);
    let whole = ask(server.address, question).await;
    has(&whole, &["Truncated, retrying in TCP mode", "ANSWER: 16", "bergen-host-16"]);
    let size = |text: &str| {
        let size = text.lines().find_map(|line| line.strip_prefix(";; MSG SIZE rcvd: "));
        size.unwrap().parse::<usize>().unwrap()
    };
    assert!(size(&cut) <= 512, "{cut}");
    let large =
        ask(server.address, "_nbd._tcp.many.machine.farshore.internal SRV +bufsize=65000 +notcp +ignore")
            .await;
    assert!(size(&large) <= 1232, "{large}");
}

async fn serial(server: SocketAddr) -> u32 {
    let soa = dig(server, "farshore.internal SOA +short").await;
    soa.split(' ').nth(2).unwrap().parse().unwrap()
}

/// Until an answer has this in it: the zone follows the directory at once, but in a task of its own.
async fn until(server: SocketAddr, question: &str, expected: &str) {
    let found = tokio::time::timeout(Duration::from_secs(20), async {
        while !ask(server, question).await.contains(expected) {}
    });
    found.await.unwrap_or_else(|_| panic!("{question} never answered {expected:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_told_with_a_higher_serial_and_the_same_on_all_nodes() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let directories = [stage::directory(dir.path()), stage::directory(other.path())];
    let servers = [stage::dns(&directories[0]).await, stage::dns(&directories[1]).await];
    let first = serial(servers[0].address).await;
    assert_eq!(serial(servers[1].address).await, first);
    // Nothing changed: the store has a higher revision for other reasons.
    directories[0].update(1, 105, records()).unwrap();
    assert_eq!(directories[0].serial(), first);
    let mut changed = records();
    changed[0] = record("machine/web-1", 4, "oslo", &["nbd://198.51.100.7:10809/web-1/root"]);
    let mut serials = Vec::new();
    for (directory, server) in directories.iter().zip(&servers) {
        directory.update(1, 110, changed.clone()).unwrap();
        until(server.address, "web-1.machine.farshore.internal A", "IN A 198.51.100.7").await;
        serials.push(serial(server.address).await);
    }
    assert!(serials[0] > first, "{serials:?} {first}");
    assert_eq!(serials[0], serials[1]);
    has(
        &ask(servers[0].address, "paris-host.web-1.machine.farshore.internal A").await,
        &["status: NXDOMAIN"],
    );
    changed.remove(0);
    directories[0].update(1, 111, changed).unwrap();
    until(servers[0].address, "web-1.machine.farshore.internal A", "status: NXDOMAIN").await;
    assert!(serial(servers[0].address).await > serials[0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_nothing_denies_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::open(&dir.path().join("directory.copy"), key());
    let server = stage::dns(&directory).await;
    has(&ask(server.address, "web-1.machine.farshore.internal A").await, &["status: SERVFAIL"]);
    directory.update(1, 1, Vec::new()).unwrap();
    until(server.address, "web-1.machine.farshore.internal A", "status: NXDOMAIN").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_does_no_harm_and_gains_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = stage::dns(&stage::directory(dir.path())).await;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.address).await.unwrap();
    // A well-formed question for web-1.machine.farshore.internal A.
    let question =
        b"\x12\x34\0\0\0\x01\0\0\0\0\0\0\x05web-1\x07machine\x08farshore\x08internal\0\0\x01\0\x01";
    let mut answer = [0; 65536];
    for _ in 0..3000 {
        let mut packet = question.to_vec();
        for _ in 0..random.random_range(1..6) {
            let at = random.random_range(0..packet.len());
            packet[at] = random.random();
        }
        packet.truncate(random.random_range(0..=packet.len()));
        if random.random_bool(0.3) {
            packet = (0..random.random_range(0..600)).map(|_| random.random()).collect();
        }
        socket.send(&packet).await.unwrap();
        while let Ok(len) = socket.try_recv(&mut answer) {
            assert!(len <= 512, "an answer of {len} bytes");
        }
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[0xff; 300]).await.unwrap();
    stream.shutdown().await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    has(&ask(server.address, "web-1.machine.farshore.internal A +tries=5").await, &["IN A 192.0.2.7"]);
    has(&ask(server.address, "web-1.machine.farshore.internal A +tcp").await, &["IN A 192.0.2.7"]);
}
