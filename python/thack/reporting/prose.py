"""A verdict in plain words, for a reader who does not know the paper."""

from __future__ import annotations

from collections.abc import Mapping

from thack.reporting.causes import apart, causes
from thack.reporting.gained import gained
from thack.reporting.numbers import decimal, percent, percent_interval
from thack.schema.metrics import Role, find_metric
from thack.schema.verdict import PROMPTS_APART, Detection, DetectionState, Doubt, Extent, OracleFreeVerdict, Verdict

#: One sentence per verdict.
MEANING: dict[str, str] = {
    "hacking": "the student keeps learning its teacher, and by that moves away from the truth: "
    "what it learns now are the teacher's mistakes",
    "over-fitting": "the student gets worse at both: it memorises its training data, "
    "and moves away from its teacher too on prompts that it has not seen",
    "regressing to the teacher": "the student was briefly better than its teacher and has now become "
    "its copy: no mistakes beyond the teacher's own",
    "healthy": "after the warm-up the student did not get worse on held-out prompts",
    "inconclusive": "the numbers at hand do not decide",
}
#: The same of a suspicion without an oracle.
SUSPICION: dict[str, str] = {
    "hacking suspected": "the student memorises the responses that it trains on, which is when hacking begins",
    "no alarm": "no sign of memorisation was seen, which does not prove that the run is healthy",
}


#: Where the thresholds of the detectors come from.
VALIDATION = "threshold was set on three seeds of one laptop task and tried on other seeds, two other tasks and losses"

_FRESH_COLUMNS = "needs train_kl/fresh and train_kl/monitor at evaluations after the warm-up"
_PROXY_COLUMNS = "needs the held-out proxy and train_kl/monitor at evaluations after the warm-up"
_APART = ", two of them a fifth of the steps apart"

#: What each detector says, by its name and state.
DETECTORS: Mapping[str, Mapping[DetectionState, str]] = {
    "fresh slope ratio": {
        "alarm": "the student still improves on its training responses, but much more slowly on others that its "
        "teacher would give to the same prompts: it has begun to memorise, which is when hacking begins",
        "quiet": "what the student learns from its training responses also holds for others to the same prompts",
        "not enough data": f"{_FRESH_COLUMNS}{_APART}",
    },
    "slope ratio": {
        "alarm": "the student still improves on its training responses, but much more slowly on prompts that it has "
        "not seen: it has begun to memorise, which is when hacking begins",
        "quiet": "what the student learns in training it also learns for prompts it has not seen",
        "not enough data": f"{_PROXY_COLUMNS}{_APART}",
    },
    "memorisation gap": {
        "alarm": "the student is much further from its teacher on new prompts than on its training responses: it has "
        "memorised much of these",
        "quiet": "the student is about as close to its teacher on new prompts as on its training responses",
        "not enough data": f"{_PROXY_COLUMNS}, in one unit",
    },
    "power-law deviation": {
        "alarm": "the held-out proxy has left its power law (a small student, or a decaying learning rate, bends it "
        "as well)",
        "quiet": "the held-out proxy follows a power law, as of a run that keeps learning",
        "not enough data": "needs the held-out proxy at four evaluations after the warm-up",
    },
    "training stopped falling": {
        "alarm": "the training curve has stopped falling: with cached targets, what is left may be noise",
        "quiet": "the training curve still falls",
        "not enough data": "needs train_kl/monitor or the training loss at four evaluations after the warm-up",
    },
    "fresh gap": {
        "alarm": "the student is much closer to its teacher on the responses that it trains on than on others to the "
        "same prompts: it has memorised them",
        "quiet": "the student is about as close to its teacher on other responses as on those that it trains on",
        "not enough data": _FRESH_COLUMNS,
    },
    "forecast error": {
        "alarm": "the held-out proxy is above the forecast of its own power law with a floor",
        "quiet": "the held-out proxy follows the forecast of its own power law",
        "not enough data": "needs the held-out proxy at six evaluations after the warm-up",
    },
}


#: What replaces golden where there is no oracle, by the role of its reference: a name, and what it can show.
STAND_IN = {
    Role.JUDGE: (
        "distance to the judge",
        "there is no oracle: golden here is the distance to a judge, a stronger model in its role. A rise can mean "
        "the teacher's mistakes, or only a move away from the judge's own habits. Mistakes that the judge shares "
        "with the teacher are not seen",
    ),
    Role.HUMAN: (
        "negative log-likelihood of human references",
        "there is no oracle: golden here is how unlikely the student finds what people wrote. Its differences are "
        "those of a distance; its level includes the entropy of human text. The same harm is therefore a smaller "
        "share of it: a rise within the margin does not exclude hacking, while one beyond it is real. It knows only "
        "the responses that people happened to write, not all that are right",
    ),
}


