//! A request from its head to its answer: read, find the hub, believe the token, read the body, ask, answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farshore_core::moment::Moment;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Body;

use super::error::{Absent, RestError};
use super::operation::{Action, Operation, Page, Sending, TokenWish};
use super::{answer, body, metadata};
use crate::frames::{Message, Sender};
use crate::hub::call::{Answer, Call, Scope};
use crate::live::{AskError, LiveHub};
use crate::names::HubName;
use crate::negotiate::Course;
use crate::token::{self, TokenError};

/// What a request is answered with beside the hubs: where it came in, and when.
pub struct RestContext<'a> {
    /// The base URLs of this endpoint, without a slash at the end: first the one that the caller used (see [`base_url`]),
    /// then the configured equivalents. A hub may know more of its own.
    pub base_urls: Vec<String>,
    /// Who carries calls out. `None`: the hub in this region.
    pub broadcast: Option<&'a dyn Broadcast>,
    /// The time of the request.
    pub now: Moment,
}

impl std::fmt::Debug for RestContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let via = if self.broadcast.is_some() { "the pair" } else { "the hub" };
        f.debug_struct("RestContext")
            .field("base_urls", &self.base_urls)
            .field("asks", &via)
            .finish_non_exhaustive()
    }
}

/// The hubs that a listener answers for.
pub trait Hubs: Sync {
    /// The hub of that name, in whatever case.
    fn named(&self, name: &str) -> Option<Arc<LiveHub>>;
    /// All of them.
    fn every(&self) -> Vec<Arc<LiveHub>>;
    /// The regions that the hub is in, where that is known.
    fn course(&self, _name: &HubName) -> Option<Course> {
        None
    }
}

impl<H: Hubs + Send + ?Sized> Hubs for Arc<H> {
    fn named(&self, name: &str) -> Option<Arc<LiveHub>> {
        H::named(self, name)
    }
    fn every(&self) -> Vec<Arc<LiveHub>> {
        H::every(self)
    }
    fn course(&self, name: &HubName) -> Option<Course> {
        H::course(self, name)
    }
}

/// Carries calls out in more than one place. It is asked only for calls whose token was verified.
#[async_trait]
pub trait Broadcast: Send + Sync {
    /// Asks every healthy endpoint of `hub`, and makes one answer of theirs.
    ///
    /// # Errors
    /// When no endpoint could be asked.
    async fn ask(&self, hub: &Arc<LiveHub>, call: Call) -> Result<Told, AskError>;
}

/// The answer of more than one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// For the caller.
    pub answer: Answer,
    /// What each endpoint did, for the header [`ENDPOINTS`]: `paris=done, oslo=unreachable`. Printable ASCII.
    pub report: Option<String>,
}

/// The header that says what each endpoint did.
pub const ENDPOINTS: &str = "x-farshore-endpoints";

/// Answers one request to the hubs of this node. Never fails: what goes wrong is an answer too.
pub async fn serve<B>(
    hubs: &impl Hubs,
    request: Request<B>,
    context: &RestContext<'_>,
) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let answered = answered(hubs, &head, body, context).await;
    answer::finish(&head.method, answered.unwrap_or_else(|error| answer::refusal(&error)))
}

/// `scheme://host` as the caller wrote it: from the request's URL or its `Host`. `None`: neither names a host.
#[must_use]
pub fn base_url(scheme: &str, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = || headers.get(HOST)?.to_str().ok()?.parse::<Authority>().ok();
    let authority = uri.authority().cloned().or_else(host)?;
    // A name or password in it is no part of where we are.
    let (_, place) = authority.as_str().rsplit_once('@').unwrap_or(("", authority.as_str()));
    Some(format!("{scheme}://{place}"))
}

async fn answered<B>(
    hubs: &impl Hubs,
    head: &Parts,
    body: B,
    context: &RestContext<'_>,
) -> Result<Response<Full<Bytes>>, RestError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (name, action) = match Operation::parse(&head.method, head.uri.path(), head.uri.query())? {
        Operation::Health => return health(&hubs.every()),
        Operation::Hub { hub, action } => (hub, action),
    };
    let hub = hubs.named(name.as_str()).ok_or_else(|| RestError::Hub(name.to_string()))?;
    authorize(head, &hub, context)?;
    let asked = Asked { hub, head, context };
    asked.act(action, body).await
}

/// A region that has hubs and serves none of them is not healthy; one without hubs waits for its first.
fn health(hubs: &[Arc<LiveHub>]) -> Result<Response<Full<Bytes>>, RestError> {
    if hubs.is_empty() || hubs.iter().any(|hub| hub.is_serving()) {
        return Ok(answer::empty(StatusCode::OK));
    }
    Err(RestError::NotServing("no hub is served here now: ask the other region".to_owned()))
}

/// Believes the caller, or not.
fn authorize(head: &Parts, hub: &LiveHub, context: &RestContext<'_>) -> Result<(), RestError> {
    let settings = hub.settings();
    let path = head.uri.path();
    let urls: Vec<String> =
        context.base_urls.iter().chain(&settings.audiences).map(|base| format!("{base}{path}")).collect();
    let token = bearer(&head.headers)?;
    let audience_ok = |audience: &str| token::rest_audience_ok(audience, &urls);
    token::verify(token, &settings.keys, context.now, audience_ok)
        .map(drop)
        .map_err(|error: TokenError| RestError::Unauthorized(error.to_string()))
}

