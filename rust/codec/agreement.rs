//! The fast loops and the plain codecs agree: on bytes, on what they read, on what they refuse.

use proptest::prelude::*;

use super::Dither;
use super::sampled::SampledLayout;
use super::sampled_row::{SampledRow, SampledRowMut};
use super::shape::{TopKRow, TopKRowMut};
use super::topk::TopKLayout;
use crate::kernels::simd::Level;
use crate::kernels::simd::bytes::LANES as K;

struct Case {
    layout: TopKLayout,
    ids: [u32; K],
    values: [f32; K],
}

fn case(vocab_size: u32, value_bits: u32, spread: f32, seed: u64) -> Case {
    let dither = Dither::new(seed, [0; 3]);
    let mut ids = std::collections::BTreeSet::new();
    let mut i = 0;
    while ids.len() < K {
        ids.insert((dither.uniform(i).powi(2) * vocab_size as f32) as u32 % vocab_size);
        i += 1;
    }
    let ids: Vec<u32> = ids.into_iter().collect();
    let values = std::array::from_fn(|i| -spread * dither.uniform(1000 + i as u64));
    Case { layout: TopKLayout::new(K, vocab_size, value_bits, true, 1), ids: ids.try_into().unwrap(), values }
}

impl Case {
    fn row(&self) -> TopKRow<'_> {
        TopKRow { ids: &self.ids, log_probs: &self.values, log_tail: -1.5, log_tail_at: &[2.5] }
    }
}

type Decoded = ([u32; K], [u32; K], f32, f32);

/// Without a level by the plain codec. Values as bits.
fn decoded(layout: &TopKLayout, record: &[u8], level: Option<Level>) -> Option<Decoded> {
    let (mut ids, mut values, mut codes) = ([0; K], [0.0; K], [0; K]);
    let (mut tail, mut at) = (0.0, [0.0]);
    let row = TopKRowMut { ids: &mut ids, log_probs: &mut values, log_tail: &mut tail, log_tail_at: &mut at };
    match level {
        None => layout.decode_plain(record, &mut codes, row).ok()?,
        Some(level) => layout.at_level(level).decode(record, &mut codes, row).ok()?,
    }
    Some((ids, values.map(f32::to_bits), tail, at[0]))
}

fn vocabularies() -> impl Strategy<Value = u32> {
    prop_oneof![Just(151_936u32), Just(32_128), 17_000u32..300_000, Just(1 << 17), Just(2_000_000)]
}

/// A row of up to `k` ids, of which every other one was drawn and weighs τ.
struct Drawn {
    layout: SampledLayout,
    ids: Vec<u32>,
    weights: Vec<f32>,
    count: usize,
    tau: f32,
}

impl Drawn {
    fn new(k: usize, vocab_size: u32, count: usize, tau: f32, seed: u64) -> Self {
        let dither = Dither::new(seed, [0; 3]);
        let mut ids = std::collections::BTreeSet::new();
        let mut i = 0;
        while ids.len() < k {
            ids.insert((dither.uniform(i) * vocab_size as f32) as u32 % vocab_size);
            i += 1;
        }
        let weights = (0..k as u64).map(|i| match i % 2 {
            0 => tau,
            _ => tau + (1.0 - tau) * dither.uniform(1000 + i).powi(3),
        });
        let (ids, weights) = (ids.into_iter().collect(), weights.collect());
        Self { layout: SampledLayout::new(k, vocab_size), ids, weights, count, tau }
    }

    fn row(&self) -> SampledRow<'_> {
        SampledRow { ids: &self.ids, weights: &self.weights, count: self.count, tau: self.tau, entropy: 3.3 }
    }
}

type DrawnBack = (Vec<u32>, Vec<u32>, i32, u32, u32);

/// Without a level by the plain codec. Numbers as bits.
fn drawn(layout: &SampledLayout, record: &[u8], level: Option<Level>) -> Option<DrawnBack> {
    let (mut ids, mut weights, mut codes) = (vec![9; layout.k()], vec![9.0; layout.k()], vec![9; layout.k()]);
    let (mut count, mut tau, mut entropy) = (0, 0.0f32, 0.0f32);
    let row = SampledRowMut {
        ids: &mut ids,
        weights: &mut weights,
        count: &mut count,
        tau: &mut tau,
        entropy: &mut entropy,
    };
    match level {
        None => layout.decode_plain(record, &mut codes, row).ok()?,
        Some(level) => layout.at_level(level).decode(record, &mut codes, row).ok()?,
    }
    let weights = weights.into_iter().map(f32::to_bits).collect();
    Some((ids, weights, count, tau.to_bits(), entropy.to_bits()))
}

