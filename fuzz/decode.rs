//! What must hold of any bytes: an error, or ids that increase below the vocabulary, at every SIMD level alike.
//!
//! The first three bytes choose a layout, the others are the record, cut or filled up with zeros. Shared by the fuzz
//! target and by `tests/codec_corpus.rs`, which runs it over the committed corpus and mutations of it.

use thack::codec::{SampledLayout, SampledRowMut, TopKLayout, TopKRow, TopKRowMut};
use thack::kernels::simd::Level;

/// Around what changes the layout: one low bit more or less, 64 ids in wide records, powers of two.
const VOCABULARIES: [u32; 12] =
    [1, 2, 63, 64, 1000, 1024, 1 << 14, 32_128, 1 << 17, 151_936, (1 << 18) + 1, 1 << 24];

/// What the first three bytes say.
pub(crate) enum Shape {
    TopK(TopKLayout),
    Sampled(SampledLayout),
}

impl Shape {
    pub(crate) fn read([options, k, vocab]: [u8; 3]) -> Self {
        let vocab = VOCABULARIES[usize::from(vocab) % VOCABULARIES.len()];
        let k = 1 + usize::from(k) % 130.min(vocab as usize);
        let [sampled, wide, tail] = [1, 2, 4].map(|bit| options & bit != 0);
        if sampled {
            Self::Sampled(SampledLayout::new(k, vocab))
        } else {
            let temperatures = usize::from(options >> 3 & 3);
            Self::TopK(TopKLayout::new(k, vocab, 7 + u32::from(wide), tail, temperatures))
        }
    }
}

/// Panics where something does not hold.
pub(crate) fn check(data: &[u8]) {
    let Some((shape, rest)) = data.split_first_chunk() else { return };
    match Shape::read(*shape) {
        Shape::TopK(layout) => check_top_k(&layout, &record(rest, layout.stride())),
        Shape::Sampled(layout) => check_sampled(&layout, &record(rest, layout.stride())),
    }
}

fn record(data: &[u8], stride: usize) -> Vec<u8> {
    let mut record = data[..data.len().min(stride)].to_vec();
    record.resize(stride, 0);
    record
}

#[derive(Debug, PartialEq)]
struct Row {
    ids: Vec<u32>,
    values: Vec<u32>,
    tail: u32,
    tails_at: Vec<u32>,
}

fn check_top_k(layout: &TopKLayout, record: &[u8]) {
    let reference = decoded(&layout.at_level(Level::Scalar), record);
    for level in Level::supported() {
        assert_eq!(decoded(&layout.at_level(level), record), reference, "{level:?} differs");
    }
    let Some(row) = reference else { return };
    assert_increasing(&row.ids, layout.vocab_size());
    let values: Vec<f32> = row.values.iter().map(|bits| f32::from_bits(*bits)).collect();
    assert!(values.iter().all(|value| *value <= 0.0), "a positive log-probability");
    // A decoded row can be written again, and keeps its ids.
    let mut again = vec![0; record.len()];
    let tails_at: Vec<f32> = row.tails_at.iter().map(|bits| f32::from_bits(*bits)).collect();
    let written = TopKRow {
        ids: &row.ids,
        log_probs: &values,
        log_tail: f32::from_bits(row.tail),
        log_tail_at: &tails_at,
    };
    if layout.encode(written, &mut vec![0; layout.k()], &mut again).is_ok() {
        let back = decoded(layout, &again).expect("what was written can be read");
        assert_eq!(back.ids, row.ids);
    }
}

fn decoded(layout: &TopKLayout, record: &[u8]) -> Option<Row> {
    let k = layout.k();
    let (mut ids, mut values, mut codes) = (vec![0; k], vec![0.0; k], vec![0; k]);
    let (mut tail, mut tails_at) = (0.0, vec![0.0; layout.num_temperatures()]);
    let row =
        TopKRowMut { ids: &mut ids, log_probs: &mut values, log_tail: &mut tail, log_tail_at: &mut tails_at };
    layout.decode(record, &mut codes, row).ok()?;
    let bits = |numbers: &[f32]| numbers.iter().map(|number| number.to_bits()).collect();
    Some(Row { ids, values: bits(&values), tail: tail.to_bits(), tails_at: bits(&tails_at) })
}

fn check_sampled(layout: &SampledLayout, record: &[u8]) {
    let k = layout.k();
    let (mut ids, mut weights, mut codes) = (vec![0; k], vec![0.0; k], vec![0; k]);
    let (mut count, mut tau, mut entropy) = (0, 0.0, 0.0);
    let row = SampledRowMut {
        ids: &mut ids,
        weights: &mut weights,
        count: &mut count,
        tau: &mut tau,
        entropy: &mut entropy,
    };
    if layout.decode(record, &mut codes, row).is_err() {
        return;
    }
    let count = usize::try_from(count).expect("a count");
    assert!((1..=k).contains(&count), "count {count} of {k}");
    assert_increasing(&ids[..count], layout.vocab_size());
    assert!(ids[count..].iter().all(|id| *id == ids[count - 1]), "unused places repeat the last id");
    assert!(weights[..count].iter().all(|weight| (0.0..=1.0).contains(weight)) && entropy >= 0.0);
    assert!(weights[count..].iter().all(|weight| *weight == 0.0));
}

fn assert_increasing(ids: &[u32], vocab_size: u32) {
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    assert!(ids.iter().all(|id| *id < vocab_size), "{ids:?}");
}
