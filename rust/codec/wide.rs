//! Records of 64 ids, fast: the same bytes as the plain codec's (`agreement.rs` compares them).
//!
//! A row goes through as arrays of 64 lanes, whose steps are those of `kernels::simd::bytes`. Everything
//! else (ids out of order, numbers that are not finite, invalid records) is left to the plain codec, which names the error.
//!
//! ```text
//! encode:  ids → low bytes, bit planes of the rest; places of the unary ones → OR of 1 << place
//!          log-probs → top, range → codes
//! decode:  unary words → places of their ones
//!          ids = (place − rank) << L | planes | low bytes
//! ```

use super::shape::{MOST_RANGE, TopKRow, TopKRowMut, TopKShape};
use crate::kernels::simd::bytes::{ByteLanes, ByteLevel, ByteWork, Bytes, LANES as K, Words};
use crate::kernels::simd::{self, Level};

/// What the loops need to know of a layout, and the level that they run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    level: ByteLevel,
    vocab_size: u32,
    /// Bits of an id below its unary part: 8 to 15.
    low_bits: u32,
    high_bits: u32,
    value_bits: u32,
    /// Bytes of the scalars at the beginning of a record.
    scalar_bytes: usize,
    has_tail: bool,
}

impl Wide {
    /// None where a layout has another shape than these loops.
    pub(super) fn new(shape: &TopKShape) -> Option<Self> {
        let ids = shape.ids;
        let fits = shape.k == K && (8..16).contains(&ids.low_bits()) && ids.high_bits() <= 192;
        fits.then(|| Self {
            // A THACK_SIMD that means nothing is refused where kernels run; bytes are the same at every level.
            level: ByteLevel::at(simd::level().unwrap_or(Level::Scalar)),
            vocab_size: ids.universe(),
            low_bits: ids.low_bits(),
            high_bits: ids.high_bits() as u32,
            value_bits: shape.value_bits,
            scalar_bytes: shape.scalar_bytes(),
            has_tail: shape.has_tail,
        })
    }

    /// Codes, low bytes and planes, between the scalars and the unary part.
    #[inline(always)]
    fn column_bytes(&self) -> usize {
        K / 8 * (self.value_bits + self.low_bits) as usize
    }

    pub(super) fn at_level(self, level: Level) -> Self {
        Self { level: ByteLevel::at(level), ..self }
    }

    /// Writes all of a record but the log-tails at temperatures. False: this row is for the plain codec.
    pub(super) fn encode(&self, row: &TopKRow<'_>, record: &mut [u8]) -> bool {
        let (Ok(ids), Ok(values)) = (row.ids.try_into(), row.log_probs.try_into()) else { return false };
        self.level.run(Encode { wide: self, ids, values, tail: row.log_tail, record })
    }

    /// Reads all of a record but the log-tails at temperatures. False: this record is for the plain codec.
    pub(super) fn decode(&self, record: &[u8], row: &mut TopKRowMut<'_>) -> bool {
        let Ok(ids) = <&mut Words>::try_from(&mut *row.ids) else { return false };
        let Ok(values) = <&mut [f32; K]>::try_from(&mut *row.log_probs) else { return false };
        self.level.run(Decode { wide: self, record, ids, values, tail: row.log_tail })
    }
}

struct Encode<'a> {
    wide: &'a Wide,
    ids: &'a Words,
    values: &'a [f32; K],
    tail: f32,
    record: &'a mut [u8],
}

impl ByteWork for Encode<'_> {
    type Out = bool;

    #[inline(always)]
    fn run<L: ByteLanes>(self, lanes: L) -> bool {
        let Self { wide, ids, values, tail, record } = self;
        // Ids are compared as signed: the first and the last below V keep the rest so.
        let ordered = lanes.increasing(ids);
        if ids[0] >= wide.vocab_size || ids[K - 1] >= wide.vocab_size || !ordered {
            return false;
        }
        let Some(scale) = Scale::of(lanes, values) else { return false };
        let codes = quantise(lanes, values, &scale, wide.value_bits);
        record[..2].copy_from_slice(&scale.top_half.to_le_bytes());
        record[2..4].copy_from_slice(&scale.range_half.to_le_bytes());
        if wide.has_tail {
            if !(tail <= 0.0) {
                return false;
            }
            record[4..6].copy_from_slice(&lanes.to_half(tail).to_le_bytes());
        }
        let mut writer = Writer { bytes: &mut record[wide.scalar_bytes..] };
        if wide.value_bits == 8 {
            writer.put(&codes);
        } else {
            writer.planes(lanes, &codes, wide.value_bits);
        }
        writer.put(&lanes.bytes(ids, 0));
        writer.planes(lanes, &lanes.bytes(ids, 1), wide.low_bits - 8);
        writer.end(lanes.unary(ids, wide.low_bits, wide.high_bits), wide.high_bits);
        true
    }
}

/// Top and range of a row, as numbers and as f16.
struct Scale {
    top: f32,
    range: f32,
    top_half: u16,
    range_half: u16,
}

impl Scale {
    /// None where a value is not a finite log-probability, or the range is too large for f16.
    #[inline(always)]
    fn of<L: ByteLanes>(lanes: L, values: &[f32; K]) -> Option<Self> {
        let (top, low) = lanes.extremes(values)?;
        let top_half = lanes.to_half(if top < 0.0 { top } else { 0.0 });
        let top = lanes.to_single(top_half);
        let reach = if top - low > 0.0 { top - low } else { 0.0 };
        let reach = if reach < MOST_RANGE { reach } else { MOST_RANGE };
        let nearest = lanes.to_half(reach);
        let range_half = nearest + u16::from(lanes.to_single(nearest) < reach);
        (range_half < INFINITE).then(|| Self {
            top,
            range: lanes.to_single(range_half),
            top_half,
            range_half,
        })
    }
}

