//! The join of every kind of entry is commutative, associative and idempotent.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::record::message::{Queued, Way};
use crate::record::shared::Single;
use crate::record::{Cursor, Entry, EntryKey, MergePolicy, Message, Outcome, Policy, Rights};

/// Every state that any region was in.
fn states(steps: &[Step]) -> Vec<Record> {
    let mut world = World::with_device();
    let mut states = world.records.clone();
    for (at, wall, act) in steps {
        world.act(*at, *wall, act);
        states.push(world.records[*at].clone());
    }
    states
}

/// States that entries of the other kinds were in, under the same steps.
fn small_states(steps: &[Step], kind: usize) -> Vec<Entry> {
    let mut clocks: Vec<_> = REGIONS.iter().map(|name| Clock::new(region(name), None)).collect();
    let mut here = vec![Entry::vacant(&small_key(kind), VersionVector::default()); 3];
    let mut states = here.clone();
    for (number, (at, wall, act)) in steps.iter().enumerate() {
        let wall = Moment::from_millis(*wall);
        if let Act::Hear(from) = act {
            let stamp = clocks[*from].last().clone();
            clocks[*at].see(&stamp, wall).unwrap();
            here[*at] = here[*at].join(&here[*from]).unwrap();
        } else {
            let mark = Mark { epoch: Epoch(number as u64 % 3), stamp: clocks[*at].now(wall) };
            write(&mut here[*at], &mark, number as u64);
        }
        states.push(here[*at].clone());
    }
    states
}

fn small_key(kind: usize) -> EntryKey {
    match kind {
        0 => EntryKey::Message(key(), "one".into()),
        1 => EntryKey::Group("billing".into()),
        2 => EntryKey::Policy("service".into()),
        3 => EntryKey::Setting("authorities".into(), "root".into()),
        _ => EntryKey::Settings,
    }
}

fn write(entry: &mut Entry, mark: &Mark, number: u64) {
    let some = !number.is_multiple_of(4);
    match entry {
        Entry::Device(_) => {}
        Entry::Message(queued) => queued.set(mark, way(number)),
        Entry::Group(single) => {
            single.set(mark, some.then(|| Cursor(BTreeMap::from([(region("oslo"), number)]))));
        }
        Entry::Policy(single) => single.set(mark, some.then(|| Policy::new("service", Rights::ALL))),
        Entry::Settings(single) => {
            single.set(
                mark,
                some.then(|| Rules { policy: MergePolicy::Newest, primary: Some(region("rome")) }),
            );
        }
        Entry::Setting(single) => single.set(mark, some.then(|| Arc::from(format!("{{\"n\":{number}}}")))),
    }
}

fn way(number: u64) -> Way {
    let (outcome, at) = (Outcome::Delivered, Moment(number));
    match number % 3 {
        0 => Way::Pending(Arc::new(Message::new(Bytes::from(number.to_string())))),
        1 => Way::Done { outcome, at, news: Some(("one".into(), "g".into())) },
        _ => Way::Done { outcome, at, news: None },
    }
}

proptest! {
    #[test]
    fn of_devices(steps in any_steps(), picks in any::<[prop::sample::Index; 3]>()) {
        let states = states(&steps);
        let [a, b, c] = picks.map(|pick| pick.get(&states).clone());
        prop_assert_eq!(a.join(&b), b.join(&a));
        prop_assert_eq!(a.join(&b).join(&c), a.join(&b.join(&c)));
        prop_assert_eq!(a.join(&a), a.clone());
        prop_assert_eq!(a.join(&b).join(&b), a.join(&b));
        prop_assert_eq!(a.join(&b).join(&a), a.join(&b));
    }

    #[test]
    fn of_the_other_entries(steps in any_steps(), kind in 0usize..5, picks in any::<[prop::sample::Index; 3]>()) {
        let states = small_states(&steps, kind);
        let [a, b, c] = picks.map(|pick| pick.get(&states).clone());
        let join = |one: &Entry, two: &Entry| one.join(two).unwrap();
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&a, &a), a.clone());
        prop_assert_eq!(join(&join(&a, &b), &b), join(&a, &b));
        prop_assert_eq!(Entry::from_bytes(&a.to_bytes()).unwrap(), a);
        let key = small_key(kind);
        prop_assert_eq!(EntryKey::from_bytes(&key.to_bytes()), Ok(key));
    }

    #[test]
    fn bytes_keep_everything(steps in any_steps(), pick in any::<prop::sample::Index>()) {
        let entry = Entry::Device(Box::new(pick.get(&states(&steps)).clone()));
        prop_assert_eq!(Entry::from_bytes(&entry.to_bytes()).unwrap(), entry);
    }

    #[test]
    fn strange_bytes_are_refused_and_never_end_the_process(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
        let mut world = World::with_device();
        world.act(0, 2, &Act::Tag("x", Some(1)));
        let mut whole = Entry::Device(Box::new(world.records[0].clone())).to_bytes();
        let _ = Entry::from_bytes(&bytes);
        let _ = EntryKey::from_bytes(&bytes);
        for (byte, noise) in whole.iter_mut().skip(cut).zip(&bytes) {
            *byte ^= noise;
        }
        let _ = Entry::from_bytes(&whole);
        whole.truncate(cut);
        let _ = Entry::from_bytes(&whole);
    }
}

#[test]
fn a_message_that_was_delivered_anywhere_is_delivered() {
    let mut clocks = [Clock::new(region("oslo"), None), Clock::new(region("paris"), None)];
    let mut mark = |at: usize, millis| Mark {
        epoch: Epoch(at as u64),
        stamp: clocks[at].now(Moment::from_millis(millis)),
    };
    let mut oslo = Queued::default();
    oslo.set(&mark(0, 1), way(0));
    let mut paris = oslo.join(&Queued::default());
    oslo.set(&mark(0, 2), way(1));
    paris.set(&mark(1, 3), way(3));
    assert!(paris.pending().is_some(), "paris counts a delivery later");
    assert!(paris.join(&oslo).pending().is_none());
    let mut again = paris.join(&oslo);
    again.set(&mark(1, 4), way(0));
    assert!(again.join(&oslo).pending().is_some(), "the same id again, in sight of the end of the first");
}

#[test]
fn a_cursor_goes_back_only_when_it_is_set_back() {
    let mut clocks = [Clock::new(region("oslo"), None), Clock::new(region("paris"), None)];
    let mut mark = |at: usize| Mark { epoch: Epoch(0), stamp: clocks[at].now(Moment(1000)) };
    let at = |oslo, paris| Cursor(BTreeMap::from([(region("oslo"), oslo), (region("paris"), paris)]));
    let (mut one, mut two) = (Single::default(), Single::default());
    one.set(&mark(0), Some(at(10, 3)));
    two.set(&mark(1), Some(at(4, 9)));
    let mut both = one.join(&two);
    assert_eq!(both.cursor(), Some(at(10, 9)));
    both.set(&mark(0), Some(at(0, 0)));
    assert_eq!(both.join(&two).join(&one).cursor(), Some(at(0, 0)));
}
