//! Selection, tails and draws against their definitions in double precision, at every SIMD level of this CPU.

use std::sync::{Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};
use proptest::prelude::*;

use thack::kernels::element::Element;
use thack::kernels::philox::{Purpose, uniform};
use thack::kernels::row::Summary;
use thack::kernels::sample::{Sampling, sample};
use thack::kernels::simd::{self, Level};
use thack::kernels::topk::select;

/// The level is one for the whole process: tests that force it go one by one.
static LEVEL: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    LEVEL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The definition: the k largest, lowest ids first among equals, −∞ never.
fn largest(row: &[f32], k: usize) -> Vec<u32> {
    let mut ids: Vec<u32> =
        (0..row.len() as u32).filter(|id| row[*id as usize] > f32::NEG_INFINITY).collect();
    ids.sort_by(|a, b| row[*b as usize].partial_cmp(&row[*a as usize]).unwrap().then(a.cmp(b)));
    ids.truncate(k);
    ids.sort_unstable();
    ids
}

/// log Σ exp(x/T)
fn logsumexp(values: impl Iterator<Item = f32> + Clone, temperature: f64) -> f64 {
    let highest = f64::from(values.clone().fold(f32::NEG_INFINITY, f32::max));
    if highest == f64::NEG_INFINITY {
        return highest;
    }
    let sum: f64 = values.map(|x| ((f64::from(x) - highest) / temperature).exp()).sum();
    highest / temperature + sum.ln()
}

#[derive(Debug, PartialEq)]
struct Found {
    ids: Vec<u32>,
    logsumexp: f64,
    tails: Vec<f64>,
    entropy: f64,
    drawn: Vec<u32>,
}

const TEMPERATURES: [f64; 3] = [1.0, 2.0, 0.4];

fn found<E: Element>(row: &[E], k: usize) -> Found {
    let summary = Summary::new(row, 0, 1.0).unwrap();
    let ids = select(row, &summary, k);
    let tails = TEMPERATURES.map(|t| summary.log_tail(row, &ids, t)).to_vec();
    let sampling = Sampling { temperature: 0.9, top_k: 0, top_p: 0.9, min_p: 0.01, greedy: false };
    let wide = Sampling { top_p: 1.0, min_p: 0.0, ..sampling };
    let draw = |how: &Sampling, i| sample(row, 0, how, 3, [0, 0, 0, i]).unwrap();
    let drawn = (0..4).map(|i| draw(&wide, i)).chain((0..4).map(|i| draw(&sampling, i))).collect();
    Found { entropy: summary.entropy(row), logsumexp: summary.logsumexp(), ids, tails, drawn }
}

/// Every level finds the same bits, and what the definition says.
fn check<E: Element>(row: &[E], k: usize) {
    let _alone = alone();
    let exact: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
    simd::force(Level::Scalar).unwrap();
    let first = found(row, k);
    for level in Level::supported() {
        simd::force(level).unwrap();
        assert_eq!(found(row, k), first, "{level}");
    }
    simd::force(Level::best()).unwrap();
    assert_eq!(first.ids, largest(&exact, k));
    close(first.logsumexp, logsumexp(exact.iter().copied(), 1.0), "log-sum-exp", 5e-7);
    let mut others = exact.clone();
    first.ids.iter().for_each(|id| others[*id as usize] = f32::NEG_INFINITY);
    for (temperature, tail) in TEMPERATURES.iter().zip(&first.tails) {
        close(*tail, logsumexp(others.iter().copied(), *temperature), "tail", 1e-6);
    }
    let share = |x: f32| f64::from(x) - first.logsumexp;
    let terms = exact.iter().filter(|x| **x > f32::NEG_INFINITY).map(|x| -share(*x).exp() * share(*x));
    close(first.entropy, terms.sum(), "entropy", 2e-6);
    assert!(first.drawn.iter().all(|id| exact[*id as usize] > f32::NEG_INFINITY));
}

fn close(found: f64, expected: f64, what: &str, within: f64) {
    let error = (found - expected).abs();
    assert!(found == expected || error <= within + 1e-12 * expected.abs(), "{what}: {found}, not {expected}");
}

fn normal(i: u32, seed: u64) -> f32 {
    let draw = |position| uniform(seed, Purpose::Threshold, [0, i, 0, position]);
    ((-2.0 * draw(0).ln()).sqrt() * (std::f64::consts::TAU * draw(1)).cos()) as f32
}

