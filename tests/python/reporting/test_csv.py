"""Numbers beside the figures: any reader of CSV gets back the names and values that went in."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from detection.synthetic import Noise, write_run
from thack.reporting.bands import curves_csv
from thack.reporting.csv_text import csv_text
from thack.reporting.effects import claims_csv, effect_of
from thack.reporting.inputs import load
from thack.schema.experiment import ClaimResult

ODD = ['say "no"', "a, b", "two\nlines", 'both, "and"\r\nmore', "plain", "", "ü → ‖"]


def read_back(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_any_text_and_every_digit_come_back() -> None:
    rows = [[word, None, 0.1 + 0.2, 3] for word in ODD]
    found = read_back(csv_text(("name", "nothing", "float", "int"), rows))
    assert found == [
        ["name", "nothing", "float", "int"],
        *([word, "", "0.30000000000000004", "3"] for word in ODD),
    ]


@pytest.mark.parametrize("text", ODD)
def test_a_claim_with_any_text_is_one_row(text: str) -> None:
    effect = effect_of({0: 0.1, 1: 0.2})
    claim = ClaimResult(
        figure="F4",
        text=text,
        measure=f"{text}?",
        unit="%",
        above=0.0,
        below=None,
        effect=effect,
        answer="inconclusive",
    )
    head, row, *more = read_back(claims_csv([claim]))
    found = dict(zip(head, row, strict=True))
    assert not more
    assert (found["claim"], found["measure"], found["answer"]) == (text, f"{text}?", "inconclusive")
    assert found["should_be_above"] == "0.0" and found["should_be_below"] == ""
    assert float(found["mean"]) == effect.mean and float(found["low"]) == effect.low


def test_runs_with_odd_names_keep_their_columns(tmp_path: Path) -> None:
    name = 'a "quoted", name'
    subject = load([write_run(tmp_path / name, noise=Noise(checkpoint=0.0))], tmp_path / "report.html")
    head, *rows = read_back(curves_csv(subject.arms, ("golden", "proxy")))
    assert head == ["arm", "seed", "run", "step", "metric", "column", "value"]
    assert {(row[0], row[2]) for row in rows} == {(name, name)}
    golden = subject.runs[0].curves.of("golden")
    assert [float(row[-1]) for row in rows if row[4] == "golden"] == golden.value.tolist()


def test_no_literal_of_the_reports_is_cut_within_a_sentence() -> None:
    """Adjacent literals that a formatter broke: a piece of three words or fewer on a line of its own."""
    import thack.reporting

    for path in Path(thack.reporting.__file__).parent.glob("*.py"):
        lines = path.read_text().splitlines()
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            piece = re.fullmatch(r'\s*f?"((?:\w+[:;]? ?){1,3} )"', line)
            texts = [re.fullmatch(r'.*" *,?|\s*f?"[^"]*"', one) for one in (before, after)]
            assert not (piece and all(texts)), f"{path.name}: {line.strip()} is a piece of a sentence"
