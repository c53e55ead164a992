//! The machine act: nine steps, each of which checks what it claims.
//!
//! The client (`workload`) writes over NBD and keeps its own log; Farshore is asked over its API; the disaster is SIGKILL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::act::Act;
use super::client::{Broken, broken, text, two_uris};
use super::report::{ControlReport, Lost, MachineReport, bytes_text, seconds};
use super::workload::{History, Resolver, Verdict, Writer, read_images};

const ITEM: &str = "machine/web-1";
/// Sizes that are no multiple of anything a disk is usually counted in.
const SIZES: [u64; 2] = [48 * 1024 * 1024 + 512, 32 * 1024 * 1024 + 1536];
/// Records that the client writes before the demo goes on to the next step.
const RECORDS_PER_STEP: usize = 400;
/// How long the batch runs before the disaster.
const BATCH: Duration = Duration::from_millis(500);
/// From the cut line to the killed region: what is written in this time, nobody else has.
const CUT: Duration = Duration::from_millis(150);
/// A delta may move this much more than what differs: the promise of the delta benchmark.
const DELTA_OVERHEAD: f64 = 1.05;
/// Frames of a session that moves nothing: greetings, points, signs of life.
const SESSION_BYTES: u64 = 64 * 1024;
/// Clocks are read at different places: the seconds of two reports may differ by this much.
const SECONDS_APART: f64 = 0.25;

/// Steps of this act.
pub(super) const STEPS: u64 = 8;

struct Story<'a, 'b> {
    act: &'a mut Act<'b>,
    report: &'a mut MachineReport,
}

/// What the unplanned failover left behind for the later steps.
struct Aftermath {
    /// Everything the client wrote to paris.
    before: History,
    /// How many of its records were brought back.
    kept: usize,
}

/// Plays all steps. What was found out until one breaks is in the report.
pub(super) async fn play(act: &mut Act<'_>, report: &mut MachineReport) -> Result<(), Broken> {
    Story { act, report }.steps().await
}

impl Story<'_, '_> {
    async fn steps(&mut self) -> Result<(), Broken> {
        let writer = self.create_and_write().await?;
        self.protect(&writer).await?;
        self.drill(&writer).await?;
        let after = self.lose_paris(writer).await?;
        self.change_point_and_commit(&after).await?;
        let history = self.write_on(&after).await?;
        self.paris_returns(&after, history.clone()).await?;
        self.fail_back(history).await
    }

    /// Clients find the disks through the directory, by name.
    fn resolver(&self) -> Resolver {
        let (api, runtime) = (self.act.api.clone(), tokio::runtime::Handle::current());
        Arc::new(move || {
            let record = runtime.block_on(api.get("directory/web-1.machine")).ok()?;
            two_uris(&record["endpoints"])
        })
    }

    async fn create_and_write(&mut self) -> Result<Writer, Broken> {
        self.act.begin("machine/web-1 with two disks in paris, and a client that writes to both");
        let disks =
            json!([{"name": "root", "size_bytes": SIZES[0]}, {"name": "data", "size_bytes": SIZES[1]}]);
        let body = json!({"kind": "machine", "name": "web-1", "region": "paris", "spec": {"disks": disks}});
        self.act.api.carry_out("items", &body).await?;
        let writer = Writer::start(History::default(), 1, self.resolver());
        self.wait_written(&writer, RECORDS_PER_STEP).await?;
        self.act.check(true, "the client's writes are acknowledged");
        self.act.end(
            "create machine/web-1, write",
            None,
            None,
            "numbered, checksummed records over NBD to both disks",
        );
        Ok(writer)
    }

