//! The k-th largest of some numbers, by counting.

use super::simd::{Kernel, LANES, Simd};

/// Numbers per step: four vectors, so that no counter waits for another.
const STEP: usize = 4 * LANES;

/// The k-th largest of `values` (no NaN, at least k of them), or any number below it that at most k + `slack` of
/// them reach; −∞ where fewer than k are finite.
pub(crate) struct KthLargest<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) k: usize,
    pub(crate) slack: usize,
}

impl Kernel for KthLargest<'_> {
    type Out = f32;
    /// Counts how many reach a probe, which goes down from the maximum by growing steps and is then bisected: over
    /// the ranks of all f32, so that it ends after 40 counts at the latest, most often after ten.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let Self { values, k, slack } = self;
        let mut padded = Vec::with_capacity(values.len().next_multiple_of(STEP));
        padded.extend_from_slice(values);
        padded.resize(values.len().next_multiple_of(STEP), f32::NEG_INFINITY);
        let steps = padded.as_chunks::<STEP>().0;
        let highest = rank(maximum(simd, steps));
        let (mut low, mut beyond, mut step) = (highest, highest + 1, FIRST_STEP);
        loop {
            let reached = if low > LOWEST_RANK { count(simd, steps, number(low)) } else { values.len() };
            if reached >= k {
                if reached <= k + slack {
                    return number(low);
                }
                break;
            }
            beyond = low;
            low = low.saturating_sub(step).max(LOWEST_RANK);
            step = step.saturating_mul(4);
        }
        while beyond - low > 1 {
            let middle = low + (beyond - low) / 2;
            let reached = count(simd, steps, number(middle));
            if reached < k {
                beyond = middle;
                continue;
            }
            low = middle;
            if reached <= k + slack {
                break;
            }
        }
        number(low)
    }
}

/// A thirty-second of the way to half of a number.
const FIRST_STEP: u32 = 1 << 18;
/// The rank of −∞: those below are NaN.
const LOWEST_RANK: u32 = !f32::NEG_INFINITY.to_bits();

/// Among all f32: ranks grow as the numbers do.
fn rank(number: f32) -> u32 {
    let bits = number.to_bits();
    if bits >> 31 == 0 { bits ^ 1 << 31 } else { !bits }
}

#[inline(always)]
fn maximum<S: Simd>(simd: S, steps: &[[f32; STEP]]) -> f32 {
    let mut highest = simd.splat(f32::NEG_INFINITY);
    for lanes in steps.as_flattened().as_chunks::<LANES>().0 {
        highest = simd.max(simd.load(lanes), highest);
    }
    simd.reduce_max(highest)
}

/// The f32 of this rank.
fn number(rank: u32) -> f32 {
    f32::from_bits(if rank >> 31 == 1 { rank ^ 1 << 31 } else { !rank })
}

/// How many values are at least `probe`; none for NaN.
#[inline(always)]
fn count<S: Simd>(simd: S, steps: &[[f32; STEP]], probe: f32) -> usize {
    let (probe, one) = (simd.splat(probe), simd.splat(1.0));
    let mut counts = [simd.splat(0.0); STEP / LANES];
    for step in steps {
        for (lanes, count) in step.as_chunks::<LANES>().0.iter().zip(&mut counts) {
            *count = simd.add(*count, simd.where_ge(simd.load(lanes), probe, one));
        }
    }
    let pairs = simd.add(simd.add(counts[0], counts[1]), simd.add(counts[2], counts[3]));
    simd.reduce_add(pairs) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::simd::{Level, dispatch};
    use super::*;

    fn values() -> impl Strategy<Value = Vec<f32>> {
        let special =
            prop::sample::select(vec![0.0, -0.0, 1.0, f32::MIN, f32::MAX, f32::NEG_INFINITY, 1e-40]);
        prop::collection::vec(prop_oneof![special, any::<i16>().prop_map(f32::from), -1e3..1e3_f32], 1..400)
    }

    proptest! {
        #[test]
        fn is_what_sorting_finds(values in values(), at in 0.0..1.0_f64, slack in 0_usize..20) {
            let k = 1 + (at * values.len() as f64) as usize % values.len();
            let mut sorted = values.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            for level in Level::supported() {
                let found = dispatch(level, KthLargest { values: &values, k, slack });
                let reached = values.iter().filter(|x| **x >= found).count();
                prop_assert!(found == sorted[k - 1] || (found < sorted[k - 1] && reached <= k + slack));
            }
        }
    }
}
