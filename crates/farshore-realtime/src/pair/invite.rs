//! What a client is told when it asks where to go: the answer to `GET /negotiate?hub=…`.
//!
//! Who may ask for what:
//! - with a token signed by a key of the hub for this URL (`aud` is `…/negotiate`): an application's server. `userId`, `role`
//!   and `group` of the query become those of the client's token, which is in the answer.
//! - with a client's own token (`aud` is `…/client/hubs/HUB`): the same claims until the same end, for the endpoint that is
//!   chosen. The query adds nothing: a client cannot give itself roles.
//! - without a token: the endpoint only. The application gives the token.
//!
//! Forwarding headers are not believed.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use farshore_core::moment::Moment;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::{Map, Value};

use super::PairContext;
use super::place::ws_of;
use crate::live::Settings;
use crate::names::{GroupName, UserId};
use crate::query;
use crate::rest::percent::encode;
use crate::token::{self, AccessKey};

/// A client's token is for connecting at once; an hour leaves room for reconnecting.
const TOKEN_MINUTES: u32 = 60;
/// A client's token becomes one for another endpoint; no parameter may be longer than a token.
const WISHES_MAX: usize = 1_000;

/// Who asks.
#[derive(Debug)]
pub(super) enum Caller {
    /// Anybody.
    Anonymous,
    /// An application's server, for a client of its own.
    Server(Wish),
    /// A client, with what its token says.
    Client(Map<String, Value>),
}

/// What the client's token shall say.
#[derive(Debug, Default)]
pub(super) struct Wish {
    user: Option<UserId>,
    roles: Vec<String>,
    groups: Vec<GroupName>,
}

/// A refusal: status and reason.
pub(super) type Refusal = (StatusCode, String);

/// Finds out who asks. `own_url` is another base URL of this endpoint.
pub(super) fn caller(
    context: &PairContext<'_>,
    settings: &Settings,
    own_url: &str,
) -> Result<Caller, Refusal> {
    let Some(text) = token_of(context) else { return Ok(Caller::Anonymous) };
    let refused = |error: token::TokenError| (StatusCode::UNAUTHORIZED, error.to_string());
    let bases = bases(context.headers, settings, own_url);
    let urls = |path: &str| bases.iter().map(|base| format!("{base}{path}")).collect::<Vec<_>>();
    let for_server = urls("/negotiate");
    let believed = |urls: &[String]| {
        let fits = |audience: &str| token::rest_audience_ok(&http_of(audience), urls);
        token::verify(text, &settings.keys, context.now, fits)
    };
    match believed(&for_server) {
        Ok(_) => wish(context.query).map(Caller::Server),
        Err(token::TokenError::Audience) => {
            let for_client = urls(&format!("/client/hubs/{}", encode(settings.hub.as_str())));
            believed(&for_client).map_err(refused)?;
            Ok(Caller::Client(payload(text).unwrap_or_default()))
        }
        Err(error) => Err(refused(error)),
    }
}

fn token_of<'a>(context: &PairContext<'a>) -> Option<&'a str> {
    let bearer = || {
        let (scheme, token) = context.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    };
    query::get(context.query, "access_token").or_else(bearer)
}

fn bases(headers: &HeaderMap, settings: &Settings, own_url: &str) -> Vec<String> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let here = host.into_iter().flat_map(|host| [format!("http://{host}"), format!("https://{host}")]);
    here.chain([own_url.to_owned()]).chain(settings.audiences.iter().cloned()).collect()
}

/// The same place as `ws` or `http`.
fn http_of(url: &str) -> String {
    url.replacen("ws", "http", usize::from(url.starts_with("ws")))
}

fn wish(parameters: &[(String, String)]) -> Result<Wish, Refusal> {
    let bad = |name: &str, why: &str| (StatusCode::BAD_REQUEST, format!("{name}: {why}"));
    let mut wish = Wish::default();
    for (name, value) in parameters.iter().take(WISHES_MAX) {
        match name.as_str() {
            "userId" if value.is_empty() => {}
            "userId" => {
                let user = UserId::parse(value).map_err(|error| bad("userId", &error.to_string()))?;
                wish.user = Some(user);
            }
            "role" => wish.roles.push(value.clone()),
            "group" => {
                let group = GroupName::parse(value).map_err(|error| bad("group", &error.to_string()))?;
                wish.groups.push(group);
            }
            _ => {}
        }
    }
    Ok(wish)
}

/// The second part of a token that was verified.
fn payload(token: &str) -> Option<Map<String, Value>> {
    let part = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The token for a client of the endpoint with this audience; none for nobody in particular.
fn token_for(caller: &Caller, audience: &str, key: &AccessKey, now: Moment) -> Option<String> {
    match caller {
        Caller::Anonymous => None,
        Caller::Server(Wish { user, roles, groups }) => {
            Some(token::client_token(audience, user.as_ref(), roles, groups, now, TOKEN_MINUTES, key))
        }
        Caller::Client(claims) => {
            let mut claims = claims.clone();
            claims.insert("aud".to_owned(), audience.into());
            Some(token::sign(&Value::Object(claims), key))
        }
    }
}

/// The answer to `/negotiate`. Fields are only ever added.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Invitation<'a> {
    url: String,
    base_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// A region, or the host of somebody else's endpoint.
    region: &'a str,
    primary: bool,
    /// A client that waits this long before it connects meets no crowd.
    retry_after_ms: u64,
}

/// Where a client is sent.
#[derive(Debug, Clone)]
pub(super) struct Goal {
    pub(super) name: String,
    /// What tokens of its clients are made for.
    pub(super) audience: String,
    pub(super) key: AccessKey,
    pub(super) primary: bool,
}

pub(super) fn invitation(goal: &Goal, caller: &Caller, now: Moment, wait_ms: u64) -> Response<Full<Bytes>> {
    let token = token_for(caller, &goal.audience, &goal.key, now);
    let base_url = ws_of(&goal.audience);
    let url = match &token {
        Some(token) => format!("{base_url}?access_token={token}"),
        None => base_url.clone(),
    };
    let (region, primary) = (goal.name.as_str(), goal.primary);
    json(StatusCode::OK, &Invitation { url, base_url, token, region, primary, retry_after_ms: wait_ms })
}

#[derive(Debug, Serialize)]
struct RefusalView<'a> {
    code: &'a str,
    message: &'a str,
}

/// What a caller is told who is not believed or asks for what there is not.
pub(super) fn refusal((status, message): &Refusal) -> Response<Full<Bytes>> {
    let code = if *status == StatusCode::UNAUTHORIZED { "Error.Unauthorized" } else { "Error.BadRequest" };
    let mut answer = json(*status, &RefusalView { code, message });
    if *status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Come again after so many seconds.
pub(super) fn later(seconds: u64, message: &str) -> Response<Full<Bytes>> {
    let view = RefusalView { code: "Error.ServiceUnavailable", message };
    let mut answer = json(StatusCode::SERVICE_UNAVAILABLE, &view);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(body).expect("our own views have text keys only");
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    // There may be a token in it, and tomorrow's answer is another.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
