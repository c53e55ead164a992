//! What every store must do: one function per rule, each on an empty store of its own.
//!
//! `farshore_store::conformance_tests!(make)` in a test file turns each rule into a test; `make` is an `async fn()`
//! that returns `Arc<dyn Store>`. [`conformance`] runs all of them, for a store that is dear to set up. An "empty store"
//! may be a part of one that others write to: revisions rise, and nothing is said about by how much. What holds for a
//! store of its own is in rules of their own at the end.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_core::store::{
    Change, CommitError, Compare, Entry, KEY_LEN_MAX, ReadError, Revision, Store, TRANSACTION_OPS_MAX,
    Transaction, VALUE_LEN_MAX, Watch, Write,
};
use futures_util::FutureExt as _;

/// A store under test.
pub type Subject = Arc<dyn Store>;

macro_rules! rules {
    ($($rule:ident)*) => {
        /// Runs every rule, each on a fresh store. Panics at the first that does not hold.
        pub async fn conformance(make: impl AsyncFn() -> Subject) {
            $( $rule(make().await).await; )*
        }

        /// One `#[tokio::test]` per rule. `$make` is an `async fn() -> Arc<dyn Store>`.
        #[macro_export]
        macro_rules! conformance_tests {
            ($make:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $rule() {
                        $crate::conformance::$rule($make().await).await;
                    }
                )*
            };
        }
    };
}

rules! {
    an_empty_store_has_nothing
    what_was_put_is_got
    a_list_is_sorted_and_keeps_to_its_prefix
    each_commit_raises_the_revision
    an_empty_transaction_is_a_commit
    absent_holds_only_for_what_is_not_there
    at_holds_only_for_the_last_write
    a_conflict_changes_nothing
    all_writes_of_a_transaction_have_its_revision
    a_delete_removes_and_may_be_repeated
    the_limits_are_kept
    the_longest_key_and_value_are_kept
    increments_are_not_lost
    of_many_creators_one_wins
    transfers_keep_the_sum
    a_watch_from_0_sees_everything
    a_watch_from_the_middle_sees_the_rest
    a_watch_of_a_list_goes_on_where_the_list_ends
    a_watch_waits_for_what_comes
    a_watch_keeps_to_its_prefix
    a_watch_sees_the_writes_of_a_transaction_in_order
    a_watch_does_not_wait_within_a_revision
    a_watch_of_the_future_is_refused
    watches_miss_nothing_while_many_write
    a_cancelled_wait_loses_nothing
}

/// The store starts with nothing.
pub async fn an_empty_store_has_nothing(store: Subject) {
    assert_eq!(list(&store, "").await.0, vec![]);
    assert_eq!(get(&store, "a").await, None);
}

/// A put is seen by the next read, with its revision; the next put replaces it.
pub async fn what_was_put_is_got(store: Subject) {
    let first = commit(&store, vec![], vec![put("a/b", "1")]).await;
    assert_eq!(get(&store, "a/b").await, Some(entry("a/b", "1", first)));
    let second = commit(&store, vec![], vec![put("a/b", "2")]).await;
    assert_eq!(get(&store, "a/b").await, Some(entry("a/b", "2", second)));
    assert_eq!(get(&store, "a").await, None, "a prefix is not a key");
    let bytes = vec![0, 255, 128, 10];
    commit(&store, vec![], vec![Write::Put("bin".into(), bytes.clone()), Write::Put("none".into(), vec![])])
        .await;
    assert_eq!(get(&store, "bin").await.expect("it was put").value, bytes);
    assert_eq!(get(&store, "none").await.expect("it was put").value, Vec::<u8>::new());
}

/// Neighbours of a prefix on both sides, and characters of several bytes, are told apart.
pub async fn a_list_is_sorted_and_keeps_to_its_prefix(store: Subject) {
    let keys = [
        "items0",
        "items/b",
        "items",
        "items/a",
        "items/a/own",
        "items.",
        "item",
        "items/\u{10ffff}",
        "é/x",
        "z",
    ];
    commit(&store, vec![], keys.iter().map(|key| put(key, "v")).collect()).await;
    let mut sorted = keys.to_vec();
    sorted.sort_unstable();
    for prefix in ["", "i", "items/", "items/a", "items/a/", "é", "z", "zz", "items/\u{10ffff}", "\u{10ffff}"]
    {
        let (found, _) = list(&store, prefix).await;
        let found: Vec<_> = found.iter().map(|entry| entry.key.as_str()).collect();
        let expected: Vec<_> = sorted.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        assert_eq!(found, expected, "under {prefix:?}");
    }
}

