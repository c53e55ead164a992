//! What must hold of the join and of its reading.

mod drafts;
mod laws;
mod model;
mod reading;
mod written;

use std::collections::BTreeMap;

use farshore_core::ids::{Epoch, Region};
use farshore_core::moment::Moment;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::device::{Auth, Record};
use super::edit::{Edit, NewDevice};
use super::mark::Mark;
use super::rules::Rules;
use crate::clock::{Clock, Stamp};
use crate::names::{Key, Subs};
use crate::versions::VersionVector;

const REGIONS: [&str; 3] = ["oslo", "paris", "rome"];

fn region(name: &str) -> Region {
    Region::parse(name).unwrap()
}

fn key() -> Key {
    Key::parse("pump").unwrap()
}

fn sas(key: &str) -> Auth {
    Auth::Sas { primary: key.to_owned(), secondary: String::new() }
}

/// What happens in a region.
#[derive(Debug, Clone)]
enum Act {
    Create(u8),
    Delete,
    Enable(bool),
    Auth(u8),
    Tag(&'static str, Option<u8>),
    Desire(&'static str, Option<u8>),
    Report(&'static str, Option<u8>),
    Subscribe(u8),
    Settle,
    /// Joins what another region has.
    Hear(usize),
    /// Gets the right to write, above all others.
    Activate,
}

impl Act {
    fn edit(&self) -> Option<Edit> {
        let patch = |name: &str, value: &Option<u8>| json!({ name: value });
        Some(match self {
            Self::Create(auth) => Edit::Create(NewDevice::with(sas(&auth.to_string()))),
            Self::Delete => Edit::Delete,
            Self::Enable(enabled) => Edit::Status { enabled: *enabled, reason: String::new() },
            Self::Auth(auth) => Edit::Auth(sas(&auth.to_string())),
            Self::Tag(name, value) => Edit::Tags { patch: patch(name, value), replace: false },
            Self::Desire(name, value) => Edit::Desired { patch: patch(name, value), replace: false },
            Self::Report(name, value) => Edit::Reported { patch: patch(name, value), replace: false },
            Self::Subscribe(qos) => Edit::Subs(Subs { messages: Some(*qos), ..Subs::default() }),
            Self::Settle => Edit::Settle,
            Self::Hear(_) | Self::Activate => return None,
        })
    }
}

/// An act in one of three regions, whose wall shows this many milliseconds.
type Step = (usize, u64, Act);

fn any_act() -> impl Strategy<Value = Act> {
    let name = || prop::sample::select(vec!["x", "y"]);
    let value = || prop::option::weighted(0.7, 0u8..4);
    prop_oneof![
        2 => (0u8..3).prop_map(Act::Create),
        1 => Just(Act::Delete),
        2 => any::<bool>().prop_map(Act::Enable),
        2 => (0u8..3).prop_map(Act::Auth),
        3 => (name(), value()).prop_map(|(name, value)| Act::Tag(name, value)),
        3 => (name(), value()).prop_map(|(name, value)| Act::Desire(name, value)),
        2 => (name(), value()).prop_map(|(name, value)| Act::Report(name, value)),
        1 => (0u8..2).prop_map(Act::Subscribe),
        5 => (0usize..3).prop_map(Act::Hear),
        1 => Just(Act::Activate),
    ]
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0usize..3, 0u64..50, any_act()), 1..40)
}

/// Regions with one record each.
struct World {
    clocks: Vec<Clock>,
    epochs: Vec<Epoch>,
    records: Vec<Record>,
}

impl World {
    /// The first region has made the device, and the others know.
    fn with_device() -> Self {
        let mut world = Self {
            clocks: REGIONS.iter().map(|name| Clock::new(region(name), None)).collect(),
            epochs: vec![Epoch(0); 3],
            records: vec![Record::default(); 3],
        };
        world.act(0, 1, &Act::Create(0));
        world.act(1, 1, &Act::Hear(0));
        world.act(2, 1, &Act::Hear(0));
        world
    }

    /// Returns the mark of the change, if there was one.
    fn act(&mut self, at: usize, wall: u64, act: &Act) -> Option<Mark> {
        let wall = Moment::from_millis(wall);
        match act {
            Act::Hear(from) => {
                let theirs = self.records[*from].clone();
                let stamp = self.clocks[*from].last().clone();
                self.clocks[at].see(&stamp, wall).unwrap();
                self.records[at] = self.records[at].join(&theirs);
                None
            }
            Act::Activate => {
                self.epochs[at] = self.epochs.iter().max().unwrap().next();
                None
            }
            change => {
                let stamp: Stamp = self.clocks[at].now(wall);
                let mark = Mark { epoch: self.epochs[at], stamp };
                let mut record = self.records[at].clone();
                let edit = change.edit().unwrap();
                record.apply(&key(), &edit, &mark, &Rules::default()).ok()?;
                self.records[at] = record;
                Some(mark)
            }
        }
    }
}
