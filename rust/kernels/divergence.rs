//! Divergences between a cached target and a row of student logits, with the gradient, in two sweeps.
//!
//! On K+1 numbers: the K ids and everything else as one bucket. `s` is the student's softmax, `q_k = s[S_k]`, `u`
//! its mass outside S; `p_k` and `t` are the teacher's. With `g_k = ∂f/∂log q_k`, `h = ∂f/∂log u`, `G = Σ g_k`:
//!
//!     outside S:  grad_v = r_v · (h·q_S − G·u)      r: the softmax over the tail alone, finite as u → 0
//!     at S_k:     grad   = g_k − s_k · (G + h)
//!
//! The student's tail is summed with the K ids masked, never as 1 − Σq.

use super::element::Element;
use super::exp::exp;
use super::row::{BLOCK, ExpSum, Visit, vectors};
use super::simd::{self, Kernel, LANES, Level, Simd};
use crate::error::{Class, Error, Result};

/// Which divergence, with its parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// KL(p ‖ q)
    ForwardKl,
    /// KL(q ‖ p)
    ReverseKl,
    /// β·KL(p ‖ m) + (1−β)·KL(q ‖ m), m = β·p + (1−β)·q
    Jsd(f64),
    /// KL(p ‖ α·p + (1−α)·q)
    SkewedKl(f64),
    /// ½ Σ |p − q|
    TotalVariation,
    /// `−Σ w_k log q_k − H(p)`, without a tail: unbiased targets
    Sampled,
}

/// What the cache knows of one row.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Increasing, each below the row's length; entries with weight 0 in a sampled target are padding.
    pub ids: &'a [i32],
    /// `log p_k`; for sampled targets the weights themselves.
    pub values: &'a [f32],
    /// log t; for sampled targets H(p).
    pub rest: f32,
}

/// f and (∂f/∂log q, that is q·∂f/∂q) of one of the K+1 outcomes.
fn term(kind: Kind, log_p: f64, log_q: f64) -> (f64, f64) {
    let (p, q) = (log_p.exp(), log_q.exp());
    // x·(log x − log y), 0 where x is.
    let part = |x: f64, log_x: f64, log_y: f64| if x > 0.0 { x * (log_x - log_y) } else { 0.0 };
    match kind {
        Kind::ForwardKl | Kind::Sampled => (part(p, log_p, log_q), -p),
        Kind::ReverseKl => {
            let value = part(q, log_q, log_p);
            (value, value + q)
        }
        Kind::Jsd(beta) => {
            let log_m = log_mix(beta, log_p, log_q);
            let toward_p = part(p, log_p, log_m);
            let toward_q = part(q, log_q, log_m);
            // The terms through m cancel against the normalisation of both divergences.
            (beta * toward_p + (1.0 - beta) * toward_q, (1.0 - beta) * toward_q)
        }
        Kind::SkewedKl(skew) => {
            let log_m = log_mix(skew, log_p, log_q);
            let share = if q > 0.0 { (log_p + log_q - log_m).exp() } else { 0.0 };
            (part(p, log_p, log_m), -(1.0 - skew) * share)
        }
        Kind::TotalVariation => (
            0.5 * (p - q).abs(),
            if q > p {
                0.5 * q
            } else if q < p {
                -0.5 * q
            } else {
                0.0
            },
        ),
    }
}

/// log(β·p + (1−β)·q)
fn log_mix(beta: f64, log_p: f64, log_q: f64) -> f64 {
    let (a, b) = (beta.ln() + log_p, (1.0 - beta).ln() + log_q);
    let high = a.max(b);
    if high == f64::NEG_INFINITY { high } else { high + ((a - high).exp() + (b - high).exp()).ln() }
}

/// Replaces a row of student logits by the gradient of T²·f with respect to them; returns T²·f.
///
/// `temperature` divides the student's logits; the target is already at that temperature.
///
/// # Errors
/// On ids that are not below the row's length or not increasing, and on rows with NaN or +∞.
pub fn in_place<E: Element>(
    row: &mut [E],
    number: usize,
    target: Target<'_>,
    kind: Kind,
    temperature: f64,
) -> Result<f64> {
    let ids = checked_ids(row.len(), number, &target, kind)?;
    let scale = (1.0 / temperature) as f32;
    let kept: Vec<f64> = ids.iter().map(|id| f64::from(row[*id].to_f32()) * f64::from(scale)).collect();
    for id in &ids {
        row[*id] = E::LOWEST;
    }
    let level = simd::level()?;
    let (highest, sum, nan) = simd::dispatch(level, TailSum { row, scale });
    if nan || highest == f32::INFINITY || kept.iter().any(|z| z.is_nan() || *z == f64::INFINITY) {
        return Err(Error::new(
            Class::Model,
            format!("row {number} of the student's logits holds NaN or +inf"),
        )
        .hint("the student has diverged: lower the learning rate"));
    }
    let log_tail =
        if sum > 0.0 { f64::from(highest) * f64::from(scale) + sum.ln() } else { f64::NEG_INFINITY };
    let log_head = logsumexp(&kept);
    let log_all = logsumexp(&[log_head, log_tail]);
    let (u, q_head) = ((log_tail - log_all).exp(), (log_head - log_all).exp());
    let log_q: Vec<f64> = kept.iter().map(|z| z - log_all).collect();
    let found = value_and_slopes(kind, &target, &log_q, log_tail - log_all);
    let total = found.heads.iter().sum::<f64>();
    let squared = temperature * temperature;
    // d(z/T)/dz brings 1/T, the loss is multiplied by T².
    let outside = (found.tail * q_head - total * u) * temperature;
    let factor = if sum > 0.0 { (outside / sum) as f32 } else { 0.0 };
    fill(row, level, highest, scale, factor);
    for ((id, slope), log_q) in ids.iter().zip(&found.heads).zip(&log_q) {
        row[*id] = E::from_f32(((slope - log_q.exp() * (total + found.tail)) * temperature) as f32);
    }
    Ok(found.value * squared)
}

