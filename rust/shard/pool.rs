//! The cache of a reader of many shards: a few open files, and the checked frames of many more.
//!
//! A shuffled epoch asks for another shard with every sequence. Opening one costs its header, its table of
//! checksums and its index, some hundred times a sequence; to open it again costs one read.

use std::collections::HashMap;
use std::sync::Arc;

use super::index::Index;
use super::reader::{Frame, ShardReader};

/// Shards kept open. Threads of a process may each hold one more while they read it: together at most 64 files.
const MAX_OPEN: usize = 48;

/// Shards known, and the bytes of their frames and indices: memory does not grow with the cache.
const MAX_KNOWN: usize = 2048;
const MAX_BYTES: usize = 128 << 20;

pub(super) struct OpenShard {
    pub(super) reader: ShardReader,
    pub(super) index: Arc<Index>,
}

/// A shard that was open before.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) frame: Arc<Frame>,
    pub(super) index: Arc<Index>,
}

pub(super) enum Found {
    Open(Arc<OpenShard>),
    Known(Known),
    Nothing,
}

/// Every open shard is known too.
#[derive(Default)]
pub(super) struct Pool {
    open: HashMap<usize, (u64, Arc<OpenShard>)>,
    known: HashMap<usize, (u64, Known)>,
    bytes: usize,
    clock: u64,
}

impl Pool {
    pub(super) fn get(&mut self, shard: usize) -> Found {
        self.clock += 1;
        let Some((used, known)) = self.known.get_mut(&shard) else { return Found::Nothing };
        *used = self.clock;
        let Some((used, open)) = self.open.get_mut(&shard) else { return Found::Known(known.clone()) };
        *used = self.clock;
        Found::Open(Arc::clone(open))
    }

    /// Adds a shard; the least recently used are closed, or forgotten.
    pub(super) fn put(&mut self, shard: usize, open: &Arc<OpenShard>) {
        self.clock += 1;
        self.open.insert(shard, (self.clock, Arc::clone(open)));
        if self.open.len() > MAX_OPEN
            && let Some(shard) = oldest(&self.open)
        {
            self.open.remove(&shard);
        }
        let known = Known { frame: Arc::clone(open.reader.frame()), index: Arc::clone(&open.index) };
        self.bytes += known.size();
        if let Some((_, before)) = self.known.insert(shard, (self.clock, known)) {
            self.bytes -= before.size();
        }
        while self.known.len() > MAX_KNOWN || (self.bytes > MAX_BYTES && self.known.len() > 1) {
            if let Some(shard) = oldest(&self.known) {
                self.forget(shard);
            }
        }
    }

    fn forget(&mut self, shard: usize) {
        self.open.remove(&shard);
        if let Some((_, known)) = self.known.remove(&shard) {
            self.bytes -= known.size();
        }
    }
}

impl Known {
    fn size(&self) -> usize {
        self.frame.size() + self.index.size()
    }
}

fn oldest<T>(shards: &HashMap<usize, (u64, T)>) -> Option<usize> {
    shards.iter().min_by_key(|(_, (used, _))| *used).map(|(&shard, _)| shard)
}
