//! From a wish to a job: all that can be refused is refused here, before anything changes.

use std::sync::Arc;

use farshore_core::command::{Command, Verb};
use farshore_core::fencing::OnControlLoss;
use farshore_core::ids::{Epoch, ItemId, JobId, Kind, Region};
use farshore_core::job::plan::{Facts, plan};
use farshore_core::job::{Job, JobState, KIND_VERSION};
use farshore_core::lifecycle::{Event, Item, Phase, Refusal, Stage};
use farshore_core::moment::Moment;
use farshore_core::reconcile::ahead_of_store;
use farshore_core::store::{CommitError, Compare, Revision, Transaction};
use farshore_core::workload::{Observation, Point, PointChoice, Role, StepError};
use serde_json::{Value, json};

use super::book::{At, put};
use super::records::{
    AuditLine, IdempotencyRecord, ItemJob, RegionRecord, idempotency_key, item_job_key, job_key, own_key,
};
use super::{Idempotency, Inner, SubmitError, no_answer, now};

/// A request that meets another change of the same item is decided again this often.
const SUBMIT_ATTEMPTS_MAX: u32 = 5;
/// Points named in an error: what fits on a screen.
const POINTS_LISTED_MAX: usize = 5;
/// Longest idempotency key: a UUID with a prefix fits many times.
const IDEMPOTENCY_KEY_LEN_MAX: usize = 200;
/// Longest name of a recovery point.
const POINT_NAME_LEN_MAX: usize = 64;
/// Fencing itself on losing the control plane proves something only with so many independent places.
const FENCE_DOMAINS_MIN: usize = 3;

/// Checks, plans and stores a job. On return it is durable.
pub(super) async fn submit(
    inner: &Arc<Inner>,
    id: &ItemId,
    command: Command,
    who: &str,
    idempotency: Option<&Idempotency>,
) -> Result<Job, SubmitError> {
    if let Some(idempotency) = idempotency {
        check_idempotency_key(&idempotency.key)?;
    }
    for _ in 0..SUBMIT_ATTEMPTS_MAX {
        if let Some(job) = earlier_job(inner, idempotency).await? {
            return Ok(job);
        }
        let request = Request { inner, id, who, idempotency, now: now() };
        match request.try_once(command.clone()).await? {
            Some(job) => return Ok(job),
            None => continue,
        }
    }
    Err(SubmitError::Unavailable { why: format!("{id} is changed by others again and again: try again") })
}

fn check_idempotency_key(key: &str) -> Result<(), SubmitError> {
    let fits = !key.is_empty() && key.len() <= IDEMPOTENCY_KEY_LEN_MAX;
    if fits && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(SubmitError::Invalid {
        why: format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_LEN_MAX} visible ASCII characters"),
    })
}

/// The job that an earlier request with the same key made.
async fn earlier_job(inner: &Inner, idempotency: Option<&Idempotency>) -> Result<Option<Job>, SubmitError> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let record: Option<At<IdempotencyRecord>> = inner.book.read(&idempotency_key(&idempotency.key)).await?;
    let Some(record) = record else { return Ok(None) };
    if record.value.body_hash != idempotency.body_hash {
        return Err(SubmitError::IdempotencyMismatch { key: idempotency.key.clone() });
    }
    Ok(inner.book.job(&record.value.job).await?.map(|at| at.value))
}

struct Request<'a> {
    inner: &'a Arc<Inner>,
    id: &'a ItemId,
    who: &'a str,
    idempotency: Option<&'a Idempotency>,
    now: Moment,
}

