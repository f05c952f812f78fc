"""The longest response where the settings leave it to the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thack.config import DataSettings
from thack.data.formats import to_record
from thack.data.lengths import CHAT_TOKENS, TEXT_TOKENS, holds_conversations, response_limit

from .small import ANSWER, USER, write_rows

CHAT, PAIR, RAW = {"messages": [USER, ANSWER]}, {"prompt": "a", "response": "b"}, {"text": "a"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([PAIR], TEXT_TOKENS), ([CHAT], CHAT_TOKENS), ([PAIR, CHAT], CHAT_TOKENS), ([RAW], CHAT_TOKENS)],
)
def test_it_fits_the_data(rows: list[dict[str, Any]], expected: int, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "d.jsonl", {"question": "no record"}, *rows)
    settings = DataSettings(path=str(path))
    assert response_limit(settings) == expected
    assert response_limit(settings, [to_record(row) for row in rows]) == expected
    assert response_limit(DataSettings(path=str(path), max_response_tokens=7)) == 7
    assert holds_conversations(settings) == (CHAT in rows)


def test_without_data_it_is_that_of_pairs() -> None:
    assert response_limit(DataSettings()) == TEXT_TOKENS == 128
    assert not holds_conversations(DataSettings())
