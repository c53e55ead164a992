//! Who is called how: read by every request, replaced as a whole.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::header::HOST;
use http::{HeaderMap, Uri};

use super::site::Site;

/// Where a host name leads.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) site: Arc<Site>,
    /// It is for scripts, not for the app.
    pub(super) git: bool,
}

/// The sites of a gateway, by name and by host.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    sites: HashMap<String, Arc<Site>>,
    hosts: HashMap<String, Route>,
}

impl Table {
    pub(super) fn find(&self, host: &str) -> Option<&Route> {
        self.hosts.get(host)
    }

    pub(super) fn sites(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.sites.values()
    }

    pub(super) fn site(&self, name: &str) -> Option<&Arc<Site>> {
        self.sites.get(name)
    }

    /// With this site in place of the one of the same name; or which host is taken, by whom.
    pub(super) fn with(&self, site: Arc<Site>) -> Result<Self, String> {
        let mut table = self.without(site.name());
        for (host, git) in site.hosts() {
            table.check(host, site.name())?;
            table.hosts.insert(host.to_owned(), Route { site: Arc::clone(&site), git });
        }
        table.sites.insert(site.name().to_owned(), site);
        Ok(table)
    }

    /// Whether the app of this name may have the host; or who has it.
    pub(super) fn check(&self, host: &str, name: &str) -> Result<(), String> {
        match self.hosts.get(host) {
            Some(Route { site: owner, .. }) if owner.name() != name => {
                Err(format!("the host {host} is taken by the app {}", owner.name()))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn without(&self, name: &str) -> Self {
        let mut table = self.clone();
        table.sites.remove(name);
        table.hosts.retain(|_, route| route.site.name() != name);
        table
    }
}

/// What is wrong with how a request says whom it is for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoHost {
    #[error("the request names no host: send the header Host, with the app's name")]
    Missing,
    #[error("the request has more than one header Host: send one, with the app's name")]
    Several,
    #[error("the header Host is not text: send the app's name")]
    NotText,
}

/// The name that a request is for: in lower case, without port and final dot. What the target of the request says (HTTP/2, or
/// a whole URI) comes before the header.
pub(super) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<Cow<'a, str>, NoHost> {
    if let Some(host) = uri.host() {
        return Ok(plain(host));
    }
    let mut all = headers.get_all(HOST).iter();
    let first = all.next().ok_or(NoHost::Missing)?;
    if all.next().is_some() {
        return Err(NoHost::Several);
    }
    let text = first.to_str().map_err(|_| NoHost::NotText)?;
    Ok(plain(without_port(text.trim())))
}

/// `[::1]:80` has colons before its port.
fn without_port(text: &str) -> &str {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => text,
    }
}

fn plain(host: &str) -> Cow<'_, str> {
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(target: &str, headers: &[&'static str], expected: Result<&str, NoHost>) {
        let uri: Uri = target.parse().unwrap();
        let mut map = HeaderMap::new();
        for value in headers {
            map.append(HOST, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        assert_eq!(
            host(&uri, &map).as_deref(),
            expected.as_ref().map(|host| &**host),
            "{target} {headers:?}"
        );
    }

    #[test]
    fn a_request_is_for_the_name_without_case_port_and_dot() {
        check("/", &["todo.example"], Ok("todo.example"));
        check("/", &["Todo.EXAMPLE.:8080"], Ok("todo.example"));
        check("/", &["todo.example."], Ok("todo.example"));
        check("/", &["[::1]:8080"], Ok("[::1]"));
        check("/", &["[::1]"], Ok("[::1]"));
        check("http://A.example:81/x", &["b.example"], Ok("a.example"));
        check("/", &[], Err(NoHost::Missing));
        check("/", &["a", "b"], Err(NoHost::Several));
        check("/", &["\u{fc}"], Err(NoHost::NotText));
    }
}
