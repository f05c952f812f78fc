//! Sixteen lanes as one AVX-512 register.
#![allow(clippy::wildcard_imports, clippy::cast_ptr_alignment)] // intrinsics by name; loads are unaligned ones

use core::arch::x86_64::*;
use half::{bf16, f16};

use super::{Kernel, LANES, Simd};

/// Proof of AVX-512 F and BW (and of what [`super::avx2`] needs): only [`enter`] makes one.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Compiles the kernel with the instructions on.
///
/// # Safety
/// The CPU has AVX-512 F and BW, AVX2, FMA and F16C.
#[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c,popcnt,bmi1,bmi2,lzcnt")]
pub(super) unsafe fn enter<K: Kernel>(kernel: K) -> K::Out {
    kernel.run(Avx512(()))
}

// SAFETY of every block below: `self` proves that the CPU has the instructions (see `enter`); memory
// is touched through references to arrays of exactly sixteen elements, by unaligned instructions.
impl Simd for Avx512 {
    type V = __m512;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> __m512 {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }
    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }
    /// By integers: the instruction for it takes subnormal numbers for 0.
    #[inline(always)]
    fn store_bf16(self, value: __m512, to: &mut [bf16; LANES]) {
        unsafe {
            let bits = _mm512_castps_si512(value);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
            // A NaN is cut off and made quiet, so that it is none by its lowest bits alone.
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x40_0000));
            let halves = _mm512_permutexvar_epi16(_mm512_loadu_si512(UPPER.as_ptr().cast()), up);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm512_castsi512_si256(halves));
        }
    }
    #[inline(always)]
    fn store_f16(self, value: __m512, to: &mut [f16; LANES]) {
        unsafe {
            let half = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), half);
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn shift_exponent(self, a: __m512, n: __m512) -> __m512 {
        unsafe {
            let by = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), by))
        }
    }
    #[inline(always)]
    fn ge(self, a: __m512, b: __m512) -> u32 {
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) })
    }
    #[inline(always)]
    fn gt(self, a: __m512, b: __m512) -> u32 {
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) })
    }
    #[inline(always)]
    fn nan(self, a: __m512) -> u32 {
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a) })
    }
    #[inline(always)]
    fn where_ge(self, a: __m512, b: __m512, value: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b), value) }
    }
    #[inline(always)]
    fn where_gt(self, a: __m512, b: __m512, value: __m512) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), value) }
    }
    #[inline(always)]
    fn reduce_add(self, a: __m512) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), upper(a));
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, a: __m512) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(_mm512_castps512_ps256(a), upper(a));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
    #[inline(always)]
    fn reduce_add_each(self, vectors: &[__m512; LANES]) -> __m512 {
        unsafe { reduce_each::<false>(vectors) }
    }
    #[inline(always)]
    fn reduce_max_each(self, vectors: &[__m512; LANES]) -> __m512 {
        unsafe { reduce_each::<true>(vectors) }
    }
    #[inline(always)]
    fn prefetch<T>(self, at: &T, bytes: usize) {
        // SAFETY: a prefetch touches no memory as far as the program can tell; any address will do.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(at).cast::<i8>().wrapping_add(bytes)) }
    }
}

/// The upper half of every lane, twice.
static UPPER: [u16; 2 * LANES] = {
    let mut places = [0; 2 * LANES];
    let mut i = 0;
    while i < 2 * LANES {
        places[i] = (2 * i % (2 * LANES) + 1) as u16;
        i += 1;
    }
    places
};

/// Lanes 8–15.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn upper(a: __m512) -> __m256 {
    unsafe { _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(a))) }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn combine<const MAX: bool>(a: __m512, b: __m512) -> __m512 {
    unsafe { if MAX { _mm512_max_ps(a, b) } else { _mm512_add_ps(a, b) } }
}

/// Combines neighbours of both; in each quarter those of `a` come first.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn pair<const MAX: bool>(a: __m512, b: __m512) -> __m512 {
    unsafe { combine::<MAX>(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xDD>(a, b)) }
}

/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn reduce_each<const MAX: bool>(of: &[__m512; LANES]) -> __m512 {
    unsafe {
        let (low, high) = (reduce_eight::<MAX>(of, 0), reduce_eight::<MAX>(of, 8));
        let even = _mm512_shuffle_f32x4::<0x88>(low, high);
        combine::<MAX>(even, _mm512_shuffle_f32x4::<0xDD>(low, high))
    }
}

/// Quarters 0 and 1 hold the halves of registers 0–3 behind `first`, reduced; quarters 2 and 3 those of 4–7.
///
/// # Safety
/// As for the methods above.
#[inline(always)]
unsafe fn reduce_eight<const MAX: bool>(of: &[__m512; LANES], first: usize) -> __m512 {
    unsafe {
        let mut folded = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            let (a, b) = (of[first + i], of[first + i + 4]);
            let lower = _mm512_shuffle_f32x4::<0x44>(a, b);
            folded[i] = combine::<MAX>(lower, _mm512_shuffle_f32x4::<0xEE>(a, b));
        }
        pair::<MAX>(pair::<MAX>(folded[0], folded[1]), pair::<MAX>(folded[2], folded[3]))
    }
}
