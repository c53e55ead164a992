//! Archives that become releases, and those that do not.

use std::path::{Path, PathBuf};

use super::rig::{Rig, git};
use crate::scripts::{Repository, ScriptsError};

/// An entry: its kind, its name, where it leads or what it holds.
type Entry<'a> = (tar::EntryType, &'a str, &'a str);

/// Writes names as they are: `tar::Builder` would mend them.
fn pack(path: &Path, entries: &[Entry<'_>]) {
    let mut all = Vec::new();
    for (kind, name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(if name.ends_with(".sh") { 0o755 } else { 0o644 });
        let is_link = matches!(kind, tar::EntryType::Symlink | tar::EntryType::Link);
        let held: &[u8] = if is_link { b"" } else { content.as_bytes() };
        if is_link {
            header.as_mut_bytes()[157..157 + content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(held.len() as u64);
        header.set_cksum();
        all.extend_from_slice(header.as_bytes());
        all.extend_from_slice(held);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.resize(all.len() + 1024, 0);
    std::fs::write(path, all).unwrap();
}

fn rig() -> (tempfile::TempDir, Repository, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let repository = Repository::open_or_init(dir.path().join("git")).unwrap();
    let tar = dir.path().join("a.tar");
    (dir, repository, tar)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_becomes_a_commit_of_exactly_its_files() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let (dir, repository, tar) = rig();
    pack(&tar, &[(Regular, "./old", "old")]);
    let first = repository.commit_archive(&tar, "first", "ann").await.unwrap();
    pack(
        &tar,
        &[
            (Directory, "./", ""),
            (Directory, "./bin/", ""),
            (Regular, "./bin/run.sh", "#!/bin/sh\n"),
            (Link, "./bin/again.sh", "bin/run.sh"),
            (Link, "./bin/third.sh", "./bin/again.sh"),
            (Symlink, "./bin/up", "../app.js"),
            (Regular, "./app.js", "1"),
            (Regular, "./a \"b\"", ""),
            (Regular, "./.gitattributes", "*.js text eol=crlf\n"),
        ],
    );
    let second = repository.commit_archive(&tar, "second\nline", "Ann <evil>\n").await.unwrap();
    assert_eq!((second.message.as_str(), second.author.as_str()), ("second\nline", "Ann evil"));
    assert_eq!(repository.head().await.unwrap().unwrap(), second);
    let unpacked = dir.path().join("unpacked");
    tar::Archive::new(std::fs::File::open(&tar).unwrap()).unpack(&unpacked).unwrap();
    assert_eq!(repository.tree_of_dir(&unpacked).await.unwrap(), second.tree);
    let release = dir.path().join("release");
    repository.checkout(&second.id, &release).await.unwrap();
    assert_eq!(repository.tree_of_dir(&release).await.unwrap(), second.tree);
    let listed = git(repository.dir(), &["rev-list", "main"]).await;
    assert_eq!(listed, format!("{}\n{}", second.id, first.id));
    git(repository.dir(), &["fsck", "--strict"]).await;
    assert_eq!(repository.refs().await.unwrap().refs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_would_do_harm_are_refused_and_nothing_is_changed() {
    use tar::EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
    let (_dir, repository, tar) = rig();
    pack(&tar, &[(Regular, "good", "1")]);
    let before = repository.commit_archive(&tar, "good", "ann").await.unwrap();
    let bad: &[&[Entry<'_>]] = &[
        &[(Regular, "/etc/passwd", "x")],
        &[(Regular, "../out", "x")],
        &[(Regular, "a/../../out", "x")],
        &[(Regular, ".git/hooks/post-receive", "x")],
        &[(Regular, "a/.GiT/config", "x")],
        &[(Regular, "git~1", "x")],
        &[(Symlink, "l", "/etc")],
        &[(Symlink, "l", "../..")],
        &[(Symlink, "d/l", "x/../../../y")],
        &[(Symlink, "l", "d"), (Regular, "l/x", "x")],
        &[(Regular, "f", "x"), (Regular, "f/x", "x")],
        &[(Regular, "f", "x"), (Regular, "./f", "y")],
        &[(Link, "l", "/etc/passwd")],
        &[(Link, "l", "later"), (Regular, "later", "x")],
        &[(Char, "c", "")],
        &[(Block, "b", "")],
        &[(Fifo, "p", "")],
        &[(Regular, "", "x")],
    ];
    for entries in bad {
        pack(&tar, &[&[(Regular, "fine", "1")], *entries].concat());
        let refused = repository.commit_archive(&tar, "bad", "ann").await;
        assert!(matches!(refused, Err(ScriptsError::Archive { .. })), "{entries:?}: {refused:?}");
    }
    pack(&tar, &[(tar::EntryType::Directory, "./", "")]);
    assert!(matches!(repository.commit_archive(&tar, "bad", "ann").await, Err(ScriptsError::Archive { .. })));
    std::fs::write(&tar, [7; 4096]).unwrap();
    assert!(repository.commit_archive(&tar, "bad", "ann").await.is_err());
    assert_eq!(repository.head().await.unwrap().unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_ends_early_makes_no_commit() {
    let (_dir, repository, tar) = rig();
    let long = "x".repeat(5_000);
    pack(&tar, &[(tar::EntryType::Regular, "a", long.as_str())]);
    let whole = std::fs::read(&tar).unwrap();
    std::fs::write(&tar, &whole[..3_000]).unwrap();
    assert!(repository.commit_archive(&tar, "short", "ann").await.is_err());
    assert_eq!(repository.head().await.unwrap(), None);
    assert!(repository.refs().await.unwrap().refs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_archives_at_once_none_undoes_the_other() {
    let rig = Rig::new().await;
    let make = |name: &str| {
        let tar = rig.path(name);
        pack(&tar, &[(tar::EntryType::Regular, name, name)]);
        let repository = std::sync::Arc::clone(&rig.repository);
        tokio::spawn(async move { repository.commit_archive(&tar, "at once", "ann").await })
    };
    let (one, other) = tokio::join!(make("one"), make("other"));
    let (one, other) = (one.unwrap(), other.unwrap());
    let count = git(rig.repository.dir(), &["rev-list", "--count", "main"]).await;
    match (one, other) {
        (Ok(_), Ok(_)) => assert_eq!(count, "2"),
        (Err(ScriptsError::Moved { .. }), Ok(_)) | (Ok(_), Err(ScriptsError::Moved { .. })) => {
            assert_eq!(count, "1");
        }
        both => panic!("{both:?}"),
    }
    assert_eq!(rig.repository.refs().await.unwrap().refs.len(), 1);
}
