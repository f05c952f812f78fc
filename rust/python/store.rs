//! The store: layouts of records, shards written and read, small files published.

#![allow(clippy::needless_pass_by_value, reason = "PyO3 hands arguments over by value")]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::buffer::{Element, PyBuffer};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use super::buffers::{slice, slice_mut};
use super::released;
use crate::codec::{EncodeError, Layout, SampledRows, SampledRowsMut, TopKRows, TopKRowsMut};
use crate::error::{Class, Error, Result};
use crate::shard::{self, FileStorage, Parts, Published, Sequence};

/// Adds the store to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("TEMPORARY", shard::TEMPORARY)?;
    module.add_class::<RecordLayout>()?;
    module.add_class::<ShardWriter>()?;
    module.add_class::<CacheReader>()?;
    module.add_function(wrap_pyfunction!(publish, module)?)?;
    module.add_function(wrap_pyfunction!(sweep, module)?)?;
    module.add_function(wrap_pyfunction!(verify_shard, module)?)?;
    module.add_function(wrap_pyfunction!(shard_name, module)?)
}

type Metadata = BTreeMap<String, String>;

/// Layout of one record, from a cache's metadata.
#[pyclass(frozen)]
struct RecordLayout(Layout);

#[pymethods]
impl RecordLayout {
    #[new]
    fn new(metadata: Metadata) -> PyResult<Self> {
        Ok(Self(layout(&metadata)?))
    }

    #[getter]
    fn stride(&self) -> usize {
        self.0.stride()
    }

    /// Refuses rows that cannot be stored. Rows that can be are records already: nothing is copied.
    fn check_dense(&self, py: Python<'_>, log_probs: PyBuffer<f32>) -> PyResult<()> {
        let Layout::Dense(layout) = self.0 else { return Err(wrong_kind("dense")) };
        let log_probs = slice(&log_probs)?;
        released(py, || layout.check_rows(log_probs).map_err(unwritable))
    }

    /// Refuses records that are not rows. Records that are can be used where they were read: nothing is copied.
    fn decode_dense(&self, py: Python<'_>, records: PyBuffer<f32>) -> PyResult<()> {
        let Layout::Dense(layout) = self.0 else { return Err(wrong_kind("dense")) };
        let log_probs = slice(&records)?;
        released(py, || layout.check_rows(log_probs).map_err(unreadable))
    }

    fn encode_top_k(
        &self,
        py: Python<'_>,
        ids: PyBuffer<i32>,
        log_probs: PyBuffer<f32>,
        log_tails: PyBuffer<f32>,
        log_tails_at: PyBuffer<f32>,
    ) -> PyResult<Py<PyByteArray>> {
        let Layout::TopK(layout) = self.0 else { return Err(wrong_kind("top-k")) };
        let rows = ids.item_count() / layout.k();
        expect(&log_probs, rows * layout.k())?;
        expect(&log_tails, if layout.has_tail() { rows } else { 0 })?;
        expect(&log_tails_at, rows * layout.num_temperatures())?;
        let (ids, log_probs) = (slice(&ids)?, slice(&log_probs)?);
        let (log_tails, log_tails_at) = (slice(&log_tails)?, slice(&log_tails_at)?);
        let records = released(py, || {
            let mut records = vec![0; rows * layout.stride()];
            let rows = TopKRows { ids, log_probs, log_tails, log_tails_at };
            layout.encode_rows(rows, &mut records).map_err(unwritable)?;
            Ok(records)
        })?;
        Ok(PyByteArray::new(py, &records).unbind())
    }

    fn decode_top_k(
        &self,
        py: Python<'_>,
        records: PyBuffer<u8>,
        mut ids: PyBuffer<i32>,
        mut log_probs: PyBuffer<f32>,
        mut log_tails: PyBuffer<f32>,
        mut log_tails_at: PyBuffer<f32>,
    ) -> PyResult<()> {
        let Layout::TopK(layout) = self.0 else { return Err(wrong_kind("top-k")) };
        let records = slice(&records)?;
        let rows = records.len() / layout.stride();
        expect(&ids, rows * layout.k())?;
        expect(&log_probs, rows * layout.k())?;
        expect(&log_tails, if layout.has_tail() { rows } else { 0 })?;
        expect(&log_tails_at, rows * layout.num_temperatures())?;
        let rows = TopKRowsMut {
            ids: slice_mut(&mut ids)?,
            log_probs: slice_mut(&mut log_probs)?,
            log_tails: slice_mut(&mut log_tails)?,
            log_tails_at: slice_mut(&mut log_tails_at)?,
        };
        released(py, || layout.decode_rows(records, rows).map_err(unreadable))
    }

