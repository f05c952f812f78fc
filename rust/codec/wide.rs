//! Records of 64 ids, fast: the same bytes as the plain codec's, checked against it in the tests.
//!
//! A row goes through as arrays of 64 lanes. What is out of the ordinary (ids out of order, numbers that
//! are not finite, bytes that are no record) is left to the plain codec, which says what is wrong.
//!
//! ```text
//! encode:  ids → low bytes, bit planes of the rest; places of the unary ones → OR of 1 << place
//!          log-probs → top, range → codes
//! decode:  unary words → places of their ones, by compressing 0, 1, 2, … under the word as a mask
//!          ids = (place − rank) << L | planes | low bytes
//! ```
//!
//! With AVX-512 a bit plane is one test or one masked broadcast and a word's places one compression;
//! elsewhere eight lanes at a time in a 64-bit register, and places from a table by byte. Loops without
//! a name of their own are written for the compiler to vectorise.
#![allow(unsafe_code, reason = "instruction sets are chosen at run time; each block says why it may")]
#![allow(
    clippy::inline_always,
    reason = "a step has to be compiled with the features of the loop it stands in"
)]

use std::sync::OnceLock;

use half::f16;

use super::topk::{TopKLayout, TopKRow, TopKRowMut};

const K: usize = 64;
type Bytes = [u8; K];

/// What the loops need to know of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wide {
    vocab_size: u32,
    /// Bits of an id below its unary part: 8 to 15.
    low_bits: u32,
    high_bits: u32,
    value_bits: u32,
    /// Bytes of the scalars at the head of a record.
    head: usize,
    has_tail: bool,
}

impl Wide {
    /// None where a layout has another shape than these loops.
    pub(super) fn new(layout: &TopKLayout) -> Option<Self> {
        let ids = layout.ids();
        let fits = layout.k() == K && (8..16).contains(&ids.low_bits()) && ids.high_bits() <= 192;
        fits.then(|| Self {
            vocab_size: ids.universe(),
            low_bits: ids.low_bits(),
            high_bits: ids.high_bits() as u32,
            value_bits: layout.value_bits(),
            head: layout.head_bytes(),
            has_tail: layout.has_tail(),
        })
    }

    /// Writes all of a record but the log-tails at temperatures. False: nothing is said about the row.
    pub(super) fn encode(&self, row: &TopKRow<'_>, record: &mut [u8]) -> bool {
        let (Ok(ids), Ok(values)) = (row.ids.try_into(), row.log_probs.try_into()) else { return false };
        #[cfg(target_arch = "x86_64")]
        match level() {
            // SAFETY: `level` has seen that this CPU has every feature that the function enables.
            Level::Avx512 => return unsafe { encode_avx512(self, ids, values, row.log_tail, record) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { encode_avx2(self, ids, values, row.log_tail, record) },
            Level::Portable => {}
        }
        encode(self, Portable, ids, values, row.log_tail, record)
    }

    /// Reads all of a record but the log-tails at temperatures. False: nothing is said about the record.
    pub(super) fn decode(&self, record: &[u8], row: &mut TopKRowMut<'_>) -> bool {
        let Ok(ids) = <&mut [u32; K]>::try_from(&mut *row.ids) else { return false };
        let Ok(values) = <&mut [f32; K]>::try_from(&mut *row.log_probs) else { return false };
        #[cfg(target_arch = "x86_64")]
        match level() {
            // SAFETY: `level` has seen that this CPU has every feature that the function enables.
            Level::Avx512 => return unsafe { decode_avx512(self, record, ids, values, row.log_tail) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { decode_avx2(self, record, ids, values, row.log_tail) },
            Level::Portable => {}
        }
        decode(self, Portable, record, ids, values, row.log_tail)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
enum Level {
    Portable,
    Avx2,
    Avx512,
}

/// The best level of this CPU, or the one that `THACK_SIMD` names, if it is lower.
#[cfg(target_arch = "x86_64")]
fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let has_avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c");
        let has_avx512 = has_avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi2");
        match std::env::var("THACK_SIMD").as_deref() {
            Ok("scalar") => Level::Portable,
            Ok("avx2") if has_avx2 => Level::Avx2,
            _ if has_avx512 => Level::Avx512,
            _ if has_avx2 => Level::Avx2,
            _ => Level::Portable,
        }
    })
}

/// The steps that differ by instruction set.
trait Lanes: Copy {
    /// Bit i is bit `bit` of lane i.
    fn plane(self, lanes: &Bytes, bit: u32) -> u64;
    /// Adds bit i of a plane to lane i, as its bit `bit`.
    fn spread(self, lanes: &mut Bytes, plane: u64, bit: u32);
    /// The places of the 64 ones in three words.
    fn places(self, words: [u64; 3]) -> Bytes;
    /// Whether each id is above the one before it.
    fn increasing(self, ids: &[u32; K]) -> bool;
    /// The largest and the smallest value, if all are finite and none is positive.
    fn extremes(self, values: &[f32; K]) -> Option<(f32, f32)>;
    /// The words in which id i sets bit (id >> L) + i.
    fn unary(self, ids: &[u32; K], low_bits: u32) -> [u64; 3];
    /// top − step · c·(c + last) of every code c: the product is a whole number, exact in f32.
    fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; K]);
    /// Ids from (place − rank), their middle bits and their lowest eight.
    fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut [u32; K]);
    /// f16 to f32 and back, to the nearest.
    fn to_single(self, half: u16) -> f32;
    fn to_half(self, single: f32) -> u16;
}

