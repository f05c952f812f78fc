//! Forward KL on K+1 numbers with its gradient against the definition in double precision, at every SIMD level of this
//! CPU: rows whose origin moves, that begin with nothing, that lie far off. All other kinds are tested from Python.

use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};

use thack::kernels::divergence::{Kind, Loss, Target, forward_kl_in_place, in_place};
use thack::kernels::element::Element;
use thack::kernels::philox::{Purpose, uniform};
use thack::kernels::simd::{self, Level};

/// The level is one for the whole process: tests that force it go one by one.
static LEVEL: Mutex<()> = Mutex::new(());

const K: usize = 9;

fn random(len: usize, scale: f32, seed: u64) -> Vec<f32> {
    let draw = |i, position| uniform(seed, Purpose::Threshold, [0, i, 0, position]);
    let normal = |i| (-2.0 * draw(i, 0).ln()).sqrt() * (std::f64::consts::TAU * draw(i, 1)).cos();
    (0..len as u32).map(|i| scale * normal(i) as f32).collect()
}

/// Spread over the row, as a teacher's ids are; p of 0.05 each, and what they leave.
fn target(len: usize) -> (Vec<i32>, Vec<f32>, f32) {
    let ids = (0..K).map(|i| (i * (len - 1) / K) as i32).collect();
    (ids, vec![0.05_f32.ln(); K], (1.0 - 0.05 * K as f32).ln())
}

/// Loss and gradient straight from the definition: `s − [v ∈ S]·p_v − [v ∉ S]·t·s_v/u`, times T, and the label's s − 1.
fn definition(row: &[f32], temperature: f64, label: Option<usize>, ce_weight: f64) -> (f64, Vec<f64>) {
    let (ids, values, rest) = target(row.len());
    let softmax = |temperature: f64| {
        let high = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let powers: Vec<f64> = row.iter().map(|x| ((f64::from(*x) - high) / temperature).exp()).collect();
        let total: f64 = powers.iter().sum();
        powers.into_iter().map(|power| power / total).collect::<Vec<_>>()
    };
    let (share, at_one) = (softmax(temperature), softmax(1.0));
    let is_kept = |v: usize| ids.binary_search(&(v as i32));
    let tail: f64 = (0..row.len()).filter(|v| is_kept(*v).is_err()).map(|v| share[v]).sum();
    let (p, t) = (|k: usize| f64::from(values[k]).exp(), f64::from(rest).exp());
    let kept = ids.iter().enumerate().map(|(k, id)| p(k) * (f64::from(values[k]) - share[*id as usize].ln()));
    let mut value = (kept.sum::<f64>() + t * (f64::from(rest) - tail.ln())) * temperature * temperature;
    let all: f64 = (0..K).map(p).sum::<f64>() + t;
    let own = |v: usize| is_kept(v).map_or_else(|_| share[v] * (all - t / tail), |k| all * share[v] - p(k));
    let mut gradient: Vec<f64> = (0..row.len()).map(|v| own(v) * temperature).collect();
    if let Some(label) = label {
        value -= ce_weight * at_one[label].ln();
        gradient.iter_mut().zip(at_one).for_each(|(own, share)| *own += ce_weight * share);
        gradient[label] -= ce_weight;
    }
    (value, gradient)
}

