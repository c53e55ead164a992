//! The real-time act: a hub with clients and a publisher that never stops loses its region and comes home, and every client
//! gets every message.
//!
//! Read in this order: this file (the steps and what each claims), `client` (one reliable client), `crowd` (all of them),
//! `publisher`, `hub` (the way to the hub), `tally` (what an application was given).
//!
//! Must always hold: a message counts as owed only when its acceptance was seen; what a client received is what its application
//! was given, not what Farshore says it sent.

mod client;
mod crowd;
mod hub;
mod publisher;
mod tally;

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::act::{Act, LOOK_EVERY, PATIENCE, wait};
use super::client::{Broken, broken};
use super::report::{RealtimeReport, seconds};
use crowd::Crowd;
use hub::{HUB, Hub};
use publisher::{Published, Publisher};

/// Steps of this act.
pub(super) const STEPS: u64 = 5;

const ITEM: &str = "realtime/chat";
const CLIENTS: usize = 500;
/// The same number, as the regions count.
const CONNECTIONS: u64 = CLIENTS as u64;
/// Messages that are accepted before the act goes on to the next step: a second's.
const MESSAGES_PER_STEP: usize = 50;

struct Story<'a, 'b> {
    act: &'a mut Act<'b>,
    report: &'a mut RealtimeReport,
}

/// Who takes part. All of it ends when it is dropped.
struct Cast {
    crowd: Crowd,
    publisher: Publisher,
}

/// Plays all steps. What was found out until one breaks is in the report.
pub(super) async fn play(act: &mut Act<'_>, report: &mut RealtimeReport) -> Result<(), Broken> {
    let first = act.played();
    Story { act, report }.steps().await?;
    report.verified = act.is_verified_since(first);
    Ok(())
}

impl Story<'_, '_> {
    async fn steps(&mut self) -> Result<(), Broken> {
        let hub = self.create_and_protect().await?;
        let cast = self.connect(hub).await?;
        let disaster = self.lose_paris(&cast).await?;
        self.come_home(&cast).await?;
        self.reckon(cast, disaster).await
    }

    async fn create_and_protect(&mut self) -> Result<Arc<Hub>, Broken> {
        self.act.begin("realtime/chat in paris, protected to oslo");
        let body = json!({"kind": "realtime", "name": HUB, "region": "paris", "automatic_failover": true,
            "spec": {"mode": "active-passive"}});
        self.act.api.carry_out("items", &body).await?;
        self.act.api.verb(ITEM, "protect", json!({"target": "oslo"})).await?;
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        self.act.check(is_home(&item), "paris is active, oslo is the target");
        let hub = Hub::find(&self.act.api, self.act.stage.ca_file()).await?;
        self.act.end(
            "create realtime/chat, protect",
            None,
            None,
            "both regions know the hub, its keys and its sessions",
        );
        Ok(Arc::new(hub))
    }

    async fn connect(&mut self, hub: Arc<Hub>) -> Result<Cast, Broken> {
        self.act.begin("500 reliable clients, and a publisher that does not stop from now on");
        let crowd = Crowd::start(&hub, CLIENTS);
        self.report.clients = CLIENTS;
        let connected = wait(|| crowd.count(|known| known.is_connected) == CLIENTS).await;
        self.act.check(connected, format!("{CLIENTS} clients are connected"));
        let counted = self.wait_connections(CONNECTIONS, 0).await;
        self.act.check(counted.is_ok(), told(counted));
        let cast = Cast { crowd, publisher: Publisher::start(hub) };
        self.wait_accepted(&cast).await?;
        let all =
            wait(|| cast.crowd.count(|known| known.tally.messages() >= MESSAGES_PER_STEP) == CLIENTS).await;
        self.act.check(all, "every client receives");
        let note =
            format!("{CLIENTS} in paris; about 50 messages a second to everybody, by REST through the pair");
        self.act.end("connect clients, publish", None, None, &note);
        Ok(cast)
    }

    /// A publisher whom nobody answers is the end of the act.
    async fn wait_accepted(&self, cast: &Cast) -> Result<(), Broken> {
        let goal = cast.publisher.accepted() + MESSAGES_PER_STEP;
        if wait(|| cast.publisher.accepted() >= goal).await {
            return Ok(());
        }
        let last = cast.publisher.last_refusal().unwrap_or_else(|| "there is none".to_owned());
        Err(broken(format!("the publisher's messages were not accepted any more; the last refusal: {last}")))
    }

