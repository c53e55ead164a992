//! Reading the journal's segments, never without checking.
//!
//! Shared by everything that reads: views of promoted disks and drills, folding, and the journal itself. Whatever does not
//! match its checksum is an error, is remembered for the status, and is never handed out.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::ReplicaError;
use super::segment::{
    CHUNK, ENTRY_LEN, Entry, INDEX_LEN, IndexEntry, Place, SEGMENT_HEADER_LEN, SegmentHeader, TRAILER_LEN,
    Trailer,
};

/// Open segment files kept for reading: 8 GiB of journal in 64 MiB segments, far below any limit on open files.
const FILES_MAX: usize = 128;

/// What is told to people about damage found in the journal.
const SAFE: &str = "recovery points before the damage stay usable: promote to one of them by its id, or protect the \
                    machine again to make a new replica";

/// The segments of one journal, for reading.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    files: Mutex<HashMap<u32, Arc<File>>>,
    damaged: Mutex<Option<String>>,
}

impl Shelf {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), files: Mutex::default(), damaged: Mutex::default() }
    }

    /// The file of segment `number`.
    pub(super) fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("seg-{number:020}.fsj"))
    }

    /// The first damage found, for the status.
    pub(super) fn damaged(&self) -> Option<String> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The error for damage at `place`, which is remembered too.
    pub(super) fn damage(&self, place: Place, what: &str) -> ReplicaError {
        let error = ReplicaError::Damaged {
            file: self.path(place.segment),
            offset: u64::from(place.pos),
            what: what.to_owned(),
            safe: SAFE.to_owned(),
        };
        tracing::error!(%error, "damage in the journal");
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.to_string());
        error
    }

    /// The open file of a segment.
    pub(super) fn file(&self, number: u32) -> io::Result<Arc<File>> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(&number) {
            return Ok(Arc::clone(file));
        }
        if files.len() >= FILES_MAX {
            files.clear();
        }
        let file = Arc::new(File::open(self.path(number)).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open {}: {error}", self.path(number).display()))
        })?);
        files.insert(number, Arc::clone(&file));
        Ok(file)
    }

    /// Closes a segment that is about to be deleted.
    pub(super) fn forget(&self, number: u32) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// Reads and checks a segment's header.
    pub(super) fn header(&self, number: u32) -> io::Result<Result<SegmentHeader, &'static str>> {
        let mut bytes = [0; SEGMENT_HEADER_LEN];
        let have = read_up_to(&*self.file(number)?, &mut bytes, 0)?;
        Ok(SegmentHeader::decode(&bytes[..have], number))
    }

    /// Reads and checks a segment's trailer. `None`: it is not sealed, or its trailer cannot be read.
    pub(super) fn trailer(&self, number: u32) -> io::Result<Option<Trailer>> {
        let file = self.file(number)?;
        let len = file.metadata()?.len();
        let Some(at) = len.checked_sub(TRAILER_LEN as u64) else { return Ok(None) };
        let mut bytes = [0; TRAILER_LEN];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Trailer::decode(&bytes, number, len))
    }

    /// The data entries of a sealed segment. `None` when the index does not match its checksum.
    pub(super) fn index(&self, trailer: &Trailer) -> io::Result<Option<Vec<IndexEntry>>> {
        let mut bytes = vec![0; trailer.data as usize * INDEX_LEN];
        self.file(trailer.number)?.read_exact_at(&mut bytes, u64::from(trailer.entries_end))?;
        if crc32c::crc32c(&bytes) != trailer.index_crc {
            return Ok(None);
        }
        Ok(bytes.as_chunks().0.iter().map(IndexEntry::decode).collect())
    }

    /// Positions of the marks of a sealed segment. `None` when they do not match their checksum.
    pub(super) fn marks(&self, trailer: &Trailer) -> io::Result<Option<Vec<u32>>> {
        let mut bytes = vec![0; trailer.marks as usize * 4];
        self.file(trailer.number)?.read_exact_at(&mut bytes, trailer.marks_at())?;
        if crc32c::crc32c(&bytes) != trailer.marks_crc {
            return Ok(None);
        }
        Ok(Some(bytes.as_chunks().0.iter().map(|pos| u32::from_le_bytes(*pos)).collect()))
    }

    /// Reads an entry's header; damage is an error.
    pub(super) fn entry(&self, place: Place) -> io::Result<Entry> {
        let mut bytes = [0; ENTRY_LEN];
        let have = read_up_to(&*self.file(place.segment)?, &mut bytes, u64::from(place.pos))?;
        Entry::decode(&bytes[..have], place).map_err(|what| self.damage(place, what).into())
    }

    /// Reads an entry's data as a whole, checked.
    pub(super) fn payload(&self, entry: &Entry) -> io::Result<Vec<u8>> {
        let mut data = vec![0; entry.payload_len as usize - entry.table_len()];
        self.data(entry, 0, &mut data)?;
        Ok(data)
    }

    /// Fills `buf` from the piece of disk `disk` at `offset` that the entry at `place` wrote.
    pub(super) fn read(&self, place: Place, disk: u16, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        // One read fetches the header and, for the usual small write, the payload too.
        let mut bytes = vec![0; ENTRY_LEN + buf.len()];
        let have = read_up_to(&*self.file(place.segment)?, &mut bytes, u64::from(place.pos))?;
        let entry = Entry::decode(&bytes[..have], place).map_err(|what| self.damage(place, what))?;
        if entry.disk != disk || offset < entry.offset || end > entry.offset + entry.len {
            return Err(self.damage(place, "the entry is not the one that the index names").into());
        }
        let whole = entry.payload_len as usize == buf.len() && entry.table_len() == 0;
        if whole && have == bytes.len() {
            let data = &bytes[ENTRY_LEN..];
            if crc32c::crc32c(data) != entry.payload_crc {
                return Err(self.damage(place, "the payload does not match its checksum").into());
            }
            buf.copy_from_slice(data);
            return Ok(());
        }
        let skip = usize::try_from(offset - entry.offset).expect("payloads fit in memory");
        self.data(&entry, skip, buf)
    }

    /// Fills `buf` from an entry's data at `skip`, chunk by chunk.
    fn data(&self, entry: &Entry, skip: usize, buf: &mut [u8]) -> io::Result<()> {
        let bad = |what| io::Error::from(self.damage(entry.place, what));
        let file = self.file(entry.place.segment)?;
        let start = u64::from(entry.place.pos) + ENTRY_LEN as u64;
        let table_len = entry.table_len();
        let data_len = entry.payload_len as usize - table_len;
        if skip + buf.len() > data_len {
            return Err(bad("the payload is shorter than the entry says"));
        }
        let table = if table_len == 0 {
            entry.payload_crc.to_le_bytes().to_vec()
        } else {
            let mut table = vec![0; table_len];
            if read_up_to(&file, &mut table, start)? < table_len
                || crc32c::crc32c(&table) != entry.payload_crc
            {
                return Err(bad("the checksums of the payload are damaged"));
            }
            table
        };
        let data_start = start + table_len as u64;
        let mut chunk = vec![0; CHUNK.min(data_len)];
        let mut filled = 0;
        while filled < buf.len() {
            let number = (skip + filled) / CHUNK;
            let from = number * CHUNK;
            let chunk = &mut chunk[..CHUNK.min(data_len - from)];
            let crc: [u8; 4] = table[number * 4..number * 4 + 4].try_into().expect("four bytes");
            if read_up_to(&file, chunk, data_start + from as u64)? < chunk.len()
                || crc32c::crc32c(chunk).to_le_bytes() != crc
            {
                return Err(bad("the payload does not match its checksum"));
            }
            let skip_in_chunk = skip + filled - from;
            let take = (chunk.len() - skip_in_chunk).min(buf.len() - filled);
            buf[filled..filled + take].copy_from_slice(&chunk[skip_in_chunk..skip_in_chunk + take]);
            filled += take;
        }
        Ok(())
    }
}

/// Reads until `buf` is full or the file ends.
pub(super) fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match file.read_at(&mut buf[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}
