//! The two sweeps over a row whose K ids are masked with −∞: exponentials and their sum, then the gradient.

use crate::kernels::element::Element;
use crate::kernels::exp::exp;
use crate::kernels::row::BLOCK;
use crate::kernels::simd::{self, Kernel, LANES, Level, Simd};

/// The scaled distance by which a block may exceed the base of its exponentials: small, since the
/// rounding of x − base grows with it.
const REBASE: f32 = 8.0;
/// Bytes that a sweep asks for ahead of itself.
const AHEAD: usize = 4096;

/// What the first sweep found, block by block.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// Σ exp((x − base)·scale)
    sums: Vec<f32>,
    /// Never falling: the last one is the reference of all sums.
    bases: Vec<f32>,
    pub(super) nan: bool,
}

impl Swept {
    /// The largest value, give or take 8 scaled units; −∞ where there is nothing else.
    pub(super) fn reference(&self) -> f32 {
        self.bases.last().copied().unwrap_or(f32::NEG_INFINITY)
    }

    /// exp((base − reference)·scale) of each block.
    fn weights(&self, scale: f32) -> impl Iterator<Item = f64> + '_ {
        let reference = self.reference();
        let (mut known, mut weight) = (f32::NEG_INFINITY, 0.0);
        self.bases.iter().map(move |base| {
            if *base != known {
                known = *base;
                weight = ((f64::from(known) - f64::from(reference)) * f64::from(scale)).exp();
            }
            weight
        })
    }

    /// log Σ exp(x·scale) over the row.
    pub(super) fn logsumexp(&self, scale: f32) -> f64 {
        let total: f64 = self.weights(scale).zip(&self.sums).map(|(w, sum)| w * f64::from(*sum)).sum();
        if total > 0.0 {
            f64::from(self.reference()) * f64::from(scale) + total.ln()
        } else {
            f64::NEG_INFINITY
        }
    }
}

/// First sweep. With `KEEP`, every value is replaced by exp((x − its block's base)·scale).
pub(super) fn first<E: Element, const KEEP: bool>(level: Level, row: &mut [E], scale: f32) -> Swept {
    simd::dispatch(level, First::<E, KEEP> { row, scale })
}

struct First<'a, E, const KEEP: bool> {
    row: &'a mut [E],
    scale: f32,
}

impl<E: Element, const KEEP: bool> Kernel for First<'_, E, KEEP> {
    type Out = Swept;
    /// The base follows the maximum of what was read so far at a distance: no block waits for another.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Swept {
        let blocks = self.row.len().div_ceil(BLOCK);
        let mut out =
            Swept { sums: Vec::with_capacity(blocks), bases: Vec::with_capacity(blocks), nan: false };
        let (whole, rest) = self.row.as_chunks_mut::<BLOCK>();
        let mut base = f32::NEG_INFINITY;
        for block in whole {
            first_block::<S, E, KEEP>(simd, block, self.scale, &mut base, &mut out);
        }
        if !rest.is_empty() {
            let mut block = [E::LOWEST; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            first_block::<S, E, KEEP>(simd, &mut block, self.scale, &mut base, &mut out);
            rest.copy_from_slice(&block[..rest.len()]);
        }
        out
    }
}

#[inline(always)]
fn first_block<S: Simd, E: Element, const KEEP: bool>(
    simd: S,
    block: &mut [E; BLOCK],
    scale: f32,
    base: &mut f32,
    out: &mut Swept,
) {
    simd.prefetch(&block[0], AHEAD);
    simd.prefetch(&block[BLOCK / 2], AHEAD);
    let (lanes, _) = block.as_chunks_mut::<LANES>();
    let (mut highest, mut nan) = (simd.splat(f32::NEG_INFINITY), 0);
    for values in &*lanes {
        let x = E::load(simd, values);
        nan |= simd.nan(x);
        highest = simd.max(x, highest);
    }
    let highest = simd.reduce_max(highest);
    out.nan |= nan != 0;
    if (highest - *base) * scale > REBASE {
        *base = highest;
    }
    out.bases.push(*base);
    if base.is_infinite() {
        if KEEP {
            block.fill(E::from_f32(0.0));
        }
        out.sums.push(0.0);
        return;
    }
    let (from, scale) = (simd.splat(*base), simd.splat(scale));
    let mut sum = simd.splat(0.0);
    for values in lanes {
        let power = exp(simd, simd.mul(simd.sub(E::load(simd, values), from), scale));
        sum = simd.add(sum, power);
        if KEEP {
            E::store(simd, power, values);
        }
    }
    out.sums.push(simd.reduce_add(sum));
}

