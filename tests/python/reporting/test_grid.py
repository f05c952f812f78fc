"""A grid's claims and page: right about what the runs show, plain about what is missing."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from grid_of_runs import ARMS, ONLINE, arm, rising, write_grid
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import SHAPES
from test_report import parse

import thack
from thack.errors import DataError
from thack.reporting import style, write_grid_report
from thack.reporting.claims import claims
from thack.reporting.effects import Claim, claims_csv, effect_of
from thack.reporting.grid import Grid, load_grid

QUANTILES = {2: 12.7062, 3: 4.30265, 4: 3.18245, 5: 2.77645, 6: 2.57058, 7: 2.44691, 8: 2.36462}  # of a table


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"), missing="JSD")


@pytest.fixture(scope="module")
def grid(root: Path) -> Grid:
    return load_grid(root)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return write_grid_report(root, root / "report.html").read_text()


def answers(grid: Grid) -> dict[str, str]:
    return {claim.text: claim.answer for claim in claims(grid)}


def test_claims_follow_the_curves(grid: Grid) -> None:
    found = answers(grid)
    assert found["Offline, golden turns up again"] == "holds"
    assert found["… while the proxy goes on falling"] == "holds"
    assert found["With fresh responses by the teacher, golden does not turn up"] == "holds"
    assert found["Less diverse prompts (÷5) make hacking worse"] == "holds"
    assert found["… at about the same proxy"] == "holds"
    assert found["A larger budget (5 generations per prompt) makes hacking milder"] == "holds"


def test_what_does_not_reproduce_is_said(grid: Grid) -> None:
    """With JSD the online arm was drawn to rise as much as the offline one."""
    assert answers(grid)["With JSD as loss, offline hacks more than online"] in ("does not hold", "inconclusive")


def test_the_opposite_does_not_hold(tmp_path: Path) -> None:
    arms = [arm("offline", ["F7"], rising(0.05)), arm("5 generations", ["F7"], rising(0.15), budget=5)]
    found = answers(load_grid(write_grid(tmp_path, arms)))
    assert found["A larger budget (5 generations per prompt) makes hacking milder"] == "does not hold"


def test_what_a_cache_keeps_is_compared_by_goldens_end(tmp_path: Path) -> None:
    arms = [
        arm("offline", ["target"], rising(0.05)),
        arm("top-16 + tail", ["target"], rising(0.15), target="top-k:16"),
        arm("top-16 + shared tail prior", ["target"], rising(0.10), target="live/mixed:16+prior"),
        arm("16 sampled ids", ["target"], rising(0.25), target="sampled:16"),
    ]
    root = write_grid(tmp_path, arms)
    found = answers(load_grid(root))
    assert found == {
        "16 sampled ids that stay the same turn golden up more than exact ones": "holds",
        "Top-16 with its tail is worse than exact": "holds",
        "16 sampled ids are worse than exact": "holds",
        "A tail prior shared by the whole cache helps top-16": "holds",
    }
    page = write_grid_report(root, root / "report.html").read_text()
    assert "Where golden ends, over what the target costs" in page
    assert "bytes per token" in page


def test_an_arm_is_compared_with_its_own_twin(tmp_path: Path) -> None:
    """A grid of one's own may cross an axis with others: two things at once would be no comparison."""
    crossed = {"fraction": {"source": "mixture", "target": "live", "fraction_online": 0.1}, "F6": {"diversity": 5}}
    own, jsd = list(crossed), {"loss": "jsd"}
    arms = [arm("offline", [*own, "target"], rising(0.05)), arm("JSD", [*own, "target"], rising(0.15), **jsd)]
    for figure, axes in crossed.items():
        arms += [
            arm(figure, [figure], rising(0.08), **axes),
            arm(f"{figure}, JSD", [figure], rising(0.1), **axes, **jsd),
        ]
    arms += [arm("top", ["target"], rising(0.1), target="top-k:16")]
    arms += [arm("top, JSD", ["target"], rising(0.1), target="top-k:16", **jsd)]
    found = {one.text: one.effect.mean for one in claims(load_grid(write_grid(tmp_path, arms, seeds=(0,))))}
    worse, milder = "Less diverse prompts (÷5) make hacking worse", "10 % of fresh responses makes hacking milder"
    assert found[worse] == pytest.approx(0.03, abs=0.02)
    assert found[f"{worse} (loss jsd)"] == pytest.approx(-0.05, abs=0.02)
    assert found[milder] == pytest.approx(-0.03, abs=0.02)
    assert found[f"{milder} (loss jsd)"] == pytest.approx(0.05, abs=0.02)
    assert found["Top-16 with its tail is worse than exact"] > 0.02
    assert found["Top-16 with its tail is worse than exact (loss jsd)"] < -0.02


