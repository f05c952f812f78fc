//! Plain Rust: eight lanes in a 64-bit register, and loops for the compiler to vectorise.

use half::f16;

use super::{ByteLanes, Bytes, LANES, Words, places_by_table};

/// What every machine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portable;

const ONES: u64 = 0x0101_0101_0101_0101;

/// Bit `bit` of each of eight bytes: the product moves bit 0 of byte j to bit 56 + j.
#[inline(always)]
fn gathered(bytes: u64, bit: u32) -> u64 {
    ((bytes >> bit) & ONES).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

impl ByteLanes for Portable {
    #[inline(always)]
    fn bytes(self, words: &Words, byte: u32) -> Bytes {
        std::array::from_fn(|i| (words[i] >> (8 * byte)) as u8)
    }

    #[inline(always)]
    fn plane(self, lanes: &Bytes, bit: u32) -> u64 {
        let mut plane = 0;
        for (i, part) in lanes.chunks_exact(8).enumerate() {
            let word = part.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
            plane |= gathered(word, bit) << (8 * i);
        }
        plane
    }

    #[inline(always)]
    fn plane_of_sixteen(self, lanes: &[u8; 16], bit: u32) -> u16 {
        let both = u128::from_le_bytes(*lanes);
        (gathered(both as u64, bit) | gathered((both >> 64) as u64, bit) << 8) as u16
    }

    #[inline(always)]
    fn spread(self, lanes: &mut Bytes, plane: u64, bit: u32) {
        for (i, part) in lanes.chunks_exact_mut(8).enumerate() {
            let eight = ((plane >> (8 * i)) & 0xff).wrapping_mul(ONES) & 0x8040_2010_0804_0201;
            let spread = (((eight + 0x7f7f_7f7f_7f7f_7f7f) | eight) >> 7 & ONES) << bit;
            for (lane, byte) in part.iter_mut().zip(spread.to_le_bytes()) {
                *lane |= byte;
            }
        }
    }

    #[inline(always)]
    fn places(self, words: [u64; 3]) -> Bytes {
        places_by_table(words)
    }

    #[inline(always)]
    fn increasing(self, ids: &Words) -> bool {
        ids.windows(2).fold(0, |wrong, pair| wrong | u32::from(pair[1] <= pair[0])) == 0
    }

    #[inline(always)]
    fn extremes(self, values: &[f32; LANES]) -> Option<(f32, f32)> {
        let (mut tops, mut lows, mut wrong) = ([f32::NEG_INFINITY; 16], [f32::INFINITY; 16], [0u32; 16]);
        for part in values.chunks_exact(16) {
            for i in 0..16 {
                wrong[i] |= u32::from(!(f32::MIN..=0.0).contains(&part[i]));
                tops[i] = if part[i] > tops[i] { part[i] } else { tops[i] };
                lows[i] = if part[i] < lows[i] { part[i] } else { lows[i] };
            }
        }
        let top = tops.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let low = lows.iter().fold(f32::INFINITY, |a, &b| if b < a { b } else { a });
        (wrong == [0; 16]).then_some((top, low))
    }

    #[inline(always)]
    fn unary(self, ids: &Words, low_bits: u32, _high_bits: u32) -> [u64; 3] {
        // A byte per place, gathered eight at a time: no chain through three words in memory.
        let mut ones = [0u8; 256];
        for (i, &id) in ids.iter().enumerate() {
            ones[((id >> low_bits) as usize + i) & 255] = 1;
        }
        std::array::from_fn(|w| {
            let mut lanes = [0; LANES];
            lanes.copy_from_slice(&ones[LANES * w..LANES * (w + 1)]);
            self.plane(&lanes, 0)
        })
    }

    #[inline(always)]
    fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; LANES]) {
        for (value, &code) in values.iter_mut().zip(codes) {
            let code = f32::from(code);
            *value = top - step * (code * (code + last));
        }
    }

    #[inline(always)]
    fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut Words) -> bool {
        for i in 0..LANES {
            let high = u32::from(places[i].wrapping_sub(i as u8));
            ids[i] = high << low_bits | u32::from(middle[i]) << 8 | u32::from(low[i]);
        }
        self.increasing(ids)
    }

    #[inline(always)]
    fn to_single(self, half: u16) -> f32 {
        f16::from_bits(half).to_f32()
    }

    #[inline(always)]
    fn to_half(self, single: f32) -> u16 {
        f16::from_f32(single).to_bits()
    }
}
