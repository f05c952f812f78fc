//! A record's layout, from the entries of a shard's metadata that name it.

use std::collections::BTreeMap;

use super::{
    DecodeError, DenseLayout, LayoutError, ProjectedLayout, SampledLayout, SampledRowMut, TopKLayout,
    TopKRowMut,
};

/// No vocabulary is larger, and no record keeps more ids: bounds what a reader allocates.
const MAX_VOCABULARY: u64 = 1 << 24;
const MAX_IDS: u64 = 1 << 16;
const MAX_TEMPERATURES: usize = 16;

/// One of the four kinds of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    Dense(DenseLayout),
    TopK(TopKLayout),
    Sampled(SampledLayout),
    Projected(ProjectedLayout),
}

impl Layout {
    /// Reads `kind`, `vocab_size` and, by kind, `k`, `value_bits`, `tail` and `temperatures`.
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Self, LayoutError> {
        let text = |key: &'static str| metadata.get(key).map_or("", String::as_str);
        let bad = |key| LayoutError { key, value: text(key).to_owned() };
        let number = |key, least: u64, most: u64| {
            let value = text(key).parse().ok().filter(|value| (least..=most).contains(value));
            value.ok_or_else(|| bad(key))
        };
        let vocab_size = number("vocab_size", 1, MAX_VOCABULARY)?;
        let k = || number("k", 1, vocab_size.min(MAX_IDS)).map(|k| k as usize);
        match text("kind") {
            "dense" => Ok(Self::Dense(DenseLayout::new(vocab_size as u32))),
            "sampled" => Ok(Self::Sampled(SampledLayout::new(k()?, vocab_size as u32))),
            "projected" => {
                let width = number("k", 1, MAX_IDS)? as usize;
                let bits = match text("value_bits") {
                    "16" => 16,
                    "8" => 8,
                    _ => return Err(bad("value_bits")),
                };
                Ok(Self::Projected(ProjectedLayout::new(width, vocab_size as u32, bits)))
            }
            "top-k" => {
                let has_tail = match text("tail") {
                    // An estimate is stored like an exact tail; its name tells them apart.
                    "exact" | "estimated" => true,
                    "none" => false,
                    _ => return Err(bad("tail")),
                };
                let temperatures = temperatures(text("temperatures")).ok_or_else(|| bad("temperatures"))?;
                let bits = number("value_bits", 7, 8)? as u32;
                Ok(Self::TopK(TopKLayout::new(k()?, vocab_size as u32, bits, has_tail, temperatures.len())))
            }
            _ => Err(bad("kind")),
        }
    }

    /// Bytes of one record.
    #[must_use]
    pub fn stride(&self) -> usize {
        match self {
            Self::Dense(layout) => layout.stride(),
            Self::TopK(layout) => layout.stride(),
            Self::Sampled(layout) => layout.stride(),
            Self::Projected(layout) => layout.stride(),
        }
    }

    /// Ids are below this.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        match self {
            Self::Dense(layout) => layout.vocab_size(),
            Self::TopK(layout) => layout.vocab_size(),
            Self::Sampled(layout) => layout.vocab_size(),
            Self::Projected(layout) => layout.vocab_size(),
        }
    }

    /// Decodes records to see whether they are valid.
    #[must_use]
    pub fn decoder(&self) -> Decoder {
        let (ids, values) = match self {
            Self::Dense(layout) => (0, layout.vocab_size() as usize),
            Self::TopK(layout) => (layout.k(), layout.k() + layout.num_temperatures()),
            Self::Sampled(layout) => (layout.k(), layout.k()),
            Self::Projected(layout) => (0, layout.width()),
        };
        Decoder { layout: *self, ids: vec![0; ids], codes: vec![0; ids], values: vec![0.0; values] }
    }
}

/// Comma-separated temperatures, each finite and positive.
fn temperatures(text: &str) -> Option<Vec<f32>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let all: Option<Vec<f32>> = text.split(',').map(|part| part.parse().ok()).collect();
    all.filter(|all| all.len() <= MAX_TEMPERATURES && all.iter().all(|t| t.is_finite() && *t > 0.0))
}

/// Scratch for decoding one record after another.
#[derive(Debug)]
pub struct Decoder {
    layout: Layout,
    ids: Vec<u32>,
    codes: Vec<u32>,
    values: Vec<f32>,
}

impl Decoder {
    /// Whether a record of `layout.stride()` bytes is valid.
    pub fn check(&mut self, record: &[u8]) -> Result<(), DecodeError> {
        let (ids, codes) = (&mut self.ids[..], &mut self.codes[..]);
        match &self.layout {
            Layout::Dense(layout) => layout.decode(record, &mut self.values),
            Layout::Projected(layout) => layout.decode(record, &mut self.values).map(|_| ()),
            Layout::TopK(layout) => {
                let (log_probs, log_tail_at) = self.values.split_at_mut(layout.k());
                layout.decode(record, codes, TopKRowMut { ids, log_probs, log_tail: &mut 0.0, log_tail_at })
            }
            Layout::Sampled(layout) => {
                let (count, tau, entropy) = (&mut 0, &mut 0.0, &mut 0.0);
                layout.decode(
                    record,
                    codes,
                    SampledRowMut { ids, weights: &mut self.values, count, tau, entropy },
                )
            }
        }
    }
}
