//! Real-time hubs: what only they have. All of it is asked of the region that serves the hub, through its agent.
//!
//! Must always hold: whoever is shown a secret, or changes one, is in the audit before it is shown; no secret is in the
//! audit, in a job, in the store or in a log.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::ApiState;
use super::access::Caller;
use super::body::Asked;
use super::paired::Paired;
use super::problem::{Problem, Refusals};
use super::views::{
    ConnectionStringView, DrainRequest, DrainView, EndpointWord, HandlerView, HandlersRequest, HandlersView,
    KeyWord, KeysView, MembersRequest, MembersView, NegotiateView, RegenerateRequest, RegionStatsView,
    StatsView, UserEventsView,
};

/// The kind, as paths and ids write it.
const KIND: &str = "realtime";
/// Connections closed a second when nobody says how many: ten thousand clients come home in under two minutes, and a small
/// server bears their coming.
const DRAIN_PER_SECOND: u32 = 100;
/// More would close everybody at once, which is what draining is there to avoid.
const DRAIN_PER_SECOND_MAX: u32 = 10_000;
/// Handlers of one hub: each event is held against all of them.
const HANDLERS_MAX: usize = 32;
/// Members of one pair: each send is repeated to all of them.
const MEMBERS_MAX: usize = 16;

/// Both access keys.
#[utoipa::path(get, path = "/api/v1/realtime/{name}/keys", tag = "realtime",
    security(("token" = ["contribute"])), params(("name" = String, Path)),
    responses((status = 200, body = KeysView), Refusals))]
pub(super) async fn keys(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<KeysView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&caller.name, |hub| format!("asked for the access keys of {hub}")).await?;
    Ok(Json(hub.ask_either(&json!({"ask": "keys"})).await?))
}

/// Makes one key anew. The old one opens nothing any more, in both regions.
#[utoipa::path(post, path = "/api/v1/realtime/{name}/keys/regenerate", tag = "realtime",
    security(("token" = ["contribute"])), request_body = RegenerateRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = KeysView), Refusals))]
pub(super) async fn regenerate(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<RegenerateRequest>,
) -> Result<Json<KeysView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    if let Some(key) = &asked.by.idempotency
        && state.steered.earlier(key)?
    {
        // Done before, and its answer was lost.
        return Ok(Json(hub.ask_active(&json!({"ask": "keys"})).await?));
    }
    let key = asked.body.key.as_str();
    hub.audit(&asked.by.who, |hub| format!("asked to make the {key} access key of {hub} anew")).await?;
    let keys = hub.ask_active(&json!({"ask": "regenerate", "key": key})).await?;
    if let Some(done) = asked.by.idempotency {
        state.steered.remember(done);
    }
    Ok(Json(keys))
}

/// Which connection string.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// With which key.
    #[serde(default)]
    which: KeyWord,
    /// To the pair, or to one region.
    #[serde(default)]
    of: EndpointWord,
    /// To the endpoint of this region; by default the active one.
    region: Option<String>,
}

#[derive(Deserialize)]
struct Endpoints {
    url: String,
    pair_url: String,
}

/// What an application is given instead of the one it has: endpoint and key in one text.
#[utoipa::path(get, path = "/api/v1/realtime/{name}/connection-string", tag = "realtime",
    security(("token" = ["contribute"])), params(("name" = String, Path), Which),
    responses((status = 200, body = ConnectionStringView), Refusals))]
pub(super) async fn connection_string(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
    caller: Caller,
) -> Result<Json<ConnectionStringView>, Problem> {
    let Query(which) = which.map_err(|error| Problem::invalid(error.body_text()))?;
    let hub = Paired::find(&state, KIND, &name).await?;
    let region = hub.region(which.region.as_deref())?;
    let key = which.which.as_str();
    hub.audit(&caller.name, |hub| format!("asked for a connection string of {hub} with the {key} key"))
        .await?;
    let endpoints = json!({"ask": "endpoints"});
    let Endpoints { url, pair_url } = match &which.region {
        Some(_) => hub.ask_in(region, &endpoints).await?,
        None => hub.ask_either(&endpoints).await?,
    };
    let keys: KeysView = hub.ask_either(&json!({"ask": "keys"})).await?;
    let endpoint = match which.of {
        EndpointWord::Pair => pair_url,
        EndpointWord::Region => url,
    };
    let key = match which.which {
        KeyWord::Primary => keys.primary,
        KeyWord::Secondary => keys.secondary,
    };
    let connection_string =
        format!("Endpoint={};AccessKey={key};Version=1.0;", endpoint.trim_end_matches('/'));
    Ok(Json(ConnectionStringView { connection_string }))
}

/// Who is told of the hub's events. May hold secrets in its URLs.
#[utoipa::path(get, path = "/api/v1/realtime/{name}/handlers", tag = "realtime",
    security(("token" = ["contribute"])), params(("name" = String, Path)),
    responses((status = 200, body = HandlersView), Refusals))]
