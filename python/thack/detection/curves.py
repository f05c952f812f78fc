"""The curves a verdict is read from: a thack run directory, or any trainer's log.

Names of dimensions: E evaluations, P held-out prompts.

A run directory has `metrics.jsonl` (one row per training step or evaluation) and, for intervals,
`per_prompt.jsonl` (one row per evaluation: the nats and tokens of every held-out prompt). A foreign log
is JSON lines, or a transformers `trainer_state.json`, with a mapping from our words to its columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from thack.detection.columns import known, no_metric, resolve
from thack.detection.rows import Row, finite, finite_or_nan, numeric_keys, read_log, unquoted
from thack.errors import DataError
from thack.files import flattened
from thack.runtime import runlog
from thack.runtime.status import read_status
from thack.schema.metrics import GOLDEN, PROXY, Floats, MetricName, Series, find_metric

_EVENTS = ("train", "evaluation", "guard")  # of thack's own rows; another trainer's words say nothing here


@dataclass(frozen=True, slots=True, kw_only=True)
class PerPrompt:
    """One column, prompt by prompt: nats summed over the response, and the response's tokens."""

    nats_EP: Floats
    tokens_EP: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """What was measured along one run, at its E evaluations and at its training steps."""

    name: str
    step_E: Floats
    columns: Mapping[str, Floats]  # every evaluation column, NaN where a row lacks it
    train: Mapping[str, Series]  # every training column
    words: Mapping[str, str]  # golden, proxy, baseline, monitor, fresh, train_loss → column
    per_prompt: Mapping[str, PerPrompt] = field(default_factory=dict)  # by column without normalisation
    notes: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()  # golden or proxy, where the last logged value is no number: a run that diverged

    @classmethod
    def from_run(
        cls, directory: str | Path, *, metric: MetricName = GOLDEN, mapping: Mapping[str, str] | None = None
    ) -> Curves:
        """Read a thack run directory; `metric` is golden's, the proxy's is the same against the teacher.

        `mapping` names other columns.
        """
        directory = Path(directory)
        path = directory / "metrics.jsonl"
        if not path.is_file():
            raise DataError(
                f"{directory} is not a run: it has no metrics.jsonl",
                hint="pass a directory written by thack distill, or a trainer's log with `mapping`",
            )
        rows = [flattened(row, "/") for row in runlog.read(path)]
        usual = {"golden": str(metric), "proxy": str(metric.against(PROXY.role))}
        curves = _build(directory.resolve().name, rows, known(mapping), str(path), usual=usual)
        curves = replace(curves, notes=(*curves.notes, *_guard_notes(rows), *_status_notes(directory)))
        return _with_per_prompt(curves, directory / "per_prompt.jsonl")

    @classmethod
    def from_jsonl(cls, path: str | Path, mapping: Mapping[str, str] | None = None) -> Curves:
        """Read any trainer's log; `mapping` says which of its columns play which part."""
        path = Path(path)
        chosen = known(mapping)
        rows = [unquoted(flattened(row, "/")) for row in read_log(path)]
        curves = _build(path.stem, rows, chosen, str(path))
        return _with_per_prompt(curves, path.with_name("per_prompt.jsonl")) if not mapping else curves

    def has(self, word: str) -> bool:
        """Whether a column plays this part."""
        return word in self.words

    def of(self, word: str) -> Series:
        """The finite values of golden, proxy, baseline, monitor, fresh or train_loss."""
        column = self.words.get(word)
        if column is None:
            return Series(step=np.empty(0), value=np.empty(0))
        if column in self.columns:
            value_E = self.columns[column]
            seen_E = np.isfinite(value_E)
            if seen_E.any():
                return Series(step=self.step_E[seen_E], value=value_E[seen_E])
        return self.train.get(column, Series(step=np.empty(0), value=np.empty(0)))

    def prompts(self, word: str) -> PerPrompt | None:
        """The prompts behind a word's column, where the run kept them."""
        return self.per_prompt.get(_per_prompt(self.words.get(word, "")) or "")

    def last(self, column: str) -> float | None:
        """The last finite value of a column, whichever event logged it (costs are cumulative)."""
        found = [s for s in (self._evaluated(column), self.train.get(column)) if s is not None and len(s)]
        if not found:
            return None
        latest = max(found, key=lambda series: series.step[-1])
        return float(latest.value[-1])

    def _evaluated(self, column: str) -> Series | None:
        if column not in self.columns:
            return None
        seen_E = np.isfinite(self.columns[column])
        return Series(step=self.step_E[seen_E], value=self.columns[column][seen_E])