#[inline(always)]
fn encode<L: Lanes>(
    wide: &Wide,
    lanes: L,
    ids: &[u32; K],
    values: &[f32; K],
    tail: f32,
    record: &mut [u8],
) -> bool {
    let Some((top, low)) = lanes.extremes(values) else { return false };
    if ids[K - 1] >= wide.vocab_size || !lanes.increasing(ids) {
        return false;
    }
    let top = lanes.to_half(if top < 0.0 { top } else { 0.0 });
    let exact_top = lanes.to_single(top);
    let reach = exact_top - low;
    let reach = if reach > 0.0 { reach } else { 0.0 };
    let nearest = lanes.to_half(reach);
    let range = nearest + u16::from(lanes.to_single(nearest) < reach);
    if range >= INFINITE {
        return false;
    }
    let codes = quantise(values, exact_top, lanes.to_single(range), (1 << wide.value_bits) - 1);

    record[..2].copy_from_slice(&top.to_le_bytes());
    record[2..4].copy_from_slice(&range.to_le_bytes());
    if wide.has_tail {
        if !(tail <= 0.0) {
            return false;
        }
        record[4..6].copy_from_slice(&lanes.to_half(tail).to_le_bytes());
    }
    let mut writer = Writer { bytes: &mut record[wide.head..] };
    if wide.value_bits == 8 {
        writer.put(&codes);
    } else {
        for bit in 0..wide.value_bits {
            writer.put(&lanes.plane(&codes, bit).to_le_bytes());
        }
    }
    writer.put(&std::array::from_fn::<u8, K, _>(|i| ids[i] as u8));
    let middle: Bytes = std::array::from_fn(|i| (ids[i] >> 8) as u8);
    for bit in 0..wide.low_bits - 8 {
        writer.put(&lanes.plane(&middle, bit).to_le_bytes());
    }
    let words = lanes.unary(ids, wide.low_bits);
    let bytes: [u8; 24] = std::array::from_fn(|i| (words[i / 8] >> (8 * (i % 8))) as u8);
    copy_end(&bytes, writer.bytes, (wide.high_bits as usize).div_ceil(8));
    true
}

/// As `Scale::quantise` of the plain codec, operation by operation.
#[inline(always)]
fn quantise(values: &[f32; K], top: f32, range: f32, last: u32) -> Bytes {
    let inverse = if range > 0.0 { 2.0 / range } else { 0.0 };
    let steps = last as f32;
    let mut codes = [0u8; K];
    for (code, &value) in codes.iter_mut().zip(values) {
        let doubled = (top - value) * inverse;
        let doubled = if doubled > 0.0 { doubled } else { 0.0 };
        let doubled = if doubled < 2.0 { doubled } else { 2.0 };
        let scaled = ((doubled + 0.25).sqrt() - 0.5) * steps;
        let scaled = if scaled < steps { scaled } else { steps };
        // 2^23 moves the nearest integer into the lowest bits.
        *code = (scaled + 8_388_608.0).to_bits() as u8;
    }
    codes
}

