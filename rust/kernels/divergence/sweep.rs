//! The two sweeps over a row whose K ids are masked with −∞: powers and their sum, then the gradient.

use crate::kernels::element::Element;
use crate::kernels::exp::{Origin, Powers};
use crate::kernels::pass::{BLOCK, GROUP, TOGETHER, load_each};
use crate::kernels::row::pass;
use crate::kernels::simd::{self, Kernel, LANES, Level, Simd};

/// Bytes that are asked for beyond the group whose maximum is taken, which itself lies one group ahead.
const AHEAD: usize = 8 * 1024;

/// What a first sweep found.
#[derive(Debug)]
pub(super) struct Swept {
    /// −∞ where there is nothing else.
    pub(super) highest: f32,
    /// Whether there is a NaN; where `highest` is +∞ nothing is said.
    pub(super) nan: bool,
    /// Σ w over the row, of the origin of `highest`.
    total: f64,
    origin: Origin,
    inverse_temperature: f64,
}

impl Swept {
    /// log Σ exp(x/T) over the row.
    pub(super) fn logsumexp(&self) -> f64 {
        if self.highest == f32::NEG_INFINITY {
            return f64::NEG_INFINITY;
        }
        // The row's own maximum is where the rounding of 1/T to f32 is undone.
        let highest = f64::from(self.highest) * self.inverse_temperature;
        highest + self.total.ln() - self.origin.log(self.highest)
    }
}

/// First sweep, which leaves the row as it is.
pub(super) fn read<E: Element>(level: Level, row: &[E], inverse_temperature: f64) -> Swept {
    let (blocks, origin) = pass(level, row, inverse_temperature);
    // A NaN shows in the sums of its group, whatever they are measured from; where nothing else is, there is no origin.
    let nan = blocks.group_sums.iter().any(|sum| sum.is_nan());
    let total = if blocks.highest == f32::NEG_INFINITY { 0.0 } else { blocks.total(origin.base) };
    Swept { highest: blocks.highest, nan, total, origin, inverse_temperature }
}

/// First sweep, which replaces every value by its w: after +∞ or NaN the row means nothing. Also what makes the w of
/// each group those of the row's origin.
pub(super) fn keep<E: Element>(level: Level, row: &mut [E], inverse_temperature: f64) -> (Swept, Vec<f64>) {
    let Sweep { groups, highest, nan, .. } = simd::dispatch(level, First { row, inverse_temperature });
    let origin = Origin::over(highest, inverse_temperature);
    let (mut known, mut ratio) = (None, 0.0);
    let ratios: Vec<f64> = groups
        .iter()
        .map(|(_, own)| {
            if *own != known {
                known = *own;
                ratio = own.map_or(0.0, |own| own.ratio_to(&origin));
            }
            ratio
        })
        .collect();
    let total = groups.iter().zip(&ratios).map(|((sum, _), ratio)| f64::from(*sum) * ratio).sum();
    (Swept { highest, nan, total, origin, inverse_temperature }, ratios)
}

struct First<'a, E> {
    row: &'a mut [E],
    inverse_temperature: f64,
}

impl<E: Element> Kernel for First<'_, E> {
    type Out = Sweep;
    /// The base is known before a group is overwritten: its maximum is taken while the group before it is raised to
    /// powers, which leaves the adders free, and is what fetches the group.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Sweep {
        let Self { row, inverse_temperature } = self;
        let mut sweep = Sweep {
            origin: None,
            limit: f32::NEG_INFINITY,
            groups: Vec::with_capacity(row.len().div_ceil(BLOCK * GROUP) + 1),
            highest: f32::NEG_INFINITY,
            nan: false,
        };
        let (whole, rest) = row.as_chunks_mut::<BLOCK>();
        let mut last = [[E::LOWEST; BLOCK]];
        last[0][..rest.len()].copy_from_slice(rest);
        let mut groups = whole.chunks_mut(GROUP).chain(std::iter::once(last.as_mut_slice()));
        let mut next = groups.next();
        let mut highest = next.as_deref().map_or(f32::NEG_INFINITY, |blocks| maximum(simd, blocks));
        while let Some(blocks) = next {
            next = groups.next();
            sweep.start(highest, inverse_temperature);
            highest = sweep.group(simd, blocks, next.as_deref().unwrap_or(&[]));
        }
        rest.copy_from_slice(&last[0][..rest.len()]);
        sweep
    }
}

