//! One row of logits, summed up block by block.

use super::element::Element;
use super::exp::exp;
use super::simd::{self, Kernel, LANES, Level, Simd};
use crate::error::{Class, Error, Result};

/// Values of a block.
pub const BLOCK: usize = 128;

/// What a kernel does with sixteen values. A trait and not a closure: methods can be made to inline, and code that
/// is not inlined into the kernel is compiled without the level's instructions.
pub(crate) trait Visit<S: Simd> {
    /// Must be `#[inline(always)]`.
    fn lanes(&mut self, simd: S, x: S::V);
}

/// Shows sixteen values at a time to `visit`; the last vector is filled up with −∞.
#[inline(always)]
pub(crate) fn vectors<S: Simd, E: Element>(simd: S, values: &[E], visit: &mut impl Visit<S>) {
    let (whole, rest) = values.as_chunks::<LANES>();
    for lanes in whole {
        visit.lanes(simd, E::load(simd, lanes));
    }
    if !rest.is_empty() {
        let mut lanes = [E::LOWEST; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        visit.lanes(simd, E::load(simd, &lanes));
    }
}

/// Σ exp((x − highest)·scale)
pub(crate) struct ExpSum<S: Simd> {
    pub(crate) highest: S::V,
    pub(crate) scale: S::V,
    pub(crate) sum: S::V,
}

impl<S: Simd> ExpSum<S> {
    #[inline(always)]
    pub(crate) fn new(simd: S, highest: f32, scale: f32) -> Self {
        Self { highest: simd.splat(highest), scale: simd.splat(scale), sum: simd.splat(0.0) }
    }
}

impl<S: Simd> Visit<S> for ExpSum<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        self.sum = simd.add(self.sum, exp(simd, simd.mul(simd.sub(x, self.highest), self.scale)));
    }
}

/// The scaled distance by which a block may exceed the base of its exponentials: small, since the rounding of
/// x − base grows with it.
const REBASE: f32 = 8.0;
/// Bytes that a pass asks for ahead of itself.
const AHEAD: usize = 4096;

/// What one pass over the row fills in, block by block.
#[derive(Debug, Default)]
struct Pass {
    maxima: Vec<f32>,
    sums: Vec<f32>,
    bases: Vec<f32>,
    nan: bool,
}

struct Read<'a, E> {
    row: &'a [E],
    /// 1/T; none where the maxima are all that is wanted.
    scale: Option<f32>,
}

impl<E: Element> Kernel for Read<'_, E> {
    type Out = Pass;
    /// For each block: its maximum; if that exceeds the base by far, it becomes the base; Σ exp((x − base)·scale).
    ///
    /// The base follows the maximum of what was read so far at a distance, so the branch is hardly ever taken and
    /// no block waits for another.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Pass {
        let blocks = self.row.len().div_ceil(BLOCK);
        let mut pass = Pass { maxima: Vec::with_capacity(blocks), ..Pass::default() };
        if self.scale.is_some() {
            pass.sums.reserve_exact(blocks);
            pass.bases.reserve_exact(blocks);
        }
        let (whole, rest) = self.row.as_chunks::<BLOCK>();
        let mut base = f32::NEG_INFINITY;
        for block in whole {
            read_block(simd, block, self.scale, &mut base, &mut pass);
        }
        if !rest.is_empty() {
            let mut block = [E::LOWEST; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            read_block(simd, &block, self.scale, &mut base, &mut pass);
        }
        pass
    }
}

#[inline(always)]
fn read_block<S: Simd, E: Element>(
    simd: S,
    block: &[E; BLOCK],
    scale: Option<f32>,
    base: &mut f32,
    pass: &mut Pass,
) {
    simd.prefetch(&block[0], AHEAD);
    simd.prefetch(&block[BLOCK / 2], AHEAD);
    let (lanes, _) = block.as_chunks::<LANES>();
    let (mut highest, mut nan) = (simd.splat(f32::NEG_INFINITY), 0);
    for values in lanes {
        let x = E::load(simd, values);
        nan |= simd.nan(x);
        highest = simd.max(x, highest);
    }
    let highest = simd.reduce_max(highest);
    pass.nan |= nan != 0;
    pass.maxima.push(highest);
    let Some(scale) = scale else { return };
    if (highest - *base) * scale > REBASE {
        *base = highest;
    }
    pass.bases.push(*base);
    if *base == f32::NEG_INFINITY {
        pass.sums.push(0.0);
        return;
    }
    let (from, scale) = (simd.splat(*base), simd.splat(scale));
    let mut sum = simd.splat(0.0);
    for values in lanes {
        sum = simd.add(sum, exp(simd, simd.mul(simd.sub(E::load(simd, values), from), scale)));
    }
    pass.sums.push(simd.reduce_add(sum));
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
        let mut total = 0.0;
        self.out.clear();
        for block in self.row.chunks(BLOCK) {
            let mut sum = ExpSum::new(simd, self.highest, self.scale);
            vectors(simd, block, &mut sum);
            let sum = simd.reduce_add(sum.sum);
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
        let (lanes, _) = self.out.as_chunks_mut::<LANES>();
        let mut powers =
            PowersOf { of: ExpSum::new(simd, self.highest, self.scale), place: lanes.iter_mut() };
        vectors(simd, self.block, &mut powers);
    }
}