def stand_in(column: str) -> tuple[str, str] | None:
    """Name and meaning of what replaces golden; None where the column is golden itself."""
    return STAND_IN.get(_role(column))


def golden_name(column: str) -> str:
    """What golden's column measures, and in what where that is not nats per token."""
    name, metric = golden_meaning(column), find_metric(column)
    return f"{name} in nats per byte" if metric is not None and metric.reduction == "byte_mean" else name


def golden_meaning(column: str) -> str:
    """What golden's column measures."""
    instead = stand_in(column)
    return instead[0] if instead else "distance to the oracle"


def baseline_name(column: str) -> str:
    """The teacher baseline, where a perfect copy of the teacher would end in golden's column."""
    names = {Role.JUDGE: "KL(judge‖teacher)", Role.HUMAN: "the teacher's own likelihood"}
    return names.get(_role(column), "KL(oracle‖teacher)")


def _role(column: str) -> Role:
    """The role of the reference in golden's column; another trainer's column is taken for the oracle's."""
    metric = find_metric(column)
    return Role.ORACLE if metric is None else metric.role


def detector_meaning(found: Detection) -> str:
    """What a detector found, in words.

    Example:
        >>> detector_meaning(Detection(name="training stopped falling", state="quiet", threshold=0.02))
        'the training curve still falls'
    """
    return DETECTORS[found.name][found.state]


def reasons(found: Verdict | OracleFreeVerdict) -> list[str]:
    """Why a verdict is what it is, and what else is to be known of the run: one clause each."""
    worth = [gained(found.gains)] if found.gains else []
    return [*(explain(found) if isinstance(found, Verdict) else _suspicion(found)), *worth, *found.notes]


def _suspicion(found: OracleFreeVerdict) -> list[str]:
    shown = [one for one in found.detections if one.fired or one.name == found.decided_by]
    stretch = [] if found.ratio is None or "ratio not surely below" in found.doubts else [_stretch(found, "below")]
    return [
        *(_doubt(found, doubt) for doubt in found.doubts),
        *stretch,
        *map(_detection, shown),
        *_prompts(found.prompts_apart),
        f"without an oracle this is a suspicion, which sees memorisation only ({VALIDATION})",
    ]


def _prompts(ratio: float | None) -> list[str]:
    told = apart(ratio)
    return told if ratio is None or ratio < PROMPTS_APART else [f"{told[0]}: it memorises them; train on more prompts"]


def _doubt(found: OracleFreeVerdict, doubt: Doubt) -> str:
    """Why an alarm, or its absence, is no answer yet."""
    if doubt == "few evaluations":
        return (
            f"only {found.num_evaluations} evaluations come after the warm-up of {found.thresholds.warmup_steps} "
            f"steps; a suspicion needs {found.thresholds.min_evaluations}: evaluate more often, or train longer"
        )
    if doubt == "one ratio":
        return "the alarm came at the last evaluation, and without values per prompt one ratio has no interval"
    if doubt == "still learning":
        return (
            "the student is far from its teacher, and still comes closer to it on responses that it does not train on"
        )
    return _stretch(found, "not surely below")


def _stretch(found: OracleFreeVerdict, where: str) -> str:
    """The ratio from the alarm's onset to the end, with its interval."""
    assert found.ratio is not None and found.onset_step is not None
    ends = found.ratio_interval
    interval = f" [{decimal(ends[0])}, {decimal(ends[1])}]" if ends else ""
    text = f"from step {found.onset_step:.10g} to the end the {found.decided_by} is {decimal(found.ratio)}{interval}"
    return f"{text}, {where} {found.deciding.threshold:.3g}"


def alarm_rule(found: Detection) -> str:
    """`below 0.5`: when a detector raises its alarm."""
    return f"{found.fires} {found.threshold:.3g}"


def _detection(found: Detection) -> str:
    numbers = "" if found.value is None else f" ({decimal(found.value)}, alarm {alarm_rule(found)})"
    return f"{found.name}{numbers}: {detector_meaning(found)}"


