//! Sixteen lanes as an array: the reference of the other levels, and what other CPUs run.

use half::{bf16, f16};

use super::{LANES, Simd};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar(());

impl Scalar {
    pub(super) fn new() -> Self {
        Self(())
    }
}

type V = [f32; LANES];

#[inline(always)]
fn map2(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn mask(a: V, b: V, f: impl Fn(f32, f32) -> bool) -> u32 {
    (0..LANES).fold(0, |bits, i| bits | (u32::from(f(a[i], b[i])) << i))
}

/// Folds the upper half onto the lower one until one lane is left.
#[inline(always)]
fn fold(mut a: V, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            a[i] = f(a[i], a[i + half]);
        }
        half /= 2;
    }
    a[0]
}

/// Folds the upper half onto the lower, then neighbours: what registers that are merged by pairs do.
#[inline(always)]
fn neighbours(mut a: V, f: impl Fn(f32, f32) -> f32) -> f32 {
    for i in 0..LANES / 2 {
        a[i] = f(a[i], a[i + LANES / 2]);
    }
    let mut left = LANES / 2;
    while left > 1 {
        left /= 2;
        for i in 0..left {
            a[i] = f(a[2 * i], a[2 * i + 1]);
        }
    }
    a[0]
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

impl Simd for Scalar {
    type V = V;

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> V {
        *from
    }
    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> V {
        std::array::from_fn(|i| f32::from_bits(u32::from(from[i].to_bits()) << 16))
    }
    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> V {
        std::array::from_fn(|i| from[i].to_f32())
    }
    #[inline(always)]
    fn store(self, value: V, to: &mut [f32; LANES]) {
        *to = value;
    }
    #[inline(always)]
    fn store_bf16(self, value: V, to: &mut [bf16; LANES]) {
        *to = value.map(bf16::from_f32);
    }
    #[inline(always)]
    fn store_f16(self, value: V, to: &mut [f16; LANES]) {
        *to = value.map(f16::from_f32);
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        map2(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        map2(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        map2(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        map2(a, b, larger)
    }
    #[inline(always)]
    fn shift_exponent(self, a: V, n: V) -> V {
        std::array::from_fn(|i| f32::from_bits(a[i].to_bits().wrapping_add(n[i].to_bits() << 23)))
    }
    #[inline(always)]
    fn ge(self, a: V, b: V) -> u32 {
        mask(a, b, |x, y| x >= y)
    }
    #[inline(always)]
    fn gt(self, a: V, b: V) -> u32 {
        mask(a, b, |x, y| x > y)
    }
    #[inline(always)]
    fn nan(self, a: V) -> u32 {
        mask(a, a, |x, _| x.is_nan())
    }
    #[inline(always)]
    fn where_ge(self, a: V, b: V, value: V) -> V {
        std::array::from_fn(|i| if a[i] >= b[i] { value[i] } else { 0.0 })
    }
    #[inline(always)]
    fn where_gt(self, a: V, b: V, value: V) -> V {
        std::array::from_fn(|i| if a[i] > b[i] { value[i] } else { 0.0 })
    }
    #[inline(always)]
    fn reduce_add(self, a: V) -> f32 {
        fold(a, |x, y| x + y)
    }
    #[inline(always)]
    fn reduce_max(self, a: V) -> f32 {
        fold(a, larger)
    }
    #[inline(always)]
    fn reduce_add_each(self, vectors: &[V; LANES]) -> V {
        vectors.map(|v| neighbours(v, |x, y| x + y))
    }
    #[inline(always)]
    fn reduce_max_each(self, vectors: &[V; LANES]) -> V {
        vectors.map(|v| neighbours(v, larger))
    }
    #[inline(always)]
    fn prefetch<T>(self, _at: &T, _bytes: usize) {}
}
