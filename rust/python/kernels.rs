//! Kernels over zero-copy buffers: rows of f32, or of bf16 and f16 as u16.
#![allow(clippy::needless_pass_by_value)] // PyO3 hands buffers over by value

use half::{bf16, f16};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use super::buffers::{reinterpret, slice, slice_mut};
use super::released;
use crate::error::{Class, Error, Result};
use crate::kernels::element::Element;
use crate::kernels::philox::{Key, Purpose, uniform};
use crate::kernels::row::Summary;
use crate::kernels::sample::{self, Sampling};
use crate::kernels::{pool, simd, threshold, topk};

/// Adds the kernels to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(set_num_threads, module)?)?;
    module.add_function(wrap_pyfunction!(simd_level, module)?)?;
    module.add_function(wrap_pyfunction!(topk_logsumexp, module)?)?;
    module.add_function(wrap_pyfunction!(sample_rows, module)?)?;
    module.add_function(wrap_pyfunction!(threshold_sample, module)?)
}

/// Logits as Python hands them over: f32, or 16-bit words with the name of their format.
#[derive(FromPyObject)]
pub(super) enum Logits {
    Single(PyBuffer<f32>),
    Half(PyBuffer<u16>),
}

macro_rules! with_rows {
    ($logits:expr, $format:expr, $rows:ident => $work:expr) => {
        match &$logits {
            Logits::Single(buffer) => {
                let $rows = slice(buffer)?;
                $work
            }
            Logits::Half(buffer) if $format == "bfloat16" => {
                let $rows: &[bf16] = reinterpret(slice(buffer)?);
                $work
            }
            Logits::Half(buffer) => {
                let $rows: &[f16] = reinterpret(slice(buffer)?);
                $work
            }
        }
    };
}

#[pyfunction]
fn num_threads() -> usize {
    pool::num_threads()
}

#[pyfunction]
fn set_num_threads(threads: usize) {
    pool::set_num_threads(threads);
}

#[pyfunction]
fn simd_level() -> PyResult<&'static str> {
    Ok(simd::level()?.name())
}

/// The realised token of each row and where its log-probability goes; both may be empty.
struct Labels<'a> {
    ids: &'a [i32],
    vocab: usize,
}

impl Labels<'_> {
    fn new(ids: &PyBuffer<i32>, log_probs: usize, vocab: usize) -> Result<Labels<'_>> {
        let ids = slice(ids)?;
        if ids.len() != log_probs {
            return Err(Error::new(Class::Usage, format!("{} labels for {log_probs} rows", ids.len())));
        }
        match ids.iter().find(|&&id| usize::try_from(id).map_or(true, |id| id >= vocab)) {
            Some(id) => {
                Err(Error::new(Class::Model, format!("label {id} is outside the vocabulary of {vocab}")))
            }
            None => Ok(Labels { ids, vocab }),
        }
    }

    /// log p of the label of a row, by the sum over the row that its target has.
    fn write<E: Element>(&self, rows: &[E], number: usize, summary: &Summary, to: Option<&mut f32>) {
        if let Some(to) = to {
            let logit = rows[number * self.vocab + self.ids[number] as usize].to_f32();
            *to = (f64::from(logit) - summary.logsumexp()) as f32;
        }
    }
}

/// One place for each row, or None for each.
fn optional(values: &mut [f32]) -> impl Iterator<Item = Option<&mut f32>> {
    let mut values = values.iter_mut();
    std::iter::repeat_with(move || values.next())
}

/// Outputs of one row of `topk_logsumexp`.
struct Selected<'a> {
    ids: &'a mut [i32],
    log_probs: &'a mut [f32],
    logsumexp: &'a mut f32,
    tails: &'a mut [f32],
    realised: Option<&'a mut f32>,
}

