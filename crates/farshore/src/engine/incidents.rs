//! Incidents in the store: opened, changed and closed by themselves, and by people.
//!
//! Every control node looks; what they find is written under compare-and-set on the record that says that an incident is open
//! (`incidents-open/SUBJECT/CAUSE`), so that one thing makes one incident however many nodes see it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::ItemId;
use farshore_core::incident::{About, Act, BY_HAND, Finding, Incident, Rounds};
use farshore_core::moment::Moment;
use farshore_core::store::{CommitError, Compare, ReadError, Transaction, Write};
use farshore_core::verdict::Health;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::book::{At, put};
use super::health::{Judged, WHO, lock, snapshot};
use super::records::AuditLine;
use super::{Control, Inner, now};

/// Prefix of all incidents.
const INCIDENTS: &str = "incidents/";
/// Prefix of what says that one is open.
const OPEN: &str = "incidents-open/";
/// Between two rounds, in rounds of the health loop.
const ROUNDS_PER_LOOK: u32 = 2;
/// Closed ones are kept for so long: two quarters of drills are remembered.
const KEPT_FOR: Duration = Duration::from_secs(180 * 86_400);
/// Rounds between two searches for what is older than that: once in half an hour at the usual pace.
const ROUNDS_PER_PRUNING: u64 = 900;
/// Removed in one round: far below what a transaction holds.
const PRUNED_MAX: usize = 50;
/// Opened in one round; the others follow in the next ones.
const OPENED_MAX: usize = 20;
/// Longest text of a person.
const TEXT_LEN_MAX: usize = 2_000;
/// A transaction of a person that meets another writer is decided again this often.
const ATTEMPTS_MAX: u32 = 5;

/// What becomes an incident. The rest is shown in the status: it is asked for, or expected, or mends itself, or is the
/// consequence of a lost region for one of its many items.
const CAUSES: [&str; 11] = [
    "unreachable",
    "link",
    "certificate",
    "endpoint",
    "needs-user",
    "given-up",
    "stuck",
    "missing",
    "not-serving",
    "not-replicating",
    "rpo",
];

/// `incidents-open/SUBJECT/CAUSE`: which incident that is.
#[derive(Debug, Serialize, Deserialize)]
struct OpenRecord {
    id: String,
}

/// What a person says to open one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIncident {
    /// `KIND/NAME`, `region/NAME` or `service`.
    pub subject: String,
    /// How bad it is: a Warning or Unhealthy.
    pub severity: Health,
    /// What is wrong.
    pub text: String,
    /// Chosen by the client: the same key opens one incident.
    pub key: Option<String>,
}

/// Why nothing was done about an incident.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IncidentError {
    /// There is none of this name.
    #[error("there is no incident {id}: farshore incident list shows those there are")]
    NotFound {
        /// The name.
        id: String,
    },
    /// It is over.
    #[error("the incident {id} is closed since {at}: open a new one")]
    Closed {
        /// The name.
        id: String,
        /// Since when.
        at: Moment,
    },
    /// It can never be right.
    #[error("{why}")]
    Invalid {
        /// Why, and what would be.
        why: String,
    },
    /// The store does not answer.
    #[error("{why}")]
    Unavailable {
        /// What failed.
        why: String,
    },
}

impl From<ReadError> for IncidentError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable { why: error.to_string() }
    }
}

fn key(id: &str) -> String {
    format!("{INCIDENTS}{id}")
}

/// One for each subject and cause; what people open does not stand in each other's way.
fn open_key(incident: &Incident) -> String {
    let own = if incident.cause == BY_HAND { format!("-{}", incident.id) } else { String::new() };
    format!("{OPEN}{}/{}{own}", incident.subject, incident.cause)
}

