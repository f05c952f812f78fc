//! Probabilities in 15 bits: 6 of exponent, 9 of mantissa, 0 and 2^-63 … 1, rounded either way.

/// The code of 1.0, and the largest valid one.
pub(super) const ONE: u32 = 63 << 9;
const SHIFT: u32 = 14;
const BIAS: u32 = 64 << 9;

/// The value of a code ≤ [`ONE`].
#[inline(always)]
pub(super) fn value(code: u32) -> f32 {
    if code == 0 { 0.0 } else { f32::from_bits((code + BIAS) << SHIFT) }
}

/// The largest code whose value is not above `p`, for p in [0, 1]; 1.0 for anything larger, and 0 for −0.
#[inline(always)]
pub(super) fn floor(p: f32) -> u32 {
    if p >= 1.0 {
        return ONE;
    }
    // A sign would be taken for an exponent: the bits of −0 are those of a number far above 1.
    (p.to_bits() << 1 >> 1 >> SHIFT).saturating_sub(BIAS)
}

/// How far `p` is between the values of `code` and of the next one, in [0, 1).
#[inline(always)]
pub(super) fn fraction(p: f32, code: u32) -> f32 {
    if code >= ONE {
        return 0.0;
    }
    let (low, high) = (value(code), value(code + 1));
    (p - low) / (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_increasing_and_come_back() {
        for code in 0..=ONE {
            assert_eq!(floor(value(code)), code);
            if code > 0 {
                assert!(value(code) > value(code - 1));
            }
        }
        assert_eq!(value(ONE), 1.0);
        assert_eq!(floor(1e-30), 0);
        assert_eq!(floor(-0.0), 0);
    }

    #[test]
    fn fraction_is_where_a_value_stands() {
        let code = floor(0.3);
        assert!(value(code) <= 0.3 && 0.3 < value(code + 1));
        let middle = 0.5 * (value(code) + value(code + 1));
        assert!((fraction(middle, code) - 0.5).abs() < 1e-3);
    }
}