fn universes() -> impl Strategy<Value = u32> {
    prop_oneof![Just(151_936u32), Just(16), Just(300), 16u32..300_000, Just(1 << 17), Just(1 << 24)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sampled_bytes_are_those_of_the_plain_codec(
        k in 1usize..=16, v in universes(), used in 0usize..16, tau in 0f32..0.3, seed: u64, odd in 0usize..64,
    ) {
        let mut case = Drawn::new(k, v, 1 + used % k, tau, seed);
        if let Some(weight) = case.weights.get_mut(odd) {
            *weight = [1.0, tau * (1.0 - 5e-5), f32::from_bits(tau.to_bits() + 1), 1.0 + 5e-6][seed as usize % 4];
        }
        if odd == 63 {
            (case.tau, case.weights) = (-0.0, vec![-0.0; k]);
        }
        let dither = Dither::new(seed ^ 1, [1, 2, 3]);
        let mut plain = vec![0xaa; case.layout.stride()];
        case.layout.encode_plain(case.row(), dither, &mut plain).unwrap();
        let expected = drawn(&case.layout, &plain, None);
        prop_assert!(expected.is_some());
        for level in Level::supported() {
            let mut record = vec![0x55; case.layout.stride()];
            case.layout.at_level(level).encode(case.row(), dither, &mut record).unwrap();
            prop_assert_eq!(&record, &plain, "{:?}", level);
            prop_assert_eq!(&drawn(&case.layout, &record, Some(level)), &expected, "{:?}", level);
        }
    }

    #[test]
    fn damaged_sampled_records_are_judged_alike(
        k in 1usize..=16, v in universes(), used in 0usize..16, seed: u64,
        edits in prop::collection::vec((any::<u16>(), 0u8..8), 1..4),
    ) {
        let case = Drawn::new(k, v, 1 + used % k, 0.05, seed);
        let mut record = vec![0; case.layout.stride()];
        case.layout.encode_plain(case.row(), Dither::new(0, [0; 3]), &mut record).unwrap();
        for (at, bit) in edits {
            let at = at as usize % record.len();
            record[at] ^= 1 << bit;
        }
        let expected = drawn(&case.layout, &record, None);
        for level in Level::supported() {
            prop_assert_eq!(&drawn(&case.layout, &record, Some(level)), &expected, "{:?}", level);
        }
    }

    #[test]
    fn impossible_sampled_rows_are_judged_alike(
        k in 1usize..=16, seed: u64, at in 0usize..16, id: u32, weight: f32, count in 0usize..18,
    ) {
        let mut case = Drawn::new(k, 151_936, count, 0.05, seed);
        if seed & 1 == 0 {
            case.ids[at % k] = id;
        }
        if seed & 2 == 0 {
            case.weights[(at + 7) % k] = weight;
        }
        let dither = Dither::new(seed, [0; 3]);
        let mut plain = vec![0; case.layout.stride()];
        let expected = case.layout.encode_plain(case.row(), dither, &mut plain).map(|()| plain);
        for level in Level::supported() {
            let mut record = vec![0; case.layout.stride()];
            let found = case.layout.at_level(level).encode(case.row(), dither, &mut record).map(|()| record);
            match (&found, &expected) {
                (Ok(found), Ok(expected)) => prop_assert_eq!(found, expected, "{:?}", level),
                (found, expected) => prop_assert_eq!(found.is_ok(), expected.is_ok(), "{:?}", level),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_are_those_of_the_plain_codec(
        v in vocabularies(), bits in 7u32..=8, spread in 0f32..90.0, seed: u64, zero in 0usize..400,
    ) {
        let mut case = case(v, bits, spread, seed);
        if let Some(value) = case.values.get_mut(zero) {
            *value = [0.0, -0.0, f32::NEG_INFINITY, 1e-6][seed as usize % 4];
        }
        let mut plain = vec![0xaa; case.layout.stride()];
        case.layout.encode_plain(case.row(), &mut [0; K], &mut plain).unwrap();
        let expected = decoded(&case.layout, &plain, None);
        for level in Level::supported() {
            let mut record = vec![0x55; case.layout.stride()];
            case.layout.at_level(level).encode(case.row(), &mut [0; K], &mut record).unwrap();
            prop_assert_eq!(&record, &plain, "{:?}", level);
            prop_assert_eq!(&decoded(&case.layout, &record, Some(level)), &expected, "{:?}", level);
        }
    }

    #[test]
    fn damaged_records_are_judged_alike(
        v in vocabularies(), bits in 7u32..=8, seed: u64,
        edits in prop::collection::vec((any::<u16>(), 0u8..8), 1..4),
    ) {
        let case = case(v, bits, 10.0, seed);
        let mut record = vec![0; case.layout.stride()];
        case.layout.encode(case.row(), &mut [0; K], &mut record).unwrap();
        for (at, bit) in edits {
            let at = at as usize % record.len();
            record[at] ^= 1 << bit;
        }
        let expected = decoded(&case.layout, &record, None);
        for level in Level::supported() {
            prop_assert_eq!(&decoded(&case.layout, &record, Some(level)), &expected, "{:?}", level);
        }
    }

    #[test]
    fn impossible_rows_are_judged_alike(seed: u64, at in 0usize..K, id: u32, value: f32) {
        let mut case = case(151_936, 8, 10.0, seed);
        case.ids[at] = id;
        case.values[(at + 7) % K] = value;
        let encode = |layout: TopKLayout| {
            let mut record = vec![0; layout.stride()];
            layout.encode(case.row(), &mut [0; K], &mut record).map(|()| record)
        };
        let mut plain = vec![0; case.layout.stride()];
        let expected = case.layout.encode_plain(case.row(), &mut [0; K], &mut plain).map(|()| plain);
        for level in Level::supported() {
            let found = encode(case.layout.at_level(level));
            prop_assert_eq!(found.is_ok(), expected.is_ok(), "{:?}", level);
            if let (Ok(found), Ok(expected)) = (&found, &expected) {
                prop_assert_eq!(found, expected, "{:?}", level);
            }
        }
    }
}

#[test]
fn the_wide_layouts_are_the_large_vocabularies() {
    let is_wide = |k, v| TopKLayout::new(k, v, 8, true, 0).is_wide();
    assert!(is_wide(64, 151_936) && is_wide(64, 32_128) && is_wide(64, 262_144));
    assert!(!is_wide(64, 1024) && !is_wide(32, 151_936));
}