/// Looks after incidents for as long as the engine runs.
pub(super) async fn watch(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.options.health_every * ROUNDS_PER_LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = Rounds::default();
    for count in 0.. {
        ticks.tick().await;
        if let Err(error) = round(&inner, &mut rounds).await {
            tracing::debug!(%error, "incidents are looked after later");
            continue;
        }
        if count % ROUNDS_PER_PRUNING == 0
            && let Err(error) = prune(&inner).await
        {
            tracing::debug!(%error, "old incidents are removed later");
        }
    }
}

async fn round(inner: &Arc<Inner>, rounds: &mut Rounds) -> Result<(), ReadError> {
    let open = open(inner).await?;
    let (found, unknown) = found(inner).await?;
    let by_about: BTreeMap<About, Incident> = open
        .iter()
        .filter(|incident| incident.value.cause != BY_HAND)
        .map(|incident| (incident.value.about(), incident.value.clone()))
        .collect();
    let mut opened = 0;
    for act in rounds.round(found, &unknown, &by_about) {
        let at = |about: &About| open.iter().find(|incident| incident.value.about() == *about);
        let done = match &act {
            Act::Open(..) if opened >= OPENED_MAX => continue,
            Act::Open(about, finding) => {
                opened += 1;
                open_one(inner, about, finding).await
            }
            Act::Change(about, finding) => match at(about) {
                Some(at) => {
                    replace(inner, at, at.value.clone().changed(finding, now(), WHO), WHO, "changed").await
                }
                None => Ok(()),
            },
            Act::Close(about) => match at(about) {
                Some(at) => {
                    let closed = at.value.clone().closed(now(), WHO, "it is well again");
                    replace(inner, at, closed, WHO, "closed").await
                }
                None => Ok(()),
            },
        };
        match done {
            Ok(()) => tracing::info!(?act, "incident"),
            // Another control node was first.
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => tracing::warn!(%error, ?act, "not recorded yet"),
        }
    }
    *lock(&inner.health.open) = open.into_iter().map(|at| at.value).collect();
    Ok(())
}

/// What is wrong now, and of what nobody can tell.
async fn found(inner: &Arc<Inner>) -> Result<(BTreeMap<About, Finding>, BTreeSet<String>), ReadError> {
    let snapshot = snapshot(inner).await?;
    let judged = Judged::now(inner);
    let mut all = Vec::new();
    for region in inner.health.regions().into_keys() {
        all.push((format!("region/{region}"), judged.region(&region)));
    }
    for (id, item) in &snapshot.items {
        let job = match snapshot.busy.contains(id) {
            true => job_of(inner, id).await?,
            false => None,
        };
        all.push((id.to_string(), judged.item(item, job.as_ref())));
    }
    let mut found = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for (subject, findings) in all {
        for finding in findings {
            if finding.state == Health::Unknown {
                unknown.insert(subject.clone());
            } else if CAUSES.contains(&finding.cause) {
                let about = About { subject: subject.clone(), cause: finding.cause.to_owned() };
                found.entry(about).or_insert(finding);
            }
        }
    }
    Ok((found, unknown))
}

async fn job_of(inner: &Inner, id: &ItemId) -> Result<Option<farshore_core::job::Job>, ReadError> {
    match inner.book.item_job(id).await? {
        Some(job) => Ok(inner.book.job(&job).await?.map(|job| job.value)),
        None => Ok(None),
    }
}

async fn open(inner: &Inner) -> Result<Vec<At<Incident>>, ReadError> {
    let (entries, _) = inner.book.store().list(OPEN).await?;
    let mut open = Vec::with_capacity(entries.len());
    for entry in entries {
        let Ok(record) = serde_json::from_slice::<OpenRecord>(&entry.value) else { continue };
        open.extend(inner.book.read::<Incident>(&key(&record.id)).await?);
    }
    Ok(open)
}

