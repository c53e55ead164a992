//! A disk without room: what does not fit is refused, what is there can be read, and with room again all goes on.

use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const DIR: &str = "FARSHORE_TEST_FULL_REGISTRY";

/// Not a test by itself: the limit on the size of files is one of a whole process.
#[tokio::test]
async fn child_with_little_room() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let registry = Registry::open(Path::new(&dir), region("oslo")).unwrap();
    create(&registry, "pump").await;
    let length = std::fs::metadata(Path::new(&dir).join("registry.redb")).unwrap().len();
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: Some(length), maximum }).unwrap();
    let mut made = 0;
    let refused = loop {
        let tags = json!({ "filling": "x".repeat(8000) });
        let new = NewDevice { tags, ..NewDevice::with(Auth::None) };
        match edit(&registry, &format!("d{made}"), vec![Edit::Create(new)]).await {
            Ok(_) => made += 1,
            Err(error) => break error.to_string(),
        }
        assert!(made < 100_000, "the limit does nothing");
    };
    assert!(refused.contains("has no room"), "{refused}");
    assert_eq!(registry.counts().devices, made + 1);
    assert!(registry.get(&key("pump")).unwrap().is_some(), "what is there can be read");
    setrlimit(Resource::Fsize, Rlimit { current: maximum, maximum }).unwrap();
    create(&registry, "later").await;
    assert_eq!(registry.page(None, usize::MAX).unwrap().len() as u64, made + 2);
    drop(registry);
    let registry = Registry::open(Path::new(&dir), region("oslo")).unwrap();
    assert_eq!(registry.counts().devices, made + 2);
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // Beyond the limit the system sends a signal; ignored, the write fails as on a full disk.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["registry::tests::full::child_with_little_room", "--exact"])
        .env(DIR, dir.path())
        .status()
        .unwrap();
    assert!(status.success(), "see what the child says above");
}
