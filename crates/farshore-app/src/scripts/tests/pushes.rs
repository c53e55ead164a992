//! Clone, fetch and push by people.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::rig::{Rig, change, client, git, noise, said, try_git, until};

#[tokio::test(flavor = "multi_thread")]
async fn clone_fetch_and_push_work_at_the_name_and_at_the_root() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let told = git(&work, &["push", "origin", "main"]).await;
    assert!(told.contains("remote: building first"), "{told}");
    assert!(told.contains("remote: release 4 runs"), "{told}");
    for (name, path) in [("named", "/todo.git"), ("root", ""), ("slash", "/")] {
        git(rig.dir.path(), &["clone", "-q", &rig.url(path), name]).await;
        let copy = rig.path(name);
        assert_eq!(std::fs::read_to_string(copy.join("service/api/hello.js")).unwrap(), "exports.get = 1;\n");
        change(&copy, "from", name, name).await;
        git(&copy, &["push", "-q", "origin", "main"]).await;
        git(&work, &["pull", "-q", "--ff-only", "origin", "main"]).await;
        assert_eq!(std::fs::read_to_string(work.join("from")).unwrap(), name);
    }
    let head = rig.repository.head().await.unwrap().unwrap();
    assert_eq!((head.message.as_str(), head.author.as_str()), ("slash", "Ann"));
    assert_eq!(head.tree, git(&work, &["rev-parse", "HEAD^{tree}"]).await);
    let commits = rig.deployer.commits.lock().unwrap();
    let deployed: Vec<&str> = commits.iter().map(|(commit, _)| commit.message.as_str()).collect();
    assert_eq!(deployed, ["first", "named", "root", "slash"]);
    assert!(commits.iter().all(|(_, by)| by == "ann"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shallow_and_partial_clones_work_in_each_version_of_the_protocol() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    for count in 0..5 {
        change(&work, "count", count.to_string(), &format!("count {count}")).await;
    }
    git(&work, &["push", "-q", "origin", "main"]).await;
    for version in ["0", "1", "2"] {
        let name = format!("shallow{version}");
        let config = format!("protocol.version={version}");
        let url = rig.url("/todo.git");
        git(rig.dir.path(), &["-c", &config, "clone", "-q", "--depth", "2", &url, &name]).await;
        assert_eq!(git(&rig.path(&name), &["rev-list", "--count", "HEAD"]).await, "2");
        git(&rig.path(&name), &["-c", &config, "fetch", "-q", "--unshallow"]).await;
        assert_eq!(git(&rig.path(&name), &["rev-list", "--count", "HEAD"]).await, "6");
    }
    git(rig.dir.path(), &["clone", "-q", "--filter=blob:none", &rig.url("/todo.git"), "partial"]).await;
    assert!(rig.seen.lock().unwrap().contains("/todo.git/info/refs git-protocol: version=2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_blocks_nobody() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let wrong: Vec<_> = (0..5)
        .map(|count| {
            let url = rig.url_with(&format!("ann:wrong{count}"), "/todo.git");
            let dir = work.clone();
            tokio::spawn(async move { try_git(&dir, &["ls-remote", &url]).await })
        })
        .collect();
    git(&work, &["push", "-q", "origin", "main"]).await;
    for wrong in wrong {
        let output = wrong.await.unwrap();
        assert!(!output.status.success());
        assert!(said(&output).contains("Authentication failed"), "{}", said(&output));
    }
    let nobody = format!("http://127.0.0.1:{}/todo.git", rig.port);
    assert!(!try_git(&work, &["ls-remote", &nobody]).await.status.success());
    let any_user = rig.url_with("somebody:token", "/todo.git");
    assert!(git(&work, &["ls-remote", &any_user]).await.contains("refs/heads/main"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_release_does_not_come_up_is_stored_and_tells_it() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    rig.deployer.comes_up.store(false, Ordering::Relaxed);
    let told = git(&work, &["push", "origin", "main"]).await;
    assert!(told.contains("remote: the release did not come up: exit 1; release 3 goes on"), "{told}");
    assert!(told.contains("remote: the push is stored, but its release does not run"), "{told}");
    assert_eq!(rig.repository.head().await.unwrap().unwrap().message, "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_branches_are_stored_and_not_deployed() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let told = git(&work, &["push", "origin", "main:refs/heads/try"]).await;
    assert!(told.contains("remote: branch try is stored; only main and master are deployed"), "{told}");
    assert!(rig.deployer.commits.lock().unwrap().is_empty());
    assert_eq!(rig.repository.head().await.unwrap(), None);
    git(&work, &["push", "-q", "origin", ":try"]).await;
    assert!(rig.repository.refs().await.unwrap().refs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_master_deploys_and_makes_it_what_is_cloned() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main:master"]).await;
    assert_eq!(rig.deployer.commits.lock().unwrap().len(), 1);
    assert_eq!(rig.repository.refs().await.unwrap().head, "refs/heads/master");
    git(rig.dir.path(), &["clone", "-q", &rig.url(""), "copy"]).await;
    assert!(rig.path("copy/service").exists());
    // What runs is not deleted by a push.
    assert!(!try_git(&work, &["push", "-q", "origin", ":master"]).await.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushes_at_once_one_wins_and_the_other_is_told() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    let mut copies = Vec::new();
    for name in ["one", "other"] {
        git(rig.dir.path(), &["clone", "-q", &rig.url("/todo.git"), name]).await;
        change(&rig.path(name), "who", name, name).await;
        copies.push(rig.path(name));
    }
    let push = |dir: &Path| {
        let dir = dir.to_owned();
        tokio::spawn(async move { try_git(&dir, &["push", "origin", "main"]).await })
    };
    let (one, other) = tokio::join!(push(&copies[0]), push(&copies[1]));
    let (one, other) = (one.unwrap(), other.unwrap());
    let (won, lost) = if one.status.success() { ("one", &other) } else { ("other", &one) };
    assert!(!lost.status.success(), "both won: {} / {}", said(&one), said(&other));
    assert!(said(lost).contains("failed to push"), "{}", said(lost));
    assert_eq!(rig.repository.head().await.unwrap().unwrap().message, won);
    assert_eq!(rig.deployer.commits.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_too_big_is_refused_in_gits_words_and_a_big_one_is_taken() {
    let rig = Rig::with(|repository| repository.with_push_bytes_max(4 << 20)).await;
    let work = rig.work("work").await;
    change(&work, "big", noise(3 << 20), "big").await;
    git(&work, &["-c", "http.postBuffer=65536", "push", "-q", "origin", "main"]).await;
    let chunked = "/todo.git/git-receive-pack transfer-encoding: chunked";
    assert!(rig.seen.lock().unwrap().contains(chunked));
    change(&work, "bigger", noise((6 << 20) + 1), "bigger").await;
    let output = try_git(&work, &["-c", "http.postBuffer=65536", "push", "origin", "main"]).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("maximum allowed size"), "{}", said(&output));
    assert_eq!(rig.repository.head().await.unwrap().unwrap().message, "big");
    rig.no_process_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pusher_who_goes_away_leaves_nothing_behind_and_the_deploy_goes_on() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    rig.deployer.gate.forget_permits(1_000);
    let mut pusher = client(&work, &["push", "origin", "main"]).process_group(0).spawn().unwrap();
    until("the deploy begins", || !rig.deployer.commits.lock().unwrap().is_empty()).await;
    // Its helper that holds the connection is in the same group.
    crate::scripts::program::signal_group(pusher.id().unwrap(), rustix::process::Signal::KILL);
    pusher.wait().await.unwrap();
    rig.no_process_is_left().await;
    rig.deployer.gate.add_permits(1_000);
    until("the deploy ends", || *rig.deployer.ended.lock().unwrap() == 1).await;
    change(&work, "next", "1", "next").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    assert_eq!(rig.deployer.commits.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_does_not_serve_refuses_pushes_and_still_gives() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    change(&work, "next", "1", "next").await;
    *rig.deployer.takes.lock().unwrap() = Err("todo is served by oslo".into());
    let output = try_git(&work, &["push", "origin", "main"]).await;
    assert!(said(&output).contains("503"), "{}", said(&output));
    assert!(said(&output).contains("remote: todo is served by oslo"), "{}", said(&output));
    git(&work, &["fetch", "-q", "origin"]).await;
    *rig.deployer.takes.lock().unwrap() = Ok(());
    git(&work, &["push", "-q", "origin", "main"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_closing_no_branch_moves_until_it_is_opened_again() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    rig.deployer.gate.forget_permits(1_000);
    let pusher = client(&work, &["push", "origin", "main"]).spawn().unwrap();
    until("the deploy begins", || !rig.deployer.commits.lock().unwrap().is_empty()).await;
    rig.http.close("the region is being left").await;
    let cut_off = pusher.wait_with_output().await.unwrap();
    assert!(!cut_off.status.success());
    let before = rig.repository.refs().await.unwrap();
    change(&work, "next", "1", "next").await;
    let refused = try_git(&work, &["push", "origin", "main"]).await;
    assert!(said(&refused).contains("the region is being left"), "{}", said(&refused));
    assert_eq!(rig.repository.refs().await.unwrap(), before);
    rig.deployer.gate.add_permits(1_000);
    rig.http.reopen();
    git(&work, &["push", "-q", "origin", "main"]).await;
    rig.http.stop().await;
    assert_eq!(*rig.deployer.ended.lock().unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_cut_off_before_the_node_heard_of_it_is_deployed() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let hook = rig.repository.dir().join("hooks/post-receive");
    let ours = std::fs::read_to_string(&hook).unwrap();
    std::fs::write(&hook, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    let mut pusher = client(&work, &["push", "origin", "main"]).process_group(0).spawn().unwrap();
    until("the branch moves", || rig.repository.dir().join("refs/heads/main").exists()).await;
    crate::scripts::program::signal_group(pusher.id().unwrap(), rustix::process::Signal::KILL);
    pusher.wait().await.unwrap();
    until("it is deployed", || *rig.deployer.ended.lock().unwrap() == 1).await;
    rig.no_process_is_left().await;
    std::fs::write(&hook, ours).unwrap();
    change(&work, "next", "1", "next").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    assert_eq!(rig.deployer.commits.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_pushes_into_the_names_of_the_node() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    let output = try_git(&work, &["push", "origin", "main:refs/farshore/kept/x"]).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("hidden ref"), "{}", said(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_both_branches_in_one_push_main_is_deployed() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["branch", "master"]).await;
    change(&work, "next", "1", "next").await;
    git(&work, &["push", "-q", "origin", "master", "main", "main:refs/heads/dir/other"]).await;
    let commits = rig.deployer.commits.lock().unwrap();
    assert_eq!(commits.iter().map(|(commit, _)| commit.message.as_str()).collect::<Vec<_>>(), ["next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_left_while_a_push_is_under_way_does_not_take_it() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    // Asked twice for each of the two requests, and then, not taken any more, when the branch is to move.
    rig.deployer.takes_times.store(4, Ordering::Relaxed);
    let output = try_git(&work, &["push", "origin", "main"]).await;
    assert!(!output.status.success());
    assert!(said(&output).contains("remote: todo is being left"), "{}", said(&output));
    assert!(rig.repository.refs().await.unwrap().refs.is_empty());
    // Left between the move and the answer: the pusher is not told that it is done, and nothing is released.
    rig.deployer.takes_times.store(5, Ordering::Relaxed);
    let output = try_git(&work, &["push", "origin", "main"]).await;
    assert!(!output.status.success(), "{}", said(&output));
    assert!(rig.deployer.commits.lock().unwrap().is_empty());
    rig.no_process_is_left().await;
}
