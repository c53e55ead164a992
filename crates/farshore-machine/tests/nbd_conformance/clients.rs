//! libnbd's, QEMU's and fio's tools.

use serde_json::Value;

use crate::stage::{Kind, SIZE, Stage, attempt, run, uri};

const LIBNBD: &str = "libnbd-bin";
const QEMU: &str = "qemu-utils";

/// A sparse image of the disk's size with something at its start, somewhere and at its very end.
fn image(stage: &Stage) -> String {
    use std::os::unix::fs::FileExt;
    let path = stage.path("image.raw");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(SIZE).unwrap();
    for (offset, len) in [(0, 70_001), (33 << 20, 3 << 20), (SIZE - 4_500, 4_500)] {
        let data: Vec<u8> = (0..len).map(|at: u64| (at * 131 % 251) as u8 + 1).collect();
        file.write_all_at(&data, offset).unwrap();
    }
    path
}

fn same_files(a: &str, b: &str) {
    let (a, b) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    // Tools that count in sectors round the size up.
    let (shorter, longer) = if a.len() <= b.len() { (&a, &b) } else { (&b, &a) };
    assert!(longer.len() - shorter.len() < 512, "{} and {} bytes", a.len(), b.len());
    assert!(longer.starts_with(shorter), "the same content");
    assert!(longer[shorter.len()..].iter().all(|byte| *byte == 0));
}

fn json(text: &str) -> Value {
    let end = text.rfind(['}', ']']).unwrap();
    serde_json::from_str(&text[..=end]).unwrap()
}

fn nbdsh(uri: &str, kind: &str) {
    let script = format!(
        "import os; os.environ.update(NBD_URI={uri:?}, NBD_KIND={kind:?})\n{}",
        include_str!("protocol.py")
    );
    let text = run("python3-libnbd", "nbdsh", &["-c", &script]);
    assert!(text.contains("all good"), "{text}");
}

#[test]
fn nbdsh_finds_every_corner_of_the_protocol_as_it_should_be() {
    for stage in Stage::all() {
        nbdsh(&stage.uri, &format!("{:?}", stage.kind).to_lowercase());
    }
}

#[test]
fn nbdsh_cannot_write_to_a_read_only_disk() {
    let stage = Stage::new(Kind::Plain);
    nbdsh(&uri(&stage.dir.path().join("nbd.sock"), "locked"), "locked");
}

#[test]
fn nbdinfo_sees_size_flags_contexts_and_extents() {
    for stage in Stage::all() {
        let info = json(&run(LIBNBD, "nbdinfo", &["--json", &stage.uri]));
        assert_eq!(info["structured"], true, "{info}");
        let export = &info["exports"][0];
        assert_eq!(export["export-size"], SIZE, "{info}");
        assert_eq!(export["is_read_only"], false);
        assert_eq!(export["can_multi_conn"], true);
        assert_eq!(export["block_size_minimum"], 1);
        assert_eq!(export["block_size_preferred"], 4096);
        assert_eq!(export["block_size_maximum"], 32 << 20);
        assert_eq!(export["contexts"][0], "base:allocation", "{info}");
        let map = json(&run(LIBNBD, "nbdinfo", &["--map", "--json", &stage.uri]));
        let length: u64 = map.as_array().unwrap().iter().map(|run| run["length"].as_u64().unwrap()).sum();
        assert_eq!(length, SIZE, "{map}");
        if stage.kind != Kind::Plain {
            run(LIBNBD, "nbdinfo", &["--map=farshore:dirty", &stage.uri]);
        }
    }
}

