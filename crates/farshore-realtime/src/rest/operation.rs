//! What a request asks for, read from its method, raw path and query alone: pure, so that the pair decides with the same
//! reading whom to ask.
//!
//! Whatever can be known without the body is decided here; what is left for the body is a message or a list of groups.

use http::{Method, StatusCode};

use super::error::RestError;
use super::query::Query;
use super::route::{On, OnConnection, Route, route, segments};
use crate::filter::Filter;
use crate::hub::call::{Call, Scope};
use crate::names::{BadName, ConnectionId, GroupName, HubName, UserId};
use crate::permission::Permission;

/// The versions of the interface that are understood, oldest first. They differ only in what the newer ones add.
pub const API_VERSIONS: [&str; 5] = ["2021-10-01", "2022-11-01", "2023-07-01", "2024-01-01", "2024-12-01"];
/// The longest time a message may wait for a slow client: the contract's.
pub const TTL_SECONDS_MAX: u32 = 300;
/// The most members in one page: the contract's.
pub const PAGE_SIZE_MAX: u32 = 200;
/// As large as the official clients can say it.
const TOP_MAX: u32 = i32::MAX.unsigned_abs();
/// The longest reason for closing: it is a sentence for people, and each closed connection gets it.
pub const REASON_LEN_MAX: usize = 1024;
/// The most connections that one call leaves out: each is compared with each receiver while the hub waits. Twice as many as
/// fit into the longest URL that gateways pass on.
pub const EXCLUDED_MAX: usize = 1_000;
/// How long a generated token lives when nobody says.
const TOKEN_MINUTES: u32 = 60;
/// The longest life of a token that other servers of the protocol take.
const TOKEN_MINUTES_MAX: u32 = i32::MAX.unsigned_abs();

/// A request, read.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Whether the service serves: asked without a token.
    Health,
    /// Something about one hub.
    Hub {
        /// Which.
        hub: HubName,
        /// What.
        action: Action,
    },
}

/// What is asked of a hub.
#[derive(Debug, Clone)]
pub enum Action {
    /// Complete as it is: the body does not matter.
    Ask(Call),
    /// A message; the body is its data.
    Send(Sending),
    /// Connections into groups; the body says which.
    AddToGroups,
    /// Connections out of groups; the body says which.
    RemoveFromGroups,
    /// A page of a group's members.
    Members(Page),
    /// A token for a client.
    GenerateToken(TokenWish),
    /// About a connection whose id no hub can have given: nothing happens, and the answer is the one for unknown ones.
    Nobody(StatusCode),
}

/// A message without its data.
#[derive(Debug, Clone)]
pub struct Sending {
    /// To whom.
    pub to: Scope,
    /// But not to these.
    pub exclude: Vec<ConnectionId>,
    /// And only to those that it matches.
    pub filter: Option<Filter>,
    /// How long it may wait for a slow client; `None`: for ever.
    pub ttl_seconds: Option<u32>,
}

/// A page of the members of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Of which group.
    pub group: GroupName,
    /// The most members in one page.
    pub size: u32,
    /// The most members in all pages from here on.
    pub top: Option<u32>,
    /// Only members after this one.
    pub after: Option<ConnectionId>,
}

/// What a token for a client shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWish {
    /// Who the client is.
    pub user: Option<UserId>,
    /// What it may do.
    pub roles: Vec<String>,
    /// Where it is from the start.
    pub groups: Vec<GroupName>,
    /// How long it may connect with it.
    pub minutes: u32,
}

impl Operation {
    /// Reads a request. `raw_path` is as it came, still percent-encoded; `query` is what stands behind the `?`.
    pub fn parse(method: &Method, raw_path: &str, query: Option<&str>) -> Result<Self, RestError> {
        let segments = segments(raw_path)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let route = route(method, &segments)?;
        let query = Query::parse(query.unwrap_or_default())?;
        check_version(&query)?;
        match route {
            Route::Health => Ok(Self::Health),
            Route::Hub { hub, on } => {
                let hub = HubName::parse(hub).map_err(|bad| named("hub", &bad))?;
                Ok(Self::Hub { hub, action: action(on, &query)? })
            }
        }
    }
}

