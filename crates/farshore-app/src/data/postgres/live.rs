//! A database that the app uses now: its server, how far it is, and what the other region gets of it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::base::{self, Log, Outgoing};
use super::cluster::Cluster;
use super::keeper::{Keeper, Order, Pace, Shared, furnish, running};
use super::parcel::{Answer, Chain, LogRun, RUN_BYTES_MAX, Request, Run, Wish};
use super::programs::Programs;
use super::records::{Reach, Records, SEGMENT, parse_lsn, segment_start};
use super::server::Server;
use super::tail::{self, Tail};
use super::{DATABASE, Options, PostgresError, USER, cannot};
use crate::data::{BackupMeta, Behind, DataError, Engine, Live, Position, Rows, now};

/// Of the log, so much is sent at once.
const LOG_BYTES_MAX: u64 = RUN_BYTES_MAX as u64 / 2;
/// Commits begin to wait for the other region when it is this near: less than a second of catching up.
const HOLD_WITHIN: u64 = SEGMENT;
/// A server that does not answer is being started again: it is asked this often.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// The tables that are not the server's own.
const TABLES: &str = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
                      WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1";

/// A write that is taken back.
const WRITE_PROBE: &str = "BEGIN; CREATE TABLE public.\"farshore looks whether it can write\" (x integer); \
                           INSERT INTO public.\"farshore looks whether it can write\" VALUES (1); ROLLBACK";

/// A served database.
#[derive(Debug)]
pub(super) struct Served {
    shared: Arc<Shared>,
    tail: Arc<Tail>,
    chain: Chain,
    orders: mpsc::Sender<Order>,
    confirmed: watch::Sender<Option<Position>>,
    outgoing: Mutex<Option<Outgoing>>,
    last: StdMutex<Option<Position>>,
}

/// Opens the database in `dir`: ends what is left of an earlier server, starts one, waits until it answers.
pub(super) async fn open(dir: &Path, from: Position, options: Options) -> Result<Arc<Served>, DataError> {
    let programs = Programs::find().map_err(cannot("be run", dir))?;
    let cluster = Cluster::at(dir);
    let mut card = cluster.load()?;
    card.go_on_from(from);
    card.holds &= options.synchronous;
    let server =
        Server::start(&programs, &cluster, &running(&options, card.port, options.synchronous)).await?;
    let port = server.port();
    let card = if card.is_fresh { furnish(&cluster, port, &card).await? } else { card };
    cluster.save(&card)?;
    let shared = Shared {
        programs,
        port,
        needed_from: AtomicU64::new(card.needed_from),
        is_synchronous: options.synchronous.into(),
        is_near: false.into(),
        waits_from: AtomicU64::new(0),
        asker: Mutex::default(),
        card: StdMutex::new(card.clone()),
        is_stopped: false.into(),
        options,
        cluster,
    };
    let shared = Arc::new(shared);
    let chain = chain(&shared).await.map_err(cannot("ask the server who it is", dir))?;
    let (socket, wal) = (shared.cluster.socket(port), shared.cluster.wal());
    let tail = Arc::new(Tail::spawn(socket, wal, chain.timeline, card.mark, card.holds));
    let (send, orders) = mpsc::channel(1);
    let (server, pace) = (Some(server), Pace::new());
    let keeper = Keeper { shared: shared.clone(), tail: tail.clone(), server, orders, pace };
    tokio::spawn(keeper.run());
    let (confirmed, outgoing) = (watch::Sender::new(None), Mutex::new(None));
    Ok(Arc::new(Served { shared, tail, chain, orders: send, confirmed, outgoing, last: StdMutex::new(None) }))
}

async fn chain(shared: &Shared) -> Result<Chain, PostgresError> {
    let system = shared.ask("SELECT system_identifier FROM pg_control_system()").await?;
    let timeline = shared.ask("SELECT timeline_id FROM pg_control_checkpoint()").await?;
    let (system, timeline) = (system.parse().unwrap_or_default(), timeline.parse().unwrap_or_default());
    Ok(Chain { system, timeline, series: shared.card().series })
}

impl Served {
    fn dir(&self) -> &Path {
        self.shared.cluster.dir()
    }

    fn is_stopped(&self) -> bool {
        self.shared.is_stopped.load(Ordering::Acquire)
    }

