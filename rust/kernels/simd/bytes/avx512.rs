//! Sixty-four byte lanes in one AVX-512 register, words and floats in four.
//!
//! A bit plane is one test or one masked broadcast, and a word's places are one compression of the lane numbers.
#![allow(clippy::wildcard_imports, clippy::cast_ptr_alignment)] // intrinsics by name; loads are unaligned ones

use core::arch::x86_64::*;

use super::{ByteLanes, ByteWork, Bytes, COUNT, LANES, Words};

/// Proof of AVX-512 F, BW, DQ, VL, VBMI and VBMI2, and of what [`super::avx2`] needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// If this CPU has all that [`enter`] enables.
    pub(super) fn new() -> Option<Self> {
        let found = super::avx2::Avx2::new().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2");
        found.then_some(Self(()))
    }
}

/// Compiles the work with the instructions on.
///
/// # Safety
/// The CPU has them, as a value of [`Avx512`] proves.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx2,popcnt,lzcnt,bmi1,bmi2,f16c"
)]
pub(super) unsafe fn enter<W: ByteWork>(lanes: Avx512, work: W) -> W::Out {
    work.run(lanes)
}

/// The first byte of each of 32 words, twice.
static FOURTH: Bytes = {
    let mut places = [0; LANES];
    let mut i = 0;
    while i < LANES {
        places[i] = (4 * i % 128) as u8;
        i += 1;
    }
    places
};

