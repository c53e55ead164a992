//! The device hub's act: a fleet whose region is lost follows to the far shore, where devices are added and locked out; both regions
//! are merged; the fleet goes home; and everything that was ever acknowledged is read back once.
//!
//! Read in this order: this file (the steps and what each claims), `device` (one device), `client` (its connection), `place` (where
//! it finds the hub), `crowd` (all of them), `desk` (the back end).
//!
//! Must always hold: a message counts as acknowledged only when its device saw the acknowledgement, and as stored only when it was
//! read back through the consumer group; the cursor is nowhere but in the hub.

mod client;
mod crowd;
mod desk;
mod device;
mod place;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};

use super::act::{Act, LOOK_EVERY, PATIENCE, wait};
use super::client::{Broken, broken};
use super::report::{HubReport, seconds};
use super::way::Way;
use crowd::{Crowd, heard_after};
use desk::{Desk, HUB, Reading};
use device::{Grounds, Known};

/// Steps of this act.
pub(super) const STEPS: u64 = 7;

const ITEM: &str = "hub/fleet";
/// Its name in the directory.
const NAME: &str = "fleet.hub";
const DEVICES: usize = 200;
/// The first of the devices are disabled on the far shore,
const DISABLED: usize = 10;
/// and those that follow are deleted.
const DELETED: usize = 5;
const REVOKED: usize = DISABLED + DELETED;
/// Identities without a device, whose keys both regions change at once.
const SPARES: usize = 5;
/// Identities that only the lost region gets to know.
const UNSHIPPED: usize = 5;
/// Identities that are made on the far shore.
const CREATED: usize = 20;
/// Messages of each device that are acknowledged before the act goes on.
const MESSAGES_PER_STEP: u64 = 2;

struct Story<'a, 'b> {
    act: &'a mut Act<'b>,
    report: &'a mut HubReport,
    desk: Desk,
    reading: Reading,
}

/// Plays all steps. What was found out until one breaks is in the report.
pub(super) async fn play(act: &mut Act<'_>, report: &mut HubReport) -> Result<(), Broken> {
    let first = act.played();
    act.begin("hub/fleet in paris, protected to oslo; 200 devices are registered");
    let body = json!({"kind": "hub", "name": HUB, "region": "paris", "spec": {}});
    act.api.carry_out("items", &body).await?;
    act.api.verb(ITEM, "protect", json!({"target": "oslo"})).await?;
    let desk = Desk::find(&act.api).await?;
    Story { act, report, desk, reading: Reading::default() }.steps().await?;
    report.verified = act.is_verified_since(first);
    Ok(())
}

impl Story<'_, '_> {
    async fn steps(&mut self) -> Result<(), Broken> {
        let crowd = self.register().await?;
        self.connect(&crowd).await?;
        self.lose_paris(&crowd).await?;
        self.change_far_shore(&crowd).await?;
        self.merge().await?;
        self.go_home(&crowd).await?;
        self.reckon(crowd).await
    }

    /// Where the back end calls in a region.
    fn at(&self, region: &str) -> Result<SocketAddr, Broken> {
        self.act.stage.hubs_https(region).map_err(broken)
    }

    async fn register(&mut self) -> Result<Crowd, Broken> {
        let paris = self.at("paris")?;
        let given = self.desk.register(paris, &ids("device", DEVICES)).await?;
        self.desk.register(paris, &ids("spare", SPARES)).await?;
        let expected = (DEVICES + SPARES) as u64;
        let known = self.wait_identities("oslo", expected).await?;
        self.act.check(known == expected, format!("oslo knows {known} of {expected} identities"));
        self.report.identities_before = known;
        self.report.devices = DEVICES;
        let way = Way::learn(NAME, self.act.stage.apis(), self.act.stage.ca_file()).await?;
        let grounds = Grounds { way, tls: self.desk.device_tls()?, is_quiet: false.into() };
        let note = format!("{known} identities in both regions");
        self.act.end("create hub/fleet, register", None, None, &note);
        Ok(Crowd::start(given, grounds))
    }

    async fn connect(&mut self, crowd: &Crowd) -> Result<(), Broken> {
        self.act.begin("200 devices connect, and send telemetry all the time from now on");
        self.wait_acknowledged(crowd, 0).await?;
        let connected = wait(|| crowd.count_to(DEVICES, |known| is_at(known, "paris")) == DEVICES).await;
        self.act.check(connected, "every device is connected to paris");
        let (paris, oslo) = (self.at("paris")?, self.at("oslo")?);
        self.desk.read_on(paris, &mut self.reading).await?;
        self.act.check(self.reading.distinct() > 0, "the consumer group reads telemetry");
        let cursor = self.desk.cursor(paris).await?;
        let until = Instant::now() + PATIENCE;
        while self.desk.cursor(oslo).await? != cursor && Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.act.check(self.desk.cursor(oslo).await? == cursor, "oslo knows how far the group has read");
        let note = format!("about 400 messages a second; {} read by the group", self.reading.distinct());
        self.act.end("connect devices, send", None, None, &note);
        Ok(())
    }

