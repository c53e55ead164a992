//! Which of git's requests a URL asks for.

use http::Method;

/// What a client wants of the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Clone or fetch.
    Fetch,
    /// Push.
    Push,
}

/// A request that git understands, as the program wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) service: Service,
    /// Below the repository.
    pub(super) path: &'static str,
    pub(super) query: &'static str,
}

/// Why a URL leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nowhere {
    /// Nothing has that path.
    Unknown,
    /// It has another method.
    Method,
    /// The protocol of before 2010, file by file.
    Dumb,
}

/// Reads a request: the repository is at `/NAME.git` and at the root of the host.
pub(super) fn route(name: &str, method: &Method, path: &str, query: Option<&str>) -> Result<Asked, Nowhere> {
    let named = path.strip_prefix('/').and_then(|path| path.strip_prefix(name)?.strip_prefix(".git"));
    let below = named.filter(|rest| rest.starts_with('/')).unwrap_or(path);
    match below {
        "/info/refs" => {
            need(method, &Method::GET)?;
            let asks = |service: &str| query.unwrap_or_default().split('&').any(|pair| pair == service);
            let (service, query) = match () {
                () if asks("service=git-upload-pack") => (Service::Fetch, "service=git-upload-pack"),
                () if asks("service=git-receive-pack") => (Service::Push, "service=git-receive-pack"),
                () => return Err(Nowhere::Dumb),
            };
            Ok(Asked { service, path: "/info/refs", query })
        }
        "/git-upload-pack" => {
            need(method, &Method::POST)?;
            Ok(Asked { service: Service::Fetch, path: "/git-upload-pack", query: "" })
        }
        "/git-receive-pack" => {
            need(method, &Method::POST)?;
            Ok(Asked { service: Service::Push, path: "/git-receive-pack", query: "" })
        }
        _ => Err(Nowhere::Unknown),
    }
}

fn need(method: &Method, wanted: &Method) -> Result<(), Nowhere> {
    if method == wanted { Ok(()) } else { Err(Nowhere::Method) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(method: &Method, url: &str) -> String {
        let (path, query) = url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
        match route("todo", method, path, query) {
            Ok(asked) => format!("{:?} {}?{}", asked.service, asked.path, asked.query),
            Err(nowhere) => format!("{nowhere:?}"),
        }
    }

    #[test]
    fn the_repository_is_at_its_name_and_at_the_root() {
        for root in ["", "/todo.git"] {
            let get = |rest: &str| shown(&Method::GET, &format!("{root}{rest}"));
            let post = |rest: &str| shown(&Method::POST, &format!("{root}{rest}"));
            assert_eq!(get("/info/refs?service=git-upload-pack"), "Fetch /info/refs?service=git-upload-pack");
            assert_eq!(
                get("/info/refs?service=git-receive-pack"),
                "Push /info/refs?service=git-receive-pack"
            );
            assert_eq!(post("/git-upload-pack"), "Fetch /git-upload-pack?");
            assert_eq!(post("/git-receive-pack"), "Push /git-receive-pack?");
            assert_eq!(get("/info/refs"), "Dumb");
            assert_eq!(get("/git-receive-pack"), "Method");
            assert_eq!(get("/HEAD"), "Unknown");
            assert_eq!(get("/objects/info/packs"), "Unknown");
        }
    }

    #[test]
    fn other_names_and_paths_lead_nowhere() {
        for url in [
            "/",
            "/todo",
            "/todo.git",
            "/other.git/info/refs",
            "/todo.gitx/info/refs",
            "/../info/refs",
            "/todo.git/../x",
        ] {
            assert_eq!(shown(&Method::GET, &format!("{url}?service=git-upload-pack")), "Unknown", "{url}");
        }
        assert_eq!(shown(&Method::GET, "/info/refs?service=git-upload-archive"), "Dumb");
    }
}