def _build(
    name: str, rows: Sequence[Row], chosen: Mapping[str, str], place: str, *, usual: Mapping[str, str] | None = None
) -> Curves:
    if not rows:
        raise DataError(f"{place} has no rows yet")
    words = resolve(chosen, usual or {}, {key for row in rows for key in row}, place)
    if "golden" not in words and "proxy" not in words:
        raise no_metric(rows, place)
    step = words.pop("step")
    # Golden and proxy may come in rows of their own (several callbacks, one step): rows are merged by
    # step, and a step that was run twice (a resumed run) keeps what was logged last.
    metrics = {words[word] for word in ("golden", "proxy", "baseline", "monitor", "fresh") if word in words}
    evaluations: dict[float, Row] = {}
    training: dict[float, Row] = {}
    for row in rows:
        at = finite(row.get(step))
        if at is None:
            continue
        event = row.get("event")
        if event == "guard":
            continue
        is_evaluation = event == "evaluation" if event in _EVENTS else bool(metrics & row.keys())
        (evaluations if is_evaluation else training).setdefault(at, {}).update(row)
    if not evaluations:
        raise DataError(
            f"{place} has no evaluations yet", hint="a verdict needs golden or proxy values at several steps"
        )
    step_E = np.array(sorted(evaluations), dtype=np.float64)
    columns = {
        key: np.array([finite_or_nan(evaluations[at].get(key)) for at in step_E])
        for key in numeric_keys(evaluations.values(), skip=step)
    }
    gone = _take_out_unmeasured(columns, words, chosen, place)
    train = {key: _series(training, key) for key in numeric_keys(training.values(), skip=step)}
    broken = tuple(w for w in ("golden", "proxy") if w in words and _ends_broken(evaluations, words[w]))
    return Curves(
        name=name,
        step_E=step_E,
        columns=columns,
        train=train,
        words=words,
        notes=(*gone, *_notes(columns, words, step_E, broken)),
        broken=broken,
    )


def _take_out_unmeasured(
    columns: Mapping[str, Floats], words: dict[str, str], chosen: Mapping[str, str], place: str
) -> list[str]:
    """Golden or proxy without one number (a run that diverged at once) is a note; one that was asked for, an error."""
    told = []
    for word in ("golden", "proxy"):
        column = words.get(word)
        if column is None or np.isfinite(columns.get(column, np.empty(0))).any():
            continue
        if word in chosen:
            raise DataError(
                f"{place}: column {column!r} (for {word}) has no number at any evaluation",
                hint=f"name another: `mapping = {word}=COLUMN`",
            )
        del words[word]
        told.append(f"{word} has no number at any evaluation")
    return told


def _ends_broken(evaluations: Mapping[float, Row], column: str) -> bool:
    """Whether the last value that was logged is NaN, infinite or null."""
    last = next((row[column] for _, row in sorted(evaluations.items(), reverse=True) if column in row), 0.0)
    return finite(last) is None


def _series(rows: Mapping[float, Row], key: str) -> Series:
    found = [(at, finite_or_nan(rows[at].get(key))) for at in sorted(rows)]
    kept = [(at, value) for at, value in found if math.isfinite(value)]
    return Series(step=np.array([at for at, _ in kept]), value=np.array([value for _, value in kept]))


