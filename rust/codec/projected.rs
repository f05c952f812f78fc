//! Wᵀp for a frozen head W, and the entropy of p: all that forward KL needs of a teacher.
//!
//! | bytes | content |
//! |---|---|
//! | 0 – 3 | f32 entropy of p in nats |
//! | 4 – 7 | f32 scale: the largest size among the numbers |
//! | then | d codes of 2 bytes (f16 of number / scale) or of 1 (FP8 E4M3 of 448 · number / scale) |
//!
//! So the largest number has the largest code, and a number x is off by at most 2^-11·|x| + 2^-25·scale as f16, and
//! 2^-4·|x| + 2^-19·scale as FP8 (half a step below the smallest normal one is 2^-10 of 448). Zeros are +0.

use half::f16;

use super::error::{DecodeError, EncodeError};

const HEAD_BYTES: usize = 8;
const ENTROPY: &str = "entropy";
const SCALE: &str = "scale";
const NUMBER: &str = "projected number";
/// The largest E4M3 number, and its code.
const MOST: f32 = 448.0;
const MOST_CODE: u8 = 0x7e;
const SIGN: u8 = 0x80;

/// d numbers in 16 or 8 bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectedLayout {
    width: usize,
    vocab_size: u32,
    bits: u32,
}

impl ProjectedLayout {
    /// `bits`: 16 or 8.
    #[must_use]
    pub fn new(width: usize, vocab_size: u32, bits: u32) -> Self {
        Self { width, vocab_size, bits }
    }

    /// Numbers of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of one record.
    #[must_use]
    pub fn stride(&self) -> usize {
        HEAD_BYTES + self.width * self.bits as usize / 8
    }

    /// Writes one row.
    pub fn encode(&self, entropy: f32, numbers: &[f32], record: &mut [u8]) -> Result<(), EncodeError> {
        if !(entropy.is_finite() && entropy >= 0.0) {
            return Err(EncodeError::BadNumber { field: ENTROPY, value: entropy });
        }
        if let Some(&value) = numbers.iter().find(|value| !value.is_finite()) {
            return Err(EncodeError::BadNumber { field: NUMBER, value });
        }
        let scale = numbers.iter().fold(0f32, |most, value| most.max(value.abs()));
        record[..4].copy_from_slice(&(entropy + 0.0).to_le_bytes());
        record[4..HEAD_BYTES].copy_from_slice(&scale.to_le_bytes());
        let codes = &mut record[HEAD_BYTES..];
        // By division, so that a scale below the smallest normal number does no harm.
        let share = |value: f32| if scale == 0.0 { 0.0 } else { value / scale };
        if self.bits == 16 {
            for (code, &value) in codes.chunks_exact_mut(2).zip(numbers) {
                code.copy_from_slice(&positive_zero(f16::from_f32(share(value))).to_bits().to_le_bytes());
            }
        } else {
            for (code, &value) in codes.iter_mut().zip(numbers) {
                *code = to_e4m3(share(value) * MOST);
            }
        }
        Ok(())
    }

    /// Reads one row; returns its entropy.
    pub fn decode(&self, record: &[u8], numbers: &mut [f32]) -> Result<f32, DecodeError> {
        let float =
            |at: usize| f32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
        let (entropy, scale) = (float(0), float(4));
        if !(entropy.is_finite() && entropy.is_sign_positive()) {
            return Err(DecodeError::BadNumber(ENTROPY));
        }
        if !(scale.is_finite() && scale.is_sign_positive()) {
            return Err(DecodeError::BadNumber(SCALE));
        }
        let codes = &record[HEAD_BYTES..];
        let mut most = 0f32;
        let mut put = |number: &mut f32, share: Option<f32>| {
            let share = share.filter(|share| share.abs() <= 1.0).ok_or(DecodeError::BadNumber(NUMBER))?;
            most = most.max(share.abs());
            *number = share * scale;
            Ok(())
        };
        if self.bits == 16 {
            for (code, number) in codes.chunks_exact(2).zip(numbers) {
                let half = f16::from_bits(u16::from_le_bytes([code[0], code[1]]));
                put(number, (half.to_bits() != 0x8000).then_some(half.to_f32()))?;
            }
        } else {
            for (&code, number) in codes.iter().zip(numbers) {
                put(number, from_e4m3(code).map(|value| value / MOST))?;
            }
        }
        // One number is as large as the scale says, or all are 0.
        if most == if scale == 0.0 { 0.0 } else { 1.0 } {
            Ok(entropy)
        } else {
            Err(DecodeError::BadNumber(SCALE))
        }
    }
}

fn positive_zero(half: f16) -> f16 {
    if half == f16::ZERO { f16::ZERO } else { half }
}

/// FP8 E4M3 of a number in [−448, 448], ties to even; never −0.
fn to_e4m3(value: f32) -> u8 {
    let size = value.abs().min(MOST);
    let code = if size < 2f32.powi(-6) {
        (size * 512.0).round_ties_even() as u8
    } else {
        let bits = size.to_bits();
        // The upper 3 bits of the mantissa, rounded; a carry moves the exponent on. Exponents begin at 127 − 7.
        (((bits + 0x7_ffff + (bits >> 20 & 1)) >> 20) - (120 << 3)) as u8
    };
    if value < 0.0 && code != 0 { code | SIGN } else { code }
}

