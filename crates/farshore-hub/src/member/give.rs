//! To the other hub: it is given what this one has.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::ask::NotDone;
use super::entry::{Entry, Pages, Sort, identity_line};
use super::take::of_entry;
use super::{ASKED_AT_ONCE, Manner, Run, RunError, broken};
use crate::import::{ImportMode, Keys, line_of};
use crate::names::Key;
use crate::record::Device;
use crate::record::leaves::difference;

/// Identities of one request; from the contract of the official SDKs.
const BULK_LEN_MAX: usize = 100;
/// Bytes of one request: half of what a hub takes.
const BULK_BYTES_MAX: usize = 4 << 20;
/// Identities that only the other hub has, and that are kept in mind to be deleted; the next run does the rest.
const EXTRA_MAX: usize = 100_000;

/// What differs.
struct Differs {
    here: Arc<Device>,
    identity: bool,
    /// The patches of tags and of desired properties.
    twin: Option<(Value, Value)>,
}

impl Run<'_> {
    pub(super) async fn give(&mut self) -> Result<(), RunError> {
        let mut extra = Vec::new();
        for sort in [Sort::Devices, Sort::Modules] {
            let mut pages = Pages::of(sort);
            while let Some(entries) = self.listed(&mut pages).await? {
                let differing = self.compared(entries, &mut extra).await?;
                self.update(differing).await?;
            }
        }
        self.create().await?;
        self.clear(extra).await
    }

    /// What is on both sides and differs; what is only there goes to `extra`.
    async fn compared(
        &mut self,
        entries: Vec<Entry>,
        extra: &mut Vec<Key>,
    ) -> Result<Vec<Differs>, RunError> {
        let mut both = Vec::new();
        for entry in entries {
            match self.fleet.registry().get(&entry.key).map_err(broken)? {
                Some(here) => both.push((entry, here)),
                None => {
                    self.tally.add(|report| report.only_there += 1);
                    if extra.len() < EXTRA_MAX {
                        extra.push(entry.key);
                    }
                }
            }
        }
        let run = &*self;
        let compared =
            stream::iter(both).map(|(entry, here)| run.compare(entry, here).boxed()).buffered(ASKED_AT_ONCE);
        let compared: Vec<Option<(Entry, Differs)>> = compared.try_collect().await?;
        let mut differing = Vec::new();
        for (entry, differs) in compared.into_iter().flatten() {
            if let (false, Some(etag), Manner::Do) = (differs.identity, &entry.etag, self.manner) {
                self.same.add(&entry.key, etag, &differs.here.etag);
            }
            if differs.identity || differs.twin.is_some() {
                differing.push(differs);
            } else {
                self.tally.add(|report| report.unchanged += 1);
            }
        }
        Ok(differing)
    }

    /// `None`: it is not there any more, or was reported.
    async fn compare(&self, entry: Entry, here: Arc<Device>) -> Result<Option<(Entry, Differs)>, RunError> {
        let is_same = |etag: &String| *etag == here.etag || self.same.knows(&entry.key, etag, &here.etag);
        let identity = if entry.etag.as_ref().is_some_and(is_same) {
            Ok(false)
        } else {
            match self.far.identity(&entry.key).await {
                Ok(None) => return Ok(None),
                Ok(Some(identity)) => differs(&entry.key, identity, &here),
                Err(error) => Err(of_entry(error)?.to_string()),
            }
        };
        let patches = (difference(&entry.tags, &here.tags), difference(&entry.desired, &here.desired.value));
        let twin = (patches != (json!({}), json!({}))).then_some(patches);
        match identity {
            Ok(identity) => Ok(Some((entry, Differs { here, identity, twin }))),
            Err(why) => {
                self.tally.failed(&entry.key.to_string(), &why);
                Ok(None)
            }
        }
    }

    async fn update(&self, differing: Vec<Differs>) -> Result<(), RunError> {
        if self.manner == Manner::Plan {
            self.tally.add(|report| report.updated += differing.len() as u64);
            return Ok(());
        }
        let identities = differing.iter().filter(|differs| differs.identity);
        let lines: Vec<Value> =
            identities.map(|differs| identity_of(&differs.here, ImportMode::Update)).collect();
        let mut failed = self.send(&lines).await?;
        let twins = differing.iter().filter_map(|differs| Some((&differs.here.key, differs.twin.clone()?)));
        let twins: Vec<(Key, (Value, Value))> = twins.map(|(key, twin)| (key.clone(), twin)).collect();
        let patched =
            stream::iter(twins).map(|(key, twin)| self.patch(key, twin).boxed()).buffered(ASKED_AT_ONCE);
        let patched: Vec<Option<(String, String)>> = patched.try_collect().await?;
        for (id, why) in patched.into_iter().flatten() {
            self.tally.failed(&id, &why);
            failed.insert(id);
        }
        let done = differing.iter().filter(|differs| !failed.contains(&differs.here.key.to_string())).count();
        self.tally.add(|report| report.updated += done as u64);
        Ok(())
    }

    /// Who was refused, and why.
    async fn patch(&self, key: Key, twin: (Value, Value)) -> Result<Option<(String, String)>, RunError> {
        match self.far.patch_twin(&key, &twin.0, &twin.1).await {
            Ok(()) => Ok(None),
            Err(error) => of_entry(error).map(|error| Some((key.to_string(), error.to_string()))),
        }
    }

    /// What only this hub has. The other hub's list was read to its end.
    async fn create(&self) -> Result<(), RunError> {
        let mut after: Option<Key> = None;
        loop {
            let (registry, from) = (self.fleet.registry().clone(), after.clone());
            let page = tokio::task::spawn_blocking(move || registry.page(from.as_ref(), BULK_LEN_MAX));
            let page = page.await.map_err(broken)?.map_err(broken)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            let is_comparable = |key: &Key| key.module.is_none() || self.lists_modules;
            let new = page.iter().filter(|device| is_comparable(&device.key) && !self.there.has(&device.key));
            let new: Vec<&Arc<Device>> = new.collect();
            self.tally.add(|report| report.only_here += new.len() as u64);
            match self.manner {
                Manner::Plan => self.tally.add(|report| report.created += new.len() as u64),
                Manner::Do => self.create_these(&new).await?,
            }
        }
    }

    async fn create_these(&self, devices: &[&Arc<Device>]) -> Result<(), RunError> {
        let lines = |mode| devices.iter().map(|device| whole_of(device, mode)).collect::<Vec<_>>();
        let refused = self.send_all(&lines(ImportMode::Create)).await?;
        let (exist, failed): (Vec<NotDone>, Vec<NotDone>) = refused.into_iter().partition(NotDone::exists);
        // Somebody else made them meanwhile, or the list was not quite new.
        let exist: BTreeSet<String> = exist.iter().map(id_of).collect();
        let again = devices.iter().filter(|device| exist.contains(&device.key.to_string()));
        let again: Vec<Value> = again.map(|device| identity_of(device, ImportMode::Update)).collect();
        let not_updated = self.send(&again).await?.len();
        for refused in &failed {
            self.tally.failed(&id_of(refused), &format!("{}: {}", refused.code, refused.why));
        }
        let created = devices.len().saturating_sub(failed.len() + exist.len());
        let updated = exist.len().saturating_sub(not_updated);
        self.tally.add(|report| {
            report.created += created as u64;
            report.updated += updated as u64;
        });
        Ok(())
    }

    /// Deletes there what only the other hub has.
    async fn clear(&self, extra: Vec<Key>) -> Result<(), RunError> {
        if !self.prune || extra.is_empty() {
            return Ok(());
        }
        if self.fleet.registry().counts().devices == 0 {
            self.tally.note("this hub has no devices: nothing was deleted there");
            return Ok(());
        }
        for some in extra.chunks(BULK_LEN_MAX) {
            let mut gone = Vec::with_capacity(some.len());
            for key in some {
                if self.fleet.registry().get(key).map_err(broken)?.is_none() {
                    gone.push(key);
                }
            }
            if self.manner == Manner::Plan {
                self.tally.add(|report| report.deleted += gone.len() as u64);
                continue;
            }
            let lines: Vec<Value> = gone.iter().map(|key| deletion(key)).collect();
            // A module went with its device.
            let failed = self.send_all(&lines).await?.into_iter().filter(|refused| !refused.is_missing());
            let failed: Vec<NotDone> = failed.collect();
            for refused in &failed {
                self.tally.failed(&id_of(refused), &format!("{}: {}", refused.code, refused.why));
            }
            self.tally.add(|report| report.deleted += gone.len().saturating_sub(failed.len()) as u64);
        }
        Ok(())
    }

    /// Sends lines; who was refused is reported, and returned.
    async fn send(&self, lines: &[Value]) -> Result<BTreeSet<String>, RunError> {
        let refused = self.send_all(lines).await?;
        for refused in &refused {
            self.tally.failed(&id_of(refused), &format!("{}: {}", refused.code, refused.why));
        }
        Ok(refused.iter().map(id_of).collect())
    }

    /// Sends lines, in requests that a hub takes; who was refused.
    async fn send_all(&self, lines: &[Value]) -> Result<Vec<NotDone>, RunError> {
        let (mut refused, mut batch, mut bytes) = (Vec::new(), Vec::new(), 0);
        for line in lines {
            let len = line.to_string().len();
            if !batch.is_empty() && (batch.len() == BULK_LEN_MAX || bytes + len > BULK_BYTES_MAX) {
                refused.extend(self.far.bulk(&std::mem::take(&mut batch)).await?);
                bytes = 0;
            }
            bytes += len;
            batch.push(line.clone());
        }
        if !batch.is_empty() {
            refused.extend(self.far.bulk(&batch).await?);
        }
        Ok(refused)
    }
}

