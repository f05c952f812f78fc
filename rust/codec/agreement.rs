//! The wide loops and the plain codec of top-k records agree: on bytes, on what they read, on what they refuse.

use proptest::prelude::*;

use super::Dither;
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
