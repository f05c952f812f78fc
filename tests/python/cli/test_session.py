"""What all commands share: the common flags, one document per command line, progress or none; seeds as typed."""

from __future__ import annotations

import shlex
import sys

import pytest

from thack.cli.messages import Names
from thack.cli.progress import LineProgress
from thack.cli.seeds import count_or_list, parse_seeds
from thack.cli.session import command_line, emit, session, shown_progress
from thack.errors import UsageError
from thack.runtime.progress import SILENT


@pytest.fixture(autouse=True)
def fresh() -> None:
    session.reset()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_result_is_printed_once(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    session.json = as_json
    emit({"a": 1}, lambda: print("for people"))
    assert capsys.readouterr().out == ('{\n  "a": 1\n}\n' if as_json else "for people\n")


def test_other_ranks_print_no_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    emit({"a": 1}, lambda: print("for people"))
    session.json = True
    emit({"a": 1}, lambda: print("for people"))
    assert capsys.readouterr().out == ""


def test_quiet_shows_no_progress() -> None:
    session.quiet = True
    with shown_progress() as progress:
        assert progress is SILENT


def test_notes_of_the_package_name_flags(capsys: pytest.CaptureFixture[str]) -> None:
    session.names = Names(flags={"eval_data": "--eval-data"})
    with shown_progress() as progress:
        assert isinstance(progress, LineProgress)
        progress.note("use `eval_data = runs/e` next time")
    assert capsys.readouterr().err == "use --eval-data runs/e next time\n"


def test_the_command_line_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/thack", "sft", "--out", "a b"])
    assert shlex.split(command_line()) == ["thack", "sft", "--out", "a b"]


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0,3", [0, 3]), ("2-4", [2, 3, 4]), ("0-1,1,7", [0, 1, 7]), ("3-3", [3])]
)
def test_seeds_are_numbers_lists_and_ranges(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "x", "1-", "-1", "1,,2", "4-2", "1.5"])
def test_other_texts_are_no_seeds(text: str) -> None:
    with pytest.raises(UsageError, match="write 0, or 0,3, or 0-4"):
        parse_seeds(text)


@pytest.mark.parametrize(("text", "seeds"), [("3", [0, 1, 2]), ("0", [0]), ("0,3", [0, 3]), ("2-4", [2, 3, 4])])
def test_one_number_counts_seeds(text: str, seeds: list[int]) -> None:
    assert count_or_list(text) == seeds
