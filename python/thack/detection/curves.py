"""The curves that a verdict is read from: of a thack run directory, or of any trainer's log.

Names of dimensions: E evaluations, P held-out prompts.

A run directory has `metrics.jsonl` (one row per training step or evaluation) and, for intervals, `per_prompt.jsonl`
(one row per evaluation: the nats and tokens of every held-out prompt). Another trainer's log is JSON lines, CSV
or a transformers `trainer_state.json`, with a mapping from curves to its columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thack.detection import notes
from thack.detection.foreign import Columns, check_mapping, find_columns
from thack.detection.gains import BesideSft, beside_sft
from thack.detection.logs import ByStep, Row, read_rows
from thack.detection.statistics import PromptCurves
from thack.errors import DataError
from thack.files import directory_kind
from thack.reading import read_json
from thack.runtime import runlog
from thack.schema.metric_rows import GuardRow, PerPromptRow, PromptSums
from thack.schema.metrics import GOLDEN, CurveName, Floats, MetricName, Series, TrainingKL, find_metric
from thack.schema.run import Manifest

_JUDGED: tuple[CurveName, ...] = ("golden", "proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What was measured along one run, at its E evaluations and at its training steps.

    Attributes:
        name: Of the run.
        step_E: The steps of the evaluations, increasing.
        columns: Every column of the evaluations by its name in the log, NaN where a row lacks it.
        train: Every column of training.
        column_of: The column of each curve that the log has.
        per_prompt: By metric without reduction, what every prompt contributed.
        training_prompts: The same of the fixed responses to training prompts.
        notes: What else is to be known of these curves.
        sft: The plain fine-tuning beside the run, where there is one.
        without_end: Golden or proxy where the last value is no number, as of a run that diverged.
        target: What was kept of the teacher, as a word that `TargetSpec.parse` reads; empty: not known.

    Example:
        >>> curves = Curves.from_run(run)
        >>> curves.has("golden"), len(curves.of("golden")) == len(curves.step_E)
        (True, True)
    """

    name: str
    step_E: Floats
    columns: Mapping[str, Floats]
    train: Mapping[str, Series]
    column_of: Mapping[CurveName, str]
    per_prompt: Mapping[MetricName, PromptCurves] = field(default_factory=dict)
    training_prompts: Mapping[TrainingKL, PromptCurves] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sft: BesideSft | None = None
    without_end: tuple[CurveName, ...] = ()
    target: str = ""

    @classmethod
    def from_run(
        cls, directory: str | Path, *, metric: MetricName = GOLDEN, mapping: Mapping[str, str] | None = None
    ) -> Curves:
        """Read a thack run directory.

        Args:
            directory: With metrics.jsonl, and per_prompt.jsonl for intervals.
            metric: Golden's; the proxy's is the same against the teacher. Where a curve is measured per byte alone,
                since tokenizers differ, all are read per byte.
            mapping: Other columns, by curve.

        Returns:
            Its curves, with what each prompt contributed where the run kept it.

        Raises:
            DataError: there is no log, or no golden and no proxy column in it.
            UsageError: `mapping` names something that is no curve.
        """
        directory = Path(directory)
        path = directory / "metrics.jsonl"
        if not path.is_file():
            raise _no_run(directory)
        check_mapping(mapping or {})
        rows = read_rows(path)
        curves = _build(directory.resolve().name, rows, mapping or {}, metric, str(path))
        guard = [GuardRow.parse(row) for row in rows if row.get("event") == "guard"]
        sft, of_sft = beside_sft(directory)
        more = (*notes.of_guard(guard), *notes.of_status(directory), *of_sft)
        target = _target(directory / "manifest.json")
        curves = replace(curves, notes=(*curves.notes, *more), sft=sft, target=target)
        return _with_per_prompt(curves, directory / "per_prompt.jsonl")

    @classmethod
    def from_log(cls, path: str | Path, mapping: Mapping[str, str] | None = None) -> Curves:
        """Read any trainer's log.

        Args:
            path: JSON lines, CSV, or a transformers trainer_state.json.
            mapping: Its columns, by curve or by `step`; thack's own names need none.

        Returns:
            Its curves.

        Raises:
            DataError: the log cannot be read, or a column of the mapping is missing.
            UsageError: `mapping` names something that is no curve.
        """
        path = Path(path)
        check_mapping(mapping or {})
        curves = _build(path.stem, read_rows(path), mapping or {}, GOLDEN, str(path))
        return curves if mapping else _with_per_prompt(curves, path.with_name("per_prompt.jsonl"))

    def like(self, directory: str | Path) -> Curves:
        """Another run, read in the unit of this one."""
        return Curves.from_run(directory, metric=GOLDEN.per_byte if self.is_per_byte else GOLDEN)

    @property
    def is_per_byte(self) -> bool:
        """Whether golden and proxy are log ratios in nats per byte."""
        found = [metric for name in _JUDGED if (metric := self.metric(name)) is not None]
        return any(metric.reduction == "byte_mean" for metric in found)

    def has(self, name: CurveName) -> bool:
        """Whether the log has a curve."""
        return name in self.column_of

    def metric(self, name: CurveName) -> MetricName | None:
        """What a curve measures; None for another trainer's column, or a curve that is missing."""
        return find_metric(self.column_of.get(name, ""))

    def of(self, name: CurveName) -> Series:
        """The finite values of a curve; empty where it is missing."""
        column = self.column_of.get(name, "")
        found = self._evaluated(column)
        return found if len(found) else self.train.get(column, found)

    def prompts(self, name: CurveName) -> PromptCurves | None:
        """What every prompt contributed to a curve, where the run kept it."""
        column, metric = self.column_of.get(name, ""), self.metric(name)
        if column in tuple(TrainingKL):
            return self.training_prompts.get(TrainingKL(column))
        if metric is None or metric.per_prompt not in self.per_prompt:
            return None
        return replace(self.per_prompt[metric.per_prompt], reduction=metric.reduction)

    def last(self, column: str) -> float | None:
        """The last finite value of a column, of training or an evaluation (costs are cumulative)."""
        found = [series for series in (self._evaluated(column), self.train.get(column)) if series]
        if not found:
            return None
        return float(max(found, key=lambda series: series.step[-1]).value[-1])

    def _evaluated(self, column: str) -> Series:
        value_E = self.columns.get(column)
        if value_E is None:
            return Series(step=np.empty(0), value=np.empty(0))
        seen_E = np.isfinite(value_E)
        return Series(step=self.step_E[seen_E], value=value_E[seen_E])


