//! Sending a request on, and its answer back: to an instance here, or to the gateway of the region that serves.
//!
//! Must always hold: what may have changed something is sent once; an answer goes back only as far as [`Pass`] lets it.
//! What is said in a tunnel is no answer: it is not asked about.

use std::sync::Arc;
use std::time::Duration;

use farshore_core::ids::Region;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::body::{GatewayBody, ToUpstream, UploadEnd};
use super::client::Client;
use super::headers::{self, HOP, Upgrade};
use super::held::Held;
use super::live::Instances;
use super::problem::{problem, unavailable};
use super::site::{Pass, Site};
use super::tunnel;
use super::upstream::{Call, Failure, FromUpstream, Upstream};

/// Instances, or connections to one, that a request is tried on.
const ATTEMPTS_MAX: usize = 3;

/// An instance is restarted in about this time.
const AGAIN_HERE: Duration = Duration::from_secs(1);

/// Until a name may lead somewhere else: its time to live.
const AGAIN_THERE: Duration = Duration::from_secs(5);

/// Between whom a request goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) client: &'a Arc<Client>,
    pub(super) site: &'a Arc<Site>,
}

/// A request that can be sent.
pub(super) struct Outgoing {
    /// `None`: it was sent, and nothing came of it.
    request: Option<Request<ToUpstream>>,
    /// The head again, when the request may be made twice.
    spare: Option<Parts>,
    end: UploadEnd,
    upgrade: Option<Upgrade>,
}

impl Outgoing {
    pub(super) fn new(way: Way<'_>, mut request: Request<Incoming>, hop: Option<&HeaderValue>) -> Self {
        let upgrade = Upgrade::asked(&mut request);
        let (mut head, body) = request.into_parts();
        headers::send_on(&mut head, way.client, hop, upgrade.as_ref());
        let (body, end) = ToUpstream::new(body, way.site, way.client.shared.limits.upload_stall);
        let is_reading = [Method::GET, Method::HEAD, Method::OPTIONS].contains(&head.method);
        let spare = (is_reading && end.is_nothing() && upgrade.is_none()).then(|| head.clone());
        Self { request: Some(Request::from_parts(head, body)), spare, end, upgrade }
    }

    /// Makes the request again where that is harmless.
    fn again(&mut self) -> bool {
        self.request = self.spare.take().map(|head| Request::from_parts(head, ToUpstream::default()));
        self.request.is_some()
    }
}

/// No instance took a request: nothing was done, and it is still there. With the last reason.
#[derive(Debug)]
pub(super) struct Nobody(String);

impl Nobody {
    pub(super) fn answer(self, name: &str) -> Response<GatewayBody> {
        let Self(why) = self;
        let detail =
            format!("no instance of the app {name} takes requests now ({why}): nothing was done, try again");
        unavailable(AGAIN_HERE, &detail)
    }
}

/// Why nobody answered.
enum NoAnswer {
    Nobody(Nobody),
    /// Something may have been done.
    Broken(String),
    Late,
}

/// To an instance of this region.
pub(super) async fn here(
    way: Way<'_>,
    outgoing: &mut Outgoing,
    instances: &Instances,
    pass: Option<&Arc<dyn Pass>>,
) -> Result<Response<GatewayBody>, Nobody> {
    let name = way.site.name();
    Ok(match send(way, outgoing, instances).await {
        Ok(mut response) => {
            part(outgoing, &mut response);
            match pass {
                None => send_back(way, outgoing, response.map(GatewayBody::upstream)),
                Some(pass) => Box::pin(when_safe(way, outgoing, response, pass)).await,
            }
        }
        Err(NoAnswer::Nobody(nobody)) => return Err(nobody),
        Err(NoAnswer::Broken(why)) => problem(
            StatusCode::BAD_GATEWAY,
            &format!(
                "an instance of the app {name} ended before it answered ({why}): it may have done what was asked, read before you try again"
            ),
        ),
        Err(NoAnswer::Late) => late(name),
    })
}

