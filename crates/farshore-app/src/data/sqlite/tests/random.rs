//! Whatever happens, a replica restores to what its source had.

use proptest::prelude::*;

use super::*;

/// What an app, its nodes, or an operator do.
#[derive(Debug, Clone)]
enum Deed {
    Commit {
        rows: u8,
        bytes: u16,
    },
    RollBack {
        rows: u8,
    },
    Delete {
        below: u8,
    },
    Schema {
        column: u8,
    },
    Vacuum,
    Checkpoint(&'static str),
    RestartApp,
    KillSource,
    /// The app goes on without anybody who looks.
    Unwatched {
        checkpoint: bool,
    },
    RestartReplica,
    Steps(u8),
    Follow,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => (1..30_u8, 10..6000_u16).prop_map(|(rows, bytes)| Deed::Commit { rows, bytes }),
        2 => (1..100_u8).prop_map(|rows| Deed::RollBack { rows }),
        2 => (1..60_u8).prop_map(|below| Deed::Delete { below }),
        1 => (0..250_u8).prop_map(|column| Deed::Schema { column }),
        1 => Just(Deed::Vacuum),
        1 => prop_oneof![Just("PASSIVE"), Just("FULL"), Just("RESTART"), Just("TRUNCATE")]
            .prop_map(Deed::Checkpoint),
        2 => Just(Deed::RestartApp),
        2 => Just(Deed::KillSource),
        1 => any::<bool>().prop_map(|checkpoint| Deed::Unwatched { checkpoint }),
        2 => Just(Deed::RestartReplica),
        6 => (1..4_u8).prop_map(Deed::Steps),
        3 => Just(Deed::Follow),
    ]
}

/// The app's connection, which lives apart from the pair.
struct World {
    pair: Pair,
    db: Connection,
    restored: u32,
}

impl World {
    async fn new() -> Self {
        let pair = Pair::new().await;
        let db = app(&pair.path("source"));
        db.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY, v)").unwrap();
        Self { pair, db, restored: 0 }
    }

    async fn does(mut self, deed: &Deed) -> Self {
        match deed {
            Deed::Commit { rows, bytes } => fill(&self.db, u32::from(*rows), u32::from(*bytes)),
            Deed::RollBack { rows } => {
                self.db.execute_batch("PRAGMA cache_size=5; BEGIN").unwrap();
                for _ in 0..*rows {
                    self.db.execute("INSERT INTO t(v) VALUES (hex(randomblob(1500)))", []).unwrap();
                }
                self.db.execute_batch("ROLLBACK; PRAGMA cache_size=100").unwrap();
            }
            Deed::Delete { below } => {
                self.db.execute("DELETE FROM t WHERE n < ?1", [below]).unwrap();
            }
            Deed::Schema { column } => {
                // The same column twice is refused, which is a rollback.
                let _ = self.db.execute_batch(&format!("ALTER TABLE t ADD COLUMN c{column}"));
            }
            Deed::Vacuum => self.db.execute_batch("VACUUM").unwrap(),
            Deed::Checkpoint(mode) => {
                app_checkpoint(&self.db, mode);
            }
            Deed::RestartApp => self.db = app(&self.pair.path("source")),
            Deed::KillSource => self.pair = self.pair.restart_source().await,
            Deed::Unwatched { checkpoint } => return self.unwatched(*checkpoint).await,
            Deed::RestartReplica => self.pair = self.pair.restart_replica().await,
            Deed::Steps(steps) => {
                for _ in 0..*steps {
                    self.pair.step().await;
                }
            }
            Deed::Follow => self.follow().await,
        }
        self
    }

    async fn unwatched(self, checkpoint: bool) -> Self {
        let Self { pair: Pair { home, live, replica }, db, restored } = self;
        drop(live);
        let source = home.path().join("source");
        fill(&db, 3, 2000);
        if checkpoint {
            app_checkpoint(&db, "TRUNCATE");
            fill(&db, 2, 2000);
        }
        let live = open_live(&source, Position::default(), SMALL).await.unwrap();
        Self { pair: Pair { home, live, replica }, db, restored }
    }

    async fn follow(&mut self) {
        self.pair.follow().await;
        self.restored += 1;
        let restored = self.pair.restored(&format!("restored-{}", self.restored)).await;
        assert_eq!(restored, content(&self.pair.path("source")));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_replica_restores_to_what_its_source_had(deeds in proptest::collection::vec(deed(), 5..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            let mut commits = 0;
            for deed in &deeds {
                world = world.does(deed).await;
                let position = world.pair.replica.position();
                assert!(position.commits >= commits, "what a replica has never shrinks");
                commits = position.commits;
            }
            world.follow().await;
        });
    }
}