def test_detectors_are_scored_on_all_runs_and_on_each_task(tmp_path: Path) -> None:
    arms = [
        *ARMS[:2],
        arm("signature, offline", ["F8"], rising(0.09), task="signature"),
        arm("signature, online-teacher", ["F8"], SHAPES["healthy"], task="signature", **ONLINE),
    ]
    root = write_grid(tmp_path, arms, seeds=(0,))
    page = write_grid_report(root, root / "report.html").read_text()
    assert page.count(">turns found<") == 3
    assert "2 of 2" in page and "task signature" in page


def test_one_seed_is_never_enough(tmp_path: Path) -> None:
    found = claims(load_grid(write_grid(tmp_path, seeds=(0,))))
    assert found and {claim.answer for claim in found} == {"inconclusive"}


def test_seeds_are_paired(grid: Grid) -> None:
    """The failed seed of JSD leaves its pair out too."""
    claim = next(c for c in claims(grid) if c.text == "With JSD as loss, offline hacks more than online")
    assert sorted(claim.effect.by_seed) == [0, 1]


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=8), st.floats(-2, 2))
def test_the_interval_is_students(values: list[float], shift: float) -> None:
    found = effect_of(dict(enumerate(values)))
    n = len(values)
    half = QUANTILES[n] * np.std(values, ddof=1) / math.sqrt(n)
    assert found.low is not None and found.high is not None
    np.testing.assert_allclose(
        [found.low, found.mean, found.high], np.mean(values) + np.array([-half, 0, half]), rtol=1e-3, atol=1e-3
    )
    moved = effect_of({seed: value + shift for seed, value in enumerate(values)})
    np.testing.assert_allclose(moved.mean, found.mean + shift, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "bounds", "answer"),
    [
        ((0.09, 0.10, 0.11), (0.03, math.inf), "holds"),
        ((0.00, 0.01, 0.00), (0.03, math.inf), "does not hold"),
        ((0.02, 0.05, 0.03), (0.03, math.inf), "inconclusive"),
        ((0.01, 0.02, 0.00), (-0.10, 0.10), "holds"),
        ((0.5, 0.5, 0.5), (-0.10, 0.10), "does not hold"),
        ((0.5,), (0.0, math.inf), "inconclusive"),
    ],
)
def test_answers(values: tuple[float, ...], bounds: tuple[float, float], answer: str) -> None:
    effect = effect_of(dict(enumerate(values)))
    low, high = bounds
    claim = Claim(figure="F4", text="x", measure="y", unit="%", low=low, high=high, effect=effect)
    assert claim.answer == answer


def test_claims_as_csv(grid: Grid) -> None:
    found = claims(grid)
    rows = list(csv.DictReader(io.StringIO(claims_csv(found))))
    assert [row["claim"] for row in rows] == [claim.text for claim in found]
    assert float(rows[0]["mean"]) == pytest.approx(found[0].effect.mean)
    assert rows[0]["should_be_above"] == "0.03" and rows[0]["should_be_below"] == ""


def test_the_page_is_whole_and_starts_with_the_claims(page: str) -> None:
    parser = parse(page)
    assert len(parser.ids) == len(set(parser.ids)) and parser.references <= set(parser.ids)
    assert not parser.sources and "<script" not in page
    assert re.search(r"<h1>\d+ of \d+ claims hold at this size", page)
    assert page.index('id="claims"') < page.index('id="F4"') < page.index('id="F5"') < page.index('id="glossary"')
    assert "tiapkin2025teacherhacking" in page
    assert "10.0 minutes of processor time" in page.replace("\u00a0", " ")


def test_a_failed_cell_is_named(page: str) -> None:
    assert "17 of 18 cells are finished" in page and "no &lt;luck&gt;" in page


def test_every_figure_has_its_numbers_beside_it(root: Path, page: str) -> None:
    plots = {path.name for path in (root / "plots").iterdir()}
    assert {"F4.svg", "F4.csv", "F5-golden.svg", "F5.csv", "F6-rise.svg", "F7.csv", "loss-rise.svg"} <= plots
    head, first, *_ = (root / "plots" / "F6.csv").read_text().splitlines()
    assert head.startswith("arm,seed,run,step") and first.startswith("offline,0,")


def test_health_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    root = write_grid(tmp_path, ARMS[:1])
    for path in root.glob("runs/*/metrics.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if row["event"] == "evaluation":
                row["health/response_tokens/student_sampled"] = 12.0 + row["step"] / 960
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_grid_report(root, root / "report.html").read_text()
    assert "response length, tokens" in page and "→ 13.0" in page


def test_without_matplotlib_the_page_has_its_tables(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("thack.reporting.write.available", lambda: False)
    page = write_grid_report(root, tmp_path / "report.html").read_text()
    assert "<svg" not in page and style.INSTALL in html.unescape(page) and 'id="claims"' in page


def test_report_knows_a_grid(root: Path, tmp_path: Path) -> None:
    assert "claims hold" in thack.report(root, tmp_path / "report.html").read_text()


def test_another_experiment_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text('{"runs": [{}]}')
    with pytest.raises(DataError, match="not a grid"):
        load_grid(tmp_path)
