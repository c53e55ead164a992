//! A source that is stopped or comes back: what only it has is sent, or kept and told; never passed over.

use super::*;
use crate::data::Position;

/// Paris has a row that oslo lacks, and oslo serves. Returns from where on paris is alone.
async fn diverged(paris: &Place, oslo: &Place) -> Watermark {
    paris.add("row 1").await;
    paris.arrived(oslo).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    paris.add("only here").await;
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    oslo.act(2, Action::Commit).await.unwrap();
    oslo.look().await.watermark
}

/// Where that is kept.
async fn kept_row(paris: &Place) -> std::path::PathBuf {
    let lost = paris.look().await.divergence.unwrap();
    assert_eq!((lost.loss.writes, lost.exact), (1, true));
    let kept = std::path::PathBuf::from(lost.endpoints[0].uri.strip_prefix("file://").unwrap());
    assert!(kept.join("app.db").exists() && kept.join("charter.json").exists(), "{kept:?}");
    assert!(paris.item().databases().is_empty(), "it is nowhere else");
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_does_not_follow_before_it_has_set_aside_what_only_it_has() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let after = diverged(&paris, &oslo).await;
    let in_the_way = paris.dir.path().join("apps/todo/divergent");
    std::fs::write(&in_the_way, "").unwrap();
    paris.world.is_cut.store(false, Ordering::SeqCst);
    let follow = || Action::Follow { source: region("oslo"), diverged_after: after };
    let refused = paris.act(2, follow()).await.unwrap_err();
    assert!(matches!(refused, StepError::Retry { .. }), "{refused}");
    assert_eq!(paris.look().await.role, Role::Fenced, "whoever looks gives the order again");
    let paris = paris.restart().await;
    assert_eq!(paris.look().await.role, Role::Fenced);
    std::fs::remove_file(&in_the_way).unwrap();
    paris.act(2, follow()).await.unwrap();
    assert_eq!(paris.look().await.role, Role::Target);
    kept_row(&paris).await;
    paris.act(2, follow()).await.unwrap();
    kept_row(&paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_follows_and_still_has_its_own_database_sets_it_aside() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    let after = diverged(&paris, &oslo).await;
    // As a node leaves it that dies between the two.
    paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    paris.item().change(|card| card.role = Role::Target).unwrap();
    let paris = paris.restart().await;
    paris.act(2, Action::Follow { source: region("oslo"), diverged_after: after }).await.unwrap();
    kept_row(&paris).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_whose_database_does_not_open_is_not_drained() {
    let paris = served().await;
    let oslo = follow(&paris, ReplicationMode::Async).await;
    paris.world.is_cut.store(true, Ordering::SeqCst);
    for row in rows(1, 3) {
        paris.add(&row).await;
    }
    let database = paris.item().database_dir(&paris.item().databases()[0]);
    let away = database.with_extension("away");
    let (name, world, dir, http) = paris.end().await;
    std::fs::rename(&database, &away).unwrap();
    std::fs::write(&database, "not a directory").unwrap();
    world.is_cut.store(false, Ordering::SeqCst);
    let paris = Place::open_in(name.as_str(), &world, dir, http).await;
    // As it is when its node was killed: what was noted when it was last closed is as old as that.
    paris.item().change(|card| card.closed = Position::default()).unwrap();
    paris.act(2, Action::Fence { lost_after: None }).await.unwrap();
    for _ in 0..2 {
        let refused = paris.act(2, Action::Drain).await.unwrap_err();
        assert!(matches!(refused, StepError::Retry { .. }), "{refused}");
        assert!(refused.to_string().contains("is not open"), "{refused}");
        let (here, there) = (paris.look().await.watermark, oslo.look().await.watermark);
        assert!((here.epoch, here.seq) > (there.epoch, there.seq), "nobody may believe that it is drained");
    }
    std::fs::remove_file(&database).unwrap();
    std::fs::rename(&away, &database).unwrap();
    paris.act(2, Action::Drain).await.unwrap();
    assert_eq!(paris.look().await.warnings, Vec::<String>::new());
    oslo.act(2, Action::Promote { point: PointChoice::Latest }).await.unwrap();
    assert_eq!(oslo.get("/rows").await, json!(rows(1, 3)));
}