async fn open_one(inner: &Inner, about: &About, finding: &Finding) -> Result<(), CommitError> {
    let incident = Incident {
        id: ulid::Ulid::generate().to_string(),
        subject: about.subject.clone(),
        cause: about.cause.clone(),
        severity: finding.state,
        text: finding.reason.clone(),
        advice: Some(finding.advice.clone()),
        opened_at: now(),
        closed_at: None,
        history: Vec::new(),
    };
    let text = format!("{}: {}", finding.state.as_str(), finding.reason);
    add(inner, incident.noted(now(), WHO, &text), WHO).await
}

async fn add(inner: &Inner, incident: Incident, who: &str) -> Result<(), CommitError> {
    let open = open_key(&incident);
    let transaction = Transaction {
        compares: vec![Compare::Absent(open.clone()), Compare::Absent(key(&incident.id))],
        writes: vec![put(key(&incident.id), &incident)?, put(open, &OpenRecord { id: incident.id.clone() })?],
    };
    let line = audit(&incident, who, "opened");
    inner.book.commit(transaction, Some(line)).await.map(drop)
}

fn audit(incident: &Incident, who: &str, what: &str) -> AuditLine {
    AuditLine {
        who: who.to_owned(),
        what: format!("incident {} about {} {what}: {}", incident.id, incident.subject, incident.text),
        item: ItemId::parse(&incident.subject).ok(),
        job: None,
    }
}

/// Writes `next` in place of `at`; a closed one is open no more.
async fn replace(
    inner: &Inner,
    at: &At<Incident>,
    next: Incident,
    who: &str,
    what: &str,
) -> Result<(), CommitError> {
    let mut writes = vec![put(key(&next.id), &next)?];
    if !next.is_open() {
        writes.push(Write::Delete(open_key(&next)));
    }
    let compares = vec![Compare::At(key(&next.id), at.revision)];
    let line = audit(&next, who, what);
    inner.book.commit(Transaction { compares, writes }, Some(line)).await.map(drop)
}

/// Removes what was closed long ago.
async fn prune(inner: &Inner) -> Result<(), CommitError> {
    let all = all(inner).await.map_err(|error| CommitError::Unavailable(error.to_string()))?;
    let before = now();
    let old = all
        .iter()
        .filter(|incident| incident.closed_at.is_some_and(|closed| before.since(closed) > KEPT_FOR));
    let writes: Vec<Write> = old.take(PRUNED_MAX).map(|incident| Write::Delete(key(&incident.id))).collect();
    if writes.is_empty() {
        return Ok(());
    }
    inner.book.commit(Transaction { compares: Vec::new(), writes }, None).await.map(drop)
}

/// All of them, oldest first. One that cannot be read is left out and logged.
async fn all(inner: &Inner) -> Result<Vec<Incident>, ReadError> {
    let (entries, _) = inner.book.store().list(INCIDENTS).await?;
    let read = entries.iter().filter_map(|entry| match serde_json::from_slice(&entry.value) {
        Ok(incident) => Some(incident),
        Err(error) => {
            tracing::warn!(key = entry.key, %error, "an incident's record is left out");
            None
        }
    });
    Ok(read.collect())
}

fn check_text(text: &str) -> Result<(), IncidentError> {
    let why = match text.trim() {
        "" => "say what is wrong, or what is new: the text is empty".to_owned(),
        text if text.len() > TEXT_LEN_MAX => format!("the text has at most {TEXT_LEN_MAX} bytes"),
        _ => return Ok(()),
    };
    Err(IncidentError::Invalid { why })
}

fn check_subject(subject: &str) -> Result<(), IncidentError> {
    let region =
        subject.strip_prefix("region/").is_some_and(|name| farshore_core::ids::Region::parse(name).is_ok());
    if subject == "service" || region || ItemId::parse(subject).is_ok() {
        return Ok(());
    }
    let why = format!("{subject:?} is no subject: it must be KIND/NAME, region/NAME or service");
    Err(IncidentError::Invalid { why })
}

