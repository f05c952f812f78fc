"""Which column of a log plays which part: golden, proxy and the other words of a verdict."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from thack.detection.rows import Row
from thack.errors import DataError, UsageError
from thack.schema.metrics import GOLDEN, PROXY, Role, TrainingKL, find_metric

#: What takes the oracle's place in golden where there is none, best first; the column says which it is.
STAND_INS = (Role.JUDGE, Role.HUMAN)
#: What a mapping may name, and the columns of a thack run that play the part.
WORDS: Mapping[str, tuple[str, ...]] = {
    "step": ("step", "global_step", "_step", "iteration"),
    "epoch": ("epoch",),
    "golden": (str(GOLDEN),),
    "proxy": (str(PROXY),),
    "baseline": (str(GOLDEN.of_baseline),),
    "monitor": (TrainingKL.MONITOR,),
    "fresh": (TrainingKL.FRESH,),
    "train_loss": ("loss", "train_loss"),
}


def known(mapping: Mapping[str, str] | None) -> dict[str, str]:
    for word in mapping or {}:
        if word not in WORDS:
            raise UsageError(
                f"`mapping` knows no word {word!r}",
                details=[f"it knows: {', '.join(WORDS)}"],
                hint=_closest(word, WORDS),
            )
    return dict(mapping or {})


def resolve(chosen: Mapping[str, str], usual: Mapping[str, str], present: set[str], place: str) -> dict[str, str]:
    """Which column plays which part: what was asked for must be there, the rest is found or missing."""
    words: dict[str, str] = {}
    for word, defaults in WORDS.items():
        asked = chosen.get(word)
        found: str | None
        if asked is not None:
            slashed = asked.replace(".", "/")
            found = asked if asked in present else slashed if slashed in present else None
            if found is None:
                raise DataError(
                    f"{place} has no column {asked!r} (for {word})",
                    details=[f"it has: {', '.join(sorted(present)[:40])}"],
                    hint=_closest(asked, present),
                )
        elif word == "baseline":
            found = _baseline_of(words.get("golden"), present)
        else:
            columns = (usual[word],) if word in usual else defaults
            found = next((column for column in columns if column in present), None)
            if found is None and word == "golden":
                found = _stand_in(columns[0], present)
        if found is not None:
            words[word] = found
    if "step" not in words:
        raise DataError(
            f"{place} has no column for the step",
            details=[f"it has: {', '.join(sorted(present)[:40])}"],
            hint="name it in `mapping`, such as step=COLUMN",
        )
    return words


def _stand_in(golden: str, present: set[str]) -> str | None:
    """The judge's or the human column in golden's place."""
    metric = find_metric(golden)
    columns = [] if metric is None else [str(metric.against(role)) for role in STAND_INS]
    return next((column for column in columns if column in present), None)


def _baseline_of(golden: str | None, present: set[str]) -> str | None:
    """The baseline of golden's column, of the same divergence; None for another trainer's columns."""
    metric = GOLDEN if golden is None else find_metric(golden)
    baseline = str(metric.of_baseline) if metric is not None else ""
    return baseline if baseline in present else None


def no_metric(rows: Sequence[Row], place: str) -> DataError:
    present = sorted({key for row in rows for key in row})
    return DataError(
        f"{place} has neither a golden nor a proxy column",
        details=[f"it has: {', '.join(present[:40])}"],
        hint="name them in `mapping`, such as golden=COLUMN,proxy=COLUMN; or distill with an evaluation set",
    )


def _closest(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"did you mean {close[0]!r}?" if close else None
