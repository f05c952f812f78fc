//! Writes one shard in bounded memory, for any number of tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checksum::Running;
use super::error::{Fault, ShardError};
use super::header::{Counts, Header};
use super::publish::{Published, commit, temporary_name};
use super::reader::ShardReader;
use super::storage::{Storage, WriteFile, uninterrupted, write_all_at};
use super::trailer::{self, Trailer};
use crate::codec::realised;

/// Bytes collected before a system call.
const BUFFER: usize = 1 << 20;

/// Bytes that are hashed, summed and written in one go: a second-level cache holds them.
const PART: usize = 1 << 18;

/// One sequence of a shard.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Its position in the cache.
    pub sequence: u64,
    /// Its index in the data set, and which of several responses to the same prompt it is.
    pub example: u64,
    pub sample: u64,
    pub prompt_id: &'a str,
    pub prompt: &'a [i32],
    pub response: &'a [i32],
    /// log p of each response token, NaN where it is not known; empty: of none.
    pub realised: &'a [f32],
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub counts: Counts,
    pub file_length: u64,
    pub root: [u8; 32],
    pub published: Published,
}

#[derive(Default)]
struct Columns {
    sequence: Vec<u64>,
    example: Vec<u64>,
    sample: Vec<u64>,
    response_starts: Vec<u64>,
    prompt_starts: Vec<u64>,
    prompt_id_starts: Vec<u64>,
    response_tokens: Vec<u8>,
    prompt_tokens: Vec<u8>,
    prompt_ids: Vec<u8>,
    realised: Vec<u8>,
}

/// A shard being written under a temporary name, which is removed if it is never finished.
pub struct ShardWriter {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    temporary: PathBuf,
    file: Box<dyn WriteFile>,
    metadata: BTreeMap<String, String>,
    stride: u64,
    has_realised: bool,
    columns: Columns,
    buffer: Vec<u8>,
    at: u64,
    tokens: u64,
    sums: Option<Running>,
    body: blake3::Hasher,
    finished: bool,
}

impl ShardWriter {
    /// Starts the shard that will be `path`; its records have `stride` bytes.
    pub fn create(
        storage: Arc<dyn Storage>,
        path: &Path,
        metadata: BTreeMap<String, String>,
        stride: usize,
    ) -> Result<Self, ShardError> {
        let empty = Counts { stride: stride as u64, ..Counts::default() };
        let header = Header::new(metadata, empty).map_err(|fault| ShardError::new(path, fault))?;
        let temporary = temporary_name(path);
        let file = uninterrupted(|| storage.create_new(&temporary))
            .map_err(|error| ShardError::new(path, Fault::Io(error)))?;
        Ok(Self {
            has_realised: header.has_realised(),
            storage,
            path: path.to_owned(),
            temporary,
            file,
            metadata: header.metadata,
            stride: empty.stride,
            columns: Columns::default(),
            buffer: Vec::with_capacity(BUFFER),
            at: header.length,
            tokens: 0,
            sums: Some(Running::new(header.length as usize)),
            body: blake3::Hasher::new(),
            finished: false,
        })
    }

    /// Where the shard will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Response tokens written so far.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Appends records, in the order of the sequences.
    pub fn records(&mut self, records: &[u8]) -> Result<(), ShardError> {
        self.tokens += records.len() as u64 / self.stride;
        self.emit(records)
    }

    /// Appends a sequence; its records come before or after, in the same order.
    pub fn sequence(&mut self, sequence: Sequence<'_>) -> Result<(), ShardError> {
        let codes = self.realised(&sequence)?;
        let columns = &mut self.columns;
        columns.realised.extend(codes.iter().flat_map(|code| code.to_le_bytes()));
        columns.response_starts.push(columns.response_tokens.len() as u64 / 4);
        columns.prompt_starts.push(columns.prompt_tokens.len() as u64 / 4);
        columns.prompt_id_starts.push(columns.prompt_ids.len() as u64);
        columns.sequence.push(sequence.sequence);
        columns.example.push(sequence.example);
        columns.sample.push(sequence.sample);
        columns.response_tokens.extend(sequence.response.iter().flat_map(|id| id.to_le_bytes()));
        columns.prompt_tokens.extend(sequence.prompt.iter().flat_map(|id| id.to_le_bytes()));
        columns.prompt_ids.extend(sequence.prompt_id.as_bytes());
        Ok(())
    }

    /// Codes of the realised tokens; none in a version that has no place for them.
    fn realised(&self, sequence: &Sequence<'_>) -> Result<Vec<u16>, ShardError> {
        let (given, count) = (sequence.realised, sequence.response.len());
        if !given.is_empty() && given.len() != count {
            return Err(self.failed(Fault::Index("realised log-probabilities do not fill the response")));
        }
        if !self.has_realised {
            return Ok(Vec::new());
        }
        let first = self.columns.response_tokens.len() as u64 / 4;
        let known = (first..).zip(given).map(|(token, &log_prob)| {
            realised::encode(log_prob).map_err(|error| self.failed(Fault::Row { token, error }))
        });
        let absent = (given.len()..count).map(|_| Ok(realised::ABSENT));
        known.chain(absent).collect()
    }