#[inline(always)]
fn decode<L: Lanes>(
    wide: &Wide,
    lanes: L,
    record: &[u8],
    ids: &mut [u32; K],
    values: &mut [f32; K],
    tail: &mut f32,
) -> bool {
    let half = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
    // A negative range says that there are −inf in the row.
    if half(2) >= INFINITE || half(0) & !NEGATIVE >= INFINITE || (half(0) & NEGATIVE == 0 && half(0) != 0) {
        return false;
    }
    let (top, range) = (lanes.to_single(half(0)), lanes.to_single(half(2)));
    if wide.has_tail {
        *tail = lanes.to_single(half(4));
        if !(*tail <= 0.0) {
            return false;
        }
    }
    let mut reader = Reader { bytes: &record[wide.head..] };
    let mut codes = [0u8; K];
    if wide.value_bits == 8 {
        codes = reader.lanes();
    } else {
        for bit in 0..wide.value_bits {
            lanes.spread(&mut codes, reader.word(), bit);
        }
    }
    let last = (1u32 << wide.value_bits) - 1;
    lanes.restore(&codes, top, range / (2 * last * last) as f32, last as f32, values);
    let low = reader.lanes();
    let mut middle = [0u8; K];
    for bit in 0..wide.low_bits - 8 {
        lanes.spread(&mut middle, reader.word(), bit);
    }
    let Some(words) = reader.unary(wide.high_bits) else { return false };
    let places = lanes.places(words);
    lanes.assemble(&places, &middle, &low, wide.low_bits, ids);
    ids[K - 1] < wide.vocab_size && lanes.increasing(ids)
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
    fn word(&mut self) -> u64 {
        let (part, rest) = self.bytes.split_at(8);
        self.bytes = rest;
        let mut word = [0; 8];
        word.copy_from_slice(part);
        u64::from_le_bytes(word)
    }

    /// The words of the unary part, if it has 64 ones and nothing stands behind it.
    #[inline(always)]
    fn unary(&self, high_bits: u32) -> Option<[u64; 3]> {
        let mut bytes = [0; 24];
        copy_end(self.bytes, &mut bytes, (high_bits as usize).div_ceil(8));
        let words: [u64; 3] = std::array::from_fn(|i| {
            bytes[8 * i..8 * i + 8].iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
        });
        let ones: u32 = words.iter().map(|word| word.count_ones()).sum();
        let length = 192 - words.iter().rev().fold((0, true), leading_zeros).0;
        (ones == K as u32 && length <= high_bits).then_some(words)
    }
}

/// Counts the zeros at the end of a number of many words, from its last word on.
#[inline(always)]
fn leading_zeros((count, going): (u32, bool), word: &u64) -> (u32, bool) {
    (count + if going { word.leading_zeros() } else { 0 }, going && *word == 0)
}

/// Eight lanes in a 64-bit register.
#[derive(Clone, Copy)]
struct Portable;

const ONES: u64 = 0x0101_0101_0101_0101;

impl Lanes for Portable {
    #[inline(always)]
    fn plane(self, lanes: &Bytes, bit: u32) -> u64 {
        let mut plane = 0;
        for (i, part) in lanes.chunks_exact(8).enumerate() {
            let word = part.iter().rev().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
            // The product moves bit 0 of byte j to bit 56 + j.
            let gathered = ((word >> bit) & ONES).wrapping_mul(0x0102_0408_1020_4080) >> 56;
            plane |= gathered << (8 * i);
        }
        plane
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
        let table = &PLACES_OF_BYTE;
        let mut places = [0u8; K + 8];
        let mut count = 0;
        for (i, byte) in words.iter().flat_map(|word| word.to_le_bytes()).enumerate() {
            let eight = table[byte as usize].wrapping_add(ONES.wrapping_mul(8 * i as u64));
            places[count..count + 8].copy_from_slice(&eight.to_le_bytes());
            count += byte.count_ones() as usize;
        }
        let mut all = [0; K];
        all.copy_from_slice(&places[..K]);
        all
    }

    #[inline(always)]
    fn increasing(self, ids: &[u32; K]) -> bool {
        let mut wrong = [0u32; 16];
        for (here, before) in ids[1..].chunks(16).zip(ids.chunks(16)) {
            for ((wrong, here), before) in wrong.iter_mut().zip(here).zip(before) {
                *wrong |= u32::from(here <= before);
            }
        }
        wrong == [0; 16]
    }