/// Whatever a transaction writes, it is one revision, higher than all before; reads that follow are not older.
pub async fn each_commit_raises_the_revision(store: Subject) {
    let mut last = list(&store, "").await.1;
    for n in 1..=20 {
        let revision =
            commit(&store, vec![], vec![put("a", "x"), put(&format!("b{n}"), "y"), delete("c")]).await;
        assert!(revision > last, "{revision:?} after {last:?}");
        let refused = store.commit(transaction(vec![absent("a")], vec![put("d", "z")])).await;
        assert_conflict(refused, "a");
        last = list(&store, "none").await.1;
        assert!(last >= revision, "a read at {last:?} after a commit at {revision:?}");
    }
}

/// Also what changes no key is a commit with a revision of its own, whether it compares or not, and however much it
/// removes.
pub async fn an_empty_transaction_is_a_commit(store: Subject) {
    let before = list(&store, "").await.1;
    let none = (0..TRANSACTION_OPS_MAX).map(|n| delete(&format!("k{n}"))).collect();
    let mut revisions = vec![before];
    for (compares, writes) in
        [(vec![], vec![]), (vec![absent("a")], vec![]), (vec![], vec![delete("a")]), (vec![], none)]
    {
        revisions.push(commit(&store, compares, writes).await);
    }
    assert!(revisions.is_sorted_by(|earlier, later| earlier < later), "{revisions:?}");
    assert_eq!(list(&store, "").await.0, vec![], "nothing of it is seen");
    let mut watch = watch(&store, "", before.0).await;
    let put_at = commit(&store, vec![], vec![put("a", "1")]).await;
    assert_eq!(
        next(&mut watch).await,
        changed("a", "1", put_at.0),
        "revisions without changes are passed over"
    );
}

/// `Absent` holds before the first put and after a removal.
pub async fn absent_holds_only_for_what_is_not_there(store: Subject) {
    commit(&store, vec![absent("a")], vec![put("a", "1")]).await;
    assert_conflict(store.commit(transaction(vec![absent("a")], vec![put("a", "2")])).await, "a");
    commit(&store, vec![absent("b")], vec![delete("a")]).await;
    commit(&store, vec![absent("a")], vec![put("a", "3")]).await;
    assert_eq!(get(&store, "a").await.expect("it was put").value, b"3");
}

/// `At` compares with the last write of that key, not of the store; what is not there is at no revision.
pub async fn at_holds_only_for_the_last_write(store: Subject) {
    let first = commit(&store, vec![], vec![put("a", "1")]).await;
    let other = commit(&store, vec![], vec![put("b", "1")]).await;
    assert_conflict(store.commit(transaction(vec![at("a", other)], vec![])).await, "a");
    let second = commit(&store, vec![at("a", first), at("b", other)], vec![put("a", "2")]).await;
    assert_conflict(store.commit(transaction(vec![at("a", first)], vec![])).await, "a");
    commit(&store, vec![at("a", second)], vec![delete("a")]).await;
    assert_conflict(store.commit(transaction(vec![at("a", second)], vec![])).await, "a");
    assert_conflict(store.commit(transaction(vec![at("never", Revision(0))], vec![])).await, "never");
}

/// Of several compares the first that fails is named, and no write is done.
pub async fn a_conflict_changes_nothing(store: Subject) {
    let first = commit(&store, vec![], vec![put("a", "1"), put("b", "1")]).await;
    let before = list(&store, "").await.0;
    let compares = vec![at("a", first), absent("c"), absent("b"), at("d", first)];
    let refused = store.commit(transaction(compares, vec![put("a", "2"), delete("b"), put("c", "2")])).await;
    assert_conflict(refused, "b");
    assert_eq!(list(&store, "").await.0, before);
}

