//! One row of logits, summed up block by block.

use super::element::Element;
use super::exp::exp;
use super::simd::{self, Kernel, LANES, Level, Simd};
use crate::error::{Class, Error, Result};

/// Values of a block.
pub const BLOCK: usize = 128;

/// Calls `f` with sixteen values at a time; the last vector is filled up with −∞.
#[inline(always)]
pub(crate) fn vectors<S: Simd, E: Element>(simd: S, values: &[E], mut f: impl FnMut(S::V)) {
    let (whole, rest) = values.as_chunks::<LANES>();
    for lanes in whole {
        f(E::load(simd, lanes));
    }
    if !rest.is_empty() {
        let mut lanes = [E::LOWEST; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        f(E::load(simd, &lanes));
    }
}

struct Maxima<'a, E> {
    row: &'a [E],
    out: &'a mut Vec<f32>,
}

impl<E: Element> Kernel for Maxima<'_, E> {
    type Out = bool;
    /// Fills in each block's maximum; true if a value is NaN.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> bool {
        let mut nan = 0;
        self.out.clear();
        for block in self.row.chunks(BLOCK) {
            let mut highest = simd.splat(f32::NEG_INFINITY);
            vectors(simd, block, |x| {
                nan |= simd.nan(x);
                highest = simd.max(x, highest);
            });
            self.out.push(simd.reduce_max(highest));
        }
        nan != 0
    }
}

struct Sums<'a, E> {
    row: &'a [E],
    highest: f32,
    scale: f32,
    out: &'a mut Vec<f32>,
}

impl<E: Element> Kernel for Sums<'_, E> {
    type Out = f64;
    /// Fills in each block's Σ exp((x − highest)·scale), and returns the sum of all.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let (highest, scale) = (simd.splat(self.highest), simd.splat(self.scale));
        let mut total = 0.0;
        self.out.clear();
        for block in self.row.chunks(BLOCK) {
            let mut sum = simd.splat(0.0);
            vectors(simd, block, |x| {
                sum = simd.add(sum, exp(simd, simd.mul(simd.sub(x, highest), scale)));
            });
            let sum = simd.reduce_add(sum);
            total += f64::from(sum);
            self.out.push(sum);
        }
        total
    }
}

struct Powers<'a, E> {
    block: &'a [E],
    highest: f32,
    scale: f32,
    out: &'a mut [f32; BLOCK],
}

impl<E: Element> Kernel for Powers<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (highest, scale) = (simd.splat(self.highest), simd.splat(self.scale));
        let (lanes, _) = self.out.as_chunks_mut::<LANES>();
        let mut place = lanes.iter_mut();
        vectors(simd, self.block, |x| {
            let power = exp(simd, simd.mul(simd.sub(x, highest), scale));
            simd.store(power, place.next().expect("a block has eight vectors"));
        });
    }
}

/// A row with its blocks' maxima and sums of exponentials, at one temperature.
///
/// Buffers are reused from row to row: make one per thread or per row as it comes.
#[derive(Debug)]
pub struct Summary {
    level: Level,
    /// max of each block
    pub maxima: Vec<f32>,
    /// Σ exp((x − highest)/T) of each block
    pub sums: Vec<f32>,
    /// max of the row
    pub highest: f32,
    /// 1/T
    pub scale: f32,
    /// Σ of all block sums
    pub total: f64,
}

impl Summary {
    /// Sums `row` up.
    ///
    /// # Errors
    /// When the row holds NaN or +∞, or nothing but −∞; the error names `number`.
    pub fn new<E: Element>(row: &[E], number: usize, temperature: f64) -> Result<Self> {
        let level = simd::level()?;
        let (mut maxima, mut sums) = (Vec::new(), Vec::new());
        let nan = simd::dispatch(level, Maxima { row, out: &mut maxima });
        let highest = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if nan || highest.is_infinite() {
            return Err(unusable(row, number, nan, highest));
        }
        let scale = (1.0 / temperature) as f32;
        let total = simd::dispatch(level, Sums { row, highest, scale, out: &mut sums });
        Ok(Self { level, maxima, sums, highest, scale, total })
    }