struct PowersOf<'a, S: Simd> {
    of: ExpSum<S>,
    place: std::slice::IterMut<'a, [f32; LANES]>,
}

impl<S: Simd> Visit<S> for PowersOf<'_, S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let power = exp(simd, simd.mul(simd.sub(x, self.of.highest), self.of.scale));
        simd.store(power, self.place.next().expect("a block has eight vectors"));
    }
}

struct Above<'a, E> {
    row: &'a [E],
    maxima: &'a [f32],
    highest: f32,
    scale: f32,
    id: usize,
}

impl<E: Element> Kernel for Above<'_, E> {
    type Out = f64;
    /// Σ of the powers of all greater values, and of equal ones in earlier blocks.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let own = self.row[self.id].to_f32();
        let home = self.id / BLOCK;
        let mut total = 0.0;
        for (number, block) in self.row.chunks(BLOCK).enumerate() {
            if self.maxima[number] < own {
                continue;
            }
            let of = ExpSum::new(simd, self.highest, self.scale);
            let mut part = AboveOf { of, limit: simd.splat(own), inclusive: number < home };
            vectors(simd, block, &mut part);
            total += f64::from(simd.reduce_add(part.of.sum));
        }
        total
    }
}

struct AboveOf<S: Simd> {
    of: ExpSum<S>,
    limit: S::V,
    inclusive: bool,
}

impl<S: Simd> Visit<S> for AboveOf<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let power = exp(simd, simd.mul(simd.sub(x, self.of.highest), self.of.scale));
        let part = if self.inclusive {
            simd.where_ge(x, self.limit, power)
        } else {
            simd.where_gt(x, self.limit, power)
        };
        self.of.sum = simd.add(self.of.sum, part);
    }
}

struct MomentOf<S: Simd>(ExpSum<S>);

impl<S: Simd> Visit<S> for MomentOf<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let y = simd.max(simd.mul(simd.sub(x, self.0.highest), self.0.scale), simd.splat(-1e4));
        self.0.sum = simd.fma(y, exp(simd, y), self.0.sum);
    }
}

struct Moment<'a, E> {
    row: &'a [E],
    highest: f32,
    scale: f32,
}

impl<E: Element> Kernel for Moment<'_, E> {
    type Out = f64;
    /// Σ y·e^y with y = (x − highest)·scale; −∞ counts as 0.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let mut total = 0.0;
        for block in self.row.chunks(BLOCK) {
            let mut part = MomentOf(ExpSum::new(simd, self.highest, self.scale));
            vectors(simd, block, &mut part);
            total += f64::from(simd.reduce_add(part.0.sum));
        }
        total
    }
}

struct Collect<'a, E> {
    row: &'a [E],
    maxima: &'a [f32],
    bound: f32,
    k: usize,
}

impl<E: Element> Kernel for Collect<'_, E> {
    type Out = Vec<(u32, f32)>;
    /// All values above the bound, and the first k equal to it: ids only grow, so later ones can never win.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Out {
        let found = Vec::with_capacity(4 * self.k.min(self.row.len()));
        let Self { row, bound, k, .. } = self;
        let mut at = CollectAt { row, bound, left: k, first: 0, found };
        for (number, block) in row.chunks(BLOCK).enumerate() {
            if self.maxima[number] < bound {
                continue;
            }
            at.first = number * BLOCK;
            vectors(simd, block, &mut at);
        }
        at.found
    }
}

struct CollectAt<'a, E> {
    row: &'a [E],
    bound: f32,
    left: usize,
    first: usize,
    found: Vec<(u32, f32)>,
}

