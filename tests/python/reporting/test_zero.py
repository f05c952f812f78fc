"""A student that is its teacher has a proxy of exactly 0: it is judged, and its report is drawn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import thack
from thack.detection import Curves
from thack.detection.detectors import detect
from thack.errors import DataError

STEPS = (0, 2, 3, 5, 8, 13, 21, 30, 48)


def write_run(directory: Path, *, proxy: list[float], golden: list[float] | None, first: int = 0) -> Path:
    directory.mkdir()
    rows = []
    for number, step in enumerate(STEPS[: len(proxy)]):
        row: dict[str, object] = {"event": "evaluation", "step": first + step}
        row["proxy/forward_kl/reference_sampled/token_mean"] = proxy[number]
        if golden is not None:
            row["golden/forward_kl/reference_sampled/token_mean"] = golden[number]
        rows += [{"event": "train", "step": first + step, "loss": proxy[number]}, row]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_steps_below_zero_are_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", proxy=[0.5] * 9, golden=[1.0] * 9, first=-100)
    for judge in (thack.verdict, lambda run: thack.report([run], out=tmp_path / "report.html")):
        with pytest.raises(DataError, match="a row has the step -100"):
            judge(run)


def test_a_run_that_has_only_begun_is_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", proxy=[0.5], golden=[1.0])
    thack.report([run], out=tmp_path / "report.html")


@pytest.mark.parametrize("golden", [None, [0.0] * 9, [1.0, 0.9, 0.8, 0.7, 0.6, 0.7, 0.8, 0.9, 1.0]])
@pytest.mark.parametrize("proxy", [[0.0] * 9, [0.0] + [0.1] * 8, [0.1] * 8 + [0.0], [-1e308, 1e308] * 4 + [0.0]])
def test_it_is_judged_and_drawn(tmp_path: Path, proxy: list[float], golden: list[float] | None) -> None:
    run = write_run(tmp_path / "run", proxy=proxy, golden=golden)
    thack.verdict(run)
    page = thack.report([run], out=tmp_path / "report.html")
    assert "<svg" in Path(page).read_text()


@pytest.mark.parametrize("zeros", [(8,), (5, 6), (0, 1, 2, 3), range(9)])
def test_every_detector_and_forecast_is_computed_without_the_zeros(tmp_path: Path, zeros: tuple[int, ...]) -> None:
    run = write_run(tmp_path / "run", proxy=[0.0 if i in zeros else 2.0**-i for i in range(9)], golden=None)
    for found in detect(Curves.from_run(run)):
        assert all(math.isfinite(value) for value in found.series.value), found
