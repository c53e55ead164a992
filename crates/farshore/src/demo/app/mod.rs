//! The app service's act: a todo back end whose region is lost is recovered onto the capacity that was reserved for it on the far shore;
//! its clients go on writing at the same URL with the same key, its developer clones from the same remote; then it goes home.
//!
//! Read in this order: this file (the steps and what each claims), `clients` (they write all the time), `address` (how they find the
//! app), `git` (its developer).
//!
//! Must always hold: a row counts as acknowledged only when its client saw that, and as present only when it was read back at the
//! app's own URL; whether scripts are the same is said by git.

mod address;
mod clients;
mod git;

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::act::{Act, LOOK_EVERY, PATIENCE, wait};
use super::client::{Broken, broken, text};
use super::report::{AppReport, seconds};
use super::way::Way;
use address::Address;
use clients::{CLIENTS, Clients, Door};
use git::Developer;

/// Steps of this act.
pub(super) const STEPS: u64 = 6;

const ITEM: &str = "app/todo";
/// Its name in the directory.
const NAME: &str = "todo.app";
/// The reserve on the far shore, and the one for the way home.
const SECONDARY: &str = "todo-dr";
const AT_HOME: &str = "todo-home";
/// Rows that are sent and acknowledged before the act goes on.
const ROWS_PER_STEP: usize = 10 * CLIENTS;

/// What a client and a developer hold in their hands, and must not lose.
#[derive(Debug, PartialEq)]
struct Held {
    url: String,
    git_url: String,
    application: String,
    master: String,
}

struct Story<'a, 'b> {
    act: &'a mut Act<'b>,
    report: &'a mut AppReport,
    held: Held,
    door: Door,
    developer: Developer,
}

/// Plays all steps. What was found out until one breaks is in the report.
pub(super) async fn play(act: &mut Act<'_>, report: &mut AppReport) -> Result<(), Broken> {
    let first = act.played();
    act.begin("app/todo in paris; its scripts are pushed with git");
    let (command, what) = command().await?;
    report.command = what.to_owned();
    let spec = json!({"mode": "basic", "command": command, "database": "sqlite", "require_key": true});
    act.api
        .carry_out("items", &json!({"kind": "app", "name": "todo", "region": "paris", "spec": spec}))
        .await?;
    let held = held(act).await?;
    let keys = act.api.get("apps/todo/keys").await?;
    let address = Address::new(Way::learn(NAME, act.stage.apis(), act.stage.ca_file()).await?);
    let place = address.find().await?;
    let password = text(&keys, "/deployment")?;
    let developer = Developer::begin(act.stage.scratch("developer"), &held.git_url, &password).await?;
    developer.push(&place).await?;
    let door = Door { url: held.url.clone(), key: held.application.clone(), address };
    let mut story = Story { act, report, held, door, developer };
    story.steps().await?;
    report.verified = act.is_verified_since(first);
    Ok(())
}

