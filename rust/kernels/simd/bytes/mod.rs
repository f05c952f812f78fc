//! Sixty-four lanes of bytes: what the codec does with the 64 ids and codes of a record.
//!
//! Written over [`ByteLanes`] and compiled once per level, like the kernels over `Simd`. A [`ByteLevel`] holds the
//! proof that this CPU has its instructions: only [`ByteLevel::at`] makes one.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use super::Level;

/// Lanes of a record.
pub(crate) const LANES: usize = 64;
/// A byte per lane.
pub(crate) type Bytes = [u8; LANES];
/// A word per lane.
pub(crate) type Words = [u32; LANES];

/// The steps that differ by instruction set.
pub(crate) trait ByteLanes: Copy {
    /// Byte `byte` of each word.
    fn bytes(self, words: &Words, byte: u32) -> Bytes;
    /// Bit i is bit `bit` of lane i.
    fn plane(self, lanes: &Bytes, bit: u32) -> u64;
    /// Bit i is bit `bit` of lane i, for records of up to sixteen ids.
    fn plane_of_sixteen(self, lanes: &[u8; 16], bit: u32) -> u16;
    /// Adds bit i of a plane to lane i, as its bit `bit`.
    fn spread(self, lanes: &mut Bytes, plane: u64, bit: u32);
    /// The places of the 64 ones in three words.
    fn places(self, words: [u64; 3]) -> Bytes;
    /// Whether each id is above the one before it; all are below 2^31.
    fn increasing(self, ids: &Words) -> bool;
    /// The largest and the smallest value, if all are finite and none is positive.
    fn extremes(self, values: &[f32; LANES]) -> Option<(f32, f32)>;
    /// The words in which id i sets bit (id >> `low_bits`) + i; all of these lie below `high_bits`, as id >> `low_bits`
    /// does below `high_bits` − 63.
    fn unary(self, ids: &Words, low_bits: u32, high_bits: u32) -> [u64; 3];
    /// top − step · c·(c + last) of every code c: the product is a whole number, exact in f32.
    fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; LANES]);
    /// Ids from (place − lane), their middle bits and their lowest eight; whether they are increasing.
    fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut Words) -> bool;
    /// f16 to f32, exact.
    fn to_single(self, half: u16) -> f32;
    /// f32 to f16, to the nearest.
    fn to_half(self, single: f32) -> u16;
}

/// Work that is compiled once per level.
pub(crate) trait ByteWork {
    /// What it returns.
    type Out;
    /// The work; must be `#[inline(always)]`, as must be all that it calls.
    fn run<L: ByteLanes>(self, lanes: L) -> Self::Out;
}

/// A level with the proof that this CPU can run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteLevel {
    Portable(portable::Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl ByteLevel {
    /// The best level up to `level`. Bytes need more of AVX-512 than the kernels do (VBMI and VBMI2): without them, AVX2.
    pub(crate) fn at(level: Level) -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if level >= Level::Avx512
                && let Some(proof) = avx512::Avx512::new()
            {
                return Self::Avx512(proof);
            }
            if level >= Level::Avx2
                && let Some(proof) = avx2::Avx2::new()
            {
                return Self::Avx2(proof);
            }
        }
        let _ = level;
        Self::Portable(portable::Portable)
    }

    /// Runs `work` compiled for this level.
    #[inline]
    pub(crate) fn run<W: ByteWork>(self, work: W) -> W::Out {
        match self {
            Self::Portable(lanes) => work.run(lanes),
            // SAFETY: the value is the proof that this CPU has the features which the entry point enables.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(lanes) => unsafe { avx2::enter(lanes, work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(lanes) => unsafe { avx512::enter(lanes, work) },
        }
    }
}

/// The number of each lane.
#[cfg(target_arch = "x86_64")]
const COUNT: Bytes = {
    let mut count = [0; LANES];
    let mut i = 0;
    while i < LANES {
        count[i] = i as u8;
        i += 1;
    }
    count
};

/// The places of the ones from a table by byte: eight are written at a time, and the next byte's ones cover what
/// was too many. Words count by themselves, so that only eight additions follow one another.
#[inline(always)]
fn places_by_table(words: [u64; 3]) -> Bytes {
    let mut places = [0u8; 128 + 8];
    let mut first = 0;
    for (w, word) in words.iter().enumerate() {
        let mut count = first;
        first += word.count_ones() as usize;
        for (i, byte) in word.to_le_bytes().into_iter().enumerate() {
            let offset = 0x0101_0101_0101_0101 * (64 * w + 8 * i) as u64;
            let eight = PLACES_OF_BYTE[byte as usize].wrapping_add(offset);
            // No more than 127, so that the place needs no check; of 64 ones none is ever beyond 64.
            let at = count & 127;
            places[at..at + 8].copy_from_slice(&eight.to_le_bytes());
            count += byte.count_ones() as usize;
        }
    }
    let mut all = [0; LANES];
    all.copy_from_slice(&places[..LANES]);
    all
}

/// For every byte the places of its ones, a byte each from the lowest on.
static PLACES_OF_BYTE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut count) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte] |= (bit as u64) << (8 * count);
                count += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests;
