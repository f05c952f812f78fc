"""A grid's page: right about what the runs show, plain about what is missing."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import pytest

import thack
from detection.synthetic import SHAPES
from reporting.dom import links, tree
from reporting.grid_of_runs import ARMS, ONLINE, arm, rising, write_grid
from thack.errors import DataError
from thack.reporting import style, write_grid_report
from thack.reporting.grid import Grid, load_grid


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grid(tmp_path_factory.mktemp("grid"), missing="JSD")


@pytest.fixture(scope="module")
def grid(root: Path) -> Grid:
    return load_grid(root)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return write_grid_report(root, root / "report.html").read_text()


def test_detectors_are_scored_on_all_runs_and_on_each_task(tmp_path: Path) -> None:
    arms = [
        *ARMS[:2],
        arm("signature, offline", ["F8"], rising(0.09), task="signature"),
        arm("signature, online-teacher", ["F8"], SHAPES["healthy"], task="signature", **ONLINE),
    ]
    root = write_grid(tmp_path, arms, seeds=(0,))
    page = write_grid_report(root, root / "report.html").read_text()
    assert page.count(">onsets found<") == 3
    assert "2 of 2" in page and "task signature" in page


def test_claims_are_those_of_the_summary(grid: Grid, root: Path, page: str) -> None:
    with open(root / "plots" / "claims.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = grid.summary.claims
    assert [(row["claim"], row["answer"]) for row in rows] == [(one.text, one.answer) for one in found]
    assert float(rows[0]["mean"]) == found[0].effect.mean
    assert rows[0]["should_be_above"] == "0.03" and rows[0]["should_be_below"] == ""
    assert found[0].answer == "holds" and found[0].text in html.unescape(page)


def test_the_page_is_whole_and_starts_with_the_claims(page: str) -> None:
    ids, sources, references = links(tree(page))
    assert len(ids) == len(set(ids)) and references <= set(ids)
    assert not sources and "<script" not in page
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
    assert "response length, tokens" in page and "→\N{NO-BREAK SPACE}13.0" in page


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
    with pytest.raises(DataError, match="not a grid") as raised:
        load_grid(tmp_path)
    assert "schema" in str(raised.value)


def test_arms_are_told_apart_by_their_axes_and_not_by_their_names(tmp_path: Path) -> None:
    arms = [arm("once", ["axes"], rising(0.15), target="sampled:16"), arm("again", ["axes"], target="live/sampled:16")]
    path = write_grid(tmp_path, arms, seeds=(0, 1)) / "experiment.json"
    path.write_text(path.read_text().replace('"arm": "again"', '"arm": "once"'))
    found = load_grid(tmp_path).arms
    assert [(one.runs.name, one.axes.target, [run.seed for run in one.runs.runs]) for one in found] == [
        ("once", "sampled:16", [0, 1]),
        ("once", "live/sampled:16", [0, 1]),
    ]


def test_a_sole_figure_of_targets(tmp_path: Path) -> None:
    arms = [
        arm("offline", ["target"], rising(0.05)),
        arm("top-16 + tail", ["target"], rising(0.15), target="top-k:16"),
        arm("16 sampled ids", ["target"], rising(0.25), target="sampled:16"),
    ]
    root = write_grid(tmp_path, arms)
    page = write_grid_report(root, root / "report.html").read_text()
    assert "Where golden ends, over what the target costs" in page and "bytes per token" in page
