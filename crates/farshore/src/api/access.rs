//! What each route needs, said in one place: beside the route's own description.
//!
//! **To add a route**, say in its `#[utoipa::path(...)]` who may use it:
//!
//! - `security(("token" = ["read"]))`: looks only; every role (`farshore_core::access` has the table of roles),
//! - `security(("token" = ["operate"]))`: carries out recoveries and what belongs to them; operator and above,
//! - `security(("token" = ["contribute"]))`: decides what is protected; contributor and above,
//! - `security(("token" = ["administer"]))`: tokens, regions, the certificate authority; admin only,
//! - `security(())`: needs no token at all and says nothing about any item; such routes go into `open_routes`.
//!
//! A route that says nothing is for admins only, and a test fails on it. A handler that changes something takes the
//! asker's name from `Asked::by.who`, or takes a `Caller` as an argument.
//!
//! Must always hold: the right is checked before the body is read.

use std::collections::HashMap;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use farshore_core::access::{Right, Role};
use farshore_core::moment::Moment;
use utoipa::openapi::OpenApi as Document;
use utoipa::openapi::path::{Operation, PathItem};

use super::problem::Problem;
use crate::access::keys::Holder;

/// Who asks: put into the request by the check of its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The token's name; it stands in jobs and in the audit.
    pub(super) name: String,
    pub(super) role: Role,
    /// The token's id and its end; the bootstrap token has none.
    pub(super) token: Option<(String, Moment)>,
}

impl From<Holder> for Caller {
    fn from(Holder { name, role, token, stale: _ }: Holder) -> Self {
        Self { name, role, token }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::of(parts)
    }
}

impl Caller {
    /// Who sent this request. An error on a route that needs no token: nobody did.
    pub(super) fn of(parts: &Parts) -> Result<Self, Problem> {
        let unknown =
            || Problem::new(StatusCode::UNAUTHORIZED, "unauthorised", "nobody is known to have asked this");
        parts.extensions.get().cloned().ok_or_else(unknown)
    }

    /// Refuses who may not do this.
    pub(super) fn check(&self, right: Right) -> Result<(), Problem> {
        if self.role.may(right) {
            return Ok(());
        }
        let detail = format!(
            "this needs the role {}, and the token {} has the role {}: ask an admin for another token \
             (farshore token create NAME --role {})",
            right.least(),
            self.name,
            self.role,
            right.least()
        );
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }
}

/// Which right each route needs, read from the description that is served.
#[derive(Debug, Clone, Default)]
pub(super) struct Rights {
    declared: HashMap<(Method, String), Right>,
}

impl Rights {
    /// From the whole document.
    pub(super) fn of(document: &Document) -> Self {
        let paths = document.paths.paths.iter();
        let declared = paths.flat_map(|(path, item)| {
            operations(item)
                .into_iter()
                .filter_map(|(method, operation)| Some(((method, path.clone()), declared(operation?)?)))
        });
        Self { declared: declared.collect() }
    }

    /// With calls that are described elsewhere.
    pub(super) fn with(mut self, more: Vec<((Method, String), Right)>) -> Self {
        self.declared.extend(more);
        self
    }

    /// What the request needs: to administer, unless its route says otherwise. `HEAD` is a `GET` without the body.
    pub(super) fn needed(&self, method: &Method, path: &str) -> Right {
        let method = if *method == Method::HEAD { Method::GET } else { method.clone() };
        self.declared.get(&(method, path.to_owned())).copied().unwrap_or(Right::Administer)
    }
}

/// The right that the description of a route names.
fn declared(operation: &Operation) -> Option<Right> {
    let security = serde_json::to_value(operation.security.as_ref()?).ok()?;
    security.as_array()?.iter().find_map(|scheme| Right::parse(scheme.get("token")?.get(0)?.as_str()?))
}

fn operations(item: &PathItem) -> [(Method, Option<&Operation>); 5] {
    [
        (Method::GET, item.get.as_ref()),
        (Method::POST, item.post.as_ref()),
        (Method::PUT, item.put.as_ref()),
        (Method::DELETE, item.delete.as_ref()),
        (Method::PATCH, item.patch.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use farshore_core::command::Verb;

    #[test]
    fn every_route_says_what_it_needs() {
        let document = crate::api::document();
        for (path, item) in &document.paths.paths {
            for (method, operation) in operations(item) {
                let Some(operation) = operation else { continue };
                let security = serde_json::to_value(&operation.security).unwrap();
                let open = security == serde_json::json!([{}]);
                assert!(
                    open || declared(operation).is_some(),
                    "{method} {path} says nothing: see the head of api/access.rs"
                );
            }
        }
    }

    #[test]
    fn verbs_need_over_http_what_they_need_in_the_table() {
        let rights = Rights::of(&crate::api::document());
        for verb in Verb::ALL {
            let item = "/api/v1/items/{kind}/{name}";
            let (method, path) = match verb {
                Verb::Create => (Method::POST, "/api/v1/items".to_owned()),
                Verb::Delete => (Method::DELETE, item.to_owned()),
                verb => (Method::POST, format!("{item}/{verb}")),
            };
            assert!(rights.declared.contains_key(&(method.clone(), path.clone())), "{method} {path}");
            assert_eq!(rights.needed(&method, &path), Right::of(verb), "{verb}");
        }
    }

    #[test]
    fn what_is_not_declared_is_for_admins() {
        let rights = Rights::of(&crate::api::document());
        assert_eq!(rights.needed(&Method::GET, "/api/v1/items"), Right::Read);
        assert_eq!(rights.needed(&Method::HEAD, "/api/v1/items"), Right::Read);
        assert_eq!(rights.needed(&Method::PUT, "/api/v1/items"), Right::Administer);
        assert_eq!(rights.needed(&Method::GET, "/nothing"), Right::Administer);
    }
}
