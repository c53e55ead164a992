//! `farshore audit` against a chain that is whole, and against everything that can be done to one.

use farshore::api::views::AuditView;
use farshore::engine::AuditEntry;
use farshore_core::store::{Store, Transaction, Write};
use serde_json::{Value, json};

use crate::api_bench::{Served, problem};
use crate::cli_verbs::run;

/// The key of an entry.
fn key(number: u64) -> String {
    format!("audit/{number:010}")
}

/// Writes into the store behind everybody's back.
async fn write(served: &Served, writes: Vec<Write>) {
    let store: &dyn Store = &served.bench.store;
    store.commit(Transaction { compares: Vec::new(), writes }).await.unwrap();
}

async fn value(served: &Served, number: u64) -> Vec<u8> {
    let store: &dyn Store = &served.bench.store;
    store.get(&key(number)).await.unwrap().unwrap().value
}

/// A control plane with some entries in its audit, and their number.
async fn told() -> (Served, u64) {
    let served = Served::protected().await;
    for name in ["a", "b", "c"] {
        let made = served.post("/api/v1/tokens", &json!({"name": name, "role": "reader"})).await;
        assert_eq!(made.status(), 201);
    }
    let audit: Vec<AuditView> = served.get("/api/v1/audit").await;
    let last = audit.last().unwrap().number;
    assert_eq!(last, audit.len() as u64);
    (served, last)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_is_read_page_by_page() {
    let (served, last) = told().await;
    let mut numbers = Vec::new();
    loop {
        let after = numbers.last().copied().unwrap_or(0);
        let page: Vec<AuditView> = served.get(&format!("/api/v1/audit?after={after}&limit=2")).await;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        numbers.extend(page.iter().map(|entry| entry.number));
    }
    assert_eq!(numbers, (1..=last).collect::<Vec<u64>>());
    let newest: Vec<AuditView> = served.get("/api/v1/audit?limit=2").await;
    assert_eq!(newest.iter().map(|entry| entry.number).collect::<Vec<u64>>(), [last - 1, last]);
    let beyond: Vec<AuditView> = served.get(&format!("/api/v1/audit?after={}", u64::MAX)).await;
    assert!(beyond.is_empty());
    let (code, out, err) = run(&served, "audit list --limit 1").await;
    assert_eq!((code, out.lines().count()), (0, 2), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_chain_is_intact_online_and_in_a_backup() {
    let (served, last) = told().await;
    let (code, out, err) = run(&served, "audit verify --output json").await;
    assert_eq!(code, 0, "{err}");
    let verdict: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((verdict["intact"].as_bool(), verdict["entries"].as_u64()), (Some(true), Some(last)));
    let seal = verdict["last"].as_str().unwrap();
    let (code, out, _) = run(&served, &format!("audit verify --expect {seal}")).await;
    assert_eq!((code, out.contains(&format!("intact: {last} entries"))), (0, true), "{out}");
    let file = served.dir.path().join("backup");
    farshore_store::transfer::backup(&served.bench.store, &file).await.unwrap();
    let line = format!("audit verify --expect {seal} --backup {}", file.display());
    let (code, out, err) = run(&served, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("intact"), "{out}");

    // The end is cut off: only who has seen it knows.
    write(&served, vec![Write::Delete(key(last))]).await;
    assert_eq!(run(&served, "audit verify").await.0, 0);
    let (code, _, err) = run(&served, &format!("audit verify --expect {seal}")).await;
    assert_eq!((code, err.contains("the end was cut off")), (1, true), "{err}");
    let (code, out, _) = run(&served, &line).await;
    assert_eq!((code, out.contains("intact")), (0, true), "the backup still has it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_done_to_an_entry_is_found_at_the_first_bad_one() {
    let (served, last) = told().await;
    let good = (value(&served, 2).await, value(&served, 3).await);
    let broken = async |line: &str, says: &str| {
        let (code, out, err) = run(&served, line).await;
        assert_eq!(code, 1, "{out}{err}");
        assert!(err.contains(says), "{says}: {err}");
    };
    let put = |number, value: &[u8]| Write::Put(key(number), value.to_vec());
    let restore = async || write(&served, vec![put(2, &good.0), put(3, &good.1)]).await;

    let mut changed: AuditEntry = serde_json::from_slice(&good.1).unwrap();
    changed.who = "eve".to_owned();
    write(&served, vec![put(3, &serde_json::to_vec(&changed).unwrap())]).await;
    broken("audit verify", "entry 3 was changed").await;
    changed.hash = changed.expected_hash();
    write(&served, vec![put(3, &serde_json::to_vec(&changed).unwrap())]).await;
    broken("audit verify", "entry 4 does not follow").await;
    broken(&format!("audit verify --expect 3:{}", "0".repeat(64)), "entry 3 is another one").await;

    write(&served, vec![put(2, &good.1), put(3, &good.0)]).await;
    broken("audit verify", "entry 2 does not follow").await;

    write(&served, vec![Write::Delete(key(2)), put(3, &good.1)]).await;
    broken("audit verify", "after entry 1 comes entry 3").await;

    restore().await;
    assert_eq!(run(&served, "audit verify").await.0, 0);
    write(&served, vec![put(3, b"{}")]).await;
    broken("audit verify", "audit/0000000003 does not read as what it should be").await;
    let page: Vec<AuditView> = served.get("/api/v1/audit?after=0").await;
    assert_eq!(page.len(), 2, "those before it are told");
    let answer = served.request(reqwest::Method::GET, "/api/v1/audit?after=2").send().await.unwrap();
    assert_eq!(problem(answer).await.status, 503);

    // A gap of more than what is read at once.
    restore().await;
    let far = value(&served, last).await;
    write(&served, vec![put(last + 5_000, &far)]).await;
    broken("audit verify", &format!("after entry {last} comes entry {}", last + 5_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_on_the_command_line() {
    let served = Served::new().await;
    let (code, secret, err) = run(&served, "token create ci --role operator --expires 12h").await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(secret.lines().count(), 1, "the secret alone is on stdout");
    assert!(err.contains("token ci (") && !err.contains(secret.trim()), "{err}");
    let (_, listed, _) = run(&served, "token list").await;
    assert!(listed.contains("operator") && !listed.contains(&secret.trim()[16..]), "{listed}");
    let id = &secret[4..14];
    assert!(listed.contains(id));
    let admin = std::fs::read(served.token_file()).unwrap();
    std::fs::write(served.token_file(), &secret).unwrap();
    let (_, who, _) = run(&served, "whoami").await;
    assert!(who.contains("ci") && who.contains("operator") && who.contains(id), "{who}");
    let (code, _, err) = run(&served, "machine create web-1 --region paris --disk a=1M").await;
    assert_eq!((code, err.contains("needs the role contributor")), (3, true), "{err}");
    std::fs::write(served.token_file(), admin).unwrap();
    let (code, out, err) = run(&served, &format!("token revoke {id}")).await;
    assert_eq!((code, out.contains("is revoked")), (0, true), "{err}");
    for (code, line, says) in [
        (3, "token revoke aaaaaaaaaa", "there is no token"),
        (2, "token revoke ../items", "is not a token's id"),
        (2, "token create x --role root", "must be reader, operator, contributor or admin"),
        (2, "token create x --role reader --expires 3", "is not a time"),
        (2, "token create x --role reader --expires 400d", "a year"),
        (2, "token create control-plane --role reader", "calls itself"),
    ] {
        let (found, out, err) = run(&served, line).await;
        assert_eq!((found, out.as_str()), (code, ""), "{line}: {err}");
        assert!(err.contains(says), "{line}: {err}");
    }
}
