//! The arrays that say where in a shard each sequence stands.

use super::error::Fault;
use super::header::Header;

/// Places of all sequences of one shard, by slot: the order of storage.
#[derive(Debug)]
pub struct Index {
    pub sequence: Vec<u64>,
    pub example: Vec<u64>,
    pub sample: Vec<u64>,
    pub response_starts: Vec<u64>,
    pub prompt_starts: Vec<u64>,
    pub prompt_id_starts: Vec<u64>,
    /// Slots in the order of `sequence`: to find a sequence by its number.
    order: Vec<u32>,
}

impl Index {
    /// Reads and checks the arrays from their bytes: the part of the file from `sequence` up to the
    /// response tokens.
    pub fn from_bytes(header: &Header, bytes: &[u8]) -> Result<Self, Fault> {
        let first = header.tensor("sequence").start;
        let array = |name: &str| {
            let tensor = header.tensor(name);
            let part = &bytes[(tensor.start - first) as usize..(tensor.end - first) as usize];
            numbers(part).ok_or(Fault::Index("a negative number"))
        };
        let sequence = array("sequence")?;
        let mut order: Vec<u32> = (0..sequence.len() as u32).collect();
        order.sort_unstable_by_key(|&slot| sequence[slot as usize]);
        let index = Self {
            example: array("example")?,
            sample: array("sample")?,
            response_starts: array("response_starts")?,
            prompt_starts: array("prompt_starts")?,
            prompt_id_starts: array("prompt_id_starts")?,
            sequence,
            order,
        };
        index.check(header)?;
        Ok(index)
    }

    /// Bytes that it occupies in memory.
    pub fn size(&self) -> usize {
        self.sequence.len() * 52
    }

    /// The slot of a sequence.
    pub fn find(&self, sequence: u64) -> Option<usize> {
        let place = self.order.binary_search_by_key(&sequence, |&slot| self.sequence[slot as usize]).ok()?;
        Some(self.order[place] as usize)
    }

    fn check(&self, header: &Header) -> Result<(), Fault> {
        let counts = &header.counts;
        let spans = |starts: &[u64], end: u64, least: u64| {
            starts[0] == 0
                && starts[starts.len() - 1] == end
                && starts.windows(2).all(|pair| pair[0] + least <= pair[1])
        };
        if !spans(&self.response_starts, counts.tokens, 1) {
            return Err(Fault::Index("responses do not fill the records"));
        }
        if !spans(&self.prompt_starts, counts.prompt_tokens, 1) {
            return Err(Fault::Index("prompts do not fill their tokens"));
        }
        if !spans(&self.prompt_id_starts, counts.prompt_id_bytes, 0) {
            return Err(Fault::Index("prompt ids do not fill their bytes"));
        }
        let number = |slot: &u32| self.sequence[*slot as usize];
        if self.order.windows(2).any(|pair| number(&pair[0]) == number(&pair[1])) {
            return Err(Fault::Index("a sequence stands twice"));
        }
        Ok(())
    }
}

/// Little-endian I64 that must not be negative, nor so large that adding one would overflow.
fn numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut all = Vec::with_capacity(bytes.len() / 8);
    for part in bytes.chunks_exact(8) {
        let value = part.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        if value >= 1 << 62 {
            return None;
        }
        all.push(value);
    }
    Some(all)
}
