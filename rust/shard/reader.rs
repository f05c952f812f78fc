//! Reads one shard: what is returned has been checked, chunk by chunk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checksum::{self, CHUNK};
use super::error::{Fault, ShardError};
use super::header::{Header, MAX_FILE_BYTES, MAX_HEADER_BYTES};
use super::index::Index;
use super::recent::Recent;
use super::storage::{ReadFile, Storage, read_exact_at, uninterrupted};
use super::trailer::{self, Trailer};
use crate::codec::Layout;

/// The frame of a shard, read and checked once: it is kept when the file is closed.
pub(super) struct Frame {
    path: PathBuf,
    header: Header,
    trailer: Trailer,
    checksums: Vec<u32>,
}

/// An open shard whose length, trailer, table of checksums and header are good.
pub struct ShardReader {
    frame: Arc<Frame>,
    file: Box<dyn ReadFile>,
    recent: Recent,
}

impl Frame {
    /// Bytes that it occupies in memory: its table, and a header of some thirty short strings.
    pub(super) fn size(&self) -> usize {
        4 * self.checksums.len() + 4096
    }
}

impl ShardReader {
    /// Opens a shard. Costs four reads, and memory for the header and 4 bytes per 16 KiB of file.
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<Self, ShardError> {
        Self::open_inner(storage, path).map_err(|fault| ShardError::new(path, fault))
    }

    fn open_inner(storage: &dyn Storage, path: &Path) -> Result<Self, Fault> {
        let file = uninterrupted(|| storage.open(path)).map_err(Fault::Io)?;
        let length = uninterrupted(|| file.length()).map_err(Fault::Io)?;
        let trailer = read_trailer(&*file, length)?;
        let header = read_header(&*file, length)?;
        if header.file_length() != length {
            return Err(Fault::Length { expected: header.file_length(), found: length });
        }
        let checksums = read_table(&*file, &header, &trailer)?;
        let frame = Arc::new(Frame { path: path.to_owned(), header, trailer, checksums });
        let reader = Self { frame, file, recent: Recent::default() };
        reader.read(0, reader.header().length)?;
        Ok(reader)
    }

    /// Opens a shard again whose frame is known: one read, which shows that it still is that file. None: it is not,
    /// or cannot be opened, and `open` says why.
    pub(super) fn reopen(storage: &dyn Storage, frame: &Arc<Frame>) -> Option<Self> {
        let file = uninterrupted(|| storage.open(&frame.path)).ok()?;
        let length = uninterrupted(|| file.length()).ok()?;
        let same = read_trailer(&*file, length).ok()? == frame.trailer;
        same.then(|| Self { frame: Arc::clone(frame), file, recent: Recent::default() })
    }

    pub(super) fn frame(&self) -> &Arc<Frame> {
        &self.frame
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.frame.path
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        &self.frame.header
    }

    #[must_use]
    pub fn trailer(&self) -> &Trailer {
        &self.frame.trailer
    }

    pub(super) fn checksums(&self) -> &[u32] {
        &self.frame.checksums
    }

    pub(super) fn file(&self) -> &dyn ReadFile {
        &*self.file
    }

    /// The layout of its records, which must have the size that the header says.
    pub(super) fn layout(&self) -> Result<Layout, ShardError> {
        let layout = Layout::from_metadata(&self.header().metadata).map_err(Fault::Metadata);
        let checked = layout.and_then(|layout| {
            let fits = layout.stride() as u64 == self.header().counts.stride;
            if fits {
                Ok(layout)
            } else {
                Err(Fault::Header("its records do not have the size of its layout"))
            }
        });
        checked.map_err(|fault| ShardError::new(self.path(), fault))
    }

    /// Where the sequences are.
    pub fn index(&self) -> Result<Index, ShardError> {
        let (start, end) =
            (self.header().tensor("sequence").start, self.header().tensor("response_tokens").start);
        let index = self.read(start, end).and_then(|bytes| Index::from_bytes(self.header(), &bytes));
        index.map_err(|fault| ShardError::new(self.path(), fault))
    }

