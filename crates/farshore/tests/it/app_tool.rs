//! The command-line tool of the time of mobile services, as it was published, against the management wire.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use farshore::trust::{CA_CERTIFICATE, CertRole};
use serde_json::{Value, json};

use crate::access_certificate::issued;
use crate::app_sim::{Served, TOKEN, app, apps};
use crate::trust_listen::cluster;

/// Whom the tool thinks that it has logged in.
const USER: &str = "ops@farshore";
/// Where it thinks that its tokens come from; nobody is asked, for it has one.
const AUTHORITY: &str = "https://login.windows.net";
const TENANT: &str = "11111111-1111-1111-1111-111111111111";
/// How the tool calls itself when it asks for tokens.
const TOOL_ID: &str = "04b07795-8ddb-461a-bbee-02f9e1bf7b46";
/// A command that takes longer hangs.
const SECONDS_MAX: &str = "100";

/// The tool's own directory: a subscription whose endpoint is ours, and a token for it.
fn home(served: &Served) -> tempfile::TempDir {
    home_with(
        served,
        &json!({"user": {"name": USER, "type": "user"}, "tenantId": TENANT, "state": "Enabled"}),
    )
}

/// The same, with what says in the subscription who asks.
fn home_with(served: &Served, who: &Value) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join(".azure");
    std::fs::create_dir(&dir).unwrap();
    let url = &served.url;
    let environment = json!({
        "name": "farshore", "portalUrl": url, "managementEndpointUrl": url, "resourceManagerEndpointUrl": url,
        "activeDirectoryEndpointUrl": AUTHORITY, "activeDirectoryResourceId": "https://management/",
    });
    let mut subscription = json!({
        "id": "sub-1", "name": "farshore", "isDefault": true, "registeredProviders": [], "environmentName": "farshore",
    });
    subscription.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
    let token = json!({
        "tokenType": "Bearer", "expiresIn": 360_000, "expiresOn": "2040-01-01T00:00:00.000Z",
        "resource": "https://management/", "accessToken": TOKEN, "refreshToken": "none", "userId": USER,
        "isUserIdDisplayable": true, "_clientId": TOOL_ID, "_authority": format!("{AUTHORITY}/{TENANT}"), "isMRRT": true,
    });
    for (name, content) in [
        ("azureProfile.json", json!({"environments": [environment], "subscriptions": [subscription]})),
        ("accessTokens.json", json!([token])),
        ("config.json", json!({"mode": "asm"})),
        ("telemetry.json", json!({"telemetry": false})),
    ] {
        std::fs::write(dir.join(name), content.to_string()).unwrap();
    }
    home
}

/// Runs `azure mobile …`; what it printed.
async fn azure(home: &tempfile::TempDir, line: &str) -> String {
    let sdk = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("sdk-tool");
    let mark = sdk.join("installed");
    assert!(mark.exists(), "{} is missing: run ./test once, it installs the tool", mark.display());
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tool/today.js");
    let mut command = Command::new("timeout");
    command.args([SECONDS_MAX, "node", "--no-warnings", "--require"]).arg(shim);
    command.arg(sdk.join("node_modules/azure-cli/bin/azure")).arg("mobile").args(line.split_whitespace());
    command.env("HOME", home.path()).env("NODE_EXTRA_CA_CERTS", home.path().join(CA_CERTIFICATE));
    command.stdin(Stdio::null());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let Output { status, stdout, stderr } = ended;
    let text = String::from_utf8_lossy(&stdout).into_owned();
    assert!(status.success(), "{line}: {status}\n{text}{}", String::from_utf8_lossy(&stderr));
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_of_that_time_lists_shows_scales_and_migrates() {
    let served = Served::new(apps().await).await;
    let home = home(&served);
    let list = azure(&home, "list").await;
    assert!(list.contains("todo-dr") && list.contains("http://todo.app.farshore.internal:8080"), "{list}");
    let shown = azure(&home, "show todo").await;
    for part in ["Healthy", "Ready", "application-key", "paris", "basic"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    azure(&home, "scale change todo --tier standard --numberOfInstances 3 --quiet").await;
    assert_eq!((served.apps.card("todo").mode, served.apps.card("todo").instances), ("standard", 3));
    let key = azure(&home, "key regenerate todo application").await;
    assert!(key.contains("New application key is application-key"), "{key}");
    assert!(azure(&home, "restart todo").await.contains("Service was restarted"));
    assert!(azure(&home, "log todo").await.contains("two"));
    served.apps.bench.sim.set_down("paris", true);
    let migrated = azure(&home, "migrate todo todo-dr --quiet").await;
    assert!(migrated.contains("Migration with id '"), "{migrated}");
    assert!(migrated.contains("Migration complete."), "{migrated}");
    let item = served.control.item(&app("todo")).await.unwrap().unwrap();
    assert_eq!(item.source.as_str(), "oslo");
    assert_eq!(served.control.item(&app("todo-dr")).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_of_that_time_recovers() {
    let served = Served::new(apps().await).await;
    let home = home(&served);
    served.apps.bench.sim.set_down("paris", true);
    let recovered = azure(&home, "recover todo todo-dr --quiet").await;
    assert!(recovered.contains("Recovery complete"), "{recovered}");
    assert_eq!(served.control.item(&app("todo-dr")).await.unwrap(), None);
}

/// What the tool imported from a file of publish settings: a certificate and its key, and nobody's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_of_that_time_migrates_with_a_certificate_in_place_of_a_token() {
    let (_dir, trust) = cluster("prod");
    let served = Served::trusted(apps().await, &trust).await;
    let tool = issued(&trust, "tool", CertRole::Client);
    let home =
        home_with(&served, &json!({"managementCertificate": {"cert": tool.certificate, "key": tool.key}}));
    std::fs::write(home.path().join(CA_CERTIFICATE), trust.ca_pem()).unwrap();
    let asked = json!({"name": "tool", "role": "operator", "certificate": tool.certificate});
    assert_eq!(served.post("/api/v1/tokens", asked).await.status(), 201);
    assert!(azure(&home, "list").await.contains("todo-dr"));
    served.apps.bench.sim.set_down("paris", true);
    let migrated = azure(&home, "migrate todo todo-dr --quiet").await;
    assert!(migrated.contains("Migration complete."), "{migrated}");
    assert_eq!(served.control.item(&app("todo")).await.unwrap().unwrap().source.as_str(), "oslo");
    let audit = served.get::<Value>("/api/v1/audit").await.to_string();
    assert!(audit.contains(r#""who":"tool""#), "{audit}");
}