fn random(len: usize, scale: f32, seed: u64) -> Vec<f32> {
    (0..len as u32).map(|i| scale * normal(i, seed)).collect()
}

fn rows() -> impl Strategy<Value = Vec<f32>> {
    let len = prop_oneof![1..300_usize, 2000..2100_usize, 4090..4200_usize];
    let some = prop::sample::select(vec![-3.0, 0.0, -0.0, 0.5, 2.0, f32::NEG_INFINITY]);
    prop_oneof![
        (len.clone(), 0.01..20.0_f32, any::<u64>()).prop_map(|(len, scale, seed)| random(len, scale, seed)),
        (len.clone(), -1e4..1e4_f32)
            .prop_map(|(len, step)| (0..len).map(|i| i as f32 * step / 4e3).collect()),
        prop::collection::vec(some, 1..400),
        (len, any::<u64>(), -3e38..3e38_f32).prop_map(|(len, seed, far)| {
            random(len, 3.0, seed)
                .iter()
                .enumerate()
                .map(|(i, x)| if i % 7 == 0 { *x } else { *x - far.abs() })
                .collect()
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_match_their_definition(row in rows(), k in prop_oneof![1..70_usize, 1..1100_usize]) {
        prop_assume!(row.iter().any(|x| x.is_finite()));
        check(&row, k);
        let half: Vec<bf16> = row.iter().map(|x| bf16::from_f32(x.clamp(-3e38, 3e38))).collect();
        check(&half, k);
        let half: Vec<f16> = row.iter().map(|x| f16::from_f32(x.clamp(-6e4, 6e4))).collect();
        check(&half, k);
    }
}

#[test]
fn large_rows_match_their_definition() {
    for (len, k) in [(151_936, 64), (262_144, 1024), (32_128, 1), (50_257, 300)] {
        let mut row = random(len, 2.0, 5);
        check(&row, k);
        row.sort_by(f32::total_cmp);
        check(&row, k);
        row.reverse();
        check(&row, k);
        check(&vec![1.25_f32; len], k);
        check(&row.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>(), k);
    }
}

#[test]
fn tails_are_exact_however_much_the_heads_hold() {
    for gap in [0.0, 5.0, 9.5, 12.0, 30.0, 54.0, 60.0, 87.0, 200.0, 1e4, 1e6, 3e37] {
        let mut row = random(5000, 0.7, 1);
        row[17] += gap;
        row[4000] += gap * 0.99;
        check(&row, 2);
        check(&row, 1);
        check(&row, 500);
    }
}

#[test]
fn what_is_no_distribution_is_named() {
    let _alone = alone();
    for level in Level::supported() {
        simd::force(level).unwrap();
        for place in [0, 127, 128, 2047, 2999] {
            for (bad, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "+inf")] {
                let mut row = random(3000, 2.0, 2);
                row[place] = bad;
                for error in [Summary::new(&row, 7, 1.0), Summary::maxima_only(&row, 7, 1.0)] {
                    let message = error.unwrap_err().message;
                    assert!(
                        message.contains(&format!("row 7 of the logits holds {name} at id {place}")),
                        "{message}"
                    );
                }
            }
        }
        let message = Summary::new(&[f32::NEG_INFINITY; 300], 1, 1.0).unwrap_err().message;
        assert!(message.contains("nothing but -inf"));
    }
    simd::force(Level::best()).unwrap();
}

#[test]
fn extreme_temperatures_keep_the_order() {
    let row = random(3000, 2.0, 9);
    let best = largest(&row, 1)[0];
    let cold = Sampling { temperature: 1e-6, top_k: 0, top_p: 1.0, min_p: 0.0, greedy: false };
    let drawn = |sampling: &Sampling, i| sample(&row, 0, sampling, 0, [0, i, 0, 0]).unwrap();
    assert!((0..50).all(|i| drawn(&cold, i) == best));
    let hot = Sampling { temperature: 1e6, ..cold };
    let mean = (0..2000).map(|i| f64::from(drawn(&hot, i))).sum::<f64>() / 2000.0;
    assert!((mean - 1500.0).abs() < 5.0 * 866.0 / 2000_f64.sqrt(), "{mean}");
}