    /// Bytes `from..to` of a tensor, counted in its elements of `size` bytes.
    pub fn tensor(&self, name: &str, size: u64, from: u64, to: u64) -> Result<Vec<u8>, ShardError> {
        let start = self.header().tensor(name).start;
        self.read(start + from * size, start + to * size).map_err(|fault| ShardError::new(self.path(), fault))
    }

    /// As [`Self::tensor`], from chunks that are kept for a while: for tensors so small that neighbours in
    /// a batch fall into the same chunk.
    pub(super) fn small_tensor(
        &self,
        name: &str,
        size: u64,
        from: u64,
        to: u64,
    ) -> Result<Vec<u8>, ShardError> {
        let start = self.header().tensor(name).start;
        let (start, end) = (start + from * size, start + to * size);
        let read = |chunk: u64| self.read(chunk * CHUNK as u64, self.chunk_end(chunk));
        self.recent.bytes(start, end, read).map_err(|fault| ShardError::new(self.path(), fault))
    }

    fn chunk_end(&self, chunk: u64) -> u64 {
        ((chunk + 1) * CHUNK as u64).min(self.header().checked_length())
    }

    /// Bytes `start..end` of the file, from chunks whose checksums are right. Both are before the table.
    fn read(&self, start: u64, end: u64) -> Result<Vec<u8>, Fault> {
        if start >= end {
            return Ok(Vec::new());
        }
        let first = start / CHUNK as u64;
        let base = first * CHUNK as u64;
        let stop = self.chunk_end((end - 1) / CHUNK as u64);
        let mut bytes = vec![0; (stop - base) as usize];
        read_exact_at(&*self.file, &mut bytes, base).map_err(Fault::Io)?;
        for (chunk, part) in (first..).zip(bytes.chunks(CHUNK)) {
            if self.checksums().get(chunk as usize) != Some(&checksum::of(part)) {
                return Err(Fault::Chunk { chunk });
            }
        }
        bytes.copy_within((start - base) as usize..(end - base) as usize, 0);
        bytes.truncate((end - start) as usize);
        Ok(bytes)
    }
}

fn read_trailer(file: &dyn ReadFile, length: u64) -> Result<Trailer, Fault> {
    if length < 8 + trailer::LENGTH as u64 {
        return Err(Fault::Truncated { length });
    }
    if length > MAX_FILE_BYTES {
        return Err(Fault::TooLong { length });
    }
    let mut bytes = [0; trailer::LENGTH];
    read_exact_at(file, &mut bytes, length - trailer::LENGTH as u64).map_err(Fault::Io)?;
    let trailer = Trailer::from_bytes(&bytes).ok_or(Fault::Trailer)?;
    if trailer.file_length != length {
        return Err(Fault::Length { expected: trailer.file_length, found: length });
    }
    Ok(trailer)
}

fn read_header(file: &dyn ReadFile, length: u64) -> Result<Header, Fault> {
    let mut bytes = [0; 8];
    read_exact_at(file, &mut bytes, 0).map_err(Fault::Io)?;
    let json_length = u64::from_le_bytes(bytes);
    if json_length > MAX_HEADER_BYTES {
        return Err(Fault::HeaderTooLarge { length: json_length });
    }
    if json_length > length - 8 {
        return Err(Fault::Truncated { length });
    }
    let mut json = vec![0; json_length as usize];
    read_exact_at(file, &mut json, 8).map_err(Fault::Io)?;
    Header::from_json(&json)
}

fn read_table(file: &dyn ReadFile, header: &Header, trailer: &Trailer) -> Result<Vec<u32>, Fault> {
    let tensor = header.tensor("checksums");
    let mut bytes = vec![0; (tensor.end - tensor.start) as usize];
    read_exact_at(file, &mut bytes, tensor.start).map_err(Fault::Io)?;
    if checksum::of(&bytes) != trailer.table_checksum {
        return Err(Fault::ChecksumTable);
    }
    Ok(bytes.chunks_exact(4).map(|part| u32::from_le_bytes([part[0], part[1], part[2], part[3]])).collect())
}
