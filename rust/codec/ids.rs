//! Increasing ids below a universe, by Elias–Fano: low bits as a column, high parts in unary.
//!
//! Id i sets bit `(id >> L) + i` of the unary part, so K ids take `K·L + K + ((V−1) >> L)` bits
//! whatever they are. For K = 64 and V = 151,936 that is 105.3 bytes; the floor log2 C(V,K) is 100.7.
//!
//! With `repeats`, ids may stay equal at the end: the last id repeated marks unused places, so that
//! a count of valid ids needs no bits of its own.

use super::bits::{BitReader, BitWriter};
use super::column;
use super::error::{DecodeError, EncodeError};

/// Sizes of the two parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdLayout {
    k: usize,
    universe: u32,
    low_bits: u32,
    repeats: bool,
}

impl IdLayout {
    /// `k` ids below `universe`, 1 ≤ k ≤ universe ≤ 2^31. Takes the smallest L of the smallest size.
    #[must_use]
    pub fn new(k: usize, universe: u32, repeats: bool) -> Self {
        let size = |low: u32| k * low as usize + ((universe - 1) >> low) as usize;
        let low_bits = (0..31).min_by_key(|&low| size(low)).unwrap_or(0);
        Self { k, universe, low_bits, repeats }
    }

    /// Ids are below this.
    #[must_use]
    pub fn universe(&self) -> u32 {
        self.universe
    }

    /// L, the bits of an id that are stored as they are.
    #[must_use]
    pub fn low_bits(&self) -> u32 {
        self.low_bits
    }

    /// Length of the unary part.
    #[must_use]
    pub fn high_bits(&self) -> usize {
        self.k + ((self.universe - 1) >> self.low_bits) as usize
    }

    /// Length of both parts.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.k * self.low_bits as usize + self.high_bits()
    }

    /// Checks order and range; returns how many ids come before the repeated end.
    pub fn check(&self, ids: &[u32]) -> Result<usize, EncodeError> {
        let mut count = ids.len();
        for (i, &id) in ids.iter().enumerate() {
            if id >= self.universe {
                return Err(EncodeError::IdBeyondVocabulary { id: i64::from(id), vocab_size: self.universe });
            }
            if i == 0 {
                continue;
            }
            let repeated = self.repeats && id == ids[i - 1];
            if repeated && count == ids.len() {
                count = i;
            }
            if !repeated && (id <= ids[i - 1] || i > count) {
                return Err(EncodeError::IdsNotIncreasing { at: i });
            }
        }
        Ok(count)
    }

    /// Writes checked ids.
    pub fn put(&self, writer: &mut BitWriter<'_>, ids: &[u32]) {
        column::put(writer, ids, self.low_bits);
        for (i, &id) in ids.iter().enumerate() {
            writer.set((id >> self.low_bits) as usize + i);
        }
        writer.skip(self.high_bits());
    }

    /// Reads ids and checks them; returns how many come before the repeated end.
    pub fn get(&self, reader: &mut BitReader<'_>, ids: &mut [u32]) -> Result<usize, DecodeError> {
        column::get(reader, ids, self.low_bits);
        let mut found = 0;
        let mut base = 0;
        while base < self.high_bits() {
            let mut word = reader.word(self.high_bits() - base);
            while word != 0 {
                let place = base + word.trailing_zeros() as usize;
                // A place below its rank cannot happen: each earlier one took a place of its own.
                let id = ids.get_mut(found).ok_or(DecodeError::WrongIdCount)?;
                *id |= ((place - found) as u32) << self.low_bits;
                found += 1;
                word &= word - 1;
            }
            base += 64;
        }
        if found != self.k {
            return Err(DecodeError::WrongIdCount);
        }
        self.check(ids).map_err(|error| match error {
            EncodeError::IdBeyondVocabulary { .. } => DecodeError::IdBeyondVocabulary,
            _ => DecodeError::IdsNotIncreasing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(layout: IdLayout, ids: &[u32]) -> Vec<u32> {
        let mut bytes = vec![0u8; layout.bits().div_ceil(8)];
        layout.put(&mut BitWriter::new(&mut bytes), ids);
        let mut back = vec![0u32; ids.len()];
        layout.get(&mut BitReader::new(&bytes), &mut back).unwrap();
        back
    }

    #[test]
    fn sizes_are_those_of_the_documentation() {
        assert_eq!(IdLayout::new(64, 151_936, false).bits(), 842);
        assert_eq!(IdLayout::new(16, 151_936, true).bits(), 242);
        assert_eq!(IdLayout::new(4, 151_936, true).bits(), 68);
    }

    #[test]
    fn every_subset_of_a_small_universe_comes_back() {
        for set in 1u32..1 << 10 {
            let ids: Vec<u32> = (0..10).filter(|i| set >> i & 1 == 1).collect();
            assert_eq!(round_trip(IdLayout::new(ids.len(), 10, false), &ids), ids);
        }
    }

    /// Traps 14: ids of more than 17 bits, and a largest id that is a power of two or one below.
    #[test]
    fn ids_at_powers_of_two_come_back() {
        for universe in [1u32 << 17, (1 << 17) + 1, 151_936, 262_144, 262_145, 1 << 31] {
            for last in [universe - 1, universe / 2] {
                let ids = [0, 1, last - 1, last];
                assert_eq!(round_trip(IdLayout::new(4, universe, false), &ids), ids);
            }
        }
    }

    #[test]
    fn order_and_range_are_checked() {
        let layout = IdLayout::new(3, 100, false);
        assert_eq!(layout.check(&[1, 2, 2]), Err(EncodeError::IdsNotIncreasing { at: 2 }));
        assert!(matches!(layout.check(&[1, 2, 100]), Err(EncodeError::IdBeyondVocabulary { .. })));
        let repeats = IdLayout::new(4, 100, true);
        assert_eq!(repeats.check(&[1, 2, 2, 2]), Ok(2));
        assert_eq!(repeats.check(&[1, 1, 2, 3]), Err(EncodeError::IdsNotIncreasing { at: 2 }));
    }
}
