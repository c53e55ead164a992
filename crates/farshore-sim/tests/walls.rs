//! The walls of the house: which room may depend on which. Read from cargo itself, so that no edge can be overlooked.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// What each room may depend on in the program that ships. Tests may also use `farshore-sim`, and nothing else.
const MAY_USE: &[(&str, &[&str])] = &[
    ("farshore-core", &[]),
    ("farshore-store", &["farshore-core"]),
    ("farshore-machine", &["farshore-core"]),
    ("farshore-app", &["farshore-core"]),
    ("farshore-hub", &["farshore-core"]),
    ("farshore-realtime", &["farshore-core"]),
    (
        "farshore",
        &[
            "farshore-core",
            "farshore-store",
            "farshore-machine",
            "farshore-app",
            "farshore-hub",
            "farshore-realtime",
        ],
    ),
    ("farshore-sim", &["farshore-core", "farshore-machine"]),
];

/// Crates that would let a clock, a socket or a runtime into the room that decides.
const NOT_IN_CORE: &[&str] = &["tokio", "rand", "reqwest", "axum", "redb", "rustix", "tracing"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// (crate, dependency, is a dev-dependency) for every edge that starts in a room.
fn edges() -> Vec<(String, String, bool)> {
    let metadata = metadata();
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let mut edges = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let dev = dependency["kind"].as_str() == Some("dev");
            edges.push((text(&package["name"]), text(&dependency["name"]), dev));
        }
    }
    edges
}

#[test]
fn arrows_point_down_only() {
    let may_use: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    for (from, to, dev) in edges().iter().filter(|(_, to, _)| to.starts_with("farshore")) {
        let allowed = may_use
            .get(from.as_str())
            .unwrap_or_else(|| panic!("{from} is a new room: say here what it may use"));
        let in_tests = *dev && to == "farshore-sim";
        assert!(in_tests || allowed.contains(&to.as_str()), "{from} must not depend on {to}");
    }
}

#[test]
fn every_room_exists() {
    let metadata = metadata();
    let mut rooms: Vec<_> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .filter_map(|p| p["name"].as_str())
        .collect();
    let mut expected: Vec<_> = MAY_USE.iter().map(|(name, _)| *name).collect();
    rooms.sort_unstable();
    expected.sort_unstable();
    assert_eq!(rooms, expected);
}

#[test]
fn the_core_has_no_clock_no_socket_and_no_chance() {
    for (from, to, dev) in edges() {
        if from == "farshore-core" && !dev {
            assert!(!NOT_IN_CORE.contains(&to.as_str()), "farshore-core must not depend on {to}");
        }
    }
}
