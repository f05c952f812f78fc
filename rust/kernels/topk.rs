//! The k most likely ids of a row, ties to the lowest id, with log-sum-exp and the exact log of the tail.

use std::cmp::Ordering;

use super::element::Element;
use super::row::Summary;

/// The `k` largest values (fewer where fewer are finite): ids in increasing order.
pub fn select<E: Element>(row: &[E], summary: &Summary, k: usize) -> Vec<u32> {
    let mut candidates = candidates(row, summary, k);
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
fn candidates<E: Element>(row: &[E], summary: &Summary, k: usize) -> Vec<(u32, f32)> {
    let mut bound = f32::NEG_INFINITY;
    if k <= summary.maxima.len() {
        let mut sorted = summary.maxima.clone();
        let (_, kth, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        bound = *kth;
    }
    summary.collect(row, bound, k)
}
