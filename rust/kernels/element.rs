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
    /// Sixteen at once, rounded as one is.
    fn store<S: Simd>(simd: S, value: S::V, to: &mut [Self; LANES]);
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
    #[inline(always)]
    fn store<S: Simd>(simd: S, value: S::V, to: &mut [Self; LANES]) {
        simd.store_bf16(value, to);
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
    #[inline(always)]
    fn store<S: Simd>(simd: S, value: S::V, to: &mut [Self; LANES]) {
        simd.store_f16(value, to);
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, Level, dispatch};
    use super::*;

    struct Round<E>([f32; LANES], std::marker::PhantomData<E>);

    impl<E: Element> Kernel for Round<E> {
        type Out = [E; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Out {
            let mut out = [E::LOWEST; LANES];
            E::store(simd, simd.load(&self.0), &mut out);
            out
        }
    }

    /// Every number of a format, what lies halfway to the next one, and the f32 on both sides of either: ties,
    /// subnormal numbers, overflow to infinity, infinities and NaN.
    fn neighbours<E: Element>(of_bits: fn(u16) -> E) -> Vec<[f32; LANES]> {
        let around = |x: f32| [-1, 0, 1].map(|by| f32::from_bits(x.to_bits().wrapping_add_signed(by)));
        let all = (0..=u16::MAX).flat_map(|bits| {
            let (own, next) = (of_bits(bits).to_f32(), of_bits(bits.wrapping_add(1)).to_f32());
            let halfway =
                if own.is_nan() { f32::from_bits(own.to_bits() ^ 0x2000) } else { own / 2.0 + next / 2.0 };
            around(own).into_iter().chain(around(halfway))
        });
        let all: Vec<f32> = all.collect();
        all.as_chunks::<LANES>().0.to_vec()
    }

    fn vectors_round_as_single_numbers_do<E: Element>(of_bits: fn(u16) -> E, bits: fn(E) -> u16) {
        for lanes in neighbours(of_bits) {
            let expected = lanes.map(|x| bits(E::from_f32(x)));
            for level in Level::supported() {
                let found = dispatch(level, Round::<E>(lanes, std::marker::PhantomData)).map(bits);
                assert_eq!(found, expected, "{level}: {lanes:?}");
            }
        }
    }

    #[test]
    fn bf16_is_rounded_alike_at_every_level() {
        vectors_round_as_single_numbers_do(bf16::from_bits, bf16::to_bits);
    }

    #[test]
    fn f16_is_rounded_alike_at_every_level() {
        vectors_round_as_single_numbers_do(f16::from_bits, f16::to_bits);
    }
}