pub(super) async fn handlers(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    caller: Caller,
) -> Result<Json<HandlersView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&caller.name, |hub| format!("asked for the event handlers of {hub}")).await?;
    let answer: HandlersAnswer = hub.ask_either(&json!({"ask": "handlers"})).await?;
    Ok(Json(answer.view()))
}

/// Says who is told of the hub's events, instead of those who were until now.
#[utoipa::path(put, path = "/api/v1/realtime/{name}/handlers", tag = "realtime",
    security(("token" = ["contribute"])), request_body = HandlersRequest, params(("name" = String, Path)),
    responses((status = 200, body = HandlersView), Refusals))]
pub(super) async fn set_handlers(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<HandlersRequest>,
) -> Result<Json<HandlersView>, Problem> {
    let handlers = asked.body.handlers;
    check_handlers(&handlers)?;
    let hub = Paired::find(&state, KIND, &name).await?;
    let count = handlers.len();
    hub.audit(&asked.by.who, |hub| format!("asked to give {hub} {count} event handlers")).await?;
    let handlers: Vec<Value> = handlers.iter().map(told).collect();
    let answer: HandlersAnswer =
        hub.ask_active(&json!({"ask": "set-handlers", "handlers": handlers})).await?;
    Ok(Json(answer.view()))
}

/// A handler as the region is told of it: which events are words, so that no list means something else.
fn told(handler: &HandlerView) -> Value {
    let user_events = match &handler.user_events {
        UserEventsView::Word(_) => json!("all"),
        UserEventsView::List(names) if names.is_empty() => json!("none"),
        UserEventsView::List(names) => json!({ "list": names }),
    };
    let auth = handler.bearer.as_ref().map_or(json!("none"), |token| json!({ "bearer": token }));
    json!({
        "url_template": handler.url_template,
        "user_events": user_events,
        "system_events": handler.system_events,
        "auth": auth,
    })
}

/// Handlers as a region tells of them.
#[derive(Deserialize)]
struct HandlersAnswer {
    handlers: Vec<HandlerAnswer>,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct HandlerAnswer {
    url_template: String,
    user_events: UserEventsAnswer,
    system_events: Vec<String>,
    #[serde(default)]
    auth: AuthAnswer,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum UserEventsAnswer {
    All,
    None,
    List(Vec<String>),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AuthAnswer {
    #[default]
    None,
    Bearer(String),
}

impl HandlersAnswer {
    fn view(self) -> HandlersView {
        let handlers = self.handlers.into_iter().map(HandlerAnswer::view).collect();
        HandlersView { handlers, warnings: self.warnings }
    }
}

impl HandlerAnswer {
    fn view(self) -> HandlerView {
        HandlerView {
            url_template: self.url_template,
            user_events: match self.user_events {
                UserEventsAnswer::All => UserEventsView::Word("*".to_owned()),
                UserEventsAnswer::None => UserEventsView::default(),
                UserEventsAnswer::List(names) => UserEventsView::List(names),
            },
            system_events: self.system_events,
            bearer: match self.auth {
                AuthAnswer::None => None,
                AuthAnswer::Bearer(token) => Some(token),
            },
        }
    }
}

fn check_handlers(handlers: &[HandlerView]) -> Result<(), Problem> {
    if handlers.len() > HANDLERS_MAX {
        return Err(Problem::invalid(format!("handlers: a hub has {HANDLERS_MAX} at most")));
    }
    for (at, handler) in handlers.iter().enumerate() {
        let url = &handler.url_template;
        if !url.starts_with("https://") && !url.starts_with("http://") {
            return Err(Problem::invalid(format!(
                "handlers[{at}].url_template: write https://HOST/PATH; {{hub}} and {{event}} are replaced"
            )));
        }
        if matches!(&handler.user_events, UserEventsView::Word(word) if word != "*") {
            return Err(Problem::invalid(format!(
                "handlers[{at}].user_events: write \"*\" or a list of names"
            )));
        }
        let known = ["connect", "connected", "disconnected"];
        if let Some(event) = handler.system_events.iter().find(|event| !known.contains(&event.as_str())) {
            return Err(Problem::invalid(format!(
                "handlers[{at}].system_events: there is no {event:?}; there are: {}",
                known.join(", ")
            )));
        }
    }
    Ok(())
}

/// Says which other servers of the same protocol belong to the pair, instead of those that did until now.
#[utoipa::path(put, path = "/api/v1/realtime/{name}/members", tag = "realtime",
    security(("token" = ["contribute"])), request_body = MembersRequest, params(("name" = String, Path)),
    responses((status = 200, body = MembersView), Refusals))]
pub(super) async fn set_members(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<MembersRequest>,
) -> Result<Json<MembersView>, Problem> {
    let members = asked.body.members;
    if members.len() > MEMBERS_MAX {
        return Err(Problem::invalid(format!("members: a pair has {MEMBERS_MAX} at most")));
    }
    let hub = Paired::find(&state, KIND, &name).await?;
    let count = members.len();
    hub.audit(&asked.by.who, |hub| format!("asked to give the pair of {hub} {count} other members")).await?;
    let _: Value = hub.ask_active(&json!({"ask": "set-members", "members": members})).await?;
    Ok(Json(MembersView { members: members.len() }))
}

/// Figures of both regions.
#[utoipa::path(get, path = "/api/v1/realtime/{name}/stats", tag = "realtime",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = StatsView), Refusals))]
pub(super) async fn stats(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<StatsView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let question = json!({"ask": "stats"});
    let asked = hub.pair().map(|region| {
        let (hub, question) = (&hub, &question);
        async move {
            let answer: Result<BTreeMap<String, Value>, Problem> = hub.ask_in(region, question).await;
            let (stats, error) = match answer {
                Ok(stats) => (stats, None),
                Err(problem) => (BTreeMap::new(), Some(problem.detail)),
            };
            RegionStatsView { region: region.to_string(), stats, error }
        }
    });
    Ok(Json(StatsView { regions: join_all(asked).await }))
}

/// Closes the connections of a region in paced batches.
#[utoipa::path(post, path = "/api/v1/realtime/{name}/drain", tag = "realtime",
    security(("token" = ["operate"])), request_body = DrainRequest,
    params(("name" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = DrainView), Refusals))]
