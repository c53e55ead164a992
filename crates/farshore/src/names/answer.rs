//! A name's entry, and its answers: signed once for a span of time, then only handed out.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use axum::body::Bytes;
use axum::http::HeaderValue;
use farshore_core::directory::{Standing, Window, answer_ttl};
use farshore_core::ids::Token;
use farshore_core::moment::Moment;
use sha2::{Digest as _, Sha256};

use super::concierge::{AnswerView, EndpointView};
use super::signature::SigningKey;
use crate::engine::DirectoryRecord;

/// Answers of one window that differ only in when to ask again: so many signatures in a window, at most. Clients
/// that began together are apart after a few questions.
pub(super) const JITTERS: usize = 8;

/// Bytes of the hash that an entity tag shows.
const TAG_LEN: usize = 12;

/// A name and its record, and the answers made from it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) token: Token,
    pub(super) record: DirectoryRecord,
    /// Hash of all that an answer says but its times.
    tag: String,
    cache_control: HeaderValue,
    answers: RwLock<Option<Arc<Answers>>>,
}

/// The answers of one window.
#[derive(Debug)]
struct Answers {
    window: Window,
    tag: HeaderValue,
    signed: [OnceLock<Signed>; JITTERS],
}

#[derive(Debug, Clone)]
struct Signed {
    body: Bytes,
    signature: HeaderValue,
}

/// An answer, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) body: Bytes,
    pub(super) signature: HeaderValue,
    pub(super) tag: HeaderValue,
    pub(super) cache_control: HeaderValue,
}

impl Entry {
    pub(super) fn new(name: String, incarnation: u64, record: DirectoryRecord) -> Self {
        let token = Token::new(incarnation, record.epoch);
        let ttl = answer_ttl(record.ttl_seconds);
        let mut hash = Sha256::new();
        for part in
            [&name, record.region.as_str(), &token.to_string(), &ttl.to_string(), &record.since.to_string()]
        {
            hash.update(part);
            hash.update([0]);
        }
        for endpoint in &record.endpoints {
            hash.update(&endpoint.name);
            hash.update([0]);
            hash.update(&endpoint.uri);
            hash.update([0]);
        }
        let tag = hash.finalize().iter().take(TAG_LEN).map(|byte| format!("{byte:02x}")).collect();
        let cache_control = header(&format!("max-age={ttl}"));
        Self { name, token, record, tag, cache_control, answers: RwLock::new(None) }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing { token: self.token, since: self.record.since }
    }

    pub(super) fn ttl_seconds(&self) -> u32 {
        answer_ttl(self.record.ttl_seconds)
    }

    /// The tag that an answer has in the window of `now`.
    pub(super) fn tag_at(&self, now: Moment) -> HeaderValue {
        self.answers_at(Window::at(now)).tag.clone()
    }

    pub(super) fn cache_control(&self) -> HeaderValue {
        self.cache_control.clone()
    }

    /// The answer at `now`; which of those that differ in when to ask again is chosen by `chance`. Signs only what
    /// nobody asked for in this window.
    pub(super) fn answer(&self, key: &SigningKey, now: Moment, chance: usize) -> Answer {
        let answers = self.answers_at(Window::at(now));
        let jitter = chance % JITTERS;
        let Signed { body, signature } =
            answers.signed[jitter].get_or_init(|| self.signed(key, answers.window, jitter)).clone();
        Answer { body, signature, tag: answers.tag.clone(), cache_control: self.cache_control.clone() }
    }

    fn answers_at(&self, window: Window) -> Arc<Answers> {
        let known = self.answers.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known.filter(|known| known.window == window) {
            return known;
        }
        let made = Arc::new(Answers {
            window,
            tag: header(&format!("W/\"{}-{:x}\"", self.tag, window.number())),
            signed: Default::default(),
        });
        // Two that come at once may both sign: what they sign is the same.
        *self.answers.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&made));
        made
    }

    fn signed(&self, key: &SigningKey, window: Window, jitter: usize) -> Signed {
        let view = self.view(window, jitter);
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_vec(&view).unwrap_or_default();
        Signed { signature: header(&key.header_for(&body)), body: body.into() }
    }

    fn view(&self, window: Window, jitter: usize) -> AnswerView {
        let ttl = self.ttl_seconds();
        AnswerView {
            name: self.name.clone(),
            item: self.record.item.to_string(),
            incarnation: self.token.incarnation,
            epoch: self.token.epoch.0,
            active: self.record.region.to_string(),
            endpoints: self.record.endpoints.iter().map(EndpointView::from).collect(),
            ttl,
            since: self.record.since.to_string(),
            not_after: window.not_after().to_string(),
            poll_after: poll_after(ttl, jitter),
        }
    }
}

/// Seconds until a client asks again: between half of the time to live and all of it.
fn poll_after(ttl_seconds: u32, jitter: usize) -> f64 {
    let steps = u32::try_from(jitter % JITTERS).unwrap_or_default() + 1;
    let step_millis = ttl_seconds * 500 / u32::try_from(JITTERS).unwrap_or(1);
    f64::from(ttl_seconds * 500 + steps * step_millis) / 1000.0
}

/// Only for texts of visible ASCII, which are always valid.
pub(super) fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_ask_again_within_the_time_to_live() {
        for ttl in [5, 30] {
            for jitter in 0..JITTERS {
                let after = poll_after(ttl, jitter);
                assert!(after > f64::from(ttl) / 2.0 && after <= f64::from(ttl), "{ttl} {jitter} {after}");
            }
        }
        assert!(poll_after(5, 0) < poll_after(5, 1));
    }
}