    /// log Σ exp(x/T)
    pub fn logsumexp(&self) -> f64 {
        f64::from(self.highest) * f64::from(self.scale) + self.total.ln()
    }

    /// exp((x − highest)/T) of one block; what lies behind the row's end is 0.
    pub fn powers<E: Element>(&self, row: &[E], block: usize) -> [f32; BLOCK] {
        self.powers_at(row, block, self.highest, self.scale)
    }

    fn powers_at<E: Element>(&self, row: &[E], block: usize, highest: f32, scale: f32) -> [f32; BLOCK] {
        let mut out = [0.0; BLOCK];
        let first = block * BLOCK;
        let values = &row[first..row.len().min(first + BLOCK)];
        simd::dispatch(self.level, Powers { block: values, highest, scale, out: &mut out });
        out
    }

    /// `log Σ_{v ∉ ids} exp(x_v·scale)`, summed directly: exact where the others hold nearly all mass.
    ///
    /// `ids` are increasing.
    pub fn log_tail<E: Element>(&self, row: &[E], ids: &[u32], scale: f32) -> f64 {
        let mut sums = Vec::new();
        let all = if scale == self.scale {
            &self.sums
        } else {
            simd::dispatch(self.level, Sums { row, highest: self.highest, scale, out: &mut sums });
            &sums
        };
        let tail = self.tail_sum(row, ids, all, self.highest, scale);
        if tail > 0.0 {
            return f64::from(self.highest) * f64::from(scale) + tail.ln();
        }
        deep_tail(row, ids, scale)
    }

    fn tail_sum<E: Element>(&self, row: &[E], ids: &[u32], all: &[f32], highest: f32, scale: f32) -> f64 {
        let mut total = 0.0;
        let mut rest = ids;
        for (block, sum) in all.iter().enumerate() {
            let end = ((block + 1) * BLOCK) as u32;
            let inside = rest.iter().take_while(|id| **id < end).count();
            if inside == 0 {
                total += f64::from(*sum);
                continue;
            }
            let mut powers = self.powers_at(row, block, highest, scale);
            for id in &rest[..inside] {
                powers[*id as usize % BLOCK] = 0.0;
            }
            total += powers.iter().map(|power| f64::from(*power)).sum::<f64>();
            rest = &rest[inside..];
        }
        total
    }
}

/// The tail relative to its own maximum, where that lies more than 87 below the row's.
fn deep_tail<E: Element>(row: &[E], ids: &[u32], scale: f32) -> f64 {
    let mut highest = f32::NEG_INFINITY;
    let mut rest = ids;
    for (id, value) in row.iter().enumerate() {
        if rest.first() == Some(&(id as u32)) {
            rest = &rest[1..];
        } else {
            highest = highest.max(value.to_f32());
        }
    }
    if highest == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let scale = f64::from(scale);
    let kept = |id: usize| ids.binary_search(&(id as u32)).is_err();
    let values = row.iter().enumerate().filter(|(id, _)| kept(*id)).map(|(_, x)| f64::from(x.to_f32()));
    let sum: f64 = values.map(|x| ((x - f64::from(highest)) * scale).exp()).sum();
    f64::from(highest) * scale + sum.ln()
}

fn unusable<E: Element>(row: &[E], number: usize, nan: bool, highest: f32) -> Error {
    let at = |found: fn(f32) -> bool| row.iter().position(|x| found(x.to_f32())).unwrap_or(0);
    let what = if nan {
        format!("NaN at id {}", at(f32::is_nan))
    } else if highest > 0.0 {
        format!("+inf at id {}", at(|x| x == f32::INFINITY))
    } else {
        "nothing but -inf".to_owned()
    };
    Error::new(Class::Model, format!("row {number} of the logits holds {what}"))
        .hint("check the model's weights and number format")
}