struct Sweep {
    /// None before the first number.
    origin: Option<Origin>,
    /// Above it the origin moves.
    limit: f32,
    /// Σ w of every sixteen blocks, and where their w are measured from.
    groups: Vec<(f32, Option<Origin>)>,
    highest: f32,
    nan: bool,
}

impl Sweep {
    /// Sees to it that the origin will do for a group whose maximum is `highest`.
    fn start(&mut self, highest: f32, inverse_temperature: f64) {
        if highest > self.limit {
            let origin = Origin::over(highest, inverse_temperature);
            (self.origin, self.limit) = (Some(origin), origin.limit());
        }
        self.highest = if highest > self.highest { highest } else { self.highest };
    }

    /// Raises a group to powers; returns the maximum of the next one.
    #[inline(always)]
    fn group<S: Simd, E: Element>(&mut self, simd: S, blocks: &mut [[E; BLOCK]], next: &[[E; BLOCK]]) -> f32 {
        let Some(origin) = self.origin else {
            let values = blocks.as_flattened_mut();
            self.nan |= values.iter().any(|x| x.to_f32().is_nan());
            values.fill(E::from_f32(0.0));
            self.groups.push((0.0, None));
            return maximum(simd, next);
        };
        let (sum, ahead) = if origin.shift == 0.0 {
            raise::<S, E, false>(simd, blocks, origin, next)
        } else {
            raise::<S, E, true>(simd, blocks, origin, next)
        };
        self.nan |= sum.is_nan();
        self.groups.push((sum, Some(origin)));
        ahead
    }
}

/// Σ w of some blocks, and the maximum of the next ones.
#[inline(always)]
fn raise<S: Simd, E: Element, const SHIFTED: bool>(
    simd: S,
    blocks: &mut [[E; BLOCK]],
    origin: Origin,
    next: &[[E; BLOCK]],
) -> (f32, f32) {
    let powers = Powers::new(simd, origin);
    let least = powers.least(simd);
    let nothing = [E::LOWEST; BLOCK];
    let (mut total, mut highest) = (simd.splat(0.0), simd.splat(f32::NEG_INFINITY));
    for (i, block) in blocks.iter_mut().enumerate() {
        let ahead = next.get(i).unwrap_or(&nothing).as_chunks::<LANES>().0;
        let (mut sum, mut top) = (simd.splat(0.0), simd.splat(f32::NEG_INFINITY));
        let lanes = block.as_chunks_mut::<LANES>().0.as_chunks_mut::<TOGETHER>().0;
        for (lanes, ahead) in lanes.iter_mut().zip(ahead.as_chunks::<TOGETHER>().0) {
            let each = powers.each_or_zero::<TOGETHER, SHIFTED>(simd, least, load_each(simd, lanes));
            for ((lanes, power), ahead) in lanes.iter_mut().zip(each).zip(ahead) {
                E::store(simd, power, lanes);
                sum = simd.add(sum, power);
                simd.prefetch(ahead, AHEAD);
                top = simd.max(E::load(simd, ahead), top);
            }
        }
        total = simd.add(total, sum);
        highest = simd.max(top, highest);
    }
    (simd.reduce_add(total), simd.reduce_max(highest))
}

/// The greatest number; −∞ where there is none.
#[inline(always)]
fn maximum<S: Simd, E: Element>(simd: S, blocks: &[[E; BLOCK]]) -> f32 {
    let mut highest = simd.splat(f32::NEG_INFINITY);
    for lanes in blocks.as_flattened().as_chunks::<LANES>().0 {
        highest = simd.max(E::load(simd, lanes), highest);
    }
    simd.reduce_max(highest)
}

/// Second sweep after [`keep`]: every w becomes factor · exp(x/T) / Σ exp(x/T).
pub(super) fn scale_kept<E: Element>(
    level: Level,
    row: &mut [E],
    swept: &Swept,
    ratios: &[f64],
    factor: f64,
) {
    let by = factor / swept.total;
    let factors: Vec<f32> = ratios.iter().map(|ratio| (by * ratio) as f32).collect();
    simd::dispatch(level, Scale { row, factors: &factors });
}

struct Scale<'a, E> {
    row: &'a mut [E],
    factors: &'a [f32],
}

