"""A small data set as token sequences, all of it in memory; `DataStream` gives a large one in parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thack.config import DataSettings
from thack.data.records import Record
from thack.data.report import Report
from thack.data.sequence import TokenSequence
from thack.data.store import read_manifest
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError


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
    if records is None:
        check_written_for(Path(settings.path), tokenizer)
    stream = DataStream(settings, tokenizer, need_response=need_response, records=records)
    sequences: list[TokenSequence] = []
    first: dict[str, Record] = {}
    for chunk in stream:
        sequences += chunk.sequences
        for record in chunk.records:
            first.setdefault(record.prompt_id, record)
    return Prepared(sequences=sequences, records=first, report=stream.report)


def check_written_for(path: Path, tokenizer: Tokenizer) -> None:
    """Responses that `thack generate` wrote as ids belong to one tokenizer (pitfall 20)."""
    manifest = read_manifest(path)
    if manifest is not None and manifest.tokenizer != tokenizer.fingerprint():
        raise MismatchError(
            f"{path} was written with another tokenizer",
            details=[f"responses  {manifest.tokenizer}", f"model      {tokenizer.fingerprint()}"],
            hint="ids would mean different words: generate again with a model that shares this tokenizer",
        )
