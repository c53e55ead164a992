//! A base on its way to the other region: the server's files as an archive, made by `pg_basebackup` while the server runs,
//! handed out piece by piece. Nothing of it touches this region's disk.

use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use super::cluster::{Cluster, random_number};
use super::parcel::{BaseRun, RUN_BYTES_MAX, Run, Wish};
use super::programs::Programs;
use super::records::{Reach, parse_lsn};
use super::{ADMIN, PostgresError, cannot};
use crate::data::DataError;

/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 2;
/// The first file of the archive says where its log begins; it is short.
const LABEL: &str = "backup_label";
/// One block of an archive.
const BLOCK: usize = 512;
/// The first piece comes when the server has written out its pages.
const FIRST_PIECE_WITHIN: Duration = Duration::from_secs(600);

/// What `pg_basebackup` is told besides: which log goes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    /// None: the other region has it.
    Left,
    /// All that a restore needs.
    Along,
}

/// The program, writing an archive to its output.
pub(super) fn program(programs: &Programs, cluster: &Cluster, port: u16, log: Log) -> Command {
    let mut command = programs.command("pg_basebackup");
    command.arg("-h").arg(cluster.socket_dir()).arg("-p").arg(port.to_string());
    command.args([
        "-v",
        "-U",
        ADMIN,
        "--no-password",
        "-D",
        "-",
        "-F",
        "tar",
        "-c",
        "fast",
        "--no-sync",
        "-l",
        "farshore",
    ]);
    command.args(match log {
        Log::Left => ["-X", "none"],
        Log::Along => ["-X", "fetch"],
    });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// One base that is handed out.
#[derive(Debug)]
pub(super) struct Outgoing {
    id: u64,
    begins: Reach,
    total: u64,
    offset: u64,
    last: Bytes,
    copy: Copy,
}

/// A copy that the program is writing.
#[derive(Debug)]
pub(super) struct Copy {
    pieces: mpsc::Receiver<Result<Piece, PostgresError>>,
    is_over: bool,
    ends: Option<u64>,
}

/// What the program brings.
enum Piece {
    Bytes(Bytes),
    /// All is there; the log in it ends here, if it has any.
    Ends(Option<u64>),
}

impl Copy {
    /// The next bytes; none when all were handed out. May be given up while it waits.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, PostgresError> {
        if self.is_over {
            return Ok(None);
        }
        match self.pieces.recv().await.transpose()? {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::Ends(lsn)) => {
                (self.is_over, self.ends) = (true, lsn);
                Ok(None)
            }
            None => Err(program_failed("it ended without a word")),
        }
    }

    /// When all is there: where the log in it ends, if it has any.
    pub(super) fn ends(&self) -> Option<u64> {
        self.ends
    }
}

impl Outgoing {
    /// Starts to make a base, and waits for its first piece, which says where it begins. `reach_at` says how far the
    /// database was there.
    pub(super) async fn begin(
        program: Command,
        cluster: &Cluster,
        total: u64,
        reach_at: impl AsyncFnOnce(u64) -> Result<Reach, DataError>,
    ) -> Result<Self, DataError> {
        let failed = |error: PostgresError| cannot("copy the files of the server", cluster.dir())(error);
        let mut copy = spawn(program).map_err(failed)?;
        let late = |_| Err(program_failed("nothing came from it in time"));
        let first = tokio::time::timeout(FIRST_PIECE_WITHIN, copy.next()).await.unwrap_or_else(late);
        let first = first.map_err(failed)?.unwrap_or_default();
        let start = label_start(&first).ok_or_else(|| failed(program_failed("its archive has no label")))?;
        let begins = reach_at(start).await?;
        let id = random_number();
        Ok(Self { id, begins, total, offset: 0, last: first, copy })
    }

    /// Where its log begins.
    pub(super) fn begins(&self) -> Reach {
        self.begins
    }

    /// Whether a replica that wants this can be served from this one.
    pub(super) fn serves(&self, wish: Wish) -> bool {
        match wish {
            Wish::GoOn { id, offset } => {
                id == self.id && (offset == self.offset || offset == self.offset + self.last.len() as u64)
            }
            Wish::New | Wish::Nothing => false,
        }
    }

    /// The bytes at `offset`, waiting for them; none when the base is over. The piece before may be asked for again: an answer
    /// can be lost.
    pub(super) async fn piece(&mut self, offset: u64) -> Result<Option<Bytes>, PostgresError> {
        if offset == self.offset && !self.last.is_empty() {
            return Ok(Some(self.last.clone()));
        }
        let Some(piece) = self.copy.next().await? else { return Ok(None) };
        self.offset += self.last.len() as u64;
        self.last = piece.clone();
        Ok(Some(piece))
    }

    /// What is sent of a piece at `offset`. With `ends`, where the log was when the base was over, the piece is empty.
    pub(super) fn run(&self, offset: u64, piece: &[u8], ends: Option<u64>) -> BaseRun {
        let total = self.total.max(offset + piece.len() as u64);
        BaseRun { id: self.id, offset, run: Run::pack(piece), total, begins: self.begins, ends }
    }
}

fn program_failed(said: &str) -> PostgresError {
    PostgresError::Program { program: "pg_basebackup", said: said.to_owned() }
}

/// Starts the program.
pub(super) fn spawn(mut program: Command) -> Result<Copy, PostgresError> {
    let mut child = program.spawn().map_err(|error| program_failed(&error.to_string()))?;
    let (send, pieces) = mpsc::channel(PIECES_AHEAD);
    let stdout = child.stdout.take().ok_or_else(|| program_failed("it has no output"))?;
    tokio::spawn(async move {
        let handed = hand_out(stdout, &send).await;
        let end = finish(child).await;
        // A receiver that is gone wants to hear nothing.
        send.send(handed.and(end).map(Piece::Ends)).await.unwrap_or_default();
    });
    Ok(Copy { pieces, is_over: false, ends: None })
}

async fn hand_out(
    mut stdout: ChildStdout,
    send: &mpsc::Sender<Result<Piece, PostgresError>>,
) -> Result<(), PostgresError> {
    loop {
        let mut piece = BytesMut::with_capacity(RUN_BYTES_MAX / 2);
        while piece.len() < piece.capacity() {
            let read =
                stdout.read_buf(&mut piece).await.map_err(|error| program_failed(&error.to_string()))?;
            if read == 0 {
                break;
            }
        }
        if piece.is_empty() {
            return Ok(());
        }
        if send.send(Ok(Piece::Bytes(piece.freeze()))).await.is_err() {
            return Err(program_failed("nobody wants its output any more"));
        }
    }
}

/// Its exit, and where the log ends, if it says so.
async fn finish(child: Child) -> Result<Option<u64>, PostgresError> {
    let output = child.wait_with_output().await.map_err(|error| program_failed(&error.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(program_failed(&format!("{}: {}", output.status, said.trim())));
    }
    let end = said.lines().find_map(|line| line.split_once("log end point: "));
    Ok(end.and_then(|(_, lsn)| parse_lsn(lsn)))
}

/// Where the log of an archive begins, by the label that is its first file.
pub(super) fn label_start(archive: &[u8]) -> Option<u64> {
    let name = archive.get(..BLOCK)?.split(|byte| *byte == 0).next()?;
    if name != LABEL.as_bytes() {
        return None;
    }
    let text = String::from_utf8_lossy(archive.get(BLOCK..2 * BLOCK)?).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "))?;
    parse_lsn(line.split_whitespace().next()?)
}
