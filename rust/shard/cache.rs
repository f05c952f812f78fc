//! Random access to the sequences of a cache of many shards, with bounded memory and open files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Fault, ShardError};
use super::header::REALISED;
use super::index::Column;
use super::pool::{Found, OpenShard, Pool};
use super::reader::ShardReader;
use super::storage::Storage;
use crate::codec::realised;

/// Sequences read together, in the order asked for.
#[derive(Debug, Default)]
pub struct Batch {
    pub examples: Vec<u64>,
    pub samples: Vec<u64>,
    pub prompt_ids: Vec<String>,
    pub prompt_lengths: Vec<u64>,
    pub response_lengths: Vec<u64>,
    pub prompts: Vec<i32>,
    pub responses: Vec<i32>,
    /// The records of all response tokens, sequence after sequence.
    pub records: Vec<u8>,
    /// log p of all response tokens, NaN where it is not known; empty in a version that does not hold them.
    pub realised: Vec<f32>,
}

/// What is read of a sequence beside its tokens.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    pub records: bool,
    pub realised: bool,
}

/// A cache of shards whose sequences are numbered in the order of the plan.
pub struct CacheReader {
    storage: Arc<dyn Storage>,
    paths: Box<dyn Fn(usize) -> PathBuf + Send + Sync>,
    /// Position of the first sequence of each shard, and at the end the number of all.
    firsts: Vec<u64>,
    expected: BTreeMap<String, String>,
    pool: Mutex<Pool>,
}

/// One sequence, as read.
struct Piece {
    example: u64,
    sample: u64,
    prompt_id: String,
    prompt: Vec<u8>,
    response: Vec<u8>,
    records: Vec<u8>,
    realised: Vec<f32>,
}

impl CacheReader {
    /// `firsts` has one more number than there are shards; each shard's metadata must have `expected`.
    pub fn new(
        storage: Arc<dyn Storage>,
        directory: &Path,
        firsts: Vec<u64>,
        expected: BTreeMap<String, String>,
    ) -> Self {
        let directory = directory.to_owned();
        let paths = Box::new(move |shard| directory.join(shard_name(shard)));
        Self { storage, paths, firsts, expected, pool: Mutex::default() }
    }

    /// Reads sequences by position, in any order, with repeats.
    pub fn read(&self, sequences: &[u64], parts: Parts) -> Result<Batch, ShardError> {
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(sequences.len());
        for (place, &sequence) in sequences.iter().enumerate() {
            places.push((self.shard_of(sequence)?, place));
        }
        places.sort_unstable();
        let mut pieces: Vec<Option<Piece>> = sequences.iter().map(|_| None).collect();
        for group in places.chunk_by(|a, b| a.0 == b.0) {
            let shard = self.open(group[0].0)?;
            for &(_, place) in group {
                pieces[place] = Some(shard.read(sequences[place], parts)?);
            }
        }
        Ok(gather(pieces.into_iter().flatten()))
    }

    fn shard_of(&self, sequence: u64) -> Result<usize, ShardError> {
        let count = self.firsts.last().copied().unwrap_or(0);
        if sequence >= count {
            let fault = Fault::NoSuchSequence { sequence, count };
            return Err(ShardError::new(&(self.paths)(0), fault));
        }
        Ok(self.firsts.partition_point(|&first| first <= sequence) - 1)
    }

    fn open(&self, shard: usize) -> Result<Arc<OpenShard>, ShardError> {
        let known = match self.lock().get(shard) {
            Found::Open(open) => return Ok(open),
            Found::Known(known) => Some(known),
            Found::Nothing => None,
        };
        let again = known.and_then(|known| {
            let reader = ShardReader::reopen(&*self.storage, &known.frame)?;
            Some(OpenShard { reader, index: known.index })
        });
        let open = Arc::new(again.map_or_else(|| self.open_anew(shard), Ok)?);
        self.lock().put(shard, &open);
        Ok(open)
    }

