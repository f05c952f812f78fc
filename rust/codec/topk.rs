//! The K most likely ids, their log-probabilities in 7 or 8 bits, and the log of all other mass.
//!
//! A code q of `0..=Q` (Q = 2^bits − 1) means `top − range · (q/Q + (q/Q)²) / 2` nats. The step grows
//! threefold from the most likely id to the least: an error ε in log p costs ½·p·ε² of KL divergence,
//! so likely ids get the finer steps. At 8 bits the KL of the round trip stays below 2e-5 on all
//! families of rows in the tests, at 7 bits below 1e-4. `top`, `range` (rounded up) and the log-tail
//! are f16; the log-tail is the caller's exact one, never 1 − Σp (pitfall 2). A negative `range` says
//! that the last code means −inf.

use half::f16;

use super::bits::{BitReader, BitWriter};
use super::column;
use super::error::{DecodeError, EncodeError};
use super::ids::IdLayout;
use super::shape::{MOST_RANGE, TopKRow, TopKRowMut, TopKShape};
use super::wide::Wide;
use crate::kernels::simd::Level;

/// Shape and sizes of a top-k record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopKLayout {
    shape: TopKShape,
    wide: Option<Wide>,
}

impl TopKLayout {
    /// 1 ≤ k ≤ `vocab_size`; `value_bits` 7 or 8.
    #[must_use]
    pub fn new(k: usize, vocab_size: u32, value_bits: u32, has_tail: bool, num_temperatures: usize) -> Self {
        let ids = IdLayout::new(k, vocab_size, false);
        let shape = TopKShape { k, value_bits, has_tail, num_temperatures, ids };
        Self { shape, wide: Wide::new(&shape) }
    }

    /// The same layout, read and written by another instruction set (or by the best one below it that is there):
    /// the bytes are the same.
    #[must_use]
    pub fn at_level(self, level: Level) -> Self {
        Self { wide: self.wide.map(|wide| wide.at_level(level)), ..self }
    }

    #[must_use]
    pub fn k(&self) -> usize {
        self.shape.k
    }

    #[must_use]
    pub fn has_tail(&self) -> bool {
        self.shape.has_tail
    }

    #[must_use]
    pub fn num_temperatures(&self) -> usize {
        self.shape.num_temperatures
    }

    /// Ids are below this.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.shape.ids.universe()
    }

    /// Bytes of one record.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.shape.stride()
    }

    #[cfg(test)]
    pub(super) fn is_wide(&self) -> bool {
        self.wide.is_some()
    }

    fn top_code(&self) -> u32 {
        (1 << self.shape.value_bits) - 1
    }

    /// Writes one row; `codes` is scratch of K numbers.
    pub fn encode(&self, row: TopKRow<'_>, codes: &mut [u32], record: &mut [u8]) -> Result<(), EncodeError> {
        if self.wide.is_some_and(|wide| wide.encode(&row, record)) {
            return self.encode_tails(&row, record);
        }
        self.encode_plain(row, codes, record)
    }

    /// The log-tails at temperatures: the last of the scalars.
    fn encode_tails(&self, row: &TopKRow<'_>, record: &mut [u8]) -> Result<(), EncodeError> {
        let first = self.shape.scalar_bytes() - 2 * self.shape.num_temperatures;
        for (tail, bytes) in row.log_tail_at.iter().zip(record[first..].chunks_exact_mut(2)) {
            let half = half_of_log("log-tail at a temperature", *tail, false)?;
            bytes.copy_from_slice(&half.to_bits().to_le_bytes());
        }
        Ok(())
    }

    /// `encode` in its plainest form, for rows of any shape: the definition of the format.
    pub(super) fn encode_plain(
        &self,
        row: TopKRow<'_>,
        codes: &mut [u32],
        record: &mut [u8],
    ) -> Result<(), EncodeError> {
        self.shape.ids.check(row.ids)?;
        let scale = Scale::of(row.log_probs)?;
        scale.quantise(row.log_probs, self.top_code(), codes);
        let mut writer = BitWriter::new(record);
        writer.put(scale.top.to_bits().into(), 16);
        writer.put(scale.range.to_bits().into(), 16);
        if self.shape.has_tail {
            writer.put(half_of_log("log-tail", row.log_tail, true)?.to_bits().into(), 16);
        }
        for &tail in row.log_tail_at {
            writer.put(half_of_log("log-tail at a temperature", tail, false)?.to_bits().into(), 16);
        }
        column::put(&mut writer, codes, self.shape.value_bits);
        self.shape.ids.put(&mut writer, row.ids);
        Ok(())
    }

    /// Reads one row; `codes` is scratch of K numbers.
    pub fn decode(
        &self,
        record: &[u8],
        codes: &mut [u32],
        mut row: TopKRowMut<'_>,
    ) -> Result<(), DecodeError> {
        if self.wide.is_some_and(|wide| wide.decode(record, &mut row)) {
            return self.decode_tails(record, &mut row);
        }
        self.decode_plain(record, codes, row)
    }

    fn decode_tails(&self, record: &[u8], row: &mut TopKRowMut<'_>) -> Result<(), DecodeError> {
        let first = self.shape.scalar_bytes() - 2 * self.shape.num_temperatures;
        for (tail, bytes) in row.log_tail_at.iter_mut().zip(record[first..].chunks_exact(2)) {
            let half = f16::from_bits(u16::from_le_bytes([bytes[0], bytes[1]]));
            *tail = log_of_half("log-tail at a temperature", half, false)?;
        }
        Ok(())
    }

    /// `decode` in its plainest form.
    pub(super) fn decode_plain(
        &self,
        record: &[u8],
        codes: &mut [u32],
        row: TopKRowMut<'_>,
    ) -> Result<(), DecodeError> {
        let mut reader = BitReader::new(record);
        let mut scalar = || f16::from_bits(reader.get(16) as u16);
        let scale = Scale { top: scalar(), range: scalar() };
        scale.check()?;
        if self.shape.has_tail {
            *row.log_tail = log_of_half("log-tail", scalar(), true)?;
        }
        for tail in row.log_tail_at {
            *tail = log_of_half("log-tail at a temperature", scalar(), false)?;
        }
        column::get(&mut reader, codes, self.shape.value_bits);
        scale.restore(codes, self.top_code(), row.log_probs);
        self.shape.ids.get(&mut reader, row.ids)?;
        if reader.rest_is_zero() { Ok(()) } else { Err(DecodeError::Padding) }
    }
}

