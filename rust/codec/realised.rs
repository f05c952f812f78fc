//! The log-probability of the token that was realised, in 16 bits: fixed point over 0…32 nats.
//!
//! | code | meaning |
//! |---|---|
//! | 0 … 65,504 | −code / 2047 nats: an error of at most 1 / 4094 = 2.45e-4 |
//! | 65,533 | cut: below −32 nats, but not −∞ |
//! | 65,534 | −∞ |
//! | 65,535 | absent: the source did not say |
//!
//! As a number a cut one is the largest f32 below −32, an absent one is NaN. So whatever is read is written as it was.

use super::error::{DecodeError, EncodeError};

/// The most whole steps per nat that leave codes for the three other meanings.
const STEPS: f32 = 2047.0;
const DEEPEST: f32 = -32.0;
const LAST: u16 = 65_504;
const CUT: u16 = 65_533;
const ZERO: u16 = 65_534;
/// The source did not say.
pub const ABSENT: u16 = 65_535;
const FIELD: &str = "realised log-probability";

/// The code of a log-probability; NaN: it is not known.
pub fn encode(log_prob: f32) -> Result<u16, EncodeError> {
    // A rounded log-softmax may be a few units in the last place above 0.
    if log_prob > 1e-5 {
        return Err(EncodeError::BadNumber { field: FIELD, value: log_prob });
    }
    Ok(match log_prob {
        x if x.is_nan() => ABSENT,
        f32::NEG_INFINITY => ZERO,
        x if x < DEEPEST => CUT,
        x => ((-x).max(0.0) * STEPS).round_ties_even() as u16,
    })
}

/// The log-probability of a code.
pub fn decode(code: u16) -> Result<f32, DecodeError> {
    match code {
        0..=LAST => Ok(0.0 - f32::from(code) / STEPS),
        CUT => Ok(f32::from_bits(DEEPEST.to_bits() + 1)),
        ZERO => Ok(f32::NEG_INFINITY),
        ABSENT => Ok(f32::NAN),
        _ => Err(DecodeError::BadNumber(FIELD)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_code_is_one_number_or_none() {
        let mut last = f32::INFINITY;
        for code in 0..=u16::MAX {
            let Ok(value) = decode(code) else {
                assert!((LAST + 1..CUT).contains(&code));
                continue;
            };
            assert_eq!(encode(value), Ok(code));
            assert!(value.is_nan() == (code == ABSENT) && (value < last || code == ABSENT));
            last = value;
        }
    }

    #[test]
    fn meanings_are_told_apart() {
        let codes = [0.0, -0.0, 1e-6, -32.0, -32.000_004, -1e4, f32::MIN, f32::NEG_INFINITY, f32::NAN];
        let expected = [0, 0, 0, LAST, CUT, CUT, CUT, ZERO, ABSENT];
        assert_eq!(codes.map(|value| encode(value).unwrap()), expected);
        for impossible in [1e-4, 1.0, f32::INFINITY] {
            assert!(encode(impossible).is_err());
        }
    }

    proptest! {
        #[test]
        fn errors_are_below_a_four_thousandth_of_a_nat(value in -32f32..=0.0) {
            let back = decode(encode(value).unwrap()).unwrap();
            prop_assert!((f64::from(back) - f64::from(value)).abs() <= 2.5e-4);
        }

        #[test]
        fn codes_grow_with_the_nats(a in -40f32..=0.0, b in -40f32..=0.0) {
            let (a, b) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(encode(a).unwrap() >= encode(b).unwrap());
        }
    }
}
