//! The thread that ships: connects, goes on where the target stands, sends, and tries again after a cut.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::flow::{Job, Registered};
use super::resume::{self, Welcome};
use super::shared::{Shared, locked};
use super::source::Link;
use crate::disk::ExtentKind;
use crate::record::{BLOCK, Block, Op, Range, Record};
use crate::tls::{ReplicationClient, TlsStream, loopback_only};
use crate::wire::frame::{
    BATCH_LEN, Decoder, FrameError, Hello, Message, PAYLOAD_LEN_MAX, PROTOCOL, Reason, Refused, encode,
};
use crate::wire::receiver::is_pause;

/// Longest pause between two attempts to connect.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// After a write wakes the sender it lets others gather this long: one wake-up and one frame for all of them.
const GATHER: Duration = Duration::from_micros(500);
/// Longest piece of a disk read into one block.
const PIECE: u64 = 256 << 10;
/// Runs shorter than this are read without asking first whether they are holes.
const ASK_FROM: u64 = 64 << 10;
/// Extents cool after this long without a difference.
const COOL_AFTER: Duration = Duration::from_secs(10);
/// How often a silent acknowledgement thread looks whether it should end.
const POLL: Duration = Duration::from_millis(500);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the target answered with something that is no frame: {0}")]
    Frame(#[from] FrameError),
    #[error("the target refuses: {0}")]
    Refused(#[from] Refused),
    #[error("{0}")]
    Said(String),
}

/// Runs until the flow says stop.
pub(super) fn run(shared: &Shared, link: &Link) {
    let mut pause = shared.options.retry_after;
    loop {
        let started = Instant::now();
        let error = session(shared, link).err();
        {
            let mut core = shared.core();
            core.close_session();
            if let Some(error) = &error {
                tracing::info!(item = link.item, target = %link.target, %error, "replication is disconnected");
                core.flow.note = Some(error.to_string());
            }
        }
        if let Some(Ended::Refused(refused)) = &error {
            superseded(shared, link, refused);
        }
        if started.elapsed() > RETRY_MAX {
            pause = shared.options.retry_after;
        }
        if !pause_unless_stopped(shared, jittered(pause)) {
            return;
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// A higher token is known at the target: this side has lost, and fences itself before anything else.
fn superseded(shared: &Shared, link: &Link, refused: &Refused) {
    let Reason::Stale { highest } = refused.reason else { return };
    let fenced = shared.change_gate(|gate| {
        let lost = gate.serving.is_some_and(|token| token < highest);
        if lost {
            gate.serving = None;
        }
        lost
    });
    if fenced {
        tracing::warn!(item = link.item, %highest, "a higher token is known at the target: this side is fenced");
    }
    let mut core = shared.core();
    core.fenced |= fenced;
    core.flow.superseded = core.flow.superseded.max(Some(highest));
    drop(core);
    shared.acked.notify_all();
}

/// Between half and all of `pause`: many sources of one lost target do not come back at the same moment.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) % 512;
    pause.mul_f64(0.5 + random as f64 / 1024.0)
}

/// False when the sender must end.
fn pause_unless_stopped(shared: &Shared, pause: Duration) -> bool {
    let until = Instant::now() + pause;
    let mut core = shared.core();
    loop {
        if core.flow.stop {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        core = shared.wake.wait_timeout(core, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn connect(shared: &Shared, link: &Link) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in link.address.to_socket_addrs()? {
        if shared.options.tls.is_none() {
            loopback_only(address, "send disks to a region")?;
        }
        match TcpStream::connect_timeout(&address, shared.options.dead_after) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(io::Error::new(last.kind(), format!("cannot connect to {}: {last}", link.address)))
}

fn session(shared: &Shared, link: &Link) -> Result<(), Ended> {
    let stream = connect(shared, link)?;
    stream.set_nodelay(true)?;
    let Some(client) = &shared.options.tls else {
        set_waits(shared, &stream)?;
        let hang_up = || drop(stream.shutdown(Shutdown::Both));
        return ship(shared, link, &stream, &stream, &hang_up);
    };
    let stream = secure(shared, link, stream, client)?;
    set_waits(shared, stream.socket())?;
    let hang_up = || stream.hang_up();
    ship(shared, link, &stream, &stream, &hang_up)
}

fn set_waits(shared: &Shared, stream: &TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(shared.options.dead_after))?;
    stream.set_read_timeout(Some(POLL.min(shared.options.dead_after)))
}

/// Nothing is said before the other end has shown that it is the target.
fn secure(
    shared: &Shared,
    link: &Link,
    stream: TcpStream,
    client: &ReplicationClient,
) -> Result<TlsStream, Ended> {
    let config = (client.0)(&link.target);
    let stopped = || shared.core().flow.stop;
    let deadline = Instant::now() + shared.options.dead_after;
    TlsStream::connect(stream, config, link.target.as_str(), deadline, &stopped).map_err(|error| {
        Ended::Said(format!(
            "{} did not prove to be region {}, so nothing was sent: {error}",
            link.address, link.target
        ))
    })
}

/// One session over any connection: `hang_up` must make blocked reads and writes of both halves return.
fn ship<R: Read + Send, W: Write>(
    shared: &Shared,
    link: &Link,
    mut reader: R,
    mut writer: W,
    hang_up: &(dyn Fn() + Sync),
) -> Result<(), Ended> {
    let mut decoder = Decoder::new(PAYLOAD_LEN_MAX);
    let welcome = handshake(shared, link, &mut decoder, &mut reader, &mut writer)?;
    resume::prepare(shared, &welcome, link.full)?;
    std::thread::scope(|scope| {
        let listening = scope.spawn(|| {
            let result = listen(shared, &mut decoder, &mut reader);
            if let Err(error) = &result {
                shared.core().flow.ended = Some(error.to_string());
            }
            shared.wake.notify_all();
            hang_up();
            result
        });
        let sent = pump(shared, link, &mut writer);
        shared.core().flow.ended.get_or_insert_with(|| "the session is over".to_owned());
        hang_up();
        let heard = listening.join().unwrap_or_else(|_| Err(Ended::Said("a defect in the sender".into())));
        // What the target said weighs more than the broken pipe that followed.
        match heard {
            Err(error @ Ended::Refused(_)) => Err(error),
            heard => sent.and(heard),
        }
    })
}

fn handshake<R: Read, W: Write>(
    shared: &Shared,
    link: &Link,
    decoder: &mut Decoder,
    reader: &mut R,
    writer: &mut W,
) -> Result<Welcome, Ended> {
    let hello = Hello {
        protocol: PROTOCOL,
        item: link.item.clone(),
        source: shared.options.region.as_ref().map(ToString::to_string).unwrap_or_default(),
        secret: link.secret.clone(),
        token: link.token,
        disks: shared.sizes(),
        head: shared.core().head,
    };
    let mut out = Vec::new();
    encode(link.token, &Message::Hello(hello), false, &mut out);
    writer.write_all(&out)?;
    let mut welcome = match receive(shared, decoder, reader)? {
        Message::Welcome { durable, catching_up, diverged_frames } => {
            (Welcome { durable, catching_up, diverged: Vec::new() }, diverged_frames)
        }
        Message::Refused(refused) => return Err(refused.into()),
        _ => return Err(Ended::Said("the target did not welcome the session".into())),
    };
    for _ in 0..welcome.1 {
        let Message::Diverged(ranges) = receive(shared, decoder, reader)? else {
            return Err(Ended::Said("the target did not say where it differs".into()));
        };
        welcome.0.diverged.extend(ranges);
    }
    Ok(welcome.0)
}

/// The next frame, with a deadline and an eye on the stop sign.
fn receive<R: Read>(shared: &Shared, decoder: &mut Decoder, reader: &mut R) -> Result<Message, Ended> {
    let mut heard = Instant::now();
    loop {
        if let Some((frame, _)) = decoder.next_frame()? {
            return Ok(frame.message);
        }
        match decoder.fill(reader) {
            Ok(0) => return Err(Ended::Said("the target has closed the connection".into())),
            Ok(_) => heard = Instant::now(),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error.into()),
        }
        let core = shared.core();
        if core.flow.stop || core.flow.ended.is_some() {
            return Err(Ended::Said("replication was stopped".into()));
        }
        if heard.elapsed() > shared.options.dead_after {
            return Err(Ended::Said(format!(
                "the target has said nothing for {:?}",
                shared.options.dead_after
            )));
        }
    }
}

/// Takes in acknowledgements until the session ends.
fn listen<R: Read>(shared: &Shared, decoder: &mut Decoder, reader: &mut R) -> Result<(), Ended> {
    loop {
        let ack = match receive(shared, decoder, reader) {
            Ok(Message::Ack(ack)) => ack,
            Ok(Message::Refused(refused)) => return Err(refused.into()),
            Ok(_) => return Err(Ended::Said("the target said something out of turn".into())),
            Err(_) if shared.core().flow.ended.is_some() || shared.core().flow.stop => return Ok(()),
            Err(error) => return Err(error),
        };
        let effects = shared.core().on_ack(ack).map_err(Ended::Said)?;
        shared.wake.notify_all();
        shared.acked.notify_all();
        if effects.save {
            shared.save_map()?;
        }
        if effects.prune {
            shared.prune_log()?;
        }
    }
}

/// Sends until the session ends.
fn pump<W: Write>(shared: &Shared, link: &Link, writer: &mut W) -> Result<(), Ended> {
    let mut out = Vec::new();
    let mut quiet_since = Instant::now();
    loop {
        let job = next_job(shared);
        let (message, registered) = match job {
            Job::Stop => return Ok(()),
            Job::Wait(_) => continue,
            Job::Begin(from) => {
                shared.save_map()?;
                (Message::BeginCatchUp { from }, Registered::Plain)
            }
            Job::Blocks(runs) => (Message::Blocks(read_blocks(shared, &runs)?), Registered::Plain),
            Job::Records { records, urgent, head, compress } => {
                quiet_since = Instant::now();
                let Some(last) = records.last().map(Record::watermark) else { continue };
                let message = Message::Records { head, urgent, records };
                send(shared, link, writer, &mut out, &message, Registered::Records(last), compress)?;
                continue;
            }
            Job::End(at) => (Message::EndCatchUp { at }, Registered::End(at)),
            Job::Point(cut) => (Message::Point(cut.point), Registered::Point(cut.id)),
            Job::Alive { head, urgent } => {
                if quiet_since.elapsed() > COOL_AFTER {
                    quiet_since = Instant::now();
                    shared.extents.cool(|| shared.core().settled(), || shared.sync(None))?;
                }
                (Message::Alive { head, urgent }, Registered::Plain)
            }
        };
        let blocks = matches!(message, Message::Blocks(_));
        send(shared, link, writer, &mut out, &message, registered, blocks)?;
    }
}

fn send<W: Write>(
    shared: &Shared,
    link: &Link,
    writer: &mut W,
    out: &mut Vec<u8>,
    message: &Message,
    registered: Registered,
    compress: bool,
) -> io::Result<()> {
    out.clear();
    encode(link.token, message, compress, out);
    shared.core().register(out.len() as u64, registered);
    writer.write_all(out)
}

/// Waits for something to do. Woken by a write, it lets others gather, unless a flush waits.
fn next_job(shared: &Shared) -> Job {
    let mut core = shared.core();
    let mut gathered = false;
    loop {
        let job = core.next_job(Instant::now(), shared.options.point_every);
        let Job::Wait(wait) = job else { return job };
        core.flow.sleeping = true;
        core = shared.wake.wait_timeout(core, wait).unwrap_or_else(PoisonError::into_inner).0;
        let woken_by_write = !std::mem::replace(&mut core.flow.sleeping, false);
        if woken_by_write && !gathered && !core.flush_waits() {
            gathered = true;
            core = shared.wake.wait_timeout(core, GATHER).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Reads runs as they are now, up to about a batch; the rest goes back into the map.
fn read_blocks(shared: &Shared, runs: &[Range]) -> io::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut bytes = 0;
    for (index, run) in runs.iter().enumerate() {
        let mut left = *run;
        while left.len > 0 {
            if bytes >= BATCH_LEN as u64 {
                let mut core = shared.core();
                core.put_back(&[left]);
                core.put_back(&runs[index + 1..]);
                return Ok(blocks);
            }
            let done = read_piece(shared, left, &mut blocks, &mut bytes)?;
            left.offset += done;
            left.len -= done;
        }
    }
    Ok(blocks)
}

/// Reads the start of `run` and returns how much of it that was.
fn read_piece(shared: &Shared, run: Range, blocks: &mut Vec<Block>, bytes: &mut u64) -> io::Result<u64> {
    let disk = &shared.disks[usize::from(run.disk)].disk;
    let mut len = run.len;
    if run.len >= ASK_FROM
        && let Some(first) = disk.extents(run.offset, run.len, 1)?.first()
    {
        len = first.len.min(run.len);
        let op = match first.kind {
            ExtentKind::Hole => Some(Op::Trim),
            ExtentKind::Zero => Some(Op::Zero),
            ExtentKind::Data => None,
        };
        // Only whole blocks: a block that is part hole and part data is read.
        let whole = if len == run.len { len } else { len / BLOCK * BLOCK };
        if let Some(op) = op
            && whole > 0
        {
            blocks.push(Block { disk: run.disk, offset: run.offset, len: whole, op });
            return Ok(whole);
        }
    }
    let len = len.next_multiple_of(BLOCK).min(run.len).min(PIECE);
    let mut data = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    disk.read_at(&mut data, run.offset)?;
    *bytes += len;
    split_zeroes(run, &data, blocks);
    Ok(len)
}

/// Whole blocks of zeroes need not cross the wire.
fn split_zeroes(run: Range, data: &[u8], blocks: &mut Vec<Block>) {
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    let mut start = 0;
    while start < data.len() {
        let step = BLOCK as usize;
        let zero = is_zero(&data[start..data.len().min(start + step)]);
        let mut end = data.len().min(start + step);
        while end < data.len() && is_zero(&data[end..data.len().min(end + step)]) == zero {
            end = data.len().min(end + step);
        }
        let op = if zero { Op::Trim } else { Op::Write(Arc::from(&data[start..end])) };
        let (offset, len) = (run.offset + start as u64, (end - start) as u64);
        blocks.push(Block { disk: run.disk, offset, len, op });
        start = end;
    }
}

/// Stops the session and waits for nothing: the thread ends by itself.
pub(super) fn stop(shared: &Shared) {
    locked(&shared.core).flow.stop = true;
    shared.wake.notify_all();
    shared.acked.notify_all();
}
