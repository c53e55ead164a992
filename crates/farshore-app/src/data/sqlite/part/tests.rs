use super::*;

const PAGE: u32 = 512;
const PAGES: u8 = 8;

/// A copy whose base has pages of zeros, and no frames.
fn part(dir: &Path) -> Part {
    let pages = vec![0; usize::from(PAGES) * PAGE as usize];
    let place = Place { chain: 9, frames: 100, sum: (0, 0) };
    let (bytes, crc32c) = (pages.len() as u64, crc32c::crc32c(&pages));
    let base = Base { place, position: Position::default(), bytes, crc32c };
    std::fs::write(base_file(dir, &base), &pages).unwrap();
    Part::begin(dir, PartRecord { snapshot: 1, page_size: PAGE, whole_at: 100, base }).unwrap()
}

/// A transaction that fills `count` pages, one after another, with `fill`.
fn transaction(count: u8, fill: u8) -> Vec<u8> {
    let frame = |page: u8| {
        let pages_after = if page == count { PAGES } else { 0 };
        let mut frame = vec![0; FRAME_HEAD];
        (frame[3], frame[7]) = (page, pages_after);
        frame.resize(FRAME_HEAD + PAGE as usize, fill);
        frame
    };
    (1..=count).flat_map(frame).collect()
}

fn take(part: &mut Part, from: u64, count: u8, fill: u8) -> Result<bool, DataError> {
    part.take(9, from, Moment(u64::from(fill)), &transaction(count, fill))
}

/// What each page is filled with in the database that a copy writes out.
fn written(part: &Part) -> Vec<u8> {
    let into = part.dir().join("written");
    part.view().unwrap().write(&into).unwrap();
    let bytes = std::fs::read(into).unwrap();
    let is_one = |page: &[u8]| page.iter().all(|byte| *byte == page[0]).then_some(page[0]);
    bytes.chunks(PAGE as usize).map(|page| is_one(page).unwrap()).collect()
}

fn reopened(part: Part) -> Part {
    let (dir, record) = (part.dir.clone(), part.record);
    drop(part);
    Part::open(&dir, record).unwrap()
}

#[test]
fn frames_that_were_not_synced_are_taken_again_with_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = part(dir.path());
    assert!(take(&mut part, 100, 2, 1).unwrap());
    // It takes what is written to it, keeps nothing of it, and cannot be synced.
    let null = File::options().read(true).write(true).open("/dev/null").unwrap();
    let file = part.logs[0].exchange_file(null);
    let failed = take(&mut part, 102, 3, 2).unwrap_err();
    assert!(failed.to_string().contains("sync"), "{failed}");
    assert_eq!((part.place().frames, part.position().commits), (102, 1));
    part.logs[0].exchange_file(file);
    assert!(take(&mut part, 102, 3, 2).unwrap());
    assert!(take(&mut part, 105, 1, 3).unwrap());
    assert_eq!((part.place().frames, part.position().commits), (106, 3));
    assert_eq!(written(&part), [3, 2, 2, 0, 0, 0, 0, 0]);
    let part = reopened(part);
    assert_eq!((part.damage.as_ref(), part.place().frames, part.position().commits), (None, 106, 3));
    assert_eq!(written(&part), [3, 2, 2, 0, 0, 0, 0, 0]);
}

/// Makes one file of pages of what `view` shows, and forgets what that was made of.
fn fold(part: &mut Part, view: &View) {
    let base = view.fold(&part.dir).unwrap();
    part.end_fold(base);
    part.forget_folded();
}

fn names(part: &Part) -> Vec<String> {
    let entries = std::fs::read_dir(part.dir()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn frames_that_come_while_a_fold_is_repeated_stay() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = part(dir.path());
    assert!(take(&mut part, 100, 2, 1).unwrap());
    drop(part.begin_fold().unwrap());
    let view = part.begin_fold().unwrap();
    assert!(take(&mut part, 102, 3, 2).unwrap());
    fold(&mut part, &view);
    assert!(take(&mut part, 105, 1, 3).unwrap());
    let part = reopened(part);
    assert_eq!((part.damage.as_ref(), part.place().frames, part.position().commits), (None, 106, 3));
    assert_eq!(written(&part), [3, 2, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn a_fold_that_fails_leaves_nothing_and_the_next_one_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut part = part(dir.path());
    assert!(take(&mut part, 100, 2, 1).unwrap());
    let view = part.begin_fold().unwrap();
    // What it reads is damaged behind the pages: by then it has begun to write.
    part.logs[0].exchange_file(File::open(dir.path().join("mark")).unwrap());
    let failed = part.view().unwrap().fold(dir.path()).unwrap_err();
    assert!(matches!(failed, DataError::Corrupt { .. }), "{failed}");
    let log = |start| format!("frames-{start:020}.log");
    let base = |start| format!("base-{start:020}.db");
    assert_eq!(names(&part), [base(100), log(100), log(102), "mark".to_owned()]);
    assert!(take(&mut part, 102, 3, 2).unwrap());
    fold(&mut part, &view);
    assert_eq!(names(&part), [base(102), log(102), "mark".to_owned()]);
    assert!(!part.wants_folding());
    assert_eq!(written(&reopened(part)), [2, 2, 2, 0, 0, 0, 0, 0]);
}

#[test]
fn pages_that_nothing_names_are_removed_when_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let part = part(dir.path());
    for left in
        ["base-00000000000000000099.db", "base-00000000000000000107.db", "frames-00000000000000000100.new"]
    {
        std::fs::write(dir.path().join(left), "half").unwrap();
    }
    let part = reopened(part);
    assert_eq!(part.damage, None);
    assert_eq!(names(&part), ["base-00000000000000000100.db", "frames-00000000000000000100.log", "mark"]);
}
