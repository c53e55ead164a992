//! What is stored can be read back, also by a program that is older than its writer.

use super::*;

fn round_trip(item: &Item) {
    let text = serde_json::to_string(item).unwrap();
    assert_eq!(&serde_json::from_str::<Item>(&text).unwrap(), item, "{text}");
}

#[test]
fn every_state_is_read_back_as_it_was_written() {
    for name in STATES {
        round_trip(&state(name));
    }
}

#[test]
fn every_event_is_read_back_as_it_was_written() {
    let item = state("promoting");
    for what in ALL_EVENTS {
        let words: Vec<_> = what.split(' ').collect();
        let event = event(&item, &words).unwrap();
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event, "{text}");
        // The name in a refusal is the name in the record.
        let name = serde_json::to_value(&event).unwrap()["event"].as_str().unwrap().to_owned();
        assert!(item.unexpected(&event).to_string().contains(&name), "{name}");
    }
}

#[test]
fn fields_of_a_newer_program_are_passed_over() {
    for name in STATES {
        let item = state(name);
        let mut record = serde_json::to_value(&item).unwrap();
        record["colour"] = "blue".into();
        record["created_by"] = serde_json::json!({ "who": "ana", "role": "operator" });
        if let Some(report) = record.get_mut("failover").filter(|report| report.is_object()) {
            report["co2_grams"] = 12.into();
            report["promotion"]["point"]["size"] = 4096.into();
        }
        assert_eq!(serde_json::from_value::<Item>(record).unwrap(), item, "{name}");
    }
}

#[test]
fn the_record_is_what_people_read_in_a_dump() {
    let record = serde_json::to_value(state("revoking")).unwrap();
    for (field, value) in [
        ("id", "machine/web-1"),
        ("phase", "failing-over"),
        ("stage", "revoking"),
        ("source", "paris"),
        ("target", "oslo"),
        ("mode", "async"),
        ("on_control_loss", "hold"),
    ] {
        assert_eq!(record[field], value, "{field}");
    }
    assert_eq!(record["epoch"], 2);
    assert_eq!(record["planned"], false);
}

#[test]
fn a_record_that_lacks_its_phase_is_refused() {
    let mut record = serde_json::to_value(state("protected")).unwrap();
    record.as_object_mut().unwrap().remove("phase");
    assert!(serde_json::from_value::<Item>(record).is_err());
}