impl Request<'_> {
    /// `None`: somebody else changed the item meanwhile; decide again.
    async fn try_once(&self, mut command: Command) -> Result<Option<Job>, SubmitError> {
        let own = self.inner.book.item(self.id).await?;
        let revision = own.as_ref().map(|own| own.revision);
        let item = match (own, &command) {
            (None, Command::Create { region, spec, on_control_loss, automatic }) => {
                self.check_create(region, *on_control_loss, *automatic).await?;
                self.check_room(region, spec).await?;
                let fences = *on_control_loss == OnControlLoss::Fence;
                Item {
                    lease: fences.then_some(self.inner.options.fencing),
                    automatic: *automatic,
                    vouched: self.inner.meta.incarnation,
                    ..Item::new(self.id.clone(), region.clone(), *on_control_loss, self.now)
                }
            }
            (Some(_), Command::Create { .. }) => return Err(self.name_taken()),
            (None, _) => return Err(self.no_item()),
            (Some(own), _) => {
                self.check_idle().await?;
                own.value
            }
        };
        if command.verb() != Verb::Create {
            // Asked again below, when what was left open is filled in.
            item.request(&command, self.now).map_err(refused)?;
        }
        let facts = self.check(&item, &mut command).await?;
        let next = match command.verb() {
            Verb::Create => item.clone(),
            _ => item.request(&command, self.now).map_err(refused)?,
        };
        let plan = plan(&next, &command, &facts).map_err(|error| SubmitError::Refused {
            code: "cannot-plan",
            why: error.to_string(),
            possible: item.next_actions(),
        })?;
        let job = Job {
            id: JobId(ulid::Ulid::generate().to_string()),
            item: self.id.clone(),
            command,
            asked_by: self.who.to_owned(),
            kind_version: KIND_VERSION,
            steps: plan.steps,
            on_turn: plan.on_turn,
            on_unwound: plan.on_unwound,
            state: JobState::Running,
            cursor: 0,
            attempt: 0,
            started: false,
            notes: Vec::new(),
            residue: Vec::new(),
            skipped: Vec::new(),
            created_at: self.now,
            updated_at: self.now,
            executor: None,
            executor_epoch: 0,
            log_len: 0,
        };
        self.store(revision, &next, job).await
    }

    async fn store(&self, own: Option<Revision>, item: &Item, job: Job) -> Result<Option<Job>, SubmitError> {
        let transaction = self.transaction(own, item, &job).map_err(|error| unavailable(&error))?;
        let what = format!("asked for {} of {}{}", job.verb(), self.id, word(&job.command));
        let line = AuditLine {
            who: self.who.to_owned(),
            what,
            item: Some(self.id.clone()),
            job: Some(job.id.clone()),
        };
        match self.inner.book.commit(transaction, Some(line)).await {
            Ok(_) => Ok(Some(job)),
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    fn transaction(&self, own: Option<Revision>, item: &Item, job: &Job) -> Result<Transaction, CommitError> {
        let own_key = own_key(self.id);
        let mut transaction = Transaction {
            compares: vec![
                match own {
                    Some(revision) => Compare::At(own_key.clone(), revision),
                    None => Compare::Absent(own_key.clone()),
                },
                Compare::Absent(item_job_key(self.id)),
            ],
            writes: vec![
                put(job_key(&job.id), job)?,
                put(own_key, item)?,
                put(item_job_key(self.id), &ItemJob { job: job.id.clone() })?,
            ],
        };
        if let Some(Idempotency { key, body_hash }) = self.idempotency {
            let record =
                IdempotencyRecord { body_hash: body_hash.clone(), job: job.id.clone(), at: self.now };
            transaction.compares.push(Compare::Absent(idempotency_key(key)));
            transaction.writes.push(put(idempotency_key(key), &record)?);
        }
        Ok(transaction)
    }

    async fn check_idle(&self) -> Result<(), SubmitError> {
        let Some(id) = self.inner.book.item_job(self.id).await? else { return Ok(()) };
        match self.inner.book.job(&id).await? {
            Some(job) => Err(SubmitError::Busy { job: id, verb: job.value.verb() }),
            None => Err(SubmitError::Unavailable {
                why: format!("{} is held by job {id}, which has no record: the store is damaged", self.id),
            }),
        }
    }

    fn no_item(&self) -> SubmitError {
        let what = format!("there is no {}: farshore {} list shows what there is", self.id, self.id.kind);
        SubmitError::NotFound { what }
    }

    fn name_taken(&self) -> SubmitError {
        let why = format!("the name {} is taken: choose another, or delete that one first", self.id);
        SubmitError::Refused { code: "name-taken", why, possible: Vec::new() }
    }

    async fn check_create(
        &self,
        region: &Region,
        loss: OnControlLoss,
        automatic: bool,
    ) -> Result<(), SubmitError> {
        let record = self.known_region(region).await?;
        if automatic && loss != OnControlLoss::Fence && !self.id.kind.is_shared() {
            let why = "automatic failover needs on_control_loss = \"fence\": nobody could know that an item that holds \
                       has stopped"
                .to_owned();
            return Err(SubmitError::Invalid { why });
        }
        let known = self.inner.book.regions().await?.len();
        if loss == OnControlLoss::Fence && known < FENCE_DOMAINS_MIN {
            let why = format!(
                "on_control_loss = \"fence\" needs {FENCE_DOMAINS_MIN} failure domains; this control plane knows {known}: \
                 use \"hold\""
            );
            return Err(SubmitError::Invalid { why });
        }
        self.reachable(&record.name).await
    }

    /// A region that has no room for an app says so before anything of it is made. One that cannot say is believed to have it: what
    /// it says to the order counts.
    async fn check_room(&self, region: &Region, spec: &Value) -> Result<(), SubmitError> {
        if self.id.kind != Kind::App {
            return Ok(());
        }
        let question = json!({ "ask": "room", "spec": spec });
        let asked = self.inner.agents.ask(region, self.id, &question);
        let answer = tokio::time::timeout(self.inner.options.observe_deadline, asked).await;
        let Ok(Ok(answer)) = answer else { return Ok(()) };
        let Some(why) = answer.get("no_room").and_then(Value::as_str) else { return Ok(()) };
        Err(SubmitError::Refused {
            code: "no-room",
            why: format!("{region} has no room for {}, so nothing was changed: {why}", self.id),
            possible: Vec::new(),
        })
    }

    async fn known_region(&self, region: &Region) -> Result<RegionRecord, SubmitError> {
        let regions = self.inner.book.regions().await?;
        if let Some(record) = regions.iter().find(|record| record.name == *region) {
            return Ok(record.clone());
        }
        let known: Vec<&str> = regions.iter().map(|record| record.name.as_str()).collect();
        Err(SubmitError::Invalid {
            why: format!("there is no region {region}; known regions: {}", known.join(", ")),
        })
    }

    async fn reachable(&self, region: &Region) -> Result<(), SubmitError> {
        let deadline = self.inner.options.observe_deadline;
        let known = tokio::time::timeout(deadline, self.inner.agents.known(region)).await;
        match known.unwrap_or_else(|_| Err(no_answer(region, deadline))) {
            Ok(_) => Ok(()),
            Err(error) => Err(unreachable(region, &error)),
        }
    }

    /// Looks at the regions that the command needs. Fills in what the plan needs and what a person left open.
    async fn check(&self, item: &Item, command: &mut Command) -> Result<Facts, SubmitError> {
        let mut facts = Facts { incarnation: self.inner.meta.incarnation, ..Facts::default() };
        for region in self.inner.book.regions().await? {
            let address = region.address_for(self.id.kind).to_owned();
            if !address.is_empty() {
                facts.addresses.insert(region.name, address);
            }
        }
        match command {
            Command::Protect { target, .. } => {
                self.known_region(target).await?;
                let (seen, target) = tokio::join!(self.look(&item.source), self.reachable(target));
                facts.shape = seen?.shape;
                target?;
            }
            Command::Failover { planned: true, source_is_down: true, .. } => {
                return Err(SubmitError::Invalid {
                    why: "a planned failover stops the source first, so it cannot be down: leave out --planned \
                          or --source-is-down"
                        .to_owned(),
                });
            }
            Command::Failover { planned, point, source_is_down } => {
                self.check_failover(item, *planned, point, *source_is_down).await?;
            }
            Command::Failback => {
                self.check_failover(item, true, &mut PointChoice::Latest, false).await?;
            }
            Command::TestFailover { point } => {
                let seen = self.look(target(item)?).await?;
                choose(point, &seen.points)?;
            }
            Command::ChangePoint { point } => {
                let seen = self.look(&item.source).await?;
                choose(point, &seen.points)?;
            }
            Command::Reprotect => self.check_reprotect(item).await?,
            Command::MarkPoint { name } => self.check_mark(item, name).await?,
            Command::CleanUp => drop(self.look(target(item)?).await?),
            Command::Commit | Command::Disable => drop(self.look(&item.source).await?),
            Command::DropDivergence => self.check_drop(item).await?,
            Command::Adopt { region, above, others_are_down } => {
                self.check_adopt(item, region, above, *others_are_down, &mut facts).await?;
            }
            // A region that is gone for good must not keep an item alive: its step can be skipped.
            Command::Create { .. } | Command::Delete => {}
        }
        Ok(facts)
    }

    async fn look(&self, region: &Region) -> Result<Observation, SubmitError> {
        match self.inner.observe(region, self.id).await {
            Ok(seen) => self.check_not_ahead(region, seen).await,
            Err(StepError::Unknown) => Err(SubmitError::Refused {
                code: "not-there",
                why: format!(
                    "region {region} does not know {}: was its data directory changed? see farshore status",
                    self.id
                ),
                possible: Vec::new(),
            }),
            Err(error) => Err(unreachable(region, &error)),
        }
    }

    /// A region that knows more than the store, which was restored, must not be given orders by it.
    async fn check_not_ahead(&self, region: &Region, seen: Observation) -> Result<Observation, SubmitError> {
        let Some(own) = self.inner.book.item(self.id).await? else { return Ok(seen) };
        let item = &own.value;
        if matches!(item.phase, Phase::NeedsUser { .. }) {
            return Ok(seen);
        }
        match ahead_of_store(item, self.inner.meta.incarnation, region, seen.token) {
            Some(Event::AheadOfStore { why }) => {
                Err(SubmitError::Refused { code: "ahead-of-store", why, possible: vec![Verb::Adopt] })
            }
            _ => Ok(seen),
        }
    }

    async fn check_failover(
        &self,
        item: &Item,
        planned: bool,
        point: &mut PointChoice,
        source_is_down: bool,
    ) -> Result<(), SubmitError> {
        // A failover that goes on after its point of no return asks nothing of the source.
        let stopped = matches!(item.phase, Phase::FailingOver { stage: Stage::Promoting, .. });
        // Where two regions may serve at once, it makes no difference what the source would say.
        let shared = item.id.kind.is_shared() && !planned;
        let asks_source = !stopped && !source_is_down && !shared;
        let look_at_source =
            async { if asks_source { self.inner.observe(&item.source, self.id).await.err() } else { None } };
        let (seen, source_error) = tokio::join!(self.look(target(item)?), look_at_source);
        let seen = seen?;
        choose(point, &seen.points)?;
        // Whether its source is lost or not: to stop it first would gain nothing.
        if let Some(why) = seen.cannot_promote.filter(|_| !stopped) {
            return Err(no_room(item, &why));
        }
        match source_error {
            // It fences itself: whoever does not answer is waited out.
            Some(_) if item.lease.is_some() && !planned => Ok(()),
            None => Ok(()),
            Some(error) => Err(source_unreachable(item, planned, &error)),
        }
    }

    async fn check_reprotect(&self, item: &Item) -> Result<(), SubmitError> {
        let old = target(item)?;
        match self.inner.observe(old, self.id).await {
            Ok(_) => {}
            Err(StepError::Unknown) => {
                return Err(SubmitError::Refused {
                    code: "old-copy-gone",
                    why: format!(
                        "region {old} keeps no copy of {} any more: disable it, then protect it again",
                        self.id
                    ),
                    possible: vec![Verb::Disable],
                });
            }
            Err(error) => return Err(unreachable(old, &error)),
        }
        drop(self.look(&item.source).await?);
        Ok(())
    }

    /// Until the old source follows again, the lost writes are a part of all that it has.
    async fn check_drop(&self, item: &Item) -> Result<(), SubmitError> {
        let Some(kept) = &item.divergence else { return Ok(()) };
        let seen = self.look(&kept.region).await?;
        let served = item.failover.as_ref().map(|report| report.promotion.point.watermark);
        if seen.role == Role::Fenced && served == Some(kept.divergence.after) {
            return Err(SubmitError::Refused {
                code: "not-reprotected",
                why: format!(
                    "region {} does not follow yet: reprotect {} first, then drop the writes that it alone has",
                    kept.region, self.id
                ),
                possible: vec![Verb::Reprotect],
            });
        }
        Ok(())
    }

    /// Looks at both regions: what they know, and that the chosen one can serve.
    async fn check_adopt(
        &self,
        item: &Item,
        active: &Region,
        above: &mut Epoch,
        others_are_down: bool,
        facts: &mut Facts,
    ) -> Result<(), SubmitError> {
        let chosen = self.look(active).await?;
        if !matches!(chosen.role, Role::Active | Role::Unconfirmed | Role::Fenced) {
            let why = format!(
                "region {active} only follows: what it has may be behind. Adopt the region that it follows, then fail over"
            );
            return Err(SubmitError::Refused { code: "only-follows", why, possible: vec![Verb::Adopt] });
        }
        *above = (*above).max(chosen.token.epoch);
        let pair = std::iter::once(&item.source).chain(&item.target);
        for other in pair.filter(|other| *other != active) {
            match self.inner.observe(other, self.id).await {
                Ok(seen) => {
                    *above = (*above).max(seen.token.epoch);
                    if seen.role == Role::Target {
                        facts.following.insert(other.clone());
                    }
                }
                Err(StepError::Unknown) => drop(facts.strangers.insert(other.clone())),
                Err(_) if others_are_down => {}
                Err(error) => {
                    let why = format!(
                        "region {other} cannot be reached ({error}), so it cannot be stopped: start its node, or, if you know \
                         that it is down, repeat with --others-are-down (this is recorded)"
                    );
                    return Err(SubmitError::Refused {
                        code: "region-unreachable",
                        why,
                        possible: vec![Verb::Adopt],
                    });
                }
            }
        }
        Ok(())
    }

    async fn check_mark(&self, item: &Item, name: &str) -> Result<(), SubmitError> {
        let fits = !name.trim().is_empty() && name.len() <= POINT_NAME_LEN_MAX;
        if !fits || name.chars().any(char::is_control) {
            return Err(SubmitError::Invalid {
                why: format!(
                    "a recovery point's name has 1 to {POINT_NAME_LEN_MAX} bytes and no control characters"
                ),
            });
        }
        let (source, seen) = tokio::join!(self.look(&item.source), self.look(target(item)?));
        drop(source?);
        let taken = seen?.points.iter().any(|point| point.name.as_deref() == Some(name));
        if taken {
            return Err(SubmitError::Refused {
                code: "name-taken",
                why: format!("{} has a recovery point named {name:?} already: choose another name", self.id),
                possible: Vec::new(),
            });
        }
        Ok(())
    }
}

/// The operator's word belongs in the audit.
fn word(command: &Command) -> &'static str {
    match command {
        Command::Failover { source_is_down: true, .. } => ", with the word that its source is down",
        Command::Adopt { others_are_down: true, .. } => ", with the word that the other region is down",
        _ => "",
    }
}

