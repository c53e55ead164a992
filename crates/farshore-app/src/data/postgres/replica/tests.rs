use std::io::Write;

use super::super::parcel::{BaseRun, Chain, LogRun, Run};
use super::super::records::{Reach, SEGMENT};
use super::*;

const CHAIN: Chain = Chain { system: 7, timeline: 1, series: 1 };
/// Where the log of the base begins: within the fourth segment.
const BEGINS: u64 = 3 * SEGMENT + 1000;

/// Some of a base; with no bytes, its end.
fn base(offset: u64, bytes: &[u8]) -> BaseRun {
    let ends = bytes.is_empty().then_some(BEGINS);
    let begins = Reach::at(BEGINS, Position::default());
    BaseRun { id: 1, offset, run: Run::pack(bytes), total: 8, begins, ends }
}

fn answer(base: Option<BaseRun>, log: Option<LogRun>) -> Answer {
    Answer { chain: CHAIN, theirs: Position::default(), is_broken: false, base, log }
}

fn base_file(dir: &Path) -> PathBuf {
    chain_dir(dir, 1).join("base-0000000000000001.tar")
}

#[test]
fn what_a_short_write_left_of_a_base_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::default();
    assert!(state.apply(dir.path(), answer(Some(base(0, b"base")), None)).unwrap());
    fs::OpenOptions::new().append(true).open(base_file(dir.path())).unwrap().write_all(b"ha").unwrap();
    for piece in [base(4, b"half"), base(8, b"")] {
        assert!(state.apply(dir.path(), answer(Some(piece), None)).unwrap());
    }
    assert_eq!(fs::read(base_file(dir.path())).unwrap(), b"basehalf");
    assert!(state.whole().is_some());
}

#[test]
fn the_log_is_taken_also_when_the_base_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::default();
    state.apply(dir.path(), answer(Some(base(0, b"base")), None)).unwrap();
    let good = dir.path().join("good");
    fs::rename(base_file(dir.path()), &good).unwrap();
    fs::create_dir(base_file(dir.path())).unwrap();
    // Up to where its first record begins a log is whatever it was.
    let log = LogRun { from: 3 * SEGMENT, run: Run::pack(&[1; 1000]) };
    let failed = state.apply(dir.path(), answer(Some(base(4, b"half")), Some(log))).unwrap_err();
    assert!(failed.to_string().contains("base"), "{failed}");
    assert_eq!(state.request().from, BEGINS);
    fs::remove_dir(base_file(dir.path())).unwrap();
    fs::rename(&good, base_file(dir.path())).unwrap();
    for piece in [base(4, b"half"), base(8, b"")] {
        state.apply(dir.path(), answer(Some(piece), None)).unwrap();
    }
    assert!(state.whole().is_some());
}

#[test]
fn a_chain_that_was_left_before_its_base_came_asks_for_its_log_from_the_segment_on() {
    let dir = tempfile::tempdir().unwrap();
    drop(Copy::begin(chain_dir(dir.path(), 1), CHAIN, &base(0, b"base")).unwrap());
    let state = State::open(dir.path()).unwrap();
    assert_eq!((state.request().from, state.request().base), (3 * SEGMENT, Wish::New));
}

#[test]
fn a_base_counts_once_it_is_noted_that_it_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::default();
    state.apply(dir.path(), answer(Some(base(0, b"basehalf")), None)).unwrap();
    // Where its card is written first.
    let in_the_way = chain_dir(dir.path(), 1).join("card.new");
    fs::create_dir(&in_the_way).unwrap();
    state.apply(dir.path(), answer(Some(base(8, b"")), None)).unwrap_err();
    assert!(state.whole().is_none() && !state.request().is_whole, "nobody would know of it after a restart");
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(state.request().base, Wish::GoOn { id: 1, offset: 8 });
    state.apply(dir.path(), answer(Some(base(8, b"")), None)).unwrap();
    assert!(state.request().is_whole);
    assert!(State::open(dir.path()).unwrap().request().is_whole);
}
