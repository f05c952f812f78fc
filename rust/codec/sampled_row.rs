//! A sampled row and the numbers of its record, for the plain codec ([`super::sampled`]) and the fast one ([`super::few`]).

use super::error::DecodeError;
use super::minifloat;

pub(super) const WEIGHT_BITS: u32 = 4;
pub(super) const LAST_CODE: u32 = (1 << WEIGHT_BITS) - 1;
pub(super) const FLOAT_BITS: u32 = 15;
pub(super) const ENTROPY_BITS: u32 = 14;
pub(super) const ENTROPY_STEPS: f32 = 1024.0; // per nat: 14 bits reach 16 nats, the entropy of 8.9 million ids

/// One row to write; entries from `count` on are not looked at.
#[derive(Debug, Clone, Copy)]
pub struct SampledRow<'a> {
    pub ids: &'a [u32],
    pub weights: &'a [f32],
    pub count: usize,
    pub tau: f32,
    pub entropy: f32,
}

/// Where one row is read to; entries from `count` on repeat the last id with weight 0.
#[derive(Debug)]
pub struct SampledRowMut<'a> {
    pub ids: &'a mut [u32],
    pub weights: &'a mut [f32],
    pub count: &'a mut i32,
    pub tau: &'a mut f32,
    pub entropy: &'a mut f32,
}

/// A rounded sum of probabilities may be so far above 1.
const MOST: f32 = 1.0 + 1e-5;

#[inline(always)]
pub(super) fn is_tau(tau: f32) -> bool {
    (0.0..=MOST).contains(&tau)
}

#[inline(always)]
pub(super) fn is_entropy(entropy: f32) -> bool {
    (-1e-4..16.0).contains(&entropy)
}

/// A weight of p ≥ τ may be a rounding error below τ.
#[inline(always)]
pub(super) fn is_weight(weight: f32, tau: f32) -> bool {
    (tau * (1.0 - 1e-4)..=MOST).contains(&weight)
}

#[inline(always)]
pub(super) fn entropy_code(entropy: f32, uniform: f32) -> u32 {
    let scaled = entropy.max(0.0) * ENTROPY_STEPS + uniform;
    (scaled as u32).min((1 << ENTROPY_BITS) - 1)
}

/// The two stored numbers between which the weights are, as codes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels {
    pub(super) tau: u32,
    pub(super) largest: u32,
}

impl Levels {
    #[inline(always)]
    pub(super) fn check(self) -> Result<(), DecodeError> {
        let valid = self.tau <= self.largest && self.largest <= minifloat::ONE;
        if valid { Ok(()) } else { Err(DecodeError::BadNumber("tau or largest weight")) }
    }

    /// The weight of each code.
    pub(super) fn table(self) -> [f32; 1 << WEIGHT_BITS] {
        let scale = self.scale();
        std::array::from_fn(|code| scale.weight(code as u32))
    }

    #[inline(always)]
    pub(super) fn scale(self) -> Scale {
        let (tau, largest) = (minifloat::value(self.tau), minifloat::value(self.largest));
        Scale { tau, largest, step: (largest - tau) / (LAST_CODE * LAST_CODE) as f32 }
    }
}

/// What codes mean in one record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub(super) tau: f32,
    pub(super) largest: f32,
    step: f32,
}

impl Scale {
    #[inline(always)]
    pub(super) fn weight(self, code: u32) -> f32 {
        if code == LAST_CODE { self.largest } else { self.tau + self.step * (code * code) as f32 }
    }
}

#[inline(always)]
pub(super) fn round_in_cell(value: f32, cell: u32, uniform: f32) -> u32 {
    cell + u32::from(uniform < minifloat::fraction(value, cell))
}
