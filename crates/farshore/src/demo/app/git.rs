//! The developer: pushes the scripts with the real git, and clones them again from the same URL.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Command;

use super::address::Place;
use crate::demo::client::{Broken, broken};

/// What is pushed: the example that has a page of its own in the docs.
const FILES: [(&str, &str); 2] = [
    ("server.js", include_str!("../../../../../examples/todo/server.js")),
    ("package.json", include_str!("../../../../../examples/todo/package.json")),
];

/// A developer's copy of the scripts.
#[derive(Debug)]
pub(super) struct Developer {
    dir: PathBuf,
    url: String,
    password: String,
}

impl Developer {
    /// Makes a repository with one commit.
    pub(super) async fn begin(dir: PathBuf, url: &str, password: &str) -> Result<Self, Broken> {
        let developer = Self { dir, url: url.to_owned(), password: password.to_owned() };
        let work = developer.work();
        std::fs::create_dir_all(&work).map_err(broken)?;
        for (name, text) in FILES {
            std::fs::write(work.join(name), text).map_err(broken)?;
        }
        developer.git(&work, None, &["init", "--quiet", "--initial-branch=main"]).await?;
        developer.git(&work, None, &["add", "--all"]).await?;
        developer.git(&work, None, &["commit", "--quiet", "--message=A todo service"]).await?;
        developer.git(&work, None, &["remote", "add", "farshore", &developer.url]).await?;
        Ok(developer)
    }

    /// What the remote said.
    pub(super) async fn push(&self, at: &Place) -> Result<String, Broken> {
        self.git(&self.work(), Some(at), &["push", "farshore", "main"]).await
    }

    /// The tree that was pushed.
    pub(super) async fn tree(&self) -> Result<String, Broken> {
        self.tree_of(&self.work()).await
    }

    /// Clones from the same URL, wherever it leads now; the tree that came.
    pub(super) async fn clone_again(&self, at: &Place) -> Result<String, Broken> {
        let clone = self.dir.join(format!("clone-{}", at.region));
        let into = clone.to_string_lossy().into_owned();
        self.git(&self.dir, Some(at), &["clone", "--quiet", &self.url, &into]).await?;
        self.tree_of(&clone).await
    }

    fn work(&self) -> PathBuf {
        self.dir.join("todo")
    }

    async fn tree_of(&self, dir: &Path) -> Result<String, Broken> {
        Ok(self.git(dir, None, &["rev-parse", "HEAD^{tree}"]).await?.trim().to_owned())
    }

    /// Both outputs of git. The password is in its environment and not in its arguments, which others can see.
    async fn git(&self, dir: &Path, at: Option<&Place>, args: &[&str]) -> Result<String, Broken> {
        let mut git = Command::new("git");
        git.current_dir(dir).args(args).stdin(Stdio::null()).kill_on_drop(true);
        let who = [("NAME", "Farshore demo"), ("EMAIL", "demo@farshore.invalid")];
        for (key, value) in who {
            git.env(format!("GIT_AUTHOR_{key}"), value).env(format!("GIT_COMMITTER_{key}"), value);
        }
        git.env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0");
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            git.env_remove(name);
        }
        if let Some(at) = at {
            for (index, (key, value)) in self.way(at)?.into_iter().enumerate() {
                git.env(format!("GIT_CONFIG_KEY_{index}"), key)
                    .env(format!("GIT_CONFIG_VALUE_{index}"), value);
            }
            git.env("GIT_CONFIG_COUNT", "2");
        }
        let output = git.output().await.map_err(|error| {
            broken(format!("cannot run git ({error}): install it, for example with apt-get install git"))
        })?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match output.status.success() {
            true => Ok(said),
            false => Err(broken(format!("git {}: {}", args.first().unwrap_or(&""), said.trim()))),
        }
    }

    /// Where the name leads at the moment, and what lets the developer in.
    fn way(&self, at: &Place) -> Result<[(&'static str, String); 2], Broken> {
        let url: reqwest::Url = self.url.parse().map_err(broken)?;
        let host = url.host_str().ok_or_else(|| broken("the git URL has no host"))?;
        let port = url.port_or_known_default().unwrap_or(80);
        let login = STANDARD.encode(format!("deploy:{}", self.password));
        Ok([
            ("http.curloptResolve", format!("{host}:{port}:{}", at.http.ip())),
            ("http.extraHeader", format!("Authorization: Basic {login}")),
        ])
    }
}
