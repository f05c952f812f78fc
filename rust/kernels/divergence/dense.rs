//! Forward KL on the whole vocabulary, with the gradient q·Σp − p in the place of the student's logits.

use super::sweep::{self, Part, Share};
use crate::error::Result;
use crate::kernels::exp::Origin;
use crate::kernels::pass::{BLOCK, TOGETHER, load_each};
use crate::kernels::simd::{self, Kernel, LANES, Simd};

/// Replaces a row of student logits by the gradient of Σ p·(log p − log q) with respect to them; returns that sum.
///
/// Both at temperature 1; Σp need not be 1, p = 0 counts as nothing. Not finite where the row or the target has NaN or
/// +∞, the row has nothing but −∞, or the student lacks what the teacher has: the row means nothing then.
///
/// # Errors
/// When `THACK_SIMD` names no level of this CPU.
///
/// # Panics
/// When row and target have different lengths, which is checked where the arrays come in.
pub fn forward_kl_in_place(row: &mut [f32], log_p: &[f32]) -> Result<f64> {
    assert_eq!(row.len(), log_p.len());
    let level = simd::level()?;
    let (student, teacher) = (sweep::read(level, row, 1.0), sweep::read(level, log_p, 1.0));
    let (log_all, mass) = (student.logsumexp(), teacher.logsumexp().exp());
    if student.nan || teacher.nan || !log_all.is_finite() || !mass.is_finite() {
        return Ok(f64::NAN);
    }
    let log_norm = (log_all - f64::from(student.highest)) as f32;
    let q = Share::of_row(&student, mass);
    // Where there is no mass, nothing is measured from it.
    let p = if mass > 0.0 { Share::of(&teacher, 1.0, 0.0) } else { Share { origin: q.origin, factor: 0.0 } };
    let work = Unshifted(Slope { row, log_p, q, p, highest: student.highest, log_norm });
    if is_shifted(&q.origin) || is_shifted(&p.origin) {
        return Ok(simd::dispatch(level, work.0));
    }
    Ok(simd::dispatch(level, work))
}

fn is_shifted(origin: &Origin) -> bool {
    origin.shift != 0.0
}

struct Slope<'a> {
    row: &'a mut [f32],
    log_p: &'a [f32],
    q: Share,
    p: Share,
    /// log q = (z − highest) − `log_norm`: each difference is small where it counts.
    highest: f32,
    log_norm: f32,
}

impl Kernel for Slope<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        self.work::<S, true>(simd)
    }
}

struct Unshifted<'a>(Slope<'a>);

impl Kernel for Unshifted<'_> {
    type Out = f64;
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f64 {
        self.0.work::<S, false>(simd)
    }
}

impl Slope<'_> {
    #[inline(always)]
    fn work<S: Simd, const SHIFTED: bool>(self, simd: S) -> f64 {
        let (q, p) = (Part::<S>::new(simd, &self.q), Part::<S>::new(simd, &self.p));
        let (highest, log_norm) = (simd.splat(self.highest), simd.splat(self.log_norm));
        let (blocks, rest) = self.row.as_chunks_mut::<BLOCK>();
        let (log_p, log_p_rest) = self.log_p.as_chunks::<BLOCK>();
        let mut total = 0.0;
        for (block, log_p) in blocks.iter_mut().zip(log_p) {
            total += slope::<S, SHIFTED>(simd, block, log_p, (&q, &p), highest, log_norm);
        }
        let (mut last, mut last_p) = ([f32::NEG_INFINITY; BLOCK], [f32::NEG_INFINITY; BLOCK]);
        last[..rest.len()].copy_from_slice(rest);
        last_p[..rest.len()].copy_from_slice(log_p_rest);
        total += slope::<S, SHIFTED>(simd, &mut last, &last_p, (&q, &p), highest, log_norm);
        rest.copy_from_slice(&last[..rest.len()]);
        total
    }
}

/// Σ p·(log p − log q) over a block, whose logits become q·Σp − p.
#[inline(always)]
fn slope<S: Simd, const SHIFTED: bool>(
    simd: S,
    block: &mut [f32; BLOCK],
    log_p: &[f32; BLOCK],
    (q, p): (&Part<S>, &Part<S>),
    highest: S::V,
    log_norm: S::V,
) -> f64 {
    let (mut total, nothing) = (simd.splat(0.0), simd.splat(0.0));
    let lanes = block.as_chunks_mut::<LANES>().0.as_chunks_mut::<TOGETHER>().0;
    for (lanes, log_p) in lanes.iter_mut().zip(log_p.as_chunks::<LANES>().0.as_chunks::<TOGETHER>().0) {
        let (z, log_p) = (load_each(simd, lanes), load_each(simd, log_p));
        let (q, p) = (q.of::<SHIFTED>(simd, z), p.of::<SHIFTED>(simd, log_p));
        for (((lanes, z), log_p), (q, p)) in lanes.iter_mut().zip(z).zip(log_p).zip(q.into_iter().zip(p)) {
            let log_q = simd.sub(simd.sub(z, highest), log_norm);
            total = simd.add(total, simd.where_gt(p, nothing, simd.mul(p, simd.sub(log_p, log_q))));
            simd.store(simd.sub(q, p), lanes);
        }
    }
    f64::from(simd.reduce_add(total))
}
