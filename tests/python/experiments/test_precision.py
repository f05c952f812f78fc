"""How many seeds an interval needs: by its definition, against a table of χ², and on a grid's complete runs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from thack.cli import app
from thack.experiments.precision import seeds_for, upper_spread

from .small import SETS, write_sums

QUANTILES = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645, 6: 2.57058, 7: 2.44691, 8: 2.36462}  # of a table


@pytest.mark.parametrize("needed", list(QUANTILES))
def test_the_least_number_of_seeds(needed: int) -> None:
    half = QUANTILES[needed] / math.sqrt(needed)
    assert seeds_for(1.0, half * 1.001) == needed
    assert seeds_for(3.0, 3.0 * half * 1.001) == needed, "only the ratio counts"
    assert seeds_for(1.0, half * 0.999) == needed + 1


def test_no_spread_takes_two_seeds_and_too_much_has_no_answer() -> None:
    assert seeds_for(0.0, 0.02) == 2
    assert seeds_for(1.0, 0.01) is None


@pytest.mark.parametrize(("count", "quantile", "error"), [(3, 0.44629, 0.01), (5, 1.64878, 0.01), (11, 6.17908, 0.01)])
def test_the_upper_end_of_a_spread(count: int, quantile: float, error: float) -> None:
    """Against tabulated 20 % quantiles of χ² with count − 1 degrees of freedom."""
    assert upper_spread(2.0, count) == pytest.approx(2.0 * math.sqrt((count - 1) / quantile), rel=error)
    assert upper_spread(2.0, 2) > upper_spread(2.0, 3) > upper_spread(2.0, 30) > 2.0


def test_a_dry_run_says_how_many_seeds_each_claim_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THACK_NUM_THREADS", "1")
    data, f6 = write_sums(tmp_path / "data"), ["groups.F6.diversity=[1, 2]", "half_width=0.05", "distill.steps=60"]
    sets = [word for key in [*SETS, f"data={data}", *f6] for word in ("--set", key)]
    grid = ["experiment", "quick", "--figures", "F6", "--out", str(tmp_path / "out"), *sets]
    assert app.run([*grid, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == []
    assert app.run([*grid, "--seeds", "2", "--quiet"]) == 0
    capsys.readouterr()
    assert app.run([*grid, "--seeds", "5", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    worse, same = told["seeds"]
    assert worse["text"] == "Less diverse prompts (÷2) make hacking worse" and "same proxy" in same["text"]
    assert worse["num_seeds"] == 2 and told["half_width"] == 0.05
    assert worse["needed"] == seeds_for(worse["spread"], 0.05)
    assert worse["at_most"] == seeds_for(upper_spread(worse["spread"], 2), 0.05)
    assert app.run([*grid, "--seeds", "5", "--dry-run"]) == 0
    assert "seeds for ± 5 points" in capsys.readouterr().out