struct Slopes {
    value: f64,
    heads: Vec<f64>,
    tail: f64,
}

fn value_and_slopes(kind: Kind, target: &Target<'_>, log_q: &[f64], log_u: f64) -> Slopes {
    if kind == Kind::Sampled {
        let weights = || target.values.iter().map(|w| f64::from(*w)).filter(|w| *w > 0.0);
        let cross: f64 = weights().zip(log_q).map(|(w, q)| -w * q).sum();
        return Slopes {
            value: cross - f64::from(target.rest),
            heads: weights().map(|w| -w).collect(),
            tail: 0.0,
        };
    }
    let terms: Vec<(f64, f64)> =
        target.values.iter().zip(log_q).map(|(p, q)| term(kind, f64::from(*p), *q)).collect();
    let (tail_value, tail) = term(kind, f64::from(target.rest), log_u);
    Slopes {
        value: terms.iter().map(|(value, _)| value).sum::<f64>() + tail_value,
        heads: terms.iter().map(|(_, slope)| *slope).collect(),
        tail,
    }
}

/// The ids that count, each checked before it is used as an index.
fn checked_ids(vocab: usize, number: usize, target: &Target<'_>, kind: Kind) -> Result<Vec<usize>> {
    let count = match kind {
        Kind::Sampled => target.values.iter().take_while(|w| **w > 0.0).count(),
        _ => target.ids.len(),
    };
    let ids: Vec<usize> =
        target.ids[..count].iter().map(|id| usize::try_from(*id).unwrap_or(usize::MAX)).collect();
    let ordered = ids.windows(2).all(|pair| pair[0] < pair[1]);
    if ordered && ids.last().is_none_or(|id| *id < vocab) {
        return Ok(ids);
    }
    Err(Error::new(Class::Mismatch, format!("row {number}: target ids are not increasing and below {vocab}"))
        .detail(format!("ids {:?}", &target.ids[..count.min(8)]))
        .hint("was the cache made for another vocabulary?"))
}

fn logsumexp(values: &[f64]) -> f64 {
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if high == f64::NEG_INFINITY {
        high
    } else {
        high + values.iter().map(|v| (v - high).exp()).sum::<f64>().ln()
    }
}

struct Peak<S: Simd> {
    highest: S::V,
    nan: u32,
}

impl<S: Simd> Visit<S> for Peak<S> {
    #[inline(always)]
    fn lanes(&mut self, simd: S, x: S::V) {
        self.nan |= simd.nan(x);
        self.highest = simd.max(x, self.highest);
    }
}

struct TailSum<'a, E> {
    row: &'a [E],
    scale: f32,
}

impl<E: Element> Kernel for TailSum<'_, E> {
    type Out = (f32, f64, bool);
    /// Maximum, Σ exp((x − maximum)·scale), and whether a value is NaN.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Out {
        let mut peak = Peak { highest: simd.splat(f32::NEG_INFINITY), nan: 0 };
        vectors(simd, self.row, &mut peak);
        let (highest, nan) = (simd.reduce_max(peak.highest), peak.nan);
        if highest.is_infinite() {
            return (highest, 0.0, nan != 0);
        }
        let mut total = 0.0;
        for block in self.row.chunks(BLOCK) {
            let mut sum = ExpSum::new(simd, highest, self.scale);
            vectors(simd, block, &mut sum);
            total += f64::from(simd.reduce_add(sum.sum));
        }
        (highest, total, nan != 0)
    }
}

struct Fill<'a, E> {
    row: &'a mut [E],
    highest: f32,
    scale: f32,
    factor: f32,
}

impl<E: Element> Kernel for Fill<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let of = ExpSum::new(simd, self.highest, self.scale);
        let factor = simd.splat(self.factor);
        let (whole, rest) = self.row.as_chunks_mut::<LANES>();
        for lanes in whole {
            E::store(simd, gradient(simd, &of, factor, E::load(simd, lanes)), lanes);
        }
        if !rest.is_empty() {
            let mut lanes = [E::LOWEST; LANES];
            lanes[..rest.len()].copy_from_slice(rest);
            E::store(simd, gradient(simd, &of, factor, E::load(simd, &lanes)), &mut lanes);
            rest.copy_from_slice(&lanes[..rest.len()]);
        }
    }
}

#[inline(always)]
fn gradient<S: Simd>(simd: S, of: &ExpSum<S>, factor: S::V, x: S::V) -> S::V {
    simd.mul(exp(simd, simd.mul(simd.sub(x, of.highest), of.scale)), factor)
}

/// `r_v` · factor over the whole row; 0 where there is no tail.
fn fill<E: Element>(row: &mut [E], level: Level, highest: f32, scale: f32, factor: f32) {
    if factor == 0.0 {
        row.fill(E::from_f32(0.0));
        return;
    }
    simd::dispatch(level, Fill { row, highest, scale, factor });
}
