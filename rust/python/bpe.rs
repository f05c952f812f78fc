//! Vocabularies of byte-pair encodings.
#![allow(clippy::needless_pass_by_value)] // PyO3 hands buffers over by value

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use super::buffers::{slice, slice_mut};
use super::released;
use crate::bpe::{self, Parts, Vocabulary};
use crate::error::{Class, Error, Result};

/// Adds the class to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<BpeVocabulary>()
}

/// A vocabulary and its encoder.
#[pyclass(module = "thack._thack", frozen)]
struct BpeVocabulary(Vocabulary);

#[pymethods]
impl BpeVocabulary {
    #[new]
    #[pyo3(signature = (tokens, ends, merges, added, fallback, shapes, splits, ignore_merges))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        py: Python<'_>,
        tokens: PyBuffer<u8>,
        ends: PyBuffer<i64>,
        merges: PyBuffer<i32>,
        added: PyBuffer<u8>,
        fallback: PyBuffer<u8>,
        shapes: PyBuffer<i32>,
        splits: PyBuffer<u8>,
        ignore_merges: bool,
    ) -> PyResult<Self> {
        let parts = Parts {
            bytes: slice(&tokens)?,
            ends: slice(&ends)?,
            merges: slice(&merges)?,
            added: slice(&added)?,
            fallback: slice(&fallback)?,
            shapes: slice(&shapes)?,
            splits: slice(&splits)?,
            ignore_merges,
        };
        released(py, || Vocabulary::new(parts)).map(Self)
    }

    /// Whether the encoder turns the bytes of each two ids into these ids; an id below 0 is no text.
    fn can(
        &self,
        py: Python<'_>,
        previous: PyBuffer<i32>,
        next: PyBuffer<i32>,
        mut found: PyBuffer<u8>,
    ) -> PyResult<()> {
        let (previous, next, found) = (slice(&previous)?, slice(&next)?, slice_mut(&mut found)?);
        released(py, || {
            same_length(previous.len(), next.len())?;
            same_length(previous.len(), found.len())?;
            for ((a, b), found) in previous.iter().zip(next).zip(found) {
                *found = u8::from(*a < 0 || *b < 0 || self.0.can(self.id(*a)?, self.id(*b)?));
            }
            Ok(())
        })
    }

    /// First token of this encoder's encoding of each token of `other`; −1: none.
    fn first_tokens(&self, py: Python<'_>, other: PyRef<'_, Self>, mut found: PyBuffer<i32>) -> PyResult<()> {
        let (found, other) = (slice_mut(&mut found)?, &other.0);
        released(py, || {
            same_length(other.len(), found.len())?;
            for (id, found) in (0u32..).zip(found) {
                *found = self.0.first(other.token(id)).map_or(-1, |first| first as i32);
            }
            Ok(())
        })
    }

    /// First token of this encoder's encoding of the bytes of each two ids of `other`; −1: the left one is no text, or
    /// no pair of tokens tells it.
    fn first_of_pairs(
        &self,
        py: Python<'_>,
        other: PyRef<'_, Self>,
        left: PyBuffer<i32>,
        right: PyBuffer<i32>,
        mut found: PyBuffer<i32>,
    ) -> PyResult<()> {
        let (left, right, found) = (slice(&left)?, slice(&right)?, slice_mut(&mut found)?);
        let other = &*other;
        released(py, || {
            same_length(left.len(), right.len())?;
            same_length(left.len(), found.len())?;
            let mut text = Vec::new();
            for ((a, b), found) in left.iter().zip(right).zip(found) {
                let (left, right) = (other.0.token(other.id(*a)?), other.0.token(other.id(*b)?));
                text.clear();
                text.extend_from_slice(left);
                text.extend_from_slice(right);
                let first = if left.is_empty() { None } else { self.0.first(&text) };
                *found = first.map_or(-1, |first| first as i32);
            }
            Ok(())
        })
    }

    /// Whether each of this teacher's tokens is settled with `student`, whose first tokens are `first`.
    fn settled(
        &self,
        py: Python<'_>,
        student: PyRef<'_, Self>,
        first: PyBuffer<i32>,
        mut found: PyBuffer<u8>,
    ) -> PyResult<()> {
        let (first, found, student) = (slice(&first)?, slice_mut(&mut found)?, &student.0);
        released(py, || {
            same_length(self.0.len(), first.len())?;
            same_length(self.0.len(), found.len())?;
            for (settled, found) in bpe::settled(&self.0, student, first).into_iter().zip(found) {
                *found = u8::from(settled);
            }
            Ok(())
        })
    }
}

impl BpeVocabulary {
    fn id(&self, id: i32) -> Result<u32> {
        let outside =
            || Error::new(Class::Usage, format!("id {id} is outside a vocabulary of {} ids", self.0.len()));
        u32::try_from(id).ok().filter(|id| (*id as usize) < self.0.len()).ok_or_else(outside)
    }
}

fn same_length(left: usize, right: usize) -> Result<()> {
    if left == right {
        return Ok(());
    }
    Err(Error::new(Class::Usage, format!("{left} and {right} entries, which must be as many")))
}
