"""Signals without an oracle, on curves whose nature is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detection.synthetic import STEPS, Noise, write_run
from thack.detection import (
    Curves,
    Thresholds,
    memorisation_gap,
    power_law_deviation,
    slope_ratio,
    training_stalled,
    verdict_without_oracle,
)
from thack.errors import UsageError
from thack.reporting.prose import reasons
from thack.schema.metrics import PROXY, CurveName

STEP_E = np.array(STEPS, dtype=float)


def curves(proxy: np.ndarray, monitor: np.ndarray | None) -> Curves:
    columns = {str(PROXY): proxy}
    column_of: dict[CurveName, str] = {"proxy": str(PROXY)}
    if monitor is not None:
        columns["train_kl/monitor"] = monitor
        column_of["monitor"] = "train_kl/monitor"
    return Curves(name="drawn", step_E=STEP_E, columns=columns, train={}, column_of=column_of)


def law(exponent: float) -> np.ndarray:
    return (1 + STEP_E) ** -exponent


def test_a_student_that_learns_the_task_raises_no_alarm() -> None:
    found = slope_ratio(curves(law(0.4), law(0.5)))
    assert found.state == "quiet" and found.value == pytest.approx(0.8, abs=0.01)


def test_a_student_that_memorises_is_dated_to_where_the_proxy_bends() -> None:
    bent = np.where(STEP_E <= 79, law(0.4), 80**-0.4 * ((1 + STEP_E) / 80) ** -0.05)
    found = slope_ratio(curves(bent, law(0.5)))
    assert found.fired and found.onset_step == 79 and found.alarm_step == 130
    assert found.value == pytest.approx(0.1, abs=0.01)


def test_the_slope_ratio_does_not_depend_on_units() -> None:
    plain, scaled = slope_ratio(curves(law(0.1), law(0.5))), slope_ratio(curves(8 * law(0.1), 3 * law(0.5)))
    assert plain.fired and plain.value == pytest.approx(scaled.value)


def test_where_training_does_not_fall_there_is_no_ratio() -> None:
    flat = np.ones(len(STEP_E))
    assert slope_ratio(curves(law(0.4), flat)).state == "not enough data"
    assert training_stalled(curves(law(0.4), flat)).fired
    assert not training_stalled(curves(law(0.4), law(0.3))).fired


def test_the_gap_fires_once_the_held_out_proxy_is_twice_the_training_kl() -> None:
    gap = memorisation_gap(curves(law(0.1), law(0.3)))
    assert gap.fired and gap.alarm_step == 48
    assert not memorisation_gap(curves(law(0.3), law(0.3))).fired


@pytest.mark.parametrize(("exponent", "fires"), [(0.3, False), (0.03, True), (-0.05, True)])
def test_a_proxy_that_leaves_its_power_law_fires(exponent: float, fires: bool) -> None:
    bent = np.where(STEP_E <= 79, law(0.4), 80**-0.4 * ((1 + STEP_E) / 80) ** -exponent)
    assert power_law_deviation(curves(bent, None)).fired is fires


def test_without_a_monitor_the_verdict_is_open() -> None:
    found = verdict_without_oracle(curves(law(0.4), None))
    assert found.name == "inconclusive" and "train_kl/monitor" in reasons(found)[0]


def test_the_proxy_separates_over_fitting_from_hacking() -> None:
    rising = np.where(STEP_E <= 79, law(0.4), 80**-0.4 * ((1 + STEP_E) / 80) ** 0.1)
    assert verdict_without_oracle(curves(rising, law(0.5))).name == "over-fitting suspected"
    level = np.where(STEP_E <= 79, law(0.4), 80**-0.4)
    assert verdict_without_oracle(curves(level, law(0.5))).name == "hacking suspected"


@pytest.mark.parametrize(("kind", "name"), [("hacking", "hacking suspected"), ("healthy", "no alarm")])
def test_the_synthetic_runs(kind: str, name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", kind, noise=Noise(prompt=0.03, checkpoint=0.0), with_oracle=False)
    found = verdict_without_oracle(Curves.from_run(run))
    assert found.name == name
    assert json.loads(json.dumps(found.dump()))["detections"][0]["series"]["step"][-1] == 960
    assert "tried on other seeds, two other tasks" in reasons(found)[-1]


@pytest.mark.parametrize("fresh", [0.4, 0.05])
def test_fresh_responses_decide_where_there_are_any(fresh: float) -> None:
    """Held-out prompts that are merely harder raise no alarm, nor do easy ones hide one."""
    plain = curves(law(0.45 - fresh), law(0.5))
    seen = replace(
        plain,
        columns={**plain.columns, "train_kl/fresh": law(fresh)},
        column_of={**plain.column_of, "fresh": "train_kl/fresh"},
    )
    found = verdict_without_oracle(seen)
    assert found.deciding.name == "fresh slope ratio" and found.deciding.fired is (fresh < 0.25)
    assert verdict_without_oracle(plain).deciding.name == "slope ratio"
    assert verdict_without_oracle(plain).deciding.fired is (fresh > 0.25)


def test_a_window_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="window"):
        Thresholds(window=1.5)


def dense(num: int, jitter: float) -> Curves:
    """Evenly spaced evaluations of a student that learns its task, its weights jittering from step to step."""
    rng = np.random.default_rng(0)
    step_E = np.linspace(10_000 / num, 10_000, num)
    proxy, monitor = (step_E**-a * np.exp(jitter * rng.normal(size=num)) for a in (0.4, 0.45))
    return replace(curves(proxy, monitor), step_E=step_E)


def test_frequent_evaluations_do_not_turn_jitter_into_an_alarm() -> None:
    found = slope_ratio(dense(100, jitter=0.002))
    assert found.state == "quiet" and found.value == pytest.approx(0.4 / 0.45, abs=0.2)


def test_of_very_many_evaluations_laws_are_fitted_to_a_few() -> None:
    """To all of 1,000 it took a minute, growing with the square."""
    few = dense(40, jitter=0.0)
    assert len(power_law_deviation(few).series) == 37
    many = replace(few, columns={}, train={}, step_E=np.arange(1.0, 801.0))
    many = replace(many, columns={c: many.step_E**-0.4 for c in few.columns})
    assert 45 < len(power_law_deviation(many).series) < 70
    assert 45 < len(training_stalled(many).series) < 110
