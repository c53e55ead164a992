//! Files of a release, and what lies in the repository's directory.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use super::rig::{Rig, change, git};
use crate::scripts::{Difference, Repository, ScriptsError, What};

/// A release with everything that a file can be.
async fn odd_files(work: &Path) {
    std::fs::write(work.join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(work.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("service/api", work.join("link")).unwrap();
    symlink("/etc/nowhere", work.join("dangling")).unwrap();
    for name in ["a-b", "a.c", "a/b/c", "ab", "é ü\n\"x\""] {
        let path = work.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    std::fs::write(work.join(".gitignore"), "ab\n").unwrap();
    // Each of these changes files on checkout, or leaves them out of archives, unless it is told not to.
    let attributes = "*.txt text eol=crlf\n*.id ident\n*.utf working-tree-encoding=UTF-16\nsecret export-ignore\n* filter=evil\n";
    std::fs::write(work.join(".gitattributes"), attributes).unwrap();
    std::fs::write(work.join("lines.txt"), "one\ntwo\n").unwrap();
    std::fs::write(work.join("x.id"), "$Id$\n").unwrap();
    std::fs::write(work.join("secret"), "kept\n").unwrap();
    git(work, &["add", "-f", "-A"]).await;
    change(work, "empty", "", "odd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_on_the_disk_has_the_tree_id_of_its_commit() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    odd_files(&work).await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    let head = rig.repository.head().await.unwrap().unwrap();
    let release = rig.path("releases/1");
    rig.repository.checkout(&head.id, &release).await.unwrap();
    assert_eq!(rig.repository.tree_of_dir(&release).await.unwrap(), head.tree);
    assert_eq!(std::fs::read_to_string(release.join("lines.txt")).unwrap(), "one\ntwo\n");
    assert_eq!(std::fs::read_to_string(release.join("x.id")).unwrap(), "$Id$\n");
    let survey = rig.repository.survey(&head.id, &release).await.unwrap();
    assert_eq!((survey.tree, survey.differences, survey.extra), (head.tree.clone(), vec![], vec![]));
    // A release is never written twice.
    assert!(rig.repository.checkout(&head.id, &release).await.is_err());
    let tar = rig.path("release.tar");
    rig.repository.archive(&head.id, &tar).await.unwrap();
    let unpacked = rig.path("unpacked");
    tar::Archive::new(std::fs::File::open(&tar).unwrap()).unpack(&unpacked).unwrap();
    std::fs::remove_file(unpacked.join("pax_global_header")).unwrap_or_default();
    assert_eq!(rig.repository.tree_of_dir(&unpacked).await.unwrap(), head.tree);
    assert_eq!(std::fs::read_dir(rig.repository.dir().join("staging")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_differs_from_the_commit_is_told_by_path_and_what_a_build_made_apart() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    odd_files(&work).await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    let head = rig.repository.head().await.unwrap().unwrap();
    let release = rig.path("release");
    rig.repository.checkout(&head.id, &release).await.unwrap();
    std::fs::create_dir_all(release.join("node_modules/x")).unwrap();
    std::fs::write(release.join("node_modules/x/index.js"), "x").unwrap();
    std::fs::write(release.join("a/made"), "x").unwrap();
    let survey = rig.repository.survey(&head.id, &release).await.unwrap();
    assert_eq!((survey.tree, survey.differences), (head.tree.clone(), vec![]));
    assert_eq!(survey.extra, ["a/made", "node_modules/"]);
    std::fs::write(release.join("ab"), "bb").unwrap();
    std::fs::remove_file(release.join("a/b/c")).unwrap();
    std::fs::set_permissions(release.join("run.sh"), std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::remove_file(release.join("link")).unwrap();
    std::fs::write(release.join("link"), "service/api").unwrap();
    std::fs::remove_file(release.join("secret")).unwrap();
    std::fs::create_dir(release.join("secret")).unwrap();
    let told = |path: &str, what| Difference { path: path.into(), what };
    assert_eq!(
        rig.repository.differences(&head.id, &release).await.unwrap(),
        [
            told("a/b/c", What::Missing),
            told("ab", What::Changed),
            told("link", What::Kind),
            told("run.sh", What::Executable),
            told("secret", What::Kind),
        ]
    );
    assert_ne!(rig.repository.survey(&head.id, &release).await.unwrap().tree, head.tree);
    assert_eq!(serde_json::to_string(&What::Executable).unwrap(), "\"executable\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_commit_is_refused() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    let tree = rig.repository.head().await.unwrap().unwrap().tree;
    let nobody = "1".repeat(40);
    for id in ["main", "--help", "", nobody.as_str(), tree.as_str()] {
        let refused = rig.repository.checkout(id, &rig.path("x")).await;
        assert!(matches!(refused, Err(ScriptsError::NoCommit(_))), "{id}: {refused:?}");
    }
    assert!(!rig.path("x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_and_settings_that_came_with_a_directory_count_for_nothing() {
    let rig = Rig::new().await;
    let work = rig.work("work").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    let dir = rig.repository.dir().to_owned();
    let evidence = rig.path("evidence");
    let evil = format!("#!/bin/sh\ntouch {}\n", evidence.display());
    for hook in
        ["pre-receive", "update", "post-receive", "post-update", "reference-transaction", "pre-auto-gc"]
    {
        let path = dir.join("hooks").join(hook);
        std::fs::write(&path, &evil).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = dir.join("hooks/update").display().to_string();
    let config = format!(
        "[core]\n\tbare = true\n\thooksPath = {run}\n\tfsmonitor = {run}\n[filter \"evil\"]\n\tsmudge = {run}\n[uploadpack]\n\tpackObjectsHook = {run}\n"
    );
    std::fs::write(dir.join("config"), config).unwrap();
    std::fs::write(dir.join("refs/heads/main.lock"), "").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    std::fs::File::options()
        .write(true)
        .open(dir.join("refs/heads/main.lock"))
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    // As at the next start of the node.
    let again = Repository::open_or_init(&dir).unwrap();
    change(&work, ".gitattributes", "* filter=evil\n", "next").await;
    git(&work, &["push", "-q", "origin", "main"]).await;
    git(rig.dir.path(), &["clone", "-q", &rig.url(""), "copy"]).await;
    let head = again.head().await.unwrap().unwrap();
    again.checkout(&head.id, &rig.path("release")).await.unwrap();
    assert_eq!(head.message, "next");
    assert!(!evidence.exists());
    assert_eq!(rig.deployer.commits.lock().unwrap().len(), 2);
}
