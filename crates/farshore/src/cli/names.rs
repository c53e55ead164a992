//! Where a name is active, as the concierges of several nodes say and sign it.

use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::Global;
use super::client::{authority_file, base_url, http_believing, known_nodes, reason};
use super::exit::{FAILED, Failure};
use super::show::{self, sheet};
use crate::engine::now;
use crate::names::client::{Highest, Known, token_of};
use crate::names::concierge::STALE_HEADER;
use crate::names::{AnswerView, KeysView, PublicKey, SIGNATURE_HEADER};

/// A server that does not answer within this is left out: others do.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Longest answer that is read.
const ANSWER_LEN_MAX: usize = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct ResolveArgs {
    /// The name: NAME.KIND, as in web-1.machine
    name: String,
    /// The cluster's public key for names, as GET /concierge/v1/keys shows it; without it the servers' word is taken
    #[arg(long, value_name = "BASE64")]
    key: Option<String>,
    /// A server to ask; give several; otherwise those of --api
    #[arg(long = "server", value_name = "URL")]
    servers: Vec<String>,
}

/// The newest answer, and how it was come by.
#[derive(Debug, Serialize, Deserialize)]
struct ResolvedView {
    #[serde(flatten)]
    answer: AnswerView,
    /// Who said it.
    server: String,
    /// Since when that server could not reach the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale_since: Option<String>,
    /// Whether the key was known beforehand.
    key_given: bool,
    /// Servers that gave no answer to be used, and why.
    left_out: Vec<String>,
}

/// What one server said, checked.
struct Said {
    server: String,
    answer: AnswerView,
    stale_since: Option<String>,
}

pub(super) async fn resolve(global: &Global, args: &ResolveArgs) -> Result<(), Failure> {
    let ca_file = authority_file(global).or_else(|| known_nodes(global).and_then(|(_, ca_file)| ca_file));
    let http = http_believing(ca_file.as_deref())?;
    let servers = servers(global, args)?;
    let given = args.key.as_deref().map(PublicKey::from_base64).transpose();
    let given = given.map_err(|error| Failure::usage(format!("--key: {error}")))?;
    let asked = servers.iter().map(|server| ask(&http, server, &args.name, given.as_ref()));
    let (mut said, mut left_out) = (Vec::new(), Vec::new());
    for (server, answer) in servers.iter().zip(join_all(asked).await) {
        match answer {
            Ok(answer) => said.push(answer),
            Err(why) => left_out.push(format!("{server}: {why}")),
        }
    }
    let Some(Said { server, answer, stale_since }) =
        said.into_iter().max_by_key(|said| token_of(&said.answer))
    else {
        let text = format!("nobody could say where {} is:\n  {}", args.name, left_out.join("\n  "));
        return Err(Failure { code: FAILED, text });
    };
    let view = ResolvedView { answer, server, stale_since, key_given: given.is_some(), left_out };
    show::print(global, &view, page)
}

fn servers(global: &Global, args: &ResolveArgs) -> Result<Vec<String>, Failure> {
    let listed = global.api.iter().flat_map(|apis| apis.split(',')).map(base_url);
    let mut servers: Vec<String> = if args.servers.is_empty() {
        listed.collect()
    } else {
        args.servers.iter().map(|url| base_url(url)).collect()
    };
    if servers.is_empty() {
        servers = known_nodes(global).map(|(nodes, _)| nodes).unwrap_or_default();
    }
    if servers.is_empty() {
        return Err(Failure::usage("say whom to ask: --server URL, for each control node"));
    }
    Ok(servers)
}

async fn ask(
    http: &reqwest::Client,
    server: &str,
    name: &str,
    given: Option<&PublicKey>,
) -> Result<Said, String> {
    let key = match given {
        Some(key) => key.clone(),
        None => key_of(http, server).await?,
    };
    let (head, body) = get(http, &format!("{server}/concierge/v1/{name}")).await?;
    let header = |name: &str| head.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let signature = header(SIGNATURE_HEADER).unwrap_or_default();
    let answer = Known::new(key, Highest::default())
        .check(name, &body, &signature, now())
        .map_err(|refused| refused.to_string())?;
    Ok(Said { server: server.to_owned(), answer, stale_since: header(STALE_HEADER) })
}

async fn key_of(http: &reqwest::Client, server: &str) -> Result<PublicKey, String> {
    let (_, body) = get(http, &format!("{server}/concierge/v1/keys")).await?;
    let keys: KeysView = serde_json::from_slice(&body).map_err(|_| "it shows no keys".to_owned())?;
    let first = keys.keys.first().ok_or_else(|| "it shows no keys".to_owned())?;
    PublicKey::from_base64(&first.public).map_err(|error| error.to_string())
}

async fn get(http: &reqwest::Client, url: &str) -> Result<(reqwest::header::HeaderMap, Vec<u8>), String> {
    let mut answer = http.get(url).timeout(ANSWER_DEADLINE).send().await.map_err(|error| reason(&error))?;
    let (status, head) = (answer.status(), answer.headers().clone());
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| reason(&error))? {
        body.extend_from_slice(&part);
        if body.len() > ANSWER_LEN_MAX {
            return Err("its answer is too long".to_owned());
        }
    }
    if status.is_success() {
        return Ok((head, body));
    }
    let problem = serde_json::from_slice::<crate::api::Problem>(&body);
    Err(problem.map_or_else(|_| format!("it answered {status}"), |problem| problem.detail))
}

fn page(view: &ResolvedView) -> String {
    let answer = &view.answer;
    let mut rows = vec![
        ("name", answer.name.clone()),
        ("active", answer.active.clone()),
        ("token", token_of(answer).to_string()),
        ("since", answer.since.clone()),
    ];
    rows.extend(
        answer.endpoints.iter().map(|endpoint| ("endpoint", format!("{} {}", endpoint.name, endpoint.uri))),
    );
    rows.push(("good until", answer.not_after.clone()));
    rows.push(("said by", view.server.clone()));
    if let Some(since) = &view.stale_since {
        rows.push(("warning", format!("that server has not reached the store since {since}")));
    }
    if !view.key_given {
        rows.push(("warning", "the key is the server's own word: give it with --key".to_owned()));
    }
    rows.extend(view.left_out.iter().map(|why| ("left out", why.clone())));
    sheet(&rows)
}
