//! The strategy between regions: which endpoint is healthy, which one a client is sent to, and calls that go to all.
//!
//! A pair's members are, in order, its own regions (the primary first) and endpoints of other servers of the protocol.
//!
//! Read in this order: this file, `verdict` (what rounds of probing make of a member), `place` (how a member is asked),
//! `probe` (one look at it), `member` (the looking), `invite` (what a client is told), `wire` (calls as requests), `answers`
//! (one answer of many), `tell` (calls to all members at once).
//!
//! Must always hold: a member is healthy only when a message goes through it from end to end; one that is known not to work
//! is not waited for; a message has one id at all members.

mod answers;
mod invite;
mod member;
mod place;
pub(crate) mod probe;
mod tell;
mod verdict;
mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use farshore_core::ids::Region;
use farshore_core::moment::Moment;
use futures_util::future::join_all;
use http::{HeaderMap, Response};
use http_body_util::Full;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::admission::Admission;
use crate::live::{LiveHub, now};
use crate::names::UserId;
use crate::negotiate::{Choice, Course, Endpoint, RETRY_SPREAD_SECONDS, negotiate};
use crate::token::ConnectionString;
use invite::{Caller, Goal};
use member::Member;
use place::Place;
pub use probe::PROBE_CLAIM;
use verdict::State;

/// How often this region's own state is noted, and changed settings are followed.
const NOTE_EVERY: Duration = Duration::from_millis(500);
/// A client waits this long for a fresh look at the member that it would be sent to.
const LOOK_MAX: Duration = Duration::from_millis(300);
/// Clients are advised to spread over this in calm times: the official ones have no jitter of their own.
const CALM_SPREAD_MS: u64 = 200;
/// And over this after a failover: nine thousand clients are then within what a region admits.
const STORM_SPREAD_MS: u64 = 3_000;
/// A failover's storm is over after this.
const STORM_MAX: Duration = Duration::from_secs(15);

/// The other region of a pair.
#[derive(Debug, Clone)]
pub struct PairPartner {
    /// Its name.
    pub region: Region,
    /// Base URL of its own endpoint, without a slash at its end.
    pub url: String,
    /// How to know it, where its URL is https.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// What a pair is made of.
#[derive(Debug)]
pub struct PairOptions {
    /// This region.
    pub here: Region,
    /// The hub in this region.
    pub hub: Arc<LiveHub>,
    /// Base URL of this region's own endpoint, without a slash at its end.
    pub own_url: String,
    /// The other region, if there is one.
    pub partner: Option<PairPartner>,
    /// The active region, as known here.
    pub primary: watch::Receiver<Region>,
}

/// A request to negotiate, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub struct PairContext<'a> {
    /// Decoded query parameters.
    pub query: &'a [(String, String)],
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The time of the request.
    pub now: Moment,
}

/// Where new clients are sent now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Base URL of the endpoint; empty when nobody is healthy.
    pub url: String,
    /// Its region, or its name where it is none of ours; empty when nobody is healthy.
    pub region: String,
    /// It is the one that is preferred while all are healthy.
    pub primary: bool,
}

/// How one member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberHealth {
    /// Its region, or the host of an endpoint that is none of ours.
    pub name: String,
    /// Base URL of its endpoint.
    pub url: String,
    /// It is the one that is preferred while all are healthy.
    pub primary: bool,
    /// A message went through, from end to end.
    pub healthy: bool,
    /// What makes us think so.
    pub why: String,
    /// Since when it is so.
    pub since: Moment,
    /// How long the last message took.
    pub latency_ms: Option<u64>,
}

/// A hub's endpoints in all regions, watched from this one.
#[derive(Debug)]
pub struct Pair {
    here: Region,
    hub: Arc<LiveHub>,
    own_url: String,
    primary: watch::Receiver<Region>,
    partner: Option<Arc<Member>>,
    /// How fast callers are answered: those whose token was believed, and all others.
    admission: [Admission; 2],
    noted: Mutex<Noted>,
}

/// What changes by itself.
#[derive(Debug)]
struct Noted {
    /// This region works, since when.
    own: (bool, Moment),
    /// For these settings …
    ways: Vec<ConnectionString>,
    /// … these members.
    foreign: Vec<Arc<Member>>,
    /// Where clients are sent, and when that changed last.
    leader: Option<String>,
    led_since: Option<Instant>,
}

/// One member, as a negotiation sees it.
#[derive(Debug, Clone)]
struct View {
    name: String,
    url: String,
    region: Option<Region>,
    healthy: bool,
    why: String,
    since: Moment,
    took: Option<Duration>,
    /// None: this region.
    member: Option<Arc<Member>>,
}

/// A user that no client is.
fn nobody() -> UserId {
    UserId::parse("farshore-probe-nobody").expect("letters and hyphens are a user id")
}

