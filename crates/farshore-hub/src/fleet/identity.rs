//! Who may connect: what a device shows, held against what the registry says of it.

use farshore_core::moment::Moment;

use crate::mqtt::behind::Hello;
use crate::names::Key;
use crate::registry::{Auth, Device};
use crate::sas::token::CLOCK_SKEW_GRACE;
use crate::sas::{Authorities, KeyMark, Policy, Refused, Rights, Token, certificate, policy};

/// What a connection is held against.
pub(crate) struct Known<'a> {
    /// The names of this hub; empty: any.
    pub(crate) hosts: &'a [String],
    /// Who connects, as registered; `None`: unknown.
    pub(crate) device: Option<&'a Device>,
    /// Of a module: the device it is part of.
    pub(crate) parent: Option<&'a Device>,
    /// Read only when a token names one.
    pub(crate) policies: &'a dyn Fn() -> Vec<Policy>,
    pub(crate) authorities: &'a Authorities,
    pub(crate) now: Moment,
}

/// Why somebody is not let in. While the registry is behind, none of these is certain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rejected {
    #[error("the user name is for host {0:?}, which is not this hub")]
    Host(String),
    #[error("it is not registered")]
    Unknown,
    #[error("it is disabled")]
    Disabled,
    #[error("{0}")]
    Proof(String),
}

/// What somebody was let in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proof {
    /// Until when it counts.
    pub(crate) expires: Option<Moment>,
    /// The key of a policy; `None`: the device's own.
    pub(crate) policy: Option<KeyMark>,
}

/// Whether this is who it says it is, and may connect.
pub(crate) fn check(hello: &Hello, known: &Known<'_>) -> Result<Proof, Rejected> {
    if !is_ours(&hello.host, known.hosts) {
        return Err(Rejected::Host(hello.host.clone()));
    }
    let device = known.device.ok_or(Rejected::Unknown)?;
    if hello.key.module.is_some() && !known.parent.ok_or(Rejected::Unknown)?.enabled {
        return Err(Rejected::Disabled);
    }
    if !device.enabled {
        return Err(Rejected::Disabled);
    }
    match &hello.password {
        Some(text) => token(text, hello, device, known),
        None => certificate(hello, device, known).map(|()| Proof { expires: None, policy: None }),
    }
}

fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = |text: &str| text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    hosts.is_empty() || hosts.iter().any(|ours| name(ours) == name(host))
}

fn token(text: &str, hello: &Hello, device: &Device, known: &Known<'_>) -> Result<Proof, Rejected> {
    let proof = |why: &dyn ToString| Rejected::Proof(why.to_string());
    let token = Token::parse(text).map_err(|bad| proof(&bad))?;
    let path = path(&hello.key);
    let only = [hello.host.clone()];
    let hosts = if known.hosts.is_empty() { &only[..] } else { known.hosts };
    let Some(host) = hosts.iter().find(|host| token.covers(host, &path)) else {
        return Err(proof(&Refused::Resource));
    };
    let mut by = None;
    if token.policy().is_some() {
        let policies = (known.policies)();
        let rights = policy::authorize(&token, &policies, host, &path, known.now)
            .map_err(|refused| proof(&refused))?;
        if !rights.include(Rights::DEVICE_CONNECT) {
            return Err(proof(&Refused::Rights));
        }
        by = KeyMark::of_token(&token, &policies, known.now);
    } else {
        let Auth::Sas { primary, secondary } = &device.auth else {
            return Err(proof(&"it is registered with a certificate, and showed a token"));
        };
        token.verify(&[primary, secondary], known.now).map_err(|refused| proof(&refused))?;
    }
    // The grace that let it in lets it stay.
    Ok(Proof { expires: Some(token.expires().after(CLOCK_SKEW_GRACE)), policy: by })
}

fn certificate(hello: &Hello, device: &Device, known: &Known<'_>) -> Result<(), Rejected> {
    let chain = &hello.certificates;
    let checked = match &device.auth {
        Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => {
            let registered: Vec<&str> = [primary_thumbprint, secondary_thumbprint]
                .into_iter()
                .flatten()
                .map(String::as_str)
                .collect();
            certificate::check_thumbprint(chain, &registered, known.now)
        }
        Auth::Authority => known.authorities.check(chain, hello.key.device.as_str(), known.now),
        Auth::Sas { .. } | Auth::None => {
            return Err(Rejected::Proof(
                "it showed no token and is not registered with a certificate".into(),
            ));
        }
    };
    checked.map_err(|bad| Rejected::Proof(bad.to_string()))
}

fn path(key: &Key) -> Vec<&str> {
    let mut path = vec!["devices", key.device.as_str()];
    path.extend(key.module.iter().flat_map(|module| ["modules", module.as_str()]));
    path
}
