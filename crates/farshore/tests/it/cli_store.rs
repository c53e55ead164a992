//! The store's own commands: backup, restore, migrate. What they refuse changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use farshore_core::store::{Store, Transaction, Write};
use farshore_store::etcd::local::Members;
use farshore_store::etcd::{EtcdOptions, EtcdStore};
use farshore_store::redb::RedbStore;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_farshore");

/// Three regions on this machine, `data` in a directory of its own; `more` goes to the end of the top table.
fn config(dir: &Path, name: &str, store: &str, etcd: &str) -> String {
    let regions: String = ["paris", "oslo", "bergen"]
        .map(|region| {
            format!("[[regions]]\nname = \"{region}\"\nagent = \"http://127.0.0.1:1\"\nreplication = \"127.0.0.1:1\"\n")
        })
        .concat();
    let text = format!(
        "region = \"oslo\"\ndata = \"{}\"\nsecret_file = \"secret\"\ntoken_file = \"token\"\nstore = \"{store}\"\n{etcd}{regions}",
        dir.join(name).display()
    );
    std::fs::create_dir_all(dir.join(name)).unwrap();
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn farshore(args: &[&str]) -> Output {
    Command::new(PROGRAM).args(args).output().unwrap()
}

fn done(args: &[&str]) -> Value {
    let output = farshore(&[args, &["--output", "json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(args: &[&str], code: i32, expected: &str) {
    let output = farshore(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert!(text.contains(expected), "{args:?}: {text}");
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    let writes = vec![Write::Put(key.into(), value.into())];
    store.commit(Transaction { compares: vec![], writes }).await.unwrap();
}

async fn contents(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    store.list("").await.unwrap().0.into_iter().map(|entry| (entry.key, entry.value)).collect()
}

/// A store that has been used, closed again.
async fn used(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let store = RedbStore::open(path).unwrap();
    put(&store, "meta", r#"{"cluster":"c1","incarnation":1}"#).await;
    put(&store, "items/machine/web-1/own", "{}").await;
    for n in 0..300 {
        put(&store, &format!("audit/{n:010}"), "{}").await;
    }
    contents(&store).await
}

fn incarnation(contents: &BTreeMap<String, Vec<u8>>) -> u64 {
    serde_json::from_slice::<Value>(&contents["meta"]).unwrap()["incarnation"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_in_a_new_life() {
    let dir = tempfile::tempdir().unwrap();
    let config_of = |name: &str| config(dir.path(), name, "redb", "");
    let (old, new) = (config_of("old"), config_of("new"));
    let file = dir.path().join("farshore.backup").display().to_string();
    refused(&["store", "backup", &file, "--config", &old], 1, "there is no store");
    let before = used(&dir.path().join("old/store.redb")).await;
    {
        let _node = RedbStore::open(&dir.path().join("old/store.redb")).unwrap();
        refused(&["store", "backup", &file, "--config", &old], 1, "stop that node first");
    }
    let made = done(&["store", "backup", &file, "--config", &old]);
    assert_eq!((made["cluster"].as_str(), made["keys"].as_u64()), (Some("c1"), Some(302)));
    refused(&["store", "backup", &file, "--config", &old], 1, "exists");

    let restored = done(&["store", "restore", &file, "--config", &new]);
    assert_eq!(restored["incarnation"].as_u64(), Some(2));
    let path = dir.path().join("new/store.redb");
    let read = async || contents(&RedbStore::open(&path).unwrap()).await;
    let mut after = read().await;
    assert_eq!(incarnation(&after), 2);
    after.insert("meta".into(), before["meta"].clone());
    assert!(after == before, "all else is as it was");

    refused(&["store", "restore", &file, "--config", &new], 3, "--replace");
    refused(&["store", "restore", &file, "--config", &new, "--replace"], 2, "--yes");
    assert_eq!(incarnation(&read().await), 2);
    put(&RedbStore::open(&path).unwrap(), "later", "lost").await;
    done(&["store", "restore", &file, "--config", &new, "--replace", "--yes"]);
    let again = read().await;
    assert_eq!(incarnation(&again), 3, "beyond both, the backup and what was there");
    assert!(!again.contains_key("later"));

    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("web-1", "web-2", 1)).unwrap();
    refused(
        &["store", "restore", &file, "--config", &new, "--replace", "--yes"],
        1,
        "is damaged at line 302",
    );
    assert_eq!(incarnation(&read().await), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_to_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["paris", "oslo", "bergen"];
    let members = Members::start(&dir.path().join("etcd"), &names, None).await.unwrap();
    let endpoints = names.map(|name| format!("{name} = \"{}\"", members.endpoint(name))).join(", ");
    let table = format!("[etcd]\nendpoints = {{ {endpoints} }}\nprefix = \"/one/\"\n");
    let before_change = config(dir.path(), "oslo", "redb", &table);
    let path = dir.path().join("oslo/store.redb");
    refused(&["store", "migrate", "--to", "etcd", "--config", &before_change], 1, "there is no store");
    let before = used(&path).await;

    let output = farshore(&["store", "migrate", "--to", "etcd", "--config", &before_change]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("302 keys") && text.contains("store = \"etcd\""), "{text}");
    let options = EtcdOptions {
        endpoints: members.endpoints(),
        prefix: "/one/".into(),
        call_timeout: std::time::Duration::from_secs(20),
        ..EtcdOptions::default()
    };
    let etcd = EtcdStore::connect(options).unwrap();
    assert!(contents(&etcd).await == before);
    assert!(contents(&RedbStore::open(&path).unwrap()).await == before, "the file is kept");

    let after_change = config(dir.path(), "oslo", "etcd", &table);
    refused(&["store", "migrate", "--to", "etcd", "--config", &after_change], 3, "the store is not empty");
    // etcd is backed up while nodes run on it, and restored like any other.
    let file = dir.path().join("etcd.backup").display().to_string();
    assert_eq!(done(&["store", "backup", &file, "--config", &after_change])["keys"].as_u64(), Some(302));
    done(&["store", "restore", &file, "--config", &after_change, "--replace", "--yes"]);
    assert_eq!(incarnation(&contents(&etcd).await), 2);
}
