//! Where the demo plays: regions as real processes, and what a person sees meanwhile.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::{Broken, Client};
use super::link;
use super::report::StepReport;
use crate::config::StoreKind;
use crate::node::{NodeReady, READY_FILE};
use crate::up::{Cluster, ClusterOptions, Line};

/// Recovery points come this often, so that a demo of a minute has some.
const POINT_SECONDS: u64 = 2;
#[derive(Debug)]
pub(super) struct Stage {
    cluster: Cluster,
    data: PathBuf,
    line: link::Line,
    bar: ProgressBar,
}

impl Stage {
    pub(super) async fn set(data: &Path, store: StoreKind, steps: u64) -> io::Result<Self> {
        let line = link::Line::default();
        let laid = line.clone();
        let options = ClusterOptions {
            point_seconds: POINT_SECONDS,
            line: Some(Line(std::sync::Arc::new(move |far| laid.lay(far)))),
            ..match store {
                StoreKind::Redb => ClusterOptions::new(data),
                StoreKind::Etcd => ClusterOptions::with_etcd(data),
            }
        };
        let cluster = Cluster::start(options).await.map_err(io::Error::other)?;
        let target = if io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("{spinner} [{bar:9}] {pos}/{len} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(steps), target).with_style(style);
        bar.enable_steady_tick(std::time::Duration::from_millis(120));
        Ok(Self { cluster, data: data.to_owned(), line, bar })
    }

    /// The API as a client knows it: all control nodes.
    pub(super) fn client(&self) -> Result<Client, Broken> {
        Client::of(self.cluster.apis(), self.cluster.token(), self.cluster.ca_file())
    }

    /// The cluster's certificate authority, when everything is TLS.
    pub(super) fn ca_file(&self) -> Option<&Path> {
        self.cluster.ca_file()
    }

    /// A client that asks the node of one region and no other.
    pub(super) fn client_at(&self, api: &str) -> Result<Client, Broken> {
        Client::of(&[api.to_owned()], self.cluster.token(), self.cluster.ca_file())
    }

    /// Base URLs of all control nodes.
    pub(super) fn apis(&self) -> &[String] {
        self.cluster.apis()
    }

    /// What is about to happen.
    pub(super) fn says(&self, what: &str) {
        if self.bar.is_hidden() {
            eprintln!("… {what}");
        }
        self.bar.set_message(what.to_owned());
    }

    /// What has happened.
    pub(super) fn did(&self, step: &StepReport) {
        let mark = match step.verified {
            Some(false) => "✗",
            _ => "✓",
        };
        let line = format!("{mark} {} ({:.2} s)", step.step, step.seconds);
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
        self.bar.inc(1);
    }

    /// The line to oslo.
    pub(super) fn line(&self) -> &link::Line {
        &self.line
    }

    /// SIGKILL to every process of the region.
    pub(super) async fn kill(&mut self, region: &str) -> io::Result<()> {
        self.cluster.kill(region).await
    }

    pub(super) async fn start(&mut self, region: &str) -> io::Result<()> {
        self.cluster.start_region(region).await.map_err(io::Error::other)
    }

    /// The raw files of the machine's disks in a region.
    pub(super) fn disk_files(&self, region: &str) -> [PathBuf; 2] {
        let disks = self.data.join(region).join("machines/web-1/disks");
        [disks.join("root.raw"), disks.join("data.raw")]
    }

    /// Where back ends of a region's device hubs call.
    pub(super) fn hubs_https(&self, region: &str) -> io::Result<SocketAddr> {
        let ready = std::fs::read(self.data.join(region).join(READY_FILE))?;
        let ready: NodeReady = serde_json::from_slice(&ready)?;
        ready
            .hubs
            .map(|hubs| hubs.https)
            .ok_or_else(|| io::Error::other(format!("{region} serves no device hubs")))
    }

    /// A directory of the demo's own.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// Ends the picture; the cluster goes on.
    pub(super) fn curtain(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }
}
