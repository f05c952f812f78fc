//! Sixty-four byte lanes as two AVX2 registers, words and floats as eight.
#![allow(clippy::wildcard_imports, clippy::cast_ptr_alignment)] // intrinsics by name; loads are unaligned ones

use core::arch::x86_64::*;

use super::{ByteLanes, ByteWork, Bytes, COUNT, LANES, Words, places_by_table};

/// Proof of AVX2, F16C, BMI and POPCNT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// If this CPU has all that [`enter`] enables.
    pub(super) fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Compiles the work with the instructions on.
///
/// # Safety
/// The CPU has them, as a value of [`Avx2`] proves.
#[target_feature(enable = "avx2,popcnt,lzcnt,bmi1,bmi2,f16c")]
pub(super) unsafe fn enter<W: ByteWork>(lanes: Avx2, work: W) -> W::Out {
    work.run(lanes)
}

// SAFETY of every block below: `self` proves that the CPU has the instructions (see `enter`); memory is touched
// through references to arrays, eight words or thirty-two bytes at an offset that the array's type allows.
impl ByteLanes for Avx2 {
    #[inline(always)]
    fn bytes(self, words: &Words, byte: u32) -> Bytes {
        let mut out = [0; LANES];
        unsafe {
            let shift = _mm_cvtsi32_si128(8 * byte as i32);
            let mask = _mm256_set1_epi32(0xff);
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            for half in 0..2 {
                let part = |i: usize| {
                    let eight = _mm256_loadu_si256(words.as_ptr().add(32 * half + 8 * i).cast());
                    _mm256_and_si256(_mm256_srl_epi32(eight, shift), mask)
                };
                let low = _mm256_packus_epi32(part(0), part(1));
                let high = _mm256_packus_epi32(part(2), part(3));
                // Packing works on 128 bits at a time: the fours come out as 0 2 4 6 1 3 5 7.
                let packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
                _mm256_storeu_si256(out.as_mut_ptr().add(32 * half).cast(), packed);
            }
        }
        out
    }

    #[inline(always)]
    fn plane(self, lanes: &Bytes, bit: u32) -> u64 {
        unsafe {
            // Bits that cross a byte's border stay below its highest one, which the mask takes.
            let shift = _mm_cvtsi32_si128(7 - bit as i32);
            let half = |i: usize| {
                let bytes = _mm256_loadu_si256(lanes.as_ptr().add(32 * i).cast());
                u64::from(_mm256_movemask_epi8(_mm256_sll_epi16(bytes, shift)) as u32)
            };
            half(0) | half(1) << 32
        }
    }

    #[inline(always)]
    fn plane_of_sixteen(self, lanes: &[u8; 16], bit: u32) -> u16 {
        unsafe {
            let shift = _mm_cvtsi32_si128(7 - bit as i32);
            _mm_movemask_epi8(_mm_sll_epi16(_mm_loadu_si128(lanes.as_ptr().cast()), shift)) as u16
        }
    }

    #[inline(always)]
    fn spread(self, lanes: &mut Bytes, plane: u64, bit: u32) {
        unsafe {
            let byte_of = _mm256_setr_epi64x(0, ONES, 2 * ONES, 3 * ONES);
            let bit_of = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
            let value = _mm256_set1_epi8((1u8 << bit) as i8);
            for half in 0..2 {
                let at = lanes.as_mut_ptr().add(32 * half).cast::<__m256i>();
                let word = _mm256_set1_epi32((plane >> (32 * half)) as i32);
                let own = _mm256_and_si256(_mm256_shuffle_epi8(word, byte_of), bit_of);
                let added = _mm256_and_si256(_mm256_cmpeq_epi8(own, bit_of), value);
                _mm256_storeu_si256(at, _mm256_or_si256(_mm256_loadu_si256(at), added));
            }
        }
    }

    #[inline(always)]
    fn places(self, words: [u64; 3]) -> Bytes {
        places_by_table(words)
    }

    #[inline(always)]
    fn increasing(self, ids: &Words) -> bool {
        unsafe {
            let mut right = _mm256_set1_epi32(-1);
            for i in [0, 8, 16, 24, 32, 40, 48, 55] {
                let before = _mm256_loadu_si256(ids.as_ptr().add(i).cast());
                let here = _mm256_loadu_si256(ids.as_ptr().add(i + 1).cast());
                right = _mm256_and_si256(right, _mm256_cmpgt_epi32(here, before));
            }
            _mm256_movemask_epi8(right) == -1
        }
    }

