//! Sampled records of up to sixteen ids, fast: the same bytes as the plain codec's (`agreement.rs` compares them).
//!
//! A row goes through as arrays of sixteen lanes, in loops without a branch that the compiler turns into vectors. A
//! record is a few words, into which a plane of bits or a column of bytes is put as a whole. Everything else (ids out of
//! order, numbers that mean nothing, invalid records) is left to the plain codec, which names the error.
//!
//! ```text
//! encode:  weights → cells, levels below → codes → bit planes
//!          ids → low bytes, bit planes of the rest; 1 << place, OR-ed
//! decode:  planes → bytes of lanes, by a table of spread bytes;  places of the unary ones
//!          ids = (place − rank) << L | planes | low bytes
//! ```

use super::dither::Dither;
use super::ids::IdLayout;
use super::minifloat;
use super::sampled_row::{
    ENTROPY_BITS, ENTROPY_STEPS, FLOAT_BITS, LAST_CODE, Levels, SampledRow, SampledRowMut, WEIGHT_BITS,
    entropy_code, is_entropy, is_tau, is_weight, round_in_cell,
};
use crate::kernels::simd::bytes::{ByteLanes, ByteLevel, ByteWork};
use crate::kernels::simd::{self, Level};

const LANES: usize = 16;
type Lanes<T> = [T; LANES];

/// What the loops need to know of a layout, and the level that they run at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Few {
    level: ByteLevel,
    k: usize,
    vocab_size: u32,
    /// Bits of an id below its unary part.
    low_bits: u32,
    high_bits: u32,
}

impl Few {
    /// None where a layout has more ids, or a unary part of more than a word.
    pub(super) fn new(k: usize, ids: IdLayout) -> Option<Self> {
        (k <= LANES && ids.high_bits() <= 64).then(|| Self {
            level: ByteLevel::at(simd::level().unwrap_or(Level::Scalar)),
            k,
            vocab_size: ids.universe(),
            low_bits: ids.low_bits(),
            high_bits: ids.high_bits() as u32,
        })
    }

    pub(super) fn at_level(self, level: Level) -> Self {
        Self { level: ByteLevel::at(level), ..self }
    }

    /// Writes a record. False: this row is for the plain codec.
    pub(super) fn encode(&self, row: &SampledRow<'_>, dither: Dither, record: &mut [u8]) -> bool {
        self.level.run(Encode { few: self, row, dither, record })
    }

    /// Reads a record. False: this record is for the plain codec.
    pub(super) fn decode(&self, record: &[u8], row: &mut SampledRowMut<'_>) -> bool {
        self.level.run(Decode { few: self, record, row })
    }
}

struct Encode<'a> {
    few: &'a Few,
    row: &'a SampledRow<'a>,
    dither: Dither,
    record: &'a mut [u8],
}

impl ByteWork for Encode<'_> {
    type Out = bool;

    #[inline(always)]
    fn run<L: ByteLanes>(self, level: L) -> bool {
        let Self { few, row, dither, record } = self;
        let (k, count) = (few.k, row.count);
        if count == 0 || count > k || row.ids.len() != k || row.weights.len() != k {
            return false;
        }
        let last = row.ids[count - 1];
        let ids = lanes_of(row.ids, count, last);
        let weights = lanes_of(row.weights, count, row.tau);
        let is_valid = is_tau(row.tau) && is_entropy(row.entropy) && are_weights(&weights, row.tau);
        if last >= few.vocab_size || !increasing(&ids, count as u32) || !is_valid {
            return false;
        }
        let (levels, codes) = quantise(&weights, count as u32, row.tau, dither);
        let mut writer = Writer::default();
        let numbers = u64::from(levels.tau) | u64::from(levels.largest) << FLOAT_BITS;
        let entropy = entropy_code(row.entropy, dither.uniform(1));
        writer.put(numbers | u64::from(entropy) << (2 * FLOAT_BITS), 2 * FLOAT_BITS + ENTROPY_BITS);
        writer.planes(level, &codes, WEIGHT_BITS, k as u32);
        for byte in 0..few.low_bits / 8 {
            writer.bytes(&byte_of(&ids, 8 * byte), k as u32);
        }
        writer.planes(level, &byte_of(&ids, few.low_bits / 8 * 8), few.low_bits % 8, k as u32);
        let mut unary = 0;
        for (i, id) in ids.iter().enumerate() {
            unary |= u64::from((i as u32) < k as u32) << (((id >> few.low_bits) + i as u32) & 63);
        }
        writer.put(unary, few.high_bits);
        writer.end(record);
        true
    }
}

