"""The run log survives kills and resumes without doubled rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from thack.errors import DataError, ThackError
from thack.runtime import runlog


def _log(path: Path, *rows: dict[str, object]) -> None:
    with runlog.RunLog(path) as log:
        for row in rows:
            log.append(row)


def test_rows_are_readable_while_being_written(tmp_path: Path) -> None:
    with runlog.RunLog(tmp_path / "deep" / "m.jsonl") as log:
        log.append({"step": 1, "loss": 0.5})
        assert runlog.read(log.path) == [{"step": 1, "loss": 0.5}]
        log.sync()


def test_a_full_disk_is_named_with_the_log_whatever_meets_it_first(tmp_path: Path) -> None:
    log = runlog.RunLog(tmp_path / "m.jsonl")
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._file.fileno())
    os.close(full)
    said = r"cannot write .*m\.jsonl: no space left"
    with pytest.raises(ThackError, match=said):
        log.append({"step": 1})
    with pytest.raises(ThackError, match=said):
        log.sync()
    with pytest.raises(ThackError, match=said):
        log.close()


def test_not_finite_becomes_null(tmp_path: Path) -> None:
    _log(tmp_path / "m", {"a": float("nan"), "b": {"c": [float("inf"), 1.0]}})
    assert runlog.read(tmp_path / "m") == [{"a": None, "b": {"c": [None, 1.0]}}]


def test_torn_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "lo')
    assert runlog.read(path) == [{"step": 1}]
    _log(path, {"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_damage_elsewhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(DataError, match="m:2: not JSON"):
        runlog.read(path)
    path.write_bytes(b"3\n")
    with pytest.raises(DataError, match="m:1: a int, not an object"):
        runlog.read(path)
    with pytest.raises(DataError, match="does not exist"):
        runlog.read(tmp_path / "none")


def test_truncate_after_keeps_earlier_rows_and_rows_without_step(tmp_path: Path) -> None:
    path = tmp_path / "m"
    _log(path, {"event": "start"}, {"step": 1}, {"step": 2}, {"step": 3})
    runlog.truncate_after(path, 2)
    assert runlog.read(path) == [{"event": "start"}, {"step": 1}, {"step": 2}]
    runlog.truncate_after(tmp_path / "none", 2)
    assert not (tmp_path / "none").exists()


def test_lines_of_another_writer_stay_as_they_are_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "x":NaN}\n{"note": [1]}\n{"step": 2.0}\n{"step": 3}\n{"st')
    runlog.truncate_after(path, 2)
    assert path.read_bytes() == b'{"step": 1, "x":NaN}\n{"note": [1]}\n{"step": 2.0}\n'


@pytest.mark.parametrize("step", ['"1"', "null", "true", "NaN", "[1]"])
def test_a_step_that_is_no_number_is_named(tmp_path: Path, step: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{{"step": {step}}}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl:2: `step` is .*, not a number"):
        runlog.truncate_after(path, 2)