fn target(item: &Item) -> Result<&Region, SubmitError> {
    item.target.as_ref().ok_or_else(|| SubmitError::Refused {
        code: "no-target",
        why: format!("{} has no target region: protect it first", item.id),
        possible: item.next_actions(),
    })
}

/// Checks that the point is offered; a point's name is replaced by its id.
fn choose(choice: &mut PointChoice, points: &[Point]) -> Result<(), SubmitError> {
    let refuse = |why| Err(SubmitError::Refused { code: "no-such-point", why, possible: Vec::new() });
    match choice {
        PointChoice::Latest => Ok(()),
        PointChoice::LatestProcessed if points.is_empty() => {
            refuse("no recovery point is processed yet: choose latest".to_owned())
        }
        PointChoice::LatestProcessed => Ok(()),
        PointChoice::Id(id) => {
            let named = |point: &&Point| point.id == *id || point.name.as_ref() == Some(id);
            let Some(point) = points.iter().rev().find(named) else {
                return refuse(format!("there is no recovery point {id}; {}", newest(points)));
            };
            *choice = PointChoice::Id(point.id.clone());
            Ok(())
        }
        PointChoice::At(at) => match points.first() {
            Some(oldest) if oldest.at <= *at => Ok(()),
            Some(oldest) => refuse(format!(
                "no recovery point is as old as {at}; the oldest is {} of {}",
                oldest.id, oldest.at
            )),
            None => refuse("no recovery point is offered yet: choose latest".to_owned()),
        },
    }
}

