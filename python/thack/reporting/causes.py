"""The cause of a rise in plain words: what it is, what it rests on, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from thack.reporting.numbers import percent, percent_interval
from thack.schema.targets import find_target
from thack.schema.verdict import Cause, CauseName, DetectionState

#: What happens, and what to do about it.
CAUSES: Mapping[CauseName, tuple[str, str]] = {
    "memorised responses": (
        "the student learns the responses that it trains on, and not what others to the same prompts would be",
        "train on newly sampled responses (source.kind = online-teacher, or a share of them, or guard.on), cache more "
        "responses per prompt and more prompts, or stop at the onset",
    ),
    "memorised prompts": (
        "the student comes close to its teacher on the prompts that it trains on, and not on others",
        "train on more prompts, and other ones, or stop at the onset; new responses to the same prompts do not help",
    ),
    "wrong target": (
        "what is kept of the teacher is another distribution than the teacher's, and the student learns it",
        "keep exact targets, top-k with its tail and a larger k, or, where each response is seen once, unbiased "
        "sampled ids; other prompts do not help",
    ),
    "pull of the teacher": (
        "the student had become better than its teacher, and every step towards the teacher makes it worse",
        "stop at the onset, or take a better teacher; newly sampled responses do not help",
    ),
}
_MEMORISATION: Mapping[DetectionState, str] = {
    "alarm": "memorised responses are seen",
    "quiet": "no memorised responses are seen",
    "not enough data": "whether it memorises responses cannot be seen",
}


def causes(found: Cause) -> list[str]:
    """Each cause with what to do, and what it rests on: one clause each.

    Example:
        >>> causes(Cause(names=("pull of the teacher",), basis="signals", covered=0.5))[1]
        'what to do: stop at the onset, or take a better teacher; newly sampled responses do not help'
    """
    named = [
        clause
        for name in found.names
        for clause in (f"cause, {name}: {CAUSES[name][0]}", f"what to do: {CAUSES[name][1]}")
    ]
    return [*(named or [_none(found)]), f"the cause rests on this: {'; '.join(_evidence(found))}"]


def _none(found: Cause) -> str:
    has_path = found.excess is not None or found.incomparable is not None
    hint = "" if has_path else ": compare it with a run on newly sampled responses (`online`)"
    return f"cause: none is established of {', '.join(CAUSES)}{hint}"


def _evidence(found: Cause) -> list[str]:
    equal = []
    if found.incomparable is not None:
        equal = [f"golden cannot be compared with that of the online path: {found.incomparable}"]
    if found.excess is not None:
        interval = f", {percent_interval(found.excess_interval)}" if found.excess_interval else ""
        decides = "" if found.basis == "online path" else ", which does not decide"
        equal = [f"golden is {percent(found.excess)} from that of the online path at equal proxy{interval}{decides}"]
    spec = find_target(found.target)
    target = "not known" if spec is None else spec.label
    below = {True: "is", False: "is not surely", None: ""}[found.below_baseline]
    line = [] if found.below_baseline is None else [f"golden's minimum {below} below the teacher baseline"]
    covered = f", and the rise has covered {100 * found.covered:.0f} % of the way up to it" if found.covered else ""
    return [
        *equal,
        _MEMORISATION[found.memorisation],
        *apart(found.prompts_apart),
        f"the target: {target}",
        *(f"{one}{covered}" for one in line),
    ]


def apart(ratio: float | None) -> list[str]:
    """How far apart held-out prompts and training prompts are; nothing where it is not known.

    Example:
        >>> apart(1.1)
        ['held-out prompts are 1.10 times as far from the teacher as training prompts, the start being 1']
    """
    if ratio is None:
        return []
    return [f"held-out prompts are {ratio:.2f} times as far from the teacher as training prompts, the start being 1"]
