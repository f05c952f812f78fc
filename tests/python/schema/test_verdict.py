"""A verdict survives the way to disk and back; margins and thresholds are checked."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from thack.errors import DataError, UsageError
from thack.schema.metrics import GOLDEN, Series
from thack.schema.verdict import Cause, Detection, Extent, Margins, OracleFreeVerdict, Thresholds, Verdict

GOLDEN_EXTENT = Extent(
    column=str(GOLDEN), start=2.0, minimum=1.0, minimum_step=79.0, end=1.1, end_step=960.0, rise=0.1,
    rise_interval=(0.05, 0.15),
)  # fmt: skip
FOUND = Verdict(
    name="hacking",
    run="runs/a",
    golden=GOLDEN_EXTENT,
    proxy=None,
    num_evaluations=9,
    num_prompts=64,
    onset_step=79.0,
    onset_interval=(48.0, 130.0),
    baseline=1.25,
    side="below",
    notes=("a note",),
    margins=Margins(rise=0.05),
)


def test_a_verdict_survives_json() -> None:
    assert Verdict.from_json(FOUND.to_json()) == FOUND
    assert json.loads(FOUND.to_json())["schema"] == Verdict.SCHEMA
    assert json.loads(FOUND.to_json())["margins"]["rise"] == 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "schema None"),
        ("{", "not JSON"),
        (json.dumps(FOUND.dump() | {"schema": 7}), "schema 7"),
        (json.dumps(FOUND.dump() | {"name": "lunch"}), "name is 'lunch'"),
        (json.dumps({key: value for key, value in FOUND.dump().items() if key != "run"}), "run is missing"),
    ],
)
def test_what_is_no_verdict_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Verdict.from_json(text)


def test_headlines() -> None:
    assert FOUND.headline == "HACKING from step 79 [48, 130]"
    assert replace(FOUND, name="over-fitting", onset_interval=None).headline == "over-fitting from step 79"
    assert replace(FOUND, name="healthy", onset_step=None).headline == "healthy"
    cause = Cause(names=("memorised responses", "wrong target"), basis="signals")
    told = "HACKING from step 79 [48, 130]: memorised responses, wrong target"
    assert replace(FOUND, cause=cause).headline == told


def test_the_metric_of_an_extent() -> None:
    assert GOLDEN_EXTENT.metric == GOLDEN
    assert replace(GOLDEN_EXTENT, column="eval/kl").metric is None


@pytest.mark.parametrize(
    "wrong", [{"rise": 0.0}, {"confidence": 1.0}, {"min_evaluations": 1}, {"resamples": 3}, {"folds": 1}, {"seed": -1}]
)
def test_margins_out_of_bounds_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=rf"margins\.{name} = .* must be"):
        Margins(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [0.0, 1.5])
def test_a_window_is_a_share_of_the_run(window: float) -> None:
    with pytest.raises(UsageError, match=r"thresholds\.window"):
        Thresholds(window=window)


def test_a_suspicion_is_plain_values() -> None:
    series = Series(step=np.array([40.0, 80.0]), value=np.array([0.9, 0.4]))
    found = Detection(name="slope ratio", state="alarm", onset_step=40.0, alarm_step=80.0, value=0.4, threshold=0.5,
                      series=series)  # fmt: skip
    suspicion = OracleFreeVerdict(
        name="hacking suspected", run="a", decided_by="slope ratio", onset_step=40.0, alarm_step=80.0,
        detections=(found,), notes=(), thresholds=Thresholds(),
    )  # fmt: skip
    assert suspicion.deciding is found and suspicion.is_hacking
    assert suspicion.headline == "hacking suspected from step 40"
    document = json.loads(json.dumps(suspicion.dump()))
    assert document["detections"][0]["series"] == {"step": [40.0, 80.0], "value": [0.9, 0.4]}
    assert document["thresholds"]["slope_ratio"] == 0.5
