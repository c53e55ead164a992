//! Whom the hub believes besides its devices' own keys, as its settings say: authorities, and groups of devices that may register
//! themselves. Read anew when a setting changes, here or by what came from the other region.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::CertificateDer;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::provision::{ENROLLMENTS, Enrollment, Group};
use crate::registry::{Registry, RegistryError};
use crate::sas::{AUTHORITIES, Authorities, Authority, Issuers};

/// What the settings say.
#[derive(Debug)]
pub(crate) struct Trusted {
    /// Those whose devices may connect. Devices that registered by an enrollment connect with the certificate that they registered
    /// with, so its authority is one of them.
    pub(crate) authorities: Authorities,
    /// Who may register.
    pub(crate) groups: Vec<Group>,
    certificates: HashSet<CertificateDer<'static>>,
}

impl Trusted {
    /// Whether somebody whom `earlier` believed may not be believed any more.
    pub(super) fn believes_less_than(&self, earlier: &Self) -> bool {
        !earlier.certificates.is_subset(&self.certificates)
    }

    fn nothing() -> Self {
        Self { authorities: Authorities::none(), groups: Vec::new(), certificates: HashSet::new() }
    }

    /// What is wrong with one setting, made by another version or merged by hand, keeps no other from counting.
    fn read(registry: &Registry, hub: &str) -> Result<Self, RegistryError> {
        let mut trusted = Self::nothing();
        let ignored = |kind: &str, name: &str, why: &dyn std::fmt::Display| {
            tracing::warn!(hub, kind, name, %why, "a setting cannot be used: it counts for nothing until it is set anew");
        };
        for (name, authority) in settings::<Authority>(registry, AUTHORITIES, ignored)? {
            match Issuers::parse(&authority.pem) {
                Ok(issuers) => trusted.certificates.extend(issuers.certificates().iter().cloned()),
                Err(why) => ignored(AUTHORITIES, &name, &why),
            }
        }
        for (name, enrollment) in settings::<Enrollment>(registry, ENROLLMENTS, ignored)? {
            match enrollment.group() {
                Ok(group) => trusted.groups.push(group),
                Err(why) => {
                    ignored(ENROLLMENTS, &name, &why);
                    continue;
                }
            }
            if let Enrollment::Authority { authority } = &enrollment
                && let Ok(issuers) = Issuers::parse(authority)
            {
                trusted.certificates.extend(issuers.certificates().iter().cloned());
            }
        }
        let certificates: Vec<_> = trusted.certificates.iter().cloned().collect();
        match Authorities::new(&certificates) {
            Ok(authorities) => trusted.authorities = authorities,
            Err(why) => tracing::warn!(hub, %why, "the authorities cannot be used"),
        }
        Ok(trusted)
    }
}

fn settings<T: DeserializeOwned>(
    registry: &Registry,
    kind: &str,
    ignored: impl Fn(&str, &str, &dyn std::fmt::Display),
) -> Result<Vec<(String, T)>, RegistryError> {
    let parsed = registry.settings(kind)?.into_iter().filter_map(|(name, value)| {
        serde_json::from_value(value)
            .map_err(|why| ignored(kind, &name, &why))
            .ok()
            .map(|value| (name, value))
    });
    Ok(parsed.collect())
}

/// What was read last, and at which change of settings.
#[derive(Debug)]
pub(super) struct Trust {
    changes: watch::Receiver<u64>,
    read: RwLock<Option<(u64, Arc<Trusted>)>>,
}

impl Trust {
    pub(super) fn new(registry: &Registry) -> Self {
        Self { changes: registry.settings_changed(), read: RwLock::default() }
    }

    /// What counts now: every change that was answered is in it.
    pub(super) fn now(&self, registry: &Registry, hub: &str) -> Arc<Trusted> {
        let at = *self.changes.borrow();
        let fresh = |read: &Option<(u64, Arc<Trusted>)>| {
            read.as_ref().filter(|(known, _)| *known >= at).map(|(_, trusted)| Arc::clone(trusted))
        };
        if let Some(trusted) = fresh(&self.read.read().unwrap_or_else(PoisonError::into_inner)) {
            return trusted;
        }
        // One reads, and those who come meanwhile wait for it.
        let mut read = self.read.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(trusted) = fresh(&read) {
            return trusted;
        }
        match Trusted::read(registry, hub) {
            Ok(trusted) => {
                let trusted = Arc::new(trusted);
                *read = Some((at, Arc::clone(&trusted)));
                trusted
            }
            Err(error) => {
                tracing::warn!(hub, %error, "the settings cannot be read: what was read before counts");
                read.as_ref().map_or_else(|| Arc::new(Trusted::nothing()), |(_, known)| Arc::clone(known))
            }
        }
    }
}
