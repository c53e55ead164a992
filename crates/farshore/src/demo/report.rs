//! What the demo found, as a table for people and as JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

/// Data lost, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Lost {
    pub(super) writes: u64,
    pub(super) bytes: u64,
    pub(super) seconds: f64,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StepReport {
    pub(super) step: &'static str,
    pub(super) seconds: f64,
    /// What was lost in this step, where something could be.
    pub(super) rpo: Option<Lost>,
    pub(super) rto_seconds: Option<f64>,
    /// Every check of the step held. `None`: the step only prepares.
    pub(super) verified: Option<bool>,
    pub(super) note: String,
}

/// The three figures of a loss.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Rpo {
    /// The bound that Farshore knew at the failover, from the source's last sign of life.
    pub(super) at_failover: Lost,
    /// What Farshore reported once the old source was seen again.
    #[serde(rename = "final")]
    pub(super) found: Lost,
    /// What the client's own log says.
    #[serde(rename = "true")]
    pub(super) truth: Lost,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct DrillReport {
    pub(super) verified: bool,
    pub(super) records: u64,
    pub(super) replication_paused: bool,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct FailoverSummary {
    pub(super) rto_seconds: f64,
    /// From the kill to the first good read, detection by the operator included.
    pub(super) since_disaster_seconds: f64,
    pub(super) rpo: Rpo,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct ReprotectReport {
    pub(super) bytes_moved: u64,
    pub(super) bytes_changed: u64,
    pub(super) seconds: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct FailbackReport {
    pub(super) lost_writes: u64,
    pub(super) rto_seconds: f64,
    /// Longest time that the client waited for an answer.
    pub(super) interruption_seconds: f64,
}

/// What became of the control plane when a region was lost.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct ControlReport {
    /// Control nodes before the disaster.
    pub(super) nodes: usize,
    /// Those that answered rightly after it, without the lost region.
    pub(super) survivors: usize,
}

/// What the machine act found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct MachineReport {
    pub(super) control: ControlReport,
    pub(super) drill: DrillReport,
    pub(super) failover: FailoverSummary,
    pub(super) reprotect: ReprotectReport,
    pub(super) failback: FailbackReport,
}

/// What the real-time act found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct RealtimeReport {
    pub(super) clients: usize,
    /// Those that went on with their session on the far shore, and never had to negotiate anew.
    pub(super) recovered: usize,
    /// How often a client had to begin anew.
    pub(super) negotiated_anew: u64,
    /// Messages whose acceptance the publisher saw, times clients: each client is owed each of them.
    pub(super) messages_owed: u64,
    /// Those of the owed that reached the application of the client that they were owed to.
    pub(super) messages_received: u64,
    /// Messages that an application was given again, after its client had dropped what it knew by its sequence number.
    pub(super) duplicates: u64,
    /// From the kill to the first frame on the far shore, for the client that waited longest.
    pub(super) slowest_recovery_seconds: f64,
    /// The longest time between two messages that were accepted.
    pub(super) publisher_waited_seconds: f64,
    /// The home region is active, protected, and has all clients; the far shore has none.
    pub(super) home_again: bool,
    pub(super) verified: bool,
}

/// What the device hub's act found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct HubReport {
    pub(super) devices: usize,
    /// Those for which the far shore acknowledged something after the disaster.
    pub(super) followed: usize,
    /// Different messages whose acknowledgement their device saw.
    pub(super) telemetry_acknowledged: u64,
    /// Different messages that were read back through the consumer group.
    pub(super) telemetry_stored: u64,
    /// Messages that were acknowledged a second time, and yet read back once.
    pub(super) duplicates_removed: u64,
    /// Messages that the lost region had acknowledged and the far shore got only when it was back.
    pub(super) telemetry_late: u64,
    /// Identities in the lost region, as the far shore knew them.
    pub(super) identities_before: u64,
    /// Identities once both regions were merged; the same in both.
    pub(super) identities_after_merge: u64,
    /// What both regions had changed.
    pub(super) conflicts: u64,
    /// Devices that were locked out on the far shore and are still locked out at home.
    pub(super) revoked: usize,
    /// From the operator's word to the first acknowledgement on the far shore.
    pub(super) rto_seconds: f64,
    /// From the kill to the far shore's first acknowledgement for the device that waited longest.
    pub(super) slowest_device_seconds: f64,
    pub(super) verified: bool,
}

/// What the app service's act found.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct AppReport {
    /// What answers: the todo service for Node, or the one that is built in.
    pub(super) command: String,
    /// Clients found it on the far shore, and at home again, at the URL that they had.
    pub(super) same_url: bool,
    /// They were let in by the application key that they had; the master key is the same, too.
    pub(super) same_key: bool,
    /// The git remote is where it was, and gives what was pushed.
    pub(super) same_git_url: bool,
    /// The files that run are those that were pushed: compared by git, in the region and by a clone.
    pub(super) scripts_identical: bool,
    /// Rows whose acknowledgement a client saw.
    pub(super) rows_acknowledged: u64,
    /// Those of them that were read back at the end.
    pub(super) rows_present: u64,
    /// From the operator's word to the first row that was acknowledged on the far shore.
    pub(super) rto_seconds: f64,
    /// From the kill to that row.
    pub(super) since_disaster_seconds: f64,
    /// The secondary is gone, after the recovered service was verified.
    pub(super) secondary_deleted: bool,
    pub(super) verified: bool,
}

