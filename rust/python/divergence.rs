//! Divergences over a zero-copy buffer of student logits, which becomes their gradient.
#![allow(clippy::needless_pass_by_value)] // PyO3 hands buffers over by value

use half::{bf16, f16};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use super::buffers::{reinterpret_mut, slice, slice_mut};
use super::kernels::Logits;
use super::released;
use crate::error::{Class, Error, Result};
use crate::kernels::divergence::{self, CellTarget, Cells, Kind, Loss, Target};
use crate::kernels::element::Element;
use crate::kernels::pool;

/// Adds the kernel to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(sparse_divergence, module)?)?;
    module.add_function(wrap_pyfunction!(cells_divergence, module)?)?;
    module.add_function(wrap_pyfunction!(dense_forward_kl, module)?)
}

/// Replaces student logits [C, columns] by the gradients of weight·loss, and fills `losses` with weight·loss.
///
/// The first `vocab` columns are the distribution, the others (none if `columns` is 0) get gradient 0. `labels` and
/// `weights` are [C] where they are given: a negative label has no cross-entropy, a weight of 0 ignores the row.
#[pyfunction]
#[pyo3(signature = (
    logits, format, vocab, ids, values, rests, kind, parameter, temperature, losses, *, columns = 0, labels = None,
    weights = None, ce_weight = 0.0
))]
#[allow(clippy::too_many_arguments)]
fn sparse_divergence(
    py: Python<'_>,
    logits: Logits,
    format: &str,
    vocab: usize,
    ids: PyBuffer<i32>,
    values: PyBuffer<f32>,
    rests: PyBuffer<f32>,
    kind: &str,
    parameter: f64,
    temperature: f64,
    mut losses: PyBuffer<f32>,
    columns: usize,
    labels: Option<PyBuffer<i64>>,
    weights: Option<PyBuffer<f32>>,
    ce_weight: f64,
) -> PyResult<()> {
    let loss = Loss { kind: read_kind(kind, parameter)?, temperature, ce_weight };
    loss.check()?;
    let losses = slice_mut(&mut losses)?;
    let work = Rows {
        columns: if columns == 0 { vocab } else { columns },
        vocab,
        k: ids.item_count() / losses.len().max(1),
        ids: slice(&ids)?,
        values: slice(&values)?,
        tails: slice(&rests)?,
        labels: labels.as_ref().map(slice).transpose()?,
        weights: weights.as_ref().map(slice).transpose()?,
        loss,
    };
    match logits {
        Logits::Single(mut buffer) => work.run(py, slice_mut(&mut buffer)?, losses),
        Logits::Half(mut buffer) if format == "bfloat16" => {
            work.run(py, reinterpret_mut::<bf16>(slice_mut(&mut buffer)?), losses)
        }
        Logits::Half(mut buffer) => work.run(py, reinterpret_mut::<f16>(slice_mut(&mut buffer)?), losses),
    }
}

/// Replaces student logits [C, V] by the gradients of the loss on cells, and fills `losses` with its values.
///
/// `mass` and `cells` are [C, K], `ids` and `weights` [C, W], `tails` and `inside` [C].
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn cells_divergence(
    py: Python<'_>,
    mut logits: PyBuffer<f32>,
    cell: PyBuffer<i64>,
    members: PyBuffer<i64>,
    starts: PyBuffer<i64>,
    sizes: PyBuffer<i64>,
    outside: PyBuffer<i64>,
    mass: PyBuffer<f32>,
    cells: PyBuffer<i64>,
    tails: PyBuffer<f32>,
    ids: PyBuffer<i64>,
    weights: PyBuffer<f32>,
    inside: PyBuffer<u8>,
    mut losses: PyBuffer<f32>,
) -> PyResult<()> {
    let (logits, losses) = (slice_mut(&mut logits)?, slice_mut(&mut losses)?);
    let known = Cells {
        cell: slice(&cell)?,
        members: slice(&members)?,
        starts: slice(&starts)?,
        sizes: slice(&sizes)?,
        outside: slice(&outside)?,
    };
    let (mass, cells, tails) = (slice(&mass)?, slice(&cells)?, slice(&tails)?);
    let (ids, weights, inside) = (slice(&ids)?, slice(&weights)?, slice(&inside)?);
    let (count, rows, vocab) = (logits.len(), losses.len(), known.cell.len());
    let (k, w) = (cells.len() / rows.max(1), ids.len() / rows.max(1));
    let shapes = [
        (count, rows * vocab),
        (cells.len(), rows * k),
        (mass.len(), cells.len()),
        (ids.len(), rows * w),
        (weights.len(), ids.len()),
        (tails.len(), rows),
        (inside.len(), rows),
    ];
    if shapes.iter().any(|(found, expected)| found != expected) {
        return Err(Error::new(
            Class::Usage,
            "logits and the target of cells have different numbers of rows",
        )
        .detail(format!("{count} logits of {vocab} ids, {rows} losses"))
        .into());
    }
    if vocab == 0 {
        return Ok(());
    }
    let rows: Vec<_> = logits.chunks_mut(vocab).zip(losses).collect();
    released(py, || {
        pool::each_row(count, rows, |n, (row, loss)| {
            let (kept, own) = (n * k..(n + 1) * k, n * w..(n + 1) * w);
            let target = CellTarget {
                cells: &cells[kept.clone()],
                mass: &mass[kept],
                tail: tails[n],
                ids: &ids[own.clone()],
                weights: &weights[own],
                inside: inside[n] != 0,
            };
            *loss = divergence::cells_in_place(row, n, &known, &target)? as f32;
            Ok(())
        })
    })
}

