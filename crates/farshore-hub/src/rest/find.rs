//! Queries over twins.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{self, Body};
use super::error::RestError;
use super::hub::{Hub, broken};
use super::serve::Asked;
use super::{request, twin};
use crate::names::{DeviceId, Key};
use crate::query::{Query, Select, Source};

/// Rows of a page, when the caller says nothing, and at most.
const PAGE_LEN_MAX: usize = 1000;

/// Rows looked at between two chances for others to run: about a millisecond.
const SCAN_LEN: usize = 200;

const CONTINUATION: HeaderName = HeaderName::from_static("x-ms-continuation");
const ITEM_TYPE: HeaderName = HeaderName::from_static("x-ms-item-type");

#[derive(Debug, Deserialize)]
struct QueryBody {
    query: String,
}

/// `POST /devices/query`
pub(super) async fn query(hub: &Hub, asked: &Asked) -> Result<Response<Body>, RestError> {
    let body: QueryBody = request::json(&asked.body)?;
    let query = parsed(Query::parse(&body.query))?;
    let size = request::number(
        request::header(&asked.parts, "x-ms-max-item-count"),
        "x-ms-max-item-count",
        PAGE_LEN_MAX,
        PAGE_LEN_MAX,
    )?;
    let after = request::header(&asked.parts, "x-ms-continuation").map(continued).transpose()?;
    if let Select::Count(name) = &query.select {
        let count = count(hub, &query).await?;
        return Ok(rows(&[json!({ name.as_str(): count })], "Raw", None));
    }
    let (found, next) = page(hub, &query, after, size).await?;
    let kind = if query.select == Select::All { "Twin" } else { "Raw" };
    Ok(rows(&found, kind, next.as_ref()))
}

/// A query, or what is wrong with it.
pub(super) fn parsed(query: Result<Query, crate::query::BadQuery>) -> Result<Query, RestError> {
    query.map_err(|error| RestError::argument(error.to_string()))
}

fn rows(rows: &[Value], kind: &str, next: Option<&Key>) -> Response<Body> {
    let mut response = answer::json(&rows);
    answer::set(&mut response, ITEM_TYPE, kind);
    if let Some(next) = next {
        answer::set(&mut response, CONTINUATION, &URL_SAFE_NO_PAD.encode(next.to_string()));
    }
    response
}

/// After which key to go on.
fn continued(token: &str) -> Result<Key, RestError> {
    let key = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    key.and_then(|key| Key::parse(&key).ok())
        .ok_or_else(|| RestError::argument("x-ms-continuation is not one that this hub gave out"))
}

/// Up to `size` rows after a key, and after which key there may be more.
async fn page(
    hub: &Hub,
    query: &Query,
    after: Option<Key>,
    size: usize,
) -> Result<(Vec<Value>, Option<Key>), RestError> {
    let mut scan = Scan::new(query, after)?;
    let mut found = Vec::new();
    while let Some(documents) = scan.next(hub).await? {
        for (key, document) in documents {
            if query.matches(&document) {
                found.push(query.project(document));
                if found.len() == size {
                    return Ok((found, Some(key)));
                }
            }
        }
    }
    Ok((found, None))
}

async fn count(hub: &Hub, query: &Query) -> Result<u64, RestError> {
    let counts = hub.registry().counts();
    match (query.source, &query.condition) {
        (Source::Devices, None) => return Ok(counts.devices),
        (Source::Modules, None) => return Ok(counts.modules),
        _ => {}
    }
    let mut scan = Scan::new(query, None)?;
    let mut count = 0;
    while let Some(documents) = scan.next(hub).await? {
        count += documents.iter().filter(|(_, document)| query.matches(document)).count() as u64;
    }
    Ok(count)
}

/// Keys of all devices that match.
pub(super) async fn keys(hub: &Hub, query: &Query) -> Result<Vec<Key>, RestError> {
    let mut scan = Scan::new(query, None)?;
    let mut found = Vec::new();
    while let Some(documents) = scan.next(hub).await? {
        found.extend(
            documents.into_iter().filter(|(_, document)| query.matches(document)).map(|(key, _)| key),
        );
    }
    Ok(found)
}

/// Twins in the order of their keys, some at a time.
struct Scan {
    source: Source,
    after: Option<Key>,
    /// The only devices that can match, in order, where the query names them.
    only: Option<std::vec::IntoIter<DeviceId>>,
    is_over: bool,
}

impl Scan {
    fn new(query: &Query, after: Option<Key>) -> Result<Self, RestError> {
        if query.source == Source::Jobs {
            return Err(RestError::argument("ask GET /jobs/v2/query for jobs"));
        }
        let only = query.device_ids().map(|ids| {
            // A text that is no id names no device.
            let mut ids: Vec<DeviceId> = ids.into_iter().filter_map(|id| DeviceId::parse(id).ok()).collect();
            ids.sort();
            ids.dedup();
            ids.into_iter()
        });
        Ok(Self { source: query.source, after, only, is_over: false })
    }

    /// The next twins; `None` at the end.
    async fn next(&mut self, hub: &Hub) -> Result<Option<Vec<(Key, Value)>>, RestError> {
        if self.is_over {
            return Ok(None);
        }
        let devices = match &mut self.only {
            Some(ids) => named(hub, ids, self.source)?,
            None => hub.registry().page(self.after.as_ref(), SCAN_LEN).map_err(broken)?,
        };
        match (&self.only, devices.last()) {
            (Some(ids), _) => self.is_over = ids.as_slice().is_empty(),
            (None, Some(last)) => self.after = Some(last.key.clone()),
            (None, None) => self.is_over = true,
        }
        let after = self.only.as_ref().and(self.after.as_ref());
        let wanted = devices.iter().filter(|device| {
            device.key.module.is_some() == (self.source == Source::Modules)
                && after.is_none_or(|after| device.key > *after)
        });
        let documents =
            wanted.map(|device| Ok((device.key.clone(), twin::view(device, hub.live(&device.key)?))));
        let documents = documents.collect::<Result<Vec<_>, RestError>>()?;
        tokio::task::yield_now().await;
        Ok(Some(documents))
    }
}

fn named(
    hub: &Hub,
    ids: &mut std::vec::IntoIter<DeviceId>,
    source: Source,
) -> Result<Vec<std::sync::Arc<crate::record::Device>>, RestError> {
    let mut devices = Vec::new();
    for id in ids.take(SCAN_LEN) {
        match source {
            Source::Modules => devices.extend(hub.registry().modules(&id).map_err(broken)?),
            _ => devices.extend(hub.registry().get(&Key::device(id)).map_err(broken)?),
        }
    }
    Ok(devices)
}
