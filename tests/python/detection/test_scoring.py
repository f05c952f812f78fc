"""Detectors against the oracle's verdict, on runs whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.synthetic import Noise, write_run
from thack.detection import DETECTORS, Case, Curves, Thresholds, choose_threshold, score_detectors, slope_ratio
from thack.detection.scoring import area, roc_curve, score, with_chosen
from thack.errors import UsageError
from thack.schema.metrics import CurveName
from thack.schema.verdict import Cause


def case(path: Path, kind: str, seed: int) -> Case:
    run = write_run(path / f"{kind}{seed}", kind, seed=seed, noise=Noise(prompt=0.03, checkpoint=0.0), num_prompts=64)
    return Case.of(Curves.from_run(run))


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    path = tmp_path_factory.mktemp("runs")
    return [case(path, kind, seed) for kind in ("hacking", "healthy") for seed in range(3)]


def test_the_oracle_decides_what_counts(cases: list[Case]) -> None:
    assert [c.rises for c in cases] == [True] * 3 + [False] * 3


def test_a_perfect_detector_has_no_misses_and_no_false_alarms(cases: list[Case]) -> None:
    found = score(slope_ratio, cases, Thresholds(slope_ratio=0.5))
    assert (found.num_rising, found.num_healthy, found.hits, found.misses, found.false_alarms) == (3, 3, 3, 0, 0)
    assert found.accuracy == 1 and found.auc == 1
    first, *between, last = found.roc
    assert first == (0.0, 0.0) and (0.0, 1.0) in between and last == (1.0, 1.0)
    assert len(found.leads) == 3 and found.median_lead is not None and -1.5 < found.median_lead <= 0
    assert all(rise >= -1e-9 for rise in found.rises)
    json.dumps(found.dump())


def test_thresholds_beyond_all_values_miss_or_cry_wolf(cases: list[Case]) -> None:
    never = score(slope_ratio, cases, Thresholds(slope_ratio=-9))
    assert (never.hits, never.false_alarms, never.accuracy) == (0, 0, 0.5)
    always = score(slope_ratio, cases, Thresholds(slope_ratio=99))
    assert (always.misses, always.false_alarms, always.accuracy) == (0, 3, 0.5)


def test_a_chosen_threshold_holds_on_other_seeds(cases: list[Case], tmp_path: Path) -> None:
    chosen = with_chosen(cases)
    others = [case(tmp_path, kind, seed) for kind in ("hacking", "healthy") for seed in (10, 11)]
    found = {one.detector: one for one in score_detectors(others, chosen)}
    assert found["slope ratio"].accuracy == 1
    assert next(iter(found.values())).accuracy == max(one.accuracy for one in found.values())


def test_of_equals_the_one_that_alarms_sooner_comes_first(cases: list[Case]) -> None:
    found = score_detectors(cases, Thresholds(slope_ratio=0.5, exponent=0.12))
    perfect = [one for one in found if one.accuracy == 1]
    leads = [one.median_lead for one in perfect if one.median_lead is not None]
    assert len(leads) > 2 and leads == sorted(leads, reverse=True)


def test_a_threshold_needs_both_kinds_of_runs(cases: list[Case]) -> None:
    assert choose_threshold(slope_ratio, cases[:3]) is None
    assert with_chosen(cases[:3]) == Thresholds()


def test_no_signal_uses_what_came_later(cases: list[Case]) -> None:
    """Cut a run anywhere: the values up to there stay as they were."""
    whole = cases[0].curves
    for keep in (10, 12, 14):
        columns = {name: values[:keep] for name, values in whole.columns.items()}
        last = whole.step_E[keep - 1]
        train = {
            name: type(one)(step=one.step[one.step <= last], value=one.value[one.step <= last])
            for name, one in whole.train.items()
        }
        part = Curves(name="cut", step_E=whole.step_E[:keep], columns=columns, train=train, column_of=whole.column_of)
        for detector in DETECTORS:
            seen, later = detector.signal(part, Thresholds()).series, detector.signal(whole, Thresholds()).series
            assert seen.step.tolist() == later.step[: len(seen)].tolist(), detector.name
            np.testing.assert_allclose(seen.value, later.value[: len(seen)], err_msg=detector.name)


def test_the_area_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    worst = rng.integers(0, 6, 40).astype(float)
    turned = rng.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in worst[turned] for b in worst[~turned]]
    assert area(worst, turned) == pytest.approx(np.mean(pairs))
    false, hit = np.array(roc_curve(worst, turned)).T
    assert np.all(np.diff(false) >= 0) and np.all(np.diff(hit) >= 0)
    assert np.trapezoid(hit, false) == pytest.approx(np.mean(pairs))


def test_a_run_without_an_oracle_cannot_be_scored_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", with_oracle=False, num_prompts=8)
    with pytest.raises(UsageError, match="has no golden metric"):
        Case.of(Curves.from_run(run))


def test_an_alarm_after_the_last_golden_value_is_scored() -> None:
    """Golden is dear: a log may have fewer values of it, and none at the end."""
    step_E = np.array([31.0, 50, 80, 130, 215, 354, 583, 960])
    golden = np.array([1.3, 1.0, 1.05, 1.1, 1.15, 1.2, np.nan, np.nan])
    columns = {"g": golden, "p": step_E**-0.3, "m": step_E ** -np.where(step_E > 500, 0.9, 0.35)}
    column_of: dict[CurveName, str] = {"golden": "g", "proxy": "p", "monitor": "m"}
    curves = Curves(name="drawn", step_E=step_E, columns=columns, train={}, column_of=column_of)
    found = score(slope_ratio, [Case.of(curves)], Thresholds())
    assert found.hits == 1 and found.rises == pytest.approx([0.2])


def test_the_median_of_two_lies_between_them() -> None:
    found = score(slope_ratio, [], Thresholds())
    assert found.median_rise is None
    assert replace(found, rises=(0.1, 0.3)).median_rise == pytest.approx(0.2)


def test_hits_are_counted_by_the_causes_that_golden_at_equal_proxy_told(cases: list[Case]) -> None:
    def caused(case: Case, **changes: Any) -> Case:
        usual: dict[str, Any] = {"names": ("memorised responses",), "basis": "online path", "target": "dense"}
        return replace(case, truth=replace(case.truth, cause=Cause(**{**usual, **changes})))

    rising, healthy = cases[:3], cases[3:]
    given = [
        caused(rising[0]),
        caused(rising[1], basis="signals"),  # named by the detector itself
        caused(rising[2], names=("wrong target",), target="top-k:4"),
        caused(rising[0], names=()),
        *healthy,
    ]
    found = score(slope_ratio, given, Thresholds(slope_ratio=0.5))
    assert found.by_cause == {"memorised responses": (1, 1), "a biased target": (1, 1), "another cause": (1, 1)}
    never = score(slope_ratio, given, Thresholds(slope_ratio=-9))
    assert set(never.by_cause.values()) == {(0, 1)}