/// A new name; the same name for the same person and key.
fn id_of(new: &NewIncident, who: &str) -> String {
    match &new.key {
        Some(key) => format!("by-{}", &super::sha256_hex(format!("{who}\n{key}").as_bytes())[..24]),
        None => ulid::Ulid::generate().to_string(),
    }
}

impl Control {
    /// All incidents, or the open ones, oldest first.
    pub async fn incidents(&self, open_only: bool) -> Result<Vec<Incident>, ReadError> {
        let mut incidents = match open_only {
            true => open(&self.inner).await?.into_iter().map(|at| at.value).collect(),
            false => all(&self.inner).await?,
        };
        incidents.sort_by(|a, b| (a.opened_at, &a.id).cmp(&(b.opened_at, &b.id)));
        Ok(incidents)
    }

    /// Those that were open at the last round; needs no store.
    #[must_use]
    pub fn incidents_open(&self) -> Vec<Incident> {
        self.inner.health.open_incidents()
    }

    /// One incident.
    pub async fn incident(&self, id: &str) -> Result<Incident, IncidentError> {
        Ok(self.read_incident(id).await?.value)
    }

    async fn read_incident(&self, id: &str) -> Result<At<Incident>, IncidentError> {
        let plain = !id.is_empty() && id.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
        let found = if plain { self.inner.book.read(&key(id)).await? } else { None };
        found.ok_or_else(|| IncidentError::NotFound { id: id.chars().take(40).collect() })
    }

    /// Opens one by hand. Only a person closes it.
    ///
    /// # Errors
    /// Nothing was changed; the error says how to mend it.
    pub async fn open_incident(&self, new: &NewIncident, who: &str) -> Result<Incident, IncidentError> {
        check_text(&new.text)?;
        check_subject(&new.subject)?;
        let incident = Incident {
            id: id_of(new, who),
            subject: new.subject.clone(),
            cause: BY_HAND.to_owned(),
            severity: new.severity,
            text: new.text.clone(),
            advice: None,
            opened_at: now(),
            closed_at: None,
            history: Vec::new(),
        };
        let incident = incident.noted(now(), who, &new.text);
        match add(&self.inner, incident.clone(), who).await {
            Ok(()) => Ok(incident),
            // Asked again with the same key.
            Err(CommitError::Conflict { .. }) => self.incident(&incident.id).await,
            Err(error) => Err(IncidentError::Unavailable { why: error.to_string() }),
        }
    }

    /// Adds a message to an open incident.
    ///
    /// # Errors
    /// Nothing was changed; the error says how to mend it.
    pub async fn update_incident(&self, id: &str, text: &str, who: &str) -> Result<Incident, IncidentError> {
        check_text(text)?;
        self.steer_incident(id, who, "updated", |incident| incident.noted(now(), who, text)).await
    }

    /// Closes an incident. One whose cause is still there opens again by itself, as a new one.
    ///
    /// # Errors
    /// Nothing was changed; the error says how to mend it.
    pub async fn close_incident(&self, id: &str, text: &str, who: &str) -> Result<Incident, IncidentError> {
        check_text(text)?;
        self.steer_incident(id, who, "closed", |incident| incident.closed(now(), who, text)).await
    }

    async fn steer_incident(
        &self,
        id: &str,
        who: &str,
        what: &str,
        step: impl Fn(Incident) -> Incident,
    ) -> Result<Incident, IncidentError> {
        for _ in 0..ATTEMPTS_MAX {
            let at = self.read_incident(id).await?;
            if let Some(closed) = at.value.closed_at {
                return Err(IncidentError::Closed { id: id.to_owned(), at: closed });
            }
            let next = step(at.value.clone());
            match replace(&self.inner, &at, next.clone(), who, what).await {
                Ok(()) => return Ok(next),
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(IncidentError::Unavailable { why: error.to_string() }),
            }
        }
        Err(IncidentError::Unavailable { why: format!("{id} is changed by others again and again") })
    }
}
