//! Who belongs to the cluster: `init`, `join`, and `trust show|issue|join-token`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use farshore_core::ids::Region;
use farshore_core::moment::Moment;
use serde::Serialize;

use super::client::Client;
use super::exit::{FAILED, Failure, REFUSED};
use super::{Global, show};
use crate::api::views::{JoinTokenRequest, JoinTokenView, NodeWord};
use crate::trust::{
    Address, CertRole, JoinError, JoinOptions, LeafOrder, Trust, TrustError, Validity, issue, join,
};

/// The directory of trust within the node's.
const TRUST: &str = "trust";
/// Days that an issued certificate lives at most: nobody renews it by itself, and nobody can take it back.
const ISSUE_DAYS_MAX: u32 = 365;
/// Days that it lives when nobody says: as a node's.
const ISSUE_DAYS: u32 = 30;

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The region of this node
    #[arg(long, value_name = "REGION")]
    region: Region,
    /// Address by which others reach this node, IP or DNS name; may be repeated
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<Address>,
}

#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// A control node of the cluster, for example `https://paris.example.org:7000`
    #[arg(value_name = "URL")]
    control: String,
    /// The join token that `farshore trust join-token` printed
    #[arg(long, env = "FARSHORE_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: String,
    /// The hash of the cluster's authority that `farshore trust show` prints
    #[arg(long, value_name = "sha256:HEX")]
    ca_hash: String,
    /// The region of this node
    #[arg(long, value_name = "REGION")]
    region: Region,
    /// What this node shall be
    #[arg(long, value_enum, value_name = "ROLE")]
    role: NodeWord,
    /// Address by which others reach this node, IP or DNS name; may be repeated
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<Address>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TrustCommand {
    /// Show the certificate of this node, and the hash of the cluster's authority
    Show,
    /// Make a certificate for a program that is not ours: a hypervisor, etcd; on a control node
    Issue(IssueArgs),
    /// Make a token with which one host can join, once
    JoinToken(JoinTokenArgs),
}

#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// What its holder may be
    #[arg(long, value_enum, default_value_t = CertRole::Client, value_name = "ROLE")]
    role: CertRole,
    /// The holder's name, for people
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The holder's region; this node's if absent
    #[arg(long, value_name = "REGION")]
    region: Option<Region>,
    /// Address of a holder that also serves, IP or DNS name; may be repeated
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<Address>,
    /// Days that it lives
    #[arg(long, default_value_t = ISSUE_DAYS, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=i64::from(ISSUE_DAYS_MAX)))]
    days: u32,
    /// Directory for ca-cert.pem, client-cert.pem and client-key.pem
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct JoinTokenArgs {
    /// The role of the node that joins with it
    #[arg(long, value_enum, value_name = "ROLE")]
    role: NodeWord,
    /// The region of the node that joins with it; any if absent
    #[arg(long, value_name = "REGION")]
    region: Option<Region>,
    /// Minutes that it can be used
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    minutes: u32,
}

/// What `show`, `init` and `join` say of this node.
#[derive(Debug, Serialize)]
struct TrustView {
    cluster: String,
    region: String,
    role: String,
    expires_at: String,
    ca_hash: String,
    /// Whether this node can sign.
    authority: bool,
    addresses: Vec<String>,
    dir: String,
}

/// What `issue` wrote.
#[derive(Debug, Serialize)]
struct IssuedView {
    identity: String,
    expires_at: String,
    ca: String,
    certificate: String,
    key: String,
}

pub(super) fn init(global: &Global, args: &InitArgs) -> Result<(), Failure> {
    let dir = trust_dir(global);
    let trust = Trust::init(&dir, &args.cluster, &args.region, &args.addresses, SystemTime::now())?;
    show::print(global, &view(&trust, &dir), |view| {
        let hash = &view.ca_hash;
        format!(
            "the cluster {} has its authority, in {dir}\n\nits hash: {hash}\n\nnext, here: set trust = \"{dir}\" in the node's \
             configuration and start it with farshore node --config FILE\nfor each further node: farshore trust join-token \
             --role control --region REGION here, then there:\n  farshore join https://HOST:PORT --token TOKEN --ca-hash \
             {hash} --region REGION --role control",
            view.cluster,
            dir = view.dir,
        )
    })
}