def _no_run(directory: Path) -> DataError:
    if directory_kind(directory) == "experiment":
        hint = f"run it again to continue it, or pass its runs: {directory}/runs/*"
        return DataError(f"{directory} is an experiment that has not ended", hint=hint)
    wrong = "is not a run: it has no metrics.jsonl" if directory.exists() else "does not exist"
    hint = "pass a directory written by thack distill, or a trainer's log with `mapping`"
    return DataError(f"{directory} {wrong}", hint=hint)


def _target(path: Path) -> str:
    """Of a run's manifest; empty where there is none of this version, or it does not say."""
    with suppress(DataError):
        facts = Manifest.parse(read_json(path), str(path)).facts if path.is_file() else None
        return facts.target if facts else ""
    return ""


def _build(name: str, rows: Sequence[Row], mapping: Mapping[str, str], metric: MetricName, place: str) -> Curves:
    if not rows:
        raise DataError(f"{place} has no rows yet")
    found = find_columns({key for row in rows for key in row}, mapping, metric, place)
    by_step = ByStep.of(rows, found.step, [column for name, column in found.of.items() if name != "train_loss"])
    if not by_step.evaluations:
        raise DataError(
            f"{place} has no evaluations yet", hint="a verdict needs golden or proxy values at several steps"
        )
    if (first := min((*by_step.evaluations, *by_step.training))) < 0:
        raise DataError(f"{place}: a row has the step {first:g}", hint="steps count from 0: name their column `step`")
    columns = by_step.columns(found.step)
    unmeasured = _unmeasured(columns, found, mapping, place)
    column_of = {name: column for name, column in found.of.items() if name not in unmeasured}
    without_end = tuple(n for n in _JUDGED if n in column_of and by_step.ends_without_number(column_of[n]))
    return Curves(
        name=name,
        step_E=np.array(sorted(by_step.evaluations), dtype=np.float64),
        columns=columns,
        train=by_step.series(found.step),
        column_of=column_of,
        notes=(
            *(f"{name} has no number at any evaluation" for name in unmeasured),
            *notes.missing_values(columns, column_of, without_end),
        ),
        without_end=without_end,
    )