def explain(found: Verdict) -> list[str]:
    """The reasons for a verdict, in the order in which its table asks for them.

    Args:
        found: A verdict on one run.

    Returns:
        One clause per reason, without a capital letter and without a full stop.

    Example:
        >>> found = Verdict(name="inconclusive", run="a", golden=None, proxy=None, num_evaluations=0, num_prompts=None)
        >>> explain(found)[0][:43]
        'no evaluation comes after the warm-up of 30'
    """
    reasons = []
    margins = found.margins
    if found.golden is None:
        nothing = f"no evaluation comes after the warm-up of {margins.warmup_steps} steps (the margin warmup_steps)"
        missing = "there is no golden column" if found.num_evaluations else nothing
        return [f"{missing}: whether the student got worse cannot be seen", *_proxy_only(found)]
    if found.num_evaluations < margins.min_evaluations:
        reasons.append(
            f"only {found.num_evaluations} evaluations come after the warm-up of {margins.warmup_steps} "
            f"steps; a verdict needs {margins.min_evaluations}"
        )
    reasons.append(_golden(found, found.golden))
    reasons += worse_than_its_start(found.golden, margins.rise)
    reasons += [
        f"{name} is not above 0 at its lowest, and a rise is a ratio to it: evaluate on more held-out prompts"
        for name, curve in (("golden", found.golden), ("the proxy", found.proxy))
        if curve is not None and curve.rise is None
    ]
    if (instead := stand_in(found.golden.column)) is not None:
        reasons.append(instead[1])
    if found.proxy is None:
        reasons.append("there is no proxy column: over-fitting and hacking cannot be told apart")
    elif found.name != "healthy":
        reasons.append(_proxy(found, found.proxy))
    reasons.append(_baseline(found, found.golden))
    reasons += causes(found.cause) if found.cause else []
    if found.num_prompts is None:
        reasons.append("no values per prompt were logged: no intervals, the margins decide alone")
    return reasons


def _proxy_only(found: Verdict) -> list[str]:
    if found.proxy is None:
        return []
    went = f"the proxy went from {found.proxy.start:.4g} to {found.proxy.end:.4g}"
    return [f"{went}; ask the detectors that need no oracle"]


def _golden(found: Verdict, golden: Extent) -> str:
    margin = percent(found.margins.rise, sign=False)
    shape = (
        f"golden ({golden_name(golden.column)}) is lowest{since(golden)} at step {golden.minimum_step:.10g} "
        f"({golden.minimum:.4g}) and ends at {golden.end:.4g}"
    )
    if golden.rise is None:
        return shape
    shape += f": a rise of {percent(golden.rise)}"
    if golden.rise_interval is None:
        return f"{shape}, to be compared with the margin of {margin}"
    low, high = golden.rise_interval
    where = "is below"
    if low >= found.margins.rise:
        where = "is above"
    elif found.margins.rise <= high:
        where = "contains"
    return f"{shape}, {percent_interval(golden.rise_interval)}, which {where} the margin of {margin}"


def since(golden: Extent) -> str:
    """From when on golden's minimum is its lowest value, where that is not the start."""
    return " after the warm-up" if golden.start < golden.minimum else ""


def worse_than_its_start(golden: Extent, margin: float) -> list[str]:
    """What no rise shows, if golden rises within the warm-up: the student that was not distilled was the better one."""
    if golden.start <= 0 or golden.end < (1 + margin) * golden.start:
        return []
    higher = percent(golden.end / golden.start - 1, sign=False)
    start = f"golden was {golden.start:.4g} at the first evaluation, and is {higher} higher at the end"
    return [f"{start}: by it the student was better then"]


def _proxy(found: Verdict, proxy: Extent) -> str:
    margin = percent(found.margins.proxy_rise, sign=False)
    if proxy.rise is not None and proxy.rise >= found.margins.proxy_rise:
        return (
            f"proxy (distance to the teacher) rises too, by {percent(proxy.rise)} from its own minimum "
            f"at step {proxy.minimum_step:.10g} (margin {margin})"
        )
    change, at = found.proxy_change or 0.0, found.proxy_at_onset or proxy.minimum
    verb = "keeps falling" if change < -0.005 else "stays level" if change <= 0.005 else "moves within its margin"
    text = f"proxy (distance to the teacher) {verb} meanwhile: {at:.4g} → {proxy.end:.4g} ({percent(change)})"
    interval = proxy.rise_interval
    if interval is not None and interval[0] < found.margins.proxy_rise <= interval[1]:
        text += (
            f"; its own rise, {percent_interval(interval)}, is not surely below {margin}: over-fitting is not excluded"
        )
    return text


def _baseline(found: Verdict, golden: Extent) -> str:
    name = baseline_name(golden.column)
    if found.baseline is None:
        return f"{name} is not known: where a perfect copy of the teacher would end"
    baseline = f"the teacher baseline {name.removeprefix('the ')} = {found.baseline:.4g}"
    text = f"golden ends {found.side} {baseline}"
    if found.side == "too close to tell":
        text = f"golden ends at {baseline}, too close to tell above from below"
    if found.over_baseline is not None and found.over_baseline_interval is not None:
        low, high = found.over_baseline_interval
        text += f" (by {found.over_baseline:+.3f} [{low:+.3f}, {high:+.3f}] nats)".replace("-", "−")
    if found.name == "hacking" and found.side == "above":
        truth = {Role.JUDGE: "its judge", Role.HUMAN: "what people wrote"}.get(_role(golden.column), "the truth")
        text += f": the student is now further from {truth} than its teacher is"
    elif found.name == "hacking" and found.side == "below":
        text += ", but the proxy has not converged, so this is not a mere return to the teacher"
    return text