/// Every level writes the same bits, and what the definition says; `rounding` is the format's,
/// relative and that of its subnormal numbers.
fn check<E: Element>(what: &str, row: &[E], bits: fn(E) -> u32, rounding: (f64, f64)) {
    let _alone = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    let exact: Vec<f32> = row.iter().map(|x| x.to_f32()).collect();
    let (ids, values, rest) = target(row.len());
    let target = Target { ids: &ids, values: &values, tail: rest };
    for (temperature, label) in [(1.0, None), (1.0, Some(7)), (2.0, None), (0.7, Some(7))] {
        let loss = Loss { kind: Kind::ForwardKl, temperature, ce_weight: 0.5 };
        let run = |level| {
            simd::force(level).unwrap();
            let mut buffer = row.to_vec();
            let value = in_place(&mut buffer, 0, &target, &loss, label, 1.0).unwrap();
            (value, buffer)
        };
        let (value, gradient) = run(Level::Scalar);
        for level in Level::supported() {
            let (other, buffer) = run(level);
            assert_eq!(other.to_bits(), value.to_bits(), "{what}, {level}");
            assert!(buffer.iter().zip(&gradient).all(|(a, b)| bits(*a) == bits(*b)), "{what}, {level}");
        }
        simd::force(Level::best()).unwrap();
        let (loss, slopes) = definition(&exact, temperature, label, 0.5);
        assert!((value - loss).abs() <= 2e-6 * loss.abs().max(1.0), "{what}: {value}, not {loss}");
        for (v, (found, slope)) in gradient.iter().zip(slopes).enumerate() {
            let found = f64::from(found.to_f32());
            let within = (rounding.0 + 3e-6) * slope.abs() + rounding.1 + 1e-9;
            assert!((found - slope).abs() <= within, "{what}, id {v}: {found}, not {slope}");
        }
    }
}

/// Rows of `len` with mass both on the kept ids and in the tail.
fn families(len: usize) -> Vec<(&'static str, Vec<f32>)> {
    let noise = random(len, 2.0, len as u64);
    let each = |f: &dyn Fn(usize, f32) -> f32| noise.iter().enumerate().map(|(i, x)| f(i, *x)).collect();
    let place = |i: usize| i as f32 / len as f32;
    vec![
        ("random", each(&|_, x| x)),
        ("ascending", each(&|i, x| x + 40.0 * place(i))),
        ("descending", each(&|i, x| x - 400.0 * place(i))),
        ("one origin after the other", each(&|i, x| x + 300.0 * (4.0 * place(i)).floor())),
        ("nothing at first", each(&|i, x| if 2 * i < len && i % 7 != 0 { f32::NEG_INFINITY } else { x })),
        ("nothing but the end", each(&|i, x| if i + 40 < len && i % 3000 != 0 { -1e30 } else { x })),
        ("large", each(&|_, x| x + 3e4)),
        ("far below", each(&|_, x| x * 64.0 - 3e7)),
        ("far above from the middle on", each(&|i, x| if 2 * i < len { x } else { 64.0 * x + 3e7 })),
        ("constant", vec![0.25; len]),
    ]
}

#[test]
fn forward_kl_matches_its_definition() {
    for len in [90, 128, 2047, 4096, 4097, 9001] {
        for (what, mut row) in families(len) {
            for id in target(len).0 {
                row[id as usize] = row[id as usize].max(row[len - 1] - 3.0);
            }
            check(&format!("{what}, {len}"), &row, f32::to_bits, (0.0, 0.0));
            let half: Vec<bf16> = row.iter().map(|x| bf16::from_f32(*x)).collect();
            check(&format!("{what}, {len}, bf16"), &half, |x| x.to_bits().into(), (1.0 / 256.0, 0.0));
            if row.iter().all(|x| x.abs() < 6e4) {
                let half: Vec<f16> = row.iter().map(|x| f16::from_f32(*x)).collect();
                check(&format!("{what}, {len}, f16"), &half, |x| x.to_bits().into(), (1.0 / 2048.0, 3e-8));
            }
        }
    }
}

/// Σ p·(log p − log q) and q·Σp − p straight from the definition.
fn dense_definition(row: &[f32], log_p: &[f32]) -> (f64, Vec<f64>) {
    let high = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let total: f64 = row.iter().map(|x| (f64::from(*x) - high).exp()).sum();
    let log_q: Vec<f64> = row.iter().map(|x| f64::from(*x) - high - total.ln()).collect();
    let p: Vec<f64> = log_p.iter().map(|x| f64::from(*x).exp()).collect();
    let mass: f64 = p.iter().sum();
    let terms = p.iter().zip(log_p).zip(&log_q).filter(|((p, _), _)| **p > 0.0);
    let value = terms.map(|((p, log_p), log_q)| p * (f64::from(*log_p) - log_q)).sum();
    (value, p.iter().zip(&log_q).map(|(p, log_q)| log_q.exp() * mass - p).collect())
}

