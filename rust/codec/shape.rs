//! The shape of a top-k record, and its rows: what the plain codec and the wide loops share.

use super::ids::IdLayout;

/// Nats below the top that a record spans. What lies deeper has no mass (e^-40 of the top's) and is stored there: one
/// such number, often a stand-in for −∞, would take the steps from all others.
pub(super) const MOST_RANGE: f32 = 40.0;

/// What a top-k record holds, and how many bytes that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TopKShape {
    pub(super) k: usize,
    pub(super) value_bits: u32,
    pub(super) has_tail: bool,
    pub(super) num_temperatures: usize,
    pub(super) ids: IdLayout,
}

impl TopKShape {
    /// Bytes of the scalars, which come first.
    pub(super) fn scalar_bytes(&self) -> usize {
        2 * (2 + usize::from(self.has_tail) + self.num_temperatures)
    }

    /// Bytes of one record.
    pub(super) fn stride(&self) -> usize {
        (8 * self.scalar_bytes() + self.k * self.value_bits as usize + self.ids.bits()).div_ceil(8)
    }
}

/// One row to write.
#[derive(Debug, Clone, Copy)]
pub struct TopKRow<'a> {
    pub ids: &'a [u32],
    pub log_probs: &'a [f32],
    /// log Σ over all other ids of p; not looked at where the layout has no tail.
    pub log_tail: f32,
    /// log Σ over all other ids of p^(1/T), one per temperature of the layout.
    pub log_tail_at: &'a [f32],
}

/// Where one row is read to.
#[derive(Debug)]
pub struct TopKRowMut<'a> {
    pub ids: &'a mut [u32],
    pub log_probs: &'a mut [f32],
    pub log_tail: &'a mut f32,
    pub log_tail_at: &'a mut [f32],
}
