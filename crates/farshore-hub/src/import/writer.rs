//! Identities, out: as they were at one moment, ordered by their keys.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::line::{Authentication, Capabilities, Line, Properties, SymmetricKey, Thumbprints};
use crate::record::{Auth, Device, Section};
use crate::registry::{Registry, RegistryError};

/// Whether keys are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// They are.
    Included,
    /// They are left out.
    Excluded,
}

/// Writes all identities, a line of JSON each, and returns how many. Changes meanwhile are not in it.
///
/// # Errors
/// The writer's; and the registry's as [`io::ErrorKind::Other`].
pub fn export(registry: &Registry, out: &mut impl Write, keys: Keys) -> io::Result<u64> {
    let (mut count, mut failed) = (0, None);
    registry
        .walk(|device| {
            let written = serde_json::to_writer(&mut *out, &line_of(&device, keys))
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
            count += 1;
            failed = written.err();
            failed.is_none()
        })
        .map_err(|error: RegistryError| io::Error::other(error))?;
    match failed {
        Some(error) => Err(error),
        None => out.flush().map(|()| count),
    }
}

/// A device or module as a line.
#[must_use]
pub fn line_of(device: &Device, keys: Keys) -> Line {
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let is_device = device.key.module.is_none();
    Line {
        id: device.key.device.to_string(),
        module_id: device.key.module.as_ref().map(ToString::to_string),
        generation_id: Some(device.generation.to_string()),
        etag: Some(device.etag.clone()),
        import_mode: None,
        status: is_device.then(|| if device.enabled { "enabled" } else { "disabled" }.to_owned()),
        status_reason: filled(&device.reason),
        authentication: Some(authentication(&device.auth, keys)),
        twin_etag: Some(device.twin_etag.clone()),
        tags: Some(device.tags.clone()),
        properties: Some(Properties {
            desired: Some(section(&device.desired)),
            reported: Some(section(&device.reported)),
        }),
        capabilities: is_device.then_some(Capabilities { iot_edge: device.scope.edge }),
        device_scope: device.scope.device.clone(),
        parent_scopes: (!device.scope.parents.is_empty()).then(|| device.scope.parents.clone()),
    }
}

fn authentication(auth: &Auth, keys: Keys) -> Authentication {
    let mut written = Authentication { kind: Some(auth.kind().to_owned()), ..Authentication::default() };
    match auth {
        Auth::Sas { primary, secondary } => {
            let key = |key: &String| (keys == Keys::Included).then(|| key.clone());
            written.symmetric_key =
                Some(SymmetricKey { primary_key: key(primary), secondary_key: key(secondary) });
        }
        Auth::SelfSigned { primary_thumbprint, secondary_thumbprint } => {
            written.x509_thumbprint = Some(Thumbprints {
                primary_thumbprint: primary_thumbprint.clone(),
                secondary_thumbprint: secondary_thumbprint.clone(),
            });
        }
        Auth::Authority | Auth::None => {}
    }
    written
}

fn section(section: &Section) -> Value {
    let mut value = section.value.clone();
    if let Some(members) = value.as_object_mut() {
        members.insert("$metadata".into(), section.metadata.clone());
        members.insert("$version".into(), json!(section.version));
    }
    value
}
