//! Which operation a method and a path mean. A path is cut at its slashes before it is decoded.

use http::Method;

use super::error::RestError;
use crate::names::{DeviceId, Key, ModuleId};
use crate::percent;
use crate::sas::Rights;

/// Longest path that is read: two ids of 128 characters, every one escaped, and words.
const PATH_LEN_MAX: usize = 1024;

/// An operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Operation {
    ListDevices,
    Bulk,
    Query,
    GetIdentity(Key),
    PutIdentity(Key),
    DeleteIdentity(Key),
    ListModules(DeviceId),
    PurgeMessages(Key),
    SendMessage(Key),
    GetTwin(Key),
    PatchTwin(Key),
    PutTwin(Key),
    Invoke(Key),
    DeviceStatistics,
    ServiceStatistics,
    CreateJob,
    ListJobs,
    GetJob(String),
    CancelJob(String),
    PutScheduled(String),
    GetScheduled(String),
    CancelScheduled(String),
    QueryScheduled,
    NextFeedback,
    CompleteFeedback(String),
    AbandonFeedback(String),
    ReadEvents,
    Checkpoint,
    ListGroups,
    DeleteGroup(String),
    ListConfigurations,
    GetConfiguration(String),
    ChangeConfiguration,
}

impl Operation {
    /// Rights of which the caller needs one.
    pub(super) fn rights(&self) -> Rights {
        match self {
            Self::ListDevices | Self::GetIdentity(_) | Self::ListModules(_) | Self::DeviceStatistics => {
                Rights::REGISTRY_READ
            }
            Self::Bulk
            | Self::PutIdentity(_)
            | Self::DeleteIdentity(_)
            | Self::CreateJob
            | Self::ListJobs
            | Self::GetJob(_)
            | Self::CancelJob(_) => Rights::REGISTRY_WRITE,
            Self::GetTwin(_) | Self::Query => Rights::SERVICE_CONNECT.and(Rights::REGISTRY_READ),
            Self::PatchTwin(_) | Self::PutTwin(_) => Rights::SERVICE_CONNECT.and(Rights::REGISTRY_WRITE),
            _ => Rights::SERVICE_CONNECT,
        }
    }

    /// Whether it only reads what this region holds: then a standby answers, too.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Self::ListDevices
                | Self::Query
                | Self::GetIdentity(_)
                | Self::ListModules(_)
                | Self::GetTwin(_)
                | Self::DeviceStatistics
                | Self::ServiceStatistics
                | Self::ListJobs
                | Self::GetJob(_)
                | Self::GetScheduled(_)
                | Self::QueryScheduled
                | Self::ReadEvents
                | Self::ListGroups
                | Self::ListConfigurations
                | Self::GetConfiguration(_)
        )
    }
}

/// Plain segments of a path.
pub(super) fn segments(path: &str) -> Result<Vec<String>, RestError> {
    if path.len() > PATH_LEN_MAX {
        return Err(RestError::argument("the path is longer than 1024 characters"));
    }
    path.trim_matches('/')
        .split('/')
        .map(|segment| {
            percent::decode(segment).map_err(|error| RestError::argument(format!("in the path {error}")))
        })
        .collect()
}

/// The operation that is meant.
pub(super) fn route(method: &Method, segments: &[String]) -> Result<Operation, RestError> {
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let found = match parts.split_first() {
        Some((&"devices", rest)) => devices(method, rest)?,
        Some((&"twins", rest)) => twins(method, rest)?,
        Some((&"jobs", rest)) => jobs(method, rest),
        Some((&"messages", rest)) => messages(method, rest),
        Some((&"statistics", ["devices"])) => only(method, &Method::GET, Operation::DeviceStatistics),
        Some((&"statistics", ["service"])) => only(method, &Method::GET, Operation::ServiceStatistics),
        Some((&"configurations", rest)) => configurations(method, rest),
        _ => Found::Nothing,
    };
    match found {
        Found::Operation(operation) => Ok(operation),
        Found::OtherMethod => {
            Err(RestError::method(format!("{method} is not possible on /{}", parts.join("/"))))
        }
        Found::Nothing => {
            Err(RestError::not_found("GenericNotFound", format!("there is nothing at /{}", parts.join("/"))))
        }
    }
}

enum Found {
    Operation(Operation),
    OtherMethod,
    Nothing,
}

