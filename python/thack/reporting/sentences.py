"""What happened, in sentences: the headline of a page, and the text of an arm's card."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from thack.detection import Extent, Verdict
from thack.reporting.gained import gained, median_gains
from thack.reporting.inputs import ArmRuns, JudgedRun, ReportInput, golden_column
from thack.reporting.numbers import percent, percent_interval
from thack.reporting.prose import MEANING, SUSPICION, baseline_name, reasons, since, stand_in, worse_than_its_start

#: What one student does, and what several do.
_VERBS = {
    "hacking": ("hacks its teacher", "hack their teacher"),
    "over-fitting": ("over-fits", "over-fit"),
    "regressing to the teacher": ("regresses to its teacher", "regress to their teacher"),
    "healthy": ("stays healthy", "stay healthy"),
    "inconclusive": ("has an inconclusive verdict", "have inconclusive verdicts"),
    "hacking suspected": ("is suspected of hacking its teacher", "are suspected of hacking their teacher"),
    "no alarm": ("raises no alarm", "raise no alarm"),
}


def headline(report: ReportInput) -> str:
    """The answer, in one sentence."""
    if len(report.runs) == 1:
        run = report.runs[0]
        if not run.has_oracle:
            alarm = run.suspicion.alarm_step
            at = "" if alarm is None or run.suspicion.name == "inconclusive" else f" (alarm at step {alarm:.10g})"
            return f"Without an oracle: {run.suspicion.headline}{at}"
        onset = f" from step {run.verdict.onset_step:.10g} on" if run.verdict.onset_step is not None else ""
        cause = run.verdict.cause.names if run.verdict.cause else ()
        return f"This student {_VERBS[run.verdict.name][0]}{onset}{': ' if cause else ''}{', '.join(cause)}"
    groups: dict[str, list[str]] = {}
    for arm in report.arms:
        groups.setdefault(arm.verdict, []).append(arm.name)
    sentence = "; ".join(_clause(verdict, names) for verdict, names in groups.items())
    if not any(run.has_oracle for run in report.runs):
        return f"Without an oracle: {sentence}"
    return sentence[0].upper() + sentence[1:]


def _clause(verdict: str, names: list[str]) -> str:
    singular, plural = _VERBS[verdict]
    return f"{names[0]} {singular}" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} {plural}"


def arm_sentences(arm: ArmRuns) -> list[str]:
    """What happened to one arm: a meaning, then the numbers."""
    if len(arm.runs) == 1:
        return _run_sentences(arm.runs[0])
    counts = ", ".join(f"{name} in {count}" for name, count in arm.verdicts.items())
    meaning = (MEANING | SUSPICION)[arm.verdict]
    sentences = [_sentence(meaning), f"{_sentence(counts)[:-1]} of {len(arm.runs)} seeds."]
    if arm.median_rise is not None:
        low, high = min(arm.rises), max(arm.rises)
        sentences.append(
            f"Golden rises from its minimum to the end by {percent(arm.median_rise)} in the median "
            f"(seeds: {100 * low:+.1f} to {100 * high:+.1f} %)."
        )
    if worse := sum(map(_is_worse_than_its_start, arm.runs)):
        where = f"In {worse} of {len(arm.runs)} seeds golden ends above its start"
        sentences.append(f"{where}: by it the student was better then.")
    changes = [run.verdict.proxy_change for run in arm.runs if run.verdict.proxy_change is not None]
    if changes and arm.verdict != "healthy":
        sentences.append(f"The proxy changes meanwhile by {percent(statistics.median(changes))} in the median.")
    if arm.onsets:
        onset = statistics.median(arm.onsets)
        sentences.append(f"Onset: step {onset:.10g} (seeds: {min(arm.onsets):.10g} to {max(arm.onsets):.10g}).")
    sides = [run.verdict.side for run in arm.runs if run.verdict.side is not None]
    if sides:
        counts = ", ".join(f"{side} in {sides.count(side)}" for side in dict.fromkeys(sides))
        sentences.append(f"Golden’s end against the teacher baseline, {baseline_name(golden_column([arm]))}: {counts}.")
    sentences += [_sentence(text) for text in median_gains([run.verdict.gains for run in arm.runs])]
    return sentences


def _is_worse_than_its_start(run: JudgedRun) -> bool:
    golden = run.verdict.golden
    return golden is not None and bool(worse_than_its_start(golden, run.verdict.margins.rise))


def _run_sentences(run: JudgedRun) -> list[str]:
    found = run.verdict
    if found.golden is None:
        others = () if run.has_oracle else reasons(run.suspicion)
        return [_sentence(reason) for reason in (*reasons(found), *others)]
    sentences = [_sentence(MEANING[found.name])]
    if (instead := stand_in(found.golden.column)) is not None:
        sentences.append(_sentence(instead[1]))
    if found.name == "inconclusive":
        return list(dict.fromkeys([*sentences, *(_sentence(reason) for reason in reasons(found))]))
    sentences += _golden(found, found.golden)
    sentences += map(_sentence, worse_than_its_start(found.golden, found.margins.rise))
    if found.gains:
        sentences.append(_sentence(gained(found.gains)))
    if found.baseline is not None and found.side is not None:
        where = "about on" if found.side == "too close to tell" else found.side
        sentences.append(
            f"It ends {where} the teacher baseline, {baseline_name(found.golden.column)} = {found.baseline:.3f}."
        )
    return sentences


def _golden(found: Verdict, golden: Extent) -> Iterator[str]:
    """Golden's way, and the proxy's meanwhile."""
    interval = f", {percent_interval(golden.rise_interval)}" if golden.rise_interval else ""
    if found.name == "healthy":
        yield (
            f"Golden went from {golden.start:.3f} to {golden.end:.3f}; over its minimum it ends by "
            f"{percent(golden.rise)}{interval}, within the margin of {percent(found.margins.rise, sign=False)}."
        )
        return
    between = found.onset_interval
    rise = "" if golden.rise is None else f": {percent(golden.rise)}{interval}"
    steps = f" (between {between[0]:.10g} and {between[1]:.10g})" if between else ""
    yield (
        f"Golden was best{since(golden)} at step {golden.minimum_step:.10g}{steps}, {golden.minimum:.3f}, and ended at "
        f"{golden.end:.3f}{rise}."
    )
    if found.proxy is not None and found.proxy_at_onset is not None and found.proxy_change is not None:
        yield (
            f"The proxy meanwhile went from {found.proxy_at_onset:.3f} to {found.proxy.end:.3f} "
            f"({percent(found.proxy_change)})."
        )


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text.endswith(".") else text + "."