/// As `Scale::quantise` of the plain codec, operation by operation.
#[inline(always)]
fn quantise<L: ByteLanes>(lanes: L, values: &[f32; K], scale: &Scale, value_bits: u32) -> Bytes {
    let inverse = if scale.range > 0.0 { 2.0 / scale.range } else { 0.0 };
    let steps = ((1u32 << value_bits) - 1) as f32;
    let mut words = [0u32; K];
    for (word, &value) in words.iter_mut().zip(values) {
        let doubled = (scale.top - value) * inverse;
        let doubled = if doubled > 0.0 { doubled } else { 0.0 };
        let doubled = if doubled < 2.0 { doubled } else { 2.0 };
        let scaled = ((doubled + 0.25).sqrt() - 0.5) * steps;
        let scaled = if scaled < steps { scaled } else { steps };
        // 2^23 moves the nearest integer into the lowest bits.
        *word = (scaled + 8_388_608.0).to_bits();
    }
    lanes.bytes(&words, 0)
}

struct Decode<'a> {
    wide: &'a Wide,
    record: &'a [u8],
    ids: &'a mut Words,
    values: &'a mut [f32; K],
    tail: &'a mut f32,
}

impl ByteWork for Decode<'_> {
    type Out = bool;

    #[inline(always)]
    fn run<L: ByteLanes>(self, lanes: L) -> bool {
        let Self { wide, record, ids, values, tail } = self;
        let half = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
        let (top, range) = (half(0), half(2));
        // A negative range says that there are −inf in the row.
        if range >= INFINITE || top & !NEGATIVE >= INFINITE || (top & NEGATIVE == 0 && top != 0) {
            return false;
        }
        if wide.has_tail {
            *tail = lanes.to_single(half(4));
            if !(*tail <= 0.0) {
                return false;
            }
        }
        let (columns, unary) = record[wide.scalar_bytes..].split_at(wide.column_bytes());
        let Some(words) = unary_words(unary, wide.high_bits) else { return false };
        let mut reader = Reader { bytes: columns };
        let codes = if wide.value_bits == 8 { reader.lanes() } else { reader.planes(lanes, wide.value_bits) };
        let last = (1u32 << wide.value_bits) - 1;
        let step = lanes.to_single(range) / (2 * last * last) as f32;
        lanes.restore(&codes, lanes.to_single(top), step, last as f32, values);
        let low = reader.lanes();
        let middle = reader.planes(lanes, wide.low_bits - 8);
        let increasing = lanes.assemble(&lanes.places(words), &middle, &low, wide.low_bits, ids);
        increasing && ids[K - 1] < wide.vocab_size
    }
}

/// f16's sign, and its infinity: larger bits are NaN or negative.
const NEGATIVE: u16 = 0x8000;
const INFINITE: u16 = 0x7c00;

/// Copies 8 to 24 bytes, eight at a time and some twice: a call of memcpy costs more.
#[inline(always)]
fn copy_end(from: &[u8], to: &mut [u8], length: usize) {
    to[..8].copy_from_slice(&from[..8]);
    if length >= 16 {
        to[8..16].copy_from_slice(&from[8..16]);
    }
    to[length - 8..length].copy_from_slice(&from[length - 8..length]);
}

struct Writer<'a> {
    bytes: &'a mut [u8],
}

impl Writer<'_> {
    #[inline(always)]
    fn put(&mut self, part: &[u8]) {
        let (to, rest) = std::mem::take(&mut self.bytes).split_at_mut(part.len());
        to.copy_from_slice(part);
        self.bytes = rest;
    }

    #[inline(always)]
    fn planes<L: ByteLanes>(&mut self, lanes: L, of: &Bytes, count: u32) {
        for bit in 0..count {
            self.put(&lanes.plane(of, bit).to_le_bytes());
        }
    }

    /// The unary part, which is the last.
    #[inline(always)]
    fn end(self, words: [u64; 3], high_bits: u32) {
        let mut bytes = [0; 24];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        copy_end(&bytes, self.bytes, (high_bits as usize).div_ceil(8));
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    #[inline(always)]
    fn lanes(&mut self) -> Bytes {
        let (part, rest) = self.bytes.split_at(K);
        self.bytes = rest;
        let mut lanes = [0; K];
        lanes.copy_from_slice(part);
        lanes
    }

    #[inline(always)]
    fn planes<L: ByteLanes>(&mut self, lanes: L, count: u32) -> Bytes {
        let mut all = [0; K];
        for bit in 0..count {
            let (part, rest) = self.bytes.split_at(8);
            self.bytes = rest;
            let mut word = [0; 8];
            word.copy_from_slice(part);
            lanes.spread(&mut all, u64::from_le_bytes(word), bit);
        }
        all
    }
}

/// The words of the unary part, if it has 64 ones and nothing after them.
#[inline(always)]
fn unary_words(part: &[u8], high_bits: u32) -> Option<[u64; 3]> {
    let mut bytes = [0; 24];
    copy_end(part, &mut bytes, (high_bits as usize).div_ceil(8));
    let words: [u64; 3] = std::array::from_fn(|i| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[8 * i..8 * i + 8]);
        u64::from_le_bytes(word)
    });
    let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
    let word = (high_bits / 64) as usize;
    let beyond = words.get(word).map_or(0, |last| last >> (high_bits % 64))
        | words.iter().skip(word + 1).fold(0, |any, word| any | word);
    (ones == K as u32 && beyond == 0).then_some(words)
}