/// `tails` is [N, 1 + temperatures]: the log-tail at T = 1, then at each other T.
#[pyfunction]
#[pyo3(signature = (logits, format, vocab, k, temperatures, ids, log_probs, logsumexp, tails, labels, realised))]
#[allow(clippy::too_many_arguments)]
fn topk_logsumexp(
    py: Python<'_>,
    logits: Logits,
    format: &str,
    vocab: usize,
    k: usize,
    temperatures: Vec<f64>,
    mut ids: PyBuffer<i32>,
    mut log_probs: PyBuffer<f32>,
    mut logsumexp: PyBuffer<f32>,
    mut tails: PyBuffer<f32>,
    labels: PyBuffer<i32>,
    mut realised: PyBuffer<f32>,
) -> PyResult<()> {
    let realised = slice_mut(&mut realised)?;
    let labels = Labels::new(&labels, realised.len(), vocab)?;
    let (ids, log_probs) = (slice_mut(&mut ids)?, slice_mut(&mut log_probs)?);
    let (logsumexp, tails) = (slice_mut(&mut logsumexp)?, slice_mut(&mut tails)?);
    let outputs: Vec<Selected<'_>> = ids
        .chunks_mut(k)
        .zip(log_probs.chunks_mut(k))
        .zip(logsumexp)
        .zip(tails.chunks_mut(1 + temperatures.len()))
        .zip(optional(realised))
        .map(|((((ids, log_probs), logsumexp), tails), realised)| Selected {
            ids,
            log_probs,
            logsumexp,
            tails,
            realised,
        })
        .collect();
    with_rows!(logits, format, rows => {
        check_rows(rows.len(), vocab, outputs.len())?;
        released(py, || pool::each_row(rows.len(), outputs, |number, mut out| {
            let row = &rows[number * vocab..][..vocab];
            let summary = Summary::new(row, number, 1.0)?;
            labels.write(rows, number, &summary, out.realised.take());
            select_row(row, number, &summary, &temperatures, out)
        }))
    })
}

fn select_row<E: Element>(
    row: &[E],
    number: usize,
    summary: &Summary,
    temperatures: &[f64],
    out: Selected<'_>,
) -> Result<()> {
    let k = out.ids.len();
    let found = topk::select(row, summary, k);
    if found.len() < k {
        return Err(Error::new(
            Class::Model,
            format!("row {number} of the logits has only {} finite values", found.len()),
        )
        .hint(format!("lower k, which is {k}")));
    }
    let logsumexp = summary.logsumexp();
    *out.logsumexp = logsumexp as f32;
    for ((id, place), log_prob) in found.iter().zip(out.ids).zip(out.log_probs) {
        *place = *id as i32;
        *log_prob = (f64::from(row[*id as usize].to_f32()) - logsumexp) as f32;
    }
    out.tails[0] = (summary.log_tail(row, &found, 1.0) - logsumexp) as f32;
    for (temperature, tail) in temperatures.iter().zip(&mut out.tails[1..]) {
        *tail = (summary.log_tail(row, &found, *temperature) - logsumexp / temperature) as f32;
    }
    Ok(())
}

/// One id per row; `keys` is int64 [N, 4]: epoch, prompt, sample, position.
#[pyfunction]
#[pyo3(signature = (logits, format, vocab, seed, keys, temperature, top_k, top_p, min_p, greedy, ids))]
#[allow(clippy::too_many_arguments)]
fn sample_rows(
    py: Python<'_>,
    logits: Logits,
    format: &str,
    vocab: usize,
    seed: u64,
    keys: PyBuffer<i64>,
    temperature: f64,
    top_k: usize,
    top_p: f64,
    min_p: f64,
    greedy: bool,
    mut ids: PyBuffer<i64>,
) -> PyResult<()> {
    let sampling = Sampling { temperature, top_k, top_p, min_p, greedy };
    sampling.check()?;
    let outputs: Vec<&mut i64> = slice_mut(&mut ids)?.iter_mut().collect();
    let keys = read_keys(slice(&keys)?, outputs.len())?;
    with_rows!(logits, format, rows => {
        check_rows(rows.len(), vocab, outputs.len())?;
        released(py, || pool::each_row(rows.len(), outputs, |number, id| {
            let row = &rows[number * vocab..][..vocab];
            *id = i64::from(sample::sample(row, number, &sampling, seed, keys[number])?);
            Ok(())
        }))
    })
}

