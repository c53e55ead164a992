//! From a request to its answer.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use farshore_core::moment::Moment;
use http::header::CONNECTION;
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use http_body_util::BodyExt as _;

use super::answer::{Body, refusal};
use super::behind::Serving;
use super::error::RestError;
use super::hub::Hub;
use super::request::{authorization, host, read};
use super::route::{Operation, route, segments};
use super::{bulk, devices, events, feedback, find, job, message, method, now, scheduled, twin};
use crate::mqtt::listener::{Door, Origin};
use crate::mqtt::websocket;
use crate::sas::policy::authorize;
use crate::sas::{Refused, Rights, Token};

/// The hubs of this node. Two implement it: the node's own table, and a single hub.
pub trait Hubs: Send + Sync + fmt::Debug {
    /// The hub that is called so; `host` may have a port.
    fn find(&self, host: &str) -> Option<Arc<Hub>>;
}

impl Hubs for Arc<Hub> {
    fn find(&self, host: &str) -> Option<Arc<Hub>> {
        self.is_called(host).then(|| Self::clone(self))
    }
}

/// A request that may be answered.
#[derive(Debug)]
pub(super) struct Asked {
    /// Everything but the body.
    pub(super) parts: Parts,
    /// The body.
    pub(super) body: Bytes,
    /// When it came.
    pub(super) now: Moment,
    /// When the token's time is over: nothing is streamed beyond.
    pub(super) until: Moment,
}

/// The service for hyper. Cheap to clone: one for all connections.
#[derive(Debug, Clone)]
pub struct Service {
    hubs: Arc<dyn Hubs>,
    devices: Option<(Door, Origin)>,
}

impl Service {
    /// Serves these hubs.
    #[must_use]
    pub fn new(hubs: Arc<dyn Hubs>) -> Self {
        Self { hubs, devices: None }
    }

    /// The same for one connection, from `origin`, on whose port devices come by WebSocket, too: SDKs know no other port than
    /// 443 for either. The connection must be served with upgrades.
    #[must_use]
    pub fn with_devices(&self, door: Door, origin: Origin) -> Self {
        Self { devices: Some((door, origin)), ..self.clone() }
    }
}

impl<B> hyper::service::Service<Request<B>> for Service
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        if let Some((door, origin)) = &self.devices
            && request.uri().path() == websocket::PATH
        {
            let answer = websocket::upgrade(request, origin.clone(), door);
            return Box::pin(async move { Ok(answer.map(|body| body.boxed_unsync())) });
        }
        let hubs = Arc::clone(&self.hubs);
        Box::pin(async move { Ok(serve(&*hubs, request).await) })
    }
}

/// Answers one request.
pub async fn serve<B>(hubs: &dyn Hubs, request: Request<B>) -> Response<Body>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let now = now();
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let asked = host(&parts);
    let Some(hub) = hubs.find(&asked) else { return refusal(&RestError::no_hub(&asked), now) };
    let answer = answer(&hub, parts, body, now).await;
    let mut response = answer.unwrap_or_else(|error| refusal(&error, now));
    // Clients that keep a connection never ask for the address again, and would stay with a hub that has moved.
    if hub.behind().serving() != Serving::Active && version < Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn answer<B>(hub: &Arc<Hub>, parts: Parts, body: B, now: Moment) -> Result<Response<Body>, RestError>
where
    B: hyper::body::Body,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let path = segments(parts.uri.path())?;
    let (rights, until) = admitted(hub, &parts, &path, now)?;
    let operation = route(&parts.method, &path)?;
    if !rights.meet(operation.rights()) {
        return Err(RestError::unauthorized(format!(
            "the token's policy has not the right it needs here: {}",
            operation.rights()
        )));
    }
    if operation.is_read() {
        let body = read(body).await?;
        return perform(hub, operation, Asked { parts, body, now, until }).await;
    }
    refuse_elsewhere(hub.behind().serving())?;
    let asked = Asked { body: read(body).await?, parts, now, until };
    if let Operation::Invoke(key) = &operation {
        // Nothing is kept, and a device may take its time: nobody who fences the hub waits for it.
        return method::invoke(hub, key, &asked).await;
    }
    let held = hub.hold()?;
    let answer = perform(hub, operation, asked).await;
    if held.may_answer() { answer } else { Err(moved()) }
}