/// What runs the service: Node where it has SQLite, else this program.
async fn command() -> Result<(String, &'static str), Broken> {
    let mut node = tokio::process::Command::new("node");
    node.args(["-e", "require('node:sqlite')"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if node.status().await.is_ok_and(|status| status.success()) {
        return Ok(("exec node server.js".to_owned(), "node server.js"));
    }
    let own = std::env::current_exe().map_err(broken)?;
    Ok((format!("exec '{}' example todo", own.display()), "farshore example todo"))
}

async fn held(act: &Act<'_>) -> Result<Held, Broken> {
    let (app, keys) = (act.api.get("apps/todo").await?, act.api.get("apps/todo/keys").await?);
    Ok(Held {
        url: text(&app, "/urls/0")?.trim_end_matches('/').to_owned(),
        git_url: text(&app, "/git_url")?,
        application: text(&keys, "/application")?,
        master: text(&keys, "/master")?,
    })
}

impl Story<'_, '_> {
    async fn steps(&mut self) -> Result<(), Broken> {
        let mut clients = self.open().await?;
        self.protect(&clients).await?;
        self.lose_paris(&clients).await?;
        self.compare(&clients).await?;
        self.go_home(&clients).await?;
        self.reckon(&mut clients).await
    }

    async fn open(&mut self) -> Result<Clients, Broken> {
        let clients = Clients::start(&self.door)?;
        self.written(&clients, Instant::now()).await?;
        let refused = self.door.without_key().await?;
        self.act.check(refused == reqwest::StatusCode::UNAUTHORIZED, "a wrong key opens nothing");
        let note = format!("{} answers at {}; {CLIENTS} clients write", self.report.command, self.held.url);
        self.act.end("create app/todo, git push", None, None, &note);
        Ok(clients)
    }

    async fn protect(&mut self, clients: &Clients) -> Result<(), Broken> {
        self.act.begin("capacity is reserved in oslo, and app/todo is protected there, synchronously");
        self.reserve(SECONDARY, "oslo").await?;
        self.act.api.verb(ITEM, "protect", json!({"target": "oslo", "replication": "sync"})).await?;
        self.synchronous().await?;
        self.written(clients, Instant::now()).await?;
        let app = self.act.api.get("apps/todo").await?;
        self.act.check(app["reserve"] == SECONDARY, "the reserve is known to be for app/todo");
        let note = format!("{SECONDARY} holds the capacity; every row is in oslo before it is acknowledged");
        self.act.end("reserve and protect to oslo", None, None, &note);
        Ok(())
    }

    /// Waits until answers wait for the other region: until then the app's region warns that they do not.
    async fn synchronous(&self) -> Result<(), Broken> {
        let until = Instant::now() + PATIENCE;
        loop {
            let app = self.act.api.get("apps/todo").await?;
            if !app["warnings"].to_string().contains("synchronous") {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(broken(format!("answers do not wait for oslo: {}", app["warnings"])));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn lose_paris(&mut self, clients: &Clients) -> Result<(), Broken> {
        self.act.begin("disaster: paris is killed; migrate onto the reserve");
        let disaster = Instant::now();
        self.act.stage.kill("paris").await.map_err(broken)?;
        let asked = Instant::now();
        let wish = json!({"secondary": SECONDARY, "source_is_down": true});
        let migration = self.act.api.post("apps/todo/migrate", &wish).await?;
        let id = text(&migration, "/id")?;
        wait(|| clients.first_after(asked).is_some()).await;
        let first = clients.first_after(asked).ok_or_else(|| broken("no client came through to oslo"))?;
        let ended = self.migrated(&id).await?;
        self.act.check(ended["phase"] == "completed", format!("the migration is {ended}"));
        self.written(clients, first).await?;
        self.report.rto_seconds = seconds(first - asked);
        self.report.since_disaster_seconds = seconds(first - disaster);
        let apps = self.act.api.get("apps").await?;
        let names = apps.as_array().map(Vec::as_slice).unwrap_or_default().iter().map(|app| &app["name"]);
        let names: Vec<_> = names.collect();
        self.report.secondary_deleted =
            names.contains(&&json!("todo")) && !names.contains(&&json!(SECONDARY));
        self.act.check(self.report.secondary_deleted, format!("the secondary is gone; there are {names:?}"));
        let note = format!(
            "first row {:.2} s after the kill; {SECONDARY} was deleted once app/todo was verified",
            self.report.since_disaster_seconds
        );
        self.act.end("lose paris, migrate", None, Some(self.report.rto_seconds), &note);
        Ok(())
    }

    /// The migration's record at its end.
    async fn migrated(&self, id: &str) -> Result<Value, Broken> {
        let until = Instant::now() + PATIENCE;
        loop {
            let seen = self.act.api.get(&format!("migrations/{id}")).await?;
            let phase = seen["phase"].as_str().unwrap_or_default();
            if ["completed", "failed"].contains(&phase) || Instant::now() > until {
                return Ok(seen);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn compare(&mut self, clients: &Clients) -> Result<(), Broken> {
        self.act.begin("names, keys, scripts and rows are compared with what they were");
        let held = held(self.act).await?;
        self.report.same_url = held.url == self.held.url;
        self.report.same_key = held.application == self.held.application && held.master == self.held.master;
        self.report.same_git_url = held.git_url == self.held.git_url;
        self.act.check(held == self.held, "URL, git URL and both keys are what they were");
        let place = self.door.address.find().await?;
        self.act.check(place.region == "oslo", format!("the name leads to {}", place.region));
        let (pushed, cloned) = (self.developer.tree().await?, self.developer.clone_again(&place).await?);
        let running = self.act.api.get("apps/todo/scripts/check").await?;
        self.report.scripts_identical =
            pushed == cloned && running["tree"] == json!(pushed) && running["same"] == true;
        self.act.check(
            self.report.scripts_identical,
            format!("pushed {pushed}, cloned {cloned}, running {}", running["tree"]),
        );
        let missing = self.missing(clients).await?;
        self.act.check(missing.is_empty(), format!("rows that were acknowledged and are gone: {missing:?}"));
        let note =
            format!("tree {} pushed, cloned and running; no row is missing", &pushed[..12.min(pushed.len())]);
        self.act.end("compare URL, keys, git, rows", None, None, &note);
        Ok(())
    }

    async fn go_home(&mut self, clients: &Clients) -> Result<(), Broken> {
        self.act
            .begin("paris returns; capacity is reserved there, and app/todo goes home while clients write");
        self.act.stage.start("paris").await.map_err(broken)?;
        self.act.api.verb(ITEM, "commit", Value::Null).await?;
        self.act.api.wait_for(ITEM, "paris fenced", |item| item["old_source_seen"] != false).await?;
        self.act.api.verb(ITEM, "reprotect", Value::Null).await?;
        self.reserve(AT_HOME, "paris").await?;
        let asked = Instant::now();
        self.act.api.verb(ITEM, "failback", Value::Null).await?;
        let place = self.door.address.find().await?;
        self.act.check(place.region == "paris", format!("the name leads to {}", place.region));
        self.written(clients, Instant::now()).await?;
        let waited = clients.longest_wait(asked);
        self.report.same_url &= held(self.act).await? == self.held;
        let gone = self.gone(AT_HOME).await?;
        self.act.check(gone, format!("{AT_HOME}, whose capacity app/todo has now, is gone"));
        let note = format!("clients waited {:.2} s at most; {AT_HOME} was used and deleted", seconds(waited));
        self.act.end("reserve at home, failback", None, Some(seconds(waited)), &note);
        Ok(())
    }

    async fn reckon(&mut self, clients: &mut Clients) -> Result<(), Broken> {
        self.act.begin("clients fall silent; what was acknowledged, and what is there?");
        clients.stop().await;
        let (owed, missing) = (clients.owed(), self.missing(clients).await?);
        self.report.rows_acknowledged = owed.len() as u64;
        self.report.rows_present = (owed.len() - missing.len()) as u64;
        self.act.check(missing.is_empty(), format!("rows that were acknowledged and are gone: {missing:?}"));
        let note = format!("{} rows acknowledged, {} present", owed.len(), owed.len() - missing.len());
        self.act.end("compare with the clients' log", None, None, &note);
        Ok(())
    }

    async fn reserve(&self, name: &str, region: &str) -> Result<(), Broken> {
        let spec = json!({"mode": "basic", "database": "none", "reserve_for": "todo"});
        let wish = json!({"kind": "app", "name": name, "region": region, "spec": spec});
        self.act.api.carry_out("items", &wish).await.map(drop)
    }

    /// Waits for rows that are sent after `since`.
    async fn written(&self, clients: &Clients, since: Instant) -> Result<(), Broken> {
        match wait(|| clients.sent_after(since) >= ROWS_PER_STEP).await {
            true => Ok(()),
            false => {
                Err(broken(format!("{} rows are acknowledged, and no further ones", clients.acknowledged())))
            }
        }
    }

    /// Rows that were acknowledged before this was asked, and are not there.
    async fn missing(&self, clients: &Clients) -> Result<Vec<String>, Broken> {
        let owed = clients.owed();
        let until = Instant::now() + PATIENCE;
        let present = loop {
            match self.door.rows().await {
                Err(_) if Instant::now() < until => tokio::time::sleep(Duration::from_millis(50)).await,
                rows => break rows?,
            }
        };
        Ok(owed.difference(&present).cloned().collect())
    }

    async fn gone(&self, name: &str) -> Result<bool, Broken> {
        let until = Instant::now() + PATIENCE;
        loop {
            let apps = self.act.api.get("apps").await?;
            let apps = apps.as_array().map(Vec::as_slice).unwrap_or_default();
            if apps.iter().all(|app| app["name"] != name) {
                return Ok(true);
            }
            if Instant::now() > until {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