    /// `keys` is int64 [N, 3]: example, sample and position of each row.
    #[expect(clippy::too_many_arguments, reason = "one per array of a sampled target")]
    fn encode_sampled(
        &self,
        py: Python<'_>,
        ids: PyBuffer<i32>,
        weights: PyBuffer<f32>,
        counts: PyBuffer<i32>,
        taus: PyBuffer<f32>,
        entropies: PyBuffer<f32>,
        keys: PyBuffer<i64>,
        seed: u64,
    ) -> PyResult<Py<PyByteArray>> {
        let Layout::Sampled(layout) = self.0 else { return Err(wrong_kind("sampled")) };
        let rows = expect(&counts, ids.item_count() / layout.k())?;
        expect(&ids, rows * layout.k())?;
        expect(&weights, rows * layout.k())?;
        expect(&taus, rows)?;
        expect(&entropies, rows)?;
        expect(&keys, 3 * rows)?;
        let (ids, weights, counts) = (slice(&ids)?, slice(&weights)?, slice(&counts)?);
        let (taus, entropies, keys) = (slice(&taus)?, slice(&entropies)?, slice(&keys)?);
        let records = released(py, || {
            let mut records = vec![0; rows * layout.stride()];
            let rows = SampledRows { ids, weights, counts, taus, entropies, keys, seed };
            layout.encode_rows(rows, &mut records).map_err(unwritable)?;
            Ok(records)
        })?;
        Ok(PyByteArray::new(py, &records).unbind())
    }

    #[expect(clippy::too_many_arguments, reason = "one per array of a sampled target")]
    fn decode_sampled(
        &self,
        py: Python<'_>,
        records: PyBuffer<u8>,
        mut ids: PyBuffer<i32>,
        mut weights: PyBuffer<f32>,
        mut counts: PyBuffer<i32>,
        mut taus: PyBuffer<f32>,
        mut entropies: PyBuffer<f32>,
    ) -> PyResult<()> {
        let Layout::Sampled(layout) = self.0 else { return Err(wrong_kind("sampled")) };
        let records = slice(&records)?;
        let rows = records.len() / layout.stride();
        expect(&ids, rows * layout.k())?;
        expect(&weights, rows * layout.k())?;
        expect(&counts, rows)?;
        expect(&taus, rows)?;
        expect(&entropies, rows)?;
        let rows = SampledRowsMut {
            ids: slice_mut(&mut ids)?,
            weights: slice_mut(&mut weights)?,
            counts: slice_mut(&mut counts)?,
            taus: slice_mut(&mut taus)?,
            entropies: slice_mut(&mut entropies)?,
        };
        released(py, || layout.decode_rows(records, rows).map_err(unreadable))
    }

    /// `numbers` is f32 [N, d].
    fn encode_projected(
        &self,
        py: Python<'_>,
        entropies: PyBuffer<f32>,
        numbers: PyBuffer<f32>,
    ) -> PyResult<Py<PyByteArray>> {
        let Layout::Projected(layout) = self.0 else { return Err(wrong_kind("projected")) };
        let rows = entropies.item_count();
        expect(&numbers, rows * layout.width())?;
        let (entropies, numbers) = (slice(&entropies)?, slice(&numbers)?);
        let records = released(py, || {
            let mut records = vec![0; rows * layout.stride()];
            layout.encode_rows(entropies, numbers, &mut records).map_err(unwritable)?;
            Ok(records)
        })?;
        Ok(PyByteArray::new(py, &records).unbind())
    }

    fn decode_projected(
        &self,
        py: Python<'_>,
        records: PyBuffer<u8>,
        mut entropies: PyBuffer<f32>,
        mut numbers: PyBuffer<f32>,
    ) -> PyResult<()> {
        let Layout::Projected(layout) = self.0 else { return Err(wrong_kind("projected")) };
        let records = slice(&records)?;
        let rows = records.len() / layout.stride();
        expect(&entropies, rows)?;
        expect(&numbers, rows * layout.width())?;
        let (entropies, numbers) = (slice_mut(&mut entropies)?, slice_mut(&mut numbers)?);
        released(py, || layout.decode_rows(records, entropies, numbers).map_err(unreadable))
    }
}

/// A shard being written. Dropped without `finish`, it removes its temporary file.
#[pyclass]
struct ShardWriter(Option<shard::ShardWriter>);

#[pymethods]
impl ShardWriter {
    #[new]
    fn new(path: PathBuf, metadata: Metadata) -> PyResult<Self> {
        let stride = layout(&metadata)?.stride();
        let writer = shard::ShardWriter::create(Arc::new(FileStorage), &path, metadata, stride);
        Ok(Self(Some(writer.map_err(Error::from)?)))
    }

    /// Appends records of the next response tokens.
    fn records(&mut self, py: Python<'_>, records: PyBuffer<u8>) -> PyResult<()> {
        let records = slice(&records)?;
        let writer = self.open()?;
        released(py, || Ok(writer.records(records)?))
    }

    /// Appends one sequence, whose records are appended before or after. `realised`: log p of its response tokens.
    #[pyo3(signature = (numbers, prompt_id, prompt, response, realised=None))]
    fn sequence(
        &mut self,
        numbers: (u64, u64, u64),
        prompt_id: &str,
        prompt: PyBuffer<i32>,
        response: PyBuffer<i32>,
        realised: Option<PyBuffer<f32>>,
    ) -> PyResult<()> {
        let (prompt, response) = (slice(&prompt)?, slice(&response)?);
        let realised = realised.as_ref().map_or(Ok(&[][..]), slice)?;
        let (sequence, example, sample) = numbers;
        let row = Sequence { sequence, example, sample, prompt_id, prompt, response, realised };
        Ok(self.open()?.sequence(row).map_err(Error::from)?)
    }