def _unmeasured(
    columns: Mapping[str, Floats], found: Columns, mapping: Mapping[str, str], place: str
) -> list[CurveName]:
    """Golden or proxy without one number, as of a run that diverged at once. One of the mapping is an error."""
    unmeasured = []
    for name in _JUDGED:
        column = found.of.get(name)
        if column is None or np.isfinite(columns.get(column, np.empty(0))).any():
            continue
        if name in mapping:
            raise DataError(
                f"{place}: column {column!r} (for {name}) has no number at any evaluation",
                hint=f"name another: `mapping = {name}=COLUMN`",
            )
        unmeasured.append(name)
    return unmeasured


def _with_per_prompt(curves: Curves, path: Path) -> Curves:
    """Attach what every prompt contributed; all evaluations must have the same prompts."""
    if not path.is_file():
        return curves
    by_step = {row.step: row for row in map(PerPromptRow.parse, runlog.read(path)) if row.step is not None}
    found_rows = [by_step.get(int(step)) for step in curves.step_E]
    training = {
        name: sums
        for name in TrainingKL
        if (sums := _prompt_curves([row.training.get(name) if row else None for row in found_rows], name, path))
        is not None
    }
    curves, rows = replace(curves, training_prompts=training), [row.metrics if row else {} for row in found_rows]
    wanted = {metric.per_prompt for name in curves.column_of if (metric := curves.metric(name)) is not None}
    per_prompt = {
        metric: found
        for metric in sorted(wanted, key=str)
        if (found := _metric_curves([row.get(metric) for row in rows], metric, path)) is not None
    }
    if wanted - per_prompt.keys():
        note = f"{path.name} does not cover every evaluation: no intervals"
        return replace(curves, per_prompt=per_prompt, notes=(*curves.notes, note))
    return replace(curves, per_prompt=per_prompt)


def _metric_curves(entries: Sequence[PromptSums | None], metric: MetricName, path: Path) -> PromptCurves | None:
    if metric.baseline:  # constant: written once, or with every evaluation
        entries = [next((entry for entry in entries if entry is not None), None)] * len(entries)
    return _prompt_curves(entries, str(metric), path)


def _prompt_curves(entries: Sequence[PromptSums | None], column: str, path: Path) -> PromptCurves | None:
    sums = [entry for entry in entries if entry is not None]
    if not sums or len(sums) < len(entries):
        return None
    counts = sorted({len(one.nats_P) for one in sums})
    if len(counts) > 1:
        raise DataError(
            f"{path}: {column} does not have the same prompts at every evaluation",
            details=[f"evaluations have {counts[0]} to {counts[-1]} prompts"],
            hint="intervals are paired over prompts: evaluate every checkpoint on one frozen evaluation set",
        )
    sizes = [one.bytes_P for one in sums if one.bytes_P is not None]
    return PromptCurves(
        nats_EP=np.stack([one.nats_P for one in sums]),
        tokens_EP=np.stack([one.tokens_P for one in sums]).astype(np.float64),
        bytes_EP=np.stack(sizes).astype(np.float64) if len(sizes) == len(sums) else None,
    )