    async fn wait_written(&self, writer: &Writer, count: usize) -> Result<(), Broken> {
        let goal = writer.acknowledged() + count;
        let until = Instant::now() + Duration::from_secs(120);
        while writer.acknowledged() < goal {
            if Instant::now() > until {
                return Err(broken("the client got no acknowledgements for two minutes"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn protect(&mut self, writer: &Writer) -> Result<(), Broken> {
        self.act.begin("protect to oslo: seed, then follow every write");
        self.act.api.verb(ITEM, "protect", json!({"target": "oslo"})).await?;
        self.wait_written(writer, RECORDS_PER_STEP).await?;
        let points = self.wait_points(3).await?;
        self.act.check(points.len() >= 3, "recovery points appear");
        let note = format!("{} recovery points, newest {}", points.len(), newest(&points)?);
        self.act.end("protect to oslo", None, None, &note);
        Ok(())
    }

    async fn wait_points(&self, count: usize) -> Result<Vec<Value>, Broken> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let listed = self.act.api.get(&format!("items/{ITEM}/points")).await?;
            let points = listed.get("points").unwrap_or(&listed).as_array().cloned().unwrap_or_default();
            if points.len() >= count {
                return Ok(points);
            }
            if Instant::now() > until {
                return Err(broken(format!("only {} of {count} recovery points appeared", points.len())));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn drill(&mut self, writer: &Writer) -> Result<(), Broken> {
        self.act.begin("drill: test failover in isolation, the original runs on");
        let before = writer.acknowledged();
        self.act.api.verb(ITEM, "test-failover", json!({"point": "latest"})).await?;
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        let uris =
            two_uris(&item["drill"]["endpoints"]).ok_or_else(|| broken("the drill tells no endpoints"))?;
        let verdict = self.verify(uris, &writer.history()).await?;
        self.check_prefix(verdict);
        self.act
            .check(verdict.kept >= before, "the drill has everything acknowledged before it was asked for");
        self.wait_written(writer, RECORDS_PER_STEP).await?;
        // Replication never paused: with the drill still open, the target gets what was written since.
        let goal = watermark(&item, "oslo");
        let moved = self
            .act
            .api
            .wait_for(ITEM, "new writes at the target while the drill is open", |item| {
                watermark(item, "oslo") > goal + RECORDS_PER_STEP as u64 / 2
            })
            .await;
        self.act.check(moved.is_ok(), "replication went on during the drill");
        self.report.drill.replication_paused = moved.is_err();
        self.act.api.verb(ITEM, "cleanup", Value::Null).await?;
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        self.act.check(item["drill"].is_null(), "nothing is left of the drill");
        self.report.drill.records = verdict.kept as u64;
        self.report.drill.verified = self.act.all_held();
        let note = format!("{} records, a prefix of the acknowledged writes; cleaned up", verdict.kept);
        self.act.end("drill and clean-up", None, None, &note);
        Ok(())
    }

    /// Reads both disks whole and compares them with what the client believes.
    async fn verify(&self, uris: [String; 2], history: &History) -> Result<Verdict, Broken> {
        let history = history.clone();
        let check = move || read_images(&uris).map(|images| history.check(&images));
        tokio::task::spawn_blocking(check).await.map_err(broken)?.map_err(broken)
    }

    fn check_prefix(&mut self, verdict: Verdict) {
        let what = match verdict.first_wrong {
            None => "the content is a prefix of the acknowledged writes".to_owned(),
            Some((disk, byte)) => format!("disk {disk} is not a prefix: byte {byte} is wrong"),
        };
        self.act.check(verdict.is_prefix, what);
    }

    async fn active_uris(&self) -> Result<[String; 2], Broken> {
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        two_uris(&item["endpoints"]).ok_or_else(|| broken(format!("no endpoints in {item}")))
    }

    async fn lose_paris(&mut self, writer: Writer) -> Result<Aftermath, Broken> {
        self.act.begin("disaster: the line is cut, paris is killed in mid-write; fail over");
        writer.start_batch();
        tokio::time::sleep(BATCH).await;
        self.act.stage.line().cut();
        tokio::time::sleep(CUT).await;
        writer.be_mortal();
        let disaster = Instant::now();
        self.act.stage.kill("paris").await.map_err(broken)?;
        let before = tokio::task::spawn_blocking(move || writer.wait()).await.map_err(broken)?;
        let asked = Instant::now();
        let body = json!({"point": "latest", "source_is_down": true});
        self.act.api.verb(ITEM, "failover", body).await?;
        let uris = self.active_uris().await?;
        let first = uris.clone();
        tokio::task::spawn_blocking(move || first_read(&first[0])).await.map_err(broken)?.map_err(broken)?;
        let (rto, since) = (seconds(asked.elapsed()), seconds(disaster.elapsed()));
        let verdict = self.verify(uris, &before).await?;
        self.check_prefix(verdict);
        self.count_survivors().await;
        let (writes, bytes, lost_seconds) = before.lost_after(verdict.kept);
        let truth = Lost { writes, bytes, seconds: lost_seconds };
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        let bound = lost(&item["failover"]["rpo"]["at_failover"]);
        self.act.check(item["source"] == "oslo", "oslo is the active region");
        let bounded = bound.writes <= truth.writes && bound.seconds + SECONDS_APART >= truth.seconds;
        self.act.check(bounded, format!("the bound known at the failover holds ({bound:?}, {truth:?})"));
        self.report.failover.rto_seconds = rto;
        self.report.failover.since_disaster_seconds = since;
        self.report.failover.rpo.at_failover = bound;
        self.report.failover.rpo.truth = truth;
        let note = format!(
            "Farshore knows now: at least {} writes, at most {:.2} s; the client's log says: {} writes, {}, {:.2} s",
            bound.writes,
            bound.seconds,
            truth.writes,
            bytes_text(truth.bytes),
            truth.seconds
        );
        self.act.end("lose paris, fail over to latest", Some(truth), Some(rto), &note);
        Ok(Aftermath { before, kept: verdict.kept })
    }

    /// Each control node that is left must come to say the same: oslo is active.
    async fn count_survivors(&mut self) {
        let apis = self.act.stage.apis().to_vec();
        let mut survivors = 0;
        for api in &apis {
            let Ok(client) = self.act.stage.client_at(api) else { continue };
            // Another node's copy may be a moment behind the one that was asked for the failover.
            let says =
                client.wait_for(ITEM, "oslo as the active region", |item| item["source"] == "oslo").await;
            survivors += usize::from(says.is_ok());
        }
        let lost = usize::from(self.act.is_etcd);
        self.act.check(
            survivors == apis.len() - lost,
            format!("{survivors} of {} control nodes answer", apis.len()),
        );
        self.report.control = ControlReport { nodes: apis.len(), survivors };
    }

    async fn change_point_and_commit(&mut self, after: &Aftermath) -> Result<(), Broken> {
        self.act.begin("change to an older point, back to the latest, and commit");
        let points = self.wait_points(2).await?;
        let older = points.iter().rev().nth(1).ok_or_else(|| broken("there is no older point"))?;
        self.act.api.verb(ITEM, "change-point", json!({"point": text(older, "/id")?})).await?;
        let verdict = self.verify(self.active_uris().await?, &after.before).await?;
        self.check_prefix(verdict);
        self.act.check(verdict.kept < after.kept, "the older point is older");
        let older_kept = verdict.kept;
        self.act.api.verb(ITEM, "change-point", json!({"point": "latest"})).await?;
        let verdict = self.verify(self.active_uris().await?, &after.before).await?;
        self.check_prefix(verdict);
        self.act.check(verdict.kept == after.kept, "the latest point has everything it had");
        self.act.api.verb(ITEM, "commit", Value::Null).await?;
        let note =
            format!("{older_kept} records at the older point, {} at the latest; committed", after.kept);
        self.act.end("change point, commit", None, None, &note);
        Ok(())
    }

    /// The client goes on in oslo from what was brought back.
    async fn write_on(&mut self, after: &Aftermath) -> Result<History, Broken> {
        self.act.begin("the client goes on in oslo");
        let mut history = after.before.clone();
        history.records.truncate(after.kept);
        let next = after.before.records.last().map_or(1, |last| last.number + 1);
        let writer = Writer::start(history, next, self.resolver());
        self.wait_written(&writer, RECORDS_PER_STEP).await?;
        let history = tokio::task::spawn_blocking(move || writer.stop()).await.map_err(broken)?;
        let verdict = self.verify(self.active_uris().await?, &history).await?;
        self.check_prefix(verdict);
        self.act.check(verdict.kept == history.records.len(), "everything acknowledged in oslo is there");
        self.act.end("write on in oslo", None, None, "from the brought-back state");
        Ok(history)
    }

    async fn paris_returns(&mut self, after: &Aftermath, history: History) -> Result<(), Broken> {
        self.act.begin("paris comes back, finds out that it lost, and is reprotected");
        self.act.stage.line().mend();
        self.act.stage.start("paris").await.map_err(broken)?;
        let item = self
            .act
            .api
            .wait_for(ITEM, "the exact loss", |item| !item["failover"]["rpo"]["final"].is_null())
            .await?;
        let found = lost(&item["failover"]["rpo"]["final"]);
        let truth = self.truth(after, &item).await?;
        self.report.failover.rpo.found = found;
        self.report.failover.rpo.truth = truth;
        let same = found.writes == truth.writes && found.bytes == truth.bytes;
        self.act.check(same, format!("the exact loss equals the truth ({found:?}, {truth:?})"));
        let apart = (found.seconds - truth.seconds).abs();
        self.act.check(apart <= SECONDS_APART, format!("the seconds of both agree (apart by {apart:.3})"));
        let differs = self.differing_bytes().await?;
        let reprotecting = Instant::now();
        self.act.api.verb(ITEM, "reprotect", Value::Null).await?;
        self.report.reprotect.seconds = seconds(reprotecting.elapsed());
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        let replication = &item["replication"];
        let moved = replication["moved_bytes"].as_u64().unwrap_or(u64::MAX);
        let changed = replication["differed_bytes"].as_u64().unwrap_or(0);
        self.report.reprotect.bytes_moved = moved;
        self.report.reprotect.bytes_changed = changed;
        self.act
            .check(changed == differs, format!("{changed} bytes were found to differ, {differs} really do"));
        #[expect(clippy::cast_precision_loss, reason = "a comparison with five per cent of slack")]
        let few = moved as f64 <= differs as f64 * DELTA_OVERHEAD + SESSION_BYTES as f64;
        self.act.check(few, format!("{moved} bytes moved for {differs} that differ"));
        if truth.writes > 0 {
            let uris =
                divergent_uris(&item).ok_or_else(|| broken("the divergent writes are not browsable"))?;
            let verdict = self.verify(uris, &after.before).await?;
            self.act.check(verdict.is_prefix, "the divergent writes are still browsable after the reprotect");
        }
        let verdict = self.verify(self.active_uris().await?, &history).await?;
        self.act.check(verdict.is_prefix, "oslo is untouched by all this");
        let note = format!(
            "Farshore reports: exactly {} writes, {}; the client's log says: {} writes, {}; moved {} for {} that differ",
            found.writes,
            bytes_text(found.bytes),
            truth.writes,
            bytes_text(truth.bytes),
            bytes_text(moved),
            bytes_text(differs)
        );
        self.act.end("paris returns, reprotect", Some(found), None, &note);
        Ok(())
    }

    /// What the client lost: the acknowledged writes that were not brought back, and a write whose acknowledgement was cut
    /// off on its way, if the old disks show that it was made. Nobody but the old disks can know that one.
    async fn truth(&mut self, after: &Aftermath, item: &Value) -> Result<Lost, Broken> {
        let (mut writes, mut bytes, seconds) = after.before.lost_after(after.kept);
        let unanswered = after.before.records.last().filter(|last| last.acknowledged_at.is_none());
        if let (Some(last), Some(uris)) = (unanswered, divergent_uris(item)) {
            let verdict = self.verify(uris, &after.before).await?;
            let holds = format!("the old disks hold every write of the client, in order: {verdict:?}");
            self.act.check(verdict.is_prefix, holds);
            if verdict.kept == after.before.records.len() && verdict.kept > after.kept {
                writes += 1;
                bytes += last.len as u64;
            }
        }
        Ok(Lost { writes, bytes, seconds })
    }

    /// Bytes of 4 KiB blocks in which the old disks and the active ones differ, found by reading both whole: the old ones
    /// from their files, behind Farshore's back.
    async fn differing_bytes(&self) -> Result<u64, Broken> {
        let files = self.act.stage.disk_files("paris");
        let new = self.active_uris().await?;
        let count = move || -> std::io::Result<u64> {
            let (old, new) = ([std::fs::read(&files[0])?, std::fs::read(&files[1])?], read_images(&new)?);
            Ok(old.iter().zip(&new).map(|(old, new)| block_difference(old, new)).sum())
        };
        tokio::task::spawn_blocking(count).await.map_err(broken)?.map_err(broken)
    }

    async fn fail_back(&mut self, history: History) -> Result<(), Broken> {
        self.act.begin("planned failback to paris while the client writes");
        let next = history.records.last().map_or(1, |last| last.number + 1);
        let writer = Writer::start(history, next, self.resolver());
        self.wait_written(&writer, RECORDS_PER_STEP).await?;
        self.act.api.verb(ITEM, "failback", Value::Null).await?;
        self.wait_written(&writer, RECORDS_PER_STEP).await?;
        let interruption = seconds(writer.longest_interruption());
        let history = tokio::task::spawn_blocking(move || writer.stop()).await.map_err(broken)?;
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        self.act.check(item["source"] == "paris", "paris is the active region again");
        let verdict = self.verify(self.active_uris().await?, &history).await?;
        self.check_prefix(verdict);
        let (lost_writes, ..) = history.lost_after(verdict.kept);
        self.act.check(lost_writes == 0, format!("{lost_writes} acknowledged writes are missing"));
        let rto = item["failover"]["rto_seconds"].as_f64().unwrap_or_default();
        self.report.failback.lost_writes = lost_writes;
        self.report.failback.rto_seconds = rto;
        self.report.failback.interruption_seconds = interruption;
        self.act.api.verb(ITEM, "commit", Value::Null).await?;
        self.act.api.verb(ITEM, "reprotect", Value::Null).await?;
        let item = self.act.api.get(&format!("items/{ITEM}")).await?;
        self.act.check(
            item["phase"] == "Protected" && item["target"] == "oslo",
            "protected to oslo again, as at the start",
        );
        let note = format!("the client waited {interruption:.2} s at most; committed and reprotected");
        self.act.end(
            "failback, commit, reprotect",
            Some(Lost { writes: lost_writes, ..Lost::default() }),
            Some(rto),
            &note,
        );
        Ok(())
    }
}

fn watermark(item: &Value, region: &str) -> u64 {
    let regions = item["regions"].as_array().cloned().unwrap_or_default();
    regions
        .iter()
        .find(|seen| seen["region"] == region)
        .and_then(|seen| {
            seen.pointer("/observation/watermark/seq").or_else(|| seen.pointer("/watermark/seq"))
        })
        .and_then(Value::as_u64)
        .unwrap_or(0)
}

fn divergent_uris(item: &Value) -> Option<[String; 2]> {
    let kept = &item["divergence"];
    two_uris(&kept["endpoints"]).or_else(|| two_uris(&kept["divergence"]["endpoints"]))
}

fn lost(value: &Value) -> Lost {
    Lost {
        writes: value["writes"].as_u64().unwrap_or_default(),
        bytes: value["bytes"].as_u64().unwrap_or_default(),
        seconds: value["seconds"].as_f64().unwrap_or_default(),
    }
}

fn newest(points: &[Value]) -> Result<String, Broken> {
    text(points.last().unwrap_or(&Value::Null), "/id")
}

fn first_read(uri: &str) -> std::io::Result<()> {
    let mut client = farshore_machine::nbd::Client::connect(uri, Duration::from_secs(10))?;
    client.read(0, &mut [0; 4096])?;
    client.disconnect().map_err(std::io::Error::other)
}

fn block_difference(old: &[u8], new: &[u8]) -> u64 {
    let differing = old.chunks(4096).zip(new.chunks(4096)).filter(|(old, new)| old != new);
    differing.map(|(old, _)| old.len() as u64).sum()
}
