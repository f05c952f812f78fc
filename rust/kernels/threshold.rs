//! Threshold sampling: k ids whose weights are an unbiased estimate of the whole distribution.
//!
//! τ solves Σ min(1, p/τ) = k. Every p ≥ τ is a head and keeps its own probability; the rest is crossed once in
//! id order by a comb of width τ, and whoever a tooth meets gets weight τ (systematic sampling: inclusion
//! probability p/τ). Of all unbiased schemes with k ids this has the smallest total variance (Duffield, Lund
//! and Thorup 2007).

use super::element::Element;
use super::row::{BLOCK, Summary};
use super::topk::{before, select};

/// One row's sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Increasing.
    pub ids: Vec<u32>,
    /// p for heads, τ for the others.
    pub weights: Vec<f32>,
    /// 0 where fewer than k ids have mass: all of them are heads then.
    pub tau: f32,
    /// H(p) in nats.
    pub entropy: f32,
}

/// Samples `k` ids at temperature 1 with one uniform number `u`.
pub fn sample<E: Element>(row: &[E], summary: &Summary, k: usize, u: f64) -> Sample {
    let ids = select(row, summary, k);
    let p = |id: u32| summary.probability(row[id as usize].to_f32());
    let mut ranked: Vec<(u32, f32)> = ids.iter().map(|id| (*id, row[*id as usize].to_f32())).collect();
    ranked.sort_unstable_by(before);
    let beyond = (summary.log_tail(row, &ids, 1.0) - summary.logsumexp()).exp();
    let (num_heads, tau) = split(&ranked.iter().map(|(id, _)| p(*id)).collect::<Vec<_>>(), beyond, k);
    let mut heads: Vec<u32> = ranked[..num_heads].iter().map(|(id, _)| *id).collect();
    heads.sort_unstable();
    let mut kept: Vec<(u32, f32)> = heads.iter().map(|id| (*id, p(*id) as f32)).collect();
    if tau > 0.0 {
        let met = comb(row, summary, &heads, tau, u, k - num_heads);
        kept.extend(met.into_iter().map(|id| (id, tau as f32)));
        kept.sort_unstable_by_key(|(id, _)| *id);
    }
    let (ids, weights) = kept.into_iter().unzip();
    Sample { ids, weights, tau: tau as f32, entropy: summary.entropy(row) as f32 }
}

/// How many of the largest probabilities are heads, and τ for the rest: (Σ of the rest) / (k − heads).
fn split(largest: &[f64], beyond: f64, k: usize) -> (usize, f64) {
    // Suffix sums from the small end: the rest is never a difference of large numbers.
    let mut rest = vec![beyond; largest.len() + 1];
    for i in (0..largest.len()).rev() {
        rest[i] = rest[i + 1] + largest[i];
    }
    for heads in 0..largest.len() {
        if k == heads {
            break;
        }
        let tau = rest[heads] / (k - heads) as f64;
        if largest[heads] < tau {
            return (heads, tau);
        }
    }
    (largest.len(), 0.0)
}

/// Crosses all ids but the heads with teeth at (j + u)·τ; blocks without a tooth are passed over by their sums.
fn comb<E: Element>(
    row: &[E],
    summary: &Summary,
    heads: &[u32],
    tau: f64,
    u: f64,
    wanted: usize,
) -> Vec<u32> {
    let step = tau * summary.total;
    let mut tooth = u * step;
    let mut passed = 0.0;
    let mut met = Vec::with_capacity(wanted);
    let mut last = None;
    let mut rest = heads;
    for (block, sum) in summary.sums.iter().enumerate() {
        let end = ((block + 1) * BLOCK) as u32;
        let inside = rest.iter().take_while(|id| **id < end).count();
        let own_heads = &rest[..inside];
        rest = &rest[inside..];
        if inside == 0 && passed + f64::from(*sum) * (1.0 + 1e-5) < tooth {
            passed += f64::from(*sum);
            continue;
        }
        let powers = summary.powers(row, block);
        for (offset, power) in powers.iter().enumerate().filter(|(_, power)| **power > 0.0) {
            let id = (block * BLOCK + offset) as u32;
            if own_heads.contains(&id) {
                continue;
            }
            passed += f64::from(*power);
            last = Some(id);
            if passed > tooth && met.len() < wanted {
                met.push(id);
                tooth += step;
            }
        }
    }
    // The last tooth can fall behind the end by rounding: it belongs to the last id.
    if met.len() < wanted && last.is_some() && met.last() != last.as_ref() {
        met.extend(last);
    }
    met
}