/// None for NaN and −0.
fn from_e4m3(code: u8) -> Option<f32> {
    let size = code & !SIGN;
    if code == SIGN || size > MOST_CODE {
        return None;
    }
    let (exponent, mantissa) = (i32::from(size >> 3), f32::from(size & 7));
    let value =
        if exponent == 0 { mantissa / 512.0 } else { (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7) };
    Some(if code & SIGN == 0 { value } else { -value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_fp8_code_is_one_number_or_none() {
        let mut values = Vec::new();
        for code in 0..=u8::MAX {
            let Some(value) = from_e4m3(code) else {
                assert!(code == SIGN || code & !SIGN == 0x7f);
                continue;
            };
            assert_eq!(to_e4m3(value), code);
            values.push(value);
        }
        assert_eq!((values.len(), values.iter().copied().fold(0.0, f32::max)), (253, MOST));
    }

    #[test]
    fn fp8_rounds_to_the_nearest() {
        let all: Vec<f32> = (0..=MOST_CODE).filter_map(from_e4m3).collect();
        for pair in all.windows(2) {
            let middle = f32::midpoint(pair[0], pair[1]);
            for (value, expected) in [(middle * 0.9999, pair[0]), (middle * 1.0001, pair[1])] {
                let near = if (value - pair[0]).abs() < (value - pair[1]).abs() { pair[0] } else { pair[1] };
                assert_eq!((from_e4m3(to_e4m3(value)), near), (Some(expected), expected));
            }
        }
    }

    #[test]
    fn what_no_row_would_have_written_is_refused() {
        for bits in [16, 8] {
            let layout = ProjectedLayout::new(3, 9, bits);
            let mut record = vec![0; layout.stride()];
            layout.encode(1.5, &[0.25, -2.0, 1e-30], &mut record).unwrap();
            assert_eq!(layout.decode(&record, &mut [0.0; 3]), Ok(1.5));
            for (at, byte) in [(3, 0x80), (3, 0x7f), (7, 0x80), (record.len() - 1, 0x7f)] {
                let mut bad = record.clone();
                bad[at] = byte;
                assert!(layout.decode(&bad, &mut [0.0; 3]).is_err(), "{bits} {at} {byte}");
            }
            let mut endless = record.clone();
            endless[4..HEAD_BYTES].copy_from_slice(&f32::INFINITY.to_le_bytes());
            assert!(layout.decode(&endless, &mut [0.0; 3]).is_err());
            let mut flat = record.clone();
            flat[HEAD_BYTES..].fill(0); // no number is as large as the scale
            assert!(layout.decode(&flat, &mut [0.0; 3]).is_err());
            for (entropy, number) in [(-1.0, 0.0), (f32::NAN, 0.0), (0.0, f32::INFINITY), (0.0, f32::NAN)] {
                assert!(layout.encode(entropy, &[number, 0.0, 0.0], &mut record).is_err());
            }
        }
    }

    proptest! {
        #[test]
        fn errors_are_within_the_bounds(numbers in prop::collection::vec(-1e3f32..1e3, 1..40), power in -60i32..60) {
            let numbers: Vec<f32> = numbers.iter().map(|x| x * 2f32.powi(power)).collect();
            let scale = numbers.iter().fold(0f32, |most, x| most.max(x.abs()));
            for (bits, relative, least) in [(16, 2f32.powi(-11), 2f32.powi(-25)), (8, 2f32.powi(-4), 2f32.powi(-19))] {
                let layout = ProjectedLayout::new(numbers.len(), 9, bits);
                let (mut record, mut back) = (vec![0; layout.stride()], vec![0.0; numbers.len()]);
                layout.encode(0.5, &numbers, &mut record).unwrap();
                prop_assert_eq!(layout.decode(&record, &mut back), Ok(0.5));
                for (x, y) in numbers.iter().zip(&back) {
                    prop_assert!((x - y).abs() <= 1.0001 * (relative * x.abs() + least * scale), "{} {}", x, y);
                }
                let mut again = vec![0; record.len()];
                layout.encode(0.5, &back, &mut again).unwrap();
                prop_assert_eq!(again, record);
            }
        }

        #[test]
        fn any_bytes_are_an_error_or_are_written_again(bytes in prop::collection::vec(any::<u8>(), 24), wide: bool) {
            let layout = ProjectedLayout::new(if wide { 8 } else { 16 }, 9, if wide { 16 } else { 8 });
            let mut numbers = vec![0.0; layout.width()];
            if let Ok(entropy) = layout.decode(&bytes, &mut numbers) {
                let mut again = vec![0; bytes.len()];
                if layout.encode(entropy, &numbers, &mut again).is_ok() {
                    let mut back = vec![0.0; numbers.len()];
                    prop_assert_eq!(layout.decode(&again, &mut back), Ok(entropy));
                }
            }
        }
    }
}