fn check_version(query: &Query) -> Result<(), RestError> {
    match query.given("api-version")? {
        Some(version) if !API_VERSIONS.contains(&version) => Err(RestError::Version(version.to_owned())),
        // The newest, when nothing is said.
        _ => Ok(()),
    }
}

fn action(on: On<'_>, query: &Query) -> Result<Action, RestError> {
    Ok(match on {
        On::AddToGroups => Action::AddToGroups,
        On::RemoveFromGroups => Action::RemoveFromGroups,
        On::GenerateToken => Action::GenerateToken(token_wish(query)?),
        On::Members(group) => Action::Members(page(group, query)?),
        On::CloseAll => close(Scope::All, query)?,
        On::CloseGroup(group) => close(Scope::Group(group_name(group)?), query)?,
        On::CloseUser(user) => close(Scope::User(user_id(user)?), query)?,
        On::SendAll => Action::Send(Sending { filter: filter(query)?, ..send(Scope::All, query)? }),
        On::SendGroup(group) => {
            Action::Send(Sending { filter: filter(query)?, ..send(Scope::Group(group_name(group)?), query)? })
        }
        On::SendUser(user) => Action::Send(Sending {
            filter: filter(query)?,
            exclude: Vec::new(),
            ..send(Scope::User(user_id(user)?), query)?
        }),
        On::GroupExists(group) => Action::Ask(Call::Exists(Scope::Group(group_name(group)?))),
        On::UserExists(user) => Action::Ask(Call::Exists(Scope::User(user_id(user)?))),
        On::UserLeaveAll(user) => Action::Ask(Call::UserLeaveAll { user: user_id(user)? }),
        On::UserJoin { user, group } => {
            Action::Ask(Call::UserJoin { user: user_id(user)?, group: group_name(group)? })
        }
        On::UserLeave { user, group } => {
            Action::Ask(Call::UserLeave { user: user_id(user)?, group: group_name(group)? })
        }
        On::Connection { id, on } => match ConnectionId::parse(id) {
            Ok(connection) => on_connection(connection, on, query)?,
            Err(_) => Action::Nobody(unknown(on)),
        },
    })
}

fn on_connection(connection: ConnectionId, on: OnConnection<'_>, query: &Query) -> Result<Action, RestError> {
    Ok(Action::Ask(match on {
        OnConnection::Send => {
            let to = Scope::Connection(connection);
            return Ok(Action::Send(Sending { exclude: Vec::new(), ..send(to, query)? }));
        }
        OnConnection::Close => return close(Scope::Connection(connection), query),
        OnConnection::Exists => Call::Exists(Scope::Connection(connection)),
        OnConnection::LeaveAll => Call::LeaveAll { connection },
        OnConnection::Join(group) => Call::Join { connection, group: group_name(group)? },
        OnConnection::Leave(group) => Call::Leave { connection, group: group_name(group)? },
        OnConnection::Grant(name) => {
            Call::Grant { connection, permission: permission(name)?, group: target_group(query)? }
        }
        OnConnection::Revoke(name) => {
            Call::Revoke { connection, permission: permission(name)?, group: target_group(query)? }
        }
        OnConnection::Has(name) => {
            Call::Has { connection, permission: permission(name)?, group: target_group(query)? }
        }
    }))
}

/// What is said about a connection that does not exist.
fn unknown(on: OnConnection<'_>) -> StatusCode {
    match on {
        OnConnection::Send => StatusCode::ACCEPTED,
        OnConnection::Close | OnConnection::LeaveAll | OnConnection::Leave(_) | OnConnection::Revoke(_) => {
            StatusCode::NO_CONTENT
        }
        OnConnection::Exists | OnConnection::Join(_) | OnConnection::Grant(_) | OnConnection::Has(_) => {
            StatusCode::NOT_FOUND
        }
    }
}

