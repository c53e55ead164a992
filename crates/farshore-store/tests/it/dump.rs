//! What a person sees of a store's file.

use std::fs;

use farshore_core::store::{Store, Transaction, Write};
use farshore_store::{RedbStore, dump::dump};

#[tokio::test]
async fn a_dump_reads_well_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = RedbStore::open(&path).unwrap();
    let put = |key: &str, value: &str| Write::Put(key.into(), value.into());
    for writes in [
        vec![put("meta", r#"{"cluster":"c1","incarnation":1}"#)],
        vec![put("items/machine/web-1/own", r#"{"epoch":3,"region":"oslo"}"#), put("jobs/01J", "{}")],
        vec![put("hubs/secret/fleet", "hush"), put("tokens/admin", "hush"), put("items/a", "gone")],
        vec![Write::Delete("items/a".into()), Write::Put("jobs/02".into(), vec![0xff, 0])],
    ] {
        store.commit(Transaction { compares: vec![], writes }).await.unwrap();
    }
    let refused = dump(&path, &mut Vec::new()).unwrap_err().to_string();
    assert!(refused.contains("held by another process") && refused.contains("API"), "{refused}");

    // As a crash leaves it, and as a clean end does.
    let crashed = directory.path().join("crashed.redb");
    fs::copy(&path, &crashed).unwrap();
    drop(store);
    for path in [crashed, path] {
        let before = fs::read(&path).unwrap();
        let mut out = Vec::new();
        dump(&path, &mut out).unwrap();
        assert!(fs::read(&path).unwrap() == before, "the dump changed the file");
        let expected = format!(
            "# {} at revision 4, 6 keys

## hubs
       3  hubs/secret/fleet  (secret)

## items
       2  items/machine/web-1/own  {{\"epoch\":3,\"region\":\"oslo\"}}

## jobs
       2  jobs/01J  {{}}
       4  jobs/02  0xff00

## meta
       1  meta  {{\"cluster\":\"c1\",\"incarnation\":1}}

## tokens
       3  tokens/admin  (secret)
",
            path.display()
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn there_is_nothing_to_dump_where_no_store_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let refused = dump(&path, &mut Vec::new()).unwrap_err().to_string();
    assert!(refused.contains("cannot open the store") && refused.contains("store.redb"), "{refused}");
    assert!(!path.exists());
}
