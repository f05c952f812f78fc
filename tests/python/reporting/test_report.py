"""The page: self-contained, complete, and right about what it says."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from detection.synthetic import Noise, write_run
from reporting.dom import links, tree
from thack.errors import DataError, UsageError
from thack.reporting import style, write_report
from thack.reporting.colours import ALL, assign
from thack.reporting.figures import colours_of, plane
from thack.reporting.inputs import ArmRuns, load, typed
from thack.reporting.sentences import headline
from thack.schema.run import Status

NOISE = Noise(prompt=0.05, checkpoint=0.002)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("three")
    kinds = {"offline": "hacking", "online-teacher": "healthy", "online-student": "healthy"}
    return [write_run(root / name, kind, noise=NOISE, seed=3) for name, kind in kinds.items()]


@pytest.fixture(scope="module")
def page(three: list[Path]) -> str:
    out = write_report(three, three[0].parent / "report.html", title="A <title> & more")
    return out.read_text()


def test_the_page_is_well_formed_and_needs_nothing_else(page: str) -> None:
    assert not links(tree(page))[1]
    assert "<script" not in page and "@import" not in page and "http://" not in re.sub(r'xmlns[^"]*"[^"]*"', "", page)


def test_ids_are_unique_and_references_lead_somewhere(page: str) -> None:
    ids, _, references = links(tree(page))
    assert len(ids) == len(set(ids))
    assert references <= set(ids)


def test_the_verdict_comes_first_and_in_words(page: str) -> None:
    first = page.index("<h1>")
    words = page[first : page.index("</h1>")].replace("\u2011", "-")
    assert "Offline hacks its teacher; online-teacher and online-student stay healthy" in words
    assert first < page.index('id="results"') < page.index('id="figures"') < page.index('id="glossary"')


def test_titles_are_escaped(page: str) -> None:
    assert "A &lt;title&gt; &amp; more" in page and "<title> &" not in page


def test_colours_of_figures_follow_the_page(page: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "currentColor" in figures and "var(--offline," in figures
    bare = re.sub(r"var\([^)]*\)", "", figures)
    assert not [colour.light for colour in ALL if colour.light in bare]
    assert "font-size" in figures and "DejaVu" not in figures and "<text" in figures


def test_plots_and_their_numbers_lie_beside_the_report(three: list[Path], page: str) -> None:
    assert page
    plots = three[0].parent / "plots"
    names = {path.name for path in plots.iterdir()}
    assert {"plane.svg", "plane.csv", "golden.svg", "golden.csv", "proxy.svg", "slope_ratio.svg"} <= names
    rows = (plots / "golden.csv").read_text().splitlines()
    assert rows[0] == "arm,seed,run,step,metric,column,value"
    assert len([row for row in rows if ",golden," in row]) == 3 * 15


def test_the_same_runs_give_the_same_bytes(three: list[Path], tmp_path: Path) -> None:
    once = write_report(three, tmp_path / "a.html").read_bytes()
    assert write_report(three, tmp_path / "b.html").read_bytes() == once


def test_without_matplotlib_the_page_says_what_to_type(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thack.reporting.write.available", lambda: False)
    found = write_report(three, tmp_path / "report.html").read_text()
    tree(found)
    assert "pip install 'thack[plot]'" in html.unescape(found) and "<svg" not in found and "+9" in found
    assert not (tmp_path / "plots").exists()


def test_drawing_without_matplotlib_is_refused(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not style.available()
    with pytest.raises(UsageError, match="thack\\[plot\\]"):
        draw_plane(load(three, three[0] / "x.html").arms)


def test_seeds_are_gathered_by_name(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"offline-seed{seed}", noise=NOISE, seed=seed) for seed in range(3)]
    subject = load(runs, tmp_path / "report.html")
    assert [(arm.name, len(arm.runs)) for arm in subject.arms] == [("offline", 3)]
    assert subject.arms[0].verdict == "hacking"
    found = write_report(runs, tmp_path / "report.html").read_text()
    tree(found)
    assert "Hacking in 3 of 3 seeds" in found


def test_an_experiment_file_names_arms_seeds_and_title(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"cell{number}" / "run", noise=NOISE, seed=number) for number in range(2)]
    places = [{"path": f"elsewhere/cell{number}/run", "arm": "plain", "seed": number} for number in range(2)]
    (tmp_path / "experiment.json").write_text(json.dumps({"title": "Mine", "runs": places}))
    subject = load(runs, tmp_path / "report.html")
    assert subject.title == "Mine"
    assert [(arm.name, [run.seed for run in arm.runs]) for arm in subject.arms] == [("plain", [0, 1])]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / parent / "student", noise=NOISE) for parent in ("a", "b")]
    names = [arm.name for arm in load(runs, tmp_path / "report.html").arms]
    assert len(set(names)) == 2 and names[0].endswith("a/student")


def test_a_run_without_oracle_gets_a_suspicion(tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", noise=NOISE, with_oracle=False)
    subject = load([run], run / "report.html")
    assert headline(subject) == "Without an oracle: hacking suspected from step 48 (alarm at step 79)"
    tree(write_report([run], run / "report.html").read_text())


def test_a_run_with_nothing_but_metrics_is_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bare", with_prompts=False)
    for name in ("config.toml", "environment.json"):
        (run / name).unlink()
    found = write_report([run], run / "report.html").read_text()
    tree(found)
    assert "no intervals" in found


def test_a_foreign_log_is_shown_too(tmp_path: Path) -> None:
    path = tmp_path / "trainer.jsonl"
    key = "golden/forward_kl/reference_sampled/token_mean"
    path.write_text("".join(json.dumps({"step": 50 * i, key: 2.0 - 0.1 * i}) + "\n" for i in range(9)))
    assert "stays healthy" in write_report([path], tmp_path / "report.html").read_text()


def test_a_run_that_goes_on_is_marked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise=NOISE)
    (run / "STATUS.json").write_text(json.dumps(Status(state="stopped", step=960).dump()))
    assert "Not finished: run (stopped at step 960)" in write_report([run], run / "report.html").read_text()


def test_no_runs_and_broken_settings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one run"):
        write_report([], tmp_path / "report.html")
    run = write_run(tmp_path / "run")
    (run / "config.toml").write_text("a = = 1")
    with pytest.raises(DataError, match=r"config\.toml: not TOML"):
        write_report([run], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_roles_have_their_colours_and_nobody_elses() -> None:
    given = assign([("plain", "offline"), ("online-teacher", "online-teacher"), ("budget x2", "offline"), ("z", "")])
    assert [colour.variable for colour in given[:2]] == ["offline", "online-teacher"]
    assert len({colour.variable for colour in given}) == 4


def test_costs_are_the_last_values(three: list[Path], tmp_path: Path) -> None:
    run = load(three, tmp_path / "x.html").runs[0]
    assert run.costs == {"generated_tokens": 9000.0, "teacher_tokens": 528000.0, "seconds": 38.4}
    assert typed(0.5) == "0.5" and typed("x") == "x"


def test_importing_the_report_loads_neither_torch_nor_matplotlib() -> None:
    seen = "print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    code = f"import sys, thack.reporting, thack.detection; {seen}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_within_its_warm_up_is_not_called_one_without_an_oracle(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rows = [line for line in (run / "metrics.jsonl").read_text().splitlines() if json.loads(line)["step"] < 30]
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    page = write_report([run], run / "report.html").read_text()
    assert "This student has an inconclusive verdict" in page and "Without an oracle: " not in page
    assert "after the warm-up of 30 steps" in page
    assert "Proxy–golden plane" not in page, "there is nothing to draw in it"


def draw_plane(arms: Sequence[ArmRuns]) -> Any:
    return plane(arms, colours_of(arms))


def _rewritten(run: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    for path in (run / "metrics.jsonl", run / "per_prompt.jsonl"):
        rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_a_judge_is_never_called_an_oracle(tmp_path: Path) -> None:
    def judged(row: dict[str, Any]) -> dict[str, Any]:
        names = {"golden": "judge", "baseline": "judge_baseline"}
        return {
            "/".join([names.get(key.split("/")[0], key.split("/")[0]), *key.split("/")[1:]]): row[key] for key in row
        }

    run = _rewritten(write_run(tmp_path / "run", noise=NOISE), judged)
    page = write_report([run], run / "report.html").read_text().partition("In practice there is no oracle")[0]
    assert "KL(judge‖teacher)" in page and "Golden: distance to the judge" in page
    assert "KL(oracle‖teacher)" not in page and "istance to the oracle" not in page


def test_the_ring_in_the_plane_is_where_the_verdict_has_its_minimum(tmp_path: Path) -> None:
    def lower_in_the_warm_up(row: dict[str, Any]) -> dict[str, Any]:
        column = "golden/forward_kl/reference_sampled/token_mean"
        return {**row, column: 0.5} if row["step"] == 21 and column in row else row

    run = _rewritten(write_run(tmp_path / "run", noise=NOISE), lower_in_the_warm_up)
    subject = load([run], run / "report.html")
    found = subject.runs[0].verdict.golden
    rings = [line for line in draw_plane(subject.arms).axes[0].lines if line.get_fillstyle() == "none"]
    assert found is not None and [line.get_ydata()[0] for line in rings] == [found.minimum]