fn close(who: Scope, query: &Query) -> Result<Action, RestError> {
    let reason = query.one("reason")?.unwrap_or_default();
    if reason.len() > REASON_LEN_MAX {
        let message = format!("Invalid reason: it is longer than {REASON_LEN_MAX} bytes.");
        return Err(RestError::bad("reason", message));
    }
    let exclude = match who {
        Scope::Connection(_) => Vec::new(),
        _ => excluded(query)?,
    };
    Ok(Action::Ask(Call::Close { who, exclude, reason: reason.to_owned() }))
}

/// What all sends have; the filter is for those that may reach more than one connection.
fn send(to: Scope, query: &Query) -> Result<Sending, RestError> {
    let ttl_seconds = query.number("messageTtlSeconds", 0, TTL_SECONDS_MAX)?.filter(|seconds| *seconds > 0);
    Ok(Sending { to, exclude: excluded(query)?, filter: None, ttl_seconds })
}

/// Ids that no hub can have given exclude nobody.
fn excluded(query: &Query) -> Result<Vec<ConnectionId>, RestError> {
    let excluded: Vec<_> = query.all("excluded").filter_map(|id| ConnectionId::parse(id).ok()).collect();
    if excluded.len() > EXCLUDED_MAX {
        let message = format!(
            "Invalid excluded: at most {EXCLUDED_MAX} connections; use a filter or a group for more."
        );
        return Err(RestError::bad("excluded", message));
    }
    Ok(excluded)
}

fn filter(query: &Query) -> Result<Option<Filter>, RestError> {
    query.one("filter")?.map(parse_filter).transpose()
}

/// Reads a filter; the error's text is the contract's.
pub(super) fn parse_filter(text: &str) -> Result<Filter, RestError> {
    Filter::parse(text).map_err(|bad| RestError::bad("filter", bad.to_string()))
}

fn page(group: &str, query: &Query) -> Result<Page, RestError> {
    let after = query.given("continuationToken")?.map(|token| {
        ConnectionId::parse(token).map_err(|_| {
            let message = "Invalid continuationToken: follow nextLink as it was given.";
            RestError::bad("continuationToken", message)
        })
    });
    Ok(Page {
        group: group_name(group)?,
        size: query.number("maxpagesize", 1, PAGE_SIZE_MAX)?.unwrap_or(PAGE_SIZE_MAX),
        top: query.number("top", 1, TOP_MAX)?,
        after: after.transpose()?,
    })
}

fn token_wish(query: &Query) -> Result<TokenWish, RestError> {
    match query.one("clientType")? {
        None => {}
        Some(kind) if kind.eq_ignore_ascii_case("Default") => {}
        Some(kind) if kind.eq_ignore_ascii_case("MQTT") => {
            return Err(RestError::NotOffered(
                "MQTT clients are not served here: ask for the clientType Default",
            ));
        }
        Some(kind) => {
            return Err(RestError::bad("clientType", format!("Invalid clientType '{kind}': use Default.")));
        }
    }
    Ok(TokenWish {
        user: query.one("userId")?.map(user_id).transpose()?,
        roles: query.all("role").map(str::to_owned).collect(),
        groups: query.all("group").map(group_name).collect::<Result<_, _>>()?,
        minutes: query.number("minutesToExpire", 1, TOKEN_MINUTES_MAX)?.unwrap_or(TOKEN_MINUTES),
    })
}

fn permission(name: &str) -> Result<Permission, RestError> {
    Permission::parse(name).ok_or_else(|| {
        RestError::bad(
            "permission",
            format!("Invalid permission '{name}': use joinLeaveGroup or sendToGroup."),
        )
    })
}

fn target_group(query: &Query) -> Result<Option<GroupName>, RestError> {
    query.one("targetName")?.map(group_name).transpose()
}

/// Reads the name of a group.
pub(super) fn group_name(name: &str) -> Result<GroupName, RestError> {
    GroupName::parse(name).map_err(|bad| named("group", &bad))
}

fn user_id(id: &str) -> Result<UserId, RestError> {
    UserId::parse(id).map_err(|bad| named("userId", &bad))
}

fn named(target: &'static str, bad: &BadName) -> RestError {
    RestError::bad(target, format!("Invalid {bad}."))
}

#[cfg(test)]
mod tests;
