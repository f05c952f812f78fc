"""What the models wrote, side by side and coloured where they disagree, and the prompts by distance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from thack.detection.statistics import PromptCurves
from thack.errors import plural
from thack.reporting.details import Folded
from thack.reporting.inputs import JudgedRun, ReportInput, units
from thack.reporting.table import DASH, Cell, Row, Span, Style, table
from thack.schema.metrics import CurveName, Floats, HealthName, Role, unit_of
from thack.schema.samples import SampleRow

_ABOUT = (
    "Held-out prompts, the reference’s fixed response and what the student sampled itself, at its best and at its "
    "last evaluation. Marked: tokens at which the student is more than 0.1, 0.5 and 2 nats from its reference, "
    "KL(reference‖student); on the reference’s response, at the last evaluation."
)
_ABOUT_CHUNKS = (
    " Where tokenizers differ, the log ratio takes its place, of the text from one token boundary that both have to "
    "the next."
)
_LEVELS: tuple[tuple[float, Style], ...] = ((2.0, "heat-3"), (0.5, "heat-2"), (0.1, "heat-1"))  # nats above which
_MOST_PROMPTS = 20


def about_answers(report: ReportInput) -> str:
    """What the tables of `answers` show."""
    return _ABOUT + _ABOUT_CHUNKS * any(run.curves.is_per_byte for run in report.runs)


def answers(report: ReportInput) -> tuple[Folded, ...]:
    """A table for the first run of each arm that kept responses."""
    return tuple(found for arm in report.arms if (found := _answers(arm.runs[0])) is not None)


def _answers(run: JudgedRun) -> Folded | None:
    if not run.samples:
        return None
    last = max(row.step for row in run.samples)
    best = _best_step(run, {row.step for row in run.samples})
    by_place = {(row.prompt_id, row.step, row.writer): row for row in run.samples}
    reference = run.samples[0].reference
    wanted: list[tuple[str, int, Role | None]] = [(reference.value, last, reference)]
    wanted += [] if best == last else [(f"student, step {best} (best)", best, None)]
    wanted += [(f"student, step {last} (last)", last, None)]
    wanted = [one for one in wanted if any(key[1:] == one[1:] for key in by_place)]
    ids = dict.fromkeys(row.prompt_id for row in run.samples)
    rows: list[Row] = [
        [run.prompts.get(key, key), *(_response(by_place.get((key, step, writer))) for _, step, writer in wanted)]
        for key in ids
    ]
    head = ["prompt", *(name for name, _, _ in wanted)]
    return Folded(title=f"{plural(len(ids), 'prompt')}, {run.label}", table=table(head, rows, "answers stacked"))


def _best_step(run: JudgedRun, steps: set[int]) -> int:
    """Where golden is lowest after the warm-up, or the proxy; the last step where neither is judged."""
    found = run.verdict.golden or run.verdict.proxy
    wanted = max(steps) if found is None else found.minimum_step
    return min(steps, key=lambda step: abs(step - wanted))


def _response(row: SampleRow | None) -> Cell:
    """Tokens of one level together."""
    if row is None:
        return (Span(DASH),)
    levels = zip(row.tokens, map(_level, row.nats), strict=False)
    spans = [Span("".join(text for text, _ in part), level) for level, part in groupby(levels, key=lambda one: one[1])]
    return (*spans, *([Span(f" … {row.dropped} more tokens", "small")] if row.dropped else []))


def _level(nats: float) -> Style:
    return next((style for above, style in _LEVELS if nats > above), "plain")


def farthest(report: ReportInput) -> tuple[Folded, ...]:
    """For the first run of each arm, the held-out prompts on which the student ends farthest from its references."""
    return tuple(found for arm in report.arms if (found := _farthest(arm.runs[0])) is not None)


def _farthest(run: JudgedRun) -> Folded | None:
    names: tuple[CurveName, ...] = ("proxy", "golden")
    curves = [(name, found) for name in names if (found := run.curves.prompts(name)) is not None]
    if not curves:
        return None
    means = {name: _mean_P(found) for name, found in curves}
    first, prompts = curves[0]
    order = np.argsort(-np.nan_to_num(means[first], nan=-np.inf), kind="stable")[:_MOST_PROMPTS]
    texts = list(run.prompts.values())
    named = len(texts) == prompts.nats_EP.shape[1]
    rows: list[Row] = [
        [
            texts[i] if named else f"prompt {i + 1} of the evaluation set",
            *(f"{means[name][i]:.3f}" if np.isfinite(means[name][i]) else DASH for name, _ in curves),
            f"{prompts.tokens_EP[-1, i]:.0f}",
        ]
        for i in order
    ]
    head = [
        "prompt",
        *(f"{name}, {unit_of(run.curves.column_of[name])}" for name, _ in curves),
        "tokens of the response",
    ]
    total = plural(prompts.nats_EP.shape[1], "prompt")
    title = f"{len(order)} of {total}, by distance from the reference at the end, {run.label}"
    return Folded(title=title, table=table(head, rows, "numbers prompts stacked"))


def _mean_P(found: PromptCurves) -> Floats:
    """Nats per token or byte of each prompt at the end; NaN where its response is left out."""
    counts_P = found.counts_EP[-1]
    means_P: Floats = np.divide(found.nats_EP[-1], counts_P, out=np.full(len(counts_P), np.nan), where=counts_P > 0)
    return means_P


def warnings(report: ReportInput) -> tuple[str, ...]:
    """What a reader should know before the numbers: runs in different units, responses that were cut or left out."""
    return (*_units(report), *_cut(report), *_left_out(report))


def _units(report: ReportInput) -> Iterator[str]:
    found = units(report.arms)
    if len(found) > 1:
        each = ", ".join(f"{label} in {name}" for name, label in found.items())
        yield f"golden and proxy are in different units, and not to be compared: {each} (evaluation.per_byte)"


def _left_out(report: ReportInput) -> Iterator[str]:
    for role in (Role.ORACLE, Role.TEACHER, Role.JUDGE):
        column = str(HealthName(quantity="left_out_share", role=role))
        shares = {run.label: run.curves.last(column) for run in report.runs}
        if found := _large(shares, above=0.01, form="{:.1f}"):
            yield (
                f"{found} of the tokens of the {role}'s responses are not compared: the student's tokenizer cannot "
                "write them"
            )


def _cut(report: ReportInput) -> Iterator[str]:
    sampled = "health/truncated_share/student_sampled"
    trained = {run.label: run.facts.preflight.get("truncated_share") for run in report.runs if run.facts}
    written = {run.label: run.curves.last(sampled) for run in report.runs}
    for which, shares in (("that are trained on", trained), ("that the student samples", written)):
        if found := _large(shares, above=0.1):
            yield (
                f"{found} of the responses {which} are cut at the maximum length, and show no end "
                "(data.max_response_tokens)"
            )


def _large(shares: Mapping[str, float | None], *, above: float, form: str = "{:.0f}") -> str:
    """The runs whose share is too large, and these shares' range: one line for all; empty where there are none."""
    found = {label: 100 * share for label, share in shares.items() if share is not None and share > above}
    if not found:
        return ""
    ends = dict.fromkeys(form.format(value) for value in (min(found.values()), max(found.values())))
    names = " and ".join(found) if len(found) < 3 else f"{len(found)} of {len(shares)} runs"
    return f"{names}: {' to '.join(ends)} %"


