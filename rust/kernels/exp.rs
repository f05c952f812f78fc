//! Exponentials of sixteen lanes: the same bits at every level.

use super::simd::Simd;

/// Below it e^x is 0: e^−87 is the last power that f32 holds in full precision.
pub(crate) const LOWEST: f32 = -87.0;

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// log2 e − [`LOG2_E`]
const LOG2_E_REST: f32 = 1.925_963e-8;
/// 1.5 · 2^23: adding it rounds to an integer, whose low bits are then those of the sum.
const MAGIC: f32 = 12_582_912.0;
/// Coefficients of 2^r from the fifth down: minimax for the relative error on |r| ≤ ½, 1.8e-7 with all rounding
/// (Remez, then a search among neighbouring f32).
#[allow(clippy::approx_constant)] // the fifth is not quite ln 2
const TWO_TO: [f32; 6] =
    [0.001_327_647_4, 0.009_675_542, 0.055_507_135, 0.240_221_19, 0.693_147, 1.000_000_1];

/// 2^rest, |rest| ≤ ½.
#[inline(always)]
fn two_to<S: Simd>(simd: S, rest: S::V) -> S::V {
    let mut power = simd.splat(TWO_TO[0]);
    for coefficient in &TWO_TO[1..] {
        power = simd.fma(power, rest, simd.splat(*coefficient));
    }
    power
}

/// e^x lane by lane, x ≤ 0; what is below −87, and −∞, gives 0. Error at most 2 ulp.
#[inline(always)]
pub(crate) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    let (lowest, magic) = (simd.splat(LOWEST), simd.splat(MAGIC));
    let clamped = simd.max(x, lowest);
    let shifted = simd.fma(clamped, simd.splat(LOG2_E), magic);
    let minus_whole = simd.sub(magic, shifted);
    let rest = simd.fma(clamped, simd.splat(LOG2_E), minus_whole);
    let rest = simd.fma(clamped, simd.splat(LOG2_E_REST), rest);
    simd.where_ge(x, lowest, simd.shift_exponent(two_to(simd, rest), shifted))
}

/// From where the exponentials of a row are measured: `w(x) = 2^((x − shift)·factor − base)`.
///
/// The base is an integer, so that neither it nor a change of it rounds anything: the integer part of
/// `(x − shift)·factor` goes into the exponent, and the rest is computed in one rounding, however far x lies from
/// the base. Needs `|(x − shift)·factor|` below [`FARTHEST`] for every x that counts; the shift is 0 where that
/// holds anyway.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Origin {
    pub(crate) shift: f32,
    /// log2 e / T
    pub(crate) factor: f32,
    pub(crate) base: f32,
}

/// Integers up to here stay exact when [`MAGIC`] is added, with room for what exceeds the base.
pub(crate) const FARTHEST: f32 = 1_048_576.0;
/// Exponents that a base leaves room for below it: what is less counts as 2^-124, which no sum of a row notices.
const ROOM: f32 = 124.0;

impl Origin {
    /// The one whose base is `x`'s own exponent.
    pub(crate) fn at(x: f32, shift: f32, factor: f32) -> Self {
        let base = ((x - shift) * factor).round_ties_even().clamp(-FARTHEST, FARTHEST);
        Self { shift, factor, base }
    }

    /// ln w(x), in double precision.
    pub(crate) fn log(&self, x: f32) -> f64 {
        let shifted = f64::from(x) - f64::from(self.shift);
        (shifted * f64::from(self.factor) - f64::from(self.base)) * std::f64::consts::LN_2
    }
}

/// An [`Origin`] in registers: made where it is used, so that the compiler sees that all lanes are equal.
#[derive(Clone, Copy)]
pub(crate) struct Powers<S: Simd> {
    shift: S::V,
    factor: S::V,
    magic: S::V,
    lowest: S::V,
}

