//! Laws of the codec: any bytes give an error or a valid row, rows come back, errors stay in bounds.

use proptest::prelude::*;
use thack::codec::{
    Dither, Layout, SampledLayout, SampledRow, SampledRowMut, TopKLayout, TopKRow, TopKRowMut,
};

fn long() -> bool {
    std::env::var("THACK_LONG").is_ok_and(|value| value == "1")
}

fn config(cases: u32) -> ProptestConfig {
    let cases = if long() { cases * 50 } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

struct Decoded {
    ids: Vec<u32>,
    values: Vec<f32>,
    tail: f32,
}

fn decode_top_k(layout: &TopKLayout, record: &[u8]) -> Option<Decoded> {
    let k = layout.k();
    let (mut ids, mut values, mut codes) = (vec![0; k], vec![0.0; k], vec![0; k]);
    let mut tail = 0.0;
    let mut tails_at = vec![0.0; layout.num_temperatures()];
    let row =
        TopKRowMut { ids: &mut ids, log_probs: &mut values, log_tail: &mut tail, log_tail_at: &mut tails_at };
    layout.decode(record, &mut codes, row).ok()?;
    Some(Decoded { ids, values, tail })
}

fn assert_increasing_below(ids: &[u32], vocab_size: u32) {
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    assert!(ids.iter().all(|&id| id < vocab_size), "{ids:?}");
}

fn shapes() -> impl Strategy<Value = (usize, u32)> {
    let vocabulary = prop_oneof![1u32..70, 1000u32..1100, Just(1 << 17), Just(151_936), Just(262_144)];
    vocabulary.prop_flat_map(|v| (1usize..=(v as usize).min(130), Just(v)))
}

/// K increasing ids below V, from a seed.
fn some_ids(k: usize, vocab_size: u32, seed: u64) -> Vec<u32> {
    let dither = Dither::new(seed, [k as u64, u64::from(vocab_size), 0]);
    let mut ids = std::collections::BTreeSet::new();
    let mut i = 0;
    while ids.len() < k {
        ids.insert(((dither.uniform(i) * vocab_size as f32) as u32 + (i as u32 % 3)) % vocab_size);
        i += 1;
    }
    ids.into_iter().collect()
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn any_bytes_are_an_error_or_a_valid_top_k_row(
        (k, v) in shapes(), bits in 7u32..=8, tail: bool, temperatures in 0usize..3, seed: u64, ones in 0u32..8,
    ) {
        let layout = TopKLayout::new(k, v, bits, tail, temperatures);
        // Random bytes, thinned or thickened so that the unary part is sometimes right by chance.
        let dither = Dither::new(seed, [0; 3]);
        let record: Vec<u8> = (0..layout.stride() as u64)
            .map(|i| (0..8).fold(0, |byte, bit| byte << 1 | u8::from(dither.uniform(8 * i + bit) < ones as f32 / 8.0)))
            .collect();
        if let Some(row) = decode_top_k(&layout, &record) {
            assert_increasing_below(&row.ids, v);
            prop_assert!(row.values.iter().all(|x| *x <= 0.0));
        }
    }

    #[test]
    fn any_damage_to_a_record_is_an_error_or_a_valid_row(
        (k, v) in shapes(), seed: u64, edits in prop::collection::vec((any::<u16>(), any::<u8>()), 1..4),
    ) {
        let layout = TopKLayout::new(k, v, 8, true, 0);
        let ids = some_ids(k, v, seed);
        let values: Vec<f32> = (0..k).map(|i| -0.1 * (i as f32) - 0.5).collect();
        let mut record = vec![0; layout.stride()];
        let row = TopKRow { ids: &ids, log_probs: &values, log_tail: -2.0, log_tail_at: &[] };
        layout.encode(row, &mut vec![0; k], &mut record).unwrap();
        for (at, value) in edits {
            let at = at as usize % record.len();
            record[at] = value;
        }
        if let Some(row) = decode_top_k(&layout, &record) {
            assert_increasing_below(&row.ids, v);
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_valid_sampled_row(
        (k, v) in shapes(), bytes in prop::collection::vec(any::<u8>(), 600), zeros in 0usize..600,
    ) {
        let layout = SampledLayout::new(k, v);
        let mut record = bytes[..layout.stride()].to_vec();
        let kept = record.len().saturating_sub(zeros);
        record[kept..].fill(0);
        let (mut ids, mut weights, mut codes) = (vec![0; k], vec![0.0; k], vec![0; k]);
        let (mut count, mut tau, mut entropy) = (0, 0.0, 0.0);
        let row = SampledRowMut {
            ids: &mut ids, weights: &mut weights, count: &mut count, tau: &mut tau, entropy: &mut entropy,
        };
        if layout.decode(&record, &mut codes, row).is_ok() {
            let count = count as usize;
            prop_assert!(count >= 1 && count <= k);
            assert_increasing_below(&ids[..count], v);
            prop_assert!(weights.iter().all(|w| (0.0..=1.0).contains(w)));
        }
    }

    #[test]
    fn ids_and_order_come_back((k, v) in shapes(), seed: u64, bits in 7u32..=8) {
        let layout = TopKLayout::new(k, v, bits, true, 0);
        let ids = some_ids(k, v, seed);
        let dither = Dither::new(seed, [1; 3]);
        let values: Vec<f32> = (0..k as u64).map(|i| -12.0 * dither.uniform(i)).collect();
        let mut record = vec![0; layout.stride()];
        let row = TopKRow { ids: &ids, log_probs: &values, log_tail: -0.25, log_tail_at: &[] };
        layout.encode(row, &mut vec![0; k], &mut record).unwrap();
        let back = decode_top_k(&layout, &record).unwrap();
        prop_assert_eq!(&back.ids, &ids);
        prop_assert_eq!(back.tail, -0.25);
        let step = 12.0 * 1.5 / ((1 << bits) - 1) as f32;
        for (a, b) in values.iter().zip(&back.values) {
            prop_assert!((a - b).abs() <= 0.5 * step + 0.007, "{} {}", a, b);
        }
    }

    #[test]
    fn sampled_rows_come_back((k, v) in shapes(), seed: u64) {
        let layout = SampledLayout::new(k, v);
        let ids = some_ids(k, v, seed);
        let tau = 0.5 / k as f32;
        let weights = vec![tau; k];
        let row = SampledRow { ids: &ids, weights: &weights, count: k, tau, entropy: 2.0 };
        let mut record = vec![0; layout.stride()];
        layout.encode(row, Dither::new(seed, [2; 3]), &mut record).unwrap();
        let (mut back, mut weights, mut codes) = (vec![0; k], vec![0.0; k], vec![0; k]);
        let (mut count, mut tau, mut entropy) = (0, 0.0, 0.0);
        let row = SampledRowMut {
            ids: &mut back, weights: &mut weights, count: &mut count, tau: &mut tau, entropy: &mut entropy,
        };
        layout.decode(&record, &mut codes, row).unwrap();
        prop_assert_eq!(&back, &ids);
        prop_assert_eq!(count as usize, k);
        prop_assert!(weights.iter().all(|w| *w == tau) && (tau * 2.0 * k as f32 - 1.0).abs() < 0.003);
    }

    /// Metadata of any words names a layout or is refused.
    #[test]
    fn layouts_are_made_or_refused(
        kind in "dense|top-k|sampled|other", k in "[0-9]{0,12}|-1", v in "[0-9]{0,12}", t in "[0-9,.na]{0,8}",
    ) {
        let pairs = [("kind", kind), ("k", k), ("vocab_size", v), ("temperatures", t),
            ("value_bits", "8".into()), ("tail", "exact".into())];
        if let Ok(layout) = Layout::from_metadata(&pairs.map(|(key, value)| (key.to_owned(), value)).into()) {
            prop_assert!(layout.stride() > 0);
        }
    }
}

/// log-softmax rows of named families at V = 151,936, as their top K and tail.
mod families {
    use super::Dither;

    pub(crate) const VOCABULARY: usize = 151_936;
    pub(crate) const NAMES: [&str; 9] =
        ["random", "random x2", "peaked x4", "peaked x8", "flat", "zipf 1", "zipf 1.5", "zipf 2", "zipf 3"];

    fn logit(name: &str, v: usize, noise: f64) -> f64 {
        let rank = -((v + 1) as f64).ln();
        match name {
            "random" => noise,
            "random x2" => 2.0 * noise,
            "peaked x4" => 4.0 * noise,
            "peaked x8" => 8.0 * noise,
            "flat" => 1e-3 * noise,
            "zipf 1" => rank + 0.3 * noise,
            "zipf 1.5" => 1.5 * rank + 0.3 * noise,
            "zipf 2" => 2.0 * rank + 0.3 * noise,
            _ => 3.0 * rank + 0.3 * noise,
        }
    }

    /// (log-probs of the top K, log-tail), in f64.
    pub(crate) fn row(name: &str, k: usize, seed: u64) -> (Vec<f64>, f64) {
        let dither = Dither::new(seed, [name.len() as u64, 0, 0]);
        let mut logits: Vec<f64> = (0..VOCABULARY)
            .map(|v| {
                // Box-Muller
                let (a, b) = (dither.uniform(2 * v as u64), dither.uniform(2 * v as u64 + 1));
                let radius = (-2.0 * (f64::from(a) + 3e-8).ln()).sqrt();
                logit(name, v, radius * (std::f64::consts::TAU * f64::from(b)).cos())
            })
            .collect();
        logits.sort_unstable_by(|a, b| b.total_cmp(a));
        let sum = |part: &[f64]| part.iter().map(|x| (x - logits[0]).exp()).sum::<f64>().ln() + logits[0];
        let all = sum(&logits);
        let top = logits[..k].iter().map(|x| x - all).collect();
        (top, sum(&logits[k..]) - all)
    }
}

/// KL of the K+1 outcomes, both renormalised.
fn kl(p: &[f64], q: &[f64]) -> f64 {
    let normaliser = |x: &[f64]| x.iter().map(|x| x.exp()).sum::<f64>().ln();
    let (zp, zq) = (normaliser(p), normaliser(q));
    p.iter().zip(q).map(|(a, b)| (a - zp).exp() * ((a - zp) - (b - zq))).sum()
}

/// The largest mean errors that are accepted: 4e-5 in 176 bytes, 2e-4 in 168, on every synthetic family.
#[test]
fn the_round_trip_costs_little_on_every_family() {
    let rows = if long() { 100 } else { 4 };
    for (bits, bytes, limit) in [(8, 176, 4e-5), (7, 168, 2e-4)] {
        let layout = TopKLayout::new(64, families::VOCABULARY as u32, bits, true, 0);
        assert_eq!(layout.stride(), bytes);
        for name in families::NAMES {
            let mut total = 0.0;
            for seed in 0..rows {
                let (top, tail) = families::row(name, 64, seed);
                let values: Vec<f32> = top.iter().map(|&x| x as f32).collect();
                let ids: Vec<u32> = (0..64).map(|i| i * 2000 + seed as u32).collect();
                let mut record = vec![0; layout.stride()];
                let row = TopKRow { ids: &ids, log_probs: &values, log_tail: tail as f32, log_tail_at: &[] };
                layout.encode(row, &mut [0; 64], &mut record).unwrap();
                let back = decode_top_k(&layout, &record).unwrap();
                let p: Vec<f64> = top.iter().copied().chain([tail]).collect();
                let q: Vec<f64> =
                    back.values.iter().map(|&x| f64::from(x)).chain([f64::from(back.tail)]).collect();
                total += kl(&p, &q);
            }
            let mean = total / rows as f64;
            println!("{bytes} bytes, {name:<10} codec KL {mean:.1e}");
            assert!(mean <= limit, "{name}: {mean:.2e} in {bytes} bytes");
        }
    }
}
