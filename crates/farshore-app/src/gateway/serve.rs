//! From a request to its answer.

use std::sync::Arc;

use farshore_core::ids::Region;
use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::body::GatewayBody;
use super::client::{Busy, Client};
use super::forward::{self, Nobody, Outgoing, Way};
use super::live::{Instances, Live, Who};
use super::problem::{page, problem, unavailable};
use super::site::{CameFrom, Pass, Site, UnderWay, is_probe};
use super::table::{Route, host};
use super::upstream::Upstream;

/// Answers one request of this client. The future is moved for each request: what is rare is in a box.
pub(super) async fn serve(client: Arc<Client>, mut request: Request<Incoming>) -> Response<GatewayBody> {
    let busy = Busy::start(&client);
    let Route { site, git } = match route(&client, &request) {
        Ok(route) => route,
        Err(refused) => return *refused,
    };
    let version = request.version();
    let mut under_way = UnderWay::start(Arc::clone(&site));
    let live = Arc::clone(under_way.live());
    let way = Way { client: &client, site: &site };
    let mut response = match decide(&site, &live, git, &request) {
        Decision::Answer(response) => *response,
        Decision::Scripts => {
            request.extensions_mut().insert(CameFrom(client.from));
            site.git().call(request).await
        }
        Decision::Here(instances, pass) => {
            let mut outgoing = Outgoing::new(way, request, None);
            match forward::here(way, &mut outgoing, instances, pass).await {
                Ok(response) => response,
                Err(nobody) => Box::pin(elsewhere(way, &mut outgoing, &mut under_way, nobody)).await,
            }
        }
        Decision::There(region, gateway) => Box::pin(forward::there(way, request, region, gateway)).await,
    };
    if response.status().is_server_error() {
        site.count_error();
    }
    if site.has_turned_since(client.opened()) {
        leave(&client, version, &mut response);
    }
    response.map(|body| body.counted(under_way, busy))
}

/// Instances may have been replaced while a request looked for one: those that are there now get it, once.
async fn elsewhere(
    way: Way<'_>,
    outgoing: &mut Outgoing,
    under_way: &mut UnderWay,
    nobody: Nobody,
) -> Response<GatewayBody> {
    let is_other = under_way.renew();
    let live = Arc::clone(under_way.live());
    let answer = match &live.who {
        Who::Here { instances, pass } if is_other => {
            forward::here(way, outgoing, instances, pass.as_ref()).await
        }
        _ => Err(nobody),
    };
    answer.unwrap_or_else(|nobody| nobody.answer(way.site.name()))
}

fn route(client: &Client, request: &Request<Incoming>) -> Result<Route, Box<Response<GatewayBody>>> {
    match host(request.uri(), request.headers()) {
        Ok(host) => {
            client.shared.table.load().find(&host).cloned().ok_or_else(|| Box::new(unknown(client, &host)))
        }
        Err(error) => Err(Box::new(problem(StatusCode::BAD_REQUEST, &error.to_string()))),
    }
}

/// The client is to connect again: its name may lead elsewhere by now.
fn leave(client: &Client, version: Version, response: &mut Response<GatewayBody>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    match version {
        Version::HTTP_2 => client.leave(),
        _ => drop(response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
    }
}

fn unknown(client: &Client, host: &str) -> Response<GatewayBody> {
    let region = &client.shared.region;
    problem(
        StatusCode::NOT_FOUND,
        &format!(
            "no app is called {host} in region {region}: check the name, or add it to an app as one of its hosts"
        ),
    )
}

/// Who answers a request.
enum Decision<'a> {
    Answer(Box<Response<GatewayBody>>),
    Scripts,
    Here(&'a Instances, Option<&'a Arc<dyn Pass>>),
    There(&'a Region, &'a Arc<Upstream>),
}

fn decide<'a>(site: &Site, live: &'a Live, git: bool, request: &Request<Incoming>) -> Decision<'a> {
    let answer = |response| Decision::Answer(Box::new(response));
    if request.method() == Method::CONNECT {
        let advice = "this is no proxy: ask for what you want by its own name";
        return answer(problem(StatusCode::METHOD_NOT_ALLOWED, advice));
    }
    match &live.who {
        Who::Recovering { why, retry_after } => answer(unavailable(*retry_after, &recovering(site, why))),
        Who::There { region, gateway } => Decision::There(region, gateway),
        Who::Here { .. } | Who::Empty if git => Decision::Scripts,
        Who::Empty => answer(empty(site, request)),
        Who::Here { instances, pass } => {
            if site.keys().admits(request.method(), request.uri().path(), request.headers()) {
                Decision::Here(instances, pass.as_ref())
            } else {
                answer(no_key(site))
            }
        }
    }
}

fn recovering(site: &Site, why: &str) -> String {
    let name = site.name();
    format!(
        "the app {name} is being recovered: {why}; nothing was done, try again after the time in Retry-After"
    )
}

fn no_key(site: &Site) -> Response<GatewayBody> {
    let name = site.name();
    problem(
        StatusCode::UNAUTHORIZED,
        &format!(
            "the app {name} needs its application key in the header X-ZUMO-APPLICATION, and this request has none or a wrong one"
        ),
    )
}

/// What an app answers before anything is deployed.
fn empty(site: &Site, request: &Request<Incoming>) -> Response<GatewayBody> {
    let name = site.name();
    if is_probe(request.method(), request.uri().path()) {
        return Response::new(GatewayBody::empty());
    }
    let advice = format!(
        "the app {name} is here, and nothing is deployed yet: push to its git URL, or deploy a directory"
    );
    if request.uri().path() == "/" && *request.method() == Method::GET {
        return page(StatusCode::OK, format!("{advice}\n"));
    }
    problem(StatusCode::NOT_FOUND, &advice)
}
