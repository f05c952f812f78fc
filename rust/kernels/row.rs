//! One row of logits, summed up block by block.

use super::element::Element;
use super::exp::Origin;
use super::pass::{Blocks, GROUP, Maxima, Sums};
use super::simd::{self, Level};
use super::sweep::{Above, Below, Moment, Weights};
use crate::error::{Class, Error, Result};

pub use super::pass::BLOCK;

/// A row with its blocks' maxima and sums of exponentials, at one temperature.
///
/// Sums, powers and the total are in one unit, a power of two near the largest of them; what has no unit is
/// [`Summary::probability`] and what is named after logarithms.
#[derive(Debug)]
pub struct Summary {
    level: Level,
    origin: Origin,
    inverse_temperature: f64,
    /// max of each block
    pub maxima: Vec<f32>,
    /// Σ of the powers of each block; next to nothing, but not 0, where all are −∞
    pub sums: Vec<f32>,
    /// Σ over sixteen blocks each
    groups: Vec<f64>,
    /// max of the row
    pub highest: f32,
    /// Σ over the row
    pub total: f64,
}

/// Sums below it count as 0: more than all the 2^-124 that a row's −∞ add up to, less than a draw can notice.
const NOTHING: f32 = 7.9e-31;
/// A tail above this share of the total is exact: 2^18 times 2^-124 are less than 1e-7 of it.
const SHALLOW: f64 = 1e-24;

impl Summary {
    /// Sums `row` up.
    ///
    /// # Errors
    /// When the row holds NaN or +∞, or nothing but −∞; the error names `number`.
    pub fn new<E: Element>(row: &[E], number: usize, temperature: f64) -> Result<Self> {
        let level = simd::level()?;
        let inverse_temperature = 1.0 / temperature;
        let (mut blocks, origin) = pass(level, row, inverse_temperature);
        let groups = rebase(&mut blocks, origin.base);
        let Blocks { maxima, sums, highest, .. } = blocks;
        let total: f64 = groups.iter().sum();
        if total.is_nan() || highest.is_infinite() {
            return Err(unusable(row, number, highest));
        }
        Ok(Self {
            level,
            origin,
            inverse_temperature: 1.0 / temperature,
            maxima,
            sums,
            groups,
            highest,
            total,
        })
    }

    /// The maxima alone, which is all that top-k needs: no sums, and a total of 0.
    ///
    /// # Errors
    /// As [`Summary::new`].
    pub fn maxima_only<E: Element>(row: &[E], number: usize, temperature: f64) -> Result<Self> {
        let level = simd::level()?;
        let Blocks { maxima, sums, highest, nan, .. } = simd::dispatch(level, Maxima(row));
        if nan || highest.is_infinite() {
            return Err(unusable(row, number, highest));
        }
        let origin = Origin::at(highest, 0.0, 1.0);
        let groups = Vec::new();
        let inverse_temperature = 1.0 / temperature;
        Ok(Self { level, origin, inverse_temperature, maxima, sums, groups, highest, total: 0.0 })
    }

    /// The instruction set of everything that looks into this row.
    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// log Σ exp(x/T)
    pub fn logsumexp(&self) -> f64 {
        // The row's own maximum is where the rounding of 1/T to f32 is undone.
        f64::from(self.highest) * self.inverse_temperature + self.total.ln() - self.origin.log(self.highest)
    }

    /// exp(x/T) / Σ exp(x/T)
    pub fn probability(&self, x: f32) -> f64 {
        self.relative(x) / self.total * self.origin.log(self.highest).exp()
    }

    /// exp((x − highest)/T)
    pub fn relative(&self, x: f32) -> f64 {
        ((f64::from(x) - f64::from(self.highest)) * self.inverse_temperature).exp()
    }

    /// The powers of one block; what is −∞ or lies behind the row's end is 0.
    pub fn powers<E: Element>(&self, row: &[E], block: usize) -> [f32; BLOCK] {
        let mut out = [0.0; BLOCK];
        let first = block * BLOCK;
        let values = &row[first..row.len().min(first + BLOCK)];
        simd::dispatch(self.level, Weights { block: values, origin: self.origin, out: &mut out });
        for power in &mut out {
            *power = if *power < NOTHING / BLOCK as f32 { 0.0 } else { *power };
        }
        out
    }

    /// The block at which the cumulative sum passes `target`, and the sum before it; the last one with mass where
    /// rounding left none.
    pub(crate) fn block_at(&self, target: f64) -> (usize, f64) {
        let nothing = f64::from(NOTHING);
        let (mut passed, mut last) = (0.0, (0, 0.0));
        for (group, sum) in self.groups.iter().enumerate() {
            if passed + sum <= target && group + 1 < self.groups.len() {
                passed += sum;
                continue;
            }
            let first = group * GROUP;
            let own = &self.sums[first..self.sums.len().min(first + GROUP)];
            for (block, sum) in own.iter().map(|sum| f64::from(*sum)).enumerate() {
                if sum > nothing {
                    last = (first + block, passed);
                }
                passed += sum;
                if passed > target && sum > nothing {
                    return last;
                }
            }
        }
        last
    }

    /// Σ of the powers of the ids that rank before `id`, whose own power is `power`.
    pub fn mass_above<E: Element>(&self, row: &[E], id: u32, power: f32) -> f64 {
        let id = id as usize;
        let above = simd::dispatch(self.level, Above { row, maxima: &self.maxima, origin: self.origin, id });
        let own = row[id].to_f32();
        let ties = row[id / BLOCK * BLOCK..id].iter().filter(|x| x.to_f32() == own).count();
        above + ties as f64 * f64::from(power)
    }