struct Sampled<'a> {
    ids: &'a mut [i32],
    weights: &'a mut [f32],
    count: &'a mut i32,
    tau: &'a mut f32,
    entropy: &'a mut f32,
    realised: Option<&'a mut f32>,
}

/// Threshold samples of k ids per row; padding repeats the last id with weight 0.
#[pyfunction]
#[pyo3(signature = (logits, format, vocab, k, seed, keys, ids, weights, counts, taus, entropies, labels, realised))]
#[allow(clippy::too_many_arguments)]
fn threshold_sample(
    py: Python<'_>,
    logits: Logits,
    format: &str,
    vocab: usize,
    k: usize,
    seed: u64,
    keys: PyBuffer<i64>,
    mut ids: PyBuffer<i32>,
    mut weights: PyBuffer<f32>,
    mut counts: PyBuffer<i32>,
    mut taus: PyBuffer<f32>,
    mut entropies: PyBuffer<f32>,
    labels: PyBuffer<i32>,
    mut realised: PyBuffer<f32>,
) -> PyResult<()> {
    let realised = slice_mut(&mut realised)?;
    let labels = Labels::new(&labels, realised.len(), vocab)?;
    let outputs: Vec<Sampled<'_>> = slice_mut(&mut ids)?
        .chunks_mut(k)
        .zip(slice_mut(&mut weights)?.chunks_mut(k))
        .zip(slice_mut(&mut counts)?)
        .zip(slice_mut(&mut taus)?)
        .zip(slice_mut(&mut entropies)?)
        .zip(optional(realised))
        .map(|(((((ids, weights), count), tau), entropy), realised)| Sampled {
            ids,
            weights,
            count,
            tau,
            entropy,
            realised,
        })
        .collect();
    let keys = read_keys(slice(&keys)?, outputs.len())?;
    with_rows!(logits, format, rows => {
        check_rows(rows.len(), vocab, outputs.len())?;
        released(py, || pool::each_row(rows.len(), outputs, |number, mut out| {
            let row = &rows[number * vocab..][..vocab];
            let summary = Summary::new(row, number, 1.0)?;
            labels.write(rows, number, &summary, out.realised.take());
            let u = uniform(seed, Purpose::Threshold, keys[number]);
            write_sample(&threshold::sample(row, &summary, k, u), out);
            Ok(())
        }))
    })
}

fn write_sample(found: &threshold::Sample, out: Sampled<'_>) {
    let last = found.ids.last().copied().unwrap_or(0) as i32;
    out.ids.fill(last);
    out.weights.fill(0.0);
    for (i, (id, weight)) in found.ids.iter().zip(&found.weights).enumerate() {
        out.ids[i] = *id as i32;
        out.weights[i] = *weight;
    }
    *out.count = found.ids.len() as i32;
    *out.tau = found.tau;
    *out.entropy = found.entropy;
}

fn read_keys(keys: &[i64], rows: usize) -> Result<Vec<Key>> {
    if keys.len() != rows * 4 {
        return Err(Error::new(
            Class::Usage,
            format!("{rows} rows need {} key words, not {}", rows * 4, keys.len()),
        ));
    }
    let word = |value: &i64| {
        u32::try_from(*value)
            .map_err(|_| Error::new(Class::Usage, format!("key word {value} does not fit into 32 bits")))
    };
    keys.chunks(4).map(|k| Ok([word(&k[0])?, word(&k[1])?, word(&k[2])?, word(&k[3])?])).collect()
}

fn check_rows(len: usize, vocab: usize, rows: usize) -> Result<()> {
    if vocab > 0 && len == rows * vocab {
        return Ok(());
    }
    Err(Error::new(Class::Usage, format!("{len} logits are not {rows} rows of {vocab}")))
}
