//! Databases by their engine: what an app does with one it does with the other.

use std::path::Path;
use std::sync::Arc;

use crate::data::{DataError, Engine, Live, Loss, Position, Replica, postgres, sqlite};

/// Makes an empty database in a new directory.
pub(super) async fn create(engine: Engine, dir: &Path) -> Result<(), DataError> {
    match engine {
        Engine::Sqlite => sqlite::create(dir).await,
        Engine::Postgres => postgres::create(dir, &postgres::Options::default()).await,
    }
}

/// Opens it for the app's processes.
pub(super) async fn open_live(
    engine: Engine,
    dir: &Path,
    from: Position,
) -> Result<Arc<dyn Live>, DataError> {
    match engine {
        Engine::Sqlite => sqlite::open_live(dir, from, sqlite::LiveOptions::default()).await,
        Engine::Postgres => postgres::open_live(dir, from, postgres::Options::default()).await,
    }
}

/// Whether an app can be given this database, which nobody uses: it is read as a whole, as a backup is when it is proved, and written to.
/// Returns where it stands.
pub(super) async fn prove(engine: Engine, dir: &Path, from: Position) -> Result<Position, DataError> {
    match engine {
        Engine::Sqlite => {
            sqlite::prove(dir).await?;
            sqlite::open_live(dir, from, sqlite::LiveOptions::default()).await?.stop().await
        }
        Engine::Postgres => postgres::prove(dir, from).await,
    }
}

/// Opens what follows one of another region.
pub(super) async fn open_replica(engine: Engine, dir: &Path) -> Result<Arc<dyn Replica>, DataError> {
    match engine {
        Engine::Sqlite => sqlite::open_replica(dir).await,
        Engine::Postgres => postgres::open_replica(dir).await,
    }
}

/// What a database that is not open has beyond a position.
pub(super) async fn commits_after(engine: Engine, dir: &Path, position: Position) -> Result<Loss, DataError> {
    match engine {
        Engine::Sqlite => sqlite::commits_after(dir, position).await,
        Engine::Postgres => postgres::commits_after(dir, position).await,
    }
}

/// Gives a replica what is left of an old source, so that less has to travel.
pub(super) async fn adopt_old(engine: Engine, old: &Path, replica: &Path) -> Result<(), DataError> {
    match engine {
        Engine::Sqlite => sqlite::adopt_old(old, replica).await,
        // Its replica begins with a copy of the files as a whole.
        Engine::Postgres => Ok(()),
    }
}