    async fn lose_paris(&mut self, crowd: &Crowd) -> Result<(), Broken> {
        self.act.begin("disaster: the line is cut, paris goes on alone, then it is killed; fail over");
        self.act.stage.line().cut();
        let paris = self.at("paris")?;
        self.desk.register(paris, &ids("unshipped", UNSHIPPED)).await?;
        self.desk.rotate(paris, &ids("spare", SPARES)).await?;
        self.wait_acknowledged(crowd, 0).await?;
        let disaster = Instant::now();
        self.act.stage.kill("paris").await.map_err(broken)?;
        let asked = Instant::now();
        self.act.api.verb(ITEM, "failover", json!({"point": "latest", "source_is_down": true})).await?;
        let has_followed = |known: &Known| heard_after(known, disaster, "oslo").is_some();
        wait(|| crowd.count_to(DEVICES, has_followed) == DEVICES).await;
        let followed = crowd.count_to(DEVICES, has_followed);
        self.act.check(followed == DEVICES, format!("{followed} of {DEVICES} devices followed"));
        let (first, _) = crowd.heard(asked, "oslo").ok_or_else(|| broken("no device came to oslo"))?;
        let (_, last) = crowd.heard(disaster, "oslo").unwrap_or_default();
        let rto = seconds(first);
        (self.report.followed, self.report.rto_seconds) = (followed, rto);
        self.report.slowest_device_seconds = seconds(last);
        let note = format!(
            "{followed} devices followed by the directory alone; the last was heard {:.2} s after the kill",
            seconds(last)
        );
        self.act.end("lose paris, devices follow", None, Some(rto), &note);
        Ok(())
    }

    async fn change_far_shore(&mut self, crowd: &Crowd) -> Result<(), Broken> {
        self.act.begin(
            "on the far shore: 20 identities are made, 15 revoked, 5 keys changed; the group reads on",
        );
        let oslo = self.at("oslo")?;
        self.desk.register(oslo, &ids("created", CREATED)).await?;
        let devices = ids("device", REVOKED);
        let (disabled, deleted) = devices.split_at(DISABLED);
        self.desk.disable(oslo, disabled).await?;
        self.desk.delete(oslo, deleted).await?;
        self.desk.rotate(oslo, &ids("spare", SPARES)).await?;
        let out = wait(|| crowd.count_to(REVOKED, |known| known.at.is_none()) == REVOKED).await;
        self.act.check(out, "the revoked devices are out");
        let before = self.reading.distinct();
        self.desk.read_on(oslo, &mut self.reading).await?;
        let read = self.reading.distinct() - before;
        self.act.check(
            read > 0 && self.reading.twice() == 0,
            "the group reads on where it was, and nothing twice",
        );
        self.act.api.verb(ITEM, "commit", Value::Null).await?;
        let note =
            format!("{REVOKED} devices are out; the group read {read} more messages from where it was");
        self.act.end("change the far shore, commit", None, None, &note);
        Ok(())
    }

    async fn merge(&mut self) -> Result<(), Broken> {
        self.act.begin("paris comes back with what only it knew; both regions are merged");
        self.act.stage.line().mend();
        self.act.stage.start("paris").await.map_err(broken)?;
        let plan = self.plan().await?;
        let (conflicts, expected) = (in_conflict(&plan), ids("spare", SPARES));
        self.act.check(
            conflicts == expected,
            format!("the plan tells conflicts of {conflicts:?}, both regions changed {expected:?}"),
        );
        let (oslo, paris) = (self.at("oslo")?, self.at("paris")?);
        let mut kept = Vec::new();
        for id in ids("spare", SPARES) {
            kept.push((self.desk.key_of(oslo, &id).await?, id));
        }
        self.act.api.verb(ITEM, "reprotect", Value::Null).await?;
        let expected = (DEVICES + SPARES + UNSHIPPED + CREATED - DELETED) as u64;
        let known = self.wait_identities("oslo", expected).await?;
        let other = self.wait_identities("paris", expected).await?;
        self.act.check(
            known == expected && other == expected,
            format!("{known} identities in oslo and {other} in paris are {expected}"),
        );
        for (key, id) in kept {
            let same =
                self.desk.key_of(paris, &id).await? == key && self.desk.key_of(oslo, &id).await? == key;
            self.act.check(same, format!("the later key of {id} counts in both regions"));
        }
        self.desk.read_on(oslo, &mut self.reading).await?;
        let late = self.reading.late;
        self.act.check(late > 0, "what paris had acknowledged alone comes late");
        self.report.telemetry_late = late;
        (self.report.conflicts, self.report.identities_after_merge) = (conflicts.len() as u64, known);
        let note = format!(
            "{known} identities in both; {} conflicts, settled for the later key; {late} messages came late",
            conflicts.len()
        );
        self.act.end("paris returns, merge", None, None, &note);
        Ok(())
    }

