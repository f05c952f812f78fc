"""ends.json: a cache tells finished responses from truncated ones; imports count answers without an end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thack.cache import import_cache, inspect
from thack.cache.capture.job import capture
from thack.cache.exchange.importing import ImportSettings
from thack.cache.format.ends import NAME, count_ends, read_ends, write_ends
from thack.cache.format.plan import read_plan
from thack.config import CacheSettings
from thack.data.eos import Ends
from thack.errors import DataError

from .conftest import VOCAB, FakeTeacher, make_sequences

ENDS = Ends(eos=0, turn=1, others=frozenset({2}), behind_turn=(5,))


class Notes:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def __getattr__(self, name: str) -> Any:
        from thack.runtime.progress import SILENT

        return getattr(SILENT, name)


def test_what_is_written_is_read_and_the_first_stays(tmp_path: Path) -> None:
    assert read_ends(tmp_path) is None
    write_ends(tmp_path, ENDS, 9)
    write_ends(tmp_path, Ends(eos=3), 1)
    assert read_ends(tmp_path) == (ENDS, 9)
    (tmp_path / NAME).write_text('{"schema": 1, "eos": "x"}')
    with pytest.raises(DataError, match=r"ends\.json"):
        read_ends(tmp_path)


def test_a_capture_says_how_its_responses_end(settings: CacheSettings, teacher: FakeTeacher) -> None:
    sequences = make_sequences(30)
    directory = capture(settings, teacher=teacher, sequences=sequences)
    finished = sum(s.response_ids[-1] == 0 for s in sequences)
    counts = count_ends(directory, read_plan(directory))
    assert counts is not None and (counts.responses, counts.finished) == (30, finished)
    assert inspect(directory).finished == finished / 30


def test_a_cache_that_does_not_say_counts_nothing(settings: CacheSettings, teacher: FakeTeacher) -> None:
    directory = capture(settings, teacher=teacher, sequences=make_sequences(5))
    (directory / NAME).unlink()
    assert count_ends(directory, read_plan(directory)) is None
    found = inspect(directory)
    assert found.finished is None and found.truncated is None


def answer(token: int, reason: str) -> dict[str, Any]:
    """A chat answer of one token, as a server writes it."""
    name = f"token_id:{token}"
    top = [{"token": name, "logprob": -0.1}, {"token": "token_id:9", "logprob": -3.0}]
    content = [{"token": name, "logprob": -0.1, "top_logprobs": top}]
    choice = {"finish_reason": reason, "logprobs": {"content": content}}
    return {"prompt_token_ids": [3, 4], "choices": [choice]}


def imported(tmp_path: Path, *rows: dict[str, Any]) -> tuple[Path, list[str]]:
    source, notes = tmp_path / "rows.jsonl", Notes()
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ImportSettings(
        source=source, out=tmp_path / "cache", vocab_size=VOCAB, tokenizer="sha256:t", ends=Ends(eos=0)
    )
    return import_cache(settings, notes), notes.lines


def test_an_import_counts_answers_whose_end_the_server_dropped(tmp_path: Path) -> None:
    directory, lines = imported(tmp_path, answer(5, "stop"), answer(0, "stop"), answer(6, "length"))
    assert lines == [
        "warning: 1 of 3 responses (33%) reached the maximum length and were cut: raise `data.max_response_tokens`",
        "warning: 1 of 2 responses that stopped hold no end: a student would not learn to stop",
    ]
    assert read_ends(directory) == (Ends(eos=0), 0)


def test_an_import_of_prompt_logprobs_reads_the_reason_too(tmp_path: Path) -> None:
    rows = [None, {"4": -0.5}, {"5": -0.1}]
    line = {"prompt_token_ids": [3, 4, 5], "prompt_length": 2, "prompt_logprobs": rows}
    assert imported(tmp_path, line | {"finish_reason": "stop"})[1] == [
        "warning: 1 of 1 responses that stopped hold no end: a student would not learn to stop"
    ]


def test_an_import_that_ends_well_warns_of_nothing(tmp_path: Path) -> None:
    assert imported(tmp_path, answer(0, "stop"))[1] == []