/// # Safety
/// As for the methods below.
#[inline(always)]
unsafe fn load(lanes: &Bytes) -> __m512i {
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

// SAFETY of every block below: `self` proves that the CPU has the instructions (see `enter`); memory is touched
// through references to arrays, sixteen words or sixty-four bytes at an offset that the array's type allows.
impl ByteLanes for Avx512 {
    #[inline(always)]
    fn bytes(self, words: &Words, byte: u32) -> Bytes {
        let mut out = [0; LANES];
        unsafe {
            let part = |i: usize| _mm512_loadu_si512(words.as_ptr().add(16 * i).cast());
            let of_each = _mm512_add_epi8(load(&FOURTH), _mm512_set1_epi8(byte as i8));
            let low = _mm512_permutex2var_epi8(part(0), of_each, part(1));
            let high = _mm512_permutex2var_epi8(part(2), of_each, part(3));
            // One store: a load of all 64 bytes would wait for two.
            let all = _mm512_inserti64x4::<1>(low, _mm512_castsi512_si256(high));
            _mm512_storeu_si512(out.as_mut_ptr().cast(), all);
        }
        out
    }

    #[inline(always)]
    fn plane(self, lanes: &Bytes, bit: u32) -> u64 {
        unsafe { _mm512_test_epi8_mask(load(lanes), _mm512_set1_epi8((1u8 << bit) as i8)) }
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
            let added = _mm512_or_si512(load(lanes), _mm512_maskz_set1_epi8(plane, (1u8 << bit) as i8));
            _mm512_storeu_si512(lanes.as_mut_ptr().cast(), added);
        }
    }

    #[inline(always)]
    fn places(self, words: [u64; 3]) -> Bytes {
        unsafe {
            let count = load(&COUNT);
            let found = |w: usize| {
                let counted = _mm512_add_epi8(count, _mm512_set1_epi8((LANES * w) as i8));
                _mm512_maskz_compress_epi8(words[w], counted)
            };
            let behind = |ones: u32| u64::MAX.checked_shl(ones).unwrap_or(0);
            let first = words[0].count_ones();
            let second = first + words[1].count_ones();
            let mut places = found(0);
            places = _mm512_mask_expand_epi8(places, behind(first), found(1));
            places = _mm512_mask_expand_epi8(places, behind(second), found(2));
            let mut all = [0; LANES];
            _mm512_storeu_si512(all.as_mut_ptr().cast(), places);
            all
        }
    }

    #[inline(always)]
    fn increasing(self, ids: &Words) -> bool {
        let mut wrong = 0;
        for i in [0, 16, 32, 47] {
            unsafe {
                let before = _mm512_loadu_si512(ids.as_ptr().add(i).cast());
                let here = _mm512_loadu_si512(ids.as_ptr().add(i + 1).cast());
                wrong |= _mm512_cmple_epu32_mask(here, before);
            }
        }
        wrong == 0
    }

    #[inline(always)]
    fn extremes(self, values: &[f32; LANES]) -> Option<(f32, f32)> {
        unsafe {
            let part: [__m512; 4] = std::array::from_fn(|i| _mm512_loadu_ps(values.as_ptr().add(16 * i)));
            let (zero, least) = (_mm512_setzero_ps(), _mm512_set1_ps(f32::MIN));
            let mut good = !0;
            for x in part {
                // Both comparisons are false for NaN.
                good &=
                    _mm512_cmp_ps_mask::<_CMP_LE_OQ>(x, zero) & _mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, least);
            }
            let top = _mm512_max_ps(_mm512_max_ps(part[0], part[1]), _mm512_max_ps(part[2], part[3]));
            let low = _mm512_min_ps(_mm512_min_ps(part[0], part[1]), _mm512_min_ps(part[2], part[3]));
            (good == !0).then(|| (_mm512_reduce_max_ps(top), _mm512_reduce_min_ps(low)))
        }
    }

    #[inline(always)]
    fn unary(self, ids: &Words, low_bits: u32, high_bits: u32) -> [u64; 3] {
        unsafe {
            let one = _mm512_set1_epi64(1);
            let mut words = [_mm512_setzero_si512(); 3];
            let shift = _mm_cvtsi32_si128(low_bits as i32);
            let mut rank = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
            for i in 0..8 {
                let eight = _mm256_loadu_si256(ids.as_ptr().add(8 * i).cast());
                let high = _mm512_srl_epi64(_mm512_cvtepu32_epi64(eight), shift);
                let place = _mm512_add_epi64(high, rank);
                // Early ids cannot lie in the last word.
                let reached = high_bits as usize - LANES + 8 * i + 7 >= 128;
                for (w, word) in words.iter_mut().take(2 + usize::from(reached)).enumerate() {
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
    fn restore(self, codes: &Bytes, top: f32, step: f32, last: f32, values: &mut [f32; LANES]) {
        unsafe {
            let (top, step, last) = (_mm512_set1_ps(top), _mm512_set1_ps(step), _mm512_set1_ps(last));
            for i in 0..4 {
                let code = _mm512_cvtepi32_ps(sixteen_bytes(codes, i));
                let product = _mm512_mul_ps(code, _mm512_add_ps(code, last));
                let value = _mm512_sub_ps(top, _mm512_mul_ps(step, product));
                _mm512_storeu_ps(values.as_mut_ptr().add(16 * i), value);
            }
        }
    }

    #[inline(always)]
    fn assemble(self, places: &Bytes, middle: &Bytes, low: &Bytes, low_bits: u32, ids: &mut Words) -> bool {
        unsafe {
            let high = _mm512_sub_epi8(load(places), load(&COUNT));
            let mut own = [0; LANES];
            _mm512_storeu_si512(own.as_mut_ptr().cast(), high);
            let shift = _mm_cvtsi32_si128(low_bits as i32);
            let mut last = _mm512_set1_epi32(-1);
            let mut wrong = 0;
            for i in 0..4 {
                let high = _mm512_sll_epi32(sixteen_bytes(&own, i), shift);
                let middle = _mm512_slli_epi32::<8>(sixteen_bytes(middle, i));
                let id = _mm512_or_si512(_mm512_or_si512(high, middle), sixteen_bytes(low, i));
                _mm512_storeu_si512(ids.as_mut_ptr().add(16 * i).cast(), id);
                // Each lane beside the one before it, the first beside the last of the sixteen before.
                wrong |= _mm512_cmple_epi32_mask(id, _mm512_alignr_epi32::<15>(id, last));
                last = id;
            }
            wrong == 0
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

/// Bytes 16i to 16i + 15 as words, i below 4.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn sixteen_bytes(from: &Bytes, i: usize) -> __m512i {
    unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().add(16 * i).cast())) }
}
