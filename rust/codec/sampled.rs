//! Threshold-sampled ids, their weights, τ and the entropy: unbiased after the round trip.
//!
//! Ids that were drawn weigh τ and need no value of their own; ids with p ≥ τ weigh p. A 4-bit code c
//! means `τ + (largest − τ) · (c/15)²`: 0 is τ, 15 the largest weight. τ and the largest weight are
//! kept in 15 bits, rounded up or down at random by one shared number so that their expectations are
//! exact; weights that share a rounding cell with one of them are rounded by the same number, which
//! keeps every weight between the two; all others are rounded at random to a level of the code. So
//! E[decoded weight] = weight for each (pitfall 8). The entropy has steps of 2^-10 nats, rounded at
//! random. Unused places repeat the last id: the count needs no bits.

use super::bits::{BitReader, BitWriter};
use super::column;
use super::dither::Dither;
use super::error::{DecodeError, EncodeError};
use super::few::Few;
use super::ids::IdLayout;
use super::minifloat;
use super::sampled_row::{
    ENTROPY_BITS, ENTROPY_STEPS, FLOAT_BITS, LAST_CODE, Levels, SampledRow, SampledRowMut, WEIGHT_BITS,
    entropy_code, is_entropy, is_tau, is_weight, round_in_cell,
};
use crate::kernels::simd::Level;

/// Ids of records that are encoded without an allocation.
const FEW: usize = 64;

/// Shape and sizes of a sampled record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampledLayout {
    k: usize,
    ids: IdLayout,
    few: Option<Few>,
}

impl SampledLayout {
    /// 1 ≤ k ≤ `vocab_size`.
    #[must_use]
    pub fn new(k: usize, vocab_size: u32) -> Self {
        let ids = IdLayout::new(k, vocab_size, true);
        Self { k, ids, few: Few::new(k, ids) }
    }

    /// The same layout, read and written by another instruction set (or by the best one below it that is there):
    /// the bytes are the same.
    #[must_use]
    pub fn at_level(self, level: Level) -> Self {
        Self { few: self.few.map(|few| few.at_level(level)), ..self }
    }

    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Ids are below this.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.ids.universe()
    }

    /// Bytes of one record.
    #[must_use]
    pub fn stride(&self) -> usize {
        let bits = 2 * FLOAT_BITS + ENTROPY_BITS + WEIGHT_BITS * self.k as u32;
        (bits as usize + self.ids.bits()).div_ceil(8)
    }

    /// Writes one row, rounding by `dither`.
    pub fn encode(&self, row: SampledRow<'_>, dither: Dither, record: &mut [u8]) -> Result<(), EncodeError> {
        if self.few.is_some_and(|few| few.encode(&row, dither, record)) {
            return Ok(());
        }
        self.encode_plain(row, dither, record)
    }

    /// `encode` in its plainest form, for any number of ids: the definition of the format.
    pub(super) fn encode_plain(
        &self,
        row: SampledRow<'_>,
        dither: Dither,
        record: &mut [u8],
    ) -> Result<(), EncodeError> {
        let count = row.count;
        if count == 0 || count > self.k {
            return Err(EncodeError::BadCount { count: count as i64, k: self.k });
        }
        if self.ids.check(&row.ids[..count])? != count {
            return Err(EncodeError::IdsNotIncreasing { at: count });
        }
        check_numbers(&row)?;
        // No allocation for records of a usual size: it would cost as much as all the rest.
        let (mut few, mut many) = ([0; 2 * FEW], Vec::new());
        if self.k > FEW {
            many.resize(2 * self.k, 0);
        }
        let scratch = if self.k > FEW { &mut many[..] } else { &mut few[..2 * self.k] };
        let (ids, codes) = scratch.split_at_mut(self.k);
        ids[..count].copy_from_slice(&row.ids[..count]);
        ids[count..].fill(row.ids[count - 1]);
        let rounding = Rounding::of(&row, dither);
        for (i, code) in codes[..count].iter_mut().enumerate() {
            *code = rounding.code(row.weights[i], dither.uniform(2 + i as u64));
        }
        let mut writer = BitWriter::new(record);
        writer.put(rounding.levels.tau, FLOAT_BITS);
        writer.put(rounding.levels.largest, FLOAT_BITS);
        writer.put(entropy_code(row.entropy, dither.uniform(1)), ENTROPY_BITS);
        column::put(&mut writer, codes, WEIGHT_BITS);
        self.ids.put(&mut writer, ids);
        Ok(())
    }

    /// Reads one row; `codes` is scratch of K numbers.
    pub fn decode(
        &self,
        record: &[u8],
        codes: &mut [u32],
        mut row: SampledRowMut<'_>,
    ) -> Result<(), DecodeError> {
        if self.few.is_some_and(|few| few.decode(record, &mut row)) {
            return Ok(());
        }
        self.decode_plain(record, codes, row)
    }

    /// `decode` in its plainest form.
    pub(super) fn decode_plain(
        &self,
        record: &[u8],
        codes: &mut [u32],
        row: SampledRowMut<'_>,
    ) -> Result<(), DecodeError> {
        let mut reader = BitReader::new(record);
        let levels = Levels { tau: reader.get(FLOAT_BITS), largest: reader.get(FLOAT_BITS) };
        levels.check()?;
        *row.tau = minifloat::value(levels.tau);
        *row.entropy = reader.get(ENTROPY_BITS) as f32 / ENTROPY_STEPS;
        column::get(&mut reader, codes, WEIGHT_BITS);
        let count = self.ids.get(&mut reader, row.ids)?;
        let table = levels.table();
        for (i, (weight, &code)) in row.weights.iter_mut().zip(&*codes).enumerate() {
            *weight = if i < count { table[code as usize] } else { 0.0 };
        }
        *row.count = count as i32;
        let unused_is_zero = codes[count..].iter().all(|&code| code == 0);
        if unused_is_zero && reader.rest_is_zero() { Ok(()) } else { Err(DecodeError::Padding) }
    }
}

