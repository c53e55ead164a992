//! What an operator says about a hub's events: who gets which.
//!
//! As text it is words, like those of the official command line:
//! `url-template=https://app.example/{event} user-event-pattern=* system-event=connect,connected auth=none`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::template::{self, BadTemplate};
use crate::names::{BadName, EventName};

/// Longest list of user events in one handler: every event of a client is compared with each.
pub const LISTED_EVENTS_MAX: usize = 100;
/// Longest bearer token: headers beyond 16 KiB are refused by common servers.
pub const BEARER_LEN_MAX: usize = 4_096;

/// One place that gets events of a hub. A hub has several in order; the first that takes an event gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventHandler {
    /// A URL in which `{hub}` and `{event}` are filled in.
    pub url_template: String,
    /// Which events of clients it takes.
    pub user_events: UserEvents,
    /// Which events of the service it takes.
    pub system_events: Vec<SystemEvent>,
    /// How it knows us, besides the signature that every request carries.
    pub auth: Auth,
}

/// Which events of clients a handler takes. Names compare without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserEvents {
    /// Every one (`*`).
    All,
    /// Not one.
    None,
    /// These.
    List(Vec<EventName>),
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SystemEvent {
    /// A client asks to come in; the handler decides and the client waits.
    Connect,
    /// A client is in.
    Connected,
    /// A client is gone for good (a recovery is not a going).
    Disconnected,
    /// A connection has come into a group.
    Joined,
    /// A connection is in a group no longer, because it left or is gone for good.
    Left,
}

/// How a handler knows us.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auth {
    /// By the signature of the events only.
    #[default]
    None,
    /// By a token that it gave us, sent as `Authorization: Bearer …`.
    Bearer(Secret),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A description of a handler that cannot be used, and what would be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHandler {
    /// The URL.
    #[error(transparent)]
    Template(#[from] BadTemplate),
    /// No URL at all.
    #[error("the handler has no URL: write url-template=https://app.example/events/{{event}}")]
    NoTemplate,
    /// A word that is not `key=value` of a known key.
    #[error(
        "{word:?} says nothing about a handler: use url-template=, user-event-pattern=, system-event= and auth="
    )]
    Word {
        /// The word.
        word: String,
    },
    /// The same said twice.
    #[error("{key} is given twice: say it once, with commas between several values")]
    Twice {
        /// Of what.
        key: &'static str,
    },
    /// A name in the list of user events.
    #[error("user-event-pattern: {0}; write *, or names with commas between them")]
    Event(#[from] BadName),
    /// Too many of them.
    #[error("user-event-pattern has {count} names: at most {LISTED_EVENTS_MAX}, or * for all")]
    ManyEvents {
        /// How many.
        count: usize,
    },
    /// An event of the service that does not exist.
    #[error("system-event {word:?} does not exist: use connect, connected, disconnected, joined and left")]
    System {
        /// What was asked for.
        word: String,
    },
    /// Authentication that we do not know.
    #[error(
        "auth is neither none nor bearer:TOKEN with a token of 1 to {BEARER_LEN_MAX} visible ASCII characters"
    )]
    Auth,
    /// It would never be asked anything.
    #[error(
        "the handler takes no event: give user-event-pattern=* or system-event=connect,connected,disconnected"
    )]
    Nothing,
}

impl EventHandler {
    /// Reads a handler from its words. A bare URL is a template that takes all user events.
    pub fn parse(text: &str) -> Result<Self, BadHandler> {
        let mut said = Said::default();
        for word in text.split_whitespace() {
            said.read(word)?;
        }
        said.finish()
    }

    /// Checks what deserializing cannot. Call it for settings that did not come through [`EventHandler::parse`].
    pub fn check(&self) -> Result<(), BadHandler> {
        template::check(&self.url_template)?;
        match &self.user_events {
            UserEvents::List(names) if names.len() > LISTED_EVENTS_MAX => {
                return Err(BadHandler::ManyEvents { count: names.len() });
            }
            UserEvents::None if self.system_events.is_empty() => return Err(BadHandler::Nothing),
            UserEvents::List(names) if names.is_empty() && self.system_events.is_empty() => {
                return Err(BadHandler::Nothing);
            }
            UserEvents::All | UserEvents::None | UserEvents::List(_) => {}
        }
        match &self.auth {
            Auth::Bearer(token) if !token.can_be_sent() => Err(BadHandler::Auth),
            Auth::None | Auth::Bearer(_) => Ok(()),
        }
    }

    pub(super) fn takes_user(&self, event: &EventName) -> bool {
        match &self.user_events {
            UserEvents::All => true,
            UserEvents::None => false,
            UserEvents::List(names) => {
                names.iter().any(|name| name.as_str().eq_ignore_ascii_case(event.as_str()))
            }
        }
    }

    pub(super) fn takes_system(&self, event: SystemEvent) -> bool {
        self.system_events.contains(&event)
    }
}

