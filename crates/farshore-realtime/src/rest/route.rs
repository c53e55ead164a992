//! The table of operations: a method and a path, cut and decoded, to the operation that they name.

use http::Method;

use super::error::RestError;
use super::percent::{Plus, decode};

/// An operation with the names in its path, not looked at yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// Whether the service serves.
    Health,
    /// An operation of one hub.
    Hub {
        /// Its name.
        hub: &'a str,
        /// What of it.
        on: On<'a>,
    },
}

/// What of the hub is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On<'a> {
    AddToGroups,
    RemoveFromGroups,
    GenerateToken,
    CloseAll,
    SendAll,
    GroupExists(&'a str),
    CloseGroup(&'a str),
    SendGroup(&'a str),
    Members(&'a str),
    UserExists(&'a str),
    CloseUser(&'a str),
    SendUser(&'a str),
    UserLeaveAll(&'a str),
    UserJoin { user: &'a str, group: &'a str },
    UserLeave { user: &'a str, group: &'a str },
    Connection { id: &'a str, on: OnConnection<'a> },
}

/// What of one connection is meant; the names are of groups, then of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnConnection<'a> {
    Exists,
    Close,
    Send,
    LeaveAll,
    Join(&'a str),
    Leave(&'a str),
    Grant(&'a str),
    Revoke(&'a str),
    Has(&'a str),
}

/// Every method that some path takes, in the order in which `Allow` lists them.
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "DELETE"];

/// Cuts a raw path at its slashes and decodes each piece.
pub(super) fn segments(raw_path: &str) -> Result<Vec<String>, RestError> {
    let path = raw_path.strip_prefix('/').ok_or(RestError::Path)?;
    path.split('/')
        .map(|segment| {
            decode(segment, Plus::Plus)
                .map_err(|bad| RestError::bad("path", format!("the path cannot be read: {bad}")))
        })
        .collect()
}

/// The hub that a raw path names, whatever is asked of it, as it is written there.
#[must_use]
pub fn hub_of(raw_path: &str) -> Option<String> {
    let hub = raw_path.strip_prefix("/api/hubs/")?.split('/').next()?;
    decode(hub, Plus::Plus).ok()
}

/// The operation that a method and the segments of a path name.
pub(super) fn route<'a>(method: &Method, segments: &[&'a str]) -> Result<Route<'a>, RestError> {
    if let Some(route) = find(method.as_str(), segments) {
        return Ok(route);
    }
    let allowed: Vec<_> = METHODS.into_iter().filter(|method| find(method, segments).is_some()).collect();
    if allowed.is_empty() {
        return Err(RestError::Path);
    }
    Err(RestError::Method { method: method.to_string(), allowed })
}

fn find<'a>(method: &str, segments: &[&'a str]) -> Option<Route<'a>> {
    match (method, segments) {
        ("GET" | "HEAD", ["api", "health"]) => Some(Route::Health),
        (_, ["api", "hubs", hub, on @ ..]) => find_on(method, on).map(|on| Route::Hub { hub, on }),
        _ => None,
    }
}

fn find_on<'a>(method: &str, segments: &[&'a str]) -> Option<On<'a>> {
    match (method, segments) {
        ("POST", [":addToGroups"]) => Some(On::AddToGroups),
        ("POST", [":removeFromGroups"]) => Some(On::RemoveFromGroups),
        ("POST", [":closeConnections"]) => Some(On::CloseAll),
        ("POST", [":generateToken"]) => Some(On::GenerateToken),
        ("POST", [":send"]) => Some(On::SendAll),
        (_, ["connections", connection, on @ ..]) => find_connection(method, connection, on),
        (_, ["groups", group, on @ ..]) => find_group(method, group, on),
        (_, ["permissions", permission, "connections", connection]) => {
            find_permission(method, permission, connection)
        }
        (_, ["users", user, on @ ..]) => find_user(method, user, on),
        _ => None,
    }
}

fn find_connection<'a>(method: &str, id: &'a str, on: &[&'a str]) -> Option<On<'a>> {
    let on = match (method, on) {
        ("HEAD", []) => OnConnection::Exists,
        ("DELETE", []) => OnConnection::Close,
        ("POST", [":send"]) => OnConnection::Send,
        ("DELETE", ["groups"]) => OnConnection::LeaveAll,
        _ => return None,
    };
    Some(On::Connection { id, on })
}

fn find_group<'a>(method: &str, group: &'a str, on: &[&'a str]) -> Option<On<'a>> {
    match (method, on) {
        ("HEAD", []) => Some(On::GroupExists(group)),
        ("POST", [":closeConnections"]) => Some(On::CloseGroup(group)),
        ("POST", [":send"]) => Some(On::SendGroup(group)),
        ("GET", ["connections"]) => Some(On::Members(group)),
        ("PUT", ["connections", id]) => Some(On::Connection { id, on: OnConnection::Join(group) }),
        ("DELETE", ["connections", id]) => Some(On::Connection { id, on: OnConnection::Leave(group) }),
        _ => None,
    }
}

fn find_permission<'a>(method: &str, permission: &'a str, id: &'a str) -> Option<On<'a>> {
    let on = match method {
        "PUT" => OnConnection::Grant(permission),
        "DELETE" => OnConnection::Revoke(permission),
        "HEAD" => OnConnection::Has(permission),
        _ => return None,
    };
    Some(On::Connection { id, on })
}

fn find_user<'a>(method: &str, user: &'a str, on: &[&'a str]) -> Option<On<'a>> {
    match (method, on) {
        ("HEAD", []) => Some(On::UserExists(user)),
        ("POST", [":closeConnections"]) => Some(On::CloseUser(user)),
        ("POST", [":send"]) => Some(On::SendUser(user)),
        ("DELETE", ["groups"]) => Some(On::UserLeaveAll(user)),
        ("PUT", ["groups", group]) => Some(On::UserJoin { user, group }),
        ("DELETE", ["groups", group]) => Some(On::UserLeave { user, group }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_of_a_path() {
        for (path, expected) in [
            ("/api/hubs/chat/:send", Some("chat")),
            ("/api/hubs/Ch%5B1%5D/groups/a%2Fb", Some("Ch[1]")),
            ("/api/hubs/chat", Some("chat")),
            ("/api/hubs/", Some("")),
            ("/api/hubs/%zz/:send", None),
            ("/api/health", None),
            ("/", None),
        ] {
            assert_eq!(hub_of(path).as_deref(), expected, "{path}");
        }
    }
}