impl<S: Simd, E: Element> Visit<S> for CollectAt<'_, E> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let bound = simd.splat(self.bound);
        let mut bits = if self.left > 0 { simd.ge(x, bound) } else { simd.gt(x, bound) };
        while bits != 0 {
            let id = self.first + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let value = self.row.get(id).map_or(f32::NEG_INFINITY, |x| x.to_f32());
            if value > f32::NEG_INFINITY {
                self.left = self.left.saturating_sub(usize::from(value == self.bound));
                self.found.push((id as u32, value));
            }
        }
        self.first += LANES;
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
        let scale = (1.0 / temperature) as f32;
        let (mut found, bases) = Self::read(row, number, scale, Some(scale))?;
        found.total = rebase(&mut found.sums, &bases, found.highest, scale);
        Ok(found)
    }

    /// The maxima alone, which is all that top-k needs: no sums, and a total of 0.
    ///
    /// # Errors
    /// As [`Summary::new`].
    pub fn maxima_only<E: Element>(row: &[E], number: usize, temperature: f64) -> Result<Self> {
        Ok(Self::read(row, number, (1.0 / temperature) as f32, None)?.0)
    }

    fn read<E: Element>(
        row: &[E],
        number: usize,
        scale: f32,
        summed: Option<f32>,
    ) -> Result<(Self, Vec<f32>)> {
        let level = simd::level()?;
        let Pass { maxima, sums, bases, nan } = simd::dispatch(level, Read { row, scale: summed });
        let highest = maxima.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if nan || highest.is_infinite() {
            return Err(unusable(row, number, nan, highest));
        }
        Ok((Self { level, maxima, sums, highest, scale, total: 0.0 }, bases))
    }

    /// log Σ exp(x/T)
    pub fn logsumexp(&self) -> f64 {
        f64::from(self.highest) * f64::from(self.scale) + self.total.ln()
    }

    /// exp((x − highest)/T) of one block; what lies behind the row's end is 0.
    pub fn powers<E: Element>(&self, row: &[E], block: usize) -> [f32; BLOCK] {
        self.powers_at(row, block, self.highest, self.scale)
    }

    /// Σ exp((x − highest)/T) over the ids that rank before `id`, whose own power is `power`.
    pub fn mass_above<E: Element>(&self, row: &[E], id: u32, power: f32) -> f64 {
        let id = id as usize;
        let Self { maxima, highest, scale, .. } = self;
        let above = simd::dispatch(self.level, Above { row, maxima, highest: *highest, scale: *scale, id });
        let own = row[id].to_f32();
        let ties = row[id / BLOCK * BLOCK..id].iter().filter(|x| x.to_f32() == own).count();
        above + ties as f64 * f64::from(power)
    }

    /// H(p) = log Z − Σ p·(x − highest)/T, in nats.
    pub fn entropy<E: Element>(&self, row: &[E]) -> f64 {
        let moment = simd::dispatch(self.level, Moment { row, highest: self.highest, scale: self.scale });
        (self.total.ln() - moment / self.total).max(0.0)
    }

    /// All finite values above `bound`, and up to k or a vector more of those equal to it, with increasing ids.
    pub(crate) fn collect<E: Element>(&self, row: &[E], bound: f32, k: usize) -> Vec<(u32, f32)> {
        simd::dispatch(self.level, Collect { row, maxima: &self.maxima, bound, k })
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
        if tail > SHALLOW {
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

/// A tail above this is exact: what exp cuts off at −87 is less than 2^18 · e^−87 < 1e-32 in all.
const SHALLOW: f64 = 1e-24;

/// Makes all sums relative to the row's maximum, and returns their total.
fn rebase(sums: &mut [f32], bases: &[f32], highest: f32, scale: f32) -> f64 {
    let (mut known, mut factor) = (f32::NEG_INFINITY, 0.0);
    let mut total = 0.0;
    for (sum, base) in sums.iter_mut().zip(bases) {
        if *base != known {
            known = *base;
            factor = ((f64::from(known) - f64::from(highest)) * f64::from(scale)).exp();
        }
        let scaled = (f64::from(*sum) * factor) as f32;
        // No more than exp itself keeps: a block with a sum has powers to draw from.
        *sum = if scaled < f32::MIN_POSITIVE * 128.0 { 0.0 } else { scaled };
        total += f64::from(*sum);
    }
    total
}

/// The tail relative to its own maximum, where hardly any or nothing of it is within 87 of the row's.
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