impl fmt::Display for EventHandler {
    /// The words that [`EventHandler::parse`] reads; a token is shown as dots.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "url-template={}", self.url_template)?;
        match &self.user_events {
            UserEvents::All => write!(f, " user-event-pattern=*")?,
            UserEvents::None => write!(f, " user-event-pattern=")?,
            UserEvents::List(names) => {
                let names: Vec<&str> = names.iter().map(EventName::as_str).collect();
                write!(f, " user-event-pattern={}", names.join(","))?;
            }
        }
        if !self.system_events.is_empty() {
            let names: Vec<&str> = self.system_events.iter().map(|event| event.name()).collect();
            write!(f, " system-event={}", names.join(","))?;
        }
        match &self.auth {
            Auth::None => Ok(()),
            Auth::Bearer(_) => write!(f, " auth=bearer:…"),
        }
    }
}

impl FromStr for EventHandler {
    type Err = BadHandler;
    fn from_str(text: &str) -> Result<Self, BadHandler> {
        Self::parse(text)
    }
}

impl SystemEvent {
    /// All of them: a connection's life, then its groups.
    pub const ALL: [Self; 5] = [Self::Connect, Self::Connected, Self::Disconnected, Self::Joined, Self::Left];

    /// As it is written in settings and in `ce-eventName`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Joined => "joined",
            Self::Left => "left",
        }
    }

    fn parse(word: &str) -> Result<Self, BadHandler> {
        let known = Self::ALL.into_iter().find(|event| event.name().eq_ignore_ascii_case(word));
        known.ok_or_else(|| BadHandler::System { word: word.to_owned() })
    }
}

impl Secret {
    /// Wraps a text so that it is not shown by accident.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
    /// The text itself, for the one header that carries it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
    fn can_be_sent(&self) -> bool {
        (1..=BEARER_LEN_MAX).contains(&self.0.len()) && self.0.bytes().all(|byte| byte.is_ascii_graphic())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What the words have said so far.
#[derive(Default)]
struct Said {
    url_template: Option<String>,
    user_events: Option<UserEvents>,
    system_events: Option<Vec<SystemEvent>>,
    auth: Option<Auth>,
    bare: bool,
}

impl Said {
    fn read(&mut self, word: &str) -> Result<(), BadHandler> {
        let lower = word.to_ascii_lowercase();
        if lower.starts_with("http://") || lower.starts_with("https://") {
            self.bare = true;
            return once(&mut self.url_template, "url-template", word.to_owned());
        }
        let Some((key, value)) = word.split_once('=') else {
            return Err(BadHandler::Word { word: word.to_owned() });
        };
        match key.to_ascii_lowercase().as_str() {
            "url-template" => once(&mut self.url_template, "url-template", value.to_owned()),
            "user-event-pattern" => once(&mut self.user_events, "user-event-pattern", user_events(value)?),
            "system-event" => once(&mut self.system_events, "system-event", system_events(value)?),
            "auth" => once(&mut self.auth, "auth", auth(value)?),
            // The value may be a secret that stands after a mistyped key.
            _ => Err(BadHandler::Word { word: format!("{key}=") }),
        }
    }

    fn finish(self) -> Result<EventHandler, BadHandler> {
        let default = if self.bare { UserEvents::All } else { UserEvents::None };
        let handler = EventHandler {
            url_template: self.url_template.ok_or(BadHandler::NoTemplate)?,
            user_events: self.user_events.unwrap_or(default),
            system_events: self.system_events.unwrap_or_default(),
            auth: self.auth.unwrap_or_default(),
        };
        handler.check()?;
        Ok(handler)
    }
}

fn once<T>(place: &mut Option<T>, key: &'static str, value: T) -> Result<(), BadHandler> {
    if place.is_some() {
        return Err(BadHandler::Twice { key });
    }
    *place = Some(value);
    Ok(())
}

fn user_events(value: &str) -> Result<UserEvents, BadHandler> {
    let words: Vec<&str> = value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if words.contains(&"*") {
        return Ok(UserEvents::All);
    }
    if words.is_empty() {
        return Ok(UserEvents::None);
    }
    let names: Result<Vec<EventName>, BadName> = words.into_iter().map(EventName::parse).collect();
    Ok(UserEvents::List(names?))
}

fn system_events(value: &str) -> Result<Vec<SystemEvent>, BadHandler> {
    let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
    let events: Result<std::collections::BTreeSet<SystemEvent>, BadHandler> =
        words.map(SystemEvent::parse).collect();
    Ok(events?.into_iter().collect())
}

fn auth(value: &str) -> Result<Auth, BadHandler> {
    if value.eq_ignore_ascii_case("none") {
        return Ok(Auth::None);
    }
    match value.split_once(':') {
        Some((kind, token)) if kind.eq_ignore_ascii_case("bearer") => Ok(Auth::Bearer(Secret::of(token))),
        _ => Err(BadHandler::Auth),
    }
}
