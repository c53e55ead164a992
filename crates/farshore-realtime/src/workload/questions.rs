//! What a hub's operator asks: keys, endpoints, handlers, figures.

use std::sync::atomic::Ordering;

use farshore_core::workload::StepError;
use serde::Deserialize;
use serde_json::{Value, json};

use super::item::Item;
use super::spec::new_key;
use crate::handler::EventHandler;
use crate::live::LiveHub;
use crate::token::ConnectionString;

/// What can be asked; the field `ask` says which.
#[derive(Debug, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
enum Question {
    Keys,
    Regenerate { key: WhichKey },
    Endpoints,
    Handlers,
    SetHandlers { handlers: Vec<EventHandler> },
    SetMembers { members: Vec<String> },
    SetAudiences { audiences: Vec<String> },
    Stats,
    Drain { per_second: u32 },
    Negotiate,
    Health,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum WhichKey {
    Primary,
    Secondary,
}

fn wrong(what: impl std::fmt::Display) -> StepError {
    StepError::Fatal { what: what.to_string() }
}

/// What is wrong with the handlers that a question is about to set, by asking them. They are set whether or not they answer
/// now: an application's server may come later. Takes as long as they do, so nothing may be held meanwhile.
pub(super) async fn look_at_handlers(hub: &LiveHub, question: &Value) -> Vec<String> {
    let Ok(Question::SetHandlers { handlers }) = serde_json::from_value(question.clone()) else {
        return Vec::new();
    };
    let looks = handlers.iter().map(|handler| hub.handlers.validate(handler, hub.name(), hub.origin()));
    let looks = futures_util::future::join_all(looks).await;
    looks.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect()
}

impl Item {
    /// Answers a question of the operator's. Nothing of it is logged: answers may hold keys.
    pub(super) fn ask(&mut self, question: &Value) -> Result<Value, StepError> {
        let question: Question = serde_json::from_value(question.clone())
            .map_err(|error| wrong(format!("{} cannot be asked that: {error}", self.card.item)))?;
        match question {
            Question::Keys => Ok(self.keys()),
            Question::Regenerate { key } => {
                self.change_settings(|settings| match key {
                    WhichKey::Primary => settings.keys.primary = new_key(),
                    WhichKey::Secondary => settings.keys.secondary = new_key(),
                })?;
                Ok(self.keys())
            }
            Question::Endpoints => Ok(json!({ "url": self.around.url, "pair_url": self.around.pair_url })),
            Question::Handlers => Ok(json!({ "handlers": self.hub.settings().handlers })),
            Question::SetHandlers { handlers } => self.set_handlers(handlers),
            Question::SetMembers { members } => self.set_members(&members),
            Question::SetAudiences { audiences } => {
                self.change_settings(|settings| settings.audiences.clone_from(&audiences))?;
                Ok(json!({ "audiences": audiences }))
            }
            Question::Stats => Ok(self.stats()),
            Question::Drain { per_second } => Ok(json!({ "closing": self.drain(per_second) })),
            Question::Negotiate => Ok(json!(self.pair.advice())),
            Question::Health => Ok(json!({ "members": self.pair.health() })),
        }
    }

    fn keys(&self) -> Value {
        let keys = &self.hub.settings().keys;
        json!({ "primary": keys.primary.expose(), "secondary": keys.secondary.expose() })
    }

    fn set_handlers(&mut self, handlers: Vec<EventHandler>) -> Result<Value, StepError> {
        for handler in &handlers {
            handler.check().map_err(wrong)?;
        }
        self.change_settings(|settings| settings.handlers.clone_from(&handlers))?;
        Ok(json!({ "handlers": handlers }))
    }

    fn set_members(&mut self, members: &[String]) -> Result<Value, StepError> {
        let parsed: Result<Vec<_>, _> = members.iter().map(|text| ConnectionString::parse(text)).collect();
        let parsed = parsed.map_err(wrong)?;
        let endpoints: Vec<_> = parsed.iter().map(|member| member.endpoint.clone()).collect();
        self.change_settings(|settings| settings.members = parsed)?;
        Ok(json!({ "members": endpoints }))
    }

    fn stats(&self) -> Value {
        let (counts, counters) = (self.hub.counts(), &self.hub.counters);
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "connections": counts.attached,
            "sessions": counts.sessions,
            "reliable_sessions": counts.reliable,
            "copies_of_the_other_region": counts.copies,
            "groups": counts.groups,
            "users": counts.users,
            "opened": get(&counters.opened),
            "recovered": get(&counters.recovered),
            "refused": get(&counters.refused),
            "adopted": get(&counters.adopted),
            "calls": get(&counters.calls),
            "client_frames": get(&counters.frames),
            "events": get(&counters.events),
            "promised_alone": get(&counters.alone),
        })
    }
}