    /// Abandons the shard and removes its temporary file.
    fn abandon(&mut self) {
        self.0 = None;
    }

    /// Commits the shard: tokens, sequences, bytes, root, and whether it had not been there before.
    fn finish(&mut self, py: Python<'_>) -> PyResult<(u64, u64, u64, String, bool)> {
        let writer = self.0.take().ok_or_else(closed)?;
        let written = released(py, || Ok(writer.finish()?))?;
        let new = written.published == Published::New;
        Ok((written.counts.tokens, written.counts.sequences, written.file_length, hex(&written.root), new))
    }
}

impl ShardWriter {
    fn open(&mut self) -> PyResult<&mut shard::ShardWriter> {
        self.0.as_mut().ok_or_else(|| closed().into())
    }
}

fn closed() -> Error {
    Error::new(Class::Usage, "this shard was finished or abandoned before")
}

/// Random access to the sequences of a cache.
#[pyclass(frozen)]
struct CacheReader(shard::CacheReader);

#[pymethods]
impl CacheReader {
    #[new]
    fn new(directory: PathBuf, firsts: Vec<u64>, expected: Metadata) -> Self {
        Self(shard::CacheReader::new(Arc::new(FileStorage), &directory, firsts, expected))
    }

    /// (numbers int64 [4, B]: example, sample, prompt length, response length; prompt ids;
    /// prompts int32; responses int32; records; log p of the response tokens float32, or nothing in a version that
    /// does not hold it), packed in the order given.
    #[expect(clippy::type_complexity, reason = "unpacked at its only call")]
    #[pyo3(signature = (sequences, with_records, with_realised=false))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        sequences: Vec<u64>,
        with_records: bool,
        with_realised: bool,
    ) -> PyResult<(
        Bound<'py, PyByteArray>,
        Vec<String>,
        Bound<'py, PyByteArray>,
        Bound<'py, PyByteArray>,
        Bound<'py, PyByteArray>,
        Bound<'py, PyByteArray>,
    )> {
        let batch = released(py, || {
            Ok(self.0.read(&sequences, Parts { records: with_records, realised: with_realised })?)
        })?;
        let numbers = [&batch.examples, &batch.samples, &batch.prompt_lengths, &batch.response_lengths];
        let numbers: Vec<u8> =
            numbers.into_iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
        let ids = |ids: &[i32]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
        let realised: Vec<u8> = batch.realised.iter().flat_map(|log_prob| log_prob.to_le_bytes()).collect();
        Ok((
            PyByteArray::new(py, &numbers),
            batch.prompt_ids,
            PyByteArray::new(py, &ids(&batch.prompts)),
            PyByteArray::new(py, &ids(&batch.responses)),
            PyByteArray::new(py, &batch.records),
            PyByteArray::new(py, &realised),
        ))
    }
}

/// Writes a small file durably, once; False if the same bytes were there. Other bytes are an error.
#[pyfunction]
fn publish(py: Python<'_>, path: PathBuf, data: Vec<u8>) -> PyResult<bool> {
    released(py, || Ok(shard::publish(&FileStorage, &path, &data)? == Published::New))
}

/// Removes the temporary files of killed writers.
#[pyfunction]
fn sweep(py: Python<'_>, directory: PathBuf) -> PyResult<usize> {
    released(py, || Ok(shard::sweep(&FileStorage, &directory)?))
}

/// Checks a shard, all of it with `full`: (tokens, sequences, bytes, root, metadata).
#[pyfunction]
fn verify_shard(py: Python<'_>, path: PathBuf, full: bool) -> PyResult<(u64, u64, u64, String, Metadata)> {
    let report = released(py, || Ok(shard::verify(&FileStorage, &path, full)?))?;
    Ok((report.tokens, report.sequences, report.file_length, hex(&report.root), report.metadata))
}

/// Name of a shard's file.
#[pyfunction]
fn shard_name(shard: usize) -> String {
    shard::shard_name(shard)
}

fn layout(metadata: &Metadata) -> Result<Layout> {
    Layout::from_metadata(metadata).map_err(|error| Error::new(Class::Cache, error.to_string()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn expect<T: Element>(buffer: &PyBuffer<T>, count: usize) -> Result<usize> {
    if buffer.item_count() == count {
        return Ok(count);
    }
    let message = format!("an array has {} elements, expected {count}", buffer.item_count());
    Err(Error::new(Class::Usage, message))
}

fn wrong_kind(kind: &str) -> PyErr {
    Error::new(Class::Usage, format!("this layout is not of {kind} records")).into()
}

fn unwritable((row, error): (usize, EncodeError)) -> Error {
    Error::new(Class::Model, format!("the teacher's row {row} cannot be stored: {error}"))
}

fn unreadable((row, error): (usize, impl Display)) -> Error {
    Error::new(Class::Cache, format!("row {row}: {error}"))
}
