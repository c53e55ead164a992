//! Calls as requests to another server, and its answers as ours. Pure.

use bytes::Bytes;
use farshore_core::moment::Moment;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

use crate::filter::Filter;
use crate::frames::{Data, Message};
use crate::hub::call::{Answer, Call, Member, Scope};
use crate::names::{ConnectionId, GroupName, UserId};
use crate::permission::Permission;
use crate::query;
use crate::rest::metadata::MESSAGE_ID;
use crate::rest::percent::encode;

/// The newest version of the interface that all servers of the protocol speak.
const API_VERSION: &str = "2024-12-01";
/// The protocol's.
pub(super) const PAGE_SIZE_MAX: usize = 200;
/// The protocol's longest time to live.
const TTL_SECONDS_MAX: u64 = 300;

/// One request, without the way to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wire {
    pub(super) method: Method,
    /// What comes behind `/api/hubs/HUB`, with the query.
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    /// Its type, and the body.
    pub(super) body: Option<(&'static str, Bytes)>,
}

impl Wire {
    fn new(method: Method, path: &str, parameters: &[(&str, &str)]) -> Self {
        let mut path = format!("{path}?api-version={API_VERSION}");
        for (name, value) in parameters {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
        Self { method, path, headers: Vec::new(), body: None }
    }

    fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = Some(("application/json", body.to_string().into()));
        self
    }

    /// A text to one user: what a probe sends.
    pub(super) fn text_to_user(user: &UserId, text: &str) -> Self {
        let mut wire = Self::new(Method::POST, &format!("{}/:send", of_user(user)), &[]);
        wire.body = Some(("text/plain", Bytes::copy_from_slice(text.as_bytes())));
        wire
    }

    /// A page of a group, with the mark where the last one ended.
    pub(super) fn page(group: &GroupName, size: usize, mark: Option<&str>) -> Self {
        let size = size.min(PAGE_SIZE_MAX).to_string();
        let mut parameters = vec![("maxpagesize", size.as_str())];
        parameters.extend(mark.map(|mark| ("continuationToken", mark)));
        Self::new(Method::GET, &format!("{}/connections", of_group(group)), &parameters)
    }

    /// The request for a call; `None`: no request says it ([`Call::Members`] needs several, see [`Wire::page`]).
    pub(super) fn of(call: &Call, now: Moment) -> Option<Self> {
        Some(match call {
            Call::Send { to, message, exclude, filter } => send(to, message, exclude, filter.as_ref(), now),
            Call::Close { who, exclude, reason } => close(who, exclude, reason),
            Call::AddToGroups { groups, filter } => bulk("/:addToGroups", groups, filter.as_ref()),
            Call::RemoveFromGroups { groups, filter } => bulk("/:removeFromGroups", groups, filter.as_ref()),
            Call::Exists(Scope::All) | Call::Members { .. } => return None,
            Call::Exists(Scope::Group(group)) => Self::new(Method::HEAD, &of_group(group), &[]),
            Call::Exists(Scope::User(user)) => Self::new(Method::HEAD, &of_user(user), &[]),
            Call::Exists(Scope::Connection(id)) => Self::new(Method::HEAD, &of_connection(id), &[]),
            Call::Join { connection, group } => Self::new(Method::PUT, &membership(group, connection), &[]),
            Call::Leave { connection, group } => {
                Self::new(Method::DELETE, &membership(group, connection), &[])
            }
            Call::LeaveAll { connection } => {
                Self::new(Method::DELETE, &format!("{}/groups", of_connection(connection)), &[])
            }
            Call::UserJoin { user, group } => Self::new(Method::PUT, &of_user_in(user, group), &[]),
            Call::UserLeave { user, group } => Self::new(Method::DELETE, &of_user_in(user, group), &[]),
            Call::UserLeaveAll { user } => {
                Self::new(Method::DELETE, &format!("{}/groups", of_user(user)), &[])
            }
            Call::Grant { connection, permission, group } => {
                permitting(Method::PUT, connection, *permission, group.as_ref())
            }
            Call::Revoke { connection, permission, group } => {
                permitting(Method::DELETE, connection, *permission, group.as_ref())
            }
            Call::Has { connection, permission, group } => {
                permitting(Method::HEAD, connection, *permission, group.as_ref())
            }
        })
    }
}

fn of_group(group: &GroupName) -> String {
    format!("/groups/{}", encode(group.as_str()))
}

fn of_user(user: &UserId) -> String {
    format!("/users/{}", encode(user.as_str()))
}

fn of_connection(connection: &ConnectionId) -> String {
    format!("/connections/{}", encode(connection.as_str()))
}

fn membership(group: &GroupName, connection: &ConnectionId) -> String {
    format!("{}{}", of_group(group), of_connection(connection))
}

fn of_user_in(user: &UserId, group: &GroupName) -> String {
    format!("{}{}", of_user(user), of_group(group))
}