/// Replaces student logits [C, V] by the gradients of forward KL at temperature 1, and fills `losses` with its values.
///
/// A loss that is not finite says that its row means nothing.
#[pyfunction]
fn dense_forward_kl(
    py: Python<'_>,
    mut logits: PyBuffer<f32>,
    log_probs: PyBuffer<f32>,
    mut losses: PyBuffer<f32>,
) -> PyResult<()> {
    let (logits, log_probs, losses) = (slice_mut(&mut logits)?, slice(&log_probs)?, slice_mut(&mut losses)?);
    let (count, vocab) = (logits.len(), logits.len().checked_div(losses.len()).unwrap_or(0));
    if log_probs.len() != count || vocab * losses.len() != count {
        return Err(Error::new(Class::Usage, "logits, target and losses have different numbers of rows")
            .detail(format!("{count} logits, {} log-probabilities, {} losses", log_probs.len(), losses.len()))
            .into());
    }
    if vocab == 0 {
        return Ok(());
    }
    let rows = logits.chunks_mut(vocab).zip(log_probs.chunks(vocab)).zip(losses);
    let rows: Vec<_> = rows.collect();
    released(py, || {
        pool::each_row(count, rows, |_, ((row, log_p), loss)| {
            *loss = divergence::forward_kl_in_place(row, log_p)? as f32;
            Ok(())
        })
    })
}

struct Rows<'a> {
    columns: usize,
    vocab: usize,
    k: usize,
    ids: &'a [i32],
    values: &'a [f32],
    tails: &'a [f32],
    labels: Option<&'a [i64]>,
    weights: Option<&'a [f32]>,
    loss: Loss,
}

impl Rows<'_> {
    fn run<E: Element>(&self, py: Python<'_>, logits: &mut [E], losses: &mut [f32]) -> PyResult<()> {
        self.check(logits.len(), losses.len())?;
        let count = logits.len();
        let rows: Vec<(&mut [E], &mut f32)> = logits.chunks_mut(self.columns).zip(losses).collect();
        released(py, || {
            pool::each_row(count, rows, |number, (row, loss)| {
                let (row, padding) = row.split_at_mut(self.vocab);
                padding.fill(E::from_f32(0.0));
                let label = self.labels.and_then(|labels| usize::try_from(labels[number]).ok());
                let weight = self.weights.map_or(1.0, |weights| f64::from(weights[number]));
                let target = self.target(number);
                *loss = divergence::in_place(row, number, &target, &self.loss, label, weight)? as f32;
                Ok(())
            })
        })
    }

    fn target(&self, number: usize) -> Target<'_> {
        let own = number * self.k..(number + 1) * self.k;
        Target { ids: &self.ids[own.clone()], values: &self.values[own], tail: self.tails[number] }
    }

    fn check(&self, logits: usize, rows: usize) -> Result<()> {
        let shapes = self.vocab > 0
            && self.vocab <= self.columns
            && logits == rows * self.columns
            && self.ids.len() == rows * self.k
            && self.values.len() == self.ids.len()
            && self.tails.len() == rows
            && self.labels.is_none_or(|labels| labels.len() == rows)
            && self.weights.is_none_or(|weights| weights.len() == rows);
        if shapes {
            return Ok(());
        }
        Err(Error::new(Class::Usage, "logits, target, labels and weights have different numbers of rows")
            .detail(format!("{logits} logits in rows of {}, {rows} losses", self.columns))
            .detail(format!("{} ids, {} tails", self.ids.len(), self.tails.len())))
    }
}

fn read_kind(kind: &str, parameter: f64) -> Result<Kind> {
    match kind {
        "forward_kl" => Ok(Kind::ForwardKl),
        "reverse_kl" => Ok(Kind::ReverseKl),
        "jsd" => Ok(Kind::Jsd(parameter)),
        "skewed_kl" => Ok(Kind::SkewedKl(parameter)),
        "total_variation" => Ok(Kind::TotalVariation),
        "sampled" => Ok(Kind::Sampled),
        _ => Err(Error::new(Class::Usage, format!("no divergence is called {kind:?}"))),
    }
}