    /// What a merge would do, as soon as the region that is back can be asked.
    async fn plan(&self) -> Result<Value, Broken> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.act.api.post(&format!("hubs/{HUB}/merge"), &json!({"plan": true})).await {
                Err(_) if Instant::now() < until => tokio::time::sleep(LOOK_EVERY).await,
                planned => return planned,
            }
        }
    }

    async fn go_home(&mut self, crowd: &Crowd) -> Result<(), Broken> {
        self.act.begin("planned failback to paris while the devices send");
        let asked = Instant::now();
        self.act.api.verb(ITEM, "failback", Value::Null).await?;
        let is_home = |known: &Known| heard_after(known, asked, "paris").is_some();
        wait(|| crowd.count_from(REVOKED, is_home) == DEVICES - REVOKED).await;
        let home = crowd.count_from(REVOKED, is_home);
        self.act
            .check(home == DEVICES - REVOKED, format!("{home} of {} devices came home", DEVICES - REVOKED));
        let home_again = Instant::now();
        let out = |known: &Known| known.at.is_none() && known.refused.is_some_and(|at| at > home_again);
        wait(|| crowd.count_to(REVOKED, out) == REVOKED).await;
        let revoked = crowd.count_to(REVOKED, out);
        self.act.check(revoked == REVOKED, format!("{revoked} of {REVOKED} revoked devices are still out"));
        self.report.revoked = revoked;
        self.wait_acknowledged(crowd, REVOKED).await?;
        self.act.api.verb(ITEM, "commit", Value::Null).await?;
        self.act.api.verb(ITEM, "reprotect", Value::Null).await?;
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        let is_protected =
            item["source"] == "paris" && item["target"] == "oslo" && item["phase"] == "Protected";
        self.act.check(is_protected, "protected to oslo again, as at the start");
        let rto = crowd.heard(asked, "paris").map(|(first, _)| seconds(first));
        let note =
            format!("{home} devices at home; {revoked} revoked ones were refused; committed and reprotected");
        self.act.end("failback, commit, reprotect", None, rto, &note);
        Ok(())
    }

    async fn reckon(&mut self, crowd: Crowd) -> Result<(), Broken> {
        self.act.begin("the devices fall silent; what was acknowledged, and what is stored?");
        crowd.be_quiet();
        let all_heard = |known: &Known| known.sent == known.acknowledged;
        let answered = wait(|| crowd.count_from(REVOKED, all_heard) == DEVICES - REVOKED).await;
        self.act.check(answered, "every message of a device at home is acknowledged");
        self.desk.read_on(self.at("paris")?, &mut self.reading).await?;
        let owed = crowd.owed();
        let (missing, twice) = (self.reading.missing(&owed), self.reading.twice());
        self.act.check(
            missing.is_empty(),
            format!(
                "{} of {} acknowledged messages are stored nowhere, the first: {:?}",
                missing.len(),
                owed.len(),
                missing.first()
            ),
        );
        self.act.check(twice == 0, format!("{twice} messages were read twice"));
        self.report.telemetry_acknowledged = owed.len() as u64;
        self.report.telemetry_stored = self.reading.distinct();
        self.report.duplicates_removed = crowd.again();
        self.act.check(crowd.again() > 0, "devices had sent some messages again");
        let note = format!(
            "{} messages acknowledged, {} read back, each once; {} came again and were removed",
            owed.len(),
            self.reading.distinct(),
            crowd.again()
        );
        self.act.end("compare with the log", None, None, &note);
        Ok(())
    }

    /// Waits until each device from `first` on has some more messages acknowledged.
    async fn wait_acknowledged(&self, crowd: &Crowd, first: usize) -> Result<(), Broken> {
        let before = crowd.acknowledged();
        let is_further = |now: &[u64]| {
            now.iter().zip(&before).skip(first).all(|(now, before)| *now >= before + MESSAGES_PER_STEP)
        };
        if wait(|| is_further(&crowd.acknowledged())).await {
            return Ok(());
        }
        let (now, all) = (crowd.acknowledged(), before.len() - first);
        let behind = now.iter().zip(&before).skip(first).filter(|(now, before)| now <= before).count();
        Err(broken(format!("the hub acknowledges nothing for {behind} of {all} devices")))
    }

    /// How many identities the region knows: as soon as they are as many as expected, or when it takes too long.
    async fn wait_identities(&self, region: &str, expected: u64) -> Result<u64, Broken> {
        let (at, until) = (self.at(region)?, Instant::now() + PATIENCE);
        loop {
            let known = self.desk.identities(at).await?;
            if known == expected || Instant::now() > until {
                return Ok(known);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn is_at(known: &Known, region: &str) -> bool {
    known.at.as_deref() == Some(region)
}

/// Which devices a merge would settle something for, in order.
fn in_conflict(plan: &Value) -> Vec<String> {
    let conflicts = plan["conflicts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let devices = conflicts.iter().filter_map(|conflict| conflict["device"].as_str().map(str::to_owned));
    devices.collect::<BTreeSet<_>>().into_iter().collect()
}

/// `device-0`, `device-1` and so on.
fn ids(kind: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{kind}-{number}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_with_two_conflicts_is_one_device() {
        let plan = json!({"conflicts": [{"device": "b"}, {"device": "a"}, {"device": "b"}]});
        assert_eq!(in_conflict(&plan), ["a", "b"]);
        assert!(in_conflict(&json!({})).is_empty());
    }
}
