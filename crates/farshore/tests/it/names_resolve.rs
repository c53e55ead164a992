//! `farshore resolve` against several concierges.

use std::path::Path;

use farshore::names::{Directory, SigningKey};

use crate::names_stage::{self as stage, Concierge, record, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");

/// A node of the cluster that `pkcs8` is the key of, with web-1 under this epoch.
async fn node(dir: &Path, pkcs8: &[u8], epoch: u64, region: &str) -> Concierge {
    let key = SigningKey::from_pkcs8(pkcs8).unwrap();
    let directory = Directory::open(&dir.join(format!("{region}.copy")), key);
    directory
        .update(1, epoch, vec![record("machine/web-1", epoch, region, &["nbd://192.0.2.7:1/x"])])
        .unwrap();
    stage::concierge(&directory).await
}

async fn resolve(servers: &[String], more: &[&str]) -> String {
    let mut args = vec!["resolve", "web-1.machine", "--data", "nowhere"];
    args.extend(servers.iter().flat_map(|server| ["--server", server.as_str()]));
    args.extend(more);
    run(PROGRAM, &args).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_the_newest_signed_answer_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (pkcs8, strangers) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let public = SigningKey::from_pkcs8(&pkcs8).unwrap().public().to_base64();
    let behind = node(dir.path(), &pkcs8, 3, "paris").await;
    let newest = node(dir.path(), &pkcs8, 4, "oslo").await;
    let stranger = node(dir.path(), &strangers, 9, "bergen").await;
    let mut servers: Vec<String> =
        [&behind, &newest, &stranger].iter().map(|node| format!("http://{}", node.address)).collect();
    // Nobody listens there.
    servers.push("http://127.0.0.1:1".to_owned());
    let said = resolve(&servers, &["--key", &public, "--output", "json"]).await;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said["active"].as_str(), said["epoch"].as_u64()), (Some("oslo"), Some(4)), "{said}");
    assert_eq!(said["server"].as_str(), Some(servers[1].as_str()));
    let left_out = said["left_out"].to_string();
    assert!(left_out.contains("signed with key") && left_out.contains("127.0.0.1:1"), "{left_out}");
    let page = resolve(&servers[..1], &[]).await;
    assert!(page.contains("paris") && page.contains("the server's own word"), "{page}");
    let nobody = resolve(&servers[2..], &["--key", &public]).await;
    assert!(nobody.contains("nobody could say where web-1.machine is"), "{nobody}");
    let no_key = resolve(&servers[..1], &["--key", "x"]).await;
    assert!(no_key.contains("--key: the key is not base64"), "{no_key}");
}
