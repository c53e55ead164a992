//! Endpoints that are not etcd, not our etcd, or etcd no longer: whatever they say, nothing is believed and nothing lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use farshore_core::store::{
    Change, CommitError, Compare, Entry, ReadError, Revision, Store, Transaction, Write,
};
use farshore_store::EtcdStore;
use farshore_store::etcd::EtcdOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::cluster::{Cluster, PATIENT};

/// Short, so that what hangs is over soon; nothing here depends on a member being fast enough.
const SHORT: Duration = Duration::from_millis(400);

/// Answers to a path, in turn; the last one again and again. `None` hangs.
type Script = Arc<Mutex<BTreeMap<&'static str, Vec<Option<Vec<u8>>>>>>;

/// A server that reads a request and says what it was told to say, on a connection each.
async fn liar(script: &[(&'static str, &[Option<&str>])]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let lines =
        |lines: &[Option<&str>]| lines.iter().map(|line| line.map(|text| text.as_bytes().to_vec())).collect();
    let script: Script =
        Arc::new(Mutex::new(script.iter().map(|(path, said)| (*path, lines(said))).collect()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(lie(stream, Arc::clone(&script), Arc::clone(&heard)));
        }
    });
    (endpoint, asked)
}

async fn lie(mut stream: TcpStream, script: Script, asked: Arc<Mutex<Vec<String>>>) {
    let text = question(&mut stream).await;
    let path = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let start = text.split_once("start_revision\":").and_then(|(_, rest)| rest.split(',').next());
    asked.lock().unwrap().push(start.map_or_else(|| path.clone(), |start| format!("{path} {start}")));
    let answer = {
        let mut script = script.lock().unwrap();
        let Some(answers) = script.get_mut(path.as_str()) else { return };
        if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
    };
    match answer {
        Some(answer) => drop(stream.write_all(&answer).await),
        None => std::future::pending().await,
    }
}

/// A request with its body: JSON, which ends with a brace.
async fn question(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut bytes = vec![0; 1 << 16];
    while !text.ends_with('}') {
        match stream.read(&mut bytes).await {
            Ok(len) if len > 0 => text.push_str(&String::from_utf8_lossy(&bytes[..len])),
            _ => break,
        }
    }
    text
}

fn http(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn header(cluster: u64, revision: u64, term: u64) -> String {
    format!(
        r#""header":{{"cluster_id":"{cluster}","member_id":"1","revision":"{revision}","raft_term":"{term}"}}"#
    )
}

fn range(cluster: u64, revision: u64, term: u64) -> String {
    http("200 OK", &format!("{{{}}}", header(cluster, revision, term)))
}

fn store(endpoints: &[&str]) -> EtcdStore {
    EtcdStore::connect(EtcdOptions {
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
        call_timeout: SHORT,
        ..EtcdOptions::default()
    })
    .unwrap()
}

fn creation(key: &str) -> Transaction {
    Transaction {
        compares: vec![Compare::Absent(key.into())],
        writes: vec![Write::Put(key.into(), b"v".to_vec())],
    }
}

const RANGE: &str = "/v3/kv/range";
const TXN: &str = "/v3/kv/txn";

/// All kinds of nonsense: never "absent", never "committed", never "not committed" when the transaction was sent.
#[tokio::test]
async fn whatever_is_not_understood_is_unreachable() {
    let good = range(7, 10, 2);
    let nonsense = [
        "".to_owned(),
        "\0\u{1}garbage\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"header\":".to_owned(),
        http("200 OK", ""),
        http("200 OK", "null"),
        http("200 OK", "{}"),
        http("200 OK", "<html>login</html>"),
        http("200 OK", r#"{"header":{}}"#),
        http("200 OK", r#"{"header":{"cluster_id":"7","revision":"minus one","raft_term":"2"}}"#),
        http(
            "200 OK",
            r#"{"header":{"cluster_id":"7","revision":"10","raft_term":"2"},"kvs":[{"key":"%%"}]}"#,
        ),
        http("204 No Content", ""),
        http("301 Moved Permanently", ""),
        http("404 Not Found", "Not Found"),
        http("400 Bad Request", r#"{"error":"something new","message":"something new","code":99}"#),
        http(
            "500 Internal Server Error",
            r#"{"message":"etcdserver: mvcc: database space exceeded","code":8}"#,
        ),
        http("503 Service Unavailable", r#"{"message":"etcdserver: request timed out","code":14}"#),
    ];
    for said in &nonsense {
        let (endpoint, _) = liar(&[(RANGE, &[Some(said)])]).await;
        let read = store(&[&endpoint]).get("a").await;
        assert!(matches!(read, Err(ReadError::Unavailable(_))), "{said:?}: {read:?}");
        let listed = store(&[&endpoint]).list("a").await;
        assert!(matches!(listed, Err(ReadError::Unavailable(_))), "{said:?}: {listed:?}");
        let unsent = store(&[&endpoint]).commit(creation("a")).await;
        assert!(matches!(unsent, Err(CommitError::Unavailable(_))), "{said:?}: {unsent:?}");

        // The one that turns bad after it was found good: then the transaction has been sent.
        if said.contains("%%") {
            continue; // keys of a read, which a transaction has not
        }
        let (endpoint, asked) = liar(&[(RANGE, &[Some(&good)]), (TXN, &[Some(said)])]).await;
        let sent = store(&[&endpoint]).commit(creation("a")).await;
        assert!(matches!(sent, Err(CommitError::Unknown(_))), "{said:?}: {sent:?}");
        assert_eq!(*asked.lock().unwrap(), [RANGE, TXN], "sent once");
    }
}

#[tokio::test]
async fn what_hangs_is_unreachable() {
    let (endpoint, _) = liar(&[(RANGE, &[None])]).await;
    let read = store(&[&endpoint]).get("a").await;
    assert!(matches!(&read, Err(ReadError::Unavailable(why)) if why.contains("did not answer")), "{read:?}");
    let good = range(7, 10, 2);
    let (endpoint, _) = liar(&[(RANGE, &[Some(&good)]), (TXN, &[None])]).await;
    let sent = store(&[&endpoint]).commit(creation("a")).await;
    assert!(matches!(&sent, Err(CommitError::Unknown(why)) if why.contains("did not answer")), "{sent:?}");
}

/// A transaction that was refused in etcd's own words, or says that it failed without a reason.
#[tokio::test]
async fn what_etcd_says_is_understood() {
    let good = range(7, 10, 2);
    let full = r#"{"message":"etcdserver: mvcc: database space exceeded","code":8}"#;
    let odd = format!("{{{}}}", header(7, 11, 2));
    for (said, expected) in [
        (
            http("429 Too Many Requests", full),
            "the store cannot be written: etcdserver: mvcc: database space exceeded: compact",
        ),
        (http("200 OK", &odd), "the outcome of the transaction is unknown: etcd says that a compare failed"),
    ] {
        let (endpoint, _) = liar(&[(RANGE, &[Some(&good)]), (TXN, &[Some(&said)])]).await;
        let error = store(&[&endpoint]).commit(creation("a")).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

/// Whoever goes back in revision has lost what it had: no answer of it is used from then on.
#[tokio::test]
async fn an_endpoint_that_goes_back_is_dropped() {
    let (ahead, behind, later) = (range(7, 10, 2), range(7, 9, 3), range(7, 20, 3));
    let (endpoint, asked) = liar(&[(RANGE, &[Some(&ahead), Some(&behind), Some(&later)])]).await;
    let store = store(&[&endpoint]);
    assert_eq!(store.get("a").await.unwrap(), None);
    let error = store.get("a").await.unwrap_err().to_string();
    assert!(error.contains("went back from 10 to 9") && error.contains("restarted"), "{error}");
    let error = store.get("a").await.unwrap_err().to_string();
    assert!(error.contains("went back from 10 to 9"), "{error}");
    assert!(matches!(store.commit(creation("a")).await, Err(CommitError::Unavailable(_))));
    assert_eq!(asked.lock().unwrap().len(), 2, "it is not asked again");
}

#[tokio::test]
async fn an_answer_of_an_older_term_is_not_used() {
    let (ahead, behind, again) = (range(7, 10, 5), range(7, 11, 4), range(7, 12, 5));
    let (endpoint, _) = liar(&[(RANGE, &[Some(&ahead), Some(&behind), Some(&again)])]).await;
    let store = store(&[&endpoint]);
    assert_eq!(store.get("a").await.unwrap(), None);
    let error = store.get("a").await.unwrap_err().to_string();
    assert!(error.contains("term") && error.contains("from 5 to 4"), "{error}");
    assert_eq!(store.get("a").await.unwrap(), None);
}

/// Two clusters in one list: the first that answered is ours, and nothing is written to the other.
#[tokio::test]
async fn an_endpoint_of_another_cluster_is_not_used() {
    let (foreign, foreign_asked) = liar(&[(RANGE, &[Some(&range(8, 50, 2))]), (TXN, &[None])]).await;
    let (ours, _) = liar(&[(RANGE, &[Some(&range(7, 10, 2)), Some("")]), (TXN, &[None])]).await;
    let store = store(&[&ours, &foreign]);
    assert_eq!(store.get("a").await.unwrap(), None);
    let error = store.get("a").await.unwrap_err().to_string();
    assert!(error.contains("another etcd cluster"), "{error}");
    assert!(matches!(store.commit(creation("a")).await, Err(CommitError::Unavailable(_))));
    assert!(!foreign_asked.lock().unwrap().iter().any(|path| path == TXN), "a transaction was sent to it");
}

/// Nonsense beside a real cluster is passed over: reads and commits go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_beside_real_members_is_passed_over() {
    let cluster = Cluster::start().await;
    let nonsense = http("200 OK", "<html>login</html>");
    let (lying, _) = liar(&[(RANGE, &[Some(&nonsense)]), (TXN, &[Some(&nonsense)])]).await;
    let (hanging, _) = liar(&[(RANGE, &[None]), (TXN, &[None])]).await;
    let mut endpoints = vec!["http://127.0.0.1:9".to_owned(), lying, hanging];
    endpoints.extend(cluster.members.endpoints());
    let store = cluster.store_at(&endpoints, "/farshore/", PATIENT);
    let revision = store.commit(creation("a")).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().revision, revision);
    let mut watch = store.watch("", Revision(0)).await.unwrap();
    assert!(watch.next().await.is_ok());
}

/// A watch whose stream breaks in the middle of a revision, sees events again, and hears of progress out of turn: every
/// change comes once, whole revisions, and it goes on from the last whole one.
#[tokio::test]
async fn a_stream_that_breaks_within_a_revision_is_taken_up_before_it() {
    let stream = |lines: &[String]| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
        let lines = lines.iter().map(|line| format!("{{\"result\":{{{},{line}}}}}\n", header(7, 30, 2)));
        format!("{head}{}", lines.collect::<String>())
    };
    let created = || "\"created\":true".to_owned();
    let event = |key: &str, revision: u64| {
        let key = STANDARD.encode(format!("/farshore/{key}"));
        format!(r#"{{"kv":{{"key":"{key}","mod_revision":"{revision}"}}}}"#)
    };
    let events = |events: &[String]| format!("\"events\":[{}]", events.join(","));
    let part = |some: &[String]| format!("\"fragment\":true,{}", events(some));
    let early = "\"watch_id\":\"-1\"".to_owned();
    let first = stream(&[created(), early, part(&[event("a", 11), event("b", 12)])]);
    let second = stream(&[
        created(),
        part(&[event("a", 11), event("b", 12)]),
        events(&[event("c", 12), event("d", 13)]),
    ]);
    let third = stream(&[created(), events(&[event("e", 14)])]);
    let good = range(7, 30, 2);
    let watch_path = [Some(first.as_str()), Some(&second), Some("HTTP/1.1 500 Oh\r\n\r\n"), Some(&third)];
    let (endpoint, asked) = liar(&[(RANGE, &[Some(&good)]), ("/v3/watch", &watch_path)]).await;
    let mut watch = store(&[&endpoint]).watch("", Revision(10)).await.unwrap();
    for (key, revision) in [("a", 11), ("b", 12), ("c", 12), ("d", 13), ("e", 14)] {
        let entry = Entry { key: key.into(), value: vec![], revision: Revision(revision) };
        assert_eq!(watch.next().await.unwrap(), Change::Put(entry));
    }
    let asked: Vec<_> = asked.lock().unwrap().iter().filter(|path| path.contains("watch")).cloned().collect();
    assert_eq!(asked[..4], ["/v3/watch 11", "/v3/watch 12", "/v3/watch 14", "/v3/watch 14"]);
}

/// A gateway's list in pages, all at the revision of the first.
#[tokio::test]
async fn a_list_stays_at_the_revision_of_its_first_page() {
    let kv = |key: &str| {
        format!(r#"{{"key":"{}","mod_revision":"3"}}"#, STANDARD.encode(format!("/farshore/{key}")))
    };
    let first = format!(r#"{{{},"kvs":[{}],"more":true}}"#, header(7, 10, 2), kv("a"));
    let second = format!(r#"{{{},"kvs":[{}]}}"#, header(7, 15, 2), kv("b"));
    let (endpoint, _) =
        liar(&[(RANGE, &[Some(&http("200 OK", &first)), Some(&http("200 OK", &second))])]).await;
    let (entries, revision) = store(&[&endpoint]).list("").await.unwrap();
    assert_eq!(revision, Revision(10));
    assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn options_that_cannot_be_right_are_refused() {
    let refused = |options: EtcdOptions| EtcdStore::connect(options).unwrap_err().to_string();
    let with = |endpoints: &[&str]| EtcdOptions {
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
        ..EtcdOptions::default()
    };
    let one = ["http://10.0.0.1:2379"];
    for (options, expected) in [
        (with(&[]), "at least one member"),
        (with(&["10.0.0.1:2379"]), "http://10.0.0.1:2379"),
        (with(&["http://10.0.0.1:2379/v3"]), "host and a port only"),
        (with(&["ftp://10.0.0.1"]), "must start with http"),
        (with(&["http://root:secret@10.0.0.1:2379"]), "client certificate instead"),
        (with(&["https://10.0.0.1:2379"]), "CA"),
        (with(&["http://10.0.0.1:2379", "http://10.0.0.1:2379/"]), "given twice"),
        (EtcdOptions { prefix: "farshore".into(), ..with(&one) }, "end with a slash"),
        (EtcdOptions { call_timeout: Duration::from_millis(1), ..with(&one) }, "too short"),
    ] {
        let text = refused(options);
        assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    }
}
