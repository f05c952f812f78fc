"""What a cell's student sees of the teacher, in a word: the values of the axis `target`.

    dense   top-k:64   sampled:16        from a cache, as `thack cache-logits` writes it
    live                                 the teacher's whole distribution, computed as the student trains
    live/top-k:64   live/sampled:16      the same as from a cache, but thinned from the live teacher
    live/renormalised:16                 top-k scaled to a sum of 1: what most tools cache
    live/multinomial:16                  independent draws, as counts
    live/mixed:16+prior                  top-k, the tail's mass spread by one prior shared by the whole cache
    live/mixed:16+4                      top-k, the tail by 4 unbiased draws
    live/mixed:16+prior+4                half the tail by each
    live/sampled:16+redraw               fixed responses with new draws in every epoch: what no cache can do

Responses that are written afresh have no cache: there the word means its live twin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from thack.config.settings import TargetSettings
from thack.errors import UsageError

CACHED = ("dense", "top-k", "sampled")
_WORD = re.compile(r"(?P<kind>top-k|renormalised|sampled|multinomial|mixed):(?P<k>[1-9]\d*)(?P<more>(\+\w+)*)")
_EXAMPLES = "live, dense, top-k:64, sampled:4, live/renormalised:16, live/mixed:16+prior"


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSpec:
    """Which distribution, and whether it comes from a cache or from the live teacher."""

    live: bool
    target: TargetSettings = field(default_factory=TargetSettings)


def target_of(text: str) -> TargetSpec:
    """Read one word of the axis; refuse what is none."""
    if text in ("live", "dense"):
        return TargetSpec(live=text == "live")
    live, word = text.startswith("live/"), text.removeprefix("live/")
    found = _WORD.fullmatch(word)
    if found is None:
        raise UsageError(f"target {text!r}: must be like {_EXAMPLES}")
    target = TargetSettings(kind=found["kind"], k=int(found["k"]))  # type: ignore[arg-type]  # the pattern's kinds
    target = _with(text, target, [more for more in found["more"].split("+") if more])
    if not live and (target.kind not in CACHED or target.fresh):
        raise UsageError(f"target {text!r}: no cache holds that; write live/{word}")
    return TargetSpec(live=live, target=target)


def _with(text: str, target: TargetSettings, more: list[str]) -> TargetSettings:
    draws = [int(word) for word in more if word.isdigit()]
    if target.kind == "mixed" and more and set(more) <= {"prior", *map(str, draws)} and len(draws) <= 1:
        share = 0.5 if draws else 1.0
        return replace(target, tail_draws=sum(draws), tail_prior=share if "prior" in more else 0.0)
    if target.kind in ("sampled", "multinomial") and more == ["redraw"]:
        return replace(target, fresh=True)
    if more or target.kind == "mixed":
        raise UsageError(f"target {text!r}: mixed takes +prior, +4 or both, sampled and multinomial +redraw")
    return target


def live_twin(text: str) -> str:
    """The same distribution without a cache: what a word means where responses are written afresh."""
    if text in ("live", "dense"):
        return "live"
    return text if text.startswith("live/") else f"live/{text}"


def shown(text: str) -> str:
    """How a page says it, the same for a cache and for its live twin."""
    word = {"live": "exact", "dense": "exact"}.get(text, text.removeprefix("live/"))
    kind, _, rest = word.partition(":")
    k, *more = rest.split("+")
    words = {
        "top-k": f"top-{k} + tail",
        "renormalised": f"top-{k} renormalised",
        "sampled": f"{k} sampled ids",
        "multinomial": f"{k} multinomial draws",
        "mixed": f"top-{k}",
    }.get(kind, word)
    tail = {"prior": "shared tail prior", "redraw": "drawn again every epoch"}
    return " + ".join([words, *(tail.get(m, f"{m} tail draws") for m in more)])