    /// H(p) in nats: log of the total less the mean log of the powers.
    pub fn entropy<E: Element>(&self, row: &[E]) -> f64 {
        let moment = simd::dispatch(self.level, Moment { row, origin: self.origin });
        (self.total.ln() - moment / self.total * std::f64::consts::LN_2).max(0.0)
    }

    /// `log Σ_{v ∉ ids} exp(x_v/T)`: exact where the others hold nearly all mass, and where they hold hardly any.
    ///
    /// `ids` are those of a selection: no other value is greater than one of theirs. Where they hold less than half
    /// of the mass, the tail is a difference that loses no more than one bit; else it is summed directly.
    pub fn log_tail<E: Element>(&self, row: &[E], ids: &[u32], temperature: f64) -> f64 {
        let inverse = 1.0 / temperature;
        let kept: Vec<f32> = ids.iter().map(|id| row[*id as usize].to_f32()).collect();
        let bound = kept.iter().copied().fold(f32::INFINITY, f32::min);
        if inverse == self.inverse_temperature && !self.sums.is_empty() {
            let mass = self.mass(&kept);
            let tail = if mass <= 0.5 * self.total { self.total - mass } else { self.tail(row, ids, bound) };
            if tail > SHALLOW * self.total {
                return f64::from(self.highest) * inverse + tail.ln() - self.origin.log(self.highest);
            }
        }
        let highest = self.highest_below(row, ids.len(), bound);
        if highest == f32::NEG_INFINITY {
            return f64::NEG_INFINITY;
        }
        let origin = Origin::over(highest, inverse);
        let blocks = 0..self.maxima.len();
        let (below, reached) = simd::dispatch(self.level, Below { row, blocks, origin, bound });
        let tail = below + ties(&origin, bound, reached - ids.len());
        f64::from(highest) * inverse + tail.ln() - origin.log(highest)
    }

    /// Σ of the powers of some values.
    fn mass(&self, values: &[f32]) -> f64 {
        let mut total = 0.0;
        for values in values.chunks(BLOCK) {
            let mut out = [0.0; BLOCK];
            simd::dispatch(self.level, Weights { block: values, origin: self.origin, out: &mut out });
            total += out[..values.len()].iter().map(|power| f64::from(*power)).sum::<f64>();
        }
        total
    }

    /// Σ of the powers of all but `ids`, the least of which have the value `bound`: by the sums of the blocks
    /// without any of them, and a look into the others.
    fn tail<E: Element>(&self, row: &[E], ids: &[u32], bound: f32) -> f64 {
        let mut blocks: Vec<usize> = ids.iter().map(|id| *id as usize / BLOCK).collect();
        blocks.dedup();
        let mut others = self.sums.clone();
        for block in &blocks {
            others[*block] = 0.0;
        }
        let quarters = others.chunks(4).map(|part| part.iter().map(|sum| f64::from(*sum)).sum::<f64>());
        let work = Below { row, blocks: blocks.into_iter(), origin: self.origin, bound };
        let (below, reached) = simd::dispatch(self.level, work);
        quarters.sum::<f64>() + below + ties(&self.origin, bound, reached - ids.len())
    }

    /// The greatest value that a selection down to `bound` leaves out.
    fn highest_below<E: Element>(&self, row: &[E], kept: usize, bound: f32) -> f32 {
        let (mut highest, mut reached) = (f32::NEG_INFINITY, 0);
        for (block, top) in row.chunks(BLOCK).zip(&self.maxima) {
            if *top < bound {
                highest = highest.max(*top);
                continue;
            }
            for x in block.iter().map(|x| x.to_f32()) {
                if x >= bound {
                    reached += 1;
                } else {
                    highest = highest.max(x);
                }
            }
        }
        if reached > kept { bound } else { highest }
    }
}

/// Σ of the powers of `count` values of `bound`, which may lie beyond all powers where there are none.
fn ties(origin: &Origin, bound: f32, count: usize) -> f64 {
    if count == 0 { 0.0 } else { count as f64 * origin.log(bound).exp() }
}

/// The pass with exponentials, again with a shift where the row lies too far off, and the origin of its highest.
pub(super) fn pass<E: Element>(level: Level, row: &[E], inverse_temperature: f64) -> (Blocks, Origin) {
    let factor = (std::f64::consts::LOG2_E * inverse_temperature) as f32;
    let mut blocks = simd::dispatch(level, Sums::<E, false> { row, shift: 0.0, factor });
    let origin = Origin::over(blocks.highest, inverse_temperature);
    if origin.shift != 0.0 && blocks.highest.is_finite() {
        blocks = simd::dispatch(level, Sums::<E, true> { row, shift: origin.shift, factor });
    }
    (blocks, origin)
}

/// Makes all sums relative to one base, and returns those of the groups.
fn rebase(blocks: &mut Blocks, base: f32) -> Vec<f64> {
    let own = blocks.sums.chunks_mut(GROUP).zip(&blocks.bases).zip(&blocks.group_sums);
    let scaled = own.map(|((sums, own), total)| {
        if *own != base {
            let factor = (own - base).exp2();
            for sum in &mut *sums {
                *sum *= factor;
            }
        }
        f64::from(*total) * f64::from(own - base).exp2()
    });
    scaled.collect()
}

fn unusable<E: Element>(row: &[E], number: usize, highest: f32) -> Error {
    let at = |found: fn(f32) -> bool| row.iter().position(|x| found(x.to_f32()));
    let what = if let Some(id) = at(f32::is_nan) {
        format!("NaN at id {id}")
    } else if highest > 0.0 {
        format!("+inf at id {}", at(|x| x == f32::INFINITY).unwrap_or(0))
    } else {
        "nothing but -inf".to_owned()
    };
    Error::new(Class::Model, format!("row {number} of the logits holds {what}"))
        .hint("check the model's weights and number format")
}
