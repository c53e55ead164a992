//! What the other hub lists: twins, a page at a time.

use serde_json::{Map, Value};

use super::ask::{Far, FarError};
use crate::import::{ImportMode, Line, line};
use crate::names::{DeviceId, Key, ModuleId};

/// Twins of a page: each has some kilobytes, and at most some hundred.
const PAGE_LEN: usize = 100;
/// Pages in a row that hold nothing: more are no list.
const EMPTY_PAGES_MAX: usize = 1000;

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Devices,
    Modules,
}

impl Sort {
    fn query(self) -> &'static str {
        match self {
            Self::Devices => "SELECT * FROM devices",
            Self::Modules => "SELECT * FROM devices.modules",
        }
    }
}

/// A list, as far as it was read.
pub(super) struct Pages {
    sort: Sort,
    after: Option<String>,
    size: usize,
    read: usize,
    empty: usize,
    is_over: bool,
}

impl Pages {
    pub(super) fn of(sort: Sort) -> Self {
        Self { sort, after: None, size: PAGE_LEN, read: 0, empty: 0, is_over: false }
    }

    pub(super) fn sort(&self) -> Sort {
        self.sort
    }

    /// Whether the other hub does not know what is asked for, rather than how to give it.
    pub(super) fn is_unknown(&self, error: &FarError) -> bool {
        let FarError::Refused { status, .. } = error else { return false };
        self.sort == Sort::Modules && self.read == 0 && matches!(status, 400 | 404 | 405 | 501)
    }

    /// The next page; `None`: the list is at its end. An error: it is not known how it goes on.
    pub(super) async fn next(&mut self, far: &Far) -> Result<Option<Vec<Value>>, FarError> {
        if self.is_over {
            return Ok(None);
        }
        let listed = loop {
            match far.page(self.sort.query(), self.after.as_deref(), self.size).await {
                // Large twins come in smaller pages.
                Err(FarError::TooLarge { .. }) if self.size > 1 => self.size = (self.size / 4).max(1),
                other => break other?,
            }
        };
        self.read += 1;
        self.empty = if listed.entries.is_empty() { self.empty + 1 } else { 0 };
        if self.empty > EMPTY_PAGES_MAX || (listed.next.is_some() && listed.next == self.after) {
            return Err(far.rubbish("its list", "it does not end"));
        }
        self.is_over = listed.next.is_none();
        self.after = listed.next;
        Ok(Some(listed.entries))
    }
}

/// A twin that was listed.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    /// Etag of the identity; `None`: the other hub does not say.
    pub(super) etag: Option<String>,
    pub(super) twin_etag: Option<String>,
    pub(super) tags: Value,
    /// Without `$version` and `$metadata`.
    pub(super) desired: Value,
    /// As they were listed.
    properties: line::Properties,
}

impl Entry {
    /// Reads an entry; or its id, as far as it has one, and what is wrong.
    pub(super) fn read(listed: &Value, sort: Sort) -> Result<Self, (String, String)> {
        let text = |name: &str| listed[name].as_str().unwrap_or_default();
        let (device, module) = (text("deviceId"), text("moduleId"));
        let shown = || match (device, module) {
            ("", _) => "(no id)".to_owned(),
            (device, "") => device.to_owned(),
            (device, module) => format!("{device}/{module}"),
        };
        let wrong = |why: &dyn std::fmt::Display| (shown(), why.to_string());
        let parsed = DeviceId::parse(device).map_err(|error| wrong(&error))?;
        let module = match (sort, module) {
            (Sort::Devices, "") => None,
            (Sort::Devices, _) => return Err(wrong(&"it is a module in a list of devices")),
            (Sort::Modules, module) => Some(ModuleId::parse(module).map_err(|error| wrong(&error))?),
        };
        let object = |value: &Value, what: &str| match value {
            Value::Null => Ok(Value::Object(Map::new())),
            Value::Object(_) => Ok(value.clone()),
            _ => Err(wrong(&format!("its {what} are no JSON object"))),
        };
        let (desired, reported) = (&listed["properties"]["desired"], &listed["properties"]["reported"]);
        let properties = line::Properties {
            desired: Some(object(desired, "desired properties")?),
            reported: Some(object(reported, "reported properties")?),
        };
        let etag = |name: &str| Some(text(name).to_owned()).filter(|etag| !etag.is_empty());
        Ok(Self {
            etag: etag("deviceEtag"),
            twin_etag: etag("etag"),
            tags: plain(object(&listed["tags"], "tags")?),
            desired: plain(object(desired, "desired properties")?),
            properties,
            key: Key { device: parsed, module },
        })
    }

    /// The twin alone, to be imported.
    pub(super) fn twin_line(&self) -> Line {
        Line {
            id: self.key.device.to_string(),
            module_id: self.key.module.as_ref().map(ToString::to_string),
            import_mode: Some(ImportMode::UpdateTwin.as_str().to_owned()),
            tags: Some(self.tags.clone()),
            properties: Some(self.properties.clone()),
            ..Line::default()
        }
    }

    /// Twin and identity, to be imported.
    pub(super) fn whole_line(&self, identity: Value) -> Result<Line, String> {
        let line = identity_line(&self.key, identity)?;
        Ok(Line {
            twin_etag: self.twin_etag.clone(),
            tags: Some(self.tags.clone()),
            properties: Some(self.properties.clone()),
            ..line
        })
    }
}

/// An identity, as the other hub gives it, to be imported without its twin.
pub(super) fn identity_line(key: &Key, identity: Value) -> Result<Line, String> {
    let Value::Object(mut fields) = identity else {
        return Err("its identity is no JSON object".to_owned());
    };
    let module = key.module.as_ref().map(ModuleId::as_str);
    if fields.get("deviceId").and_then(Value::as_str) != Some(key.device.as_str())
        || fields.get("moduleId").and_then(Value::as_str) != module
    {
        return Err("asked for it, the other hub gives another one".to_owned());
    }
    // A reason that was taken away is to go here, too.
    if module.is_none() && fields.get("statusReason").is_none_or(Value::is_null) {
        fields.insert("statusReason".to_owned(), "".into());
    }
    // Nothing but the identity is taken from here.
    for other in ["tags", "properties", "twinETag", "importMode"] {
        fields.remove(other);
    }
    let mut line: Line = serde_json::from_value(Value::Object(fields))
        .map_err(|error| format!("its identity does not read: {error}"))?;
    check_proof(line.authentication.get_or_insert_default())?;
    Ok(line)
}

/// A device without keys would be given some that nobody knows.
fn check_proof(proof: &mut line::Authentication) -> Result<(), String> {
    let filled = |text: Option<&String>| text.is_some_and(|text| !text.is_empty());
    let has_key = filled(proof.symmetric_key.as_ref().and_then(|keys| keys.primary_key.as_ref()));
    let has_print =
        filled(proof.x509_thumbprint.as_ref().and_then(|prints| prints.primary_thumbprint.as_ref()));
    match proof.kind.as_deref() {
        None if !has_key && !has_print => proof.kind = Some("none".to_owned()),
        Some(kind) if kind.eq_ignore_ascii_case("sas") && !has_key => {
            return Err("its keys are not shown: the policy must be one that may read identities".to_owned());
        }
        _ => {}
    }
    Ok(())
}

fn plain(mut section: Value) -> Value {
    if let Some(members) = section.as_object_mut() {
        members.remove("$metadata");
        members.remove("$version");
    }
    section
}
