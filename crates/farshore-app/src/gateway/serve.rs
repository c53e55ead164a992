//! From a request to its answer.

use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::body::GatewayBody;
use super::client::{Busy, Client};
use super::forward::{self, Way};
use super::problem::{page, problem, unavailable};
use super::site::{Live, Site, UnderWay, is_probe};
use super::table::{Route, host};

/// Answers one request of this client.
pub(super) async fn serve(client: Arc<Client>, request: Request<Incoming>) -> Response<GatewayBody> {
    let busy = Busy::start(&client);
    let found = match host(request.uri(), request.headers()) {
        Ok(host) => client.shared.table.load().find(&host).cloned().ok_or_else(|| unknown(&client, &host)),
        Err(error) => Err(problem(StatusCode::BAD_REQUEST, &error.to_string())),
    };
    let Route { site, git } = match found {
        Ok(route) => route,
        Err(refused) => return refused,
    };
    let version = request.version();
    let under_way = UnderWay::start(site);
    let site = under_way.site();
    let mut response = answer(&client, site, git, request).await;
    if response.status().is_server_error() {
        site.count_error();
    }
    if site.has_turned_since(client.opened()) {
        leave(&client, version, &mut response);
    }
    response.map(|body| body.counted(under_way, busy))
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

async fn answer(
    client: &Arc<Client>,
    site: &Arc<Site>,
    git: bool,
    request: Request<Incoming>,
) -> Response<GatewayBody> {
    if request.method() == Method::CONNECT {
        return problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "this is no proxy: ask for what you want by its own name",
        );
    }
    let live = site.live();
    match &*live {
        Live::Recovering { why, retry_after } => unavailable(*retry_after, &recovering(site, why)),
        Live::Here { .. } | Live::Empty if git => site.git().call(request).await,
        Live::Empty => empty(site, &request),
        Live::Here { instances, pass } => {
            if !site.keys().admits(request.method(), request.uri().path(), request.headers()) {
                return no_key(site);
            }
            forward::here(Way { client, site }, request, instances, pass.as_deref()).await
        }
        Live::There { region, gateway } => {
            forward::there(Way { client, site }, request, region, gateway).await
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
