//! Sixteen lanes as two AVX registers.
#![allow(clippy::wildcard_imports, clippy::cast_ptr_alignment)] // intrinsics by name; loads are unaligned ones

use core::arch::x86_64::*;
use half::{bf16, f16};

use super::{Kernel, LANES, Simd};

/// Proof of AVX2, FMA and F16C: only [`enter`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// Compiles the kernel with the instructions on.
///
/// # Safety
/// The CPU has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c,popcnt,bmi1,bmi2,lzcnt")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

/// Lanes 0–7 and 8–15.
#[derive(Clone, Copy)]
pub(super) struct V(__m256, __m256);

// SAFETY of every block below: `self` proves that the CPU has the instructions (see `enter`); memory
// is touched through references to arrays of exactly sixteen elements, by unaligned instructions.
impl Simd for Avx2 {
    type V = V;

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        let a = unsafe { _mm256_set1_ps(value) };
        V(a, a)
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        let at = from.as_ptr();
        unsafe { V(_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> V {
        let at = from.as_ptr().cast::<__m128i>();
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(at));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.add(1)));
            V(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> V {
        let at = from.as_ptr().cast::<__m128i>();
        unsafe { V(_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))) }
    }
    #[inline(always)]
    fn store(self, value: V, to: &mut [f32; LANES]) {
        let at = to.as_mut_ptr();
        unsafe {
            _mm256_storeu_ps(at, value.0);
            _mm256_storeu_ps(at.add(8), value.1);
        }
    }
    #[inline(always)]
    fn store_bf16(self, value: V, to: &mut [bf16; LANES]) {
        unsafe {
            let packed = _mm256_packus_epi32(rounded_bf16(value.0), rounded_bf16(value.1));
            // Packing works by halves of a register: their quarters go back in order.
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered);
        }
    }
    #[inline(always)]
    fn store_f16(self, value: V, to: &mut [f16; LANES]) {
        let at = to.as_mut_ptr().cast::<__m128i>();
        unsafe {
            _mm_storeu_si128(at, _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value.0));
            _mm_storeu_si128(at.add(1), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value.1));
        }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        unsafe { V(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        unsafe { V(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        unsafe { V(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        unsafe { V(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        unsafe { V(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }
    #[inline(always)]
    fn shift_exponent(self, a: V, n: V) -> V {
        unsafe { V(shift_exponent(a.0, n.0), shift_exponent(a.1, n.1)) }
    }
    #[inline(always)]
    fn ge(self, a: V, b: V) -> u32 {
        let V(low, high) = unsafe { compare::<_CMP_GE_OQ>(a, b) };
        unsafe { bits(low, high) }
    }
    #[inline(always)]
    fn gt(self, a: V, b: V) -> u32 {
        let V(low, high) = unsafe { compare::<_CMP_GT_OQ>(a, b) };
        unsafe { bits(low, high) }
    }
    #[inline(always)]
    fn nan(self, a: V) -> u32 {
        let V(low, high) = unsafe { compare::<_CMP_UNORD_Q>(a, a) };
        unsafe { bits(low, high) }
    }
    #[inline(always)]
    fn where_ge(self, a: V, b: V, value: V) -> V {
        unsafe {
            let keep = compare::<_CMP_GE_OQ>(a, b);
            V(_mm256_and_ps(keep.0, value.0), _mm256_and_ps(keep.1, value.1))
        }
    }
    #[inline(always)]
    fn where_gt(self, a: V, b: V, value: V) -> V {
        unsafe {
            let keep = compare::<_CMP_GT_OQ>(a, b);
            V(_mm256_and_ps(keep.0, value.0), _mm256_and_ps(keep.1, value.1))
        }
    }
    #[inline(always)]
    fn reduce_add(self, a: V) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(a.0, a.1);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: V) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(a.0, a.1);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn reduce_add_each(self, vectors: &[V; LANES]) -> V {
        unsafe { reduce_each::<false>(vectors) }
    }
    #[inline(always)]
    fn reduce_max_each(self, vectors: &[V; LANES]) -> V {
        unsafe { reduce_each::<true>(vectors) }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: &T, bytes: usize) {
        // SAFETY: a prefetch touches no memory as far as the program can tell; any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(at).cast::<i8>().wrapping_add(bytes)) }
    }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn compare<const HOW: i32>(a: V, b: V) -> V {
    unsafe { V(_mm256_cmp_ps::<HOW>(a.0, b.0), _mm256_cmp_ps::<HOW>(a.1, b.1)) }
}

/// The bits of bfloat16 in the lower half of each word.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn rounded_bf16(value: __m256) -> __m256i {
    unsafe {
        let bits = _mm256_castps_si256(value);
        let high = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        // A NaN is cut off and made quiet, so that it is none by its lowest bits alone.
        let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
        _mm256_blendv_epi8(_mm256_srli_epi32::<16>(up), quiet, nan)
    }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn bits(low: __m256, high: __m256) -> u32 {
    unsafe { _mm256_movemask_ps(low) as u32 | ((_mm256_movemask_ps(high) as u32) << 8) }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn shift_exponent(a: __m256, n: __m256) -> __m256 {
    unsafe {
        let by = _mm256_slli_epi32::<23>(_mm256_castps_si256(n));
        _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), by))
    }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn combine<const MAX: bool>(a: __m256, b: __m256) -> __m256 {
    unsafe { if MAX { _mm256_max_ps(a, b) } else { _mm256_add_ps(a, b) } }
}

/// Combines neighbours of both; in each half those of `a` come first.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn pair<const MAX: bool>(a: __m256, b: __m256) -> __m256 {
    unsafe { combine::<MAX>(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xDD>(a, b)) }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn reduce_each<const MAX: bool>(vectors: &[V; LANES]) -> V {
    unsafe {
        let mut folded = [_mm256_setzero_ps(); LANES];
        for i in 0..LANES {
            folded[i] = combine::<MAX>(vectors[i].0, vectors[i].1);
        }
        V(reduce_eight::<MAX>(&folded, 0), reduce_eight::<MAX>(&folded, 8))
    }
}

/// Lane i is register `first + i`, reduced.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn reduce_eight<const MAX: bool>(of: &[__m256; LANES], first: usize) -> __m256 {
    unsafe {
        let mut pairs = [_mm256_setzero_ps(); 4];
        for i in 0..4 {
            pairs[i] = pair::<MAX>(of[first + 2 * i], of[first + 2 * i + 1]);
        }
        let (low, high) = (pair::<MAX>(pairs[0], pairs[1]), pair::<MAX>(pairs[2], pairs[3]));
        combine::<MAX>(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
    }
}
