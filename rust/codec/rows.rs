//! Many rows at once, as they come from arrays of the caller: ids as i32, one row after the other.

use super::{
    DecodeError, DenseLayout, Dither, EncodeError, ProjectedLayout, SampledLayout, SampledRow, SampledRowMut,
    TopKLayout, TopKRow, TopKRowMut,
};

/// Top-k rows to write.
#[derive(Debug, Clone, Copy)]
pub struct TopKRows<'a> {
    /// `[N, K]`, increasing along K.
    pub ids: &'a [i32],
    /// `[N, K]`.
    pub log_probs: &'a [f32],
    /// `[N]`, or empty where the layout has no tail.
    pub log_tails: &'a [f32],
    /// `[temperatures, N]`.
    pub log_tails_at: &'a [f32],
}

/// Where top-k rows are read to, in the shapes of [`TopKRows`].
#[derive(Debug)]
pub struct TopKRowsMut<'a> {
    pub ids: &'a mut [i32],
    pub log_probs: &'a mut [f32],
    pub log_tails: &'a mut [f32],
    pub log_tails_at: &'a mut [f32],
}

/// Sampled rows to write.
#[derive(Debug, Clone, Copy)]
pub struct SampledRows<'a> {
    /// `[N, K]`, increasing along the first `counts` of each row.
    pub ids: &'a [i32],
    /// `[N, K]`.
    pub weights: &'a [f32],
    /// `[N]`.
    pub counts: &'a [i32],
    pub taus: &'a [f32],
    pub entropies: &'a [f32],
    /// `[N, 3]`: example, sample and position of each row, which choose its random rounding.
    pub keys: &'a [i64],
    pub seed: u64,
}

/// Where sampled rows are read to.
#[derive(Debug)]
pub struct SampledRowsMut<'a> {
    pub ids: &'a mut [i32],
    pub weights: &'a mut [f32],
    pub counts: &'a mut [i32],
    pub taus: &'a mut [f32],
    pub entropies: &'a mut [f32],
}

/// A failure and the row that has it.
pub type At<E> = (usize, E);

impl DenseLayout {
    /// Checks `[N, V]` log-probabilities.
    pub fn check_rows(&self, log_probs: &[f32]) -> Result<(), At<EncodeError>> {
        log_probs
            .chunks_exact(self.vocab_size() as usize)
            .enumerate()
            .try_for_each(|(row, values)| self.check(values).map_err(|error| (row, error)))
    }
}

impl TopKLayout {
    /// Writes rows.
    pub fn encode_rows(&self, rows: TopKRows<'_>, records: &mut [u8]) -> Result<(), At<EncodeError>> {
        let k = self.k();
        let num_rows = records.len() / self.stride();
        let (mut ids, mut codes) = (vec![0; k], vec![0; k]);
        let mut log_tail_at = vec![0.0; self.num_temperatures()];
        for (n, record) in records.chunks_exact_mut(self.stride()).enumerate() {
            // A negative id becomes one beyond any vocabulary.
            copy_ids(&rows.ids[n * k..][..k], &mut ids);
            for (t, tail) in log_tail_at.iter_mut().enumerate() {
                *tail = rows.log_tails_at[t * num_rows + n];
            }
            let row = TopKRow {
                ids: &ids,
                log_probs: &rows.log_probs[n * k..][..k],
                log_tail: rows.log_tails.get(n).copied().unwrap_or(0.0),
                log_tail_at: &log_tail_at,
            };
            self.encode(row, &mut codes, record).map_err(|error| (n, error))?;
        }
        Ok(())
    }