    #[inline(always)]
    fn extremes(self, values: &[f32; K]) -> Option<(f32, f32)> {
        let (mut tops, mut lows, mut wrong) = ([f32::NEG_INFINITY; 16], [f32::INFINITY; 16], [0u32; 16]);
        for part in values.chunks_exact(16) {
            for i in 0..16 {
                wrong[i] |= u32::from(!(part[i] <= 0.0)) | u32::from(part[i] == f32::NEG_INFINITY);
                tops[i] = if part[i] > tops[i] { part[i] } else { tops[i] };
                lows[i] = if part[i] < lows[i] { part[i] } else { lows[i] };
            }
        }
        let top = tops.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        let low = lows.iter().fold(f32::INFINITY, |a, &b| if b < a { b } else { a });
        (wrong == [0; 16]).then_some((top, low))
    }

    #[inline(always)]
    fn unary(self, ids: &[u32; K], low_bits: u32) -> [u64; 3] {
        // A byte per place, gathered eight at a time: no chain through three words in memory.
        let mut ones = [0u8; 256];
        for (i, &id) in ids.iter().enumerate() {
            ones[((id >> low_bits) as usize + i) & 255] = 1;
        }
        std::array::from_fn(|w| {
            let mut lanes = [0; K];
            lanes.copy_from_slice(&ones[K * w..K * (w + 1)]);
            self.plane(&lanes, 0)
        })
    }

