//! Whole distributions: little-endian f32, bit for bit what the teacher's log-softmax gave.
//!
//! Halving them to f16 would put an error of up to 2^-11 relative (0.004 nats at −10) on every
//! target; f32 is what a live teacher would hand to the loss, so that a dense cache changes nothing.

use super::error::{DecodeError, EncodeError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DenseLayout {
    vocab_size: u32,
}

impl DenseLayout {
    #[must_use]
    pub fn new(vocab_size: u32) -> Self {
        Self { vocab_size }
    }

    /// Ids are below this.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Bytes of one record.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.vocab_size as usize * 4
    }

    /// Whether a row can be kept: −inf is allowed, NaN and positive values are not.
    pub fn check(self, log_probs: &[f32]) -> Result<(), EncodeError> {
        // All of them first, without a way out: sixteen at a time. Then the one that is wrong, if any.
        if log_probs.iter().fold(true, |good, &value| good & is_log_prob(value)) {
            return Ok(());
        }
        let value = log_probs.iter().copied().find(|&value| !is_log_prob(value)).unwrap_or(f32::NAN);
        Err(EncodeError::BadNumber { field: "log-probability", value })
    }

    /// Writes one row of log-probabilities that `check` lets pass.
    pub fn encode(&self, log_probs: &[f32], record: &mut [u8]) -> Result<(), EncodeError> {
        self.check(log_probs)?;
        for (bytes, &value) in record.chunks_exact_mut(4).zip(log_probs) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    /// Reads one row.
    pub fn decode(&self, record: &[u8], log_probs: &mut [f32]) -> Result<(), DecodeError> {
        let mut valid = true;
        for (bytes, value) in record.chunks_exact(4).zip(log_probs) {
            *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            valid &= is_log_prob(*value);
        }
        if valid { Ok(()) } else { Err(DecodeError::BadNumber("log-probability")) }
    }
}

/// A rounded log-softmax may be a few units in the last place above 0.
fn is_log_prob(value: f32) -> bool {
    value <= 1e-5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back_bit_for_bit() {
        let row = [-0.0, -1.5e-8, -20.25, f32::NEG_INFINITY, 1e-7];
        let layout = DenseLayout::new(5);
        let mut record = vec![0u8; layout.stride()];
        layout.encode(&row, &mut record).unwrap();
        let mut back = [0f32; 5];
        layout.decode(&record, &mut back).unwrap();
        assert_eq!(row.map(f32::to_bits), back.map(f32::to_bits));
    }

    #[test]
    fn nan_and_positive_values_are_refused() {
        let layout = DenseLayout::new(1);
        for value in [f32::NAN, 0.5, f32::INFINITY] {
            assert!(layout.encode(&[value], &mut [0; 4]).is_err());
            assert!(layout.decode(&value.to_le_bytes(), &mut [0.0]).is_err());
        }
    }
}