    /// Writes the index and the trailer, syncs the file and gives it its name.
    pub fn finish(mut self) -> Result<Written, ShardError> {
        let counts = self.counts();
        let header = Header::new(std::mem::take(&mut self.metadata), counts).map_err(|f| self.failed(f))?;
        if self.columns.response_tokens.len() as u64 != 4 * self.tokens {
            return Err(self.failed(Fault::Index("responses do not fill the records")));
        }
        self.write_index(&header)?;
        let trailer = self.write_end(&header)?;
        uninterrupted(|| self.file.sync()).map_err(|error| self.failed(Fault::Io(error)))?;
        let existing = || self.compare(&trailer);
        let published = commit(&*self.storage, &self.temporary, &self.path, existing)?;
        self.finished = true;
        Ok(Written { counts, file_length: trailer.file_length, root: trailer.root, published })
    }

    fn failed(&self, fault: Fault) -> ShardError {
        ShardError::new(&self.path, fault)
    }

    fn counts(&self) -> Counts {
        Counts {
            stride: self.stride,
            tokens: self.tokens,
            sequences: self.columns.sequence.len() as u64,
            prompt_tokens: self.columns.prompt_tokens.len() as u64 / 4,
            prompt_id_bytes: self.columns.prompt_ids.len() as u64,
        }
    }

    fn write_index(&mut self, header: &Header) -> Result<(), ShardError> {
        let columns = std::mem::take(&mut self.columns);
        let padding = header.tensor("padding");
        self.emit(&columns.prompt_ids)?;
        self.emit(&[0; 8][..(padding.end - padding.start) as usize])?;
        let ends = [header.counts.tokens, header.counts.prompt_tokens, header.counts.prompt_id_bytes];
        for numbers in [&columns.sequence, &columns.example, &columns.sample] {
            self.emit(&little_endian(numbers))?;
        }
        let starts = [&columns.response_starts, &columns.prompt_starts, &columns.prompt_id_starts];
        for (numbers, end) in starts.into_iter().zip(ends) {
            self.emit(&little_endian(numbers))?;
            self.emit(&end.to_le_bytes())?;
        }
        self.emit(&columns.response_tokens)?;
        self.emit(&columns.prompt_tokens)?;
        let unused = if self.has_realised { 2 * (header.counts.tokens % 2) as usize } else { 0 };
        self.emit(&columns.realised)?;
        self.emit(&[0; 2][..unused])
    }

    fn write_end(&mut self, header: &Header) -> Result<Trailer, ShardError> {
        let head = header.to_bytes();
        let sums = self.sums.take().map(|sums| sums.finish(&head)).unwrap_or_default();
        let table: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        self.emit(&table)?;
        let trailer = Trailer {
            file_length: header.file_length(),
            table_checksum: super::checksum::of(&table),
            root: trailer::root(&head, &self.body),
        };
        self.emit(&trailer.to_bytes())?;
        self.flush()?;
        self.write(&head, 0)?;
        Ok(trailer)
    }

    /// Appends bytes to the file and to its checksums, by parts that stay in the cache meanwhile.
    fn emit(&mut self, bytes: &[u8]) -> Result<(), ShardError> {
        bytes.chunks(PART).try_for_each(|part| self.emit_part(part))
    }

    fn emit_part(&mut self, bytes: &[u8]) -> Result<(), ShardError> {
        self.body.update(bytes);
        if let Some(sums) = &mut self.sums {
            sums.add(bytes);
        }
        if self.buffer.len() + bytes.len() > BUFFER || bytes.len() == PART {
            self.flush()?;
        }
        if bytes.len() == PART {
            self.write(bytes, self.at)?;
            self.at += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ShardError> {
        let buffer = std::mem::take(&mut self.buffer);
        self.write(&buffer, self.at)?;
        self.at += buffer.len() as u64;
        self.buffer = buffer;
        self.buffer.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<(), ShardError> {
        write_all_at(&mut *self.file, bytes, offset).map_err(|error| self.failed(Fault::Io(error)))
    }

    /// What the file at our path is: the same shard, another one, or a damaged one (None).
    fn compare(&self, trailer: &Trailer) -> Result<Option<bool>, ShardError> {
        match ShardReader::open(&*self.storage, &self.path) {
            Ok(reader) => Ok(Some(reader.trailer() == trailer)),
            Err(error) if matches!(error.fault, Fault::Io(_)) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.storage.remove(&self.temporary);
        }
    }
}

fn little_endian(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}