/// A transaction is one moment.
pub async fn all_writes_of_a_transaction_have_its_revision(store: Subject) {
    let first = commit(&store, vec![], vec![put("a", "0"), put("z", "0")]).await;
    let writes: Vec<_> = (0..TRANSACTION_OPS_MAX - 1).map(|n| put(&format!("k{n:03}"), "v")).collect();
    let revision = commit(&store, vec![absent("new")], writes).await;
    let (found, _) = list(&store, "k").await;
    assert_eq!(found.len(), TRANSACTION_OPS_MAX - 1);
    assert!(found.iter().all(|entry| entry.revision == revision));
    assert_eq!(get(&store, "a").await.expect("untouched").revision, first);
}

/// A removed key is in no read; removing it again is no error and no change.
pub async fn a_delete_removes_and_may_be_repeated(store: Subject) {
    let first = commit(&store, vec![], vec![put("a", "1"), put("b", "1")]).await;
    let second = commit(&store, vec![], vec![delete("a")]).await;
    let third = commit(&store, vec![], vec![delete("a"), put("c", "1")]).await;
    assert_eq!(get(&store, "a").await, None);
    let keys: Vec<_> = list(&store, "").await.0.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["b", "c"]);
    let mut watch = watch(&store, "", first.0).await;
    assert_eq!(next(&mut watch).await, gone("a", second.0));
    assert_eq!(next(&mut watch).await, changed("c", "1", third.0));
}

/// One above each limit is `Invalid`, also when a compare would fail, and changes nothing.
pub async fn the_limits_are_kept(store: Subject) {
    let long = "k".repeat(KEY_LEN_MAX + 1);
    let many = (0..=TRANSACTION_OPS_MAX).map(|n| put(&format!("k{n}"), "")).collect();
    let half = TRANSACTION_OPS_MAX / 2 + 1;
    let compares = (0..half).map(|n| absent(&format!("c{n}"))).collect();
    let writes = (0..half).map(|n| put(&format!("w{n}"), "")).collect();
    let wrong = [
        transaction(vec![], many),
        transaction(compares, writes),
        transaction(vec![], vec![put(&long, "")]),
        transaction(vec![], vec![delete(&long)]),
        transaction(vec![absent(&long)], vec![]),
        transaction(vec![], vec![put("", "")]),
        transaction(vec![], vec![Write::Put("big".into(), vec![b'x'; VALUE_LEN_MAX + 1])]),
        transaction(vec![], vec![megabyte("one"), Write::Put("two".into(), vec![b'x'; VALUE_LEN_MAX / 2])]),
        transaction(vec![], vec![put("twice", "1"), put("twice", "2")]),
        transaction(vec![], vec![put("twice", "1"), delete("twice")]),
        transaction(vec![at("never", Revision(9))], vec![put("twice", "1"), put("twice", "1")]),
    ];
    for transaction in wrong {
        let refused = store.commit(transaction).await;
        assert!(matches!(refused, Err(CommitError::Invalid(_))), "{refused:?}");
    }
    assert_eq!(list(&store, "").await.0, vec![]);
}

/// Exactly at the limits is allowed, and comes back whole, in a watch too.
pub async fn the_longest_key_and_value_are_kept(store: Subject) {
    let key = "k".repeat(KEY_LEN_MAX);
    let value: Vec<u8> = (0..VALUE_LEN_MAX).map(|n| (n % 251) as u8).collect();
    let before = list(&store, "").await.1;
    let revision = commit(&store, vec![absent(&key)], vec![Write::Put(key.clone(), value.clone())]).await;
    let expected = Entry { key: key.clone(), value, revision };
    assert!(get(&store, &key).await.as_ref() == Some(&expected));
    assert!(list(&store, "k").await.0 == vec![expected.clone()]);
    let mut watch = watch(&store, "", before.0).await;
    assert!(next(&mut watch).await == Change::Put(expected));
}