    fn open_anew(&self, shard: usize) -> Result<OpenShard, ShardError> {
        let reader = ShardReader::open(&*self.storage, &(self.paths)(shard))?;
        self.check(&reader, shard)?;
        let index = Arc::new(reader.index()?);
        Ok(OpenShard { reader, index })
    }

    /// Refuses shards of another plan and renamed files: a shard names its plan and its number (pitfall 20).
    fn check(&self, reader: &ShardReader, shard: usize) -> Result<(), ShardError> {
        let place = ("shard".to_owned(), shard.to_string());
        for (key, value) in self.expected.iter().chain([(&place.0, &place.1)]) {
            let found = reader.header().metadata.get(key).cloned().unwrap_or_default();
            if found != *value {
                let fault = Fault::Foreign { key: key.clone(), expected: value.clone(), found };
                return Err(ShardError::new(reader.path(), fault));
            }
        }
        reader.layout()?;
        let sequences = self.firsts[shard + 1] - self.firsts[shard];
        if reader.header().counts.sequences != sequences {
            return Err(ShardError::new(reader.path(), Fault::Index("it does not hold what the plan says")));
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// File names are derived from the number, never read from a directory.
#[must_use]
pub fn shard_name(shard: usize) -> String {
    format!("shard-{shard:05}.safetensors")
}

impl OpenShard {
    fn read(&self, sequence: u64, parts: Parts) -> Result<Piece, ShardError> {
        let failed = |fault| ShardError::new(self.reader.path(), fault);
        let index = &self.index;
        let slot =
            index.find(sequence).ok_or_else(|| failed(Fault::Index("a sequence of the plan is missing")))?;
        let span = |starts: &Column| (starts.get(slot), starts.get(slot + 1));
        let (from, to) = span(&index.response_starts);
        let (prompt_from, prompt_to) = span(&index.prompt_starts);
        let (id_from, id_to) = span(&index.prompt_id_starts);
        let id = self.reader.small_tensor("prompt_ids", 1, id_from, id_to)?;
        let records_to = if parts.records { to } else { from };
        Ok(Piece {
            example: index.example.get(slot),
            sample: index.sample.get(slot),
            prompt_id: String::from_utf8(id).map_err(|_| failed(Fault::Index("a prompt id is not UTF-8")))?,
            prompt: self.reader.small_tensor("prompt_tokens", 4, prompt_from, prompt_to)?,
            response: self.reader.small_tensor("response_tokens", 4, from, to)?,
            records: self.reader.tensor("records", self.reader.header().counts.stride, from, records_to)?,
            realised: if parts.realised { self.realised(from, to)? } else { Vec::new() },
        })
    }

    fn realised(&self, from: u64, to: u64) -> Result<Vec<f32>, ShardError> {
        if !self.reader.header().has_realised() {
            return Ok(Vec::new());
        }
        let bytes = self.reader.small_tensor(REALISED, 2, from, to)?;
        let codes = bytes.chunks_exact(2).map(|part| u16::from_le_bytes([part[0], part[1]]));
        let values = (from..).zip(codes).map(|(token, code)| {
            let fault = |error| ShardError::new(self.reader.path(), Fault::Record { token, error });
            realised::decode(code).map_err(fault)
        });
        values.collect()
    }
}

fn gather(pieces: impl Iterator<Item = Piece>) -> Batch {
    let mut batch = Batch::default();
    for piece in pieces {
        batch.examples.push(piece.example);
        batch.samples.push(piece.sample);
        batch.prompt_ids.push(piece.prompt_id);
        batch.prompt_lengths.push(piece.prompt.len() as u64 / 4);
        batch.response_lengths.push(piece.response.len() as u64 / 4);
        batch.prompts.extend(ids(&piece.prompt));
        batch.responses.extend(ids(&piece.response));
        batch.records.extend_from_slice(&piece.records);
        batch.realised.extend(&piece.realised);
    }
    batch
}

fn ids(bytes: &[u8]) -> impl Iterator<Item = i32> {
    bytes.chunks_exact(4).map(|part| i32::from_le_bytes([part[0], part[1], part[2], part[3]]))
}
