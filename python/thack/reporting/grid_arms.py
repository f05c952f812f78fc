"""Every arm of a grid beside the plain offline run of its task: where it ends, paired by seed, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from thack.detection.statistics import percentile_interval, prompt_weights
from thack.reporting.effects import effect_of
from thack.reporting.grid import Grid
from thack.reporting.inputs import JudgedRun
from thack.reporting.numbers import nats, signed_nats, signed_percents
from thack.reporting.table import DASH, Cell, Row, Span, Table, note, strong, table, without_empty
from thack.schema.experiment import CellResult, Effect, ExperimentArm, ResponseTokens, RunOutcome, Summary
from thack.schema.metrics import CurveName
from thack.schema.verdict import Interval

Cells = Mapping[int, CellResult]  # by seed
Runs = Mapping[tuple[ExperimentArm, int | None], JudgedRun]  # by arm and seed
_RESAMPLES = 2000


def arm_comparison(grid: Grid) -> Table | None:
    """One row per arm, means over its seeds; None where nothing stands beside a plain run.

    Intervals are over seeds; of a difference that one seed alone has, over its held-out prompts.
    """
    arms, base = _finished(grid.summary), grid.summary.base
    if len(arms) < 2:
        return None
    runs = {(arm.axes, run.seed): run for arm in grid.arms for run in arm.runs.runs}
    head = ["arm", "seeds", "golden: start", "golden: lowest", "golden: end", "golden’s end − offline’s", "rise"]
    head += ["proxy: end", "proxy’s end − offline’s", "own responses: reverse KL to the oracle", "verdicts"]
    rows = [_row(cells, arms.get(replace(base, task=axes.task), {}), runs) for axes, cells in arms.items()]
    return without_empty(table(head, rows, "numbers wide stacked"))


def arm_costs(summary: Summary) -> Table | None:
    """Response tokens and processor time of each arm, means over its seeds; None where no run says them."""
    head = ["arm, per run", "teacher wrote", "teacher scored", "student wrote", "processor seconds"]
    rows: list[Row] = []
    for cells in _finished(summary).values():
        tokens = [cell.tokens for cell in cells.values() if cell.tokens is not None]
        if tokens:
            seconds = [cell.cpu_seconds for cell in cells.values() if cell.cpu_seconds is not None]
            rows.append([_name(cells), *_tokens(tokens), f"{fmean(seconds):,.0f}" if seconds else DASH])
    return table(head, rows, "numbers stacked") if rows else None


def _finished(summary: Summary) -> dict[ExperimentArm, dict[int, CellResult]]:
    found: dict[ExperimentArm, dict[int, CellResult]] = {}
    for cell in summary.runs:
        if cell.outcome is not None:
            found.setdefault(cell.axes, {})[cell.seed] = cell
    return found


def _row(cells: Cells, plain: Cells, runs: Runs) -> Row:
    verdicts = Counter(cell.outcome.verdict for cell in cells.values() if cell.outcome is not None)
    rises = _numbers(cells, lambda one: one.rise)
    return [
        _name(cells),
        str(len(cells)),
        _mean(_numbers(cells, lambda one: one.golden_start)),
        _mean(_numbers(cells, lambda one: one.golden_minimum)),
        _mean(_numbers(cells, lambda one: one.golden_end)),
        _difference(cells, plain, runs, "golden", lambda one: one.golden_end),
        _with_interval(effect_of(rises), signed_percents, " %") if rises else DASH,
        _mean(_numbers(cells, lambda one: one.proxy_end)),
        _difference(cells, plain, runs, "proxy", lambda one: one.proxy_end),
        _mean(_numbers(cells, lambda one: one.sampled_end)),
        ", ".join(f"{count} {name}" for name, count in verdicts.items()),
    ]


def _name(cells: Cells) -> str:
    return next(iter(cells.values())).arm


def _numbers(cells: Cells, number: Callable[[RunOutcome], float | None]) -> dict[int, float]:
    found = {seed: number(cell.outcome) for seed, cell in cells.items() if cell.outcome is not None}
    return {seed: value for seed, value in found.items() if value is not None}


def _mean(values: Mapping[int, float]) -> str:
    return nats(fmean(values.values())) if values else DASH


def _difference(
    cells: Cells, plain: Cells, runs: Runs, curve: CurveName, number: Callable[[RunOutcome], float | None]
) -> Cell | str:
    own, other = _numbers(cells, number), _numbers(plain, number)
    paired = {seed: value - other[seed] for seed, value in own.items() if seed in other}
    if not paired or cells is plain:
        return DASH
    effect = effect_of(paired)
    if len(paired) == 1:
        (seed,) = paired
        pair = [runs.get((one[seed].axes, seed)) for one in (cells, plain)]
        low, high = _over_prompts(pair, curve) or (None, None)
        effect = replace(effect, low=low, high=high)
    return _with_interval(effect, signed_nats)


def _over_prompts(pair: Sequence[JudgedRun | None], curve: CurveName) -> Interval | None:
    """Of the difference of two runs' ends, by resamples of the prompts that both were measured on."""
    found = [None if run is None else run.curves.prompts(curve) for run in pair]
    sums, metrics = [one for one in found if one is not None], {run and run.curves.metric(curve) for run in pair}
    if len(sums) < 2 or len(metrics) > 1 or len({tuple(one.tokens_EP[-1]) for one in sums}) > 1:
        return None
    weights_BP = prompt_weights(np.random.default_rng(0), sums[0].nats_EP.shape[1], _RESAMPLES)
    counts_P = sums[0].counts_EP[-1]
    own_B, other_B = ((weights_BP @ one.nats_EP[-1]) / (weights_BP @ counts_P) for one in sums)
    return percentile_interval(own_B - other_B, 0.95)


def _with_interval(effect: Effect, written: Callable[..., list[str]], unit: str = "") -> Cell:
    """The mean, and its interval in small."""
    if effect.low is None or effect.high is None:
        (mean,) = written(effect.mean)
        return (Span(mean + unit),)
    mean, low, high = written(effect.mean, effect.low, effect.high)
    return (*strong(mean + unit), *note(f" [{low}, {high}]{unit}"))


def _tokens(tokens: Sequence[ResponseTokens]) -> Iterator[str]:
    for name in ("teacher_wrote", "teacher_scored", "student_wrote"):
        yield f"{fmean(getattr(one, name) for one in tokens):,.0f}"