/// One row's random rounding.
struct Rounding {
    levels: Levels,
    table: [f32; 1 << WEIGHT_BITS],
    tau_cell: u32,
    largest_cell: u32,
    uniform: f32,
}

impl Rounding {
    fn of(row: &SampledRow<'_>, dither: Dither) -> Self {
        let uniform = dither.uniform(0);
        let largest = row.weights[..row.count].iter().fold(row.tau, |a, &b| a.max(b));
        let (tau_cell, largest_cell) = (minifloat::floor(row.tau), minifloat::floor(largest));
        let levels = Levels {
            tau: round_in_cell(row.tau, tau_cell, uniform),
            largest: round_in_cell(largest, largest_cell, uniform),
        };
        Self { levels, table: levels.table(), tau_cell, largest_cell, uniform }
    }

    /// The code of one weight: first onto the grid if it shares a cell with τ or the largest, then
    /// to one of the two neighbouring levels with probabilities that keep the expectation.
    fn code(&self, weight: f32, uniform: f32) -> u32 {
        let cell = minifloat::floor(weight);
        let weight = if cell == self.tau_cell || cell == self.largest_cell {
            minifloat::value(round_in_cell(weight, cell, self.uniform))
        } else {
            weight
        };
        // Levels do not decrease, so that counting them finds the first that is larger, without a branch for each.
        let above = self.table.iter().filter(|&&level| level <= weight).count();
        if above == 0 || above == self.table.len() {
            // At or above the largest, or (by a rounding error) below τ.
            return if weight <= self.table[0] { 0 } else { LAST_CODE };
        }
        let (low, high) = (self.table[above - 1], self.table[above]);
        let up = uniform * (high - low) < weight - low;
        (above - 1 + usize::from(up)) as u32
    }
}

