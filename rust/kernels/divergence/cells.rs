//! The loss on cells of a row whose student has another tokenizer, with its gradient, in two sweeps.
//!
//!     loss = −Σ P(c) log Q(c) − t log u − Σ w(v) (log q(v) − log Q(c(v)))      where a token of both begins
//!     loss = −Σ w(v) log q(v)                                                 inside a token of the teacher's
//!
//! P is of the kept cells, t of all others as one outcome with the student's mass u. With M = ΣP + t, W(c) = Σ w(v) over
//! a cell and s the softmax inside one, the slope of a logit is
//!
//!     (M·Q(c) − P(c) + W(c))·s(v) − w(v)          in a kept cell
//!     (M·Q(c) − t·Q(c)/u + W(c))·s(v) − w(v)      in another
//!
//! The ids of cells that are kept or hold a weight are taken out of the row, as the K ids of any sparse target are: the
//! sweeps see the others alone. Inside a token each weighted id takes the place of a kept cell, P = w.

use super::terms::logsumexp;
use super::{check, sweep};
use crate::error::{Class, Error, Result};
use crate::kernels::simd;

/// Which of a student's ids are in which cell.
#[derive(Debug, Clone, Copy)]
pub struct Cells<'a> {
    /// The cell of each id; below 0: no text.
    pub cell: &'a [i64],
    /// Ids sorted by cell, increasing inside one; those without a cell are absent.
    pub members: &'a [i64],
    /// Where the ids of each cell begin in `members`.
    pub starts: &'a [i64],
    /// How many ids each cell has.
    pub sizes: &'a [i64],
    /// The ids without a cell.
    pub outside: &'a [i64],
}

/// What is known of the teacher's distribution for one row of the student.
#[derive(Debug, Clone, Copy)]
pub struct CellTarget<'a> {
    /// The kept cells, distinct; below 0: padding.
    pub cells: &'a [i64],
    /// P of each.
    pub mass: &'a [f32],
    /// t
    pub tail: f32,
    /// The student's ids that have a weight; an id may occur twice.
    pub ids: &'a [i64],
    /// w of each.
    pub weights: &'a [f32],
    /// The row stands inside a token of the teacher's: no cell counts.
    pub inside: bool,
}

/// Replaces a row of student logits by the gradient of the loss with respect to them; returns the loss.
///
/// +∞ where an id or a cell that has weight has no mass of the student's. After an error the row means nothing.
///
/// # Errors
/// On ids or cells that are outside the vocabulary, and on rows with NaN or +∞ or nothing but −∞.
pub fn cells_in_place(
    row: &mut [f32],
    number: usize,
    cells: &Cells<'_>,
    target: &CellTarget<'_>,
) -> Result<f64> {
    let vocab = row.len();
    let outcomes = Outcomes::of(row, cells, target)
        .ok_or_else(|| Error::new(Class::Mismatch, format!("row {number}: the target is of other cells")))?;
    let taken = outcomes.taken.iter().flat_map(|taken| taken.members);
    for id in taken.chain(cells.outside.iter().filter(|id| (**id as usize) < vocab)) {
        row[*id as usize] = f32::NEG_INFINITY;
    }
    let level = simd::level()?;
    let (swept, ratios) = sweep::keep(level, row, 1.0);
    let log_swept = swept.logsumexp();
    let log_rest = logsumexp(&outcomes.logs(false).chain([log_swept]).collect::<Vec<_>>());
    let log_all = logsumexp(&outcomes.logs(true).chain([log_rest]).collect::<Vec<_>>());
    let taken: Vec<f64> = outcomes.taken.iter().map(|taken| taken.log_sum).collect();
    check(number, &swept, &taken, log_all)?;
    let sums = Sums { log_rest, log_all, tail: f64::from(target.tail), total: outcomes.total(target) };
    if log_swept == f64::NEG_INFINITY {
        row.fill(0.0);
    } else {
        sweep::scale_kept(level, row, &swept, &ratios, sums.slope_of_rest(log_swept));
    }
    outcomes.write(row, &sums);
    Ok(sums.value(&outcomes.taken))
}

/// The logarithms and masses that values and slopes are made of.
struct Sums {
    /// Of the student's: all cells that are not kept, and all ids.
    log_rest: f64,
    log_all: f64,
    /// t
    tail: f64,
    /// M
    total: f64,
}

impl Sums {
    fn slope_of_rest(&self, log_sum: f64) -> f64 {
        let of_tail = if self.tail > 0.0 { self.tail * (log_sum - self.log_rest).exp() } else { 0.0 };
        self.total * (log_sum - self.log_all).exp() - of_tail
    }

    fn slope(&self, taken: &Taken<'_>) -> f64 {
        if taken.log_sum == f64::NEG_INFINITY {
            return 0.0;
        }
        let outer = if taken.kept {
            self.total * (taken.log_sum - self.log_all).exp() - taken.mass
        } else {
            self.slope_of_rest(taken.log_sum)
        };
        outer + taken.weight
    }

