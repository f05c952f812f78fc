"""Questions about Debian's packages, from what a stand-in for apt-cache prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from thack.data import embedded_records, read_records
from thack.data.debian import debian_records
from thack.data.export import HELD_OUT, PAIRS, PROMPTS, export_corpus
from thack.errors import DataError, UsageError

from .apt import install_apt_cache

LISTS = """Package: nmap
Version: 7.93
Description: The  Network Mapper
 a line of the long description: with a colon
Section: net

Package: zenmap
Description: The Network Mapper

Package: bare
Version: 1

Package: vim
Description-md5: 59e8b8f7757db8b53566d5d119872de8
Description-en: Vi IMproved: an editor
"""


def question(name: str, description: str) -> str:
    return f"What does the Debian package {name} do? Its description: {description}"


def test_one_question_for_each_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_apt_cache(tmp_path, monkeypatch, LISTS)
    found = debian_records()
    contents = {r.conversation.messages[0]["content"] for r in found if r.conversation}
    assert contents == {question("nmap", "The Network Mapper"), question("vim", "Vi IMproved: an editor")}
    assert all(record.response is None for record in found)
    assert [r.prompt_id for r in found] == sorted(r.prompt_id for r in found)


def test_exported_they_are_read_as_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_apt_cache(tmp_path, monkeypatch, LISTS)
    assert export_corpus(tmp_path / "data", "debian", held_out=1) == {HELD_OUT: 1, PROMPTS: 1}
    read = [record for name in (HELD_OUT, PROMPTS) for record in read_records(tmp_path / "data" / name)]
    assert sorted((r.prompt_id, r.prompt) for r in read) == [(r.prompt_id, r.prompt) for r in debian_records()]
    assert not (tmp_path / "data" / PAIRS).exists()
    with pytest.raises(UsageError, match=r"(?s)nothing to train on.*prompts: 2\n"):
        export_corpus(tmp_path / "more", "debian", held_out=2)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, "which this machine does not have"),
        ("echo E: no lists >&2; exit 100", r"(?s)dumpavail failed.*E: no lists"),
        ("echo Package: bare", "knows no package with a description"),
    ],
)
def test_a_machine_without_descriptions_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, told: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        install_apt_cache(tmp_path, monkeypatch, script=script)
    with pytest.raises(DataError, match=told):
        debian_records()


def test_an_unknown_task_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown task .poem.\n  tasks: .*, postfix, debian"):
        embedded_records("poem")