/// To the gateway of the region that serves.
pub(super) async fn there(
    way: Way<'_>,
    request: Request<Incoming>,
    region: &Region,
    gateway: &Arc<Upstream>,
) -> Response<GatewayBody> {
    let name = way.site.name();
    if let Some(from) = request.headers().get(HOP) {
        let from = from.to_str().unwrap_or("another region");
        if from == way.client.shared.region.as_str() {
            let detail = format!(
                "the app {name} is served in region {region}, and the address that its gateway tells leads back here: nothing was done; set https in [apps] there"
            );
            return unavailable(AGAIN_THERE, &detail);
        }
        let detail = format!(
            "{from} sent this request for the app {name} here, and here it is known to be in {region}: the regions do not agree yet, try again"
        );
        return unavailable(AGAIN_THERE, &detail);
    }
    let Ok(hop) = HeaderValue::from_str(way.client.shared.region.as_str()) else { return late(name) };
    let mut outgoing = Outgoing::new(way, request, Some(&hop));
    let gateways = Instances::new(Box::new([Arc::clone(gateway)]));
    match send(way, &mut outgoing, &gateways).await {
        Ok(mut response) => {
            part(&outgoing, &mut response);
            send_back(way, &mut outgoing, response.map(GatewayBody::upstream))
        }
        Err(NoAnswer::Nobody(Nobody(why))) => unavailable(
            AGAIN_THERE,
            &format!(
                "the app {name} is served in region {region}, whose gateway cannot be reached from here ({why}): nothing was done, try again"
            ),
        ),
        Err(NoAnswer::Broken(why)) => problem(
            StatusCode::BAD_GATEWAY,
            &format!(
                "the gateway of region {region} ended before it answered for the app {name} ({why}): it may have done what was asked, read before you try again"
            ),
        ),
        Err(NoAnswer::Late) => late(name),
    }
}

fn late(name: &str) -> Response<GatewayBody> {
    problem(
        StatusCode::GATEWAY_TIMEOUT,
        &format!(
            "the app {name} did not answer in time: it may still do what was asked, read before you try again"
        ),
    )
}

fn unsafe_answer(name: &str, why: &str) -> Response<GatewayBody> {
    unavailable(
        AGAIN_HERE,
        &format!(
            "the app {name} has answered, and the answer is held back: {why}; what was asked may have been done and is not safe yet, read before you try again"
        ),
    )
}

/// The answer, once its head may go out.
async fn when_safe(
    way: Way<'_>,
    outgoing: &mut Outgoing,
    response: Response<FromUpstream>,
    pass: &Arc<dyn Pass>,
) -> Response<GatewayBody> {
    let (head, body) = response.into_parts();
    let held = Held::new(body, Arc::clone(pass)).await;
    let allowed = if pass.free() { Ok(()) } else { pass.wait().await };
    match allowed {
        Ok(()) => send_back(way, outgoing, Response::from_parts(head, GatewayBody::held(held))),
        Err(why) => unsafe_answer(way.site.name(), &why),
    }
}

async fn send(
    way: Way<'_>,
    outgoing: &mut Outgoing,
    instances: &Instances,
) -> Result<Response<FromUpstream>, NoAnswer> {
    let trust = way.client.shared.trust.load();
    let limits = &way.client.shared.limits;
    let mut call = Call { trust: trust.as_ref(), fresh: false, upload: outgoing.end.clone(), limits };
    let mut tried = Vec::new();
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let Some((number, instance)) = instances.choose(&tried) else { break };
        let failed = match instance.send(&mut outgoing.request, &call).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        // The same one again only by a connection of its own, and when nobody else is there.
        let once_more = matches!(failed, Failure::Broken(_)) && instances.all().len() == 1 && !call.fresh;
        if !once_more {
            tried.push(number);
        }
        call.fresh = true;
        last = Some(match failed {
            Failure::Late => return Err(NoAnswer::Late),
            Failure::Unsent(error) => error.to_string(),
            Failure::Busy => "too many requests are under way".to_owned(),
            Failure::Broken(error) if outgoing.again() => error.to_string(),
            Failure::Broken(error) => return Err(NoAnswer::Broken(error.to_string())),
        });
    }
    Err(NoAnswer::Nobody(Nobody(last.unwrap_or_else(|| "none has started yet".to_owned()))))
}

/// An answer that came before the end of its request: the rest of the request goes on beside it.
fn part(outgoing: &Outgoing, response: &mut Response<FromUpstream>) {
    if !outgoing.end.is_reached() {
        response.body_mut().part();
    }
}

fn send_back(
    way: Way<'_>,
    outgoing: &mut Outgoing,
    mut response: Response<GatewayBody>,
) -> Response<GatewayBody> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(upgrade) = outgoing.upgrade.take() else {
            let name = way.site.name();
            return problem(
                StatusCode::BAD_GATEWAY,
                &format!("the app {name} changed the protocol, and nobody had asked"),
            );
        };
        tunnel::open(way, upgrade.client, hyper::upgrade::on(&mut response));
    }
    let (mut head, body) = response.into_parts();
    headers::send_back(&mut head);
    Response::from_parts(head, body)
}
