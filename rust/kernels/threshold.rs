//! Threshold sampling: k ids whose weights are an unbiased estimate of the whole distribution.
//!
//! τ solves Σ min(1, p/τ) = k. An id with p ≥ τ is certain: it is kept with weight p. The others are drawn by
//! systematic sampling: their probabilities are added up in id order, and every id whose interval contains a point
//! (j + u)·τ is kept with weight τ, which happens with probability p/τ. Of all unbiased schemes with k ids this has the
//! smallest total variance (Duffield, Lund and Thorup 2007).

use super::element::Element;
use super::row::{BLOCK, Summary};
use super::topk::{before, select};

/// One row's sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Increasing.
    pub ids: Vec<u32>,
    /// p for certain ids, τ for drawn ones.
    pub weights: Vec<f32>,
    /// 0 where at most k ids have mass: all of them are certain then.
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
    let (num_certain, tau) = split(&ranked.iter().map(|(id, _)| p(*id)).collect::<Vec<_>>(), beyond, k);
    let mut certain: Vec<u32> = ranked[..num_certain].iter().map(|(id, _)| *id).collect();
    certain.sort_unstable();
    let mut kept: Vec<(u32, f32)> = certain.iter().map(|id| (*id, p(*id) as f32)).collect();
    if tau > 0.0 {
        let met = systematic(row, summary, &certain, tau, u, k - num_certain);
        kept.extend(met.into_iter().map(|id| (id, tau as f32)));
        kept.sort_unstable_by_key(|(id, _)| *id);
    }
    let (ids, weights) = kept.into_iter().unzip();
    Sample { ids, weights, tau: tau as f32, entropy: summary.entropy(row) as f32 }
}

/// How many of the largest probabilities are certain, and τ: (Σ of all others) / (k − certain).
fn split(largest: &[f64], beyond: f64, k: usize) -> (usize, f64) {
    // Suffix sums from the small end: never a difference of large numbers.
    let mut others = vec![beyond; largest.len() + 1];
    for i in (0..largest.len()).rev() {
        others[i] = others[i + 1] + largest[i];
    }
    for certain in 0..largest.len() {
        if k == certain {
            break;
        }
        let tau = others[certain] / (k - certain) as f64;
        if largest[certain] < tau {
            return (certain, tau);
        }
    }
    (largest.len(), 0.0)
}

/// The ids that the points (j + u)·τ fall on, without the certain ones; blocks without a point are skipped by their sums.
fn systematic<E: Element>(
    row: &[E],
    summary: &Summary,
    certain: &[u32],
    tau: f64,
    u: f64,
    wanted: usize,
) -> Vec<u32> {
    let step = tau * summary.total;
    let mut point = u * step;
    let mut passed = 0.0;
    let mut met = Vec::with_capacity(wanted);
    let mut last = None;
    let mut later = certain;
    for (block, sum) in summary.sums.iter().enumerate() {
        let end = ((block + 1) * BLOCK) as u32;
        let inside = later.iter().take_while(|id| **id < end).count();
        let certain_here = &later[..inside];
        later = &later[inside..];
        if inside == 0 && passed + f64::from(*sum) * (1.0 + 1e-5) < point {
            passed += f64::from(*sum);
            continue;
        }
        let powers = summary.powers(row, block);
        for (offset, power) in powers.iter().enumerate().filter(|(_, power)| **power > 0.0) {
            let id = (block * BLOCK + offset) as u32;
            if certain_here.contains(&id) {
                continue;
            }
            passed += f64::from(*power);
            last = Some(id);
            if passed > point && met.len() < wanted {
                met.push(id);
                point += step;
            }
        }
    }
    // By rounding the last point can fall behind the end: it belongs to the last id.
    if met.len() < wanted && last.is_some() && met.last() != last.as_ref() {
        met.extend(last);
    }
    met
}