    /// Notes what a request says: what is durable there, and which log is still needed.
    fn note(&self, request: &Request) {
        let follows = request.chain == Some(self.chain) && request.from <= self.tail.told().received;
        if !follows {
            return;
        }
        self.shared
            .needed_from
            .store(request.from.min(request.durable.lsn_of(request.durable.position)), Ordering::Release);
        self.confirmed.send_replace(request.is_whole.then_some(request.durable.position));
        if !request.is_whole {
            self.shared.is_near.store(false, Ordering::Release);
            return;
        }
        self.tail.confirm(request.durable.boundary);
        let lag = self.tail.told().received.saturating_sub(request.durable.boundary);
        self.shared.is_near.store(lag <= HOLD_WITHIN, Ordering::Release);
    }

    fn empty(&self) -> Answer {
        Answer { chain: self.chain, theirs: self.position(), is_broken: false, base: None, log: None }
    }

    /// What there is now for a request, without waiting. None: nothing new.
    async fn log_for(&self, request: &Request) -> Result<Option<Answer>, DataError> {
        let mut answer = self.empty();
        match request.chain {
            None => return Ok(None),
            Some(chain) if chain != self.chain => {
                answer.is_broken = true;
                return Ok(Some(answer));
            }
            Some(_) => {}
        }
        let received = self.tail.told().received;
        if request.from >= received {
            answer.is_broken = self.is_ahead(request.from).await?;
            return Ok(answer.is_broken.then_some(answer));
        }
        let (wal, timeline, from) = (self.shared.cluster.wal(), self.chain.timeline, request.from);
        let until = received.min(from + LOG_BYTES_MAX);
        let read = tokio::task::spawn_blocking(move || tail::read(&wal, timeline, from, until)).await;
        match read.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(bytes) => answer.log = Some(LogRun { from, run: Run::pack(&bytes) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => answer.is_broken = true,
            Err(error) => return Err(DataError::io("read the log of", self.dir())(error)),
        }
        Ok(Some(answer))
    }

    /// Whether a replica has log that this server never wrote: it was set back to an older state.
    async fn is_ahead(&self, from: u64) -> Result<bool, DataError> {
        if self.is_stopped() || from <= self.tail.told().received {
            return Ok(false);
        }
        let flushed = self.flushed().await?;
        Ok(from > flushed)
    }

    async fn flushed(&self) -> Result<u64, DataError> {
        let flushed = self.shared.ask("SELECT pg_current_wal_flush_lsn()").await;
        let flushed = flushed.map_err(cannot("say how far its log is", self.dir()))?;
        Ok(parse_lsn(&flushed).unwrap_or_default())
    }

    /// Adds a piece of a base to an answer, waiting for it until `until`.
    async fn add_base(
        &self,
        request: &Request,
        answer: &mut Answer,
        until: Instant,
    ) -> Result<(), DataError> {
        if request.base == Wish::Nothing {
            return Ok(());
        }
        if self.is_stopped() {
            return Err(DataError::Stopped(self.dir().to_owned()));
        }
        let mut outgoing = self.outgoing.lock().await;
        if !outgoing.as_ref().is_some_and(|outgoing| outgoing.serves(request.base)) {
            *outgoing = None;
            *outgoing = Some(self.begin_base().await?);
        }
        let Some(base) = outgoing.as_mut() else { return Ok(()) };
        let offset = match request.base {
            Wish::GoOn { id, offset } if base.serves(Wish::GoOn { id, offset }) => offset,
            _ => 0,
        };
        let received = self.tail.told().received;
        let piece = tokio::select! {
            biased;
            piece = base.piece(offset) => piece,
            () = self.more_than(received, until) => return Ok(()), // The log comes first: commits may wait for it.
        };
        match piece {
            Ok(Some(piece)) => answer.base = Some(base.run(offset, &piece, None)),
            Ok(None) => answer.base = Some(base.run(offset, &[], Some(self.flushed().await?))),
            Err(error) => {
                *outgoing = None;
                return Err(cannot("copy the files of the server", self.dir())(error));
            }
        }
        Ok(())
    }

    async fn begin_base(&self) -> Result<Outgoing, DataError> {
        let shared = &self.shared;
        let total = shared.ask("SELECT sum(pg_database_size(oid))::bigint FROM pg_database").await;
        let total = total.map_err(cannot("say how large it is", self.dir()))?.parse().unwrap_or_default();
        let program = base::program(&shared.programs, &shared.cluster, shared.port, Log::Left);
        let outgoing =
            Outgoing::begin(program, &shared.cluster, total, async |lsn| self.reach_at(lsn).await).await?;
        shared.needed_from.fetch_min(segment_start(outgoing.begins().boundary), Ordering::AcqRel);
        Ok(outgoing)
    }

    /// How far the database was at `lsn`, where a record begins.
    async fn reach_at(&self, lsn: u64) -> Result<Reach, DataError> {
        let mut told = self.tail.watch();
        told.wait_for(|told| told.received >= lsn)
            .await
            .map_err(|_| DataError::Stopped(self.dir().to_owned()))?;
        let tail = self.tail.clone();
        let reach = tokio::task::spawn_blocking(move || tail.reach_at(lsn)).await;
        let reach = reach.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        reach.map_err(DataError::io("count the log of", self.dir()))
    }

    async fn more_than(&self, received: u64, until: Instant) {
        let mut told = self.tail.watch();
        let more = told.wait_for(|told| told.received > received);
        // Either way the caller looks again.
        drop(tokio::time::timeout_at(until, more).await);
    }

    /// Everything that is committed now, once it is counted.
    async fn committed(&self) -> Result<Position, DataError> {
        if self.is_stopped() {
            return Ok(self.position());
        }
        let flushed = self.flushed().await?;
        let mut told = self.tail.watch();
        let told = told.wait_for(|told| told.received >= flushed).await;
        told.map(|told| told.reach.position).map_err(|_| DataError::Stopped(self.dir().to_owned()))
    }

    /// The same, however long the server takes to answer: what it committed before it ended may be more than is known.
    async fn committed_at_last(&self) -> Position {
        loop {
            match self.committed().await {
                Ok(all) => return all,
                Err(_) if self.is_stopped() => return self.position(),
                Err(_) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
    }

    /// Writes a copy; returns its bytes, and where the log in it ends: it is cut off at the end of a segment.
    async fn copy_into(&self, into: &Path) -> Result<(u64, u64), DataError> {
        let shared = &self.shared;
        let program = base::program(&shared.programs, &shared.cluster, shared.port, Log::Along);
        let refused = |error: PostgresError| cannot("copy the files of the server", self.dir())(error);
        let mut copy = base::spawn(program).map_err(refused)?;
        let failed = |error| DataError::io("write the copy", into)(error);
        let mut file = tokio::fs::OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o600).open(into).await.map_err(failed)?;
        let mut bytes = 0;
        while let Some(piece) = copy.next().await.map_err(refused)? {
            file.write_all(&piece).await.map_err(failed)?;
            bytes += piece.len() as u64;
        }
        file.sync_all().await.map_err(failed)?;
        let ends = copy.ends().ok_or_else(|| {
            let said = "it did not say where its log ends".to_owned();
            refused(PostgresError::Program { program: "pg_basebackup", said })
        })?;
        Ok((bytes, ends.next_multiple_of(SEGMENT)))
    }

    /// Reads every row of every table.
    pub(super) async fn rows(&self) -> Result<Rows, DataError> {
        let counted = async {
            let mut connection = self.shared.connect(DATABASE).await?;
            let names = connection.query(TABLES).await?;
            let mut rows = Rows::new();
            for name in names.into_iter().flatten().flatten() {
                let count = connection.value(&format!("SELECT count(*) FROM {name}")).await?;
                rows.insert(name, count.parse().unwrap_or_default());
            }
            Ok::<_, PostgresError>(rows)
        };
        counted.await.map_err(cannot("read its tables", self.dir()))
    }

    /// Whether it can be written to: what is written is taken back.
    pub(super) async fn can_write(&self) -> Result<(), DataError> {
        let written = self.shared.rows(WRITE_PROBE).await;
        written.map(drop).map_err(cannot("write to the database", self.dir()))
    }

    /// Counts what the server still wrote while it ended.
    fn count_rest(&self) -> Reach {
        let mut records = Records::from(self.tail.told().reach);
        // The log ends where it ends: that is no error.
        drop(tail::count(&self.shared.cluster.wal(), self.chain.timeline, &mut records, u64::MAX));
        records.reach()
    }
}

#[async_trait]
impl Live for Served {
    fn engine(&self) -> Engine {
        Engine::Postgres
    }

    fn env(&self) -> Vec<(String, String)> {
        let (port, password) = (self.shared.port, self.shared.card().password);
        let url = format!("postgres://{USER}:{password}@127.0.0.1:{port}/{DATABASE}");
        let port = port.to_string();
        let set = [
            ("DATABASE_URL", url.as_str()),
            ("PGHOST", "127.0.0.1"),
            ("PGPORT", &port),
            ("PGUSER", USER),
            ("PGPASSWORD", &password),
            ("PGDATABASE", DATABASE),
        ];
        set.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn position(&self) -> Position {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.unwrap_or_else(|| self.tail.told().reach.position)
    }

    fn confirmed(&self) -> Option<Position> {
        *self.confirmed.borrow()
    }

    fn is_settled(&self) -> bool {
        // While commits wait for the other region, nobody was told of one that it lacks. Else a commit may be younger than
        // what we know of: only asking the server settles it.
        let has_all = || self.confirmed().is_some_and(|confirmed| confirmed.covers(self.position()));
        let waits_from = self.shared.waits_from.load(Ordering::Acquire);
        (self.shared.holds() && self.tail.confirmed() >= waits_from) || (self.is_stopped() && has_all())
    }

    async fn hold(&self, synchronous: bool) -> Result<(), DataError> {
        self.shared.is_synchronous.store(synchronous, Ordering::Release);
        if self.orders.send(Order::Reload).await.is_err() {
            return Err(DataError::Stopped(self.dir().to_owned()));
        }
        Ok(())
    }

    async fn settle(&self, within: Duration) -> Result<(), Behind> {
        let mut confirmed = self.confirmed.subscribe();
        let settled = async {
            let all = self.committed_at_last().await;
            let enough = |confirmed: &Option<Position>| {
                confirmed.is_some_and(|confirmed| confirmed.bytes >= all.bytes)
            };
            confirmed.wait_for(enough).await.is_ok()
        };
        match tokio::time::timeout(within, settled).await {
            Ok(true) => Ok(()),
            _ => {
                let lacks = self.position().beyond(self.confirmed().unwrap_or_default());
                Err(Behind { lacks, waited: within })
            }
        }
    }

    async fn ship(&self, request: &[u8], wait: Duration) -> Result<Vec<u8>, DataError> {
        let request = Request::decode(request)?;
        let until = Instant::now() + wait;
        self.note(&request);
        let mut answer = self.log_for(&request).await?.unwrap_or_else(|| self.empty());
        if !answer.is_broken {
            let until = if answer.log.is_some() { Instant::now() } else { until };
            self.add_base(&request, &mut answer, until).await?;
        }
        while answer.log.is_none() && answer.base.is_none() && !answer.is_broken && Instant::now() < until {
            self.more_than(request.from.max(self.tail.told().received), until).await;
            answer = self.log_for(&request).await?.unwrap_or_else(|| self.empty());
        }
        Ok(answer.encode())
    }

    async fn backup(&self, into: &Path) -> Result<BackupMeta, DataError> {
        if into.exists() {
            return Err(DataError::Exists(into.to_owned()));
        }
        let at = now();
        let (bytes, ends) = match self.copy_into(into).await {
            Ok(copied) => copied,
            Err(error) => {
                // Half a copy is none; the error says what matters.
                tokio::fs::remove_file(into).await.unwrap_or_default();
                return Err(error);
            }
        };
        let position = self.reach_at(ends).await?.position;
        Ok(BackupMeta { engine: Engine::Postgres, position, at, bytes, rows: Rows::new() })
    }

    async fn check(&self) -> Result<(), DataError> {
        let answer = self.shared.ask("SELECT 1").await.map_err(cannot("answer", self.dir()))?;
        debug_assert_eq!(answer, "1");
        Ok(())
    }

    fn warnings(&self) -> Vec<String> {
        self.tail.uncounted().into_iter().collect()
    }

    async fn stop(&self) -> Result<Position, DataError> {
        let (done, stopped) = oneshot::channel();
        if self.orders.send(Order::Stop(done)).await.is_ok() {
            stopped.await.unwrap_or_default();
        }
        if !self.shared.is_stopped.swap(true, Ordering::AcqRel) {
            let reach = self.count_rest();
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reach.position);
            self.shared.change_card(|card| card.mark = reach)?;
        }
        Ok(self.position())
    }
}