fn of_scope(scope: &Scope) -> String {
    match scope {
        Scope::All => String::new(),
        Scope::Group(group) => of_group(group),
        Scope::User(user) => of_user(user),
        Scope::Connection(connection) => of_connection(connection),
    }
}

fn send(
    to: &Scope,
    message: &Message,
    exclude: &[ConnectionId],
    filter: Option<&Filter>,
    now: Moment,
) -> Wire {
    let mut parameters: Vec<(&str, &str)> = Vec::new();
    if matches!(to, Scope::All | Scope::Group(_)) {
        parameters.extend(exclude.iter().map(|connection| ("excluded", connection.as_str())));
    }
    let filter = filter.filter(|_| !matches!(to, Scope::Connection(_)));
    parameters.extend(filter.map(|filter| ("filter", filter.text())));
    let ttl = message.expires.map(|expires| seconds_left(expires, now).to_string());
    parameters.extend(ttl.as_deref().map(|ttl| ("messageTtlSeconds", ttl)));
    let mut wire = Wire::new(Method::POST, &format!("{}/:send", of_scope(to)), &parameters);
    let content_type = match &message.data {
        Data::Text(_) => "text/plain",
        Data::Json(_) => "application/json",
        Data::Binary(_) | Data::Protobuf(_) => "application/octet-stream",
    };
    wire.body = Some((content_type, message.data.bytes().clone()));
    let metadata = message.metadata.iter();
    wire.headers =
        metadata.map(|(key, value)| (format!("x-webpubsub-metadata-{key}"), value.clone())).collect();
    wire.headers.extend(message.id.map(|id| (MESSAGE_ID.to_owned(), format!("{id:032x}"))));
    wire
}

/// Whole seconds, rounded up: a message must not live shorter elsewhere; 0 would mean for ever.
fn seconds_left(expires: Moment, now: Moment) -> u64 {
    expires
        .since(now)
        .as_millis()
        .div_ceil(1000)
        .try_into()
        .unwrap_or(TTL_SECONDS_MAX)
        .clamp(1, TTL_SECONDS_MAX)
}

fn close(who: &Scope, exclude: &[ConnectionId], reason: &str) -> Wire {
    let reason = Some(reason).filter(|reason| !reason.is_empty()).map(|reason| ("reason", reason));
    if let Scope::Connection(connection) = who {
        return Wire::new(Method::DELETE, &of_connection(connection), &Vec::from_iter(reason));
    }
    let excluded = exclude.iter().map(|connection| ("excluded", connection.as_str()));
    let parameters: Vec<_> = excluded.chain(reason).collect();
    Wire::new(Method::POST, &format!("{}/:closeConnections", of_scope(who)), &parameters)
}

fn bulk(path: &str, groups: &[GroupName], filter: Option<&Filter>) -> Wire {
    let groups: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
    let mut body = json!({ "groups": groups });
    if let Some(filter) = filter {
        body["filter"] = filter.text().into();
    }
    Wire::new(Method::POST, path, &[]).json(&body)
}

fn permitting(
    method: Method,
    connection: &ConnectionId,
    permission: Permission,
    group: Option<&GroupName>,
) -> Wire {
    let permission = match permission {
        Permission::JoinLeaveGroup => "joinLeaveGroup",
        Permission::SendToGroup => "sendToGroup",
    };
    let target = group.map(|group| ("targetName", group.as_str()));
    Wire::new(
        method,
        &format!("/permissions/{permission}{}", of_connection(connection)),
        &Vec::from_iter(target),
    )
}

/// What a status means as the answer to a call; `None`: the member did not do it.
pub(super) fn answer(call: &Call, status: StatusCode, code: Option<&str>) -> Option<Answer> {
    let question = call.is_question();
    match status {
        status if status.is_success() => Some(if question { Answer::Yes } else { Answer::Done }),
        // Not the connection, the whole hub is unknown there.
        StatusCode::NOT_FOUND if code.is_some_and(|code| code.starts_with("Error.")) => None,
        StatusCode::NOT_FOUND => Some(if question { Answer::No } else { Answer::NotFound }),
        _ => None,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    value: Vec<Entry>,
    next_link: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    connection_id: String,
    user_id: Option<String>,
}

/// The members on a page, and the mark with which to ask for the next one. The link itself is not followed: it could lead
/// anywhere, with our token.
pub(super) fn page(body: &[u8]) -> Option<(Vec<Member>, Option<String>)> {
    let page: Page = serde_json::from_slice(body).ok()?;
    let member = |entry: Entry| {
        let connection = ConnectionId::parse(&entry.connection_id).ok()?;
        Some(Member { connection, user: entry.user_id.and_then(|user| UserId::parse(&user).ok()) })
    };
    let mark = page.next_link.as_deref().and_then(|link| link.split_once('?')).and_then(|(_, parameters)| {
        query::get(&query::parse(parameters), "continuationToken").map(str::to_owned)
    });
    Some((page.value.into_iter().filter_map(member).collect(), mark))
}

#[cfg(test)]
mod tests;
