//! Uniform numbers for stochastic rounding: a counter-based hash, the same for any batch or thread.

/// Numbers for one row, fixed by the seed and by which row it is.
#[derive(Debug, Clone, Copy)]
pub struct Dither {
    state: u64,
}

/// Keeps these draws apart from every other use of the same seed.
const DOMAIN: u64 = 0x7468_6163_6b2d_7264; // "thack-rd"
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dither {
    /// `row` is (example, sample, position): together they name one response token of a data set.
    #[must_use]
    #[inline]
    pub fn new(seed: u64, row: [u64; 3]) -> Self {
        let state = row.iter().fold(mix(seed ^ DOMAIN), |state, &word| {
            mix(state.wrapping_add(GOLDEN) ^ mix(word.wrapping_add(GOLDEN)))
        });
        Self { state }
    }

    /// The `i`-th number of this row, uniform in [0, 1) with 24 bits.
    #[must_use]
    #[inline(always)]
    pub fn uniform(&self, i: u64) -> f32 {
        let bits = mix(self.state.wrapping_add(i.wrapping_mul(GOLDEN)));
        (bits >> 40) as f32 / (1u32 << 24) as f32
    }
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014).
#[inline(always)]
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_every_part_of_the_key() {
        let of = |seed, row, i| Dither::new(seed, row).uniform(i).to_bits();
        let base = of(1, [2, 3, 4], 5);
        assert_eq!(base, of(1, [2, 3, 4], 5));
        for other in [of(0, [2, 3, 4], 5), of(1, [3, 2, 4], 5), of(1, [2, 3, 5], 5), of(1, [2, 3, 4], 6)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn numbers_are_uniform() {
        let n = 20_000u64;
        let sum: f64 = (0..n).map(|i| f64::from(Dither::new(7, [i, 0, 0]).uniform(i % 5))).sum();
        let sigma = (n as f64 / 12.0).sqrt();
        assert!((sum - n as f64 / 2.0).abs() < 4.0 * sigma);
    }
}