/// Second sweep after `first::<_, true>`: every kept power becomes factor · exp(x·scale − `log_tail`).
pub(super) fn scale_kept<E: Element>(
    level: Level,
    row: &mut [E],
    swept: &Swept,
    scale: f32,
    factor: f64,
    log_tail: f64,
) {
    // exp(base·scale − log_tail) as the block's weight over the total, both relative to the reference.
    let total = (log_tail - f64::from(swept.reference()) * f64::from(scale)).exp();
    let factors: Vec<f32> = swept.weights(scale).map(|weight| (factor * weight / total) as f32).collect();
    simd::dispatch(level, Scale { row, factors: &factors });
}

struct Scale<'a, E> {
    row: &'a mut [E],
    factors: &'a [f32],
}

impl<E: Element> Kernel for Scale<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (block, factor) in self.row.chunks_mut(BLOCK).zip(self.factors) {
            let factor = simd.splat(*factor);
            let (whole, rest) = block.as_chunks_mut::<LANES>();
            for lanes in whole {
                E::store(simd, simd.mul(E::load(simd, lanes), factor), lanes);
            }
            for value in rest {
                let mut lanes = [E::from_f32(0.0); LANES];
                lanes[0] = *value;
                E::store(simd, simd.mul(E::load(simd, &lanes), factor), &mut lanes);
                *value = lanes[0];
            }
        }
    }
}

/// A part of the gradient: factor · exp(x·scale − log), its powers relative to `reference`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) scale: f32,
    pub(super) reference: f32,
    pub(super) factor: f64,
    pub(super) log: f64,
}

impl Share {
    fn at_reference(&self) -> f32 {
        (self.factor * (f64::from(self.reference) * f64::from(self.scale) - self.log).exp()) as f32
    }
}

/// Second sweep after `first::<_, false>`: every value becomes its share, or the sum of two.
pub(super) fn recompute<E: Element>(level: Level, row: &mut [E], first: Share, second: Option<Share>) {
    simd::dispatch(level, Recompute { row, first, second });
}

struct Recompute<'a, E> {
    row: &'a mut [E],
    first: Share,
    second: Option<Share>,
}

impl<E: Element> Kernel for Recompute<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let first = Powers::new(simd, &self.first);
        let second = self.second.map(|share| Powers::new(simd, &share));
        let (whole, rest) = self.row.as_chunks_mut::<LANES>();
        for lanes in whole {
            replace(simd, lanes, &first, second.as_ref());
        }
        if !rest.is_empty() {
            let mut lanes = [E::LOWEST; LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            replace(simd, &mut lanes, &first, second.as_ref());
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }
}

struct Powers<S: Simd> {
    reference: S::V,
    scale: S::V,
    factor: S::V,
}

impl<S: Simd> Powers<S> {
    #[inline(always)]
    fn new(simd: S, share: &Share) -> Self {
        Self {
            reference: simd.splat(share.reference),
            scale: simd.splat(share.scale),
            factor: simd.splat(share.at_reference()),
        }
    }

    #[inline(always)]
    fn of(&self, simd: S, x: S::V) -> S::V {
        simd.mul(exp(simd, simd.mul(simd.sub(x, self.reference), self.scale)), self.factor)
    }
}

#[inline(always)]
fn replace<S: Simd, E: Element>(
    simd: S,
    lanes: &mut [E; LANES],
    first: &Powers<S>,
    second: Option<&Powers<S>>,
) {
    let x = E::load(simd, lanes);
    let mut share = first.of(simd, x);
    if let Some(second) = second {
        share = simd.add(share, second.of(simd, x));
    }
    E::store(simd, share, lanes);
}
