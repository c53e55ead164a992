//! Sinks and members: what is set, and how they do.

use std::time::Duration;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Desk, broken, fatal, retry};
use crate::member::{Direction, EVERY_DEFAULT, Manner, MemberSetting, Report};
use crate::sink::without_credentials;
use crate::workload::runners::{MEMBERS, NoReport, SINKS, SinkSetting, group_of};

/// Sinks of a hub, and its members: each is a connection and a reader of everything.
const EACH_MAX: usize = 16;
/// Longest name; a group of consumers is called after it.
const NAME_LEN_MAX: usize = 48;
/// Longest address.
const URL_LEN_MAX: usize = 1024;
/// A chain of authorities; with the rest it fits into a setting.
const CA_LEN_MAX: usize = 32 * 1024;
/// A region that is asked has fifteen seconds to answer.
const RUN_WAIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
pub(super) struct SetSink {
    name: String,
    url: String,
    stream: Option<String>,
    subject: Option<String>,
    ca: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SetMember {
    name: String,
    connection_string: String,
    every_seconds: Option<u32>,
    #[serde(default)]
    direction: Direction,
    #[serde(default)]
    prune: bool,
    ca: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct OneRunner {
    name: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct RunMember {
    name: String,
    #[serde(default)]
    plan: bool,
    /// Waits for this run, which was begun before.
    run: Option<u64>,
}

impl Desk {
    /// All sinks, and how each does.
    pub(super) fn sinks(&self) -> Result<Value, StepError> {
        let settings = self.registry().settings(SINKS).map_err(broken)?;
        settings.iter().map(|(name, setting)| self.sink_view(name, setting)).collect()
    }

    fn sink_view(&self, name: &str, setting: &Value) -> Result<Value, StepError> {
        let setting =
            SinkSetting::deserialize(setting).map_err(|error| fatal(format!("the sink {name}: {error}")))?;
        let group = group_of(name);
        let running = self.runners.sink(name);
        let (state, failing) = match &running {
            None => ("standby", None),
            Some(Err(why)) => ("failing", Some(why.clone())),
            Some(Ok(stats)) => match &stats.failing {
                Some(error) => ("failing", Some(error.to_string())),
                None => ("running", None),
            },
        };
        let stats = running.and_then(Result::ok).unwrap_or_default();
        Ok(json!({
            "name": name,
            "url": without_credentials(&setting.url),
            "stream": setting.stream,
            "subject": setting.subject,
            "ca": setting.ca.is_some(),
            "state": state,
            "failing": failing,
            "published": stats.published,
            "repeated": stats.repeated,
            "missed": stats.missed,
            "behind": self.behind(&group)?,
            "group": group,
        }))
    }

    /// Makes a sink, or changes the one of this name, which goes on where it was.
    pub(super) async fn set_sink(&self, asked: SetSink) -> Result<Value, StepError> {
        let SetSink { name, url, stream, subject, ca } = asked;
        check_name("sink", &name)?;
        check_len("url", &url, URL_LEN_MAX)?;
        check_len("ca", ca.as_deref().unwrap_or_default(), CA_LEN_MAX)?;
        let hub = self.item.name.as_str();
        let setting = SinkSetting {
            url,
            stream: stream.unwrap_or_else(|| format!("farshore-{hub}")),
            subject: subject.unwrap_or_else(|| format!("farshore.{hub}")),
            ca,
        };
        if setting.ca.is_some() && !setting.url.starts_with("tls://") {
            return Err(fatal("ca: it is for servers with TLS: write tls://HOST:4222"));
        }
        setting.options(&name, &[]).map_err(fatal)?;
        self.put(SINKS, &name, json!(setting)).await?;
        self.sink_view(&name, &json!(setting))
    }

    /// Takes a sink away, and forgets how far it came.
    pub(super) async fn delete_sink(&self, asked: OneRunner) -> Result<Value, StepError> {
        self.take_away(SINKS, "sink", &asked.name).await
    }

    /// All members, and how each does. No keys.
    pub(super) fn members(&self) -> Result<Value, StepError> {
        let settings = self.registry().settings(MEMBERS).map_err(broken)?;
        settings.iter().map(|(name, setting)| self.member_view(name, setting)).collect()
    }

    fn member_view(&self, name: &str, setting: &Value) -> Result<Value, StepError> {
        let wrong = |error: &dyn std::fmt::Display| fatal(format!("the member {name}: {error}"));
        let setting = MemberSetting::deserialize(setting).map_err(|error| wrong(&error))?;
        let (host, policy) = setting.shown().unwrap_or_default();
        let running = self.runners.member(name);
        let state = running.clone().unwrap_or_default();
        let word = match &running {
            None => "standby",
            Some(state) if state.broken.is_some() => "failing",
            Some(state) if state.running().is_some() => "running",
            Some(state) if state.last().is_some_and(|report| report.error.is_some()) => "failing",
            Some(_) => "waiting",
        };
        Ok(json!({
            "name": name,
            "host": host,
            "policy": policy,
            "direction": setting.direction,
            "every_seconds": setting.every_seconds,
            "prune": setting.prune,
            "ca": setting.ca.is_some(),
            "state": word,
            "failing": state.broken.clone().or_else(|| state.last().and_then(|report| report.error.clone())),
            "next": state.next.map(|next| next.to_string()),
            "running": state.running(),
            "report": state.last(),
        }))
    }

    /// Makes a member, or changes the one of this name. It runs at once.
    pub(super) async fn set_member(&self, asked: SetMember) -> Result<Value, StepError> {
        let SetMember { name, connection_string, every_seconds, direction, prune, ca } = asked;
        check_name("member", &name)?;
        check_len("connection_string", &connection_string, URL_LEN_MAX)?;
        check_len("ca", ca.as_deref().unwrap_or_default(), CA_LEN_MAX)?;
        let every_seconds = every_seconds.unwrap_or(EVERY_DEFAULT);
        let setting = MemberSetting { connection_string, every_seconds, direction, prune, ca };
        setting.check().map_err(|error| fatal(error.to_string()))?;
        self.put(MEMBERS, &name, json!(setting)).await?;
        self.member_view(&name, &json!(setting))
    }

    /// Takes a member away. What was taken over from it stays.
    pub(super) async fn delete_member(&self, asked: OneRunner) -> Result<Value, StepError> {
        self.take_away(MEMBERS, "member", &asked.name).await
    }

    /// Brings a member up to date now, or says what would be done. A run that takes longer goes on: ask for its number.
    pub(super) async fn run_member(&self, asked: RunMember) -> Result<Value, StepError> {
        let RunMember { name, plan, run } = asked;
        if !self.fleet.is_serving() {
            return Err(self.elsewhere());
        }
        self.find(MEMBERS, "member", &name)?;
        let manner = if plan { Manner::Plan } else { Manner::Do };
        let report = self.runners.run_member(&name, manner, run, RUN_WAIT).await;
        let report: Report = report.map_err(|error| match error {
            NoReport::NotHere | NoReport::Ended => retry(format!(
                "the member {name} does not run here now: it was changed, or the hub moved; ask again"
            )),
            NoReport::UnknownRun => {
                fatal(format!("run: the member {name} was set, or the hub moved, since then: run it again"))
            }
            NoReport::Busy => {
                fatal(format!("the member {name} has runs waiting already: see farshore hub member list"))
            }
            NoReport::Broken(why) => fatal(format!("the member {name} cannot run: {why}")),
        })?;
        let mut view = json!(report);
        let next = self.runners.member(&name).and_then(|state| state.next);
        view["next"] = json!(next.map(|next| next.to_string()));
        Ok(view)
    }

    async fn put(&self, kind: &'static str, name: &str, setting: Value) -> Result<(), StepError> {
        let known = self.registry().settings(kind).map_err(broken)?;
        if known.len() >= EACH_MAX && known.iter().all(|(other, _)| other != name) {
            return Err(fatal(format!("a hub has at most {EACH_MAX} {kind}: remove one first")));
        }
        let (registry, name) = (self.registry().clone(), name.to_owned());
        self.change(async move { registry.set_setting(kind, &name, Some(setting)).await.map_err(retry) })
            .await
    }

    async fn take_away(&self, kind: &'static str, what: &str, name: &str) -> Result<Value, StepError> {
        self.find(kind, what, name)?;
        let (registry, name) = (self.registry().clone(), name.to_owned());
        self.change(async move { registry.set_setting(kind, &name, None).await.map_err(retry) }).await?;
        Ok(json!({}))
    }

    fn find(&self, kind: &str, what: &str, name: &str) -> Result<(), StepError> {
        let known = self.registry().settings(kind).map_err(broken)?;
        if known.iter().any(|(other, _)| other == name) {
            return Ok(());
        }
        let names: Vec<String> = known.into_iter().map(|(name, _)| name).collect();
        let there = if names.is_empty() {
            "there is none".to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        Err(fatal(format!("there is no {what} {name:?}; {there}")))
    }

    /// Events that a group has yet to read.
    fn behind(&self, group: &str) -> Result<u64, StepError> {
        let telemetry = self.fleet.telemetry();
        let cursor = self.registry().groups().map_err(broken)?.remove(group).unwrap_or_default();
        let lags = telemetry.ends().into_keys().map(|origin| telemetry.lag(&origin, cursor.next(&origin)));
        // Where a log is damaged, what comes after the damage is still to be read.
        Ok(lags.map(|lag| lag.map_or(0, |lag| lag.events)).sum())
    }
}

fn check_name(what: &str, name: &str) -> Result<(), StepError> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match name.is_empty() || name.len() > NAME_LEN_MAX || !name.chars().all(is_known) {
        true => Err(fatal(format!("a {what} is named by 1 to {NAME_LEN_MAX} letters, digits and -_."))),
        false => Ok(()),
    }
}

fn check_len(what: &str, text: &str, most: usize) -> Result<(), StepError> {
    if text.len() > most {
        Err(fatal(format!("{what}: it is longer than {most} characters")))
    } else {
        Ok(())
    }
}
