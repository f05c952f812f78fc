"""Files are whole or absent, claimed outputs are ours or untouched."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Literal

import pytest

from thack import files
from thack.errors import DataError, ThackError, UsageError
from thack.reading import read_json


def test_write_replaces_and_leaves_no_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"old")
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "x")
    finally:
        os.umask(previous)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    files.write_bytes(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ThackError, match="no space left") as caught:
        files.write_bytes(path, b"new")
    assert caught.value.hint == "nothing is lost: free space and run the same command again"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_canonical_json_is_one_encoding_and_refuses_nan() -> None:
    assert files.canonical_json({"b": 1, "a": ["é", None]}) == '{"a":["é",null],"b":1}'.encode()
    with pytest.raises(ValueError, match="Out of range"):
        files.canonical_json({"a": float("nan")})


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not JSON .* line 1, column 2"), (b"\xff{}", "not UTF-8 .byte 0.")],
)
def test_read_json_names_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_json(path)


def test_read_json_of_nothing_and_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "none")
    with pytest.raises(DataError, match="is a directory"):
        read_json(tmp_path)


def test_write_json_round_trip(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None], "a": "ü"}
    files.write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json") == value
    assert (tmp_path / "v.json").read_text().endswith("}\n")


def test_atomic_directory_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "d"
    with files.atomic_directory(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "x").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "x").read_text() == "1"
    assert os.listdir(target.parent) == ["d"]


def test_atomic_directory_vanishes_on_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), files.atomic_directory(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_a_file_without_room_in_a_new_directory_is_named_by_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ThackError) as caught, files.atomic_directory(tmp_path / "d") as temporary:
        files.write_bytes(temporary / "a", b"x")
    assert caught.value.message == f"cannot write {tmp_path / 'd' / 'a'}: no space left"
    assert not list(tmp_path.iterdir())


def test_atomic_directory_replaces_only_when_asked(tmp_path: Path) -> None:
    with files.atomic_directory(tmp_path / "d") as temporary:
        (temporary / "x").write_text("1")
    with pytest.raises(UsageError, match="already exists"), files.atomic_directory(tmp_path / "d"):
        pass
    assert (tmp_path / "d" / "x").read_text() == "1"
    with files.atomic_directory(tmp_path / "d", replace=True) as temporary:
        (temporary / "y").write_text("2")
    assert os.listdir(tmp_path / "d") == ["y"]
    assert os.listdir(tmp_path) == ["d"]


def test_a_temporary_file_that_a_sibling_swept_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finishes a cache sweeps its directory; STATUS.json of the first rank may be on its way there."""
    from thack import _native

    real = os.replace

    def swept_first(source: Path, target: Path) -> None:
        monkeypatch.undo()
        assert _native.sweep(tmp_path) == 1
        real(source, target)

    monkeypatch.setattr(os, "replace", swept_first)
    files.write_json(tmp_path / "STATUS.json", {"state": "finished"})
    assert os.listdir(tmp_path) == ["STATUS.json"]
    with pytest.raises(FileNotFoundError):
        files.write_json(tmp_path / "gone" / "STATUS.json", {})


@pytest.mark.parametrize(("replace", "before"), [(False, 0), (True, 0), (True, 1), (True, 2)])
def test_two_make_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replace: bool, before: int
) -> None:
    """A sibling's directory appears or goes just before one of our renames: one of the two stands, whole."""
    target, real, calls = tmp_path / "d", os.rename, 0
    if before:
        target.mkdir()
        (target / "old").write_text("0")

    def rename(source: Path, to: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == max(before, 1):
            monkeypatch.undo()
            with files.atomic_directory(target, replace=True) as other:
                (other / "theirs").write_text("1")
        real(source, to)

    monkeypatch.setattr(os, "rename", rename)
    try:
        with files.atomic_directory(target, replace=replace) as temporary:
            (temporary / "ours").write_text("2")
        assert replace
    except UsageError as error:
        assert not replace and "already exists" in error.message
    assert os.listdir(target) == ["ours" if replace else "theirs"] and os.listdir(tmp_path) == ["d"]


def test_digests(tmp_path: Path) -> None:
    expected = "sha256:" + hashlib.sha256(b"abc").hexdigest()
    (tmp_path / "f").write_bytes(b"abc")
    assert files.digest(b"abc") == files.digest([b"a", memoryview(b"bc")]) == expected
    assert files.file_digest(tmp_path / "f") == expected


def test_claim_creates_marks_and_resumes(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "a"
    files.claim_output(out, "run")
    assert json.loads((out / files.MARKER).read_text())["kind"] == "run"
    (out / "metrics.jsonl").touch()
    files.claim_output(out, "run")
    assert files.directory_kind(out) == "run"


def test_claim_refuses_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="did not write") as caught:
        files.claim_output(tmp_path, "run")
    assert "thesis.tex" in caught.value.details[0]
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("look", ["_foreign_names", "directory_kind"])
def test_claim_while_a_sibling_claims_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Literal["_foreign_names", "directory_kind"]
) -> None:
    """Another rank of the same job marks the directory just before one of our two looks at it."""
    real = getattr(files, look)

    def sibling_first(directory: Path) -> object:
        monkeypatch.undo()
        files.claim_output(directory, "cache")
        return real(directory)

    tmp_path.joinpath("c").mkdir()
    monkeypatch.setattr(files, look, sibling_first)
    files.claim_output(tmp_path / "c", "cache")
    assert files.directory_kind(tmp_path / "c") == "cache"


def test_claim_refuses_another_kind_a_file_and_a_second_start(tmp_path: Path) -> None:
    files.claim_output(tmp_path / "c", "cache")
    with pytest.raises(UsageError, match="is a cache, not a run"):
        files.claim_output(tmp_path / "c", "run")
    with pytest.raises(UsageError, match="is a cache already"):
        files.claim_output(tmp_path / "c", "cache", resume=False)
    (tmp_path / "f").touch()
    with pytest.raises(UsageError, match="is a file"):
        files.claim_output(tmp_path / "f", "run")
    with pytest.raises(ThackError, match="a part of this path is a file"):
        files.claim_output(tmp_path / "f" / "g", "run")


def test_a_manifest_with_a_kind_also_marks(tmp_path: Path) -> None:
    files.write_json(tmp_path / "manifest.json", {"kind": "responses"})
    assert files.directory_kind(tmp_path) == "responses"


def test_a_text_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.toml: 'a/\\udcff' is not UTF-8"):
        files.write_text(tmp_path / "x.toml", "a/\udcff")
    assert not list(tmp_path.iterdir())