    fn value(&self, taken: &[Taken<'_>]) -> f64 {
        let weighted = |mass: f64, log: f64| if mass > 0.0 { -mass * log } else { 0.0 };
        weighted(self.tail, self.log_rest - self.log_all)
            + taken.iter().map(|one| weighted(one.mass, one.log_sum - self.log_all) + one.inner).sum::<f64>()
    }
}

/// The cells that are taken out of a row, one after the other.
#[derive(Default)]
struct Outcomes<'a> {
    /// The number of each cell; inside a token of the teacher's, the id.
    keys: Vec<i64>,
    taken: Vec<Taken<'a>>,
    /// Of all their members.
    shares: Vec<Share>,
}

/// One cell that is kept or holds a weight, or a weighted id inside a token of the teacher's.
struct Taken<'a> {
    members: &'a [i64],
    /// Where they begin in the shares.
    start: usize,
    kept: bool,
    /// P
    mass: f64,
    /// W
    weight: f64,
    /// −Σ w (log q − log Q)
    inner: f64,
    log_sum: f64,
}

/// s and w of an id.
struct Share {
    share: f64,
    weight: f64,
}

impl<'a> Outcomes<'a> {
    /// None: the target does not fit the row or the cells.
    fn of(row: &[f32], cells: &Cells<'a>, target: &CellTarget<'a>) -> Option<Self> {
        let mut found = Self::default();
        let kept = target.cells.iter().zip(target.mass).filter(|(cell, _)| !target.inside && **cell >= 0);
        for (cell, mass) in kept {
            found.take(row, *cell, cells.members_of(*cell)?, true)?.mass = f64::from(*mass);
        }
        for (id, weight) in target.ids.iter().zip(target.weights).filter(|(_, weight)| **weight > 0.0) {
            let (weight, cell) = (f64::from(*weight), cells.cell_of(*id)?);
            let key = if target.inside { *id } else { cell };
            let place = found.keys.iter().position(|known| *known == key);
            if target.inside {
                let taken = match place {
                    Some(place) => &mut found.taken[place],
                    None => found.take(row, key, std::slice::from_ref(id), true)?,
                };
                taken.mass += weight;
                continue;
            }
            if place.is_none() {
                found.take(row, key, cells.members_of(key)?, false)?;
            }
            found.weigh(place.unwrap_or(found.taken.len() - 1), *id, weight, row)?;
        }
        Some(found)
    }

    fn take(&mut self, row: &[f32], key: i64, members: &'a [i64], kept: bool) -> Option<&mut Taken<'a>> {
        let start = self.shares.len();
        let mut highest = f64::NEG_INFINITY;
        for id in members {
            let logit = f64::from(*row.get(usize::try_from(*id).ok()?)?);
            highest = highest.max(logit);
            self.shares.push(Share { share: logit, weight: 0.0 });
        }
        let own = &mut self.shares[start..];
        let mut total = 0.0;
        for Share { share, .. } in own.iter_mut() {
            *share = if *share == f64::NEG_INFINITY { 0.0 } else { (*share - highest).exp() };
            total += *share;
        }
        let log_sum = match () {
            () if highest == f64::INFINITY => highest,
            () if total == 0.0 => f64::NEG_INFINITY,
            () => highest + total.ln(),
        };
        let scale = if total > 0.0 { 1.0 / total } else { 0.0 };
        for one in own.iter_mut() {
            one.share *= scale;
        }
        self.keys.push(key);
        self.taken.push(Taken { members, start, kept, mass: 0.0, weight: 0.0, inner: 0.0, log_sum });
        self.taken.last_mut()
    }

    fn weigh(&mut self, place: usize, id: i64, weight: f64, row: &[f32]) -> Option<()> {
        let taken = &mut self.taken[place];
        self.shares[taken.start + taken.members.binary_search(&id).ok()?].weight += weight;
        taken.weight += weight;
        let logit = f64::from(row[id as usize]);
        // log 0 − log 0 of a cell without mass is the logarithm of an id without mass.
        let lacks = logit == f64::NEG_INFINITY;
        taken.inner += if lacks { f64::INFINITY } else { weight * (taken.log_sum - logit) };
        Some(())
    }

    fn logs(&self, kept: bool) -> impl Iterator<Item = f64> {
        self.taken.iter().filter(move |taken| taken.kept == kept).map(|taken| taken.log_sum)
    }

    fn total(&self, target: &CellTarget<'_>) -> f64 {
        self.taken.iter().map(|taken| taken.mass).sum::<f64>() + f64::from(target.tail)
    }

    /// Writes the slopes of the members.
    fn write(&self, row: &mut [f32], sums: &Sums) {
        for taken in &self.taken {
            let slope = sums.slope(taken);
            for (id, one) in taken.members.iter().zip(&self.shares[taken.start..]) {
                row[*id as usize] = (slope * one.share - one.weight) as f32;
            }
        }
    }
}

impl<'a> Cells<'a> {
    fn cell_of(&self, id: i64) -> Option<i64> {
        self.cell.get(usize::try_from(id).ok()?).copied().filter(|cell| *cell >= 0)
    }

    fn members_of(&self, cell: i64) -> Option<&'a [i64]> {
        let cell = usize::try_from(cell).ok()?;
        let start = usize::try_from(*self.starts.get(cell)?).ok()?;
        let size = usize::try_from(*self.sizes.get(cell)?).ok()?;
        self.members.get(start..start.checked_add(size)?)
    }
}
