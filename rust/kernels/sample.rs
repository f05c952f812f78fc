//! One id per row, by inverse CDF over block sums; top-p and min-p by rejection.
//!
//! Order and meaning as in transformers: temperature, then top-k, then top-p, then min-p, each on what the one
//! before has left. Exactly k ids survive top-k, the lowest ids among ties.

use super::element::Element;
use super::philox::{Key, Purpose, uniform};
use super::row::{BLOCK, Summary};
use super::topk::{before, select};
use crate::error::{Class, Error, Result};

/// What to draw from.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// T > 0
    pub temperature: f64,
    /// 0: all
    pub top_k: usize,
    /// 1: all
    pub top_p: f64,
    /// 0: all
    pub min_p: f64,
    /// The most likely id, and nothing random.
    pub greedy: bool,
}

/// Tries at a rejection before the row is sorted instead; the distribution is the same.
const ATTEMPTS: u32 = 32;

impl Sampling {
    /// # Errors
    /// On values outside of their range.
    pub fn check(&self) -> Result<()> {
        let bad = |key: &str, value: f64, range: &str| {
            Err(Error::new(Class::Usage, format!("sampling.{key} = {value} must lie in {range}")))
        };
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return bad("temperature", self.temperature, "(0, ∞); for the most likely id use greedy");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return bad("top_p", self.top_p, "(0, 1]");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return bad("min_p", self.min_p, "[0, 1]");
        }
        Ok(())
    }
}

/// Draws one id.
///
/// # Errors
/// When the row cannot be summed up: see [`Summary::new`].
pub fn sample<E: Element>(row: &[E], number: usize, sampling: &Sampling, seed: u64, key: Key) -> Result<u32> {
    let listed = sampling.top_k > 0 && sampling.top_k < row.len();
    if sampling.greedy || listed {
        let summary = Summary::maxima_only(row, number, sampling.temperature)?;
        if sampling.greedy {
            return Ok(select(row, &summary, 1)[0]);
        }
        let ids = select(row, &summary, sampling.top_k);
        return Ok(from_list(row, &summary, &ids, sampling, uniform(seed, Purpose::Sample(0), key)));
    }
    let summary = Summary::new(row, number, sampling.temperature)?;
    if sampling.top_p >= 1.0 && sampling.min_p <= 0.0 {
        return Ok(draw(row, &summary, uniform(seed, Purpose::Sample(0), key)).0);
    }
    for attempt in 0..ATTEMPTS {
        let (id, power) = draw(row, &summary, uniform(seed, Purpose::Sample(attempt), key));
        let likely = summary.relative(row[id as usize].to_f32()) >= sampling.min_p;
        if likely && summary.mass_above(row, id, power) < sampling.top_p * summary.total {
            return Ok(id);
        }
    }
    let all = select(row, &summary, row.len());
    Ok(from_list(row, &summary, &all, sampling, uniform(seed, Purpose::Sample(ATTEMPTS), key)))
}

/// The id at which the cumulative sum passes u · total, with its power.
fn draw<E: Element>(row: &[E], summary: &Summary, u: f64) -> (u32, f32) {
    let target = u * summary.total;
    let (block, passed) = summary.block_at(target);
    let powers = summary.powers(row, block);
    within(&powers, target - passed).map_or((0, 0.0), |i| ((block * BLOCK + i) as u32, powers[i]))
}

/// The first index whose cumulative sum exceeds `target`; the last one with mass where rounding left none.
fn within(powers: &[f32], target: f64) -> Option<usize> {
    let mut passed = 0.0;
    let mut last = None;
    for (i, power) in powers.iter().enumerate().filter(|(_, power)| **power > 0.0) {
        passed += f64::from(*power);
        last = Some(i);
        if passed > target {
            break;
        }
    }
    last
}

/// Top-p and min-p on `ids` (increasing), then the inverse CDF over what is left.
fn from_list<E: Element>(row: &[E], summary: &Summary, ids: &[u32], sampling: &Sampling, u: f64) -> u32 {
    let power = |id: u32| summary.relative(row[id as usize].to_f32());
    let mut ranked: Vec<(u32, f32)> = ids.iter().map(|id| (*id, row[*id as usize].to_f32())).collect();
    ranked.sort_unstable_by(before);
    let total: f64 = ranked.iter().map(|(id, _)| power(*id)).sum();
    let mut above = 0.0;
    let mut kept: Vec<(u32, f64)> = Vec::new();
    for (id, _) in ranked {
        let own = power(id);
        if above >= sampling.top_p * total || (own < sampling.min_p && !kept.is_empty()) {
            break;
        }
        above += own;
        kept.push((id, own));
    }
    kept.sort_unstable_by_key(|(id, _)| *id);
    let target = u * kept.iter().map(|(_, own)| own).sum::<f64>();
    let mut passed = 0.0;
    let found = kept.iter().find(|(_, own)| {
        passed += own;
        passed > target
    });
    found.or(kept.iter().rev().find(|(_, own)| *own > 0.0)).map_or(0, |(id, _)| *id)
}