/// Many read, add one and compare-and-set: each success counts once.
pub async fn increments_are_not_lost(store: Subject) {
    const TASKS: u64 = 8;
    const EACH: u64 = 10;
    commit(&store, vec![], vec![put("n", "0")]).await;
    let tasks: Vec<_> = (0..TASKS).map(|_| tokio::spawn(increment(Arc::clone(&store), EACH))).collect();
    for task in tasks {
        task.await.expect("an increment failed");
    }
    let last = get(&store, "n").await.expect("it was put");
    assert_eq!(number(&last), TASKS * EACH);
}

async fn increment(store: Subject, times: u64) {
    let mut done = 0;
    while done < times {
        let now = get(&store, "n").await.expect("it was put");
        let next = put("n", &(number(&now) + 1).to_string());
        match store.commit(transaction(vec![at("n", now.revision)], vec![next])).await {
            Ok(_) => done += 1,
            Err(CommitError::Conflict { key }) => assert_eq!(key, "n"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// `Absent` is a lock: of many creators exactly one succeeds.
pub async fn of_many_creators_one_wins(store: Subject) {
    for round in 0..5 {
        let key = format!("job/{round}");
        let race = |n: usize| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                store.commit(transaction(vec![absent(&key)], vec![put(&key, &n.to_string())])).await.is_ok()
            })
        };
        let racers: Vec<_> = (0..8).map(race).collect();
        let mut winners = Vec::new();
        for (n, racer) in racers.into_iter().enumerate() {
            if racer.await.expect("a racer failed") {
                winners.push(n);
            }
        }
        let kept = get(&store, &key).await.expect("someone won");
        assert_eq!(winners, [number(&kept) as usize]);
    }
}

/// A list is one moment: while amounts move between keys, their sum is seen unchanged.
pub async fn transfers_keep_the_sum(store: Subject) {
    const ACCOUNTS: u64 = 4;
    commit(&store, vec![], (0..ACCOUNTS).map(|n| put(&format!("a/{n}"), "100")).collect()).await;
    let movers: Vec<_> = (0..4).map(|seed| tokio::spawn(transfer(Arc::clone(&store), seed))).collect();
    while !movers.iter().all(tokio::task::JoinHandle::is_finished) {
        let (accounts, _) = list(&store, "a/").await;
        assert_eq!(accounts.iter().map(number).sum::<u64>(), 100 * ACCOUNTS);
        tokio::task::yield_now().await;
    }
    for mover in movers {
        mover.await.expect("a mover failed");
    }
}

async fn transfer(store: Subject, seed: usize) {
    for round in 0..10 {
        let (accounts, _) = list(&store, "a/").await;
        let from = &accounts[(seed + round) % accounts.len()];
        let to = &accounts[(seed + round + 1) % accounts.len()];
        let compares = vec![at(&from.key, from.revision), at(&to.key, to.revision)];
        let Some(less) = number(from).checked_sub(7) else { continue };
        let writes = vec![put(&from.key, &less.to_string()), put(&to.key, &(number(to) + 7).to_string())];
        match store.commit(transaction(compares, writes)).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every change since the beginning, also of keys that are gone.
pub async fn a_watch_from_0_sees_everything(store: Subject) {
    let first = commit(&store, vec![], vec![put("a", "1")]).await.0;
    let second = commit(&store, vec![], vec![put("a", "2"), put("b", "1")]).await.0;
    let third = commit(&store, vec![], vec![delete("a")]).await.0;
    let mut watch = watch(&store, "", 0).await;
    for expected in
        [changed("a", "1", first), changed("a", "2", second), changed("b", "1", second), gone("a", third)]
    {
        assert_eq!(next(&mut watch).await, expected);
    }
}

/// `after` itself is not seen again; more than one batch of an implementation is.
pub async fn a_watch_from_the_middle_sees_the_rest(store: Subject) {
    const COMMITS: u64 = 30;
    const EACH: usize = 20;
    let mut revisions = Vec::new();
    for n in 1..=COMMITS {
        let writes = (0..EACH).map(|key| put(&format!("k{key}"), &n.to_string())).collect();
        revisions.push((n, commit(&store, vec![], writes).await.0));
    }
    let mut watch = watch(&store, "k", revisions[2].1).await;
    for (n, revision) in &revisions[3..] {
        for key in 0..EACH {
            assert_eq!(next(&mut watch).await, changed(&format!("k{key}"), &n.to_string(), *revision));
        }
    }
}

/// List, then watch from the list's revision, while others write: the copy ends equal to the store.
pub async fn a_watch_of_a_list_goes_on_where_the_list_ends(store: Subject) {
    commit(&store, vec![], vec![put("x/old", "0")]).await;
    let writer = tokio::spawn(write_and_delete(Arc::clone(&store)));
    let (listed, revision) = list(&store, "x/").await;
    let mut copy: BTreeMap<_, _> = listed.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    let mut watch = watch(&store, "x/", revision.0).await;
    writer.await.expect("the writer failed");
    let end = commit(&store, vec![], vec![put("x/end", "")]).await;
    loop {
        match next(&mut watch).await {
            Change::Put(entry) if entry.key == "x/end" => {
                assert_eq!(entry.revision, end);
                copy.insert(entry.key.clone(), entry);
                break;
            }
            Change::Put(entry) => drop(copy.insert(entry.key.clone(), entry)),
            Change::Deleted { key, .. } => drop(copy.remove(&key)),
        }
    }
    assert_eq!(copy.into_values().collect::<Vec<_>>(), list(&store, "x/").await.0);
}

async fn write_and_delete(store: Subject) {
    for n in 0..30 {
        let writes =
            vec![put(&format!("x/{}", n % 7), &n.to_string()), delete(&format!("x/{}", (n + 3) % 7))];
        commit(&store, vec![], writes).await;
    }
}

/// A watch that has seen all waits, and wakes.
pub async fn a_watch_waits_for_what_comes(store: Subject) {
    let mut watch = watch(&store, "", 0).await;
    let waiting = tokio::spawn(async move {
        let first = next(&mut watch).await;
        (first, next(&mut watch).await)
    });
    tokio::task::yield_now().await;
    let first = commit(&store, vec![], vec![put("a", "1")]).await.0;
    let second = commit(&store, vec![], vec![delete("a")]).await.0;
    let seen = waiting.await.expect("the watch failed");
    assert_eq!(seen, (changed("a", "1", first), gone("a", second)));
}

/// Others' keys are passed over, in the past and live, however many they are.
pub async fn a_watch_keeps_to_its_prefix(store: Subject) {
    let first = commit(&store, vec![], vec![put("items0", ""), put("items/a", "1"), put("items", "")]).await;
    let mut watch = watch(&store, "items/", 0).await;
    assert_eq!(next(&mut watch).await, changed("items/a", "1", first.0));
    for n in 0..10 {
        commit(&store, vec![], (0..100).map(|key| put(&format!("other/{key}"), &n.to_string())).collect())
            .await;
    }
    let last = commit(&store, vec![], vec![delete("items"), delete("items/a"), put("items/b", "2")]).await.0;
    assert_eq!(next(&mut watch).await, gone("items/a", last));
    assert_eq!(next(&mut watch).await, changed("items/b", "2", last));
}

/// Within one revision: the order in which the transaction wrote.
pub async fn a_watch_sees_the_writes_of_a_transaction_in_order(store: Subject) {
    let first = commit(&store, vec![], vec![put("m", "0")]).await.0;
    let second =
        commit(&store, vec![], vec![put("z", "1"), delete("m"), put("a", "1"), put("k", "1")]).await.0;
    let mut watch = watch(&store, "", first).await;
    for expected in
        [changed("z", "1", second), gone("m", second), changed("a", "1", second), changed("k", "1", second)]
    {
        assert_eq!(next(&mut watch).await, expected);
    }
}

/// Whoever has the first change of a revision can have the others at once: a copy need never be half a transaction.
pub async fn a_watch_does_not_wait_within_a_revision(store: Subject) {
    let mut watch = watch(&store, "k", 0).await;
    for _ in 0..3 {
        let writes = (0..TRANSACTION_OPS_MAX).map(|n| put(&format!("k{n}"), "v")).collect();
        let revision = commit(&store, vec![], writes).await.0;
        let mut seen = vec![next(&mut watch).await];
        while let Some(change) = watch.next().now_or_never() {
            seen.push(change.expect("the watch failed"));
        }
        assert_eq!(revisions(&seen), [revision; TRANSACTION_OPS_MAX]);
    }
}

/// Nobody can have seen a revision that was never given: the store was restored, and the watcher must list again.
pub async fn a_watch_of_the_future_is_refused(store: Subject) {
    let first = commit(&store, vec![], vec![put("a", "1")]).await;
    assert!(store.watch("", first).await.is_ok());
    // Others may write meanwhile, but not so much.
    let refused = store.watch("", Revision(first.0 + 1_000_000)).await.err();
    assert!(matches!(refused, Some(ReadError::Unavailable(_))), "{refused:?}");
}

/// Several watches from different revisions while many write: each sees the same, complete sequence.
pub async fn watches_miss_nothing_while_many_write(store: Subject) {
    const WRITERS: u64 = 6;
    const EACH: u64 = 15;
    let early = follow(watch(&store, "w/", 0).await);
    let writers: Vec<_> =
        (0..WRITERS).map(|n| tokio::spawn(write_numbers(Arc::clone(&store), n, EACH))).collect();
    let (_, middle) = list(&store, "").await;
    let late = follow(watch(&store, "w/", middle.0).await);
    let mut written = Vec::new();
    for writer in writers {
        written.extend(writer.await.expect("a writer failed"));
    }
    written.push(commit(&store, vec![], vec![put("w/end", "")]).await.0);
    let all = early.await.expect("the early watch failed");
    let past = follow(watch(&store, "w/", 0).await).await.expect("the watch of the past failed");
    written.sort_unstable();
    assert_eq!(revisions(&all), written);
    assert_eq!(all, past);
    let after = written.partition_point(|revision| *revision <= middle.0);
    assert_eq!(all[after..], late.await.expect("the late watch failed"));
    for writer in 0..WRITERS {
        let prefix = format!("w/{writer}/");
        let keys = all.iter().filter_map(put_key).filter(|key| key.starts_with(&prefix));
        let expected = (0..EACH).map(|n| format!("{prefix}{n}"));
        assert!(keys.eq(expected), "the writes of {writer} are out of order");
    }
}

async fn write_numbers(store: Subject, writer: u64, each: u64) -> Vec<u64> {
    let mut revisions = Vec::new();
    for n in 0..each {
        revisions.push(commit(&store, vec![], vec![put(&format!("w/{writer}/{n}"), "")]).await.0);
    }
    revisions
}

/// Reads changes up to the one of `w/end`.
fn follow(mut watch: Box<dyn Watch>) -> tokio::task::JoinHandle<Vec<Change>> {
    tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last().and_then(put_key) != Some("w/end") {
            seen.push(next(&mut watch).await);
        }
        seen
    })
}

/// `next` may be dropped at any await, as `select!` does.
pub async fn a_cancelled_wait_loses_nothing(store: Subject) {
    const COMMITS: u64 = 20;
    let mut watch = watch(&store, "", 0).await;
    let writer = tokio::spawn(write_numbers(Arc::clone(&store), 0, COMMITS));
    let mut seen = Vec::new();
    while seen.len() < COMMITS as usize {
        tokio::select! {
            biased;
            change = watch.next() => seen.push(change.expect("the watch failed")),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(revisions(&seen), writer.await.expect("the writer failed"));
}

/// For stores that nobody else writes to: revisions begin at 0, and each commit, and nothing else, raises them by one.
pub async fn the_revisions_of_an_own_store_are_counted(store: Subject) {
    assert_eq!(list(&store, "").await, (vec![], Revision(0)));
    for n in 0..5 {
        let first = 4 * n;
        assert_eq!(commit(&store, vec![], vec![]).await, Revision(first + 1));
        assert_eq!(commit(&store, vec![absent("x")], vec![]).await, Revision(first + 2));
        assert_eq!(commit(&store, vec![], vec![delete("x")]).await, Revision(first + 3));
        assert_eq!(commit(&store, vec![], vec![put("a", "1"), put("b", "1")]).await, Revision(first + 4));
        let refused = store.commit(transaction(vec![absent("a")], vec![put("d", "z")])).await;
        assert_conflict(refused, "a");
        assert_eq!(list(&store, "none").await.1, Revision(first + 4), "a refused transaction is none");
    }
    assert!(store.watch("", Revision(20)).await.is_ok());
    assert!(store.watch("", Revision(21)).await.is_err(), "there is no such revision yet");
}

/// For stores with a bounded log of their own: a watch from before it is told to list again, at its start and on the
/// way; later ones go on. Writes [`crate::rules::CHANGE_BYTES_KEPT_MAX`] and more, hence not a rule for all.
pub async fn a_watch_from_before_the_log_is_told(store: Subject) {
    let mut slow = watch(&store, "", 0).await;
    let commits = crate::rules::CHANGE_BYTES_KEPT_MAX / VALUE_LEN_MAX as u64 + 4;
    for _ in 0..commits {
        commit(&store, vec![], vec![megabyte("big")]).await;
    }
    for refused in [slow.next().await.err(), store.watch("", Revision(1)).await.err()] {
        let refused = refused.expect("the log is bounded").to_string();
        assert!(refused.contains("compacted") && refused.contains("list again"), "{refused}");
    }
    let mut near = watch(&store, "", commits - 2).await;
    for revision in commits - 1..=commits {
        assert_eq!(revisions(&[next(&mut near).await]), [revision]);
    }
}

fn transaction(compares: Vec<Compare>, writes: Vec<Write>) -> Transaction {
    Transaction { compares, writes }
}

fn put(key: &str, value: &str) -> Write {
    Write::Put(key.into(), value.into())
}

fn megabyte(key: &str) -> Write {
    Write::Put(key.into(), vec![b'x'; VALUE_LEN_MAX])
}

fn delete(key: &str) -> Write {
    Write::Delete(key.into())
}

fn absent(key: &str) -> Compare {
    Compare::Absent(key.into())
}

fn at(key: &str, revision: Revision) -> Compare {
    Compare::At(key.into(), revision)
}

fn entry(key: &str, value: &str, revision: Revision) -> Entry {
    Entry { key: key.into(), value: value.into(), revision }
}

fn changed(key: &str, value: &str, revision: u64) -> Change {
    Change::Put(entry(key, value, Revision(revision)))
}

fn gone(key: &str, revision: u64) -> Change {
    Change::Deleted { key: key.into(), revision: Revision(revision) }
}

fn put_key(change: &Change) -> Option<&str> {
    match change {
        Change::Put(entry) => Some(&entry.key),
        Change::Deleted { .. } => None,
    }
}

fn revisions(changes: &[Change]) -> Vec<u64> {
    let revision = |change: &Change| match change {
        Change::Put(entry) => entry.revision.0,
        Change::Deleted { revision, .. } => revision.0,
    };
    changes.iter().map(revision).collect()
}

fn number(entry: &Entry) -> u64 {
    let text = std::str::from_utf8(&entry.value).expect("a number was put");
    text.parse().expect("a number was put")
}

fn assert_conflict(result: Result<Revision, CommitError>, expected: &str) {
    match result {
        Err(CommitError::Conflict { key }) => assert_eq!(key, expected),
        other => panic!("not a conflict on {expected}: {other:?}"),
    }
}

async fn commit(store: &Subject, compares: Vec<Compare>, writes: Vec<Write>) -> Revision {
    store.commit(transaction(compares, writes)).await.expect("the commit failed")
}

async fn get(store: &Subject, key: &str) -> Option<Entry> {
    store.get(key).await.expect("the get failed")
}

async fn list(store: &Subject, prefix: &str) -> (Vec<Entry>, Revision) {
    store.list(prefix).await.expect("the list failed")
}

async fn watch(store: &Subject, prefix: &str, after: u64) -> Box<dyn Watch> {
    store.watch(prefix, Revision(after)).await.expect("the watch did not start")
}

async fn next(watch: &mut Box<dyn Watch>) -> Change {
    watch.next().await.expect("the watch failed")
}
