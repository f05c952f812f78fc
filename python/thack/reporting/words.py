"""Sentences and the glossary: what the page says to someone who has not read the paper."""

from __future__ import annotations

import statistics

from thack.reporting.prose import MEANING, baseline_name, percent, percent_interval, stand_in
from thack.reporting.runs import Arm, Run, Subject, golden_column

GLOSSARY = {
    "oracle": "the model that plays ground truth: by definition, what it says is right",
    "teacher": "a model trained towards the oracle, good but imperfect: it has habits of its own",
    "student": "the smaller model that is trained to imitate the teacher (distillation)",
    "golden": "distance from student to oracle on held-out prompts: what one really wants to be small",
    "proxy": "distance from student to teacher on the same prompts: what training makes small",
    "judge": "a stronger model in the oracle’s role, where there is no oracle; its columns are named judge/…",
    "human references": "responses that people wrote; their negative log-likelihood under the student stands in for "
    "golden where there is neither an oracle nor a judge; its columns are named human/…",
    "teacher hacking": "the proxy keeps falling while golden rises: the student now learns the teacher’s mistakes",
    "offline": "responses written once and reused in every epoch",
    "online-teacher": "the teacher writes fresh responses in every epoch",
    "online-student": "the student writes fresh responses in every epoch, and the teacher corrects them",
    "KL, nats": "Kullback–Leibler divergence, the distance used here: 0 if two models agree on every next word; "
    "measured in nats (1 nat = 1.44 bits) per token of the response",
    "KL(oracle‖teacher)": "how far the teacher is from the oracle. A perfect copy of the teacher ends on this line: "
    "a student above it is further from the truth than its teacher is",
    "rise": "golden at the end, over its minimum after the warm-up, minus 1",
    "interval": "95 %: computed again 2,000 times with held-out prompts drawn anew. It covers which "
    "prompts were held out, not another training seed",
    "onset": "the step of golden’s minimum, from where on more training does harm",
    "slope ratio": "progress on held-out prompts per progress on training responses, both in log; "
    "near 0 the student memorises",
    "fresh slope ratio": "the same with other responses of the teacher to the training prompts in place of held-out "
    "prompts",
}
_PLURAL = {
    "hacking": "hacks its teacher",
    "over-fitting": "over-fits",
    "regressing to the teacher": "regresses to its teacher",
    "healthy": "stays healthy",
    "inconclusive": "is inconclusive",
}


def headline(subject: Subject) -> str:
    """The answer, in one sentence."""
    if len(subject.runs) == 1:
        run = subject.runs[0]
        if not run.has_oracle:
            return f"Without an oracle: {run.suspicion.headline}"
        onset = f" from step {run.verdict.onset_step:.10g} on" if run.verdict.onset_step is not None else ""
        return f"This student {_PLURAL[run.verdict.name]}{onset}"
    groups: dict[str, list[str]] = {}
    for arm in subject.arms:
        groups.setdefault(_PLURAL[arm.verdict], []).append(arm.name)
    parts = [f"{_enumerate(names)} {_agree(verb, names)}" for verb, names in groups.items()]
    sentence = "; ".join(parts)
    return sentence[0].upper() + sentence[1:]


def _enumerate(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _agree(verb: str, names: list[str]) -> str:
    if len(names) == 1:
        return verb
    first, _, rest = verb.partition(" ")
    plural = {"hacks": "hack", "over-fits": "over-fit", "regresses": "regress", "stays": "stay", "is": "are"}[first]
    return f"{plural} {rest}".strip().replace("its teacher", "their teacher")


def arm_sentences(arm: Arm) -> list[str]:
    """What happened to one arm: a meaning, then the numbers."""
    if len(arm.runs) == 1:
        return _run_sentences(arm.runs[0])
    counts = ", ".join(f"{name} in {count}" for name, count in arm.verdicts.items())
    sentences = [_sentence(MEANING[arm.verdict]), f"{_sentence(counts)[:-1]} of {len(arm.runs)} seeds."]
    if arm.median_rise is not None:
        low, high = min(arm.rises), max(arm.rises)
        sentences.append(
            f"Golden rises from its minimum to the end by {percent(arm.median_rise)} in the median "
            f"(seeds: {100 * low:+.1f} to {100 * high:+.1f} %)."
        )
    changes = [run.verdict.proxy_change for run in arm.runs if run.verdict.proxy_change is not None]
    if changes and arm.verdict != "healthy":
        sentences.append(f"The proxy changes meanwhile by {percent(statistics.median(changes))} in the median.")
    if arm.onsets:
        onset = statistics.median(arm.onsets)
        sentences.append(f"Onset: step {onset:.10g} (seeds: {min(arm.onsets):.10g} to {max(arm.onsets):.10g}).")
    sides = [run.verdict.side for run in arm.runs if run.verdict.side is not None]
    if sides:
        told = ", ".join(f"{side} in {sides.count(side)}" for side in dict.fromkeys(sides))
        sentences.append(f"Golden’s end against the line {baseline_name(golden_column([arm]))}: {told}.")
    return sentences


def _run_sentences(run: Run) -> list[str]:
    found = run.verdict
    if found.golden is None:
        others = () if run.has_oracle else run.suspicion.reasons
        return [_sentence(reason) for reason in (*found.reasons, *others)]
    golden = found.golden
    interval = f", {percent_interval(golden.rise_interval)}" if golden.rise_interval else ""
    sentences = [_sentence(MEANING[found.name])]
    if (instead := stand_in(golden.column)) is not None:
        sentences.append(_sentence(instead[1]))
    if found.name == "healthy":
        sentences.append(
            f"Golden fell from {golden.start:.3f} to {golden.end:.3f}; over its minimum it ends by "
            f"{percent(golden.rise)}{interval}, within the margin of "
            f"{percent(found.margins.rise, sign=False)}."
        )
    elif found.name == "inconclusive":
        return [*sentences, *(_sentence(reason) for reason in found.reasons)]
    else:
        between = found.onset_interval
        steps = f" (between {between[0]:.10g} and {between[1]:.10g})" if between else ""
        sentences.append(
            f"Golden was best at step {golden.minimum_step:.10g}{steps}, {golden.minimum:.3f}, and ended at "
            f"{golden.end:.3f}: {percent(golden.rise)}{interval}."
        )
        if found.proxy is not None and found.proxy_at_onset is not None and found.proxy_change is not None:
            sentences.append(
                f"The proxy meanwhile went from {found.proxy_at_onset:.3f} to {found.proxy.end:.3f} "
                f"({percent(found.proxy_change)})."
            )
    if found.line is not None and found.side is not None:
        where = "about on" if found.side == "too close to tell" else found.side
        sentences.append(f"It ends {where} the line {baseline_name(golden.column)} = {found.line:.3f}.")
    return sentences


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text.endswith(".") else text + "."