impl Pair {
    /// Begins to watch the members; ends when the last handle is dropped.
    #[must_use]
    pub fn spawn(options: PairOptions) -> Arc<Self> {
        let PairOptions { here, hub, own_url, partner, primary } = options;
        let partner = partner.map(|PairPartner { region, url, tls }| {
            Member::spawn(Place::of_region(region, &url, tls, Arc::clone(&hub)))
        });
        let own = (hub.is_serving(), now());
        let noted = Noted { own, ways: Vec::new(), foreign: Vec::new(), leader: None, led_since: None };
        let pair = Arc::new(Self {
            here,
            hub,
            own_url: own_url.trim_end_matches('/').to_owned(),
            primary,
            partner,
            admission: Default::default(),
            noted: Mutex::new(noted),
        });
        pair.note();
        tokio::spawn(keep_noting(Arc::downgrade(&pair)));
        pair
    }

    /// The partner region does not work, from end to end, or refuses connections.
    #[must_use]
    pub fn partner_is_lost(&self) -> bool {
        self.partner.as_ref().is_some_and(|partner| partner.state() == State::Lost)
    }

    /// The partner region works, from end to end.
    #[must_use]
    pub fn partner_is_healthy(&self) -> bool {
        self.partner.as_ref().is_some_and(|partner| partner.state() == State::Healthy)
    }

    /// The regions of the hub, as they are now.
    #[must_use]
    pub fn course(&self) -> Course {
        let partner = self.partner.as_ref().and_then(|partner| partner.place.region.clone());
        Course { partner, primary: self.primary.borrow().clone() }
    }

    /// Answers `GET /negotiate?hub=…`: 200 with an endpoint, 503 with `Retry-After` when nobody is healthy or too many ask,
    /// 401 for a token that is not believed.
    pub async fn negotiate(&self, hub: &Arc<LiveHub>, context: &PairContext<'_>) -> Response<Full<Bytes>> {
        let settings = hub.settings();
        let caller = match invite::caller(context, &settings, &self.own_url) {
            Ok(caller) => caller,
            Err(refused) => return invite::refusal(&refused),
        };
        // Strangers wait behind strangers.
        let [believed, others] = &self.admission;
        let admission = if matches!(caller, Caller::Anonymous) { others } else { believed };
        if let Err(again) = admission.enter().await {
            let seconds = again.0.as_secs() + 1 + rand::random::<u64>() % RETRY_SPREAD_SECONDS;
            return invite::later(seconds, "many clients are asking: come again");
        }
        let client = rand::random();
        match self.choose_surely(client).await {
            Ok(goal) => invite::invitation(&goal, &caller, context.now, client % self.spread_ms()),
            Err(wait) => invite::later(wait.as_secs(), "no endpoint of this hub is healthy now: come again"),
        }
    }

    /// Where new clients are sent now.
    #[must_use]
    pub fn advice(&self) -> Advice {
        let views = self.views();
        match self.choose(&views, 0) {
            Ok((view, primary)) => Advice { url: view.url.clone(), region: view.name.clone(), primary },
            Err(_) => Advice { url: String::new(), region: String::new(), primary: false },
        }
    }

    /// How each member is, in order.
    #[must_use]
    pub fn health(&self) -> Vec<MemberHealth> {
        let primary = self.primary.borrow().clone();
        let health = |view: View| MemberHealth {
            primary: view.region.as_ref() == Some(&primary),
            name: view.name,
            url: view.url,
            healthy: view.healthy,
            why: view.why,
            since: view.since,
            latency_ms: view.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        };
        self.views().into_iter().map(health).collect()
    }

    /// All members that are reached over the network.
    fn remote(&self) -> Vec<Arc<Member>> {
        self.follow_settings();
        self.partner.iter().chain(&self.noted().foreign).map(Arc::clone).collect()
    }

    /// All members, in order.
    fn views(&self) -> Vec<View> {
        self.follow_settings();
        let works = tell::own_answers(&self.hub, now());
        let mut noted = self.noted();
        if noted.own.0 != works {
            noted.own = (works, now());
        }
        let own = View {
            name: self.here.to_string(),
            url: self.own_url.clone(),
            region: Some(self.here.clone()),
            healthy: works,
            why: if works { "it serves" } else { "it serves nobody here now" }.to_owned(),
            since: noted.own.1,
            took: None,
            member: None,
        };
        let foreign: Vec<View> = noted.foreign.iter().map(View::of).collect();
        drop(noted);
        let mut views: Vec<View> = std::iter::once(own).chain(self.partner.as_ref().map(View::of)).collect();
        let primary = self.primary.borrow().clone();
        views.sort_by_key(|view| view.region.as_ref() != Some(&primary));
        views.extend(foreign);
        views
    }

