//! Later looks into a row, most of them into the few blocks that matter.

use super::element::Element;
use super::exp::{Origin, Powers};
use super::pass::BLOCK;
use super::simd::{Kernel, LANES, Simd};

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

/// w of each value of one block; behind the row's end 2^-124 or less.
pub(crate) struct Weights<'a, E> {
    pub(crate) block: &'a [E],
    pub(crate) origin: Origin,
    pub(crate) out: &'a mut [f32; BLOCK],
}

impl<E: Element> Kernel for Weights<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (lanes, _) = self.out.as_chunks_mut::<LANES>();
        let mut place = WeightsAt { powers: Powers::new(simd, self.origin), place: lanes.iter_mut() };
        vectors(simd, self.block, &mut place);
    }
}

struct WeightsAt<'a, S: Simd> {
    powers: Powers<S>,
    place: std::slice::IterMut<'a, [f32; LANES]>,
}

impl<S: Simd> Visit<S> for WeightsAt<'_, S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        simd.store(self.powers.of(simd, x), self.place.next().expect("a block has eight vectors"));
    }
}

/// Σ w of all values greater than that of `id`, and of equal ones in earlier blocks.
pub(crate) struct Above<'a, E> {
    pub(crate) row: &'a [E],
    pub(crate) maxima: &'a [f32],
    pub(crate) origin: Origin,
    pub(crate) id: usize,
}

impl<E: Element> Kernel for Above<'_, E> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let own = self.row[self.id].to_f32();
        let home = self.id / BLOCK;
        let powers = Powers::new(simd, self.origin);
        let mut total = 0.0;
        for (number, block) in self.row.chunks(BLOCK).enumerate() {
            if self.maxima[number] < own {
                continue;
            }
            let mut part =
                AboveOf { powers, limit: simd.splat(own), inclusive: number < home, sum: simd.splat(0.0) };
            vectors(simd, block, &mut part);
            total += f64::from(simd.reduce_add(part.sum));
        }
        total
    }
}

struct AboveOf<S: Simd> {
    powers: Powers<S>,
    limit: S::V,
    inclusive: bool,
    sum: S::V,
}

impl<S: Simd> Visit<S> for AboveOf<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let weight = self.powers.of(simd, x);
        let part = if self.inclusive {
            simd.where_ge(x, self.limit, weight)
        } else {
            simd.where_gt(x, self.limit, weight)
        };
        self.sum = simd.add(self.sum, part);
    }
}

/// Σ w·log2 w; −∞ counts as 0.
pub(crate) struct Moment<'a, E> {
    pub(crate) row: &'a [E],
    pub(crate) origin: Origin,
}

impl<E: Element> Kernel for Moment<'_, E> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        let powers = Powers::new(simd, self.origin);
        let mut total = 0.0;
        for block in self.row.chunks(BLOCK) {
            let mut part = MomentOf { powers, sum: simd.splat(0.0) };
            vectors(simd, block, &mut part);
            total += f64::from(simd.reduce_add(part.sum));
        }
        total
    }
}

struct MomentOf<S: Simd> {
    powers: Powers<S>,
    sum: S::V,
}

impl<S: Simd> Visit<S> for MomentOf<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        self.sum = simd.fma(self.powers.log2(simd, x), self.powers.of(simd, x), self.sum);
    }
}

/// Σ w of all values below `bound`, and how many there are from it up, in some blocks.
pub(crate) struct Below<'a, E, I> {
    pub(crate) row: &'a [E],
    pub(crate) blocks: I,
    pub(crate) origin: Origin,
    pub(crate) bound: f32,
}

impl<E: Element, I: Iterator<Item = usize>> Kernel for Below<'_, E, I> {
    type Out = (f64, usize);
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f64, usize) {
        let (powers, bound) = (Powers::new(simd, self.origin), simd.splat(self.bound));
        let (mut total, mut reached) = (0.0, 0);
        for first in self.blocks.map(|block| block * BLOCK) {
            let mut part = BelowOf { powers, bound, sum: simd.splat(0.0), reached: 0 };
            vectors(simd, &self.row[first..self.row.len().min(first + BLOCK)], &mut part);
            total += f64::from(simd.reduce_add(part.sum));
            reached += part.reached as usize;
        }
        (total, reached)
    }
}

struct BelowOf<S: Simd> {
    powers: Powers<S>,
    bound: S::V,
    sum: S::V,
    reached: u32,
}

impl<S: Simd> Visit<S> for BelowOf<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let weight = self.powers.of(simd, x);
        self.sum = simd.add(self.sum, simd.where_gt(self.bound, x, weight));
        self.reached += simd.ge(x, self.bound).count_ones();
    }
}
