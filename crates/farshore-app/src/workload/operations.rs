//! What takes longer than an answer may: started by a question, followed by others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

/// Operations that are remembered: the last ones.
const KEPT_MAX: usize = 32;
/// Lines of one operation; what comes after that is left out.
const LINES_MAX: usize = 10_000;

/// The operations of one app since the node was started.
#[derive(Debug, Default)]
pub(super) struct Operations {
    all: Mutex<VecDeque<Arc<Operation>>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) id: String,
    pub(super) kind: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    /// `None`: it runs.
    end: Option<Result<Value, String>>,
}

impl Operations {
    fn all(&self) -> MutexGuard<'_, VecDeque<Arc<Operation>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new one.
    pub(super) fn begin(&self, kind: &'static str) -> Arc<Operation> {
        let mut random = [0_u8; 8];
        // Without random numbers ids are still unique here: the count goes in.
        let _ = SystemRandom::new().fill(&mut random);
        let mut all = self.all();
        let id = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let operation = Arc::new(Operation { id, kind, state: Mutex::default() });
        all.push_back(Arc::clone(&operation));
        while all.len() > KEPT_MAX {
            all.pop_front();
        }
        operation
    }

    /// The one of this id.
    pub(super) fn get(&self, id: &str) -> Option<Arc<Operation>> {
        self.all().iter().find(|operation| operation.id == id).cloned()
    }

    /// The newest that runs.
    pub(super) fn running(&self) -> Option<Arc<Operation>> {
        self.all().iter().rev().find(|operation| operation.state().end.is_none()).cloned()
    }
}

impl Operation {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who follow it.
    pub(super) fn say(&self, line: impl Into<String>) {
        let mut state = self.state();
        if state.lines.len() < LINES_MAX {
            state.lines.push(line.into());
        }
    }

    /// It is over.
    pub(super) fn end(&self, how: Result<Value, String>) {
        self.state().end = Some(how);
    }

    /// `{id, kind, state, lines, result, error}`, with the lines after the first `after`.
    pub(super) fn view(&self, after: usize) -> Value {
        let state = self.state();
        let (word, result, error) = match &state.end {
            None => ("running", Value::Null, Value::Null),
            Some(Ok(result)) => ("done", result.clone(), Value::Null),
            Some(Err(error)) => ("failed", Value::Null, json!(error)),
        };
        json!({
            "id": self.id, "kind": self.kind, "state": word,
            "lines": state.lines.get(after..).unwrap_or_default(),
            "result": result, "error": error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_followed_to_its_end() {
        let operations = Operations::default();
        let one = operations.begin("deploy");
        one.say("building");
        one.say("built");
        assert_eq!(operations.running().unwrap().id, one.id);
        assert_eq!(one.view(1)["lines"], json!(["built"]));
        one.end(Err("it did not listen".to_owned()));
        let seen = operations.get(&one.id).unwrap().view(9);
        assert_eq!((&seen["state"], &seen["error"]), (&json!("failed"), &json!("it did not listen")));
        assert!(operations.running().is_none());
    }

    #[test]
    fn only_the_last_are_remembered() {
        let operations = Operations::default();
        let first = operations.begin("restart").id.clone();
        for _ in 0..KEPT_MAX {
            operations.begin("restart");
        }
        assert!(operations.get(&first).is_none());
    }
}
