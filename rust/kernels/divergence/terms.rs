//! Each divergence on the K+1 outcomes, with its slopes: the formulas alone, in f64.
//!
//! A copy of thack/losses/formulas.py; tests/vectors/divergences.json pins both.

use super::Target;

/// Which divergence, with its parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// KL(p ‖ q)
    ForwardKl,
    /// KL(q ‖ p)
    ReverseKl,
    /// β·KL(p ‖ m) + (1−β)·KL(q ‖ m), m = β·p + (1−β)·q
    Jsd(f64),
    /// KL(p ‖ α·p + (1−α)·q)
    SkewedKl(f64),
    /// ½ Σ |p − q|
    TotalVariation,
    /// `−Σ w_k log q_k − H(p)`, without a tail: unbiased targets
    Sampled,
}

/// A divergence and its slopes by the student's log-probabilities.
pub(super) struct Slopes {
    pub(super) value: f64,
    /// `g_k = ∂f/∂log q_k`
    pub(super) kept: Vec<f64>,
    /// `h = ∂f/∂log u`
    pub(super) tail: f64,
}

/// `log_q` and `q` are in the order of the target's ids, `log_u` is the student's tail.
pub(super) fn slopes(kind: Kind, target: &Target<'_>, log_q: &[f64], q: &[f64], log_u: f64) -> Slopes {
    let log_t = f64::from(target.tail);
    if kind == Kind::Sampled {
        let weights = || target.values.iter().map(|w| f64::from(*w));
        // Padding weighs nothing, whatever the student makes of its id.
        let cross = weights().zip(log_q).filter(|(w, _)| *w > 0.0).map(|(w, q)| -w * q);
        return Slopes {
            value: cross.sum::<f64>() - log_t,
            kept: weights().map(|w| -w).collect(),
            tail: 0.0,
        };
    }
    let terms: Vec<(f64, f64)> = target
        .values
        .iter()
        .zip(log_q.iter().zip(q))
        .map(|(log_p, (log_q, q))| term(kind, f64::from(*log_p), *log_q, *q))
        .collect();
    let (of_tail, tail) = term(kind, log_t, log_u, log_u.exp());
    Slopes {
        value: terms.iter().map(|(value, _)| value).sum::<f64>() + of_tail,
        kept: terms.iter().map(|(_, slope)| *slope).collect(),
        tail,
    }
}

/// x·(log x − log y), 0 where x is: masked before the arithmetic.
fn part(x: f64, log_x: f64, log_y: f64) -> f64 {
    if x > 0.0 { x * (log_x - log_y) } else { 0.0 }
}

/// f and (∂f/∂log q, that is q·∂f/∂q) of one of the K+1 outcomes.
fn term(kind: Kind, log_p: f64, log_q: f64, q: f64) -> (f64, f64) {
    let p = log_p.exp();
    match kind {
        Kind::ForwardKl | Kind::Sampled => (part(p, log_p, log_q), -p),
        Kind::ReverseKl => {
            let value = part(q, log_q, log_p);
            (value, value + q)
        }
        Kind::Jsd(beta) => {
            let log_m = log_mix(beta, log_p, log_q);
            // The terms through m cancel against the normalisation of both divergences.
            let toward_q = (1.0 - beta) * part(q, log_q, log_m);
            (beta * part(p, log_p, log_m) + toward_q, toward_q)
        }
        Kind::SkewedKl(skew) => {
            let log_m = log_mix(skew, log_p, log_q);
            let share = if p > 0.0 && q > 0.0 { (log_p + log_q - log_m).exp() } else { 0.0 };
            (part(p, log_p, log_m), -(1.0 - skew) * share)
        }
        Kind::TotalVariation => {
            let sign = if p == q { 0.0 } else { (q - p).signum() };
            (0.5 * (p - q).abs(), 0.5 * q * sign)
        }
    }
}

/// log(β·p + (1−β)·q)
fn log_mix(beta: f64, log_p: f64, log_q: f64) -> f64 {
    logsumexp(&[beta.ln() + log_p, (1.0 - beta).ln() + log_q])
}

/// −∞ for nothing, and for nothing but −∞.
pub(super) fn logsumexp(values: &[f64]) -> f64 {
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if high.is_infinite() {
        return high;
    }
    high + values.iter().map(|v| (v - high).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// The table pins this file and thack/losses/formulas.py to one definition.
    #[test]
    fn terms_and_slopes_are_those_of_the_shared_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/divergences.json");
        let table: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let divergences = table["divergences"].as_array().unwrap();
        assert_eq!(divergences.len(), 7);
        for divergence in divergences {
            let kind = kind_of(divergence["kind"].as_str().unwrap(), divergence["parameter"].as_f64());
            for outcome in divergence["outcomes"].as_array().unwrap() {
                let or = |name: &str, missing: f64| outcome[name].as_f64().unwrap_or(missing);
                let (log_p, log_q) = (or("log_p", f64::NEG_INFINITY), or("log_q", f64::NEG_INFINITY));
                let (f, g) = term(kind, log_p, log_q, log_q.exp());
                let close = |found: f64, expected: f64| {
                    found == expected || (found - expected).abs() <= 1e-15 + 1e-13 * expected.abs()
                };
                assert!(close(f, or("f", f64::INFINITY)), "{kind:?}, {outcome}: f = {f}");
                assert!(close(g, or("g", f64::INFINITY)), "{kind:?}, {outcome}: g = {g}");
            }
        }
    }

    fn kind_of(name: &str, parameter: Option<f64>) -> Kind {
        match (name, parameter) {
            ("forward_kl", None) => Kind::ForwardKl,
            ("reverse_kl", None) => Kind::ReverseKl,
            ("jsd", Some(beta)) => Kind::Jsd(beta),
            ("skewed_kl", Some(skew)) => Kind::SkewedKl(skew),
            ("total_variation", None) => Kind::TotalVariation,
            _ => panic!("{name}, {parameter:?}"),
        }
    }
}