/// The first `count` of a row, and `fill` in the other lanes.
#[inline(always)]
fn lanes_of<T: Copy>(from: &[T], count: usize, fill: T) -> Lanes<T> {
    if let (Ok(all), LANES) = (<&Lanes<T>>::try_from(from), count) {
        return *all;
    }
    let mut lanes = [fill; LANES];
    for (lane, &value) in lanes.iter_mut().zip(&from[..count]) {
        *lane = value;
    }
    lanes
}

/// The id before each, as signed numbers: all below 2^31 are in order then, and −1 is below all.
#[inline(always)]
fn before(ids: &Lanes<u32>) -> Lanes<u32> {
    let mut before = [u32::MAX; LANES];
    before[1..].copy_from_slice(&ids[..LANES - 1]);
    before
}

/// Whether the first `count` increase; the others repeat the last one.
#[inline(always)]
fn increasing(ids: &Lanes<u32>, count: u32) -> bool {
    let before = before(ids);
    let mut wrong = 0;
    for i in 0..LANES {
        let least = before[i] as i32 + i32::from((i as u32) < count);
        wrong |= u32::from((ids[i] as i32) < least);
    }
    wrong == 0
}

#[inline(always)]
fn are_weights(weights: &Lanes<f32>, tau: f32) -> bool {
    weights.iter().fold(1, |good, &weight| good & u32::from(is_weight(weight, tau))) == 1
}

/// By halves: each step of a fold over the lanes would wait for the one before.
#[inline(always)]
fn largest_of(weights: &Lanes<f32>, tau: f32) -> f32 {
    let mut best = *weights;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            best[i] = if best[i + half] > best[i] { best[i + half] } else { best[i] };
        }
    }
    if tau > best[0] { tau } else { best[0] }
}

/// As `Rounding` of the plain codec, operation by operation.
#[inline(always)]
fn quantise(weights: &Lanes<f32>, count: u32, tau: f32, dither: Dither) -> (Levels, Lanes<u8>) {
    let uniform = dither.uniform(0);
    let largest = largest_of(weights, tau);
    let (tau_cell, largest_cell) = (minifloat::floor(tau), minifloat::floor(largest));
    let levels = Levels {
        tau: round_in_cell(tau, tau_cell, uniform),
        largest: round_in_cell(largest, largest_cell, uniform),
    };
    let scale = levels.scale();
    let mut snapped = [0.0; LANES];
    for i in 0..LANES {
        let cell = minifloat::floor(weights[i]);
        let rounded = minifloat::value(round_in_cell(weights[i], cell, uniform));
        snapped[i] = if cell == tau_cell || cell == largest_cell { rounded } else { weights[i] };
    }
    let mut uniforms = [0.0; LANES];
    for (i, of_lane) in uniforms.iter_mut().enumerate() {
        *of_lane = dither.uniform(2 + i as u64);
    }
    let mut above = [0u32; LANES];
    for code in 0..=LAST_CODE {
        let level = scale.weight(code);
        for i in 0..LANES {
            above[i] += u32::from(level <= snapped[i]);
        }
    }
    let mut codes = [0; LANES];
    for i in 0..LANES {
        let next = above[i].clamp(1, LAST_CODE);
        let (low, high) = (scale.weight(next - 1), scale.weight(next));
        let up = uniforms[i] * (high - low) < snapped[i] - low;
        let at_end = if snapped[i] <= scale.tau { 0 } else { LAST_CODE };
        let code = if next == above[i] { next - 1 + u32::from(up) } else { at_end };
        codes[i] = if (i as u32) < count { code as u8 } else { 0 };
    }
    (levels, codes)
}

/// Eight bits of each word from bit `shift` on.
#[inline(always)]
fn byte_of(words: &Lanes<u32>, shift: u32) -> Lanes<u8> {
    let mut bytes = [0; LANES];
    for i in 0..LANES {
        bytes[i] = (words[i] >> shift) as u8;
    }
    bytes
}

struct Decode<'a, 'b> {
    few: &'a Few,
    record: &'a [u8],
    row: &'a mut SampledRowMut<'b>,
}

impl ByteWork for Decode<'_, '_> {
    type Out = bool;