pub(super) async fn join_cluster(global: &Global, args: JoinArgs) -> Result<(), Failure> {
    let dir = trust_dir(global);
    let options = JoinOptions {
        control: args.control,
        token: args.token,
        ca_hash: args.ca_hash,
        region: args.region,
        role: args.role.into(),
        addresses: args.addresses,
        dir: dir.clone(),
    };
    let trust = join(&options).await?;
    show::print(global, &view(&trust, &dir), |view| {
        format!(
            "this node is {}/{} of the cluster {} now\n\nnext: set trust = \"{}\" in the node's configuration and start it \
             with farshore node --config FILE",
            view.region, view.role, view.cluster, view.dir
        )
    })
}

pub(super) async fn run(global: &Global, command: TrustCommand) -> Result<(), Failure> {
    match command {
        TrustCommand::Show => {
            let dir = trust_dir(global);
            show::print(global, &view(&Trust::open(&dir)?, &dir), shown)
        }
        TrustCommand::Issue(args) => issue_one(global, args),
        TrustCommand::JoinToken(args) => join_token(global, &args).await,
    }
}

fn shown(view: &TrustView) -> String {
    let signs = if view.authority { "has the authority's key: can let others in and renew" } else { "no" };
    let lines = [
        ("cluster", view.cluster.clone()),
        ("region", view.region.clone()),
        ("role", view.role.clone()),
        ("certificate until", view.expires_at.clone()),
        ("addresses", view.addresses.join(", ")),
        ("signs", signs.to_owned()),
        ("authority", view.ca_hash.clone()),
    ];
    lines.iter().map(|(name, value)| format!("{name:<18} {value}\n")).collect()
}

fn issue_one(global: &Global, args: IssueArgs) -> Result<(), Failure> {
    let dir = trust_dir(global);
    let trust = Trust::open(&dir)?;
    let authority =
        trust.authority().ok_or_else(|| TrustError::NoAuthority { path: dir.join(crate::trust::CA_KEY) })?;
    let order = LeafOrder {
        region: args.region.unwrap_or(trust.identity().region),
        role: args.role,
        name: args.name,
        addresses: args.addresses,
    };
    let life = Duration::from_secs(u64::from(args.days) * 24 * 3600);
    let validity = Validity::starting(SystemTime::now(), life);
    let issued = issue(authority, &order, validity, &args.out)?;
    let view = IssuedView {
        identity: format!("farshore://{}/{}/{}", trust.identity().cluster, order.region, order.role),
        expires_at: time(validity.until),
        ca: text(&issued.ca),
        certificate: text(&issued.certificate),
        key: text(&issued.key),
    };
    show::print(global, &view, |view| {
        format!(
            "{}\n{}\n{}\nfor {}, until {}: issue it again before then",
            view.ca, view.certificate, view.key, view.identity, view.expires_at
        )
    })
}

async fn join_token(global: &Global, args: &JoinTokenArgs) -> Result<(), Failure> {
    let request = JoinTokenRequest {
        role: args.role,
        region: args.region.as_ref().map(ToString::to_string),
        expires_in_seconds: Some(u64::from(args.minutes) * 60),
    };
    let made: JoinTokenView = Client::find(global)?.post("/join-tokens", &request).await?;
    let hash = Trust::open(&trust_dir(global)).map(|trust| trust.ca_hash());
    let hash = hash.unwrap_or_else(|_| "sha256:HEX".to_owned());
    show::print(global, &made, |made| {
        let region = made.region.as_deref().unwrap_or("REGION");
        let role = CertRole::from(made.role);
        format!(
            "{}\n\nlets one node in, once, until {}; on its host:\n  farshore join https://HOST:PORT --token {} --ca-hash {hash} \
             --region {region} --role {role}",
            made.token, made.expires_at, made.token
        )
    })
}

fn trust_dir(global: &Global) -> PathBuf {
    global.data_dir().join(TRUST)
}

fn view(trust: &Trust, dir: &Path) -> TrustView {
    let identity = trust.identity();
    TrustView {
        cluster: identity.cluster,
        region: identity.region.to_string(),
        role: identity.role.to_string(),
        expires_at: time(trust.expires_at()),
        ca_hash: trust.ca_hash(),
        authority: trust.authority().is_some(),
        addresses: trust.leaf().addresses().iter().map(ToString::to_string).collect(),
        dir: text(dir),
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn time(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).to_string()
}

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Name(_) | TrustError::Address(_) => Self::usage(error.to_string()),
            TrustError::AlreadyThere { .. } => Self { code: REFUSED, text: error.to_string() },
            _ => Self { code: FAILED, text: error.to_string() },
        }
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Hash(_) => Self::usage(error.to_string()),
            JoinError::Taken { .. } => Self { code: REFUSED, text: error.to_string() },
            JoinError::Refused { .. } => Self { code: FAILED, text: error.to_string() },
            JoinError::Trust(error) => error.into(),
        }
    }
}
