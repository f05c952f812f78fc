//! The k most likely ids of a row, ties to the lowest id.
//!
//! The k-th largest block maximum bounds them from below, since k blocks hold a value as large; blocks below it are
//! never opened, and no more than about k others. Where these hold too many values above the bound (ascending
//! rows: all of the last block), the maxima of their lanes give a better one.

use std::cmp::Ordering;

use super::element::Element;
use super::kth::KthLargest;
use super::pass::BLOCK;
use super::row::Summary;
use super::simd::{self, Kernel, LANES, Simd};
use super::sweep::{Visit, vectors};

/// The `k` largest values (fewer where fewer are finite): ids in increasing order.
pub fn select<E: Element>(row: &[E], summary: &Summary, k: usize) -> Vec<u32> {
    let k = k.min(row.len());
    let level = summary.level();
    let (mut bound, mut blocks) = blocks(summary, k);
    let collect =
        |blocks: &[u32], bound, most| simd::dispatch(level, Collect { row, blocks, bound, k, most });
    let mut found = collect(&blocks, bound, 2 * k + LANES);
    if found.cut_short {
        let maxima = simd::dispatch(level, LaneMaxima { row, blocks: &blocks });
        if k <= maxima.len() {
            bound = simd::dispatch(level, KthLargest { values: &maxima, k, slack: k / 8 });
            blocks.retain(|block| summary.maxima[*block as usize] >= bound);
        }
        found = collect(&blocks, bound, usize::MAX);
    }
    largest(found, k, summary)
}

/// Higher values first, lower ids first among equal ones.
#[allow(clippy::trivially_copy_pass_by_ref)] // the shape that sorting wants
pub(crate) fn before(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

/// A bound that k values reach, and the blocks that can hold the k largest.
fn blocks(summary: &Summary, k: usize) -> (f32, Vec<u32>) {
    let maxima = &summary.maxima;
    if k >= maxima.len() {
        return (f32::NEG_INFINITY, (0..maxima.len() as u32).collect());
    }
    let level = summary.level();
    let bound = simd::dispatch(level, KthLargest { values: maxima, k, slack: k / 4 + 4 });
    (bound, simd::dispatch(level, Open { maxima, bound, k }))
}

/// Numbers of the blocks that reach the bound; of those whose best only equals it as many as make up for k, since
/// they hold enough and later ids cannot win.
struct Open<'a> {
    maxima: &'a [f32],
    bound: f32,
    k: usize,
}

impl Kernel for Open<'_> {
    type Out = Vec<u32>;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<u32> {
        let bound = simd.splat(self.bound);
        let mut above = Above { bound, count: 0 };
        vectors(simd, self.maxima, &mut above);
        let ties = self.k.saturating_sub(above.count as usize);
        let open = Vec::with_capacity(above.count as usize + ties.min(self.maxima.len()));
        let mut at = OpenAt { maxima: self.maxima, bound: self.bound, ties, first: 0, open };
        vectors(simd, self.maxima, &mut at);
        at.open
    }
}

struct Above<S: Simd> {
    bound: S::V,
    count: u32,
}

impl<S: Simd> Visit<S> for Above<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        self.count += simd.gt(x, self.bound).count_ones();
    }
}

struct OpenAt<'a> {
    maxima: &'a [f32],
    bound: f32,
    ties: usize,
    first: usize,
    open: Vec<u32>,
}

impl<S: Simd> Visit<S> for OpenAt<'_> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let mut bits = simd.ge(x, simd.splat(self.bound));
        while bits != 0 {
            let block = self.first + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            // Behind the end there is only −∞, which reaches a bound of −∞ alone.
            let Some(top) = self.maxima.get(block) else { break };
            if *top == self.bound {
                if self.ties == 0 {
                    continue;
                }
                self.ties -= 1;
            }
            self.open.push(block as u32);
        }
        self.first += LANES;
    }
}

