//! The one pass over a row: every block's maximum and its sum of exponentials.
//!
//! It is bound by memory where the arithmetic hides behind the reading, so it does little and never waits: no
//! value depends on the maximum so far, no branch on the data but one in 2,048 values, and lanes are reduced for
//! sixteen blocks at once. The hardware reads too little ahead for so much arithmetic a line: lines are asked for 12 KB
//! ahead, beyond the row's end too, where the next row lies.

use std::hint::black_box;

use super::element::Element;
use super::exp::{FARTHEST, Origin, Powers};
use super::simd::{Kernel, LANES, Simd};

/// Values of a block.
pub const BLOCK: usize = 128;
/// Blocks that are reduced together, and share a base.
pub(crate) const GROUP: usize = LANES;
/// Vectors that are raised to powers together.
pub(crate) const TOGETHER: usize = 4;
/// Bytes from what is read to what is asked for.
const AHEAD: usize = 12 * 1024;

/// What one pass finds.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// Of each block.
    pub(crate) maxima: Vec<f32>,
    /// Σ w of each block, by the origin of its group; none of a pass without exponentials.
    pub(crate) sums: Vec<f32>,
    /// Each group's base.
    pub(crate) bases: Vec<f32>,
    /// Each group's Σ w.
    pub(crate) group_sums: Vec<f32>,
    /// Of the row.
    pub(crate) highest: f32,
    /// Whether a value is NaN; a pass with exponentials shows it in the sums instead.
    pub(crate) nan: bool,
}

impl Blocks {
    fn with_capacity(blocks: usize, summed: bool) -> Self {
        let whole = blocks.next_multiple_of(GROUP);
        let (sums, bases) = if summed { (whole, whole / GROUP) } else { (0, 0) };
        Self {
            maxima: Vec::with_capacity(whole),
            sums: Vec::with_capacity(sums),
            bases: Vec::with_capacity(bases),
            group_sums: Vec::with_capacity(bases),
            highest: f32::NEG_INFINITY,
            nan: false,
        }
    }

    /// Σ w over the row, relative to `base`.
    pub(crate) fn total(&self, base: f32) -> f64 {
        let groups = self.bases.iter().zip(&self.group_sums);
        groups.map(|(own, sum)| f64::from(*sum) * f64::from(own - base).exp2()).sum()
    }

    /// Without the blocks that filled the last group up.
    fn cut(mut self, len: usize) -> Self {
        self.maxima.truncate(len.div_ceil(BLOCK));
        self.sums.truncate(len.div_ceil(BLOCK));
        self
    }
}

/// Sixteen blocks.
type Group<E> = [[E; BLOCK]; GROUP];

/// Shows the row to `visit`, sixteen blocks at a time; the last ones are filled up with −∞.
#[inline(always)]
fn groups<S: Simd, E: Element>(simd: S, row: &[E], visit: &mut impl VisitGroup<S, E>) {
    let (blocks, _) = row.as_chunks::<BLOCK>();
    let (whole, _) = blocks.as_chunks::<GROUP>();
    for group in whole {
        visit.group(simd, group);
    }
    let rest = &row[whole.len() * GROUP * BLOCK..];
    if !rest.is_empty() {
        let mut last = [[E::LOWEST; BLOCK]; GROUP];
        last.as_flattened_mut()[..rest.len()].copy_from_slice(rest);
        visit.group(simd, &last);
    }
}

/// A trait and not a closure, as [`super::sweep::Visit`].
trait VisitGroup<S: Simd, E: Element> {
    /// Must be `#[inline(always)]`.
    fn group(&mut self, simd: S, blocks: &Group<E>);
}

/// The pass with exponentials. `SHIFTED`: the shift may be other than 0.
pub(crate) struct Sums<'a, E, const SHIFTED: bool> {
    pub(crate) row: &'a [E],
    pub(crate) shift: f32,
    pub(crate) factor: f32,
}

impl<E: Element, const SHIFTED: bool> Kernel for Sums<'_, E, SHIFTED> {
    type Out = Blocks;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Blocks {
        let first = &self.row[..self.row.len().min(BLOCK)];
        let highest = first.iter().fold(f32::NEG_INFINITY, |highest, x| highest.max(x.to_f32()));
        let origin = Origin::at(highest, self.shift, self.factor);
        let mut state = Summing::<S, SHIFTED> {
            scratch: [[simd.splat(0.0); GROUP]; 2],
            origin,
            limit: origin.limit(),
            out: Blocks::with_capacity(self.row.len().div_ceil(BLOCK), true),
        };
        groups(simd, self.row, &mut state);
        state.out.cut(self.row.len())
    }
}

