//! How long a replica takes to become a database that an app can open, and how long `cp` and `sync` take for the same bytes.
//!
//! Usage: `restore MIB`; prints one line of JSON. Rows are written through SQLite, shipped to a replica as a region would, and restored;
//! all that was committed is counted in what was restored. The copy is made once before it is measured, so that both read from memory.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use farshore_app::data::sqlite::{LiveOptions, create, database_file, open_live, open_replica};
use farshore_app::data::{Live, Position, Replica};
use rusqlite::Connection;

/// Of one row; four fill a page of SQLite.
const ROW_BYTES: i64 = 1000;
/// Of one transaction.
const ROWS: i64 = 2000;
/// Nothing new comes for so long: the replica has everything.
const QUIET: Duration = Duration::from_millis(200);
const GIB: f64 = 1_073_741_824.0;

#[tokio::main(flavor = "multi_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mib: i64 = std::env::args().nth(1).ok_or("usage: restore MIB")?.parse()?;
    let place = std::env::temp_dir().join(format!("farshore-restore-{}", std::process::id()));
    let measured = measure(&place, mib).await;
    std::fs::remove_dir_all(&place)?;
    println!("{}", measured?);
    Ok(())
}

async fn measure(place: &Path, mib: i64) -> Result<serde_json::Value, Box<dyn Error>> {
    let source = place.join("source");
    create(&source).await?;
    let live = open_live(&source, Position::default(), LiveOptions::default()).await?;
    let rows = write(&database_file(&source), mib)?;
    let replica = open_replica(&place.join("replica")).await?;
    follow(&*live, &*replica).await?;
    let began = Instant::now();
    replica.restore(&place.join("restored")).await?;
    let restored = began.elapsed();
    let file = database_file(&place.join("restored"));
    let began = Instant::now();
    let found: i64 = {
        let database = Connection::open(&file)?;
        database.query_row("pragma integrity_check", [], |_| Ok(()))?;
        database.query_row("select count(*) from rows", [], |row| row.get(0))?
    };
    let checked = began.elapsed();
    if found != rows {
        return Err(format!("{rows} rows were committed, {found} were restored").into());
    }
    let bytes = std::fs::metadata(&file)?.len();
    copy(&file, &place.join("warm"))?;
    let copied = copy(&file, &place.join("copied"))?;
    #[expect(clippy::cast_precision_loss, reason = "bytes of a few gibibytes are exact")]
    let each = |took: Duration| took.as_secs_f64() * GIB / bytes as f64;
    Ok(serde_json::json!({
        "bytes": bytes, "restore_seconds_per_gib": each(restored), "check_seconds_per_gib": each(checked),
        "cp_seconds_per_gib": each(copied),
    }))
}

fn write(file: &Path, mib: i64) -> Result<i64, Box<dyn Error>> {
    let mut database = Connection::open(file)?;
    database.busy_timeout(Duration::from_secs(10))?;
    database.execute_batch("create table rows (id integer primary key, text blob not null)")?;
    let mut rows = 0;
    while rows * ROW_BYTES < mib << 20 {
        let transaction = database.transaction()?;
        for _ in 0..ROWS {
            rows += 1;
            transaction.execute("insert into rows values (?1, randomblob(?2))", (rows, ROW_BYTES))?;
        }
        transaction.commit()?;
    }
    Ok(rows)
}

async fn follow(live: &dyn Live, replica: &dyn Replica) -> Result<(), Box<dyn Error>> {
    loop {
        let answer = live.ship(&replica.request(), QUIET).await?;
        let came = replica.apply(&answer).await?;
        if !came && replica.is_whole() && replica.position().covers(live.position()) {
            return Ok(());
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<Duration, Box<dyn Error>> {
    let began = Instant::now();
    let is_done = Command::new("cp").arg(from).arg(to).status()?.success()
        && Command::new("sync").arg(to).status()?.success();
    if is_done { Ok(began.elapsed()) } else { Err("cp failed".into()) }
}
