//! Exponentials of sixteen lanes: the same bits at every level.

use super::simd::Simd;

/// 1.5 · 2^23: adding it rounds to an integer, whose low bits are then those of the sum.
const MAGIC: f32 = 12_582_912.0;
/// Coefficients of 2^r from the fifth down: minimax for the relative error on |r| ≤ ½, 1.8e-7 with all rounding
/// (Remez, then a search among neighbouring f32).
#[allow(clippy::approx_constant)] // the fifth is not quite ln 2
const TWO_TO: [f32; 6] =
    [0.001_327_647_4, 0.009_675_542, 0.055_507_135, 0.240_221_19, 0.693_147, 1.000_000_1];

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
/// Binary orders of magnitude by which a value may exceed its base before that moves.
const REBASE: f32 = 60.0;
/// Exponents that a base leaves room for below it: what is less counts as 2^-124, which no sum of a row notices.
const ROOM: f32 = 124.0;

impl Origin {
    /// The one whose base is `x`'s own exponent.
    pub(crate) fn at(x: f32, shift: f32, factor: f32) -> Self {
        let base = ((x - shift) * factor).round_ties_even().clamp(-FARTHEST, FARTHEST);
        Self { shift, factor, base }
    }

    /// The one for rows whose greatest value that counts is `highest`: shifted where that is too far off.
    pub(crate) fn over(highest: f32, inverse_temperature: f64) -> Self {
        let factor = (std::f64::consts::LOG2_E * inverse_temperature) as f32;
        let shift = if (highest * factor).abs() < FARTHEST { 0.0 } else { highest };
        Self::at(highest, shift, factor)
    }

    /// Above it the base has to move.
    pub(crate) fn limit(&self) -> f32 {
        self.shift + (self.base + REBASE) / self.factor
    }

    /// What a sum of this origin's w is multiplied by to be one of `other`'s, in double precision.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        let shift = (f64::from(self.shift) - f64::from(other.shift)) * f64::from(self.factor);
        (shift + f64::from(self.base) - f64::from(other.base)).exp2()
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
        self.each::<1, true>(simd, [x])[0]
    }

    /// w of several vectors, step by step: a chain that stands alone fills the schedulers, and the next one waits.
    /// `SHIFTED`: the shift may be other than 0, which costs a subtraction.
    #[inline(always)]
    pub(crate) fn each<const N: usize, const SHIFTED: bool>(&self, simd: S, mut x: [S::V; N]) -> [S::V; N] {
        for x in &mut x {
            let far = if SHIFTED { simd.sub(*x, self.shift) } else { *x };
            *x = simd.max(self.lowest, far);
        }
        self.raise(simd, x)
    }

    /// The same, but 0 for −∞ and whatever else counts as 2^-124: what that is taken from every w, which no w that
    /// a sum notices does. `least` is [`Powers::least`].
    #[inline(always)]
    pub(crate) fn each_or_zero<const N: usize, const SHIFTED: bool>(
        &self,
        simd: S,
        least: S::V,
        x: [S::V; N],
    ) -> [S::V; N] {
        let mut powers = self.each::<N, SHIFTED>(simd, x);
        for power in &mut powers {
            *power = simd.sub(*power, least);
        }
        powers
    }

    /// w of −∞.
    #[inline(always)]
    pub(crate) fn least(&self, simd: S) -> S::V {
        self.raise(simd, [self.lowest])[0]
    }

    #[inline(always)]
    fn raise<const N: usize>(&self, simd: S, x: [S::V; N]) -> [S::V; N] {
        let (mut shifted, mut rest) = (x, x);
        for (shifted, x) in shifted.iter_mut().zip(x) {
            *shifted = simd.fma(x, self.factor, self.magic);
        }
        for ((rest, shifted), x) in rest.iter_mut().zip(shifted).zip(x) {
            *rest = simd.fma(x, self.factor, simd.sub(self.magic, shifted));
        }
        let mut powers = [simd.splat(TWO_TO[0]); N];
        for coefficient in &TWO_TO[1..] {
            for (power, rest) in powers.iter_mut().zip(rest) {
                *power = simd.fma(*power, rest, simd.splat(*coefficient));
            }
        }
        for (power, shifted) in powers.iter_mut().zip(shifted) {
            *power = simd.shift_exponent(*power, shifted);
        }
        powers
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
    fn powers_are_exact_however_far_the_base() {
        for factor in [std::f32::consts::LOG2_E, 3.7, 0.2, 200.0] {
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

    struct OrZero([f32; LANES], Origin);

    impl Kernel for OrZero {
        type Out = [f32; LANES];
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) -> Self::Out {
            let mut out = [0.0; LANES];
            let powers = Powers::new(simd, self.1);
            let found = powers.each_or_zero::<1, true>(simd, powers.least(simd), [simd.load(&self.0)]);
            simd.store(found[0], &mut out);
            out
        }
    }

    #[test]
    fn what_has_no_mass_can_be_nothing() {
        let mut lanes = std::array::from_fn(|i| 40.0 - 8.0 * i as f32);
        (lanes[0], lanes[1], lanes[2], lanes[3]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN);
        for shift in [0.0, 30.0] {
            let origin = Origin::at(3.0, shift, std::f32::consts::LOG2_E);
            let (found, powers) =
                (same_everywhere(|| OrZero(lanes, origin)), same_everywhere(|| FromOrigin(lanes, origin)));
            assert!(found[0].is_nan() && found[1].is_nan() && found[2] == 0.0 && found[3] == 0.0);
            for (x, (found, power)) in lanes.iter().zip(found.iter().zip(powers)).skip(4) {
                let exact = f64::from(power) - 2.0_f64.powi(-124);
                assert!((f64::from(*found) - exact.max(0.0)).abs() <= 1e-7 * exact.abs() + 1e-44, "{x}");
            }
        }
    }

    #[test]
    fn sums_of_one_origin_are_those_of_another() {
        for (one, other) in [(0.0_f32, 7.5_f32), (-300.0, -280.0), (2e9, 2e9), (3.0, 2e9)] {
            let (from, to) = (Origin::over(one, 1.0), Origin::over(other, 1.0));
            let exact = (to.log(one) - from.log(one)).exp();
            assert!((from.ratio_to(&to) - exact).abs() <= 1e-9 * exact, "{one} {other}");
        }
    }

    #[test]
    fn powers_show_what_is_no_number_and_hide_what_is_no_mass() {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        (lanes[0], lanes[1], lanes[2], lanes[3]) = (f32::NAN, f32::INFINITY, f32::MIN, -200.0);
        let found = same_everywhere(|| FromOrigin(lanes, Origin::at(3.0, 0.0, std::f32::consts::LOG2_E)));
        assert!(found[0].is_nan() && found[1].is_nan());
        assert!(found[2..].iter().all(|w| *w > 0.0 && *w < 1e-36));
    }
}
