//! The arrays that say where in a shard each sequence is.

use super::error::Fault;
use super::header::Header;

/// Numbers of one kind, one per sequence: in 4 bytes each where they all fit, since those of many shards are kept.
#[derive(Debug)]
pub enum Column {
    Narrow(Vec<u32>),
    Wide(Vec<u64>),
}

impl Column {
    #[must_use]
    pub fn get(&self, place: usize) -> u64 {
        match self {
            Self::Narrow(numbers) => u64::from(numbers[place]),
            Self::Wide(numbers) => numbers[place],
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(numbers) => numbers.len(),
            Self::Wide(numbers) => numbers.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = u64> {
        (0..self.len()).map(|place| self.get(place))
    }

    fn size(&self) -> usize {
        match self {
            Self::Narrow(numbers) => 4 * numbers.len(),
            Self::Wide(numbers) => 8 * numbers.len(),
        }
    }
}

/// Places of all sequences of one shard, by slot: the order of storage.
#[derive(Debug)]
pub struct Index {
    pub sequence: Column,
    pub example: Column,
    pub sample: Column,
    pub response_starts: Column,
    pub prompt_starts: Column,
    pub prompt_id_starts: Column,
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
        order.sort_unstable_by_key(|&slot| sequence.get(slot as usize));
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
        let columns = [&self.sequence, &self.example, &self.sample];
        let starts = [&self.response_starts, &self.prompt_starts, &self.prompt_id_starts];
        columns.into_iter().chain(starts).map(Column::size).sum::<usize>() + 4 * self.order.len()
    }

    /// The slot of a sequence.
    pub fn find(&self, sequence: u64) -> Option<usize> {
        let place =
            self.order.binary_search_by_key(&sequence, |&slot| self.sequence.get(slot as usize)).ok()?;
        Some(self.order[place] as usize)
    }

    fn check(&self, header: &Header) -> Result<(), Fault> {
        let counts = &header.counts;
        let spans = |starts: &Column, end: u64, least: u64| {
            starts.get(0) == 0
                && starts.get(starts.len() - 1) == end
                && starts.iter().zip(starts.iter().skip(1)).all(|(start, next)| start + least <= next)
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
        let number = |slot: &u32| self.sequence.get(*slot as usize);
        if self.order.windows(2).any(|pair| number(&pair[0]) == number(&pair[1])) {
            return Err(Fault::Index("a sequence occurs twice"));
        }
        Ok(())
    }
}

/// Little-endian I64 that must not be negative, nor so large that adding one would overflow.
fn numbers(bytes: &[u8]) -> Option<Column> {
    let values = || {
        let wide = |part: &[u8]| part.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        bytes.chunks_exact(8).map(wide)
    };
    let largest = values().max().unwrap_or(0);
    match u32::try_from(largest) {
        Ok(_) => Some(Column::Narrow(values().map(|value| value as u32).collect())),
        Err(_) if largest < 1 << 62 => Some(Column::Wide(values().collect())),
        Err(_) => None,
    }
}
