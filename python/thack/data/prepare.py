"""A small data set as token sequences, all of it in memory; `DataStream` gives a large one in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thack.config import DataSettings
from thack.data.records import Record
from thack.data.report import Report
from thack.data.sequence import TokenSequence
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Sequences in the data's order, `example` counting them; without responses they are prompts alone."""

    sequences: list[TokenSequence]
    records: Mapping[str, Record]  # the first of each prompt, by its id
    report: Report


def prepare(
    settings: DataSettings,
    tokenizer: Tokenizer,
    *,
    need_response: bool,
    records: Sequence[Record] | None = None,
) -> Prepared:
    """Encode `records`, or those of settings.path.

    Args:
        settings: which records, how they are rendered, and their maxima.
        tokenizer: of the model that reads the sequences.
        need_response: drop records without a response. Otherwise only prompts are kept, each once.
        records: stand in for those of settings.path.

    Raises:
        DataError: nothing is left, or a record cannot be read or rendered and on_bad_line is `stop`.
        MismatchError: the data was written with another tokenizer.
    """
    stream = DataStream(settings, tokenizer, need_response=need_response, records=records)
    sequences: list[TokenSequence] = []
    first: dict[str, Record] = {}
    for chunk in stream:
        sequences += chunk.sequences
        for record in chunk.records:
            first.setdefault(record.prompt_id, record)
    return Prepared(sequences=sequences, records=first, report=stream.report)