#[test]
fn every_export_is_listed_by_both_families_of_tools() {
    let stage = Stage::new(Kind::Plain);
    let all = json(&run(LIBNBD, "nbdinfo", &["--list", "--json", &stage.uri]));
    let names: Vec<_> =
        all["exports"].as_array().unwrap().iter().map(|it| it["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["", "locked", "name with spaces/and ünïcode"]);
    let socket = stage.path("nbd.sock");
    let text = run(QEMU, "qemu-nbd", &["--list", "-k", &socket]);
    assert!(text.contains("exports available: 3"), "{text}");
    assert!(text.contains("size:  513"), "{text}");
}

#[test]
fn a_name_nobody_has_is_refused_in_words() {
    let stage = Stage::new(Kind::Plain);
    let missing = uri(&stage.dir.path().join("nbd.sock"), "none");
    // libnbd has words of its own for it, QEMU shows ours.
    let (good, text) = attempt(LIBNBD, "nbdinfo", &[&missing]);
    assert!(!good && text.contains("No such file or directory for export: none"), "{text}");
    let (good, text) = attempt(QEMU, "qemu-img", &["info", &missing]);
    assert!(!good && text.contains("no export of this name"), "{text}");
    let odd = uri(&stage.dir.path().join("nbd.sock"), "name%20with%20spaces/and%20%C3%BCn%C3%AFcode");
    assert!(run(LIBNBD, "nbdinfo", &["--size", &odd]).starts_with("513"));
}

#[test]
fn nbdcopy_brings_a_disk_in_and_out() {
    for stage in Stage::all() {
        let (image, back) = (image(&stage), stage.path("back.raw"));
        run(LIBNBD, "nbdcopy", &["--flush", &image, &stage.uri]);
        run(LIBNBD, "nbdcopy", &[&stage.uri, &back]);
        same_files(&image, &back);
        // Over what is there: the holes must be zeroed.
        run(LIBNBD, "nbdcopy", &["--allocated", &image, &stage.uri]);
        run(LIBNBD, "nbdcopy", &["--synchronous", "--connections=1", &stage.uri, &back]);
        same_files(&image, &back);
    }
}

#[test]
fn qemu_img_informs_maps_converts_and_compares() {
    for stage in Stage::all() {
        let image = image(&stage);
        let info = json(&run(QEMU, "qemu-img", &["info", "--output=json", &stage.uri]));
        assert_eq!(info["virtual-size"].as_u64().unwrap().div_ceil(512), SIZE.div_ceil(512), "{info}");
        run(QEMU, "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &image, &stage.uri]);
        run(QEMU, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &stage.uri]);
        let map = json(&run(QEMU, "qemu-img", &["map", "--output=json", "-f", "raw", &stage.uri]));
        let data = |at: u64| {
            let run = map.as_array().unwrap().iter().find(|run| {
                let start = run["start"].as_u64().unwrap();
                start <= at && at < start + run["length"].as_u64().unwrap()
            });
            run.unwrap_or_else(|| panic!("{at} is not in {map}"))["data"] == true
        };
        assert!(data(0) && data(34 << 20) && data(SIZE - 1), "{map}");
        assert!(stage.kind != Kind::Plain || !data(10 << 20), "a hole is seen: {map}");
        for format in ["qcow2", "raw"] {
            let back = stage.path(&format!("back.{format}"));
            run(
                QEMU,
                "qemu-img",
                &["convert", "-m", "8", "-W", "-f", "raw", "-O", format, &stage.uri, &back],
            );
            run(QEMU, "qemu-img", &["compare", "-f", "raw", "-F", format, &image, &back]);
        }
        run(QEMU, "qemu-io", &["-f", "raw", "-c", "write -P 7 40m 1", &stage.uri]);
        let (same, text) =
            attempt(QEMU, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &stage.uri]);
        assert!(!same && text.contains("41943040"), "one byte is noticed: {text}");
    }
}

#[test]
fn qemu_io_reads_the_patterns_it_wrote() {
    let rows = [
        "write -P 0xab 1000 70000",
        "read -P 0xab 1000 70000",
        "read -P 0 0 1000",
        "write -z 4096 8192",
        "read -P 0 4096 8192",
        "write -z -u 20000 10000",
        "read -P 0 20000 10000",
        "read -P 0xab 30000 41000",
        "write -f -P 0xcd 16M 8M",
        "discard 17M 1M",
        "read -P 0xcd 16M 1M",
        "read -P 0 17M 1M",
        "write -z -f 18M 64k",
        "read -P 0 18M 64k",
        "aio_write -P 0xef 30M 2M",
        "aio_write -P 0x12 32M 2M",
        "aio_flush",
        "read -P 0xef 30M 2M",
        "read -P 0x12 32M 2M",
        "write -P 0x34 80M 4321",
        "read -P 0x34 80M 4321",
        "flush",
    ];
    for stage in Stage::all() {
        let mut arguments = vec!["-f", "raw", "-d", "unmap"];
        rows.iter().for_each(|row| arguments.extend(["-c", row]));
        arguments.push(&stage.uri);
        let text = run(QEMU, "qemu-io", &arguments);
        assert!(!text.contains("failed"), "{:?}: {text}", stage.kind);
    }
}

#[test]
fn fio_verifies_what_it_wrote_at_random() {
    for stage in Stage::all() {
        let uri = format!("--uri={}", stage.uri);
        let text = run(
            "fio",
            "fio",
            &[
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                "--rw=randwrite",
                "--bsrange=4k-64k",
                "--iodepth=16",
                "--size=48m",
                "--io_size=24m",
                "--verify=crc32c",
                "--verify_state_save=0",
                "--verify_fatal=1",
                "--do_verify=1",
                "--fsync=64",
                "--randseed=1",
            ],
        );
        assert!(text.contains("err= 0"), "{text}");
    }
}