/// Log-tails are −inf where nothing is left; those at T = 1 are not positive.
fn half_of_log(field: &'static str, value: f32, at_one: bool) -> Result<f16, EncodeError> {
    let highest = if at_one { 1e-5 } else { 65_504.0 };
    if value.is_nan() || value > highest {
        return Err(EncodeError::BadNumber { field, value });
    }
    Ok(f16::from_f32(if at_one && value > 0.0 { 0.0 } else { value }))
}

fn log_of_half(field: &'static str, half: f16, at_one: bool) -> Result<f32, DecodeError> {
    let value = half.to_f32();
    let valid = value < f32::INFINITY && !(at_one && value > 0.0);
    if valid { Ok(value) } else { Err(DecodeError::BadNumber(field)) }
}

/// What a row's codes are relative to.
struct Scale {
    top: f16,
    /// Negative: the last code means −inf.
    range: f16,
}

impl Scale {
    fn of(log_probs: &[f32]) -> Result<Self, EncodeError> {
        let mut top = f32::NEG_INFINITY;
        let mut low = f32::INFINITY;
        for &value in log_probs {
            if !(value <= 1e-5) {
                return Err(EncodeError::BadNumber { field: "log-probability", value });
            }
            top = top.max(value);
            low = if value == f32::NEG_INFINITY { low } else { low.min(value) };
        }
        let half = f16::from_f32(if top < 0.0 { top } else { 0.0 });
        if !half.is_finite() {
            return Err(EncodeError::BadNumber { field: "largest log-probability", value: top });
        }
        let range = range_of(half, low);
        let has_zero = log_probs.contains(&f32::NEG_INFINITY);
        Ok(Self { top: half, range: if has_zero { -range } else { range } })
    }

    fn check(&self) -> Result<(), DecodeError> {
        let valid = self.top.is_finite() && self.top.to_f32() <= 0.0 && self.range.is_finite();
        if valid { Ok(()) } else { Err(DecodeError::BadNumber("scale")) }
    }

    fn has_zero(&self) -> bool {
        self.range.is_sign_negative()
    }

    /// q = Q · (√(¼ + 2u) − ½) for u = (top − x) / range in [0, 1], to the nearest.
    fn quantise(&self, log_probs: &[f32], top_code: u32, codes: &mut [u32]) {
        let top = self.top.to_f32();
        let range = self.range.to_f32().abs();
        let inverse = if range > 0.0 { 2.0 / range } else { 0.0 };
        let steps = top_code as f32;
        // With −inf in the row the last code is taken, and finite values stop one below.
        let last = if self.has_zero() { top_code - 1 } else { top_code };
        for (code, &value) in codes.iter_mut().zip(log_probs) {
            if value == f32::NEG_INFINITY {
                *code = top_code;
                continue;
            }
            let doubled = ((top - value) * inverse).clamp(0.0, 2.0);
            *code = (((doubled + 0.25).sqrt() - 0.5) * steps).min(last as f32).round_ties_even() as u32;
        }
    }

