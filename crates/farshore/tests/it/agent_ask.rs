//! Questions to a workload in another region, and what its replica pulls: who may, and what comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use farshore::agent::{
    AgentState, Callers, Credentials, Ledger, Peers, RegionAgents, RegionPulls, Workloads, router,
};
use farshore_core::agents::Agents;
use farshore_core::ids::{ItemId, Kind, Region, Token};
use farshore_core::workload::{Observation, Order, Pull, Role, StepError, Workload};
use serde_json::{Value, json};

const SECRET: &str = "0123456789abcdef";

/// Knows one hub, and answers with the question and a secret.
#[derive(Debug)]
struct Oracle;

#[async_trait]
impl Workload for Oracle {
    fn kind(&self) -> Kind {
        Kind::Realtime
    }
    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        Ok(Vec::new())
    }
    async fn observe(&self, _: &ItemId) -> Result<Observation, StepError> {
        Err(StepError::Unknown)
    }
    async fn act(&self, _: &Order) -> Result<(), StepError> {
        Err(StepError::Unknown)
    }
    async fn ask(&self, item: &ItemId, question: &Value) -> Result<Value, StepError> {
        match item.name.as_str() {
            "chat" => Ok(json!({"asked": question, "key": "k"})),
            _ => Err(StepError::Unknown),
        }
    }
    async fn pulled(&self, item: &ItemId, by: &Region, request: &[u8]) -> Result<Vec<u8>, StepError> {
        Ok([item.to_string().as_bytes(), by.as_str().as_bytes(), request].join(&b'|'))
    }
}

/// Knows nothing but the duties of every kind.
#[derive(Debug)]
struct Silent;

#[async_trait]
impl Workload for Silent {
    fn kind(&self) -> Kind {
        Kind::Machine
    }
    async fn known(&self) -> Result<Vec<(ItemId, Token, Role)>, StepError> {
        Ok(Vec::new())
    }
    async fn observe(&self, _: &ItemId) -> Result<Observation, StepError> {
        Err(StepError::Unknown)
    }
    async fn act(&self, _: &Order) -> Result<(), StepError> {
        Err(StepError::Unknown)
    }
}

fn agent(dir: &tempfile::TempDir, name: &str) -> AgentState {
    let mut workloads = Workloads::new();
    workloads.insert(Kind::Realtime, Arc::new(Oracle));
    workloads.insert(Kind::Machine, Arc::new(Silent));
    AgentState::new(workloads, Ledger::open(&dir.path().join(name)).unwrap())
}

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

/// A control node in oslo that reaches the agent of paris with `secret`.
async fn oslo(dir: &tempfile::TempDir, secret: &str) -> RegionAgents {
    RegionAgents::new(region("oslo"), agent(dir, "oslo"), peers(dir, secret).await)
}

/// The way to paris with `secret`.
async fn peers(dir: &tempfile::TempDir, secret: &str) -> Peers {
    let routes = router(agent(dir, "paris"), Callers::Secret(SECRET.into()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let urls = BTreeMap::from([(region("paris"), url)]);
    Peers::new(urls, &Credentials::Secret(secret.to_owned())).unwrap()
}

#[tokio::test]
async fn a_replica_pulls_from_the_same_item_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (paris, chat) = (region("paris"), ItemId::parse("realtime/chat").unwrap());
    let pulls = RegionPulls::new(region("oslo"), peers(&dir, SECRET).await);
    let bytes = pulls.pull(&paris, &chat, vec![0, 255]).await.unwrap();
    assert_eq!(bytes, b"realtime/chat|oslo|\x00\xff");
    let other = ItemId::parse("machine/web-1").unwrap();
    let nothing = pulls.pull(&paris, &other, Vec::new()).await.unwrap_err().to_string();
    assert_eq!(nothing, "there is nothing to pull from a workload of kind machine");
    let stranger = RegionPulls::new(region("oslo"), peers(&dir, "another secret of 16").await);
    let refused = stranger.pull(&paris, &chat, Vec::new()).await.unwrap_err().to_string();
    assert!(refused.contains("the cluster's secret is needed"), "{refused}");
}

#[tokio::test]
async fn a_question_reaches_the_workload_near_and_far() {
    let dir = tempfile::tempdir().unwrap();
    let agents = oslo(&dir, SECRET).await;
    let question = json!({"ask": "keys"});
    for at in ["oslo", "paris"] {
        let ask = |item: &str| {
            let item = ItemId::parse(item).unwrap();
            let (agents, question) = (&agents, &question);
            async move { agents.ask(&region(at), &item, question).await }
        };
        assert_eq!(ask("realtime/chat").await, Ok(json!({"asked": {"ask": "keys"}, "key": "k"})));
        assert_eq!(ask("realtime/other").await, Err(StepError::Unknown));
        let nothing = ask("machine/web-1").await.unwrap_err().to_string();
        assert_eq!(nothing, "there is nothing to ask a workload of kind machine", "{at}");
        let no_role = ask("hub/x").await.unwrap_err().to_string();
        assert!(no_role.contains("add the role to its node"), "{at}: {no_role}");
    }
}

#[tokio::test]
async fn who_does_not_know_the_cluster_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let agents = oslo(&dir, "another secret of 16").await;
    let chat = ItemId::parse("realtime/chat").unwrap();
    let refused = agents.ask(&region("paris"), &chat, &json!({"ask": "keys"})).await.unwrap_err();
    assert!(refused.to_string().contains("the cluster's secret is needed"), "{refused}");
}
