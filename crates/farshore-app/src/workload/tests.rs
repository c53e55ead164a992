//! Two regions in one process, ordered about as the engine would.

use farshore_core::ids::Epoch;
use serde_json::json;

use super::*;

#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Pull for Nobody {
    async fn pull(&self, _: &Region, _: &ItemId, _: Vec<u8>) -> Result<Vec<u8>, StepError> {
        Err(StepError::Retry { what: "cut".to_owned() })
    }
}

fn order(epoch: u64, action: Action) -> Order {
    let key = serde_json::from_value(json!("test/1")).unwrap();
    let token = Token::new(1, Epoch(epoch));
    let item = ItemId::parse("app/todo").unwrap();
    Order { key, item, token, action, only_if: None, lease: None, by: None }
}

#[tokio::test]
async fn an_app_is_made_told_of_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let options = AppsOptions {
        region: Region::parse("paris").unwrap(),
        dir: dir.path().join("apps"),
        http: any,
        https: None,
        host: None,
        domain: "farshore.internal".to_owned(),
        tls: None,
        capacity_mib: 1024,
        far: Arc::new(Nobody),
        tokens: None,
    };
    let apps = Apps::open(options.clone()).await.unwrap();
    let todo = ItemId::parse("app/todo").unwrap();
    let too_much = Action::Create { spec: json!({"mode": "standard"}) };
    let refused = apps.act(&order(1, too_much)).await.unwrap_err().to_string();
    assert!(refused.contains("1024 MiB"), "{refused}");
    assert!(matches!(apps.observe(&todo).await, Err(StepError::Unknown)));
    apps.act(&order(1, Action::Create { spec: json!({"command": "true"}) })).await.unwrap();
    let summary = apps.ask(&todo, &json!({"ask": "summary"})).await.unwrap();
    assert_eq!((&summary["state"], &summary["capacity"]["used_mib"]), (&json!("empty"), &json!(512)));
    let keys = apps.ask(&todo, &json!({"ask": "keys"})).await.unwrap();
    apps.stop().await;
    let apps = Apps::open(options).await.unwrap();
    assert_eq!(apps.observe(&todo).await.unwrap().role, Role::Unconfirmed);
    assert_eq!(apps.ask(&todo, &json!({"ask": "keys"})).await.unwrap(), keys);
    apps.act(&order(1, Action::Serve)).await.unwrap();
    assert!(apps.observe(&todo).await.unwrap().ready);
    apps.act(&order(1, Action::Delete)).await.unwrap();
    assert!(matches!(apps.observe(&todo).await, Err(StepError::Unknown)));
    assert!(!dir.path().join("apps/todo").exists());
}