struct Summing<S: Simd, const SHIFTED: bool> {
    /// Lanes of the maxima and sums of sixteen blocks, made once.
    scratch: [[S::V; GROUP]; 2],
    origin: Origin,
    limit: f32,
    out: Blocks,
}

impl<S: Simd, E: Element, const SHIFTED: bool> VisitGroup<S, E> for Summing<S, SHIFTED> {
    #[inline(always)]
    fn group(&mut self, simd: S, blocks: &Group<E>) {
        loop {
            let (maxima, sums) = read::<S, E, SHIFTED>(simd, blocks, self.origin, &mut self.scratch);
            let highest = simd.reduce_max(maxima);
            if highest > self.limit && self.origin.base < FARTHEST {
                self.origin = Origin::at(highest, self.origin.shift, self.origin.factor);
                self.limit = self.origin.limit();
                continue;
            }
            self.out.highest = if highest > self.out.highest { highest } else { self.out.highest };
            append(simd, maxima, &mut self.out.maxima);
            append(simd, sums, &mut self.out.sums);
            self.out.bases.push(self.origin.base);
            self.out.group_sums.push(simd.reduce_add(sums));
            return;
        }
    }
}

/// Maximum and Σ w of each block.
#[inline(always)]
fn read<S: Simd, E: Element, const SHIFTED: bool>(
    simd: S,
    blocks: &Group<E>,
    origin: Origin,
    [highest, sums]: &mut [[S::V; GROUP]; 2],
) -> (S::V, S::V) {
    let powers = Powers::new(simd, origin);
    for (block, (highest, sum)) in blocks.iter().zip(highest.iter_mut().zip(&mut *sums)) {
        let (mut top, mut total) = (simd.splat(f32::NEG_INFINITY), simd.splat(0.0));
        for lanes in block.as_chunks::<LANES>().0.as_chunks::<TOGETHER>().0 {
            for line in lanes {
                simd.prefetch(line, AHEAD);
            }
            let x = load_each(simd, lanes);
            let each = powers.each::<TOGETHER, SHIFTED>(simd, x);
            for (x, power) in x.into_iter().zip(each) {
                top = simd.max(x, top);
                total = simd.add(total, power);
            }
        }
        (*highest, *sum) = (top, total);
    }
    // Without the barrier between them both reductions are scheduled into one, which spills all registers.
    let highest = simd.reduce_max_each(highest);
    (highest, simd.reduce_add_each(black_box(sums)))
}

#[inline(always)]
pub(crate) fn load_each<S: Simd, E: Element, const N: usize>(simd: S, lanes: &[[E; LANES]; N]) -> [S::V; N] {
    let mut x = [simd.splat(0.0); N];
    for (x, lanes) in x.iter_mut().zip(lanes) {
        *x = E::load(simd, lanes);
    }
    x
}

/// The pass without exponentials.
pub(crate) struct Maxima<'a, E>(pub(crate) &'a [E]);

impl<E: Element> Kernel for Maxima<'_, E> {
    type Out = Blocks;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Blocks {
        let mut out = Blocks::with_capacity(self.0.len().div_ceil(BLOCK), false);
        groups(simd, self.0, &mut out);
        out.cut(self.0.len())
    }
}

impl<S: Simd, E: Element> VisitGroup<S, E> for Blocks {
    #[inline(always)]
    fn group(&mut self, simd: S, blocks: &Group<E>) {
        let mut highest = [simd.splat(f32::NEG_INFINITY); GROUP];
        let mut nan = 0;
        for (block, highest) in blocks.iter().zip(&mut highest) {
            let mut top = simd.splat(f32::NEG_INFINITY);
            for lanes in block.as_chunks::<LANES>().0 {
                let x = E::load(simd, lanes);
                nan |= simd.nan(x);
                top = simd.max(x, top);
            }
            *highest = top;
        }
        let maxima = simd.reduce_max_each(&highest);
        let highest = simd.reduce_max(maxima);
        self.nan |= nan != 0;
        self.highest = if highest > self.highest { highest } else { self.highest };
        append(simd, maxima, &mut self.maxima);
    }
}

/// Sixteen at a time, the last ones cut off at the end.
#[inline(always)]
fn append<S: Simd>(simd: S, values: S::V, to: &mut Vec<f32>) {
    let mut lanes = [0.0; LANES];
    simd.store(values, &mut lanes);
    to.extend_from_slice(&lanes);
}
