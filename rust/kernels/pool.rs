//! Our own threads: as many as asked for, started when first needed, and again in a forked child.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::{Class, Error, Result};

/// 0: not set, so the environment or the machine decides.
static WANTED: AtomicUsize = AtomicUsize::new(0);
static POOL: Mutex<Option<Started>> = Mutex::new(None);

struct Started {
    process: u32,
    threads: usize,
    pool: Arc<rayon::ThreadPool>,
}

/// Threads in use: set by [`set_num_threads`], else `THACK_NUM_THREADS`, else those this process may run on.
pub fn num_threads() -> usize {
    let wanted = WANTED.load(Ordering::Relaxed);
    if wanted > 0 {
        return wanted;
    }
    let named = std::env::var("THACK_NUM_THREADS").ok().and_then(|text| text.trim().parse().ok());
    named
        .filter(|n| *n > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Uses `threads` from now on; 0: the default.
pub fn set_num_threads(threads: usize) {
    WANTED.store(threads, Ordering::Relaxed);
}

fn pool(threads: usize) -> Result<Arc<rayon::ThreadPool>> {
    let mut current = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some(found) = current.as_ref().filter(|m| m.process == process && m.threads == threads) {
        return Ok(Arc::clone(&found.pool));
    }
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("thack-{i}"))
        .build()
        .map_err(|error| Error::new(Class::Usage, format!("cannot start {threads} threads: {error}")))?;
    let pool = Arc::new(built);
    let old = current.replace(Started { process, threads, pool: Arc::clone(&pool) });
    if old.as_ref().is_some_and(|m| m.process != process) {
        std::mem::forget(old); // its threads live in the parent: joining them here would wait for ever
    }
    Ok(pool)
}

/// Below this many logits, waking another thread costs more than the work.
const WORTH_A_THREAD: usize = 1 << 16;

/// Runs `work` on every row, in parallel where that pays; the first failing row is reported.
///
/// `logits` is how many there are in all rows.
///
/// # Errors
/// What `work` reports, for the lowest row that fails.
pub fn each_row<R: Send>(
    logits: usize,
    rows: Vec<R>,
    work: impl Fn(usize, R) -> Result<()> + Sync + Send,
) -> Result<()> {
    let threads = num_threads().min(rows.len()).min(logits.div_ceil(WORTH_A_THREAD));
    if threads < 2 {
        return rows.into_iter().enumerate().try_for_each(|(i, row)| work(i, row));
    }
    // Left alone, a pool splits rows about as often as it has threads, and waits for the share of one that wakes late.
    let together = (rows.len() * WORTH_A_THREAD / logits).max(1);
    let outcomes: Vec<Result<()>> = pool(num_threads())?.install(|| {
        let rows = rows.into_par_iter().with_max_len(together);
        rows.enumerate().map(|(i, row)| work(i, row)).collect()
    });
    outcomes.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of threads is one for the whole process: no other test in here sets it.
    #[test]
    fn every_row_is_worked_on_once_and_the_lowest_failure_is_reported() {
        for threads in [1, 2, 3] {
            set_num_threads(threads);
            for (rows, each) in [(1, 1), (7, WORTH_A_THREAD), (1000, 200), (64, 20_000)] {
                let mut out = vec![0; rows];
                let places: Vec<&mut usize> = out.iter_mut().collect();
                let done = each_row(rows * each, places, |number, place| {
                    *place += number + 1;
                    Ok(())
                });
                assert!(done.is_ok() && out.iter().enumerate().all(|(i, found)| *found == i + 1));
            }
            let fail = |number: usize, ()| match number % 100 {
                37 => Err(Error::new(Class::Usage, format!("row {number}"))),
                _ => Ok(()),
            };
            assert_eq!(each_row(400 * WORTH_A_THREAD, vec![(); 400], fail).unwrap_err().message, "row 37");
        }
        set_num_threads(0);
    }
}