fn only(method: &Method, allowed: &Method, operation: Operation) -> Found {
    if method == allowed { Found::Operation(operation) } else { Found::OtherMethod }
}

fn devices(method: &Method, rest: &[&str]) -> Result<Found, RestError> {
    Ok(match rest {
        [] if method == Method::POST => Found::Operation(Operation::Bulk),
        [] => only(method, &Method::GET, Operation::ListDevices),
        // A device may be called so, too; only POST is a query.
        ["query"] if method == Method::POST => Found::Operation(Operation::Query),
        [id] => identity(method, device(id)?),
        [id, "modules"] => only(method, &Method::GET, Operation::ListModules(device_id(id)?)),
        [id, "modules", module] => identity(method, key(id, module)?),
        [id, "commands"] => only(method, &Method::DELETE, Operation::PurgeMessages(device(id)?)),
        [id, "messages", "devicebound"] => only(method, &Method::POST, Operation::SendMessage(device(id)?)),
        [id, "modules", module, "messages", "devicebound"] => {
            only(method, &Method::POST, Operation::SendMessage(key(id, module)?))
        }
        [_, "applyConfigurationContent"] => only(method, &Method::POST, Operation::ChangeConfiguration),
        _ => Found::Nothing,
    })
}

fn identity(method: &Method, key: Key) -> Found {
    match *method {
        Method::GET => Found::Operation(Operation::GetIdentity(key)),
        Method::PUT => Found::Operation(Operation::PutIdentity(key)),
        Method::DELETE => Found::Operation(Operation::DeleteIdentity(key)),
        _ => Found::OtherMethod,
    }
}

fn twins(method: &Method, rest: &[&str]) -> Result<Found, RestError> {
    Ok(match rest {
        [id] => twin(method, device(id)?),
        [id, "methods"] => only(method, &Method::POST, Operation::Invoke(device(id)?)),
        [id, "modules", module] => twin(method, key(id, module)?),
        [id, "modules", module, "methods"] => {
            only(method, &Method::POST, Operation::Invoke(key(id, module)?))
        }
        _ => Found::Nothing,
    })
}

fn twin(method: &Method, key: Key) -> Found {
    match *method {
        Method::GET => Found::Operation(Operation::GetTwin(key)),
        Method::PATCH => Found::Operation(Operation::PatchTwin(key)),
        Method::PUT => Found::Operation(Operation::PutTwin(key)),
        _ => Found::OtherMethod,
    }
}

fn jobs(method: &Method, rest: &[&str]) -> Found {
    match rest {
        [] => only(method, &Method::GET, Operation::ListJobs),
        ["create"] if method == Method::POST => Found::Operation(Operation::CreateJob),
        ["v2", "query"] if method == Method::GET => Found::Operation(Operation::QueryScheduled),
        ["v2", id] if method == Method::PUT => Found::Operation(Operation::PutScheduled((*id).to_owned())),
        ["v2", id] => only(method, &Method::GET, Operation::GetScheduled((*id).to_owned())),
        ["v2", id, "cancel"] => only(method, &Method::POST, Operation::CancelScheduled((*id).to_owned())),
        [id] if method == Method::DELETE => Found::Operation(Operation::CancelJob((*id).to_owned())),
        [id] => only(method, &Method::GET, Operation::GetJob((*id).to_owned())),
        _ => Found::Nothing,
    }
}

fn messages(method: &Method, rest: &[&str]) -> Found {
    match rest {
        ["serviceBound", "feedback"] => only(method, &Method::GET, Operation::NextFeedback),
        ["serviceBound", "feedback", lock] => {
            only(method, &Method::DELETE, Operation::CompleteFeedback((*lock).to_owned()))
        }
        ["serviceBound", "feedback", lock, "abandon"] => {
            only(method, &Method::POST, Operation::AbandonFeedback((*lock).to_owned()))
        }
        ["events"] => only(method, &Method::GET, Operation::ReadEvents),
        ["events", "checkpoint"] => only(method, &Method::POST, Operation::Checkpoint),
        ["events", "groups"] => only(method, &Method::GET, Operation::ListGroups),
        ["events", "groups", name] => {
            only(method, &Method::DELETE, Operation::DeleteGroup((*name).to_owned()))
        }
        _ => Found::Nothing,
    }
}