def _notes(
    columns: Mapping[str, Floats], words: Mapping[str, str], step_E: Floats, broken: Sequence[str]
) -> tuple[str, ...]:
    notes = [f"the last value of {word} is no number: where the student ends is not known" for word in broken]
    for word in ("golden", "proxy"):
        value_E = columns.get(words.get(word, ""))
        if value_E is not None and (missing := int(np.sum(~np.isfinite(value_E)))):
            notes.append(f"{missing} of {len(step_E)} evaluations have no finite {word} and are left out")
    if {"golden", "proxy"} <= words.keys() and not np.isfinite(
        columns[words["golden"]] + columns[words["proxy"]]
    ).any():
        notes.append("golden and proxy were never measured at the same step")
    return tuple(notes)


def _guard_notes(rows: Sequence[Row]) -> tuple[str, ...]:
    """What a guard did in the run, in words."""
    events = [row for row in rows if row.get("event") == "guard"]
    alarm = next((row for row in events if row.get("action") == "alarm"), None)
    if alarm is None:
        return ()
    value, threshold = finite_or_nan(alarm.get("value")), finite_or_nan(alarm.get("threshold"))
    text = (
        f"a guard was on: {alarm.get('detector')} {value:.2g} (alarm at {threshold:.2g}) at step {alarm['step']}; "
        f"the checkpoint of step {alarm.get('kept_step')} was kept"
    )
    added = [row for row in events if row.get("action") == "refresh"]
    if added:
        tokens = sum(int(finite_or_nan(row.get("fresh_tokens"))) for row in added)
        epochs = ", ".join(str(row.get("epoch")) for row in added)
        text += f"; {len(added)} fresh responses per prompt ({tokens:,} tokens) joined in epochs {epochs}"
    if any(row.get("action") == "stop" for row in events):
        text += "; then it stopped"
    return (text,)


def _status_notes(directory: Path) -> tuple[str, ...]:
    """A run that goes on, was stopped or failed (a loss that diverged) has not said its last word."""
    status = read_status(directory)
    if status is None or status.state == "finished":
        return ()
    return (f"the run is not finished ({status.state} at step {status.step}): what it says is not its last word",)


def _per_prompt(column: str) -> str | None:
    """The column of per_prompt.jsonl behind a metric's column; None for another trainer's columns."""
    metric = find_metric(column)
    return None if metric is None else str(metric.per_prompt)


def _with_per_prompt(curves: Curves, path: Path) -> Curves:
    """Attach what every prompt contributed; all evaluations must have the same prompts."""
    if not path.is_file():
        return curves
    by_step: dict[float, Row] = {}
    for row in runlog.read(path):
        at = finite(row.get("step"))
        if at is not None:
            by_step[at] = row
    wanted = {found for column in curves.words.values() if (found := _per_prompt(column)) is not None}
    rows = [by_step.get(at) for at in curves.step_E]
    per_prompt = {column: prompts for column in sorted(wanted) if (prompts := _prompts(rows, column, path)) is not None}
    notes = curves.notes
    if wanted - per_prompt.keys():
        notes = (*notes, f"{path.name} does not cover every evaluation: no intervals")
    return replace(curves, per_prompt=per_prompt, notes=notes)


def _prompts(rows: Sequence[Row | None], column: str, path: Path) -> PerPrompt | None:
    entries = [row.get(column) if row is not None else None for row in rows]
    if MetricName.parse(column).baseline:  # constant: written once, or with every evaluation
        entries = [next((entry for entry in entries if entry is not None), None)] * len(entries)
    if not entries or any(entry is None for entry in entries):
        return None
    try:
        nats_EP = np.array([entry["nats"] for entry in entries], dtype=np.float64)  # type: ignore[index]
        tokens_EP = np.array([entry["tokens"] for entry in entries], dtype=np.float64)  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: {column} does not have the same prompts at every evaluation",
            details=[str(error)],
            hint="intervals are paired over prompts: evaluate every checkpoint on one frozen evaluation set",
        ) from error
    if nats_EP.shape != tokens_EP.shape or nats_EP.ndim != 2 or nats_EP.shape[1] == 0:
        raise DataError(f"{path}: {column} has {nats_EP.shape} nats and {tokens_EP.shape} tokens")
    return PerPrompt(nats_EP=nats_EP, tokens_EP=tokens_EP)