    #[inline(always)]
    fn run<L: ByteLanes>(self, _: L) -> bool {
        let Self { few, record, row } = self;
        let k = few.k;
        if row.ids.len() != k || row.weights.len() != k {
            return false;
        }
        let mut reader = Reader::new(record);
        let numbers = reader.get(2 * FLOAT_BITS + ENTROPY_BITS);
        let number = |shift: u32, width: u32| (numbers >> shift) as u32 & ((1 << width) - 1);
        let levels = Levels { tau: number(0, FLOAT_BITS), largest: number(FLOAT_BITS, FLOAT_BITS) };
        let codes = reader.planes(WEIGHT_BITS, k as u32);
        let mut ids = [0u32; LANES];
        for byte in 0..few.low_bits / 8 {
            add_bytes(&mut ids, reader.bytes(k as u32), 8 * byte);
        }
        add_bytes(&mut ids, reader.planes(few.low_bits % 8, k as u32), few.low_bits / 8 * 8);
        let mut unary = reader.get(few.high_bits);
        if levels.check().is_err() || unary.count_ones() as usize != k || !reader.rest_is_zero(record.len()) {
            return false;
        }
        for (i, id) in ids.iter_mut().enumerate() {
            *id |= unary.trailing_zeros().wrapping_sub(i as u32) << few.low_bits;
            unary &= unary.wrapping_sub(1);
        }
        let Some(count) = count_of(&ids, k as u32) else { return false };
        let (scale, codes) = (levels.scale(), codes.to_le_bytes());
        let mut unused_code = 0;
        let mut weights = [0.0; LANES];
        for i in 0..LANES {
            let (code, is_used) = (u32::from(codes[i]), (i as u32) < count);
            unused_code |= if is_used { 0 } else { code };
            weights[i] = if is_used { scale.weight(code) } else { 0.0 };
        }
        if unused_code != 0 || ids[k - 1] >= few.vocab_size {
            return false;
        }
        put_lanes(&ids, row.ids);
        put_lanes(&weights, row.weights);
        *row.count = count as i32;
        *row.tau = scale.tau;
        *row.entropy = number(2 * FLOAT_BITS, ENTROPY_BITS) as f32 / ENTROPY_STEPS;
        true
    }
}

#[inline(always)]
fn add_bytes(ids: &mut Lanes<u32>, bytes: u128, shift: u32) {
    let lanes = bytes.to_le_bytes();
    for i in 0..LANES {
        ids[i] |= u32::from(lanes[i]) << shift;
    }
}

#[inline(always)]
fn put_lanes<T: Copy>(lanes: &Lanes<T>, to: &mut [T]) {
    match <&mut Lanes<T>>::try_from(&mut *to) {
        Ok(all) => *all = *lanes,
        Err(_) => to.copy_from_slice(&lanes[..to.len()]),
    }
}

/// How many ids come before the repeated end; None where they do not increase up to there.
#[inline(always)]
fn count_of(ids: &Lanes<u32>, k: u32) -> Option<u32> {
    let before = before(ids);
    let mut repeated = 0;
    for i in 0..LANES {
        repeated += u32::from((i as u32) < k) & u32::from(ids[i] == before[i]);
    }
    let count = k - repeated;
    let mut wrong = 0;
    for i in 0..LANES {
        // Above the one before it up to the count, and the same from there on.
        let step = (ids[i] as i32).wrapping_sub(before[i] as i32);
        let is_right = if (i as u32) < count { step > 0 } else { step == 0 };
        wrong |= u32::from((i as u32) < k) & u32::from(!is_right);
    }
    (wrong == 0).then_some(count)
}

/// Room for a record: 44 + 16 · 4 + 16 · 30 + 64 bits, and a word to read or write beyond.
const ROOM: usize = 104;
/// Records of one to two times this many bytes are copied as two pieces that overlap: a call of memcpy costs more.
const PIECE: usize = 32;

#[inline(always)]
fn copy(from: &[u8], to: &mut [u8], length: usize) {
    if (PIECE..=2 * PIECE).contains(&length) {
        to[..PIECE].copy_from_slice(&from[..PIECE]);
        to[length - PIECE..length].copy_from_slice(&from[length - PIECE..length]);
    } else {
        to[..length].copy_from_slice(&from[..length]);
    }
}

/// Appends bits to a record, whole words at a time.
struct Writer {
    bytes: [u8; ROOM],
    /// Bytes that are complete, and the bits behind them.
    at: usize,
    open: u64,
    width: u32,
}

