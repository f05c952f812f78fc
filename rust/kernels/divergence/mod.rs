//! Divergences between a sparse target and a row of student logits, with the gradient, in two sweeps.
//!
//! On K+1 outcomes: the K ids, and all others as one. `s` is the student's softmax, `q_k = s[S_k]`, `u`
//! its mass outside S; `p_k` and `t` are the teacher's. With `g_k = ∂f/∂log q_k`, `h = ∂f/∂log u`, `G = Σ g_k`:
//!
//!     outside S:  grad_v = r_v · (h·q_S − G·u)      r: the softmax over the tail alone, finite as u → 0
//!     at S_k:     grad   = g_k − s_k · (G + h)
//!
//! The student's tail is summed with the K ids masked, never as 1 − Σq. Cross-entropy on the label, at
//! temperature 1, adds `s − [v = label]`.
//!
//! Where an outcome has no mass: forward KL is +∞ with a finite gradient if the student lacks what the teacher
//! has; reverse KL is refused if the teacher lacks what the student has, since its gradient is infinite there.

mod cells;
mod dense;
mod sweep;
mod terms;

use super::element::Element;
use super::simd::{self, Level};
use crate::error::{Class, Error, Result};
pub use cells::{CellTarget, Cells, cells_in_place};
pub use dense::forward_kl_in_place;
use sweep::{Share, Swept};
pub use terms::Kind;
use terms::{Slopes, logsumexp, slopes};

/// What is known of the teacher's distribution for one row.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Increasing, each below the row's length. Padding: entries with weight 0 in a sampled target, else ids below 0
    /// whose value is −∞.
    pub ids: &'a [i32],
    /// `log p_k`; for sampled targets the weights themselves.
    pub values: &'a [f32],
    /// log t, the log of the tail mass; for sampled targets H(p).
    pub tail: f32,
}

/// T²·f + `ce_weight` · (−log q(label)); the target is at `temperature`, and so are the student's logits in f.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// f
    pub kind: Kind,
    /// T
    pub temperature: f64,
    /// Of the cross-entropy at temperature 1.
    pub ce_weight: f64,
}

impl Loss {
    /// # Errors
    /// On parameters outside their range.
    pub fn check(&self) -> Result<()> {
        let inside = match self.kind {
            Kind::Jsd(beta) => (0.0..=1.0).contains(&beta),
            Kind::SkewedKl(skew) => (0.0..1.0).contains(&skew),
            _ => true,
        };
        if !inside {
            return Err(Error::new(Class::UndefinedLoss, format!("{:?} is out of range", self.kind))
                .hint("beta lies in [0, 1], skew in [0, 1)"));
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite() && self.ce_weight.is_finite()) {
            return Err(Error::new(
                Class::UndefinedLoss,
                format!("temperature {} or ce_weight {} is no number", self.temperature, self.ce_weight),
            ));
        }
        Ok(())
    }
}

/// Replaces a row of student logits by the gradient of weight·loss with respect to them; returns weight·loss.
///
/// A weight of 0 ignores the row: its gradient is 0 whatever it holds. `label` is where the cross-entropy looks.
/// After an error the row's contents mean nothing.
///
/// # Errors
/// On ids that are not below the row's length or not increasing, on targets with NaN, on rows with NaN or +∞ or
/// nothing but −∞, and where reverse KL is infinite.
pub fn in_place<E: Element>(
    row: &mut [E],
    number: usize,
    target: &Target<'_>,
    loss: &Loss,
    label: Option<usize>,
    weight: f64,
) -> Result<f64> {
    if weight == 0.0 {
        row.fill(E::from_f32(0.0));
        return Ok(0.0);
    }
    let (ids, values) = checked_target(row.len(), number, target, loss.kind)?;
    let label = label.filter(|_| loss.ce_weight != 0.0);
    check_label(row.len(), number, label)?;
    let student = Student::read(row, &ids, loss, label)?;
    check(number, &student.swept, &student.kept, student.log_all)?;
    let target = Target { values: &values, ..*target };
    let (log_q, log_u) = (student.log_q(), student.log_tail - student.log_all);
    let kept = Kept { ids: &ids, q: &log_q.iter().map(|log_q| log_q.exp()).collect::<Vec<_>>() };
    let found = slopes(loss.kind, &target, &log_q, kept.q, log_u);
    if loss.kind == Kind::ReverseKl && found.value == f64::INFINITY {
        return Err(infinite_reverse_kl(number));
    }
    student.gradient(row, &kept, &found, loss, label.map(|label| (label, weight * loss.ce_weight)), weight);
    let entropy = label.map_or(0.0, |_| loss.ce_weight * (student.log_all_at_one() - student.label));
    Ok(weight * (found.value * loss.temperature * loss.temperature + entropy))
}

