//! Random histories against a simple model, which keeps every operation with all that its region knew, and decides from
//! that who has replaced whom.

use std::collections::BTreeSet;

use super::*;

/// An operation that was done.
#[derive(Clone)]
struct Done {
    mark: Mark,
    /// The operations that its region knew.
    knew: BTreeSet<usize>,
    /// The life it was done to.
    life: usize,
    act: Act,
}

#[derive(Default)]
struct Model {
    done: Vec<Done>,
    /// What each region knows.
    knows: [BTreeSet<usize>; 3],
}

/// A device as it reads in the model.
#[derive(Debug, PartialEq)]
struct Reads {
    enabled: bool,
    auth: Auth,
    tags: Value,
    desired: Value,
    reported: Value,
}

impl Model {
    /// Operations that write `group` and that no known operation on it has replaced.
    fn live(&self, at: usize, writes: impl Fn(&Act) -> bool) -> Vec<&Done> {
        let known = &self.knows[at];
        let is_written = |number: &&usize| writes(&self.done[**number].act);
        let writers: Vec<usize> = known.iter().filter(is_written).copied().collect();
        let is_replaced =
            |number: usize| writers.iter().any(|later| self.done[*later].knew.contains(&number));
        writers.iter().filter(|number| !is_replaced(**number)).map(|number| &self.done[*number]).collect()
    }

    /// The number of the operation that made the device, and the numbers of those that made the same device elsewhere.
    fn lives(&self, at: usize) -> Option<(usize, Vec<usize>)> {
        let mut live = self.live(at, |act| matches!(act, Act::Create(_) | Act::Delete));
        live.sort_by(|one, two| one.mark.cmp(&two.mark));
        let ended: Vec<usize> =
            live.iter().filter(|done| matches!(done.act, Act::Delete)).map(|done| done.life).collect();
        let stands = |done: &&&Done| matches!(done.act, Act::Delete) || !ended.contains(&done.life);
        let winner = live.iter().rfind(stands)?;
        let Act::Create(auth) = winner.act else { return None };
        let same = live.iter().filter(|done| matches!(done.act, Act::Create(other) if other == auth));
        Some((winner.life, same.map(|done| done.life).collect()))
    }

    fn reads(&self, at: usize) -> Option<Reads> {
        let (_, lives) = self.lives(at)?;
        let of = |writes: &dyn Fn(&Act) -> bool| {
            let whole = |act: &Act| matches!(act, Act::Create(_) | Act::Delete);
            let mut live = self.live(at, |act| writes(act) || whole(act));
            live.retain(|done| lives.contains(&done.life) && !matches!(done.act, Act::Delete));
            live.sort_by(|one, two| one.mark.cmp(&two.mark));
            live
        };
        let disabled = |done: &&Done| matches!(done.act, Act::Enable(false));
        let auth = match of(&|act| matches!(act, Act::Auth(_))).last()?.act {
            Act::Auth(auth) | Act::Create(auth) => sas(&auth.to_string()),
            _ => return None,
        };
        // A creation clears properties and writes none.
        let last = |writes: &dyn Fn(&Act) -> bool| of(writes).into_iter().rfind(|done| writes(&done.act));
        let (mut tags, mut desired) = (json!({}), json!({}));
        for leaf in ["x", "y"] {
            if let Some(Act::Tag(_, Some(value))) =
                last(&|act| matches!(act, Act::Tag(name, _) if *name == leaf)).map(|done| &done.act)
            {
                tags[leaf] = json!(value);
            }
            if let Some(Act::Desire(_, Some(value))) =
                last(&|act| matches!(act, Act::Desire(name, _) if *name == leaf)).map(|done| &done.act)
            {
                desired[leaf] = json!(value);
            }
        }
        let reported = self.reported(last(&|act| matches!(act, Act::Report(..))));
        let enabled = !of(&|act| matches!(act, Act::Enable(_))).iter().any(disabled);
        Some(Reads { enabled, auth, tags, desired, reported })
    }

    /// The document that one report made: the one before it in its own past, patched.
    fn reported(&self, last: Option<&Done>) -> Value {
        let mut document = json!({});
        let Some(last) = last else { return document };
        let Act::Report(name, value) = &last.act else { return document };
        let whole = |act: &Act| matches!(act, Act::Report(..) | Act::Create(_) | Act::Delete);
        let knows = [last.knew.clone(), BTreeSet::new(), BTreeSet::new()];
        let past = Self { done: self.done.clone(), knows };
        if let Some((_, lives)) = past.lives(0) {
            let mut live = past.live(0, whole);
            live.retain(|done| lives.contains(&done.life) && matches!(done.act, Act::Report(..)));
            live.sort_by(|one, two| one.mark.cmp(&two.mark));
            document = past.reported(live.last().copied());
        }
        match value {
            Some(value) => document[*name] = json!(value),
            None => {
                document.as_object_mut().unwrap().remove(*name);
            }
        }
        document
    }
}

/// The record and the model, side by side.
struct Both {
    world: World,
    model: Model,
}

impl Both {
    fn new() -> Self {
        let world = World {
            clocks: REGIONS.iter().map(|name| Clock::new(region(name), None)).collect(),
            epochs: vec![Epoch(0); 3],
            records: vec![Record::default(); 3],
        };
        let mut both = Self { world, model: Model::default() };
        both.act(0, 1, &Act::Create(0));
        both.act(1, 1, &Act::Hear(0));
        both.act(2, 1, &Act::Hear(0));
        both
    }

    fn act(&mut self, at: usize, wall: u64, act: &Act) {
        if let Act::Hear(from) = act {
            let theirs = self.model.knows[*from].clone();
            self.model.knows[at].extend(theirs);
        }
        let Some(mark) = self.world.act(at, wall, act) else { return };
        let number = self.model.done.len();
        let life = if matches!(act, Act::Create(_)) { number } else { self.model.lives(at).unwrap().0 };
        let knew = self.model.knows[at].clone();
        self.model.done.push(Done { mark, knew, life, act: act.clone() });
        self.model.knows[at].insert(number);
    }

    fn reads(&self, at: usize) -> Option<Reads> {
        let device = self.world.records[at].device(&key(), &Rules::default())?;
        Some(Reads {
            enabled: device.enabled,
            auth: device.auth,
            tags: device.tags,
            desired: device.desired.value,
            reported: device.reported.value,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_region_reads_what_the_model_reads(steps in any_steps()) {
        let mut both = Both::new();
        for (at, wall, act) in &steps {
            both.act(*at, *wall, act);
            prop_assert_eq!(both.reads(*at), both.model.reads(*at), "region {} after {:?}", at, act);
        }
        for round in 0..2 {
            for (to, from) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)] {
                both.act(to, 50 + round, &Act::Hear(from));
            }
        }
        for at in 0..3 {
            prop_assert_eq!(both.reads(at), both.model.reads(at));
            prop_assert_eq!(&both.world.records[at], &both.world.records[0], "all have the same in the end");
        }
    }
}