    /// x = top − range · q·(q + Q) / (2·Q²): exact integers and two roundings, the same on any SIMD level.
    fn restore(&self, codes: &[u32], top_code: u32, log_probs: &mut [f32]) {
        let top = self.top.to_f32();
        let step = self.range.to_f32().abs() / (2 * top_code * top_code) as f32;
        for (value, &code) in log_probs.iter_mut().zip(codes) {
            *value = top - step * (code * (code + top_code)) as f32;
            if self.has_zero() && code == top_code {
                *value = f32::NEG_INFINITY;
            }
        }
    }
}

/// The smallest f16 that reaches from `top` down to `low`, but no further than `MOST_RANGE`.
fn range_of(top: f16, low: f32) -> f16 {
    let value = (top.to_f32() - low).clamp(0.0, MOST_RANGE);
    let half = f16::from_f32(value);
    if half.to_f32() < value { f16::from_bits(half.to_bits() + 1) } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(
        layout: TopKLayout,
        ids: &[u32],
        log_probs: &[f32],
        tail: f32,
    ) -> (Vec<u32>, Vec<f32>, f32) {
        let k = layout.k();
        let mut record = vec![0u8; layout.stride()];
        let mut codes = vec![0u32; k];
        let row = TopKRow { ids, log_probs, log_tail: tail, log_tail_at: &[] };
        layout.encode(row, &mut codes, &mut record).unwrap();
        let (mut ids, mut log_probs, mut log_tail) = (vec![0u32; k], vec![0f32; k], 0f32);
        let row = TopKRowMut {
            ids: &mut ids,
            log_probs: &mut log_probs,
            log_tail: &mut log_tail,
            log_tail_at: &mut [],
        };
        layout.decode(&record, &mut codes, row).unwrap();
        (ids, log_probs, log_tail)
    }

    /// Bytes per token, as the file format fixes them.
    #[test]
    fn records_are_as_small_as_promised() {
        assert_eq!(TopKLayout::new(64, 151_936, 8, true, 0).stride(), 176);
        assert_eq!(TopKLayout::new(64, 151_936, 7, true, 0).stride(), 168);
    }

    #[test]
    fn a_row_comes_back_within_its_step() {
        let layout = TopKLayout::new(4, 1000, 8, true, 0);
        let log_probs = [-3.25f32, -0.125, -9.5, -4.0];
        let (ids, back, tail) = round_trip(layout, &[3, 500, 501, 999], &log_probs, -6.0);
        assert_eq!(ids, [3, 500, 501, 999]);
        assert_eq!(tail, -6.0);
        for (a, b) in log_probs.iter().zip(&back) {
            assert!((a - b).abs() < 9.4 * 1.5 / 255.0, "{a} {b}");
        }
        assert_eq!(back[1], -0.125);
    }

    #[test]
    fn rows_with_nothing_below_come_back() {
        let layout = TopKLayout::new(3, 10, 8, true, 0);
        let inf = f32::NEG_INFINITY;
        let (_, back, tail) = round_trip(layout, &[0, 4, 9], &[-1e-8, inf, -12.0], inf);
        assert_eq!(tail, inf);
        assert_eq!(back[1], inf);
        assert!(back[0].abs() < 1e-6 && (back[2] + 12.0).abs() < 0.08);
    }

    /// A server's −9999, a mask's lowest float: the other ids keep their steps.
    #[test]
    fn a_stand_in_for_nothing_takes_no_steps_from_the_others() {
        let layout = TopKLayout::new(4, 32, 8, true, 0);
        for low in [-60.0f32, -100.0, -9999.0, f32::MIN] {
            let (_, back, _) = round_trip(layout, &[3, 5, 6, 9], &[-0.105, -2.5, -4.0, low], -6.0);
            for (a, b) in [-0.105f32, -2.5, -4.0].iter().zip(&back) {
                assert!((a - b).abs() < 0.08, "{low}: {a} {b}");
            }
            assert!((back[3] + 40.105).abs() < 0.01);
        }
    }

    #[test]
    fn equal_log_probs_come_back_as_one_value() {
        let layout = TopKLayout::new(8, 64, 8, true, 0);
        let ids: Vec<u32> = (0..8).collect();
        let (_, back, _) = round_trip(layout, &ids, &[-4.125; 8], -0.13);
        assert_eq!(back, [-4.125; 8]);
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        let layout = TopKLayout::new(1, 10, 8, true, 0);
        let mut record = vec![0u8; layout.stride()];
        for (log_prob, log_tail) in
            [(f32::NAN, -1.0), (0.5, -1.0), (-1.0, f32::NAN), (-1.0, 0.5), (f32::NEG_INFINITY, -1.0)]
        {
            let row = TopKRow { ids: &[3], log_probs: &[log_prob], log_tail, log_tail_at: &[] };
            assert!(matches!(layout.encode(row, &mut [0], &mut record), Err(EncodeError::BadNumber { .. })));
        }
    }
}