/// The K ids with the student's probabilities.
struct Kept<'a> {
    ids: &'a [usize],
    q: &'a [f64],
}

/// A student's row after the first sweep: its K ids are masked, and where `powers` is set the row holds
/// powers instead of logits.
struct Student {
    level: Level,
    /// 1/T
    inverse: f64,
    /// The logits of the K ids and of the label.
    kept: Vec<f64>,
    label: f64,
    swept: Swept,
    /// What makes them those of `swept`'s origin, group by group.
    powers: Option<Vec<f64>>,
    /// log-sum-exp of z/T: of the others, of all.
    log_tail: f64,
    log_all: f64,
    /// The same sweep at T = 1 with its log-sum-exp of all, for a cross-entropy beside T ≠ 1.
    at_one: Option<(Swept, f64)>,
}

impl Student {
    fn read<E: Element>(row: &mut [E], ids: &[usize], loss: &Loss, label: Option<usize>) -> Result<Self> {
        let level = simd::level()?;
        let inverse = 1.0 / loss.temperature;
        let kept: Vec<f64> = ids.iter().map(|id| f64::from(row[*id].to_f32())).collect();
        let label_logit = label.map_or(0.0, |label| f64::from(row[label].to_f32()));
        for id in ids {
            row[*id] = E::LOWEST;
        }
        let total = |tail: f64, inverse: f64| {
            let scaled: Vec<f64> = kept.iter().map(|z| z * inverse).collect();
            logsumexp(&[logsumexp(&scaled), tail])
        };
        let at_one = (label.is_some() && inverse != 1.0).then(|| {
            let swept = sweep::read(level, row, 1.0);
            let all = total(swept.logsumexp(), 1.0);
            (swept, all)
        });
        // 16-bit rows would round the powers: they are computed again, as is what a second temperature needs.
        let (swept, powers) = if size_of::<E>() == size_of::<f32>() && at_one.is_none() {
            let (swept, ratios) = sweep::keep(level, row, inverse);
            (swept, Some(ratios))
        } else {
            (sweep::read(level, row, inverse), None)
        };
        let log_tail = swept.logsumexp();
        let log_all = total(log_tail, inverse);
        Ok(Self { level, inverse, kept, label: label_logit, swept, powers, log_tail, log_all, at_one })
    }

    fn log_q(&self) -> Vec<f64> {
        self.kept.iter().map(|z| z * self.inverse - self.log_all).collect()
    }

    fn log_all_at_one(&self) -> f64 {
        self.at_one.as_ref().map_or(self.log_all, |(_, all)| *all)
    }

    /// Second sweep, and the K ids and the label behind it. `ce`: the label and the cross-entropy's weight there.
    fn gradient<E: Element>(
        &self,
        row: &mut [E],
        kept: &Kept<'_>,
        found: &Slopes,
        loss: &Loss,
        ce: Option<(usize, f64)>,
        weight: f64,
    ) {
        let Kept { ids, q } = *kept;
        let (u, q_kept) = ((self.log_tail - self.log_all).exp(), q.iter().sum::<f64>());
        let total: f64 = found.kept.iter().sum();
        // d(z/T)/dz brings 1/T, the loss is multiplied by T².
        let by_logit = weight * loss.temperature;
        let ce_weight = ce.map_or(0.0, |(_, weight)| weight);
        let mut outside = (found.tail * q_kept - total * u) * by_logit;
        if self.at_one.is_none() {
            outside += ce_weight * u;
        }
        self.second_sweep(row, outside, ce_weight);
        // Without a cross-entropy the sum at temperature 1 is not known, and the power may be infinite.
        let softmax = |z: f64| ce.map_or(0.0, |(_, weight)| weight * (z - self.log_all_at_one()).exp());
        for (((id, slope), q), z) in ids.iter().zip(&found.kept).zip(q).zip(&self.kept) {
            let own = (slope - q * (total + found.tail)) * by_logit + softmax(*z);
            let label = ce.filter(|(label, _)| label == id).map_or(0.0, |(_, weight)| weight);
            row[*id] = E::from_f32((own - label) as f32);
        }
        if let Some((label, ce_weight)) = ce.filter(|(label, _)| ids.binary_search(label).is_err()) {
            let mut own = -ce_weight;
            if self.label > f64::NEG_INFINITY {
                own += outside * (self.label * self.inverse - self.log_tail).exp();
                own += self.at_one.as_ref().map_or(0.0, |_| softmax(self.label));
            }
            row[label] = E::from_f32(own as f32);
        }
    }