    /// Reads rows.
    pub fn decode_rows(&self, records: &[u8], rows: TopKRowsMut<'_>) -> Result<(), At<DecodeError>> {
        let k = self.k();
        let num_rows = records.len() / self.stride();
        let (mut ids, mut codes) = (vec![0; k], vec![0; k]);
        let mut log_tail_at = vec![0.0; self.num_temperatures()];
        for (n, record) in records.chunks_exact(self.stride()).enumerate() {
            let mut log_tail = 0.0;
            let row = TopKRowMut {
                ids: &mut ids,
                log_probs: &mut rows.log_probs[n * k..][..k],
                log_tail: &mut log_tail,
                log_tail_at: &mut log_tail_at,
            };
            self.decode(record, &mut codes, row).map_err(|error| (n, error))?;
            put_ids(&ids, &mut rows.ids[n * k..][..k]);
            if self.has_tail() {
                rows.log_tails[n] = log_tail;
            }
            for (t, &tail) in log_tail_at.iter().enumerate() {
                rows.log_tails_at[t * num_rows + n] = tail;
            }
        }
        Ok(())
    }
}

impl SampledLayout {
    /// Writes rows.
    pub fn encode_rows(&self, rows: SampledRows<'_>, records: &mut [u8]) -> Result<(), At<EncodeError>> {
        let k = self.k();
        let mut ids = vec![0; k];
        for (n, record) in records.chunks_exact_mut(self.stride()).enumerate() {
            copy_ids(&rows.ids[n * k..][..k], &mut ids);
            let count = usize::try_from(rows.counts[n]).unwrap_or(0);
            let row = SampledRow {
                ids: &ids,
                weights: &rows.weights[n * k..][..k],
                count,
                tau: rows.taus[n],
                entropy: rows.entropies[n],
            };
            let key = [0, 1, 2].map(|i| rows.keys[3 * n + i] as u64);
            self.encode(row, Dither::new(rows.seed, key), record).map_err(|error| (n, error))?;
        }
        Ok(())
    }

    /// Reads rows.
    pub fn decode_rows(&self, records: &[u8], rows: SampledRowsMut<'_>) -> Result<(), At<DecodeError>> {
        let k = self.k();
        let (mut ids, mut codes) = (vec![0; k], vec![0; k]);
        for (n, record) in records.chunks_exact(self.stride()).enumerate() {
            let row = SampledRowMut {
                ids: &mut ids,
                weights: &mut rows.weights[n * k..][..k],
                count: &mut rows.counts[n],
                tau: &mut rows.taus[n],
                entropy: &mut rows.entropies[n],
            };
            self.decode(record, &mut codes, row).map_err(|error| (n, error))?;
            put_ids(&ids, &mut rows.ids[n * k..][..k]);
        }
        Ok(())
    }
}

impl ProjectedLayout {
    /// Writes rows of `[N, d]` numbers.
    pub fn encode_rows(
        &self,
        entropies: &[f32],
        numbers: &[f32],
        records: &mut [u8],
    ) -> Result<(), At<EncodeError>> {
        let rows = entropies.iter().zip(numbers.chunks_exact(self.width()));
        for (n, ((&entropy, numbers), record)) in
            rows.zip(records.chunks_exact_mut(self.stride())).enumerate()
        {
            self.encode(entropy, numbers, record).map_err(|error| (n, error))?;
        }
        Ok(())
    }

    /// Reads rows.
    pub fn decode_rows(
        &self,
        records: &[u8],
        entropies: &mut [f32],
        numbers: &mut [f32],
    ) -> Result<(), At<DecodeError>> {
        let rows = entropies.iter_mut().zip(numbers.chunks_exact_mut(self.width()));
        for (n, ((entropy, numbers), record)) in rows.zip(records.chunks_exact(self.stride())).enumerate() {
            *entropy = self.decode(record, numbers).map_err(|error| (n, error))?;
        }
        Ok(())
    }
}

fn copy_ids(from: &[i32], to: &mut [u32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from as u32;
    }
}

fn put_ids(from: &[u32], to: &mut [i32]) {
    for (to, &from) in to.iter_mut().zip(from) {
        *to = from as i32;
    }
}