impl Default for Writer {
    #[inline(always)]
    fn default() -> Self {
        Self { bytes: [0; ROOM], at: 0, open: 0, width: 0 }
    }
}

impl Writer {
    /// Appends `bits`, of which those from `width` ≤ 64 on are zero.
    #[inline(always)]
    fn put(&mut self, bits: u64, width: u32) {
        self.open |= bits << self.width;
        let beyond = bits >> 1 >> (63 - self.width);
        self.width += width;
        // The same for every row of a layout.
        if self.width >= 64 {
            self.bytes[self.at..self.at + 8].copy_from_slice(&self.open.to_le_bytes());
            self.at += 8;
            self.open = beyond;
            self.width -= 64;
        }
    }

    /// A plane of k bits for each of the lowest `width` bits of the lanes: four planes fit into a word.
    #[inline(always)]
    fn planes<L: ByteLanes>(&mut self, level: L, lanes: &Lanes<u8>, width: u32, k: u32) {
        for first in (0..width).step_by(4) {
            let mut word = 0;
            for bit in first..width.min(first + 4) {
                word |= (u64::from(level.plane_of_sixteen(lanes, bit)) & low_mask(k)) << (k * (bit - first));
            }
            self.put(word, k * (width - first).min(4));
        }
    }

    /// The bytes of the first k lanes.
    #[inline(always)]
    fn bytes(&mut self, lanes: &Lanes<u8>, k: u32) {
        let (low, high) = halves(lanes);
        let (first, second) = (8 * k.min(8), 8 * k.saturating_sub(8));
        self.put(low & low_mask(first), first);
        self.put(high & low_mask(second), second);
    }

    #[inline(always)]
    fn end(mut self, record: &mut [u8]) {
        self.bytes[self.at..self.at + 8].copy_from_slice(&self.open.to_le_bytes());
        copy(&self.bytes, record, record.len());
    }
}

/// Reads what [`Writer`] wrote.
struct Reader {
    bytes: [u8; ROOM],
    at: usize,
}

impl Reader {
    #[inline(always)]
    fn new(record: &[u8]) -> Self {
        let mut bytes = [0; ROOM];
        copy(record, &mut bytes, record.len());
        Self { bytes, at: 0 }
    }

    /// The next `width` ≤ 64 bits.
    #[inline(always)]
    fn get(&mut self, width: u32) -> u64 {
        let mut sixteen = [0; 16];
        let first = self.at / 8;
        sixteen.copy_from_slice(&self.bytes[first..first + 16]);
        let bits = u128::from_le_bytes(sixteen) >> (self.at % 8);
        self.at += width as usize;
        bits as u64 & low_mask(width)
    }

    /// A byte for each lane, from planes of k bits.
    #[inline(always)]
    fn planes(&mut self, width: u32, k: u32) -> u128 {
        let (mut low, mut high) = (0, 0);
        for first in (0..width).step_by(4) {
            let mut word = self.get(k * (width - first).min(4));
            for bit in first..width.min(first + 4) {
                low |= SPREAD[(word & low_mask(k)) as usize & 0xff] << bit;
                high |= SPREAD[(word & low_mask(k)) as usize >> 8 & 0xff] << bit;
                word >>= k;
            }
        }
        u128::from(high) << 64 | u128::from(low)
    }

    /// The bytes of the first k lanes.
    #[inline(always)]
    fn bytes(&mut self, k: u32) -> u128 {
        let low = self.get(8 * k.min(8));
        u128::from(low) | u128::from(self.get(8 * k.saturating_sub(8))) << 64
    }

    /// Whether the bits between the cursor and the end of the record are zero: fewer than eight.
    #[inline(always)]
    fn rest_is_zero(&mut self, stride: usize) -> bool {
        self.get((8 * stride - self.at) as u32) == 0
    }
}

#[inline(always)]
fn low_mask(width: u32) -> u64 {
    if width == 0 { 0 } else { u64::MAX >> (64 - width) }
}

#[inline(always)]
fn halves(lanes: &Lanes<u8>) -> (u64, u64) {
    let both = u128::from_le_bytes(*lanes);
    (both as u64, (both >> 64) as u64)
}

/// For every byte eight bytes, of which byte i is bit i.
static SPREAD: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut bit = 0;
        while bit < 8 {
            table[byte] |= ((byte as u64) >> bit & 1) << (8 * bit);
            bit += 1;
        }
        byte += 1;
    }
    table
};