impl<E: Element> Kernel for Scale<'_, E> {
    type Out = ();
    /// From the end, of which the caches hold most.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (whole, rest) = self.row.as_chunks_mut::<BLOCK>();
        let (last, factors) = self.factors.split_last().expect("the last group is what no block holds");
        let mut padded = [E::LOWEST; BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        scale(simd, &mut padded, *last);
        rest.copy_from_slice(&padded[..rest.len()]);
        for (blocks, factor) in whole.chunks_mut(GROUP).zip(factors).rev() {
            for block in blocks.iter_mut().rev() {
                scale(simd, block, *factor);
            }
        }
    }
}

#[inline(always)]
fn scale<S: Simd, E: Element>(simd: S, block: &mut [E; BLOCK], factor: f32) {
    let factor = simd.splat(factor);
    for lanes in block.as_chunks_mut::<LANES>().0 {
        E::store(simd, simd.mul(E::load(simd, lanes), factor), lanes);
    }
}

/// A number for each value of a row: factor · w.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) origin: Origin,
    pub(super) factor: f32,
}

impl Share {
    /// factor · exp(x/T) / Σ exp(x/T), the sum being of the row.
    pub(super) fn of_row(swept: &Swept, factor: f64) -> Self {
        Self { origin: swept.origin, factor: (factor / swept.total) as f32 }
    }

    /// factor · exp(x/T − log)
    pub(super) fn of(swept: &Swept, factor: f64, log: f64) -> Self {
        let top = f64::from(swept.highest) * swept.inverse_temperature - log;
        let unit = top - swept.origin.log(swept.highest);
        Self { origin: swept.origin, factor: (factor * unit.exp()) as f32 }
    }
}

/// Second sweep after [`read`]: every value becomes its share, or the sum of two.
pub(super) fn recompute<E: Element>(level: Level, row: &mut [E], first: Share, second: Option<Share>) {
    let work = Recompute { row, first, second };
    if first.origin.shift == 0.0 && second.is_none_or(|second| second.origin.shift == 0.0) {
        simd::dispatch(level, Unshifted(work));
    } else {
        simd::dispatch(level, work);
    }
}

struct Recompute<'a, E> {
    row: &'a mut [E],
    first: Share,
    second: Option<Share>,
}

impl<E: Element> Kernel for Recompute<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.work::<S, true>(simd);
    }
}

struct Unshifted<'a, E>(Recompute<'a, E>);

impl<E: Element> Kernel for Unshifted<'_, E> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.work::<S, false>(simd);
    }
}

impl<E: Element> Recompute<'_, E> {
    #[inline(always)]
    fn work<S: Simd, const SHIFTED: bool>(self, simd: S) {
        let first = Part::<S>::new(simd, &self.first);
        let second = self.second.map(|share| Part::new(simd, &share));
        let (blocks, rest) = self.row.as_chunks_mut::<BLOCK>();
        for block in blocks {
            replace::<S, E, SHIFTED>(simd, block, &first, second.as_ref());
        }
        let mut last = [E::LOWEST; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        replace::<S, E, SHIFTED>(simd, &mut last, &first, second.as_ref());
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

pub(super) struct Part<S: Simd> {
    powers: Powers<S>,
    least: S::V,
    factor: S::V,
}

impl<S: Simd> Part<S> {
    #[inline(always)]
    pub(super) fn new(simd: S, share: &Share) -> Self {
        let powers = Powers::new(simd, share.origin);
        Self { powers, least: powers.least(simd), factor: simd.splat(share.factor) }
    }

    #[inline(always)]
    pub(super) fn of<const SHIFTED: bool>(&self, simd: S, x: [S::V; TOGETHER]) -> [S::V; TOGETHER] {
        let mut each = self.powers.each_or_zero::<TOGETHER, SHIFTED>(simd, self.least, x);
        for power in &mut each {
            *power = simd.mul(*power, self.factor);
        }
        each
    }
}

#[inline(always)]
fn replace<S: Simd, E: Element, const SHIFTED: bool>(
    simd: S,
    block: &mut [E; BLOCK],
    first: &Part<S>,
    second: Option<&Part<S>>,
) {
    for lanes in block.as_chunks_mut::<LANES>().0.as_chunks_mut::<TOGETHER>().0 {
        let x = load_each(simd, lanes);
        let mut shares = first.of::<SHIFTED>(simd, x);
        if let Some(second) = second {
            for (share, other) in shares.iter_mut().zip(second.of::<SHIFTED>(simd, x)) {
                *share = simd.add(*share, other);
            }
        }
        for (lanes, share) in lanes.iter_mut().zip(shares) {
            E::store(simd, share, lanes);
        }
    }
}