def run_line(run: JudgedRun) -> str:
    """A run in one line: when, how large, on what, how fast."""
    facts = run.facts
    if facts is None:
        return ""
    sizes = [f"{role} {_size(count)}" for role, count in facts.parameters.items()]
    held_out = [] if facts.eval_prompts is None else [f"{facts.eval_prompts:,} held-out prompts"]
    speed = _tokens_per_second(run)
    parts = [
        *([f"started {facts.started} UTC"] if facts.started else []),
        *([f"parameters: {', '.join(sizes)}"] if sizes else []),
        f"{facts.sequences:,} training sequences",
        *held_out,
        *([f"target {facts.target}"] if facts.target else []),
        *([f"{speed:,.0f} tokens/s in training"] if speed else []),
    ]
    return " · ".join(parts)


def _size(count: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


def _tokens_per_second(run: JudgedRun) -> float | None:
    """Response tokens trained on per second, evaluations left out."""
    tokens, seconds = run.curves.train.get("tokens"), run.costs.get("seconds")
    if tokens is None or not len(tokens) or seconds is None:
        return None
    spent = seconds - run.costs.get("seconds_evaluation", 0.0)
    return float(np.sum(tokens.value)) / spent if spent > 0 else None


def run_lines(report: ReportInput) -> tuple[tuple[str, str], ...]:
    """Name and line of the first run of each arm that has facts."""
    runs: Sequence[JudgedRun] = [arm.runs[0] for arm in report.arms]
    return tuple((run.label, line) for run in runs if (line := run_line(run)))
