"""Every arm of a grid beside the plain offline run of its task: where it ends, paired by seed, and what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from thack.reporting.effects import effect_of
from thack.reporting.numbers import percent
from thack.reporting.table import DASH, Cell, Row, Span, Table, note, strong, table
from thack.schema.experiment import CellResult, Effect, ExperimentArm, ResponseTokens, RunOutcome, Summary

Cells = Mapping[int, CellResult]  # by seed


def arm_comparison(summary: Summary) -> Table | None:
    """One row per arm, means over its seeds; None where nothing stands beside a plain run."""
    arms = _finished(summary)
    if len(arms) < 2:
        return None
    head = ["arm", "seeds", "golden: start", "golden: lowest", "golden: end", "golden’s end − offline’s", "rise"]
    head += ["proxy: end", "proxy’s end − offline’s", "own responses: reverse KL to the oracle", "verdicts"]
    rows = [_row(cells, arms.get(replace(summary.base, task=axes.task), {})) for axes, cells in arms.items()]
    return table(head, rows, "numbers stacked")


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


def _row(cells: Cells, plain: Cells) -> Row:
    verdicts = Counter(cell.outcome.verdict for cell in cells.values() if cell.outcome is not None)
    rises = _numbers(cells, lambda one: one.rise)
    return [
        _name(cells),
        str(len(cells)),
        _mean(_numbers(cells, lambda one: one.golden_start)),
        _mean(_numbers(cells, lambda one: one.golden_minimum)),
        _mean(_numbers(cells, lambda one: one.golden_end)),
        _difference(cells, plain, lambda one: one.golden_end),
        _with_interval(effect_of(rises), percent) if rises else DASH,
        _mean(_numbers(cells, lambda one: one.proxy_end)),
        _difference(cells, plain, lambda one: one.proxy_end),
        _mean(_numbers(cells, lambda one: one.sampled_end)),
        ", ".join(f"{count} {name}" for name, count in verdicts.items()),
    ]


def _name(cells: Cells) -> str:
    return next(iter(cells.values())).arm


def _numbers(cells: Cells, number: Callable[[RunOutcome], float | None]) -> dict[int, float]:
    found = {seed: number(cell.outcome) for seed, cell in cells.items() if cell.outcome is not None}
    return {seed: value for seed, value in found.items() if value is not None}


def _mean(values: Mapping[int, float]) -> str:
    return f"{fmean(values.values()):.3f}" if values else DASH


def _difference(cells: Cells, plain: Cells, number: Callable[[RunOutcome], float | None]) -> Cell | str:
    own, other = _numbers(cells, number), _numbers(plain, number)
    paired = {seed: value - other[seed] for seed, value in own.items() if seed in other}
    if not paired or cells is plain:
        return DASH
    return _with_interval(effect_of(paired), lambda value: f"{value:+.3f}".replace("-", "−"))


def _with_interval(effect: Effect, written: Callable[[float], str]) -> Cell:
    """The mean, and its interval over seeds in small."""
    if effect.low is None or effect.high is None:
        return (Span(written(effect.mean)),)
    return (*strong(written(effect.mean)), *note(f" [{written(effect.low)}, {written(effect.high)}]"))


def _tokens(tokens: Sequence[ResponseTokens]) -> Iterator[str]:
    for name in ("teacher_wrote", "teacher_scored", "student_wrote"):
        yield f"{fmean(getattr(one, name) for one in tokens):,.0f}"