/// Whether the other hub's identity would have to be changed to be as it is here: what importing it would change.
fn differs(key: &Key, identity: Value, here: &Device) -> Result<bool, String> {
    let mut line = identity_line(key, identity)?;
    line.import_mode = Some(ImportMode::Update.as_str().to_owned());
    let (_, decide) = line.decide().map_err(|error| error.to_string())?;
    decide(Some(here)).map(|edits| !edits.is_empty()).map_err(|error| error.to_string())
}

/// Identity and twin, as bulk requests have them.
fn whole_of(device: &Device, mode: ImportMode) -> Value {
    let mut line = line_of(device, Keys::Included);
    line.import_mode = Some(mode.as_str().to_owned());
    for section in line.properties.iter_mut().flat_map(|both| [&mut both.desired, &mut both.reported]) {
        if let Some(members) = section.as_mut().and_then(Value::as_object_mut) {
            members.remove("$metadata");
        }
    }
    json!(line)
}

/// The identity alone.
fn identity_of(device: &Device, mode: ImportMode) -> Value {
    let mut line = line_of(device, Keys::Included);
    line.import_mode = Some(mode.as_str().to_owned());
    (line.twin_etag, line.tags, line.properties) = (None, None, None);
    // A reason that was taken away is to go there, too.
    if device.key.module.is_none() {
        line.status_reason.get_or_insert_default();
    }
    json!(line)
}

fn deletion(key: &Key) -> Value {
    let mut line = json!({ "id": key.device.as_str(), "importMode": ImportMode::Delete.as_str() });
    if let Some(module) = &key.module {
        line["moduleId"] = json!(module.as_str());
    }
    line
}

fn id_of(refused: &NotDone) -> String {
    match &refused.module {
        Some(module) => format!("{}/{module}", refused.id),
        None => refused.id.clone(),
    }
}
