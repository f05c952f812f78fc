"""Data that comes through a pipe is read as a file of the same content is."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from thack.data import read_records
from thack.errors import DataError

LINES = b'{"prompt": "a", "response": "b"}\n{"prompt": "c"}\n'


def through_pipe(path: Path, content: bytes) -> threading.Thread:
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(content,))
    thread.start()
    return thread


def test_a_named_pipe_is_read_once_and_found_again(tmp_path: Path) -> None:
    writer = through_pipe(tmp_path / "pipe", LINES)
    first = read_records(tmp_path / "pipe")
    writer.join()
    assert [record.prompt for record in first] == ["a", "c"]
    assert read_records(tmp_path / "pipe") == first, "no writer is there any more"


def test_an_open_descriptor_is_read_and_named_as_it_was_given() -> None:
    source, target = os.pipe()
    os.write(target, LINES + b"{\n")
    os.close(target)
    with pytest.raises(DataError, match=f"^/dev/fd/{source}:3: not JSON"):
        read_records(Path(f"/dev/fd/{source}"))
    os.close(source)


@pytest.mark.parametrize("before", [b"  ", b"\xef\xbb\xbf"])
def test_the_content_says_the_format(before: bytes, tmp_path: Path) -> None:
    writer = through_pipe(tmp_path / "pipe", before + b'[{"prompt": "a"}]')
    assert [record.prompt for record in read_records(tmp_path / "pipe")] == ["a"]
    writer.join()


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_a_device_is_refused_by_name(device: str) -> None:
    with pytest.raises(DataError, match=device):
        read_records(Path(device))