fn configurations(method: &Method, rest: &[&str]) -> Found {
    match rest {
        [] => only(method, &Method::GET, Operation::ListConfigurations),
        ["testQueries"] if method == Method::POST => Found::Operation(Operation::ChangeConfiguration),
        [_] if matches!(*method, Method::PUT | Method::DELETE) => {
            Found::Operation(Operation::ChangeConfiguration)
        }
        [id] => only(method, &Method::GET, Operation::GetConfiguration((*id).to_owned())),
        _ => Found::Nothing,
    }
}

fn device_id(text: &str) -> Result<DeviceId, RestError> {
    DeviceId::parse(text).map_err(|error| RestError::argument(error.to_string()))
}

fn device(text: &str) -> Result<Key, RestError> {
    device_id(text).map(Key::device)
}

fn key(device: &str, module: &str) -> Result<Key, RestError> {
    let module = ModuleId::parse(module).map_err(|error| RestError::argument(error.to_string()))?;
    Ok(Key::module(device_id(device)?, module))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(text: &str) -> Result<Operation, RestError> {
        let (method, path) = text.split_once(' ').unwrap();
        route(&method.parse().unwrap(), &segments(path)?)
    }

    #[test]
    fn paths_mean_operations() {
        let pump = Key::parse("pump").unwrap();
        let valve = Key::parse("pump/valve").unwrap();
        for (text, expected) in [
            ("GET /devices", Operation::ListDevices),
            ("GET /devices/", Operation::ListDevices),
            ("POST /devices", Operation::Bulk),
            ("POST /devices/query", Operation::Query),
            ("GET /devices/pump", Operation::GetIdentity(pump.clone())),
            ("PUT /devices/pump", Operation::PutIdentity(pump.clone())),
            ("DELETE /devices/p%75mp", Operation::DeleteIdentity(pump.clone())),
            ("GET /devices/a%2Bb%25", Operation::GetIdentity(Key::parse("a+b%").unwrap())),
            ("GET /devices/pump/modules", Operation::ListModules(pump.device.clone())),
            ("PUT /devices/pump/modules/valve", Operation::PutIdentity(valve.clone())),
            ("DELETE /devices/pump/commands", Operation::PurgeMessages(pump.clone())),
            ("POST /devices/pump/messages/devicebound", Operation::SendMessage(pump.clone())),
            ("PATCH /twins/pump", Operation::PatchTwin(pump.clone())),
            ("GET /twins/pump/modules/valve", Operation::GetTwin(valve.clone())),
            ("POST /twins/pump/modules/valve/methods", Operation::Invoke(valve)),
            ("POST /twins/pump/methods", Operation::Invoke(pump)),
            ("GET /statistics/service", Operation::ServiceStatistics),
            ("POST /jobs/create", Operation::CreateJob),
            ("DELETE /jobs/7", Operation::CancelJob("7".to_owned())),
            ("GET /jobs/v2/query", Operation::QueryScheduled),
            ("PUT /jobs/v2/a", Operation::PutScheduled("a".to_owned())),
            ("POST /jobs/v2/a/cancel", Operation::CancelScheduled("a".to_owned())),
            ("GET /messages/serviceBound/feedback", Operation::NextFeedback),
            ("DELETE /messages/serviceBound/feedback/x", Operation::CompleteFeedback("x".to_owned())),
            ("POST /messages/serviceBound/feedback/x/abandon", Operation::AbandonFeedback("x".to_owned())),
            ("GET /messages/events", Operation::ReadEvents),
            ("GET /configurations", Operation::ListConfigurations),
        ] {
            assert_eq!(routed(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_paths_and_methods_are_refused_by_name() {
        for (text, status, why) in [
            ("GET /", 404, "there is nothing at /"),
            ("GET /devices/a/b/c", 404, "nothing at /devices/a/b/c"),
            ("PATCH /devices/a", 405, "PATCH is not possible"),
            ("DELETE /twins/a", 405, "DELETE is not possible"),
            ("GET /devices/a%20b", 400, "is no device or module id"),
            ("GET /devices/a%2Fb", 400, "is no device or module id"),
            ("GET /devices/%zz", 400, "two hexadecimal digits"),
            ("PUT /devices/a/modules/", 405, "PUT is not possible"),
            (&format!("GET /devices/{}", "a".repeat(2000)), 400, "longer than 1024"),
        ] {
            let error = routed(text).unwrap_err();
            assert_eq!(error.status.as_u16(), status, "{text}: {error}");
            assert!(error.message.contains(why), "{text}: {error}");
        }
    }
}
