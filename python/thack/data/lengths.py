"""The longest response of a job, where the settings leave it to the data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from thack.config import DataSettings
from thack.data.columns import Columns
from thack.data.formats import to_record
from thack.data.heads import Bounds
from thack.data.records import Record
from thack.data.rows import BadLine, read_rows

TEXT_TOKENS = 128
CHAT_TOKENS = 1024  # answers of chat models, and pieces of raw texts
_LOOKED_AT = 64  # rows


def response_limit(settings: DataSettings, records: Sequence[Record] | None = None) -> int:
    """settings.max_response_tokens; where that is 0, 1,024 for conversations and raw texts, and 128 for other pairs.

    Args:
        settings: of the data set.
        records: its records; None: the first ones of settings.path tell.
    """
    if settings.max_response_tokens:
        return settings.max_response_tokens
    found = first_records(settings) if records is None else records
    is_long = any(record.conversation is not None or record.is_text for record in found)
    return CHAT_TOKENS if is_long else TEXT_TOKENS


def kept_of(settings: DataSettings, limit: int) -> Bounds:
    """What is kept of texts, with responses of at most `limit` ids."""
    return Bounds(prompt=settings.max_prompt_tokens, response=limit, prompt_end=settings.on_long == "cut")


def holds_conversations(settings: DataSettings) -> bool:
    """Whether the first records of settings.path are conversations."""
    return any(record.conversation is not None for record in first_records(settings))


def first_records(settings: DataSettings) -> list[Record]:
    """What the first 64 rows of settings.path hold, as far as they are records."""
    found = []
    rows = read_rows(Path(settings.path), settings.max_line_bytes) if settings.path else ()
    for _, row in islice(rows, _LOOKED_AT):
        try:
            found.append(to_record(row, columns=Columns.of(settings)))
        except BadLine:
            continue
    return found
