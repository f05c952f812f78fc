"""docs/reference/pitfalls.md names the tests of each case: they are there, and the code cites cases that are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/pitfalls.md").read_text(encoding="utf-8")
ROWS = {int(number): tests for number, tests in re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", PAGE, re.MULTILINE)}


def test_the_cases_are_numbered_without_gaps() -> None:
    assert sorted(ROWS) == list(range(1, len(ROWS) + 1))


@pytest.mark.parametrize("number", sorted(ROWS))
def test_the_tests_of_a_case_are_there(number: int) -> None:
    named = re.findall(r"`([^`]+)`", ROWS[number])
    assert named, f"pitfall {number} names no test"
    for name in named:
        path = ROOT / name if name.startswith(("rust/", "tests/")) else ROOT / "tests/python" / name
        assert path.is_file(), f"pitfall {number}: {name}"


def test_every_case_that_the_code_cites_is_on_the_page() -> None:
    sources = [path for folder in ("python", "rust", "tests") for path in (ROOT / folder).rglob("*.*")]
    for path in sources:
        if path.suffix in (".py", ".rs"):
            for number in re.findall(r"\bpitfall (\d+)", path.read_text(encoding="utf-8")):
                assert int(number) in ROWS, f"{path.relative_to(ROOT)} cites pitfall {number}"
