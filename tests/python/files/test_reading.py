"""What strangers may have written is read within bounds, or refused by name: kinds of file, sizes, depth, numbers."""

from __future__ import annotations

import json
import os
import socket
import tracemalloc
from pathlib import Path

import pytest

from thack import reading
from thack.errors import DataError
from thack.reading import BadJson, BadToml, parse_json, parse_toml

DEEP = "[" * 101 + "]" * 101


def test_what_is_no_regular_file_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, kind in {"fifo": "a FIFO", "socket": "a socket", ".": "a directory"}.items():
            with pytest.raises(DataError, match=f"is {kind}, not a file"):
                reading.read_bytes(tmp_path / name)
    with pytest.raises(DataError, match="is a device, not a file"):
        reading.read_json(Path("/dev/zero"))
    with pytest.raises(DataError, match="does not exist"):
        reading.read_bytes(tmp_path / "none" / "none")
    with pytest.raises(DataError, match="cannot be read: file name too long"):
        reading.read_bytes(tmp_path / ("x" * 300))


def test_sizes_are_bounded_before_a_byte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.json"
    with open(path, "wb") as file:
        file.truncate(10 << 30)
    with pytest.raises(DataError, match="has 10,737,418,240 bytes, more than 268,435,456"):
        reading.read_json(path)
    path.write_bytes(b"12345")
    assert reading.read_bytes(path, 5) == b"12345"
    tracemalloc.start()
    reading.read_bytes(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20  # of the file, and not of what it might have
    tracemalloc.stop()
    assert b"Vm" in reading.read_bytes(Path("/proc/self/status"))  # a file without a size
    with pytest.raises(DataError, match="has 5 bytes, more than 4"):
        reading.read_bytes(path, 4)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "line 1, column 2"),
        ("NaN", "NaN is no number"),
        ('{"a": [-Infinity]}', "-Infinity is no number"),
        ("1e999", "beyond all numbers"),
        ("1" * 400 + ".0", "beyond all numbers"),
        (str(1 << 64), "beyond 64 bits"),
        (str(-(1 << 63) - 1), "beyond 64 bits"),
        ("1" * 5000, "beyond 64 bits"),
        ('{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice"),
        ('["\\ud800"]', "half of a surrogate pair"),
        (DEEP, "more than 100 deep"),
        ("[" * 100_000, "more than 100 deep"),
        ('{"a":' * 100_000, "more than 100 deep"),
    ],
)
def test_json_out_of_bounds_is_refused_with_the_reason(text: str, problem: str) -> None:
    for given in (text, text.encode()):
        with pytest.raises(BadJson, match=problem):
            parse_json(given)


def test_json_within_bounds_is_what_json_says() -> None:
    text = json.dumps(
        {"a": [1, 2.5, None, True], "ü": "😀", "hash": "1" * 64, "edge": [(1 << 64) - 1, -(1 << 63), 1e308]}
    )
    assert parse_json(text) == parse_json(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)
    assert parse_json(DEEP[1:-1]) == json.loads(DEEP[1:-1])


def test_other_writers_know_more_numbers_but_no_deeper_lists() -> None:
    found = parse_json('[NaN, -Infinity, 1e999, %s, {"a": 1, "a": 2}, "\\ud800"]' % ("9" * 4000), strict=False)
    assert found[0] != found[0]
    assert found[2] == float("inf")
    assert found[3] == int("9" * 4000)
    assert found[4:] == [{"a": 2}, "\ud800"]
    for text, problem in {"9" * 5000: "thousands of digits", DEEP: "more than 100 deep", "\xff": "not UTF-8"}.items():
        with pytest.raises(BadJson, match=problem):
            parse_json(text.encode("latin-1"), strict=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = ", "not TOML"),
        ("a = 1\na = 2", "Cannot overwrite"),
        ("a = " + "[" * 5000, "more than 100 deep"),
        (".".join("a" * 5000) + " = 1", "more than 100 deep"),
        ("a = " + "9" * 5000, "thousands of digits"),
    ],
)
def test_toml_is_bounded_alike(text: str, problem: str) -> None:
    with pytest.raises(BadToml, match=problem):
        parse_toml(text)


def test_long_lines_are_passed_over_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n\n" + b"2" * 3_000_000 + b"\n  \n33\n" + b"4" * 12)
    found = list(reading.lines(path, 10))
    assert [number for number, _ in found] == [1, 3, 5, 6]
    assert [found[0][1], found[2][1]] == [b"1\n", b"33\n"]
    assert [str(found[i][1]) for i in (1, 3)] == ["a line of more than 10 bytes"] * 2
    with pytest.raises(BadJson, match="a line of more than"):
        reading.parse_line(found[1][1])
