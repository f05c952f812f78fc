//! Chunks that were read last, checked: a few chunks hold the tokens and names of many sequences.

use std::sync::{Arc, Mutex, PoisonError};

use super::checksum::CHUNK;
use super::error::Fault;

/// Chunks kept per shard: 256 KiB, or 16 MiB over all shards that may be open.
const KEPT: usize = 16;

/// The most recent first.
#[derive(Default)]
pub(super) struct Recent(Mutex<Vec<(u64, Arc<[u8]>)>>);

impl Recent {
    /// Bytes `start..end` of the file; `read` gives a whole chunk that is not kept.
    pub(super) fn bytes(
        &self,
        start: u64,
        end: u64,
        read: impl Fn(u64) -> Result<Vec<u8>, Fault>,
    ) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity((end - start) as usize);
        let mut at = start;
        while at < end {
            let number = at / CHUNK as u64;
            let chunk = self.chunk(number, &read)?;
            let base = number * CHUNK as u64;
            let stop = end.min(base + CHUNK as u64);
            bytes.extend_from_slice(&chunk[(at - base) as usize..(stop - base) as usize]);
            at = stop;
        }
        Ok(bytes)
    }

    fn chunk(&self, number: u64, read: impl Fn(u64) -> Result<Vec<u8>, Fault>) -> Result<Arc<[u8]>, Fault> {
        if let Some(found) = self.find(number) {
            return Ok(found);
        }
        let chunk: Arc<[u8]> = read(number)?.into();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.truncate(KEPT - 1);
        kept.insert(0, (number, Arc::clone(&chunk)));
        Ok(chunk)
    }

    fn find(&self, number: u64) -> Option<Arc<[u8]>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(at, _)| *at == number)?;
        kept[..=place].rotate_right(1);
        Some(Arc::clone(&kept[0].1))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn bytes_are_those_of_the_file_and_repeats_are_not_read() {
        let file: Vec<u8> = (0..100 * CHUNK).map(|i| (i % 253) as u8).collect();
        let (recent, reads) = (Recent::default(), Cell::new(0));
        let read = |chunk: u64| {
            reads.set(reads.get() + 1);
            Ok(file[chunk as usize * CHUNK..][..CHUNK].to_vec())
        };
        for (start, end) in [(0, 5), (3, CHUNK + 1), (CHUNK, CHUNK), (7 * CHUNK - 1, 9 * CHUNK + 1)] {
            let found = recent.bytes(start as u64, end as u64, read).unwrap();
            assert_eq!(found, file[start..end]);
        }
        assert_eq!(reads.get(), 6);
        for chunk in 20..20 + KEPT as u64 {
            recent.bytes(chunk * CHUNK as u64, chunk * CHUNK as u64 + 1, read).unwrap();
        }
        assert_eq!(recent.0.lock().unwrap().len(), KEPT);
        recent.bytes(0, 1, read).unwrap();
        assert_eq!(reads.get(), 7 + KEPT);
    }
}
