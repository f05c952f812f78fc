//! The one module with unsafe code: sixteen lanes of f32 on every machine, chosen at run time.
//!
//! Every kernel is written once over [`Simd`], whose vectors have sixteen lanes at every [`Level`]
//! (one AVX-512 register, two AVX registers, or an array). All operations are exactly rounded and are
//! applied in the same order, so results are the same bits at every level. A value of an
//! implementing type is the proof that the CPU has its instructions: only [`dispatch`] makes one.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod bytes;
mod scalar;

use half::{bf16, f16};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Class, Error, Result};

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen lanes of f32 and what the kernels do with them.
pub trait Simd: Copy + Send + Sync {
    /// One vector.
    type V: Copy;

    /// The same value in every lane.
    fn splat(self, value: f32) -> Self::V;
    /// Reads sixteen values.
    fn load(self, from: &[f32; LANES]) -> Self::V;
    /// Reads sixteen bfloat16 values.
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::V;
    /// Reads sixteen half-precision values.
    fn load_f16(self, from: &[f16; LANES]) -> Self::V;
    /// Writes sixteen values.
    fn store(self, value: Self::V, to: &mut [f32; LANES]);
    /// Writes sixteen values as bfloat16, to nearest, ties to even; NaN stays NaN.
    fn store_bf16(self, value: Self::V, to: &mut [bf16; LANES]);
    /// Writes sixteen values in half precision, to nearest, ties to even; NaN stays NaN.
    fn store_f16(self, value: Self::V, to: &mut [f16; LANES]);
    /// a + b
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// a where a > b, else b: a NaN in `b` stays, a NaN in `a` is dropped.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · 2^n, n the integer that the lowest nine bits of `n` spell: added to the exponent, so that must suffice.
    fn shift_exponent(self, a: Self::V, n: Self::V) -> Self::V;
    /// Bit i is set where a ≥ b in lane i.
    fn ge(self, a: Self::V, b: Self::V) -> u32;
    /// Bit i is set where a > b in lane i.
    fn gt(self, a: Self::V, b: Self::V) -> u32;
    /// Bit i is set where lane i is NaN.
    fn nan(self, a: Self::V) -> u32;
    /// `value` where a ≥ b, else 0.
    fn where_ge(self, a: Self::V, b: Self::V, value: Self::V) -> Self::V;
    /// `value` where a > b, else 0.
    fn where_gt(self, a: Self::V, b: Self::V, value: Self::V) -> Self::V;
    /// Sum of all lanes, halves folded onto each other: 16 → 8 → 4 → 2 → 1.
    fn reduce_add(self, a: Self::V) -> f32;
    /// Lane i is the sum of vector i's lanes: the upper half is folded onto the lower, then neighbours are added.
    fn reduce_add_each(self, vectors: &[Self::V; LANES]) -> Self::V;
    /// Lane i is the maximum of vector i's lanes; none may be NaN.
    fn reduce_max_each(self, vectors: &[Self::V; LANES]) -> Self::V;
    /// Maximum of all lanes; no lane may be NaN.
    fn reduce_max(self, a: Self::V) -> f32;
    /// Asks for the cache line that lies `bytes` behind `at`, inside the slice or not.
    fn prefetch<T>(self, at: &T, bytes: usize);
}

/// Work that is compiled once per level.
pub trait Kernel {
    /// What it returns.
    type Out;
    /// The work; must be `#[inline(always)]`, as must be all that it calls in its loops.
    fn run<S: Simd>(self, simd: S) -> Self::Out;
}

/// An instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Plain Rust, which the compiler vectorises where the target has fused multiply-add (NEON).
    Scalar = 1,
    /// AVX2, FMA and F16C.
    Avx2 = 2,
    /// AVX-512 F and BW.
    Avx512 = 3,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Level {
    /// All levels, slowest first.
    pub const ALL: [Self; 3] = [Self::Scalar, Self::Avx2, Self::Avx512];

    /// The name that `THACK_SIMD` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// Whether this CPU has the instructions.
    pub fn is_supported(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Scalar => true,
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Self::Avx512 => {
                Self::Avx2.is_supported()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        return self == Self::Scalar;
    }

    /// The levels that this CPU can run.
    pub fn supported() -> Vec<Self> {
        Self::ALL.into_iter().filter(|level| level.is_supported()).collect()
    }

    /// The fastest level of this CPU.
    pub fn best() -> Self {
        Self::supported().pop().unwrap_or(Self::Scalar)
    }

    /// Reads a level's name.
    ///
    /// # Errors
    /// On unknown names and on levels that this CPU lacks.
    pub fn parse(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|level| level.name() == name);
        let level = known.ok_or_else(|| {
            Error::new(Class::Usage, format!("THACK_SIMD does not know {name:?}"))
                .hint("use scalar, avx2 or avx512, or leave it unset")
        })?;
        if level.is_supported() {
            return Ok(level);
        }
        Err(Error::new(Class::Usage, format!("this CPU has no {name}"))
            .detail(format!("it can run {}", Self::best().name()))
            .hint("unset THACK_SIMD"))
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|level| *level as u8 == code)
    }
}

/// 0 until first used, then the code of the level.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// The level in use: the one forced by `THACK_SIMD` or [`force`], else the best one.
///
/// # Errors
/// When `THACK_SIMD` names no level, or one that this CPU lacks.
pub fn level() -> Result<Level> {
    if let Some(level) = Level::from_code(CHOSEN.load(Ordering::Relaxed)) {
        return Ok(level);
    }
    let level = match std::env::var("THACK_SIMD") {
        Ok(name) if !name.is_empty() => Level::parse(&name)?,
        _ => Level::best(),
    };
    CHOSEN.store(level as u8, Ordering::Relaxed);
    Ok(level)
}

/// Uses `level` from now on in this process (tests do).
///
/// # Errors
/// When this CPU lacks it.
pub fn force(level: Level) -> Result<()> {
    CHOSEN.store(Level::parse(level.name())? as u8, Ordering::Relaxed);
    Ok(())
}

/// Runs `kernel` compiled for `level`.
///
/// # Panics
/// When this CPU lacks it: a bug, since levels come from [`level`] or [`Level::supported`].
pub fn dispatch<K: Kernel>(level: Level, kernel: K) -> K::Out {
    assert!(level.is_supported(), "no {} here", level.name());
    match level {
        Level::Scalar => kernel.run(scalar::Scalar::new()),
        // SAFETY: the assertion above found every feature that the entry point enables.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::enter(kernel) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::enter(kernel) },
        #[cfg(not(target_arch = "x86_64"))]
        _ => unreachable!("only x86-64 has other levels"),
    }
}