fn newest(points: &[Point]) -> String {
    if points.is_empty() {
        return "none is offered yet: choose latest".to_owned();
    }
    let newest = points.iter().rev().take(POINTS_LISTED_MAX);
    let newest: Vec<String> = newest.map(|point| format!("{} of {}", point.id, point.at)).collect();
    format!("the newest: {}", newest.join(", "))
}

fn unreachable(region: &Region, error: &StepError) -> SubmitError {
    SubmitError::Refused {
        code: "region-unreachable",
        why: format!("region {region} cannot be reached ({error}): start its node and try again"),
        possible: Vec::new(),
    }
}

fn no_room(item: &Item, why: &str) -> SubmitError {
    let to = item.target.as_ref().map_or("its other region", Region::as_str);
    let why = format!("{to} could not run {}, so nothing was changed: {why}", item.id);
    SubmitError::Refused { code: "no-room", why, possible: Vec::new() }
}

fn source_unreachable(item: &Item, planned: bool, error: &StepError) -> SubmitError {
    let source = &item.source;
    let why = if planned {
        format!(
            "the source {source} cannot be reached ({error}), so it cannot be stopped first: if you know it is \
             down, run failover --source-is-down (this is recorded)"
        )
    } else {
        format!(
            "the source {source} cannot be reached ({error}): if you know it is down, repeat with \
             --source-is-down (this is recorded)"
        )
    };
    SubmitError::Refused { code: "source-unreachable", why, possible: vec![Verb::Failover] }
}

fn refused(refusal: Refusal) -> SubmitError {
    let why = refusal.to_string();
    let (code, possible) = match refusal {
        Refusal::NotNow { possible, .. } => ("not-now", possible),
        Refusal::TargetIsSource { .. } => ("target-is-source", Vec::new()),
        Refusal::AtHome { .. } => ("at-home", Vec::new()),
        Refusal::NotTowardHome { .. } => ("not-toward-home", Vec::new()),
        Refusal::NotOfThePair { .. } => ("not-of-the-pair", Vec::new()),
        Refusal::NoNamedPoints { .. } => ("no-named-points", Vec::new()),
        Refusal::PlannedWithPoint { .. } => return SubmitError::Invalid { why },
        Refusal::Unexpected { .. } => ("unexpected", Vec::new()),
    };
    SubmitError::Refused { code, why, possible }
}

pub(super) fn unavailable(error: &CommitError) -> SubmitError {
    SubmitError::Unavailable { why: error.to_string() }
}