/// The whole report. An act that was not played is not in it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Report {
    pub(super) verified: bool,
    pub(super) store: &'static str,
    #[serde(flatten)]
    pub(super) machine: Option<MachineReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) realtime: Option<RealtimeReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hub: Option<HubReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) app: Option<AppReport>,
    pub(super) steps: Vec<StepReport>,
    pub(super) failures: Vec<String>,
}

impl Report {
    /// A table of at most 80 columns, with what did not hold below it.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let _ =
            writeln!(text, "{:<31} {:>7}  {:<20} {:>7}  {:<8}", "step", "seconds", "RPO", "RTO", "verified");
        for step in &self.steps {
            let rpo = step.rpo.map_or_else(|| "-".to_owned(), rpo_text);
            let rto = step.rto_seconds.map_or_else(|| "-".to_owned(), |rto| format!("{rto:.2} s"));
            let verified = match step.verified {
                None => "-",
                Some(true) => "yes",
                Some(false) => "NO",
            };
            let _ = writeln!(text, "{:<31} {:>7.2}  {rpo:<20} {rto:>7}  {verified}", step.step, step.seconds);
            for part in step.note.split("; ").filter(|part| !part.is_empty()) {
                let _ = writeln!(text, "    {part}");
            }
        }
        let _ = writeln!(text);
        for failure in &self.failures {
            let _ = writeln!(text, "did not hold: {failure}");
        }
        let verdict = if self.verified { "every check held" } else { "NOT everything held" };
        let _ = writeln!(text, "{verdict}");
        text
    }
}

fn rpo_text(lost: Lost) -> String {
    if lost.writes == 0 {
        return "0 writes".to_owned();
    }
    format!("{} writes, {}", lost.writes, bytes_text(lost.bytes))
}

/// `3.4 MiB`.
#[expect(clippy::cast_precision_loss, reason = "for people; one decimal is shown")]
pub(super) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

/// Seconds with three decimals, as they are reported.
pub(super) fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_fields_that_programs_read() {
        let report = Report {
            machine: Some(MachineReport::default()),
            realtime: Some(RealtimeReport::default()),
            hub: Some(HubReport::default()),
            app: Some(AppReport::default()),
            ..Report::default()
        };
        let json = serde_json::to_value(report).unwrap();
        for pointer in [
            "/verified",
            "/failover/rto_seconds",
            "/failover/rpo/at_failover/writes",
            "/failover/rpo/final/bytes",
            "/failover/rpo/true/seconds",
            "/failback/lost_writes",
            "/reprotect/bytes_moved",
            "/reprotect/bytes_changed",
            "/drill/verified",
            "/store",
            "/control/survivors",
            "/realtime/clients",
            "/realtime/recovered",
            "/realtime/messages_owed",
            "/realtime/messages_received",
            "/realtime/duplicates",
            "/realtime/slowest_recovery_seconds",
            "/realtime/home_again",
            "/realtime/verified",
            "/hub/devices",
            "/hub/followed",
            "/hub/telemetry_acknowledged",
            "/hub/telemetry_stored",
            "/hub/duplicates_removed",
            "/hub/identities_before",
            "/hub/identities_after_merge",
            "/hub/conflicts",
            "/hub/rto_seconds",
            "/hub/verified",
            "/app/same_url",
            "/app/same_key",
            "/app/same_git_url",
            "/app/scripts_identical",
            "/app/rows_acknowledged",
            "/app/rows_present",
            "/app/rto_seconds",
            "/app/secondary_deleted",
            "/app/verified",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn nothing_is_said_of_an_act_that_was_not_played() {
        let json = serde_json::to_value(Report::default()).unwrap();
        for pointer in ["/failover", "/drill", "/control", "/realtime", "/hub", "/app"] {
            assert!(json.pointer(pointer).is_none(), "{pointer}");
        }
    }

    #[test]
    fn the_table_says_what_did_not_hold() {
        let step = StepReport {
            step: "fail over to latest",
            seconds: 1.5,
            rpo: Some(Lost { writes: 3, bytes: 12_288, seconds: 0.25 }),
            rto_seconds: Some(0.5),
            verified: Some(false),
            note: String::new(),
        };
        let report =
            Report { steps: vec![step], failures: vec!["the sky is blue".into()], ..Report::default() };
        let table = report.table();
        assert!(table.contains("3 writes, 12.0 KiB"), "{table}");
        assert!(table.contains("NO") && table.contains("did not hold: the sky is blue"), "{table}");
        assert!(table.lines().all(|line| line.len() <= 80), "{table}");
    }
}
