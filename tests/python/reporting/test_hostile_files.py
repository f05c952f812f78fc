"""Every text of every file that a report reads is only text: in the page, in a browser, in CSV, in a model's card."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from detection.synthetic import Noise, write_run
from reporting.dom import tree
from reporting.grid_of_runs import BASE
from reporting.hostile import PAYLOAD, RAN, SCRIPT, document
from thack.detection import Curves, verdict
from thack.reporting import model_card, write_grid_report, write_report
from thack.schema.experiment import CellResult, ClaimResult, ExperimentArm, RunLabel, RunLabels, Summary
from thack.schema.metric_rows import GuardRow
from thack.schema.run import Environment, Manifest, Status
from thack.schema.samples import PROMPTS_FILE, SAMPLES_FILE, PromptRow, SampleRow

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
TAGS = """html head meta title style body header main section footer article figure figcaption div p h1 h2 h3 h4
    table thead tbody tr th td span small strong code pre details summary ul li dl dt dd
    svg g defs path use text clippath rect mark"""
NAME = re.sub(r"[/\0]", "∕", PAYLOAD)[:60]  # of a directory, where most of it cannot stand


def hostile_run(path: Path) -> Path:
    """A run in which every file has the payload wherever a text may be."""
    write_run(path, noise=Noise(checkpoint=0.0), num_prompts=16)
    guard = document(GuardRow, PAYLOAD, event="guard", step=50, action="alarm")
    more = {"event": "evaluation", "step": 960, f"golden/{PAYLOAD}": 1.0, PAYLOAD: 2.0, "text": PAYLOAD}
    with (path / "metrics.jsonl").open("a") as log:
        log.writelines(json.dumps(row) + "\n" for row in (guard, more))
    text, key = json.dumps(PAYLOAD), json.dumps(f"key {PAYLOAD}")
    (path / "config.toml").write_text(f"student = {text}\nteacher = {text}\ncache = {text}\n[notes]\n{key} = {text}\n")
    files: Mapping[str, Mapping[str, object]] = {
        "environment.json": document(Environment, PAYLOAD),
        "manifest.json": document(Manifest, PAYLOAD, kind="run", command="distill"),
        "STATUS.json": document(Status, PAYLOAD, state="failed"),
    }
    for name, values in files.items():
        (path / name).write_text(json.dumps(values))
    lines = {
        SAMPLES_FILE: document(SampleRow, PAYLOAD, step=960, nats=[3.0]),
        PROMPTS_FILE: document(PromptRow, PAYLOAD),
    }
    for name, row in lines.items():
        (path / name).write_text(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    runs = [hostile_run(root / f"{NAME}{number}") for number in range(2)]
    labels = [document(RunLabel, PAYLOAD, path=str(run), seed=number) for number, run in enumerate(runs)]
    (root / "experiment.json").write_text(json.dumps(document(RunLabels, PAYLOAD, runs=labels)))
    return write_report(runs, root / "report.html")


@pytest.fixture(scope="module")
def grid_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("grid")
    cells = []
    for seed in range(2):
        hostile_run(root / f"run{seed}")
        axes = {**document(ExperimentArm, PAYLOAD), "target": BASE["target"], "source": "offline"}
        given = {"path": f"run{seed}", "seed": seed, "axes": axes, "figures": ["F4", "F5", "F8", "target"]}
        cells.append(document(CellResult, PAYLOAD, **given, state="finished"))
    cells.append(document(CellResult, PAYLOAD, axes=axes, state="failed"))
    figures = {"figures": ["F4", "F5", "F8", "target"]}
    claim = document(ClaimResult, PAYLOAD, figure="F4")
    summary = document(Summary, PAYLOAD, runs=cells, claims=[claim], **figures)
    (root / "experiment.json").write_text(json.dumps(summary))
    return write_grid_report(root, root / "report.html")


@pytest.fixture(scope="module", params=["run_page", "grid_page"])
def page(request: pytest.FixtureRequest) -> Path:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Path)
    return found


def test_the_page_has_no_markup_but_its_own(page: Path) -> None:
    text = page.read_text()
    elements = list(tree(text).below())
    assert {one.tag for one in elements} <= set(TAGS.split())
    for name, value in (pair for one in elements for pair in one.attributes.items()):
        assert not name.startswith("on"), name
        assert name in ("data-label", "aria-label") or "javascript:" not in value, (name, value)
        assert not name.endswith("href") or value.startswith("#"), value
    assert RAN in tree(text).text and not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", text)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page is not opened in a browser")
def test_nothing_runs_in_a_browser(page: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    canary = tmp_path / "canary.html"
    canary.write_text(f"<!doctype html><title>before</title><p>{SCRIPT}<img src=x onerror=\"{RAN}+' twice'\">")
    titles = [_title_after_load(CHROMIUM, path, tmp_path) for path in (canary, page)]
    assert titles[0].startswith("ran"), "the payload does run where it is not escaped"
    assert titles[1] != "" and not titles[1].startswith("ran") and "=cmd" in titles[1]


def _title_after_load(browser: str, page: Path, home: Path) -> str:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=500", f"--user-data-dir={home}"]
    done = subprocess.run(
        [browser, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    return tree(re.sub(r"<!--.*?-->", "", done.stdout)).one("title").text if "<title" in done.stdout else ""


def test_no_cell_of_a_csv_is_a_formula(page: Path) -> None:
    files = sorted((page.parent / "plots").glob("*.csv"))
    assert files
    for path in files:
        for row in csv.reader(io.StringIO(path.read_text(), newline="")):
            for cell in row:
                assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
                assert not cell.startswith("-") or float(cell) < 0
                assert not set(cell) & set("\x00\x1b\u202e")


def test_a_card_has_no_markup_but_its_own(tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    (run / "config.toml").write_text(f"student = {json.dumps(PAYLOAD)}\n")
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["facts"]["origins"] = {"student": f"{PAYLOAD}@0123", "teacher": PAYLOAD}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = model_card(run, verdict(Curves.from_run(run)))
    _, front, body = text.split("---\n", 2)
    base = next(line for line in front.splitlines() if line.startswith("base_model: "))
    assert "=cmd" in json.loads(base.removeprefix("base_model: ")) and len(front.splitlines()) == 5
    assert not set(text) & set("\x00\x1b\u202e")
    outside = re.sub(r"(?s)(`+)(?!`).*?(?<!`)\1(?!`)", "", body.replace("\\`", "'"))
    assert "<" not in outside and not re.search(r"(?<!\\)[\[|$]", outside)
