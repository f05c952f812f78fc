"""docs/research/: every page says what printed its numbers; with THACK_RESEARCH=1 each page's check is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest

from thack.cli import app
from thack.experiments.cells import base_arm, cells, name_of
from thack.experiments.recipe import load_recipe
from thack.schema.verdict import Verdict

PAGES = sorted((Path(__file__).parents[3] / "docs" / "research").glob("*.md"))
QUESTIONS = [page for page in PAGES if page.name != "index.md"]
_CHECK = re.compile(r"^`(thack experiment [^`]+)` gives `([^`]+)` a `(\w+)` of ([\d.−-]+) … ([\d.]+): (.+)\.$", re.M)


@dataclass(frozen=True, slots=True)
class Check:
    """One number that a rerun must reproduce."""

    command: str
    arm: str
    number: str
    low: float
    high: float

    @property
    def words(self) -> list[str]:
        return shlex.split(re.sub(r"=(\[[^ ]*\])", r"='\1'", self.command))[1:]


def check_of(page: Path) -> Check:
    (found,) = _CHECK.findall(page.read_text("utf-8").split("## Check")[1])
    command, arm, number, low, high, _ = found
    return Check(command, arm, number, float(low.replace("−", "-")), float(high))


@pytest.mark.parametrize("page", QUESTIONS, ids=lambda page: page.stem)
def test_a_page_answers_and_says_what_printed_its_numbers(page: Path) -> None:
    text = page.read_text("utf-8")
    title, answer = text.split("\n\n")[:2]
    assert title.startswith("# ") and title.endswith("?") and answer.startswith("**")
    head, _, *rows = text[text.index("| command | commit | machine | date |") :].split("\n\n")[0].splitlines()
    assert head and rows
    for row in rows:
        command, commit, machine, date = (cell.strip() for cell in row.strip("|").split("|"))
        assert command and machine
        assert re.search(r"`[0-9a-f]{7,}`", commit) and re.search(r"20\d\d-\d\d-\d\d", date), row


@pytest.mark.parametrize("page", QUESTIONS, ids=lambda page: page.stem)
def test_a_check_names_an_arm_of_its_recipe(page: Path) -> None:
    check = check_of(page)
    words = check.words[2:]
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    figures = words[words.index("--figures") + 1].split(",") if "--figures" in words else None
    settings = load_recipe(check.words[1], sets, overrides={"figures": figures, "seeds": [0]})
    base = base_arm(settings)
    assert check.arm in {name_of(cell.arm, base) for cell in cells(settings)}
    assert check.low <= check.high


@pytest.mark.skipif(not os.environ.get("THACK_RESEARCH"), reason="hours: set THACK_RESEARCH=1")
@pytest.mark.timeout(0)
@pytest.mark.parametrize("page", QUESTIONS, ids=lambda page: page.stem)
def test_the_number_is_reproduced(page: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All checks share one directory, so that a stage is computed once."""
    check = check_of(page)
    out = Path(os.environ.get("THACK_RESEARCH_OUT") or tmp_path_factory.getbasetemp() / "research") / check.words[1]
    assert app.run([*check.words, "--out", str(out), "--quiet"]) == 0
    runs = json.loads((out / "experiment.json").read_text())["runs"]
    found = []
    for run in runs:
        if run["arm"] == check.arm:
            golden = Verdict.from_json((out / run["path"] / "verdict.json").read_text()).golden
            assert golden is not None
            numbers = {**run["outcome"], "minimum_step": golden.minimum_step}
            found.append(float(numbers[check.number]))
    assert check.low <= statistics.fmean(found) <= check.high