    /// Endpoints of other servers come and go with the settings.
    fn follow_settings(&self) {
        let settings = self.hub.settings();
        let mut noted = self.noted();
        if noted.ways == settings.members {
            return;
        }
        let known: Vec<_> =
            noted.ways.drain(..).collect::<Vec<_>>().into_iter().zip(noted.foreign.drain(..)).collect();
        for way in &settings.members {
            let kept = known.iter().find(|(old, _)| old == way).map(|(_, member)| Arc::clone(member));
            let new = || Member::spawn(Place::foreign(way, Arc::clone(&self.hub)));
            noted.foreign.push(kept.unwrap_or_else(new));
            noted.ways.push(way.clone());
        }
    }

    /// Whom a client is sent to, and whether that is where it belongs. `Err`: nobody is healthy; come again after this.
    fn choose<'a>(&self, views: &'a [View], client: u64) -> Result<(&'a View, bool), Duration> {
        let endpoint = |(at, view): (usize, &View)| Endpoint {
            region: view.region.clone().unwrap_or_else(|| stranger(at)),
            url: view.url.clone(),
            healthy: view.healthy,
        };
        let endpoints: Vec<Endpoint> = views.iter().enumerate().map(endpoint).collect();
        let sharing = self.hub.settings().sharing;
        let (chosen, primary) = match negotiate(sharing, &endpoints, &self.here, client) {
            Choice::Primary(chosen) => (chosen, true),
            Choice::Secondary(chosen) => (chosen, false),
            Choice::Nobody { retry_after } => return Err(retry_after),
        };
        let at = endpoints.iter().position(|endpoint| std::ptr::eq(endpoint, chosen));
        let at = at.expect("what was chosen is one of the endpoints");
        Ok((&views[at], primary))
    }

    /// As [`Pair::choose`], after a look at a member whose verdict has grown old.
    async fn choose_surely(&self, client: u64) -> Result<Goal, Duration> {
        let views = self.views();
        let chosen = self.choose(&views, client);
        let stale: Vec<Arc<Member>> = match chosen {
            Ok((view, _)) => view.member.iter().filter(|member| !member.seen().is_fresh()).cloned().collect(),
            Err(_) => self.remote().into_iter().filter(|member| !member.seen().is_fresh()).collect(),
        };
        if stale.is_empty() {
            return chosen.map(|(view, primary)| self.goal(view, primary));
        }
        join_all(stale.iter().map(|member| member.look_within(LOOK_MAX))).await;
        let views = self.views();
        let mut surer = views.clone();
        for view in &mut surer {
            view.healthy &= view.member.as_ref().is_none_or(|member| {
                member.seen().is_fresh() || !stale.iter().any(|stale| Arc::ptr_eq(stale, member))
            });
        }
        // Somebody who was healthy a second ago is better than nobody.
        let chosen = self.choose(&surer, client).or_else(|_| self.choose(&views, client));
        chosen.map(|(view, primary)| self.goal(view, primary))
    }

    fn goal(&self, view: &View, primary: bool) -> Goal {
        let key = match &view.member {
            Some(member) => member.place.keys().swap_remove(0),
            None => self.hub.settings().keys.primary.clone(),
        };
        let audience = place::audience(&view.url, self.hub.name());
        Goal { name: view.name.clone(), audience, key, primary }
    }

    /// Over what clients are advised to spread.
    fn spread_ms(&self) -> u64 {
        let calm = self.noted().led_since.is_none_or(|since| since.elapsed() > STORM_MAX);
        if calm { CALM_SPREAD_MS } else { STORM_SPREAD_MS }
    }

    /// Notes how things are.
    fn note(&self) {
        let views = self.views();
        let leader = self.choose(&views, 0).ok().map(|(view, _)| view.name.clone());
        let mut noted = self.noted();
        if leader.is_some() && noted.leader != leader {
            let first = noted.leader.is_none();
            noted.leader = leader;
            noted.led_since = (!first).then(Instant::now);
        }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View {
    fn of(member: &Arc<Member>) -> Self {
        let verdict = member.seen().verdict;
        Self {
            name: member.place.name.clone(),
            url: member.place.url.clone(),
            region: member.place.region.clone(),
            healthy: verdict.state == State::Healthy,
            why: verdict.why,
            since: verdict.since,
            took: verdict.took,
            member: Some(Arc::clone(member)),
        }
    }
}

/// A name for an endpoint that is in no region of ours. Regions of ours come first, should one have the same name.
fn stranger(at: usize) -> Region {
    Region::parse(&format!("member-{at}")).expect("letters, a hyphen and digits are a region's name")
}

/// Ends when the pair does.
async fn keep_noting(pair: Weak<Pair>) {
    while let Some(pair) = pair.upgrade() {
        pair.note();
        drop(pair);
        tokio::time::sleep(NOTE_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
