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
