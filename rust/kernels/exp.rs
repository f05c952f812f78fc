//! e^x for sixteen lanes, x ≤ 0: what is below −87 is 0. Error at most 2 ulp; the same bits at every level.

use super::simd::Simd;

/// Below it the result is 0: e^−87 is the last power that f32 holds in full precision.
pub(crate) const LOWEST: f32 = -87.0;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// 1.5 · 2^23 + 127: adding it rounds to an integer, whose low bits are then the biased exponent.
const MAGIC: f32 = 12_582_912.0 + 127.0;
/// Taylor coefficients 1/6! … 1/0!; on |r| ≤ ln2/2 the next term is below 1.3e-7 of the result.
const POWERS: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// e^x lane by lane; −∞ gives 0.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    let lowest = simd.splat(LOWEST);
    let clamped = simd.max(x, lowest);
    let shifted = simd.fma(clamped, simd.splat(LOG2_E), simd.splat(MAGIC));
    let whole = simd.sub(shifted, simd.splat(MAGIC));
    let rest = simd.fma(whole, simd.splat(-LN2_HIGH), clamped);
    let rest = simd.fma(whole, simd.splat(-LN2_LOW), rest);
    let mut power = simd.splat(POWERS[0]);
    for coefficient in &POWERS[1..] {
        power = simd.fma(power, rest, simd.splat(*coefficient));
    }
    simd.where_ge(x, lowest, simd.mul(power, simd.low_bits_as_exponent(shifted)))
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Kernel, LANES, Level, dispatch};
    use super::*;

    struct Exp([f32; LANES]);

    impl Kernel for Exp {
        type Out = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Out {
            let mut out = [0.0; LANES];
            simd.store(exp(simd, simd.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn is_within_two_ulp_and_the_same_at_every_level() {
        let mut x = -86.99_f32;
        while x <= 0.0 {
            let lanes: [f32; LANES] = std::array::from_fn(|i| (x + i as f32 * 1.3e-4).min(0.0));
            let reference = dispatch(Level::Scalar, Exp(lanes));
            for (input, found) in lanes.iter().zip(reference) {
                let exact = f64::from(*input).exp();
                assert!(((f64::from(found) - exact) / exact).abs() < 2.4e-7, "{input} {found} {exact}");
            }
            for level in Level::supported() {
                assert_eq!(dispatch(level, Exp(lanes)).map(f32::to_bits), reference.map(f32::to_bits));
            }
            x += 2.1e-3;
        }
    }

    #[test]
    fn vanishes_below_its_range() {
        let mut lanes = [-1000.0; LANES];
        lanes[3] = f32::NEG_INFINITY;
        assert_eq!(dispatch(Level::best(), Exp(lanes)), [0.0; LANES]);
    }
}