pub(super) async fn drain(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    asked: Asked<DrainRequest>,
) -> Result<Json<DrainView>, Problem> {
    #[derive(Deserialize)]
    struct Closing {
        closing: u64,
    }
    let DrainRequest { region, per_second } = asked.body;
    let per_second = per_second.unwrap_or(DRAIN_PER_SECOND);
    if !(1..=DRAIN_PER_SECOND_MAX).contains(&per_second) {
        return Err(Problem::invalid(format!("per_second: give 1 to {DRAIN_PER_SECOND_MAX}")));
    }
    let hub = Paired::find(&state, KIND, &name).await?;
    let region = match &region {
        Some(_) => hub.region(region.as_deref())?,
        None => hub.item.target.as_ref().unwrap_or(&hub.item.source),
    };
    let what = format!("in {region}, {per_second} a second");
    hub.audit(&asked.by.who, |hub| format!("asked to close the connections of {hub} {what}")).await?;
    let Closing { closing } = hub.ask_in(region, &json!({"ask": "drain", "per_second": per_second})).await?;
    Ok(Json(DrainView { region: region.to_string(), closing }))
}

/// Where a client that asks now is sent.
#[utoipa::path(get, path = "/api/v1/realtime/{name}/negotiate", tag = "realtime",
    security(("token" = ["read"])), params(("name" = String, Path)),
    responses((status = 200, body = NegotiateView), Refusals))]
pub(super) async fn negotiate(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<NegotiateView>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    let advice: NegotiateView = hub.ask_either(&json!({"ask": "negotiate"})).await?;
    if advice.url.is_empty() {
        let detail =
            format!("no endpoint of {} is healthy: see farshore status {}", hub.item.id, hub.item.id);
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "nobody-healthy", detail));
    }
    Ok(Json(advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_comes_back_as_it_was_told() {
        for (user_events, bearer) in [
            (UserEventsView::Word("*".to_owned()), Some("t".to_owned())),
            (UserEventsView::List(vec!["a".to_owned()]), None),
            (UserEventsView::List(Vec::new()), None),
        ] {
            let system_events = vec!["connect".to_owned()];
            let one = HandlerView { url_template: "http://a".to_owned(), user_events, system_events, bearer };
            let answer: HandlersAnswer = serde_json::from_value(json!({"handlers": [told(&one)]})).unwrap();
            assert_eq!(answer.view().handlers, [one]);
        }
    }

    #[test]
    fn a_handler_says_where_and_what_for() {
        let handler = |url: &str, events: UserEventsView, system: &str| HandlerView {
            url_template: url.to_owned(),
            user_events: events,
            system_events: vec![system.to_owned()],
            bearer: None,
        };
        let all = || UserEventsView::Word("*".to_owned());
        let check = |one: HandlerView| check_handlers(&[one]).map_err(|problem| problem.detail);
        assert_eq!(check(handler("https://a/{event}", all(), "connect")), Ok(()));
        for (one, why) in [
            (handler("ftp://a", all(), "connect"), "handlers[0].url_template: write https://"),
            (
                handler("http://a", UserEventsView::Word("all".to_owned()), "connect"),
                "user_events: write \"*\"",
            ),
            (handler("http://a", all(), "joined"), "there is no \"joined\""),
        ] {
            let error = check(one).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let many: Vec<HandlerView> = (0..33).map(|_| handler("http://a", all(), "connect")).collect();
        assert!(check_handlers(&many).is_err());
    }
}
