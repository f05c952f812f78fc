//! Encoding and decoding speed on one core: K = 64, V = 151,936, the minimum of many repetitions.
//!
//! Prints one line of JSON per measurement, which benches/store.py puts beside its floor and target. Top-64 with 8
//! bits and 16 sampled ids are measured at every level that this CPU has: the best one without a name, the others by
//! theirs.

use std::hint::black_box;
use std::time::Instant;

use thack::codec::{Dither, SampledLayout, SampledRow, SampledRowMut, TopKLayout, TopKRow, TopKRowMut};
use thack::kernels::simd::Level;

const ROWS: usize = 1024;
const REPEATS: usize = 100;
const VOCABULARY: u32 = 151_936;

fn best_ns_per_row(mut work: impl FnMut()) -> f64 {
    let times = (0..REPEATS).map(|_| {
        let start = Instant::now();
        work();
        start.elapsed().as_nanos() as f64 / ROWS as f64
    });
    times.fold(f64::INFINITY, f64::min)
}

fn report(what: &str, ns: f64, bytes: usize) {
    let rate = 1e3 / ns;
    println!("{{\"what\":\"{what}\",\"ns\":{ns:.1},\"million_tokens_per_s\":{rate:.1},\"bytes\":{bytes}}}");
}

fn ids_of(row: usize, k: usize) -> Vec<u32> {
    let dither = Dither::new(1, [row as u64, k as u64, 0]);
    let mut ids = std::collections::BTreeSet::new();
    let mut i = 0;
    while ids.len() < k {
        ids.insert((dither.uniform(i).powi(3) * VOCABULARY as f32) as u32);
        i += 1;
    }
    ids.into_iter().collect()
}

fn top_k(value_bits: u32, level: Level) {
    const K: usize = 64;
    let layout = TopKLayout::new(K, VOCABULARY, value_bits, true, 0).at_level(level);
    let at = if level == Level::best() { String::new() } else { format!(", {}", level.name()) };
    let stride = layout.stride();
    let ids: Vec<u32> = (0..ROWS).flat_map(|row| ids_of(row, K)).collect();
    let dither = Dither::new(2, [0; 3]);
    let values: Vec<f32> = (0..ROWS * K).map(|i| -12.0 * dither.uniform(i as u64)).collect();
    let mut records = vec![0u8; ROWS * stride];
    let mut codes = vec![0u32; K];
    let encode = best_ns_per_row(|| {
        for (row, record) in records.chunks_exact_mut(stride).enumerate() {
            let (ids, log_probs) = (&ids[row * K..][..K], &values[row * K..][..K]);
            let row = TopKRow { ids, log_probs, log_tail: -2.0, log_tail_at: &[] };
            layout.encode(black_box(row), &mut codes, record).unwrap();
        }
    });
    report(&format!("encode top-64, {value_bits} bits{at}"), encode, stride);
    let (mut ids, mut values, mut tail) = (vec![0; ROWS * K], vec![0.0; ROWS * K], 0.0);
    let decode = best_ns_per_row(|| {
        for (row, record) in records.chunks_exact(stride).enumerate() {
            let (ids, log_probs) = (&mut ids[row * K..][..K], &mut values[row * K..][..K]);
            let row = TopKRowMut { ids, log_probs, log_tail: &mut tail, log_tail_at: &mut [] };
            layout.decode(black_box(record), &mut codes, row).unwrap();
        }
    });
    report(&format!("decode top-64, {value_bits} bits{at}"), decode, stride);
    if level != Level::best() {
        return;
    }
    let floor = best_ns_per_row(|| {
        black_box(&mut ids).fill(7);
        black_box(&mut values).fill(0.5);
    });
    report("floor of decode: writing 64 ids and 64 values", floor, stride);
}

fn sampled(k: usize, level: Level) {
    let layout = SampledLayout::new(k, VOCABULARY).at_level(level);
    let at = if level == Level::best() { String::new() } else { format!(", {}", level.name()) };
    let ids: Vec<Vec<u32>> = (0..ROWS).map(|row| ids_of(row, k)).collect();
    let weights: Vec<f32> = (0..k).map(|i| if i % 4 == 0 { 0.2 } else { 0.05 }).collect();
    let mut record = vec![0u8; layout.stride()];
    let encode = best_ns_per_row(|| {
        for (n, ids) in ids.iter().enumerate() {
            let row = SampledRow { ids, weights: &weights, count: k, tau: 0.05, entropy: 2.0 };
            layout.encode(black_box(row), Dither::new(0, [n as u64, 0, 0]), &mut record).unwrap();
        }
    });
    report(&format!("encode {k} sampled ids{at}"), encode, layout.stride());
    let (mut ids, mut weights, mut codes) = (vec![0; k], vec![0.0; k], vec![0; k]);
    let (mut count, mut tau, mut entropy) = (0, 0.0, 0.0);
    let decode = best_ns_per_row(|| {
        for _ in 0..ROWS {
            let row = SampledRowMut {
                ids: &mut ids,
                weights: &mut weights,
                count: &mut count,
                tau: &mut tau,
                entropy: &mut entropy,
            };
            layout.decode(black_box(&record), &mut codes, row).unwrap();
        }
    });
    report(&format!("decode {k} sampled ids{at}"), decode, layout.stride());
}

fn main() {
    top_k(8, Level::best());
    top_k(7, Level::best());
    for level in Level::supported().into_iter().filter(|level| *level != Level::best()) {
        top_k(8, level);
        sampled(16, level);
    }
    sampled(16, Level::best());
    sampled(4, Level::best());
}
