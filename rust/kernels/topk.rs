//! The k most likely ids of a row, ties to the lowest id, with log-sum-exp and the exact log of the tail.

use std::cmp::Ordering;

use super::element::Element;
use super::row::{BLOCK, Summary};

/// The `k` largest values (fewer where fewer are finite): ids in increasing order.
pub fn select<E: Element>(row: &[E], summary: &Summary, k: usize) -> Vec<u32> {
    let mut candidates = candidates(row, &summary.maxima, k);
    if candidates.len() > k {
        candidates.select_nth_unstable_by(k, before);
        candidates.truncate(k);
    }
    let mut ids: Vec<u32> = candidates.into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    ids
}

/// Higher values first, lower ids first among equal ones.
#[allow(clippy::trivially_copy_pass_by_ref)] // the shape that sorting wants
pub(crate) fn before(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0))
}

/// All that can be among the k largest: the k-th largest block maximum bounds them from below, since k blocks
/// hold a value as large. Blocks below it are never opened.
fn candidates<E: Element>(row: &[E], maxima: &[f32], k: usize) -> Vec<(u32, f32)> {
    let mut bound = f32::NEG_INFINITY;
    if k <= maxima.len() {
        let mut sorted = maxima.to_vec();
        let (_, kth, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        bound = *kth;
    }
    let mut found = Vec::with_capacity(4 * k);
    let mut at_bound = 0;
    for (block, _) in maxima.iter().enumerate().filter(|(_, highest)| **highest >= bound) {
        let first = block * BLOCK;
        for (offset, value) in row[first..row.len().min(first + BLOCK)].iter().enumerate() {
            let value = value.to_f32();
            // Ties at the bound beyond the k-th can never win: ids only grow. Spares rows of equal values.
            if value > bound || (value == bound && value > f32::NEG_INFINITY && at_bound < k) {
                at_bound += usize::from(value == bound);
                found.push(((first + offset) as u32, value));
            }
        }
    }
    found
}
