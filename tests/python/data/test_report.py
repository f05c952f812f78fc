"""What is said of a data set: counts on one line, and a warning for each thing that may be wrong."""

from __future__ import annotations

import pytest

from thack.data.eos import EndCounts
from thack.data.report import Report


def report(**counts: object) -> Report:
    return Report(**{"records": 10, "kept": 10, **counts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({}, "10 of 10 records"),
        ({"kept": 25}, "25 sequences of 10 records"),
        ({"kept": 7, "dropped_prompts": 2, "without_response": 1}, "7 of 10 records · 2 prompts too long, dropped · 1"),
        ({"cut_prompts": 3}, "10 of 10 records · 3 prompts cut"),
        ({"kept": 2000, "pieces": 1990}, "2,000 sequences of 10 records · 1,990 pieces of raw texts"),
        ({"skipped": ("d:1: a", "d:2: b")}, "2 unreadable lines skipped · skipped d:1: a · skipped d:2: b"),
    ],
)
def test_counts_are_shown_where_they_are_not_zero(counts: dict[str, object], said: str) -> None:
    assert said in str(report(**counts))


def test_the_first_skipped_lines_are_quoted() -> None:
    shown = str(report(skipped=tuple(f"d:{i}: x" for i in range(9))))
    assert "9 unreadable lines skipped" in shown and shown.count("skipped d:") == 3


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"with_control_tokens": 2}, "2 of 10 records have control tokens written out"),
        ({"other_beginnings": 4}, "4 of 10 responses begin in another way"),
        ({"notes": ("a doubt",)}, "a doubt"),
        ({"ends": EndCounts(responses=10, finished=8, truncated=2)}, "2 of 10 responses (20%) reached the maximum"),
        ({"ends": EndCounts(responses=10, finished=9)}, "1 of 10 responses that stopped hold no end"),
    ],
)
def test_each_doubt_is_a_warning_of_its_own_line(counts: dict[str, object], said: str) -> None:
    (warning,) = report(**counts).warnings()
    assert said in warning
    assert report(**counts).lines() == [str(report(**counts)), f"warning: {warning}"]


def test_nothing_wrong_is_one_line() -> None:
    assert report().lines() == ["10 of 10 records"]
