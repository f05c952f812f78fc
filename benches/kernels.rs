//! Row kernels on one core at every SIMD level that this CPU has: `cargo bench --bench kernels`.
//!
//! A sample is one row of 151,936 logits out of 16, so that rows come from where a model leaves them, not from the
//! first cache. `read` is the floor: the maximum of every block and nothing else is computed.

use std::hint::black_box;

use divan::Bencher;
use half::bf16;
use thack::kernels::divergence::{Kind, Loss, Target, in_place};
use thack::kernels::element::Element;
use thack::kernels::philox::{Purpose, uniform};
use thack::kernels::row::Summary;
use thack::kernels::sample::{Sampling, sample};
use thack::kernels::simd::{self, Level};
use thack::kernels::topk::select;

const ROWS: usize = 16;
const VOCABULARY: usize = 151_936;
const K: usize = 64;

fn main() {
    divan::main();
}

/// Normal logits of standard deviation 2, by Box and Muller.
fn rows<E: Element>() -> Vec<E> {
    let draw = |i: usize, position| uniform(0, Purpose::Threshold, [0, i as u32, 0, position]);
    let normal = |i| (-2.0 * draw(i, 0).ln()).sqrt() * (std::f64::consts::TAU * draw(i, 1)).cos();
    (0..ROWS * VOCABULARY).map(|i| E::from_f32((2.0 * normal(i)) as f32)).collect()
}

/// Times `work` on one row after the other.
fn each_row<E: Element, R>(bencher: Bencher<'_, '_>, level: Level, rows: &[E], work: impl Fn(&[E]) -> R) {
    simd::force(level).expect("only supported levels are benchmarked");
    let mut rows = rows.chunks_exact(VOCABULARY).cycle();
    bencher.bench_local(|| black_box(work(black_box(rows.next().expect("a cycle has no end")))));
}

fn levels() -> Vec<Level> {
    Level::supported()
}

const SAMPLING: Sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, greedy: false };

fn draw<E: Element>(row: &[E], sampling: &Sampling) -> u32 {
    sample(row, 0, sampling, 0, [0; 4]).expect("the logits are finite")
}

#[divan::bench(args = levels(), sample_count = 300)]
fn read(bencher: Bencher<'_, '_>, level: Level) {
    each_row(bencher, level, &rows::<f32>(), |row| {
        Summary::maxima_only(row, 0, 1.0).map(|found| found.highest)
    });
}

#[divan::bench(args = levels(), sample_count = 300)]
fn sums(bencher: Bencher<'_, '_>, level: Level) {
    each_row(bencher, level, &rows::<f32>(), |row| Summary::new(row, 0, 1.0).map(|found| found.total));
}

#[divan::bench(args = levels(), types = [f32, bf16], sample_count = 300)]
fn top_64_and_tail<E: Element>(bencher: Bencher<'_, '_>, level: Level) {
    each_row(bencher, level, &rows::<E>(), top_and_tail);
}

#[divan::bench(args = levels(), sample_count = 300)]
fn top_64_and_tail_ascending(bencher: Bencher<'_, '_>, level: Level) {
    let mut rows = rows::<f32>();
    rows.chunks_mut(VOCABULARY).for_each(|row| row.sort_unstable_by(f32::total_cmp));
    each_row(bencher, level, &rows, top_and_tail);
}

fn top_and_tail<E: Element>(row: &[E]) -> (Vec<u32>, f64, f64) {
    let summary = Summary::new(row, 0, 1.0).expect("the logits are finite");
    let ids = select(row, &summary, K);
    let tail = summary.log_tail(row, &ids, 1.0);
    (ids, summary.logsumexp(), tail)
}

#[divan::bench(args = levels(), sample_count = 300)]
fn sample_all(bencher: Bencher<'_, '_>, level: Level) {
    each_row(bencher, level, &rows::<f32>(), |row| draw(row, &SAMPLING));
}

#[divan::bench(args = levels(), sample_count = 300)]
fn sample_top_k(bencher: Bencher<'_, '_>, level: Level) {
    each_row(bencher, level, &rows::<f32>(), |row| draw(row, &Sampling { top_k: 50, ..SAMPLING }));
}

#[divan::bench(args = levels(), sample_count = 300)]
fn sample_top_p(bencher: Bencher<'_, '_>, level: Level) {
    each_row(bencher, level, &rows::<f32>(), |row| draw(row, &Sampling { top_p: 0.95, ..SAMPLING }));
}

/// Rows that are in no cache: a copy of all of them comes in between.
#[divan::bench(args = levels(), types = [f32, bf16], sample_count = 300)]
fn forward_kl_in_place<E: Element>(bencher: Bencher<'_, '_>, level: Level) {
    simd::force(level).expect("only supported levels are benchmarked");
    let rows = rows::<E>();
    let ids: Vec<i32> = (0..K as i32).map(|i| i * 2_300 + i * i % 97).collect();
    let values = vec![-(2.0 * K as f32).ln(); K];
    let target = Target { ids: &ids, values: &values, tail: 0.5_f32.ln() };
    let loss = Loss { kind: Kind::ForwardKl, temperature: 1.0, ce_weight: 0.0 };
    let mut buffer = Vec::new();
    let mut at = 0;
    bencher.bench_local(|| {
        if at % ROWS == 0 {
            buffer.clone_from(&rows);
        }
        let row = &mut buffer[at % ROWS * VOCABULARY..][..VOCABULARY];
        at += 1;
        black_box(in_place(black_box(row), 0, &target, &loss, None, 1.0)).expect("the logits are finite");
    });
}