    #[inline(always)]
    fn extremes(self, values: &[f32; LANES]) -> Option<(f32, f32)> {
        unsafe {
            let mut top = _mm256_set1_ps(f32::NEG_INFINITY);
            let mut low = _mm256_set1_ps(f32::INFINITY);
            let mut good = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
            let (zero, least) = (_mm256_setzero_ps(), _mm256_set1_ps(f32::MIN));
            for i in 0..8 {
                let x = _mm256_loadu_ps(values.as_ptr().add(8 * i));
                // Both comparisons are false for NaN.
                good = _mm256_and_ps(good, _mm256_cmp_ps::<_CMP_LE_OQ>(x, zero));
                good = _mm256_and_ps(good, _mm256_cmp_ps::<_CMP_GE_OQ>(x, least));
                top = _mm256_max_ps(top, x);
                low = _mm256_min_ps(low, x);
            }
            let top = fold(top, |a, b| _mm_max_ps(a, b));
            let low = fold(low, |a, b| _mm_min_ps(a, b));
            (_mm256_movemask_ps(good) == 0xff).then_some((top, low))
        }
    }

    #[inline(always)]
    fn unary(self, ids: &Words, low_bits: u32, _high_bits: u32) -> [u64; 3] {
        unsafe {
            let one = _mm256_set1_epi64x(1);
            let shift = _mm_cvtsi32_si128(low_bits as i32);
            let (word, next) = (_mm256_set1_epi64x(64), _mm256_set1_epi64x(4));
            let mut rank = _mm256_setr_epi64x(0, 1, 2, 3);
            let mut words = [_mm256_setzero_si256(); 3];
            for i in 0..16 {
                let four = _mm_srl_epi32(_mm_loadu_si128(ids.as_ptr().add(4 * i).cast()), shift);
                let mut place = _mm256_add_epi64(_mm256_cvtepu32_epi64(four), rank);
                for word_of in &mut words {
                    // A shift by 64 or more, or by a negative number, gives 0.
                    *word_of = _mm256_or_si256(*word_of, _mm256_sllv_epi64(one, place));
                    place = _mm256_sub_epi64(place, word);
                }
                rank = _mm256_add_epi64(rank, next);
            }
            words.map(|four| {
                let two = _mm_or_si128(_mm256_castsi256_si128(four), _mm256_extracti128_si256::<1>(four));
                (_mm_extract_epi64::<0>(two) | _mm_extract_epi64::<1>(two)) as u64
            })
        }
    }

    #[inline(always)]
    fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; LANES]) {
        unsafe {
            let (top, step, last) = (_mm256_set1_ps(top), _mm256_set1_ps(step), _mm256_set1_ps(last));
            for i in 0..8 {
                let code = _mm256_cvtepi32_ps(eight_bytes(codes, i));
                let product = _mm256_mul_ps(code, _mm256_add_ps(code, last));
                let value = _mm256_sub_ps(top, _mm256_mul_ps(step, product));
                _mm256_storeu_ps(values.as_mut_ptr().add(8 * i), value);
            }
        }
    }

    #[inline(always)]
    fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut Words) -> bool {
        unsafe {
            let shift = _mm_cvtsi32_si128(low_bits as i32);
            let rotate = _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6);
            let mut high = [0; LANES];
            for half in [0, 32] {
                let load = |from: &Bytes| _mm256_loadu_si256(from.as_ptr().add(half).cast());
                let own = _mm256_sub_epi8(load(places), load(&COUNT));
                _mm256_storeu_si256(high.as_mut_ptr().add(half).cast(), own);
            }
            let mut right = _mm256_set1_epi32(-1);
            let mut last = _mm256_set1_epi32(-1);
            for i in 0..8 {
                let high = _mm256_sll_epi32(eight_bytes(&high, i), shift);
                let middle = _mm256_slli_epi32::<8>(eight_bytes(middle, i));
                let id = _mm256_or_si256(_mm256_or_si256(high, middle), eight_bytes(low, i));
                _mm256_storeu_si256(ids.as_mut_ptr().add(8 * i).cast(), id);
                // Each lane beside the one before it, the first beside the last of the eight before.
                let rotated = _mm256_permutevar8x32_epi32(id, rotate);
                let before = _mm256_blend_epi32::<1>(rotated, last);
                right = _mm256_and_si256(right, _mm256_cmpgt_epi32(id, before));
                last = rotated;
            }
            _mm256_movemask_epi8(right) == -1
        }
    }

    #[inline(always)]
    fn to_single(self, half: u16) -> f32 {
        unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half)))) }
    }

    #[inline(always)]
    fn to_half(self, single: f32) -> u16 {
        unsafe {
            _mm_extract_epi16::<0>(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(single))) as u16
        }
    }
}

const ONES: i64 = 0x0101_0101_0101_0101;

/// Bytes 8i to 8i + 7 as words, i below 8.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn eight_bytes(from: &Bytes, i: usize) -> __m256i {
    unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.as_ptr().add(8 * i).cast())) }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn fold(eight: __m256, of: impl Fn(__m128, __m128) -> __m128) -> f32 {
    unsafe {
        let four = of(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = of(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(of(two, _mm_shuffle_ps::<1>(two, two)))
    }
}