    fn second_sweep<E: Element>(&self, row: &mut [E], outside: f64, ce_weight: f64) {
        if self.log_tail == f64::NEG_INFINITY {
            row.fill(E::from_f32(0.0));
        } else if let Some(ratios) = &self.powers {
            sweep::scale_kept(self.level, row, &self.swept, ratios, outside);
        } else {
            let second = self.at_one.as_ref().map(|(swept, all)| Share::of(swept, ce_weight, *all));
            sweep::recompute(self.level, row, Share::of_row(&self.swept, outside), second);
        }
    }
}

/// The ids that count with their values, each checked before it is used as an index.
fn checked_target(
    vocab: usize,
    number: usize,
    target: &Target<'_>,
    kind: Kind,
) -> Result<(Vec<usize>, Vec<f32>)> {
    let counts = |id: i32, value: f32| match kind {
        Kind::Sampled => value != 0.0,
        _ => id >= 0 || value != f32::NEG_INFINITY,
    };
    let (ids, values): (Vec<usize>, Vec<f32>) = target
        .ids
        .iter()
        .zip(target.values)
        .filter(|(id, value)| counts(**id, **value))
        .map(|(id, value)| (usize::try_from(*id).unwrap_or(usize::MAX), *value))
        .unzip();
    if values.iter().chain([&target.tail]).any(|value| value.is_nan() || *value == f32::INFINITY) {
        return Err(Error::new(Class::Mismatch, format!("row {number}: the target holds NaN or +inf"))
            .hint("run thack cache verify on the cache"));
    }
    let ordered = ids.windows(2).all(|pair| pair[0] < pair[1]);
    if ordered && ids.last().is_none_or(|id| *id < vocab) {
        return Ok((ids, values));
    }
    Err(Error::new(Class::Mismatch, format!("row {number}: target ids are not increasing and below {vocab}"))
        .detail(format!("ids {:?}", &target.ids[..target.ids.len().min(8)]))
        .hint("was the cache made for another vocabulary?"))
}

fn check_label(vocab: usize, number: usize, label: Option<usize>) -> Result<()> {
    match label.filter(|label| *label >= vocab) {
        None => Ok(()),
        Some(label) => Err(Error::new(
            Class::Mismatch,
            format!("row {number}: label {label} is outside the vocabulary of {vocab}"),
        )
        .hint("were the labels made by another tokenizer?")),
    }
}

/// `kept`: logits, or logarithms of their sums, of what was taken out of the row.
fn check(number: usize, swept: &Swept, kept: &[f64], log_all: f64) -> Result<()> {
    let any = |found: fn(&f64) -> bool| kept.iter().any(found);
    let what = if swept.highest == f32::INFINITY || any(|z| *z == f64::INFINITY) {
        "+inf"
    } else if swept.nan || any(|z| z.is_nan()) {
        "NaN"
    } else if log_all == f64::NEG_INFINITY {
        "nothing but -inf"
    } else {
        return Ok(());
    };
    Err(Error::new(Class::Model, format!("row {number} of the student's logits holds {what}"))
        .hint("the student has diverged: lower the learning rate"))
}

fn infinite_reverse_kl(number: usize) -> Error {
    Error::new(
        Class::UndefinedLoss,
        format!("row {number}: reverse KL is infinite, the student has mass where the teacher has none"),
    )
    .hint("use forward_kl, jsd or skewed_kl")
}