    #[inline(always)]
    fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; K]) {
        for (value, &code) in values.iter_mut().zip(codes) {
            let code = f32::from(code);
            *value = top - step * (code * (code + last));
        }
    }

    #[inline(always)]
    fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut [u32; K]) {
        for i in 0..K {
            let high = u32::from(places[i].wrapping_sub(i as u8));
            ids[i] = high << low_bits | u32::from(middle[i]) << 8 | u32::from(low[i]);
        }
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

/// For every byte the places of its ones, a byte each from the lowest on.
static PLACES_OF_BYTE: [u64; 256] = places_of_byte();

const fn places_of_byte() -> [u64; 256] {
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
}

#[cfg(target_arch = "x86_64")]
use x86::{decode_avx2, decode_avx512, encode_avx2, encode_avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    #[allow(clippy::wildcard_imports, reason = "two dozen instructions by their names")]
    use std::arch::x86_64::*;

    use super::{Bytes, K, Lanes, Portable, Wide, decode, encode};

    /// # Safety
    /// The CPU must have the features.
    #[target_feature(enable = "avx2,popcnt,lzcnt,bmi1,bmi2,f16c")]
    pub(super) fn encode_avx2(
        wide: &Wide,
        ids: &[u32; K],
        values: &[f32; K],
        tail: f32,
        record: &mut [u8],
    ) -> bool {
        encode(wide, Avx2, ids, values, tail, record)
    }

    #[target_feature(enable = "avx2,popcnt,lzcnt,bmi1,bmi2,f16c")]
    pub(super) fn decode_avx2(
        wide: &Wide,
        record: &[u8],
        ids: &mut [u32; K],
        values: &mut [f32; K],
        tail: &mut f32,
    ) -> bool {
        decode(wide, Avx2, record, ids, values, tail)
    }

    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx2,popcnt,lzcnt,bmi1,bmi2,f16c"
    )]
    pub(super) fn encode_avx512(
        wide: &Wide,
        ids: &[u32; K],
        values: &[f32; K],
        tail: f32,
        record: &mut [u8],
    ) -> bool {
        encode(wide, Avx512, ids, values, tail, record)
    }

    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,avx2,popcnt,lzcnt,bmi1,bmi2,f16c"
    )]
    pub(super) fn decode_avx512(
        wide: &Wide,
        record: &[u8],
        ids: &mut [u32; K],
        values: &mut [f32; K],
        tail: &mut f32,
    ) -> bool {
        decode(wide, Avx512, record, ids, values, tail)
    }

    /// All 64 lanes in one register. Used only by the two functions above, whose features it needs.
    #[derive(Clone, Copy)]
    struct Avx512;

    const COUNT: Bytes = {
        let mut count = [0; K];
        let mut i = 0;
        while i < K {
            count[i] = i as u8;
            i += 1;
        }
        count
    };

    #[inline(always)]
    fn load(lanes: &Bytes) -> __m512i {
        // SAFETY: 64 bytes may be read, of any alignment; the callers have AVX-512.
        unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
    }

    impl Lanes for Avx512 {
        #[inline(always)]
        fn plane(self, lanes: &Bytes, bit: u32) -> u64 {
            // SAFETY: no memory is touched; the callers have AVX-512 BW.
            unsafe { _mm512_test_epi8_mask(load(lanes), _mm512_set1_epi8((1u8 << bit) as i8)) }
        }

        #[inline(always)]
        fn spread(self, lanes: &mut Bytes, plane: u64, bit: u32) {
            // SAFETY: 64 bytes are written where there are 64; the callers have AVX-512 BW.
            unsafe {
                let added = _mm512_or_si512(load(lanes), _mm512_maskz_set1_epi8(plane, (1u8 << bit) as i8));
                _mm512_storeu_si512(lanes.as_mut_ptr().cast(), added);
            }
        }

        #[inline(always)]
        fn places(self, words: [u64; 3]) -> Bytes {
            // SAFETY: 64 bytes are written where there are 64; the callers have AVX-512 VBMI2.
            unsafe {
                let count = load(&COUNT);
                let found = |w: usize| {
                    let counted = _mm512_add_epi8(count, _mm512_set1_epi8((K * w) as i8));
                    _mm512_maskz_compress_epi8(words[w], counted)
                };
                let behind = |ones: u32| u64::MAX.checked_shl(ones).unwrap_or(0);
                let first = words[0].count_ones();
                let second = first + words[1].count_ones();
                let mut places = found(0);
                places = _mm512_mask_expand_epi8(places, behind(first), found(1));
                places = _mm512_mask_expand_epi8(places, behind(second), found(2));
                let mut all = [0; K];
                _mm512_storeu_si512(all.as_mut_ptr().cast(), places);
                all
            }
        }

        #[inline(always)]
        fn increasing(self, ids: &[u32; K]) -> bool {
            let mut wrong = 0;
            for i in [0, 16, 32, 47] {
                // SAFETY: 16 ids are read from i and from i + 1 ≤ 48; the callers have AVX-512.
                unsafe {
                    let before = _mm512_loadu_si512(ids[i..i + 16].as_ptr().cast());
                    let here = _mm512_loadu_si512(ids[i + 1..i + 17].as_ptr().cast());
                    wrong |= _mm512_cmple_epu32_mask(here, before);
                }
            }
            wrong == 0
        }

        #[inline(always)]
        fn extremes(self, values: &[f32; K]) -> Option<(f32, f32)> {
            // SAFETY: 64 values are read where there are 64; the callers have AVX-512.
            unsafe {
                let part: [__m512; 4] =
                    std::array::from_fn(|i| _mm512_loadu_ps(values[16 * i..16 * i + 16].as_ptr()));
                let (zero, least) = (_mm512_setzero_ps(), _mm512_set1_ps(f32::MIN));
                let mut good = !0;
                for x in part {
                    // Both comparisons are false for NaN.
                    good &= _mm512_cmp_ps_mask::<_CMP_LE_OQ>(x, zero)
                        & _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, least);
                }
                let top = _mm512_max_ps(_mm512_max_ps(part[0], part[1]), _mm512_max_ps(part[2], part[3]));
                let low = _mm512_min_ps(_mm512_min_ps(part[0], part[1]), _mm512_min_ps(part[2], part[3]));
                (good == !0).then(|| (_mm512_reduce_max_ps(top), _mm512_reduce_min_ps(low)))
            }
        }

        #[inline(always)]
        fn unary(self, ids: &[u32; K], low_bits: u32) -> [u64; 3] {
            // SAFETY: eight ids are read at a time of 64; the callers have AVX-512.
            unsafe {
                let one = _mm512_set1_epi64(1);
                let mut words = [_mm512_setzero_si512(); 3];
                let shift = _mm_cvtsi32_si128(low_bits as i32);
                let mut rank = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
                for i in 0..8 {
                    let eight = _mm256_loadu_si256(ids[8 * i..8 * i + 8].as_ptr().cast());
                    let high = _mm512_srl_epi64(_mm512_cvtepu32_epi64(eight), shift);
                    let place = _mm512_add_epi64(high, rank);
                    for (w, word) in words.iter_mut().enumerate() {
                        // A shift by 64 or more, or by a negative number, gives 0.
                        let within = _mm512_sub_epi64(place, _mm512_set1_epi64(64 * w as i64));
                        *word = _mm512_or_si512(*word, _mm512_sllv_epi64(one, within));
                    }
                    rank = _mm512_add_epi64(rank, _mm512_set1_epi64(8));
                }
                words.map(|word| _mm512_reduce_or_epi64(word) as u64)
            }
        }

        #[inline(always)]
        fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; K]) {
            // SAFETY: 16 codes are read and 16 values written at a time of 64; the callers have AVX-512.
            unsafe {
                let (top, step, last) = (_mm512_set1_ps(top), _mm512_set1_ps(step), _mm512_set1_ps(last));
                for i in [0, 16, 32, 48] {
                    let bytes = _mm_loadu_si128(codes[i..i + 16].as_ptr().cast());
                    let code = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
                    let product = _mm512_mul_ps(code, _mm512_add_ps(code, last));
                    let value = _mm512_sub_ps(top, _mm512_mul_ps(step, product));
                    _mm512_storeu_ps(values[i..i + 16].as_mut_ptr(), value);
                }
            }
        }

        #[inline(always)]
        fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut [u32; K]) {
            // SAFETY: 16 ids are written at a time of 64; the callers have AVX-512 BW.
            unsafe {
                let high = _mm512_sub_epi8(load(places), load(&COUNT));
                let (middle, low) = (load(middle), load(low));
                let shift = _mm_cvtsi32_si128(low_bits as i32);
                let mut put = |i: usize, high: __m128i, middle: __m128i, low: __m128i| {
                    let high = _mm512_sll_epi32(_mm512_cvtepu8_epi32(high), shift);
                    let middle = _mm512_slli_epi32::<8>(_mm512_cvtepu8_epi32(middle));
                    let id = _mm512_or_si512(_mm512_or_si512(high, middle), _mm512_cvtepu8_epi32(low));
                    _mm512_storeu_si512(ids[i..i + 16].as_mut_ptr().cast(), id);
                };
                macro_rules! quarter {
                    ($n:literal) => {{
                        let part = |lanes| _mm512_extracti32x4_epi32::<$n>(lanes);
                        put(16 * $n, part(high), part(middle), part(low));
                    }};
                }
                quarter!(0);
                quarter!(1);
                quarter!(2);
                quarter!(3);
            }
        }

        #[inline(always)]
        fn to_single(self, half: u16) -> f32 {
            Avx2.to_single(half)
        }

        #[inline(always)]
        fn to_half(self, single: f32) -> u16 {
            Avx2.to_half(single)
        }
    }

    /// As everywhere, but halves by instruction. Used only by the functions whose features it needs.
    #[derive(Clone, Copy)]
    struct Avx2;

    impl Lanes for Avx2 {
        #[inline(always)]
        fn plane(self, lanes: &Bytes, bit: u32) -> u64 {
            Portable.plane(lanes, bit)
        }

        #[inline(always)]
        fn spread(self, lanes: &mut Bytes, plane: u64, bit: u32) {
            Portable.spread(lanes, plane, bit);
        }

        #[inline(always)]
        fn places(self, words: [u64; 3]) -> Bytes {
            Portable.places(words)
        }

        #[inline(always)]
        fn increasing(self, ids: &[u32; K]) -> bool {
            Portable.increasing(ids)
        }

        #[inline(always)]
        fn extremes(self, values: &[f32; K]) -> Option<(f32, f32)> {
            Portable.extremes(values)
        }

        #[inline(always)]
        fn unary(self, ids: &[u32; K], low_bits: u32) -> [u64; 3] {
            Portable.unary(ids, low_bits)
        }

        #[inline(always)]
        fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; K]) {
            Portable.restore(codes, top, step, last, values);
        }

        #[inline(always)]
        fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut [u32; K]) {
            Portable.assemble(places, middle, low, low_bits, ids);
        }

        #[inline(always)]
        fn to_single(self, half: u16) -> f32 {
            // SAFETY: no memory is touched; the callers have F16C.
            unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half)))) }
        }

        #[inline(always)]
        fn to_half(self, single: f32) -> u16 {
            // SAFETY: as above.
            unsafe {
                _mm_extract_epi16::<0>(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(single))) as u16
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Dither;
    use proptest::prelude::*;

    struct Case {
        layout: TopKLayout,
        ids: [u32; K],
        values: [f32; K],
    }

    fn case(vocab_size: u32, value_bits: u32, spread: f32, seed: u64) -> Case {
        let dither = Dither::new(seed, [0; 3]);
        let mut ids = std::collections::BTreeSet::new();
        let mut i = 0;
        while ids.len() < K {
            ids.insert((dither.uniform(i).powi(2) * vocab_size as f32) as u32 % vocab_size);
            i += 1;
        }
        let ids: Vec<u32> = ids.into_iter().collect();
        let values = std::array::from_fn(|i| -spread * dither.uniform(1000 + i as u64));
        Case {
            layout: TopKLayout::new(K, vocab_size, value_bits, true, 1),
            ids: ids.try_into().unwrap(),
            values,
        }
    }

    impl Case {
        fn row(&self) -> TopKRow<'_> {
            TopKRow { ids: &self.ids, log_probs: &self.values, log_tail: -1.5, log_tail_at: &[2.5] }
        }
    }

    type Decoded = ([u32; K], [f32; K], f32, f32);

    fn decoded(layout: &TopKLayout, record: &[u8], plain: bool) -> Option<Decoded> {
        let (mut ids, mut values, mut codes) = ([0; K], [0.0; K], [0; K]);
        let (mut tail, mut at) = (0.0, [0.0]);
        let row =
            TopKRowMut { ids: &mut ids, log_probs: &mut values, log_tail: &mut tail, log_tail_at: &mut at };
        if plain {
            layout.decode_plain(record, &mut codes, row).ok()?;
        } else {
            layout.decode(record, &mut codes, row).ok()?;
        }
        Some((ids, values, tail, at[0]))
    }

    fn vocabularies() -> impl Strategy<Value = u32> {
        prop_oneof![Just(151_936u32), Just(32_128), 17_000u32..300_000, Just(1 << 17), Just(2_000_000)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn bytes_are_those_of_the_plain_codec(
            v in vocabularies(), bits in 7u32..=8, spread in 0f32..30.0, seed: u64, zero in 0usize..400,
        ) {
            let mut case = case(v, bits, spread, seed);
            if let Some(value) = case.values.get_mut(zero) {
                *value = [0.0, -0.0, f32::NEG_INFINITY, 1e-6][seed as usize % 4];
            }
            let mut record = vec![0xaa; case.layout.stride()];
            let mut plain = record.clone();
            case.layout.encode(case.row(), &mut [0; K], &mut record).unwrap();
            case.layout.encode_plain(case.row(), &mut [0; K], &mut plain).unwrap();
            prop_assert_eq!(&record, &plain);
            prop_assert_eq!(decoded(&case.layout, &record, false), decoded(&case.layout, &record, true));
        }

        #[test]
        fn damaged_records_are_judged_alike(
            v in vocabularies(), bits in 7u32..=8, seed: u64,
            edits in prop::collection::vec((any::<u16>(), 0u8..8), 1..4),
        ) {
            let case = case(v, bits, 10.0, seed);
            let mut record = vec![0; case.layout.stride()];
            case.layout.encode(case.row(), &mut [0; K], &mut record).unwrap();
            for (at, bit) in edits {
                let at = at as usize % record.len();
                record[at] ^= 1 << bit;
            }
            let (fast, plain) = (decoded(&case.layout, &record, false), decoded(&case.layout, &record, true));
            prop_assert_eq!(fast.map(|d| (d.0, d.1.map(f32::to_bits))), plain.map(|d| (d.0, d.1.map(f32::to_bits))));
        }

        /// The steps that differ by instruction set, against each other and their definition.
        #[test]
        fn lanes_agree(seed: u64, bit in 0u32..8, plane: u64) {
            let dither = Dither::new(seed, [0; 3]);
            let lanes: Bytes = std::array::from_fn(|i| (dither.uniform(i as u64) * 256.0) as u8);
            let expected = (0..K).fold(0, |all, i| all | u64::from(lanes[i] >> bit & 1) << i);
            prop_assert_eq!(Portable.plane(&lanes, bit), expected);
            let mut spread = lanes;
            Portable.spread(&mut spread, plane, bit);
            for i in 0..K {
                prop_assert_eq!(spread[i], lanes[i] | ((plane >> i & 1) as u8) << bit);
            }
        }
    }

    #[test]
    fn the_wide_layouts_are_the_large_vocabularies() {
        let is_wide = |k, v| TopKLayout::new(k, v, 8, true, 0).is_wide();
        assert!(is_wide(64, 151_936) && is_wide(64, 32_128) && is_wide(64, 262_144));
        assert!(!is_wide(64, 1024) && !is_wide(32, 151_936));
    }
}
