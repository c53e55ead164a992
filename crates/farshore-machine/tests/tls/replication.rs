//! Regions that replicate to each other, and strangers that would like to.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use farshore_core::workload::{Action, Observation, PointChoice, ReplicationState, Role};

use crate::certs::Authority;
use crate::place::{DEADLINE, Place, region};

/// What the source says about a link that does not work.
async fn note(source: &Place, about: &str) -> String {
    let says = |seen: &Observation| {
        let link = seen.replication.as_ref();
        link.and_then(|link| link.note.clone()).filter(|note| note.contains(about))
    };
    let seen = source.wait(about, |seen| says(seen).is_some()).await;
    assert_ne!(seen.replication.as_ref().unwrap().state, ReplicationState::Streaming);
    says(&seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_to_the_far_shore_and_comes_home_over_tls() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let open = |name| Place::open(name, dir.path(), Some(ca.machine_tls(name)));
    let (paris, oslo) = (open("paris"), open("oslo"));
    paris.create().await;
    let mut disk = paris.disk().await;
    let seed: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(7919) >> 8) as u8 | 1).collect();
    disk.write(4000, &seed, false).unwrap();
    oslo.prepare(&paris, "paris").await;
    paris.replicate(1, "oslo", oslo.address()).await;
    paris.streaming().await;
    for number in 0..200_u64 {
        disk.write(number * 8192, &[number as u8 | 1; 4096], number % 50 == 0).unwrap();
    }
    disk.flush().unwrap();
    let (before, head) = (paris.image().await, paris.look().await.watermark);
    oslo.wait("all writes at the target", |seen| seen.watermark.seq >= head.seq).await;

    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    let seen = oslo.wait("an active oslo", |seen| seen.role == Role::Active && seen.ready).await;
    assert!(oslo.image().await == before, "the far shore has everything");
    let after = seen.promotion.unwrap().point.watermark;
    oslo.disk().await.write(100_000, &[0xAA; 5000], true).unwrap();

    paris.act(2, Action::Fence { lost_after: Some(after) }).await.unwrap();
    oslo.act(2, Action::Commit).await.unwrap();
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    oslo.replicate(2, "paris", paris.address()).await;
    oslo.streaming().await;
    let link = oslo.look().await.replication.unwrap();
    assert!(link.moved_bytes < 64 << 10, "{} bytes moved home", link.moved_bytes);
    let now = oslo.image().await;
    oslo.act(3, Action::Fence { lost_after: None }).await.unwrap();
    oslo.act(3, Action::Drain).await.unwrap();
    let last = oslo.look().await.watermark;
    paris.wait("drained", |seen| (seen.watermark.epoch, seen.watermark.seq) >= (last.epoch, last.seq)).await;
    paris.act(3, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert!(paris.image().await == now, "nothing is lost on the way home");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_another_region_gets_nothing() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let open = |name, identity| Place::open(name, dir.path(), Some(ca.machine_tls(identity)));
    // What answers at oslo's address says that it is bergen.
    let (paris, oslo) = (open("paris", "paris"), open("oslo", "bergen"));
    paris.create().await;
    oslo.prepare(&paris, "paris").await;
    paris.replicate(1, "oslo", oslo.address()).await;
    let note = note(&paris, "did not prove to be region oslo").await;
    assert!(note.contains(&oslo.address()) && note.contains("nothing was sent"), "{note}");
    assert!(note.contains("not valid for name"), "{note}");
    assert_eq!(oslo.look().await.watermark.seq, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_of_the_cluster_replicates_nowhere() {
    let (dir, ca, other) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let oslo = Place::open("oslo", dir.path(), Some(ca.machine_tls("oslo")));
    // Another cluster's node that takes oslo for what it is, and shows its own certificate.
    let mut stranger = other.machine_tls("paris");
    let client = ca.client(Some(&other.leaf("paris")));
    stranger.replication_client = std::sync::Arc::new(move |_| std::sync::Arc::clone(&client));
    let paris = Place::open("paris", dir.path(), Some(stranger));
    paris.create().await;
    oslo.prepare(&paris, "paris").await;
    paris.replicate(1, "oslo", oslo.address()).await;
    let text = note(&paris, "alert").await;
    assert!(text.contains("UnknownCA") || text.contains("DecryptError"), "{text}");
    assert_eq!(oslo.look().await.watermark.seq, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_is_spoken_by_neither_side_where_tls_is_on() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let oslo = Place::open("oslo", dir.path(), Some(ca.machine_tls("oslo")));
    let paris = Place::open("paris", dir.path(), None);
    paris.create().await;
    oslo.prepare(&paris, "paris").await;
    paris.replicate(1, "oslo", oslo.address()).await;
    note(&paris, "").await;
    assert_eq!(oslo.look().await.watermark.seq, 0);
    // And the other way: a secured source, a plain target.
    let bergen = Place::open("bergen", dir.path(), Some(ca.machine_tls("bergen")));
    bergen.create().await;
    let plain = Place::open("rome", dir.path(), None);
    plain.prepare(&bergen, "bergen").await;
    bergen.replicate(1, "rome", plain.address()).await;
    note(&bergen, "did not prove to be region rome").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_the_handshake_is_cut_off_and_disturbs_nobody() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let open = |name| Place::open(name, dir.path(), Some(ca.machine_tls(name)));
    let (paris, oslo) = (open("paris"), open("oslo"));
    let mut silent: Vec<_> = (0..20).map(|_| TcpStream::connect(oslo.address()).unwrap()).collect();
    let mut rubbish = TcpStream::connect(oslo.address()).unwrap();
    rubbish.write_all(&[0x55; 4096]).unwrap();
    // The start of a ClientHello that never ends.
    silent[0].write_all(&[22, 3, 1, 2, 0, 1, 0, 1]).unwrap();
    paris.create().await;
    oslo.prepare(&paris, "paris").await;
    paris.replicate(1, "oslo", oslo.address()).await;
    paris.streaming().await;
    let until = Instant::now() + DEADLINE;
    for stream in silent.iter_mut().chain([&mut rubbish]) {
        stream.set_read_timeout(Some(until.saturating_duration_since(Instant::now()))).unwrap();
        let mut answer = Vec::new();
        // An alert or nothing, and then the end.
        match stream.read_to_end(&mut answer) {
            Ok(_) => assert!(answer.len() < 64),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    assert_eq!(paris.look().await.replication.unwrap().state, ReplicationState::Streaming);
}

#[test]
fn a_listener_beyond_loopback_needs_tls() {
    let (dir, ca) = (tempfile::tempdir().unwrap(), Authority::new());
    let options = |tls| farshore_machine::workload::MachinesOptions {
        region: region("paris"),
        dir: dir.path().to_owned(),
        nbd: "127.0.0.1:0".parse().unwrap(),
        nbd_socket: None,
        replication: "0.0.0.0:0".parse().unwrap(),
        tls,
        secret: "secret".into(),
        source: farshore_machine::source::Options::default(),
        replica: farshore_machine::replica::Options::default(),
    };
    let error = farshore_machine::workload::Machines::open(options(None)).unwrap_err().to_string();
    assert!(error.contains("without TLS"), "{error}");
    farshore_machine::workload::Machines::open(options(Some(ca.machine_tls("paris")))).unwrap().stop();
}