fn bearer(headers: &HeaderMap) -> Result<&str, RestError> {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => {
            let message = "no token: send 'Authorization: Bearer …', signed with an access key of the hub";
            Err(RestError::Unauthorized(message.to_owned()))
        }
    }
}

/// One believed request.
struct Asked<'a> {
    hub: Arc<LiveHub>,
    head: &'a Parts,
    context: &'a RestContext<'a>,
}

impl Asked<'_> {
    async fn act<B>(&self, action: Action, body: B) -> Result<Response<Full<Bytes>>, RestError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match action {
            Action::Ask(call) => self.ask(call).await,
            Action::Send(send) => {
                let call = self.message(send, body).await?;
                self.ask(call).await
            }
            Action::AddToGroups => {
                let (groups, filter) = body::groups(&self.head.headers, body).await?;
                self.ask(Call::AddToGroups { groups, filter }).await
            }
            Action::RemoveFromGroups => {
                let (groups, filter) = body::groups(&self.head.headers, body).await?;
                self.ask(Call::RemoveFromGroups { groups, filter }).await
            }
            Action::Members(page) => self.members(&page).await,
            Action::GenerateToken(wish) => Ok(self.token(&wish)),
            Action::Nobody(StatusCode::NOT_FOUND) => Err(RestError::Absent(Absent::Connection)),
            Action::Nobody(status) => Ok(answer::empty(status)),
        }
    }

    async fn ask(&self, call: Call) -> Result<Response<Full<Bytes>>, RestError> {
        let (done, absent) = outcome(&call);
        let told = self.told(call).await?;
        match (told.answer, absent) {
            (Answer::No | Answer::NotFound, Some(absent)) => Err(RestError::Absent(absent)),
            _ => Ok(answer::reported(answer::empty(done), told.report.as_deref())),
        }
    }

    async fn told(&self, call: Call) -> Result<Told, RestError> {
        let told = match self.context.broadcast {
            Some(pair) => pair.ask(&self.hub, call).await,
            None => self.hub.ask(call).await.map(|answer| Told { answer, report: None }),
        };
        told.map_err(|error: AskError| RestError::NotServing(error.to_string()))
    }

    async fn message<B>(&self, send: Sending, body: B) -> Result<Call, RestError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let headers = &self.head.headers;
        let kind = body::kind(headers)?;
        let (metadata, id) = (metadata::metadata(headers)?, metadata::message_id(headers)?);
        let data = body::data(kind, body::read(headers, body).await?)?;
        let wait = |seconds| self.context.now.after(Duration::from_secs(u64::from(seconds)));
        let mut message = Message::new(sender(&send.to), data);
        message.metadata = metadata;
        message.id = id;
        message.expires = send.ttl_seconds.map(wait);
        Ok(Call::Send { to: send.to, message: Arc::new(message), exclude: send.exclude, filter: send.filter })
    }

    async fn members(&self, page: &Page) -> Result<Response<Full<Bytes>>, RestError> {
        let size = page.size.min(page.top.unwrap_or(page.size)) as usize;
        // One more than fits tells whether there is another page.
        let call = Call::Members { group: page.group.clone(), after: page.after.clone(), limit: size + 1 };
        let told = self.told(call).await?;
        let Answer::Members(members) = told.answer else {
            return Err(RestError::NotServing("the members of the group are not known here now".to_owned()));
        };
        let own = self.context.base_urls.first().map_or("", String::as_str);
        let here = format!("{own}{}", self.head.uri.path());
        Ok(answer::reported(answer::page(&members, size, page, &here), told.report.as_deref()))
    }

    fn token(&self, wish: &TokenWish) -> Response<Full<Bytes>> {
        let own = self.context.base_urls.first().map_or("", String::as_str);
        let endpoint = format!("{own}/client/hubs/{}", self.hub.name());
        let (user, now) = (wish.user.as_ref(), self.context.now);
        let key = &self.hub.settings().keys.primary;
        let token = token::client_token(&endpoint, user, &wish.roles, &wish.groups, now, wish.minutes, key);
        answer::json(StatusCode::OK, &serde_json::json!({ "token": token }))
    }
}

/// A message to a group comes from the group, whoever sent it; only a client's says who that was.
fn sender(to: &Scope) -> Sender {
    match to {
        Scope::Group(group) => Sender::Group { group: group.clone(), user: None },
        Scope::All | Scope::User(_) | Scope::Connection(_) => Sender::Server,
    }
}

/// The status when a call is done, and what does not exist when it cannot be.
fn outcome(call: &Call) -> (StatusCode, Option<Absent>) {
    match call {
        Call::Send { .. } => (StatusCode::ACCEPTED, None),
        Call::AddToGroups { .. } | Call::RemoveFromGroups { .. } | Call::Members { .. } => {
            (StatusCode::OK, None)
        }
        Call::Exists(Scope::User(_)) | Call::UserJoin { .. } => (StatusCode::OK, Some(Absent::User)),
        Call::Exists(Scope::Group(_) | Scope::All) => (StatusCode::OK, Some(Absent::Group)),
        Call::Exists(Scope::Connection(_)) | Call::Join { .. } | Call::Grant { .. } => {
            (StatusCode::OK, Some(Absent::Connection))
        }
        Call::Has { .. } => (StatusCode::OK, Some(Absent::Permission)),
        Call::Close { .. }
        | Call::Leave { .. }
        | Call::LeaveAll { .. }
        | Call::UserLeave { .. }
        | Call::UserLeaveAll { .. }
        | Call::Revoke { .. } => (StatusCode::NO_CONTENT, None),
    }
}

#[cfg(test)]
mod hub_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod wire_tests;