#[test]
fn dense_forward_kl_matches_its_definition() {
    let _alone = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    for len in [1, 15, 90, 128, 2047, 4097] {
        for (what, row) in families(len) {
            // Mass where the student has some; a row that sums to 0.9, as rounded records do to less than 1.
            let teacher: Vec<f32> =
                row.iter().map(|x| if x.is_finite() { x.clamp(-9.0, 9.0) } else { *x }).collect();
            let total: f64 = teacher.iter().map(|x| f64::from(*x).exp()).sum();
            let floor =
                |i: usize, x: f32| if i % 5 == 3 { f32::NEG_INFINITY } else { x - total.ln() as f32 - 0.1 };
            let lacks = |x: f32| x < row.iter().copied().fold(f32::NEG_INFINITY, f32::max) - 5e3;
            let log_p: Vec<f32> = teacher
                .iter()
                .enumerate()
                .map(|(i, x)| if lacks(row[i]) { f32::NEG_INFINITY } else { floor(i, *x) })
                .collect();
            let run = |level| {
                simd::force(level).unwrap();
                let mut buffer = row.clone();
                (forward_kl_in_place(&mut buffer, &log_p).unwrap(), buffer)
            };
            let (value, gradient) = run(Level::Scalar);
            for level in Level::supported() {
                let (other, buffer) = run(level);
                assert_eq!(other.to_bits(), value.to_bits(), "{what}, {len}, {level}");
                assert!(
                    buffer.iter().zip(&gradient).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "{what}, {level}"
                );
            }
            simd::force(Level::best()).unwrap();
            let (loss, slopes) = dense_definition(&row, &log_p);
            assert!((value - loss).abs() <= 3e-6 * loss.abs().max(1.0), "{what}, {len}: {value}, not {loss}");
            for (v, (found, slope)) in gradient.iter().zip(slopes).enumerate() {
                assert!(
                    (f64::from(*found) - slope).abs() <= 1e-6,
                    "{what}, {len}, id {v}: {found}, not {slope}"
                );
            }
        }
    }
}

#[test]
fn a_dense_row_that_means_nothing_has_no_finite_loss() {
    let _alone = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    let even = [0.25_f32.ln(); 4];
    for row in [[0.0, f32::NAN, 0.0, 0.0], [0.0, f32::INFINITY, 0.0, 0.0], [f32::NEG_INFINITY; 4]] {
        assert!(!forward_kl_in_place(&mut row.clone(), &even).unwrap().is_finite());
    }
    let lacking = forward_kl_in_place(&mut [0.0, f32::NEG_INFINITY, 0.0, 0.0], &even).unwrap();
    assert_eq!(lacking, f64::INFINITY);
    assert!(!forward_kl_in_place(&mut [0.0; 4], &[f32::NAN; 4]).unwrap().is_finite());
}

#[test]
fn what_is_no_distribution_is_named_wherever_it_stands() {
    let _alone = LEVEL.lock().unwrap_or_else(PoisonError::into_inner);
    let (ids, values, rest) = target(5000);
    let target = Target { ids: &ids, values: &values, tail: rest };
    let loss = Loss { kind: Kind::ForwardKl, temperature: 1.0, ce_weight: 0.0 };
    let mut nothing = random(5000, 2.0, 1);
    nothing[..4200].fill(f32::NEG_INFINITY);
    for level in Level::supported() {
        simd::force(level).unwrap();
        for place in [1, 127, 2049, 4095, 4300, 4999] {
            for (bad, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "+inf")] {
                for row in [&random(5000, 2.0, 1), &nothing] {
                    let mut row = row.clone();
                    row[place] = bad;
                    let message = in_place(&mut row, 7, &target, &loss, None, 1.0).unwrap_err().message;
                    assert!(
                        message.contains(&format!("row 7 of the student's logits holds {name}")),
                        "{message}"
                    );
                }
            }
        }
    }
    simd::force(Level::best()).unwrap();
}
