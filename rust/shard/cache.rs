//! Random access to the sequences of a cache of many shards, with bounded memory and open files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Fault, ShardError};
use super::index::Index;
use super::reader::ShardReader;
use super::storage::Storage;

/// Shards kept open, and bytes that their indices may take together. Threads of a process may each hold
/// one more while they read it: together at most 64 files.
const MAX_OPEN: usize = 48;
const MAX_INDEX_BYTES: usize = 64 << 20;

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
}

struct OpenShard {
    reader: ShardReader,
    index: Index,
}

#[derive(Default)]
struct Pool {
    shards: HashMap<usize, (u64, Arc<OpenShard>)>,
    clock: u64,
}

/// A cache of shards whose sequences are numbered in the order of the plan.
pub struct CacheReader {
    storage: Arc<dyn Storage>,
    paths: Box<dyn Fn(usize) -> PathBuf + Send + Sync>,
    /// Number of the first sequence of each shard, and behind them the number of all.
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
}

impl CacheReader {
    /// `firsts` has one more number than there are shards; each shard's metadata must hold `expected`.
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

    /// Reads sequences by their numbers, in any order, with repeats; their records too if asked for.
    pub fn read(&self, sequences: &[u64], with_records: bool) -> Result<Batch, ShardError> {
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(sequences.len());
        for (place, &sequence) in sequences.iter().enumerate() {
            places.push((self.shard_of(sequence)?, place));
        }
        places.sort_unstable();
        let mut pieces: Vec<Option<Piece>> = sequences.iter().map(|_| None).collect();
        for group in places.chunk_by(|a, b| a.0 == b.0) {
            let shard = self.open(group[0].0)?;
            for &(_, place) in group {
                pieces[place] = Some(shard.read(sequences[place], with_records)?);
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
        if let Some(open) = self.lock().get(shard) {
            return Ok(open);
        }
        let path = (self.paths)(shard);
        let reader = ShardReader::open(&*self.storage, &path)?;
        self.check(&reader, shard)?;
        let index = reader.index()?;
        let open = Arc::new(OpenShard { reader, index });
        self.lock().put(shard, Arc::clone(&open));
        Ok(open)
    }

    /// Trap 20 and renamed files: a shard says which plan and which place it belongs to.
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

impl Pool {
    fn get(&mut self, shard: usize) -> Option<Arc<OpenShard>> {
        self.clock += 1;
        let (used, open) = self.shards.get_mut(&shard)?;
        *used = self.clock;
        Some(Arc::clone(open))
    }

    /// Adds a shard; the least recently used give way.
    fn put(&mut self, shard: usize, open: Arc<OpenShard>) {
        self.clock += 1;
        self.shards.insert(shard, (self.clock, open));
        while self.shards.len() > MAX_OPEN || (self.shards.len() > 1 && self.index_bytes() > MAX_INDEX_BYTES)
        {
            let oldest = self.shards.iter().min_by_key(|(_, (used, _))| *used).map(|(&shard, _)| shard);
            oldest.map(|shard| self.shards.remove(&shard));
        }
    }

    fn index_bytes(&self) -> usize {
        self.shards.values().map(|(_, open)| open.index.size()).sum()
    }
}

impl OpenShard {
    fn read(&self, sequence: u64, with_records: bool) -> Result<Piece, ShardError> {
        let failed = |fault| ShardError::new(self.reader.path(), fault);
        let index = &self.index;
        let slot =
            index.find(sequence).ok_or_else(|| failed(Fault::Index("a sequence of the plan is missing")))?;
        let span = |starts: &[u64]| (starts[slot], starts[slot + 1]);
        let (from, to) = span(&index.response_starts);
        let (prompt_from, prompt_to) = span(&index.prompt_starts);
        let (id_from, id_to) = span(&index.prompt_id_starts);
        let id = self.reader.small_tensor("prompt_ids", 1, id_from, id_to)?;
        let records_to = if with_records { to } else { from };
        Ok(Piece {
            example: index.example[slot],
            sample: index.sample[slot],
            prompt_id: String::from_utf8(id).map_err(|_| failed(Fault::Index("a prompt id is not UTF-8")))?,
            prompt: self.reader.small_tensor("prompt_tokens", 4, prompt_from, prompt_to)?,
            response: self.reader.small_tensor("response_tokens", 4, from, to)?,
            records: self.reader.tensor("records", self.reader.header().counts.stride, from, records_to)?,
        })
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
    }
    batch
}

fn ids(bytes: &[u8]) -> impl Iterator<Item = i32> {
    bytes.chunks_exact(4).map(|part| i32::from_le_bytes([part[0], part[1], part[2], part[3]]))
}
