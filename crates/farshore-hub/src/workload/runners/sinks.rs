//! Sinks: each setting is one, while the hub serves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Removed, Runners, Shared, locked, outdated};
use crate::fleet::Fleet;
use crate::member::under_right;
use crate::sink::{Cursors, Sink, SinkError, SinkOptions, SinkStats};
use crate::telemetry::Cursor;
use crate::trust;

/// How long a stream that is made here knows a message again: longer than a failover takes with somebody who decides on it. At 100
/// messages a second the server keeps some 50 MB of ids for it.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(3600);

/// A sink as it is kept and replicated. Fields are only ever added.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::workload) struct SinkSetting {
    /// A password may be in it.
    pub(in crate::workload) url: String,
    pub(in crate::workload) stream: String,
    pub(in crate::workload) subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::workload) ca: Option<String>,
}

impl fmt::Debug for SinkSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stream, subject, .. } = self;
        f.debug_struct("SinkSetting")
            .field("stream", stream)
            .field("subject", subject)
            .finish_non_exhaustive()
    }
}

impl SinkSetting {
    /// What the sink is begun with; or what is wrong.
    pub(in crate::workload) fn options(
        &self,
        name: &str,
        named_by: &[String],
    ) -> Result<SinkOptions, String> {
        let is_secure = self.url.starts_with("tls://");
        let tls = is_secure.then(|| trust::client_config(self.ca.as_deref())).transpose();
        let options = SinkOptions {
            url: self.url.clone(),
            tls: tls.map_err(|error| format!("ca: {error}"))?,
            stream: self.stream.clone(),
            subject: self.subject.clone(),
            group: group_of(name),
            duplicate_window: DUPLICATE_WINDOW,
            named_by: named_by.to_vec(),
        };
        options.check().map_err(|error| error.to_string())?;
        Ok(options)
    }
}

/// The consumer group of a sink.
pub(in crate::workload) fn group_of(name: &str) -> String {
    format!("sink.{name}")
}

/// A sink that was told to run.
pub(super) struct RunningSink {
    setting: Value,
    /// Or why it cannot.
    sink: Result<Sink, String>,
}

impl fmt::Debug for RunningSink {
    /// Without the setting, in which a password may be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningSink").field("sink", &self.sink).finish_non_exhaustive()
    }
}

/// Cursors of a hub: kept while it serves, and never after it was fenced.
#[derive(Debug)]
struct Held(Fleet);

#[async_trait]
impl Cursors for Held {
    async fn load(&self, group: &str) -> Result<Option<Cursor>, String> {
        self.0.registry().load(group).await
    }

    async fn store(&self, group: &str, cursor: &Cursor) -> Result<(), String> {
        let (registry, group, cursor) = (self.0.registry().clone(), group.to_owned(), cursor.clone());
        let stored = under_right(&self.0, async move { registry.store(&group, &cursor).await }).await;
        stored.unwrap_or_else(|| Err("the hub does not serve here now".to_owned()))
    }
}

impl Runners {
    /// How the sink does; `None`: it does not run here. `Some(Err(_))`: it cannot.
    pub(in crate::workload) fn sink(&self, name: &str) -> Option<Result<SinkStats, String>> {
        let sinks = locked(&self.shared.sinks);
        sinks.get(name).map(|running| running.sink.as_ref().map(Sink::stats).map_err(Clone::clone))
    }
}

impl Shared {
    /// Ends what is not wanted, or is wanted otherwise, and begins what is.
    pub(super) async fn arrange_sinks(&self, wanted: &BTreeMap<String, Value>, removed: Removed) {
        let ended = outdated(&self.sinks, |name, running| wanted.get(name) == Some(&running.setting));
        for (name, running) in ended {
            if let Ok(sink) = running.sink {
                sink.stop().await;
            }
            if removed == Removed::Forgotten && !wanted.contains_key(&name) {
                self.forget(&name).await;
            }
        }
        for (name, setting) in wanted {
            if !locked(&self.sinks).contains_key(name) {
                let sink = self.begin(name, setting).await;
                if let Err(why) = &sink {
                    tracing::warn!(hub = self.fleet.name(), sink = name, why, "a sink cannot begin");
                }
                locked(&self.sinks).insert(name.clone(), RunningSink { setting: setting.clone(), sink });
            }
        }
    }

    async fn begin(&self, name: &str, setting: &Value) -> Result<Sink, String> {
        let setting = SinkSetting::deserialize(setting).map_err(|error| error.to_string())?;
        let options = setting.options(name, &self.named_by)?;
        let sink =
            Sink::spawn(options, self.fleet.telemetry().clone(), Arc::new(Held(self.fleet.clone()))).await;
        sink.map_err(|error: SinkError| error.to_string())
    }

    /// Whoever takes the name of a sink that was taken away begins anew.
    async fn forget(&self, name: &str) {
        let (registry, group) = (self.fleet.registry().clone(), group_of(name));
        let forgotten = under_right(&self.fleet, async move {
            match registry.groups() {
                Ok(groups) if groups.contains_key(&group) => registry.delete_group(&group).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            }
        });
        if let Some(Err(error)) = forgotten.await {
            tracing::warn!(hub = self.fleet.name(), sink = name, %error, "the cursor of a sink that is gone stays");
        }
    }

    pub(super) fn sink_warnings(&self) -> Vec<String> {
        let sinks = locked(&self.sinks);
        let failing = sinks.iter().filter_map(|(name, running)| match &running.sink {
            Ok(sink) => sink.stats().failing.map(|error| format!("the sink {name} does not go on: {error}")),
            Err(why) => Some(format!("the sink {name} cannot begin: {why}")),
        });
        failing.collect()
    }
}