    async fn lose_paris(&mut self, cast: &Cast) -> Result<Instant, Broken> {
        self.act.begin("disaster: paris is killed; its clients go on in oslo");
        let disaster = Instant::now();
        self.act.stage.kill("paris").await.map_err(broken)?;
        wait(|| cast.crowd.recovered(disaster) == CLIENTS).await;
        let (recovered, slowest) = (cast.crowd.recovered(disaster), seconds(cast.crowd.slowest(disaster)));
        self.act.check(
            recovered == CLIENTS,
            format!("{recovered} of {CLIENTS} clients went on with their session"),
        );
        self.wait_accepted(cast).await?;
        let item =
            self.act.api.wait_for(ITEM, "oslo as the active region", |item| item["source"] == "oslo").await;
        self.act.check(item.is_ok(), "oslo is the active region, without anybody's doing");
        self.report.slowest_recovery_seconds = slowest;
        let note = format!(
            "{recovered} sessions went on in oslo; the last client was back {slowest:.2} s after the kill"
        );
        self.act.end("lose paris, clients recover", None, Some(slowest), &note);
        Ok(disaster)
    }

    async fn come_home(&mut self, cast: &Cast) -> Result<(), Broken> {
        self.act.begin("paris comes back; the hub and its clients go home by themselves");
        self.act.stage.start("paris").await.map_err(broken)?;
        let item = self.act.api.wait_for(ITEM, "paris active again and protected", is_home).await;
        self.act.check(item.is_ok(), "paris is active again and protected to oslo, as at the start");
        let drained = self.wait_connections(CONNECTIONS, 0).await;
        self.report.home_again = item.is_ok() && drained.is_ok();
        self.act.check(drained.is_ok(), told(drained));
        self.wait_accepted(cast).await?;
        self.act.end("paris returns, drained home", None, None, "500 connections in paris, none in oslo");
        Ok(())
    }

    async fn reckon(&mut self, cast: Cast, disaster: Instant) -> Result<(), Broken> {
        self.act.begin("the publisher stops; what was owed, and what came?");
        let Cast { crowd, publisher } = cast;
        let Published { owed, longest_wait } = publisher.stop().await;
        wait(|| crowd.reckon(&owed).first_missing.is_none()).await;
        let found = crowd.reckon(&owed);
        self.report.messages_owed = found.owed;
        self.report.messages_received = found.received;
        self.report.duplicates = found.duplicates;
        self.report.recovered = crowd.recovered(disaster);
        self.report.negotiated_anew = crowd.anew();
        self.report.publisher_waited_seconds = seconds(longest_wait);
        let missing = found.first_missing.map_or_else(String::new, |(client, place)| {
            let message = owed[place];
            let after = message.at.saturating_duration_since(disaster).as_secs_f64();
            let before = disaster.saturating_duration_since(message.at).as_secs_f64();
            format!(
                ": client {client} lacks message {}, accepted {:.3} s after the kill",
                message.number,
                after - before
            )
        });
        let (owed, received) = (found.owed, found.received);
        self.act.check(received == owed, format!("{received} of {owed} owed messages came{missing}"));
        self.act.check(found.duplicates == 0, format!("{} messages came twice", found.duplicates));
        let anew = self.report.negotiated_anew;
        self.act.check(anew == 0, format!("clients had to begin anew {anew} times"));
        let note = format!(
            "{received} of {owed} owed messages came, {} came twice; the publisher waited {:.2} s at most",
            found.duplicates, self.report.publisher_waited_seconds
        );
        self.act.end("compare with what was owed", None, None, &note);
        Ok(())
    }

    /// Waits until the regions count so many connections; says what they count when they do not in time.
    async fn wait_connections(&self, paris: u64, oslo: u64) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let stats = self.act.api.get(&format!("realtime/{HUB}/stats")).await;
            let stats = stats.map_err(|error| error.to_string())?;
            let counted = (connections(&stats, "paris"), connections(&stats, "oslo"));
            if counted == (Some(paris), Some(oslo)) {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!(
                    "{paris} connections in paris and {oslo} in oslo were not seen; the last: {counted:?}"
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn told(counted: Result<(), String>) -> String {
    counted.err().unwrap_or_else(|| "the regions count the clients' connections".to_owned())
}

/// As at the start: paris is active, oslo follows.
fn is_home(item: &Value) -> bool {
    item["source"] == "paris" && item["target"] == "oslo" && item["phase"] == "Protected"
}

fn connections(stats: &Value, region: &str) -> Option<u64> {
    let regions = stats["regions"].as_array()?;
    let found = regions.iter().find(|seen| seen["region"] == region)?;
    found["stats"]["connections"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_that_does_not_answer_has_no_count() {
        let stats = json!({"regions": [
            {"region": "oslo", "stats": {"connections": 7}},
            {"region": "paris", "stats": {}, "error": "no answer"},
        ]});
        assert_eq!((connections(&stats, "oslo"), connections(&stats, "paris")), (Some(7), None));
    }
}