impl<S: Simd> Powers<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S, origin: Origin) -> Self {
        let Origin { shift, factor, base } = origin;
        // Two roundings of 2^-24 each move it by less than the room that is left.
        let lowest = (base - ROOM) / factor;
        Self {
            shift: simd.splat(shift),
            factor: simd.splat(factor),
            magic: simd.splat(MAGIC - base),
            lowest: simd.splat(lowest),
        }
    }

    /// w(x): positive also for −∞ (2^-124 or less), NaN for NaN and +∞.
    #[inline(always)]
    pub(crate) fn of(&self, simd: S, x: S::V) -> S::V {
        self.of_unshifted(simd, simd.sub(x, self.shift))
    }

    /// w(x + shift), which saves a subtraction where the shift is known to be 0.
    #[inline(always)]
    pub(crate) fn of_unshifted(&self, simd: S, x: S::V) -> S::V {
        let x = simd.max(self.lowest, x);
        let shifted = simd.fma(x, self.factor, self.magic);
        let rest = simd.fma(x, self.factor, simd.sub(self.magic, shifted));
        simd.shift_exponent(two_to(simd, rest), shifted)
    }

    /// log2 w(x), at least −200.
    #[inline(always)]
    pub(crate) fn log2(&self, simd: S, x: S::V) -> S::V {
        let minus_base = simd.sub(self.magic, simd.splat(MAGIC));
        simd.max(simd.fma(simd.sub(x, self.shift), self.factor, minus_base), simd.splat(-200.0))
    }
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

    struct FromOrigin([f32; LANES], Origin);

    impl Kernel for FromOrigin {
        type Out = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Out {
            let mut out = [0.0; LANES];
            simd.store(Powers::new(simd, self.1).of(simd, simd.load(&self.0)), &mut out);
            out
        }
    }

    fn same_everywhere<K: Kernel<Out = [f32; LANES]>>(kernel: impl Fn() -> K) -> [f32; LANES] {
        let reference = dispatch(Level::Scalar, kernel());
        for level in Level::supported() {
            assert_eq!(dispatch(level, kernel()).map(f32::to_bits), reference.map(f32::to_bits));
        }
        reference
    }

    #[test]
    fn exp_is_within_two_ulp_and_the_same_at_every_level() {
        let mut x = -86.99_f32;
        while x <= 0.0 {
            let lanes: [f32; LANES] = std::array::from_fn(|i| (x + i as f32 * 1.3e-4).min(0.0));
            for (input, found) in lanes.iter().zip(same_everywhere(|| Exp(lanes))) {
                let exact = f64::from(*input).exp();
                assert!(((f64::from(found) - exact) / exact).abs() < 2.4e-7, "{input} {found} {exact}");
            }
            x += 2.1e-3;
        }
    }

    #[test]
    fn exp_vanishes_below_its_range() {
        let mut lanes = [-1000.0; LANES];
        lanes[3] = f32::NEG_INFINITY;
        assert_eq!(same_everywhere(|| Exp(lanes)), [0.0; LANES]);
    }

    #[test]
    fn powers_are_exact_however_far_the_base() {
        for factor in [LOG2_E, 3.7, 0.2, 200.0] {
            for (top, shift) in [(0.0_f32, 0.0), (37.3, 0.0), (-1000.1, 0.0), (4000.0, 0.0), (3e7, 3e7)] {
                let origin = Origin::at(top, shift, factor);
                for step in 0..400 {
                    let lanes =
                        std::array::from_fn(|i| top + 1.0 / factor - (step * 16 + i) as f32 * 0.013 / factor);
                    for (x, found) in lanes.iter().zip(same_everywhere(|| FromOrigin(lanes, origin))) {
                        let exact = origin.log(*x).exp();
                        assert!(((f64::from(found) - exact) / exact).abs() < 2e-7, "{x} {found} {exact}");
                    }
                }
            }
        }
    }

    #[test]
    fn powers_show_what_is_no_number_and_hide_what_is_no_mass() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        (lanes[0], lanes[1], lanes[2], lanes[3]) = (f32::NAN, f32::INFINITY, f32::MIN, -200.0);
        let found = same_everywhere(|| FromOrigin(lanes, Origin::at(3.0, 0.0, LOG2_E)));
        assert!(found[0].is_nan() && found[1].is_nan());
        assert!(found[2..].iter().all(|w| *w > 0.0 && *w < 1e-36));
    }
}
