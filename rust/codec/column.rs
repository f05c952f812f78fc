//! K numbers of w bits each: whole bytes as byte arrays, the remaining w mod 8 bits as bit planes.
//!
//! Plane j holds bit j of every number, number i at place i. For K = 64 a plane is one machine word,
//! which SIMD turns into 64 lanes (and back) in one instruction, where packed 11-bit fields take many.

use super::bits::{BitReader, BitWriter};

/// Writes the low `width` bits of each value.
pub(super) fn put(writer: &mut BitWriter<'_>, values: &[u32], width: u32) {
    let mut shift = 0;
    while shift + 8 <= width {
        for part in values.chunks(4) {
            let gather = |word: u32, (i, &value): (usize, &u32)| word | ((value >> shift) & 0xff) << (8 * i);
            writer.put(part.iter().enumerate().fold(0, gather), 8 * part.len() as u32);
        }
        shift += 8;
    }
    for bit in shift..width {
        for part in values.chunks(32) {
            let gather = |word: u32, (i, &value): (usize, &u32)| word | ((value >> bit) & 1) << i;
            writer.put(part.iter().enumerate().fold(0, gather), part.len() as u32);
        }
    }
}

/// Reads a column into `values`.
pub(super) fn get(reader: &mut BitReader<'_>, values: &mut [u32], width: u32) {
    values.fill(0);
    let mut shift = 0;
    while shift + 8 <= width {
        for part in values.chunks_mut(4) {
            let word = reader.get(8 * part.len() as u32);
            for (i, value) in part.iter_mut().enumerate() {
                *value |= ((word >> (8 * i)) & 0xff) << shift;
            }
        }
        shift += 8;
    }
    for bit in shift..width {
        for part in values.chunks_mut(32) {
            let word = reader.get(part.len() as u32);
            for (i, value) in part.iter_mut().enumerate() {
                *value |= ((word >> i) & 1) << bit;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_any_width_comes_back() {
        for width in 0..=20u32 {
            for k in [1usize, 3, 8, 64, 65] {
                let values: Vec<u32> =
                    (0..k as u32).map(|i| i.wrapping_mul(0x9e37_79b9) & ((1 << width) - 1)).collect();
                let mut bytes = vec![0u8; (k * width as usize).div_ceil(8)];
                put(&mut BitWriter::new(&mut bytes), &values, width);
                let mut back = vec![0u32; k];
                get(&mut BitReader::new(&bytes), &mut back, width);
                assert_eq!(back, values);
            }
        }
    }
}