fn check_numbers(row: &SampledRow<'_>) -> Result<(), EncodeError> {
    let bad = |field, value| Err(EncodeError::BadNumber { field, value });
    if !is_tau(row.tau) {
        return bad("tau", row.tau);
    }
    if !is_entropy(row.entropy) {
        return bad("entropy", row.entropy);
    }
    match row.weights[..row.count].iter().find(|&&weight| !is_weight(weight, row.tau)) {
        Some(&weight) => bad("weight", weight),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(
        layout: SampledLayout,
        row: SampledRow<'_>,
        key: u64,
    ) -> (Vec<u32>, Vec<f32>, i32, f32, f32) {
        let k = layout.k();
        let mut record = vec![0u8; layout.stride()];
        layout.encode(row, Dither::new(3, [key, 0, 0]), &mut record).unwrap();
        let (mut ids, mut weights, mut codes) = (vec![0u32; k], vec![0f32; k], vec![0u32; k]);
        let (mut count, mut tau, mut entropy) = (0, 0.0, 0.0);
        let into = SampledRowMut {
            ids: &mut ids,
            weights: &mut weights,
            count: &mut count,
            tau: &mut tau,
            entropy: &mut entropy,
        };
        layout.decode(&record, &mut codes, into).unwrap();
        (ids, weights, count, tau, entropy)
    }

    /// Bytes per token, as the file format fixes them.
    #[test]
    fn records_are_as_small_as_promised() {
        assert_eq!(SampledLayout::new(16, 151_936).stride(), 44);
        assert_eq!(SampledLayout::new(4, 151_936).stride(), 16);
    }

    /// Weights rounded deterministically bias the target (pitfall 8). Every weight's mean over many draws
    /// is within four standard errors of the weight; τ and the entropy likewise.
    #[test]
    fn expectation_after_decoding_is_the_weight() {
        let layout = SampledLayout::new(8, 1000);
        // Heads far above τ, in τ's own rounding cell, equal to the largest, and drawn ids at τ.
        let tau = 0.010_003;
        let weights = [0.612_3, 0.07, 0.611_9, tau, 0.010_01, 0.031, tau, 0.612_3];
        let ids = [1, 20, 30, 31, 64, 500, 998, 999];
        let row = SampledRow { ids: &ids, weights: &weights, count: 8, tau, entropy: 1.234_5 };
        let n = 40_000u64;
        let (mut sums, mut squares) = ([0f64; 10], [0f64; 10]);
        for key in 0..n {
            let (_, decoded, _, tau, entropy) = round_trip(layout, row, key);
            let all = decoded.iter().copied().chain([tau, entropy]);
            for (i, value) in all.enumerate() {
                sums[i] += f64::from(value);
                squares[i] += f64::from(value).powi(2);
            }
        }
        for (i, &expected) in weights.iter().chain(&[tau, 1.234_5]).enumerate() {
            let mean = sums[i] / n as f64;
            let variance = (squares[i] / n as f64 - mean * mean).max(0.0);
            let error = (variance / n as f64).sqrt();
            let expected = f64::from(expected);
            assert!((mean - expected).abs() <= 4.0 * error + 1e-7, "{i}: {mean} {expected} ± {error}");
        }
    }

    /// Trap 8: a stored τ stays positive on peaked rows, and drawn ids weigh exactly τ.
    #[test]
    fn peaked_rows_keep_their_tau() {
        let layout = SampledLayout::new(4, 100);
        let row = SampledRow {
            ids: &[3, 4, 50, 99],
            weights: &[0.999_99, 2.5e-9, 2.5e-9, 2.5e-9],
            count: 4,
            tau: 2.5e-9,
            entropy: 1e-4,
        };
        for key in 0..100 {
            let (_, weights, _, tau, _) = round_trip(layout, row, key);
            assert!(tau > 0.0 && weights[1..] == [tau; 3]);
            assert!((weights[0] - 0.999_99).abs() < 0.002);
        }
    }

    /// −0.0 is a probability of 0, also as τ and as a weight.
    #[test]
    fn a_negative_zero_is_zero() {
        let layout = SampledLayout::new(2, 100);
        let row = SampledRow { ids: &[3, 4], weights: &[-0.0, 0.5], count: 2, tau: -0.0, entropy: -0.0 };
        let (_, weights, count, tau, entropy) = round_trip(layout, row, 1);
        assert_eq!((weights[0], count, tau, entropy), (0.0, 2, 0.0, 0.0));
        assert!((weights[1] - 0.5).abs() < 1e-3);
        let row = SampledRow { weights: &[-0.0, -0.0], ..row };
        assert_eq!(round_trip(layout, row, 1).1, [0.0; 2]);
    }

    #[test]
    fn fewer_ids_than_places_keep_their_count() {
        let layout = SampledLayout::new(4, 100);
        for count in 1..=4 {
            let ids = [3, 4, 50, 99];
            let weights = [0.25f32; 4];
            let row = SampledRow { ids: &ids, weights: &weights, count, tau: 0.25, entropy: 0.5 };
            let (back, weights, got, ..) = round_trip(layout, row, 1);
            assert_eq!(got, count as i32);
            assert_eq!(back[..count], ids[..count]);
            assert!(back[count..].iter().all(|&id| id == ids[count - 1]));
            assert_eq!(weights[..count], [0.25; 4][..count]);
            assert!(weights[count..].iter().all(|&w| w == 0.0));
        }
    }

    #[test]
    fn impossible_rows_are_refused() {
        let layout = SampledLayout::new(2, 100);
        let good = SampledRow { ids: &[3, 4], weights: &[0.5, 0.5], count: 2, tau: 0.5, entropy: 0.7 };
        let mut record = vec![0u8; layout.stride()];
        let mut refused = |row| layout.encode(row, Dither::new(0, [0; 3]), &mut record).is_err();
        assert!(!refused(good));
        assert!(refused(SampledRow { count: 0, ..good }));
        assert!(refused(SampledRow { count: 3, ..good }));
        assert!(refused(SampledRow { tau: f32::NAN, ..good }));
        assert!(refused(SampledRow { entropy: f32::INFINITY, ..good }));
        assert!(refused(SampledRow { weights: &[0.5, 0.1], ..good }));
        assert!(refused(SampledRow { ids: &[4, 4], ..good }));
        assert!(refused(SampledRow { ids: &[4, 100], ..good }));
    }
}
