//! The number formats of logits.

use half::{bf16, f16};

use super::simd::{LANES, Simd};

/// One logit: f32, bf16 or f16. All arithmetic is in f32 or wider.
pub trait Element: Copy + Send + Sync + 'static {
    /// −∞, which fills the last block of a row: no mass, never selected.
    const LOWEST: Self;
    /// Exact.
    fn to_f32(self) -> f32;
    /// Rounded to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Sixteen at once.
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V;
    /// Sixteen at once, rounded to nearest.
    #[inline(always)]
    fn store<S: Simd>(simd: S, value: S::V, to: &mut [Self; LANES]) {
        let mut lanes = [0.0; LANES];
        simd.store(value, &mut lanes);
        *to = lanes.map(Self::from_f32);
    }
}

impl Element for f32 {
    const LOWEST: Self = f32::NEG_INFINITY;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load(from)
    }
    #[inline(always)]
    fn store<S: Simd>(simd: S, value: S::V, to: &mut [Self; LANES]) {
        simd.store(value, to);
    }
}

impl Element for bf16 {
    const LOWEST: Self = bf16::NEG_INFINITY;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load_bf16(from)
    }
}

impl Element for f16 {
    const LOWEST: Self = f16::NEG_INFINITY;
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::V {
        simd.load_f16(from)
    }
}
