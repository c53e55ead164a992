//! Policies: named pairs of keys, and what each opens.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::super::ApiState;
use super::super::access::Caller;
use super::super::body::Asked;
use super::super::paired::Paired;
use super::super::problem::{Problem, Refusals};
use super::super::views::{HubKeysRequest, HubPolicyRequest, HubPolicyView, NoParameters};
use super::{KIND, may_see_keys, once, one_key, queried, shown};

/// The rights that there are.
const RIGHTS: [&str; 4] = ["RegistryRead", "RegistryWrite", "ServiceConnect", "DeviceConnect"];

/// Whether keys are shown.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WithKeys {
    /// With their keys; needs the right to contribute, and is audited.
    #[serde(default)]
    pub(super) keys: bool,
}

/// All policies.
#[utoipa::path(get, path = "/api/v1/hubs/{name}/policies", tag = "hubs",
    security(("token" = ["read"])), params(("name" = String, Path), WithKeys),
    responses((status = 200, body = Vec<HubPolicyView>), Refusals))]
pub(super) async fn list(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    query: Result<Query<WithKeys>, QueryRejection>,
    caller: Caller,
) -> Result<Json<Vec<HubPolicyView>>, Problem> {
    let keys = queried(query)?.keys;
    let hub = Paired::find(&state, KIND, &name).await?;
    if keys {
        may_see_keys(&hub, &caller, "the keys of all policies").await?;
    }
    let mut policies: Vec<HubPolicyView> = hub.ask_either(&json!({"ask": "policies"})).await?;
    if !keys {
        policies.iter_mut().for_each(without_keys);
    }
    Ok(Json(policies))
}

fn without_keys(policy: &mut HubPolicyView) {
    (policy.primary, policy.secondary) = (None, None);
}

/// Makes a policy, or says what the one of this name opens from now on. Its keys stay.
#[utoipa::path(put, path = "/api/v1/hubs/{name}/policies/{policy}", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubPolicyRequest,
    params(("name" = String, Path), ("policy" = String, Path)),
    responses((status = 200, body = HubPolicyView), Refusals))]
pub(super) async fn set(
    State(state): State<ApiState>,
    Path((name, policy)): Path<(String, String)>,
    asked: Asked<HubPolicyRequest>,
) -> Result<Json<HubPolicyView>, Problem> {
    check_name(&policy)?;
    let rights = asked.body.rights;
    if rights.is_empty() {
        return Err(Problem::invalid(format!("rights: name at least one of {}", RIGHTS.join(", "))));
    }
    if let Some(other) = rights.iter().find(|right| !RIGHTS.contains(&right.as_str())) {
        return Err(Problem::invalid(format!(
            "rights: there is no {other:?}; there are {}",
            RIGHTS.join(", ")
        )));
    }
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| {
        format!("asked to give the policy {policy} of {hub} {}", rights.join(", "))
    })
    .await?;
    let question = json!({"ask": "set-policy", "name": policy, "rights": rights});
    let mut set: HubPolicyView = hub.ask_active(&question).await?;
    without_keys(&mut set);
    Ok(Json(set))
}

/// Takes a policy away: its keys open nothing any more.
#[utoipa::path(delete, path = "/api/v1/hubs/{name}/policies/{policy}", tag = "hubs",
    security(("token" = ["contribute"])), params(("name" = String, Path), ("policy" = String, Path)),
    responses((status = 200, body = Object), Refusals))]
pub(super) async fn delete(
    State(state): State<ApiState>,
    Path((name, policy)): Path<(String, String)>,
    asked: Asked<NoParameters>,
) -> Result<Json<Value>, Problem> {
    let hub = Paired::find(&state, KIND, &name).await?;
    hub.audit(&asked.by.who, |hub| format!("asked to delete the policy {} of {hub}", shown(&policy))).await?;
    Ok(Json(hub.ask_active(&json!({"ask": "delete-policy", "name": policy})).await?))
}

/// Makes one key of a policy anew. The old one opens nothing any more, in both regions.
#[utoipa::path(post, path = "/api/v1/hubs/{name}/policies/{policy}/regenerate", tag = "hubs",
    security(("token" = ["contribute"])), request_body = HubKeysRequest,
    params(("name" = String, Path), ("policy" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 200, body = HubPolicyView), Refusals))]
pub(super) async fn regenerate(
    State(state): State<ApiState>,
    Path((name, policy)): Path<(String, String)>,
    asked: Asked<HubKeysRequest>,
) -> Result<Json<HubPolicyView>, Problem> {
    let which = one_key(asked.body.which)?;
    let hub = Paired::find(&state, KIND, &name).await?;
    let said = shown(&policy);
    hub.audit(&asked.by.who, |hub| {
        format!("asked to make the {which} key of the policy {said} of {hub} anew")
    })
    .await?;
    let question = json!({"ask": "regenerate", "policy": policy, "which": which});
    let again = json!({"ask": "policies", "name": policy});
    let answer: Value = once(&state, &hub, asked.by, &question, &again).await?;
    one(answer, &policy).map(Json)
}

/// The policy itself, or the one of this name in a list of them.
fn one(answer: Value, name: &str) -> Result<HubPolicyView, Problem> {
    let found = match answer {
        Value::Array(all) => all.into_iter().find(|policy| policy["name"] == name).unwrap_or_default(),
        one => one,
    };
    serde_json::from_value(found).map_err(|_| {
        let detail = "the region gave an answer that is not known here: are all nodes of one version?";
        Problem::new(axum::http::StatusCode::BAD_GATEWAY, "bad-answer", detail)
    })
}

fn check_name(name: &str) -> Result<(), Problem> {
    /// As the contract of the SDKs has it.
    const NAME_LEN_MAX: usize = 64;
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_known) {
        true => Err(Problem::invalid("policy: its name has 1 to 64 letters, digits and -_.")),
        false => Ok(()),
    }
}
