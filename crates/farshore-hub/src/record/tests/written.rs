//! What older versions wrote is read, and what they cannot read says so.

use super::*;
use crate::record::shared::Single;
use crate::record::{Cursor, Entry};

fn mark() -> Mark {
    let mut clock = Clock::new(region("oslo"), None);
    Mark { epoch: Epoch(7), stamp: clock.now(Moment::from_millis(1_700_000_000_000)) }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn an_entry_of_the_first_version_stays_as_it_was() {
    let mut group = Single::default();
    group.set(&mark(), Some(Cursor(BTreeMap::from([(region("oslo"), 3)]))));
    let entry = Entry::Group(group);
    let written = entry.to_bytes();
    assert_eq!(
        hex(&written),
        "0101046f736c6f010007808080c0d6fcf3c501000100808080c0d6fcf3c5010201000101046f736c6f03"
    );
    assert_eq!(Entry::from_bytes(&written), Ok(entry));
}

#[test]
fn a_setting_is_of_a_version_that_older_nodes_refuse() {
    let mut setting = Single::default();
    setting.set(&mark(), Some(std::sync::Arc::from("{}")));
    let entry = Entry::Setting(setting);
    let mut written = entry.to_bytes();
    assert_eq!((written[0], Entry::from_bytes(&written)), (2, Ok(entry)));
    written[0] = 3;
    let refused = Entry::from_bytes(&written).unwrap_err().to_string();
    assert!(refused.contains("written by a newer version: update this region first"), "{refused}");
}
