//! Direct methods: called once, answered by the device that is connected, or not at all.
//!
//! A method is never sent twice: not to a device's next connection, not after a failover. Whoever called is told at once when the
//! connection ends, and decides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Fleet;
use super::live::{Answer, Live, NotCalled};
use crate::names::Key;

/// Largest payload of a method, in bytes of JSON; from the contract of the official SDKs.
pub const METHOD_BYTES_MAX: usize = 128 * 1024;

/// Longest time that a caller may wait for the device, and for its answer.
pub const METHOD_WAIT_MAX: Duration = Duration::from_secs(300);

/// A call of a device's method.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodCall {
    /// Which one.
    pub name: String,
    /// Its argument; null: none.
    pub payload: Value,
    /// How long to wait for the answer.
    pub response_timeout: Duration,
    /// How long to wait for the device to connect; zero: it must be connected.
    pub connect_timeout: Duration,
}

/// Why a method was not answered. Only of the first four is it known that the device did not run it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvokeError {
    /// Another region serves this hub, or none does.
    #[error("this hub does not serve here now: ask the active region")]
    NotServing,
    /// There is no such device or module.
    #[error("{0} does not exist")]
    Unknown(Key),
    /// It is not connected, or has not subscribed to methods.
    #[error("{0} is not online: connect it, or wait for it longer (connectTimeoutInSeconds)")]
    NotOnline(Key),
    /// Refused before it was sent.
    #[error("{0}")]
    Refused(String),
    /// No answer in time. The device may have run it.
    #[error("{key} did not answer within {} s; it may have run the method", waited.as_secs_f32())]
    TimedOut {
        /// Who.
        key: Key,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The connection ended before the answer. The device may have run it.
    #[error("{0} was disconnected before it answered; it may have run the method")]
    Disconnected(Key),
    /// The answer is not JSON.
    #[error("{0} ran the method and answered with something that is not JSON")]
    BadAnswer(Key),
    /// The registry could not be read.
    #[error("{0}")]
    Storage(String),
}

/// A call that was given to a connection. Dropped before its answer, it is taken back if it was not sent yet.
struct Called {
    live: Arc<Live>,
    rid: u64,
    answered: oneshot::Receiver<Answer>,
}

impl Drop for Called {
    fn drop(&mut self) {
        self.live.give_up(self.rid);
    }
}

impl Fleet {
    /// Calls a method and waits for its answer: its status and payload.
    ///
    /// # Errors
    /// [`InvokeError`]. Dropped or failed, nothing is called later.
    pub async fn invoke(&self, key: &Key, call: MethodCall) -> Result<(i32, Value), InvokeError> {
        let opening = self.gate().opening().ok_or(InvokeError::NotServing)?;
        let known = self.registry().get(key).map_err(|error| InvokeError::Storage(error.to_string()))?;
        if known.is_none() {
            return Err(InvokeError::Unknown(key.clone()));
        }
        let body = body(&call)?;
        let mut called = self.reach(key, &call, &body).await?;
        let waited = call.response_timeout.min(METHOD_WAIT_MAX);
        let (status, body) = match timeout_at(Instant::now() + waited, &mut called.answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if !self.gate().is_open_as(opening) => return Err(InvokeError::NotServing),
            Ok(Err(_)) => return Err(InvokeError::Disconnected(key.clone())),
            Err(_) => return Err(InvokeError::TimedOut { key: key.clone(), waited }),
        };
        Ok((status, answer(&body).ok_or_else(|| InvokeError::BadAnswer(key.clone()))?))
    }

    /// Gives the call to the device's connection, waiting for one as long as the caller wants to.
    async fn reach(&self, key: &Key, call: &MethodCall, body: &Bytes) -> Result<Called, InvokeError> {
        let until = Instant::now() + call.connect_timeout.min(METHOD_WAIT_MAX);
        let mut arrivals = self.sessions().arrivals();
        loop {
            arrivals.borrow_and_update();
            if let Some(live) = self.sessions().get(key) {
                let rid = self.sessions().number();
                match live.call(rid, &call.name, body.clone()) {
                    Ok(answered) => return Ok(Called { live, rid, answered }),
                    Err(NotCalled::TooMany) => {
                        return Err(InvokeError::Refused(format!(
                            "{key} has {} methods to answer already: wait for their answers",
                            super::live::METHODS_WAITING_MAX
                        )));
                    }
                    Err(NotCalled::Away) => {}
                }
            }
            if !matches!(timeout_at(until, arrivals.changed()).await, Ok(Ok(()))) {
                return Err(InvokeError::NotOnline(key.clone()));
            }
            if self.gate().opening().is_none() {
                return Err(InvokeError::NotServing);
            }
        }
    }
}

fn body(call: &MethodCall) -> Result<Bytes, InvokeError> {
    let refused = |why: &str| Err(InvokeError::Refused(why.to_owned()));
    if call.name.is_empty() || call.name.len() > 100 || call.name.contains(['/', '#', '+', '\0']) {
        return refused("a method's name has 1 to 100 characters, without / # and +");
    }
    let body = serde_json::to_vec(&call.payload).expect("JSON can always be written");
    if body.len() > METHOD_BYTES_MAX {
        return refused("a method's payload has at most 128 KiB of JSON");
    }
    Ok(body.into())
}

/// An empty answer is null.
fn answer(body: &[u8]) -> Option<Value> {
    if body.is_empty() { Some(Value::Null) } else { serde_json::from_slice(body).ok() }
}
