"""Numbers, sizes and times as people read them; streams that are pipes."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from thack.cli import console
from thack.cli.console import (
    byte_size,
    count,
    duration,
    error_document,
    number,
    percent,
    print_error,
    print_item,
    print_json,
)
from thack.errors import DataError
from thack.runtime.streams import escaped


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(None, 4, "–"), (0.0, 4, "0.0000"), (1.23456, 4, "1.2346"), (0.00012345, 3, "0.000123"), (-2.5, 1, "-2.5")],
)
def test_number(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.0931, "+9.3 %"), (-0.5, "-50.0 %"), (0.0, "+0.0 %")])
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (12_345, "12,345"), (1e12, "1,000,000,000,000")])
def test_count(value: float, text: str) -> None:
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (2.5e6, "2.5 MB"),
        (3e9, "3.0 GB"),
        (7e12, "7.0 TB"),
        (2e15, "2.0 PB"),
    ],
)
def test_byte_size(value: float, text: str) -> None:
    assert byte_size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "0.2 s"),
        (59.9, "59.9 s"),
        (128, "2 min 8 s"),
        (3600, "1 h 0 min"),
        (108_000, "1 d 6 h"),
        (1e9, "11,574 d 2 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_error_is_its_message_its_details_and_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError("bad [line]", details=["x" * 200], hint="look")
    print_error(error)
    assert capsys.readouterr().err == f"error: bad [line]\n  {'x' * 200}\n  look\n", (
        "nothing is wrapped or read as markup"
    )
    assert error_document(error) == {"error": "bad [line]", "details": ["x" * 200], "hint": "look", "exit_code": 1}


def test_results_are_not_wrapped_in_a_pipe_and_are_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.stdout().print("word " * 60)
    assert len(capsys.readouterr().out.splitlines()) == 1
    screen = io.StringIO()
    monkeypatch.setattr(console, "SafeConsole", lambda **_: Console(file=screen, force_terminal=True, width=80))
    console.stdout().print("word " * 60)
    assert max(map(len, screen.getvalue().splitlines())) <= 80


def test_json_is_readable_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"ä": [1, 2.5, None]})
    out = capsys.readouterr().out
    assert "ä" in out and out.endswith("}\n") and json.loads(out) == {"ä": [1, 2.5, None]}


@pytest.mark.parametrize("width", [30, 80])
def test_an_item_is_indented_on_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(console, "SafeConsole", lambda **_: Console(file=screen, force_terminal=True, width=width))
    sentence = " ".join(["the student keeps learning its teacher"] * 4)
    print_item(sentence)
    first, *others = screen.getvalue().splitlines()
    assert first.startswith("  · the student") and others
    assert all(line.startswith("    ") and line[4] != " " for line in others)
    assert max(map(len, [first, *others])) <= width
    assert " ".join(screen.getvalue().replace("·", " ").split()) == " ".join(
        ["the student keeps learning its teacher"] * 4
    )


def test_an_item_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_item("word " * 60)
    assert capsys.readouterr().out == f"  · {' '.join(['word'] * 60)}\n"


STEERING = "\x1b[2J\x07\x00\r\x7f\x9b1m\u202ecod\u2066x\ud800"


def test_nothing_that_is_written_steers_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    console.stdout().print(STEERING)
    print_item(STEERING)
    print_json({STEERING: [STEERING]})
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{") :]) == {STEERING: [STEERING]}
    print_error(DataError(f"a {STEERING}", details=[STEERING], hint=STEERING))
    shown = out + capsys.readouterr().err
    for character in STEERING.replace("[2J", "").replace("1m", "").replace("cod", "").replace("x", ""):
        assert character not in shown.replace("\x1b[1;31m", "").replace("\x1b[31m", "").replace("\x1b[36m", "").replace(
            "\x1b[0m", ""
        )
    assert "a \\u001b[2J\\u0007\\u0000\\u000d\\u007f\\u009b1m\\u202ecod\\u2066x\\ud800" in shown


def test_text_of_all_languages_is_left_as_it_is() -> None:
    text = "naïve 你好 שלום 😀 👩\u200d🔬 ‑\ttab\nline é"
    assert escaped(text) == text
