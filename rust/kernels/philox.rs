//! Philox4x32-10: random numbers as a function of a key and a counter (Salmon et al., SC 2011).
//!
//! The key is the seed and what the numbers are for, the counter says for which token: nothing depends on
//! batch size, threads or the order of work.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let left = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// What random numbers are for: each purpose has numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The n-th try at drawing a token (more than one only for top-p and min-p by rejection).
    Sample(u32),
    /// The offset of a threshold sample's systematic pass.
    Threshold,
}

impl Purpose {
    fn domain(self) -> u64 {
        match self {
            Self::Sample(attempt) => u64::from(attempt) << 8 | 1,
            Self::Threshold => 2,
        }
    }
}

/// The words of a token's counter.
pub type Key = [u32; 4];

/// A uniform number in (0, 1), with 53 bits: never 0, never 1.
pub fn uniform(seed: u64, purpose: Purpose, [epoch, prompt, sample, position]: Key) -> f64 {
    let mixed = splitmix(seed ^ splitmix(purpose.domain()));
    let words = philox4x32([position, sample, prompt, epoch], [mixed as u32, (mixed >> 32) as u32]);
    let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 12;
    (bits as f64 + 0.5) / (1_u64 << 52) as f64
}

/// A bijection of u64 that spreads its bits (Steele et al., OOPSLA 2014).
fn splitmix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_known_answers_of_random123() {
        let all = u32::MAX;
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([all; 4], [all; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniforms_lie_inside_the_interval_and_spread() {
        let draws: Vec<f64> = (0..20_000).map(|i| uniform(7, Purpose::Sample(0), [0, i, 0, 3])).collect();
        assert!(draws.iter().all(|u| *u > 0.0 && *u < 1.0));
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - 0.5).abs() < 4.0 * (1.0 / 12.0_f64 / 20_000.0).sqrt(), "{mean}");
    }
}
