//! Applications: a service with all that belongs to it, as XML; its removal, and the operation that the removal is.

use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use farshore_core::access::Right;
use farshore_core::command::Command;
use farshore_core::ids::{JobId, Name};
use farshore_core::job::JobState;

use super::super::ApiState;
use super::super::access::Caller;
use super::super::problem::Problem;
use super::services::{self, Service};
use super::xml::{Element, Xml};
use crate::migrate::app;

/// An application is called like its service, with this behind it.
const SUFFIX: &str = "mobileservice";
/// Names the operation that a call began.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
/// The operation of a removal that there was nothing to do for.
const NOTHING_TO_DO: &str = "00000000000000000000000000000000";

type OfSubscription = Path<(String, String)>;

fn name_of(application: &str) -> Result<Name, Problem> {
    let name = application.strip_suffix(SUFFIX).unwrap_or(application);
    Ok(Name::parse(name)?)
}

/// The application.
pub(super) async fn show(
    State(state): State<ApiState>,
    Path((_, application)): OfSubscription,
) -> Result<Xml, Problem> {
    let name = name_of(&application)?;
    let service = services::find(&state, name.as_str()).await?;
    Ok(Xml(described(&service)))
}

fn described(service: &Service) -> Element {
    let text = |name, value: &str| Element::Text(name, value.to_owned());
    let state = if service.is_ready() { "Healthy" } else { "Unhealthy" };
    let resource = |kind: &str, label: &str| {
        Element::Group(
            "InternalResource",
            vec![
                text("Name", label),
                text("Type", kind),
                text("Label", label),
                text("Location", service.region()),
                text("State", state),
            ],
        )
    };
    let mut resources = vec![resource("Microsoft.WindowsAzure.MobileServices.MobileService", service.name())];
    if let Some(database) = service.database() {
        resources.push(resource("Microsoft.WindowsAzure.SQLAzure.DataBase", database));
    }
    Element::Group(
        "Application",
        vec![
            text("Name", &format!("{}{SUFFIX}", service.name())),
            text("Label", service.name()),
            text("State", state),
            Element::Group("InternalResources", resources),
            Element::Group("ExternalResources", Vec::new()),
        ],
    )
}

/// Removes it. What is gone already is gone: tools ask for this after a migration, which has removed the secondary.
pub(super) async fn remove(
    State(state): State<ApiState>,
    Path((_, application)): OfSubscription,
    caller: Caller,
) -> Result<Response, Problem> {
    let name = name_of(&application)?;
    let accepted =
        |operation: &str| (StatusCode::ACCEPTED, [(REQUEST_ID, operation.to_owned())]).into_response();
    if state.control.item(&app(&name)).await?.is_none() {
        return Ok(accepted(NOTHING_TO_DO));
    }
    caller.check(Right::Contribute)?;
    let job = state.control.submit(&app(&name), Command::Delete, &caller.name, None).await?;
    Ok(accepted(&job.id.0))
}

/// How an operation stands.
pub(super) async fn operation(
    State(state): State<ApiState>,
    Path((_, id)): OfSubscription,
) -> Result<Xml, Problem> {
    let status = match id.as_str() {
        NOTHING_TO_DO => "Succeeded",
        id => {
            let plausible = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let found = match plausible {
                true => state.control.job(&JobId(id.to_owned())).await?,
                false => None,
            };
            let job = found.ok_or_else(|| Problem::not_found(format!("there is no operation {id:?}")))?;
            match job.state {
                JobState::Succeeded => "Succeeded",
                state if state.is_terminal() => "Failed",
                _ => "InProgress",
            }
        }
    };
    let code = if status == "Failed" { "500" } else { "200" };
    let text = |name, value: &str| Element::Text(name, value.to_owned());
    let parts = vec![text("ID", &id), text("Status", status), text("HttpStatusCode", code)];
    Ok(Xml(Element::Group("Operation", parts)))
}
