use bytes::Bytes;
use farshore_core::moment::Moment;

use super::*;
use crate::data::sqlite::part::base_file;
use crate::data::sqlite::snapshot::page_hash;
use crate::data::sqlite::wal::FRAME_HEAD;
use crate::data::sqlite::wire::Place;

/// The largest that SQLite has: few frames make the copy large enough to be folded.
const PAGE: u32 = 65_536;

fn page() -> Vec<u8> {
    vec![0; PAGE as usize]
}

/// A replica whose copy has one page, and no frames.
fn state(dir: &Path) -> State {
    let page = page();
    let place = Place { chain: 9, frames: 0, sum: (0, 0) };
    let (bytes, crc32c) = (u64::from(PAGE), crc32c::crc32c(&page));
    let base = Base { place, position: Position::default(), bytes, crc32c };
    let copy = PartRecord { snapshot: 1, page_size: PAGE, whole_at: 0, base };
    let of = copy_dir(dir, 1);
    std::fs::create_dir_all(&of).unwrap();
    std::fs::write(base_file(&of, &base), page).unwrap();
    drop(Part::begin(&of, copy).unwrap());
    let record = Record { version: RECORD_VERSION, copy: Some(copy), next: None };
    record.write(dir).unwrap();
    State::open(dir).unwrap()
}

/// Transactions of one page each, as an answer brings them.
fn frames(from: u64, count: usize) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEAD];
    (frame[3], frame[7]) = (1, 1);
    frame.resize(FRAME_HEAD + PAGE as usize, 7);
    let body = Body::Frames { chain: 9, from, at: Moment(1), frames: Bytes::from(frame.repeat(count)) };
    encode(&Answer { theirs: Position::default(), body })
}

fn idle() -> Vec<u8> {
    encode(&Answer { theirs: Position::default(), body: Body::Nothing })
}

#[test]
fn a_fold_that_failed_is_put_off_and_hinders_no_frames() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = state(dir.path());
    let start = Instant::now();
    let mut from = 0;
    let fold = loop {
        let (got, fold) = state.apply(&frames(from, 64), start).unwrap();
        assert!(got);
        from += 64;
        if let Some(fold) = fold {
            break fold;
        }
    };
    // Where the new file of pages goes there is something else.
    let wanted =
        Base { place: state.copy.as_ref().unwrap().place(), ..state.copy.as_ref().unwrap().record.base };
    let blocked = base_file(&fold.dir, &wanted);
    std::fs::create_dir(&blocked).unwrap();
    state.end_fold(&fold.dir, fold.view.fold(&fold.dir), start);
    for answer in [idle(), frames(from, 1), idle()] {
        assert!(state.apply(&answer, start + FOLD_AGAIN_AFTER / 2).unwrap().1.is_none());
    }
    std::fs::remove_dir(&blocked).unwrap();
    let fold = state.apply(&idle(), start + FOLD_AGAIN_AFTER).unwrap().1.unwrap();
    assert!(state.apply(&frames(from + 1, 1), start + FOLD_AGAIN_AFTER).unwrap().1.is_none());
    state.end_fold(&fold.dir, fold.view.fold(&fold.dir), start + FOLD_AGAIN_AFTER);
    drop(state);
    let state = State::open(dir.path()).unwrap();
    let copy = state.whole().unwrap();
    assert_eq!((copy.place().frames, copy.position().commits), (from + 2, from + 2));
    assert_eq!(copy.record.base.place.frames, from + 1);
}

/// A snapshot of another chain: the same page, farther on.
fn offer() -> Vec<u8> {
    let from = Place { chain: 10, frames: 100, sum: (0, 0) };
    let base = Position { commits: 50, bytes: 5000, at: Moment(5) };
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, &page()).as_ref());
    let offer = Offer { snapshot: 2, from, whole_at: 100, base, page_size: PAGE, pages: 1, sha256 };
    encode(&Answer { theirs: base, body: Body::Offer(offer) })
}

/// Its only page is here already.
fn hashes() -> Vec<u8> {
    let body = Body::Hashes { snapshot: 2, from: 0, hashes: page_hash(&page()).to_vec().into() };
    encode(&Answer { theirs: Position::default(), body })
}

/// What the source is told to be durable here.
fn confirms(state: &State) -> Position {
    match decode::<Request>(&state.told().request).unwrap() {
        Request { position, want: Want::Frames { whole: true, .. } } => position,
        Request { position, want } => {
            assert_eq!((position, state.whole().is_some()), (Position::default(), true), "{want:?}");
            position
        }
    }
}

#[test]
fn a_copy_is_confirmed_only_when_a_restart_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = state(dir.path());
    let now = Instant::now();
    assert!(state.apply(&offer(), now).unwrap().0);
    // Where the record is written there is something else.
    let blocked = dir.path().join("replica.new");
    std::fs::create_dir(&blocked).unwrap();
    for answer in [hashes(), idle(), idle()] {
        state.apply(&answer, now).unwrap_err();
        assert_eq!(confirms(&state).commits, 0);
    }
    std::fs::remove_dir(&blocked).unwrap();
    state.apply(&idle(), now).unwrap();
    assert_eq!((confirms(&state).commits, state.told().position.commits), (50, 50));
    drop(state);
    assert_eq!(confirms(&State::open(dir.path()).unwrap()).commits, 50);
}

#[test]
fn a_snapshot_whose_last_step_failed_becomes_a_copy_when_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = state(dir.path());
    let now = Instant::now();
    assert!(state.apply(&offer(), now).unwrap().0);
    // Where its first frames go there is something else.
    let blocked = copy_dir(dir.path(), 2).join(format!("frames-{:020}.new", 100));
    std::fs::create_dir(&blocked).unwrap();
    for answer in [hashes(), idle(), idle()] {
        state.apply(&answer, now).unwrap_err();
        assert_eq!(confirms(&state).commits, 0);
    }
    std::fs::remove_dir(&blocked).unwrap();
    state.apply(&idle(), now).unwrap();
    assert_eq!(confirms(&state).commits, 50);
    drop(state);
    assert_eq!(confirms(&State::open(dir.path()).unwrap()).commits, 50);
}
