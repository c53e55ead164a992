//! A repository's copy in another region.

use std::path::Path;

use super::rig::{Rig, change, git};
use crate::scripts::{Refs, Repository, ScriptsError};

/// Brings `copy` to where the rig's repository is, as two regions do. The pack's size, if there was one.
async fn follow(rig: &Rig, copy: &Repository) -> Option<u64> {
    let have = copy.refs().await.unwrap();
    let refs = rig.repository.refs().await.unwrap();
    let pack = rig.path("pack");
    let size = rig.repository.pack_since(&have, &pack).await.unwrap();
    if size.is_some() {
        copy.take_pack(&pack, &refs).await.unwrap();
    }
    assert_eq!(copy.refs().await.unwrap(), refs);
    git(copy.dir(), &["fsck", "--strict", "--connectivity-only"]).await;
    size
}

async fn push(work: &Path, words: &[&str]) {
    git(work, &[&["push", "-q", "origin"], words].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_follows_pushes_forced_ones_and_deletions() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let copy = Repository::open_or_init(rig.path("copy")).unwrap();
    assert_eq!(follow(&rig, &copy).await, None);
    change(&work, "big", super::rig::noise(200_000), "big").await;
    push(&work, &["main", "main:refs/heads/a", "main:refs/heads/gone"]).await;
    let all = follow(&rig, &copy).await.unwrap();
    let head = copy.head().await.unwrap().unwrap();
    assert_eq!(Some(&head), rig.repository.head().await.unwrap().as_ref());
    copy.checkout(&head.id, &rig.path("release")).await.unwrap();
    assert_eq!(copy.tree_of_dir(&rig.path("release")).await.unwrap(), head.tree);
    change(&work, "small", "1", "small").await;
    push(&work, &["main"]).await;
    let little = follow(&rig, &copy).await.unwrap();
    assert!(little * 10 < all, "{little} of {all}");
    assert_eq!(follow(&rig, &copy).await, None);
    // Forced, deleted, put where a branch was in the way, tagged, and another branch that deploys.
    git(&work, &["commit", "-q", "--amend", "-m", "other"]).await;
    git(&work, &["tag", "-m", "noted", "v1"]).await;
    push(&work, &["--delete", "a", "gone"]).await;
    push(&work, &["--force", "main", "main:refs/heads/a/b", "main:master", "v1"]).await;
    follow(&rig, &copy).await.unwrap();
    assert_eq!(copy.head().await.unwrap().unwrap().message, "other");
    // Only a name has gone: there is nothing to pack, and still something to take.
    push(&work, &["--delete", "a/b"]).await;
    assert!(follow(&rig, &copy).await.unwrap() < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_copy_had_is_kept() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    push(&work, &["main"]).await;
    let copy = Repository::open_or_init(rig.path("copy")).unwrap();
    follow(&rig, &copy).await;
    // It was the source once, and took a push that the other never got.
    let tar = rig.path("a.tar");
    pack_one_file(&tar);
    let lost = copy.commit_archive(&tar, "only here", "ann").await.unwrap();
    change(&work, "next", "1", "next").await;
    push(&work, &["main"]).await;
    follow(&rig, &copy).await;
    assert_eq!(copy.kept().await.unwrap(), std::slice::from_ref(&lost.id));
    assert_eq!(copy.commit(&lost.id).await.unwrap(), lost);
    // It is not shown to others, and not sent back.
    assert_eq!(copy.refs().await.unwrap().refs.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_never_saw_what_the_copy_has_sends_all_that_it_needs() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    push(&work, &["main"]).await;
    let copy = Repository::open_or_init(rig.path("copy")).unwrap();
    let tar = rig.path("a.tar");
    pack_one_file(&tar);
    copy.commit_archive(&tar, "another beginning", "ann").await.unwrap();
    follow(&rig, &copy).await.unwrap();
    assert_eq!(copy.head().await.unwrap(), rig.repository.head().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_broken_or_lacks_something_moves_no_ref() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    push(&work, &["main"]).await;
    let copy = Repository::open_or_init(rig.path("copy")).unwrap();
    follow(&rig, &copy).await;
    let before = copy.refs().await.unwrap();
    change(&work, "next", "1", "next").await;
    push(&work, &["main"]).await;
    let refs = rig.repository.refs().await.unwrap();
    let pack = rig.path("pack");
    rig.repository.pack_since(&before, &pack).await.unwrap().unwrap();
    let whole = std::fs::read(&pack).unwrap();
    let empty = rig.path("empty");
    rig.repository
        .pack_since(&Refs { head: "refs/heads/master".into(), ..refs.clone() }, &empty)
        .await
        .unwrap();
    let mut turned = whole.clone();
    turned[20] ^= 1;
    for bytes in [&whole[..whole.len() - 3], &turned, b"", b"no pack at all", &std::fs::read(&empty).unwrap()]
    {
        std::fs::write(&pack, bytes).unwrap();
        let refused = copy.take_pack(&pack, &refs).await;
        assert!(matches!(refused, Err(ScriptsError::Unfit(_))), "{refused:?}");
        assert_eq!(copy.refs().await.unwrap(), before);
    }
    std::fs::write(&pack, &whole).unwrap();
    copy.take_pack(&pack, &refs).await.unwrap();
    copy.take_pack(&pack, &refs).await.unwrap();
    assert_eq!(copy.refs().await.unwrap(), refs);
}

fn pack_one_file(tar: &Path) {
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(std::fs::File::create(tar).unwrap());
    builder.append_data(&mut header, "file", &b"x"[..]).unwrap();
    builder.into_inner().unwrap();
}
