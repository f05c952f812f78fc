"""docs/concepts/verdict.md against the code: every combination of its conditions, and every margin."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from thack.detection import Curves, Margins, verdict
from thack.detection.causes import cause_of
from thack.detection.statistics import PromptCurves
from thack.reporting.causes import CAUSES
from thack.schema.metrics import GOLDEN, PROXY, CurveName, MetricName
from thack.schema.verdict import PROMPTS_APART, VerdictName

DOCUMENT = (Path(__file__).parents[3] / "docs" / "concepts" / "verdict.md").read_text(encoding="utf-8")
STEP_E = np.array([0, *(40 * 2**i for i in range(7))], dtype=float)
NUM_PROMPTS = 40

# condition of a cell → which curves satisfy it, by their names below
GOLDEN_CELLS = {
    "": {"missing", "few", "no end", "unsure", "low", "high"},
    "not measured": {"missing"},
    "fewer than 6 evaluations": {"few"},
    "last value is no number": {"no end"},
    "interval of the rise contains 3 %": {"unsure"},
    "rise < 3 %": {"low"},
    "rise ≥ 3 %": {"high"},
}
PROXY_CELLS = {
    "": {"missing", "no end", "rises", "converged", "converged, rises", "falls", "level"},
    "not measured": {"missing"},
    "last value is no number": {"no end"},
    "rise ≥ 3 %": {"rises", "converged, rises"},
    "end < 10 % of start": {"converged", "converged, rises"},
}
BASELINE_CELLS = {
    "": {"missing", "above", "below", "close"},
    "not measured": {"missing"},
    "golden ends below": {"above"},  # the baseline is above golden
}
CELLS = (GOLDEN_CELLS, PROXY_CELLS, BASELINE_CELLS)

FALLING = np.array([2.0, 1.2, 1.1, 1.0, 0.9, 0.85, 0.8, 0.75])
RISING = np.array([2.0, 1.2, 1.1, 1.0, 1.01, 1.02, 1.03, 1.031])
LEVEL = np.array([2.0, 1.2, 1.1, 1.0, 1.01, 1.02, 1.025, 1.029])
GOLDENS = {
    "low": LEVEL,
    "high": RISING,
    "few": np.where(STEP_E > 40 * 2**4, np.nan, RISING),
    "no end": np.where(STEP_E[-1] == STEP_E, np.nan, RISING),
    "unsure": np.array([2.0, 1.2, 1.1, 1.0, 1.01, 1.02, 1.03, 1.035]),
}
PROXIES = {
    "falls": np.array([2.0, 0.5, 0.4, 0.3, 0.25, 0.24, 0.23, 0.202]),  # to 10.1 % of its start
    "level": LEVEL,
    "no end": np.where(STEP_E[-1] == STEP_E, np.nan, FALLING),
    "rises": RISING,
    "converged": np.array([2.0, 0.5, 0.4, 0.3, 0.25, 0.24, 0.23, 0.198]),  # to 9.9 %
    "converged, rises": np.array([2.0, 0.5, 0.4, 0.3, 0.15, 0.1, 0.1, 0.1031]),
}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first column is `heading`."""
    table = DOCUMENT[DOCUMENT.index(f"| {heading} |") :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def prompts(value_E: np.ndarray, noise: float, seed: int) -> PromptCurves:
    """One token per prompt, with noise of its own around each value."""
    own_EP = 1 + noise * np.random.default_rng(seed).standard_normal((len(value_E), NUM_PROMPTS))
    own_EP /= own_EP.mean(axis=1, keepdims=True)
    return PromptCurves(nats_EP=value_E[:, None] * own_EP, tokens_EP=np.ones_like(own_EP))


def drawn(golden: str, proxy: str, baseline: str) -> Curves:
    """Curves with the conditions of these names."""
    values: dict[CurveName, np.ndarray] = {}
    if golden != "missing":
        values["golden"] = GOLDENS[golden]
    if proxy != "missing":
        values["proxy"] = PROXIES[proxy]
    if baseline != "missing":
        level = {"above": 1.5, "below": 0.5, "close": values.get("golden", RISING)[-1]}[baseline]
        values["baseline"] = np.full(len(STEP_E), level)
    names: dict[CurveName, MetricName | None] = {"golden": GOLDEN, "proxy": PROXY, "baseline": GOLDEN.of_baseline}
    noise = {"golden": 0.08 if golden == "unsure" else 0.0, "baseline": 0.2 if baseline == "close" else 0.0}
    return Curves(
        name="drawn",
        step_E=STEP_E,
        columns={str(names[name]): value_E for name, value_E in values.items()},
        train={},
        column_of={name: str(names[name]) for name in values},
        per_prompt={
            metric.per_prompt: prompts(value_E, noise.get(name, 0.0), seed=3)
            for name, value_E in values.items()
            if (metric := names[name]) is not None
        },
        without_end=tuple(name for name, value_E in values.items() if not np.isfinite(value_E[-1]) and golden != "few"),
    )


COMBINATIONS = [
    names
    for names in itertools.product(*(sorted(cells[""]) for cells in CELLS))
    if names[:2] != ("missing", "missing")  # a log with neither is refused
]


def first_fit(names: tuple[str, ...]) -> int:
    """The first row of the document that fits."""
    fits = [
        all(name in cells[condition] for name, cells, condition in zip(names, CELLS, conditions, strict=True))
        for _, *conditions in rows("verdict")
    ]
    return fits.index(True)


@pytest.mark.parametrize("names", COMBINATIONS, ids=" · ".join)
def test_the_verdict_is_that_of_the_first_row_that_fits(names: tuple[str, str, str]) -> None:
    expected = rows("verdict")[first_fit(names)][0]
    assert verdict(drawn(*names), Margins(resamples=200)).name == expected


def test_every_row_decides_something() -> None:
    assert {first_fit(names) for names in COMBINATIONS} == set(range(len(rows("verdict"))))


CAUSE_CELLS = (
    {"": {"higher", "equal", "unknown"}, "higher": {"higher"}, "not higher": {"equal"}},
    {"": {"alarm", "quiet", "not enough data"}, "alarm": {"alarm"}, "quiet": {"quiet"}},
    {
        "": {"", "dense", "live/top-k:16", "live/renormalised:16", "sampled:4", "live/mixed:16+prior"},
        "renormalised": {"live/renormalised:16"},
        "not known": {""},
        "biased": {"live/top-k:16", "live/renormalised:16", "live/mixed:16+prior"},
    },
    {"": {"apart", "together", "not known"}, "apart": {"apart"}},
    {
        "": {"regressing", "below", "above", "minimum above", "over-fitting"},
        "regressing to the teacher": {"regressing"},
        "a pull is possible": {"below", "regressing"},
    },
)
LINES: dict[str, tuple[VerdictName, bool, bool]] = {
    "regressing": ("regressing to the teacher", False, True),
    "below": ("hacking", False, True),
    "above": ("hacking", True, True),
    "minimum above": ("hacking", True, False),
    "over-fitting": ("over-fitting", False, True),
}


def test_the_cause_is_that_of_the_first_row_that_fits() -> None:
    found, used = rows("named"), set()
    excess = {"higher": (0.1, (0.05, 0.2)), "equal": (0.0, (-0.1, 0.02)), "unknown": None}
    ratio = {"apart": PROMPTS_APART, "together": PROMPTS_APART - 0.01, "not known": None}
    for names in itertools.product(*(sorted(cells[""]) for cells in CAUSE_CELLS)):
        fits = [
            all(name in cells[cell] for name, cells, cell in zip(names, CAUSE_CELLS, conditions, strict=True))
            for _, *conditions in found
        ]
        used.add(fits.index(True))
        path, memorisation, target, prompts_are, line = names
        name, above, below = LINES[line]
        cause = cause_of(
            name,
            excess=excess[path],
            memorisation=memorisation,  # type: ignore[arg-type]  # of the table
            prompts_apart=ratio[prompts_are],
            target=target,
            above_baseline=above,
            below_baseline=below,
            covered=None,
            margin=Margins().rise,
        )
        assert (", ".join(cause.names) or "none") == found[fits.index(True)][0], names
    assert used == set(range(len(found))), "every row decides something"


def test_the_distance_from_which_prompts_are_apart() -> None:
    assert {float(n) for n in re.findall(r"([\d.]+) times what it was at the start", DOCUMENT)} == {PROMPTS_APART}


def test_each_cause_is_told_with_what_to_do() -> None:
    assert [row[0] for row in rows("cause")] == list(CAUSES)


def test_the_numbers_of_the_table_are_the_margins() -> None:
    margins = Margins()
    cells = [cell for row in rows("verdict") for cell in row]
    assert {int(n) for cell in cells for n in re.findall(r"fewer than (\d+)", cell)} == {margins.min_evaluations}
    assert (
        {int(n) for cell in cells for n in re.findall(r"[<≥] (\d+) %$|contains (\d+) %", cell) for n in n if n}
        == {round(100 * margins.rise)}
        == {round(100 * margins.proxy_rise)}
    )
    assert {int(n) for cell in cells for n in re.findall(r"< (\d+) % of start", cell)} == {
        round(100 * margins.proxy_converged)
    }


def test_the_margins_are_listed_with_their_defaults() -> None:
    listed = {name.strip("`"): float(default) for name, default, _ in rows("margin")}
    assert listed == asdict(Margins())