/// The k largest of the candidates, whose ids grow.
fn largest(found: Found, k: usize, summary: &Summary) -> Vec<u32> {
    let Found { ids, values, .. } = found;
    if ids.len() <= k {
        return ids;
    }
    let bound = simd::dispatch(summary.level(), KthLargest { values: &values, k, slack: 0 });
    let mut ties = k - values.iter().filter(|x| **x > bound).count();
    let kept = ids.into_iter().zip(values).filter(|(_, x)| {
        let tie = *x == bound && ties > 0;
        ties -= usize::from(tie);
        tie || *x > bound
    });
    kept.map(|(id, _)| id).collect()
}

struct Found {
    ids: Vec<u32>,
    values: Vec<f32>,
    /// There were more than `most`.
    cut_short: bool,
}

/// All finite values above the bound, and the first k equal to it (or a vector more): ids only grow, so later ones
/// can never win.
struct Collect<'a, E> {
    row: &'a [E],
    blocks: &'a [u32],
    bound: f32,
    k: usize,
    most: usize,
}

impl<E: Element> Kernel for Collect<'_, E> {
    type Out = Found;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Found {
        let Self { row, blocks, bound, k, most } = self;
        let room = 2 * k + BLOCK;
        let mut at =
            CollectAt { bound, left: k, first: 0, count: 0, ids: vec![0; room], values: vec![0.0; room] };
        let mut cut_short = false;
        for block in blocks {
            at.first = *block as usize * BLOCK;
            vectors(simd, &row[at.first..row.len().min(at.first + BLOCK)], &mut at);
            cut_short = at.count > most;
            if cut_short {
                break;
            }
        }
        at.ids.truncate(at.count);
        at.values.truncate(at.count);
        Found { ids: at.ids, values: at.values, cut_short }
    }
}

struct CollectAt {
    bound: f32,
    left: usize,
    first: usize,
    count: usize,
    /// The first `count` are found; the other places are free.
    ids: Vec<u32>,
    values: Vec<f32>,
}

impl<S: Simd> Visit<S> for CollectAt {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        let first = self.first;
        self.first += LANES;
        let (bound, lowest) = (simd.splat(self.bound), simd.splat(f32::NEG_INFINITY));
        let above = simd.gt(x, bound);
        let ties = if self.left > 0 { simd.ge(x, bound) & !above } else { 0 };
        let mut bits = (above | ties) & simd.gt(x, lowest);
        if bits == 0 {
            return;
        }
        self.left = self.left.saturating_sub(ties.count_ones() as usize);
        if self.count + LANES > self.ids.len() {
            self.ids.resize(2 * self.ids.len(), 0);
            self.values.resize(2 * self.values.len(), 0.0);
        }
        let mut lanes = [0.0; LANES];
        simd.store(x, &mut lanes);
        while bits != 0 {
            let lane = bits.trailing_zeros() as usize % LANES;
            bits &= bits - 1;
            self.ids[self.count] = (first + lane) as u32;
            self.values[self.count] = lanes[lane];
            self.count += 1;
        }
    }
}

/// For each block sixteen maxima: lane i has that of every sixteenth value.
struct LaneMaxima<'a, E> {
    row: &'a [E],
    blocks: &'a [u32],
}

impl<E: Element> Kernel for LaneMaxima<'_, E> {
    type Out = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Vec<f32> {
        let mut out = vec![0.0; self.blocks.len() * LANES];
        for (block, lanes) in self.blocks.iter().zip(out.as_chunks_mut::<LANES>().0) {
            let first = *block as usize * BLOCK;
            let mut highest = Highest::<S>(simd.splat(f32::NEG_INFINITY));
            vectors(simd, &self.row[first..self.row.len().min(first + BLOCK)], &mut highest);
            simd.store(highest.0, lanes);
        }
        out
    }
}

struct Highest<S: Simd>(S::V);

impl<S: Simd> Visit<S> for Highest<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        self.0 = simd.max(x, self.0);
    }
}