/// The other region may serve by now and not have the change: nobody is told that it is kept.
fn moved() -> RestError {
    RestError::unavailable(
        "IotHubFailingOver",
        "the hub moved to another region meanwhile, with this change or without it: read again there",
    )
}

/// The rights of whoever asks, and until when.
fn admitted(hub: &Hub, parts: &Parts, path: &[String], now: Moment) -> Result<(Rights, Moment), RestError> {
    let token =
        Token::parse(authorization(parts)?).map_err(|error| RestError::unauthorized(error.to_string()))?;
    let policies = hub.policies()?;
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let asked = host(parts);
    // A token is for the hub's logical name, or for the name under which this client reaches it.
    let names = std::iter::once(asked.as_str()).chain(hub.names().iter().map(String::as_str));
    let mut refused = Refused::Resource;
    for name in names {
        match authorize(&token, &policies, name, &path, now) {
            Ok(rights) => return Ok((rights, token.expires().after(crate::sas::token::CLOCK_SKEW_GRACE))),
            Err(error) => refused = error,
        }
        if refused != Refused::Resource {
            break;
        }
    }
    Err(RestError::unauthorized(refused.to_string()))
}

/// A hub that does not serve changes nothing.
pub(super) fn refuse_elsewhere(serving: Serving) -> Result<(), RestError> {
    match serving {
        Serving::Active => Ok(()),
        Serving::Standby => Err(RestError::unavailable(
            "UnsupportedOperationOnReplica",
            "this region stands by for the hub and changes nothing: connect again, the hub's name leads to the active region",
        )),
        Serving::FailingOver => Err(RestError::unavailable(
            "IotHubFailingOver",
            "the hub is moving to another region: connect again in a few seconds",
        )),
    }
}

async fn perform(hub: &Arc<Hub>, operation: Operation, asked: Asked) -> Result<Response<Body>, RestError> {
    match operation {
        Operation::ListDevices => devices::list(hub, &asked).await,
        Operation::GetIdentity(key) => devices::get(hub, &key),
        Operation::PutIdentity(key) => devices::put(hub, key, &asked).await,
        Operation::DeleteIdentity(key) => devices::delete(hub, key, &asked).await,
        Operation::ListModules(device) => devices::modules(hub, &device),
        Operation::DeviceStatistics => Ok(devices::statistics(hub)),
        Operation::ServiceStatistics => Ok(devices::connections(hub)),
        Operation::Query => find::query(hub, &asked).await,
        Operation::GetTwin(key) => twin::get(hub, &key),
        Operation::PatchTwin(key) => twin::change(hub, key, &asked, twin::Manner::Merge).await,
        Operation::PutTwin(key) => twin::change(hub, key, &asked, twin::Manner::Replace).await,
        Operation::Invoke(key) => method::invoke(hub, &key, &asked).await,
        Operation::SendMessage(key) => message::send(hub, key, asked).await,
        Operation::PurgeMessages(key) => message::purge(hub, key).await,
        Operation::ReadEvents => events::read(hub, &asked).await,
        Operation::Checkpoint => events::checkpoint(hub, &asked).await,
        Operation::ListGroups => events::groups(hub),
        Operation::DeleteGroup(name) => events::forget(hub, &name).await,
        Operation::NextFeedback => feedback::next(hub),
        Operation::CompleteFeedback(lock) => feedback::complete(hub, &lock).await,
        Operation::AbandonFeedback(lock) => feedback::abandon(hub, &lock),
        Operation::Bulk => bulk::change(hub, &asked).await,
        Operation::CreateJob => job::create(hub, &asked),
        Operation::ListJobs => Ok(job::list(hub)),
        Operation::GetJob(id) => job::get(hub, &id),
        Operation::CancelJob(id) => job::cancel(hub, &id),
        Operation::PutScheduled(id) => scheduled::put(hub, id, &asked),
        Operation::GetScheduled(id) => scheduled::get(hub, &id),
        Operation::CancelScheduled(id) => scheduled::cancel(hub, &id),
        Operation::QueryScheduled => scheduled::query(hub, &asked),
        Operation::ListConfigurations => Ok(super::answer::json(&Vec::<u8>::new())),
        Operation::GetConfiguration(id) => {
            Err(RestError::not_found("ConfigurationNotFound", format!("there is no configuration {id:?}")))
        }
        Operation::ChangeConfiguration => Err(RestError::argument(
            "this hub keeps no configurations for edge deployments: set desired properties, or schedule a job",
        )),
    }
}
