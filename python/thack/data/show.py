"""How data becomes token ids, for a person to look at before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from thack.config import DataSettings, ShowSettings
from thack.data.date import with_settings
from thack.data.readers import each_record
from thack.data.records import Record
from thack.data.report import Report
from thack.data.sequence import TokenSequence
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.runtime.progress import SILENT, Progress
from thack.schema.data import ShownData, ShownPiece, ShownSequence


def show(settings: ShowSettings, directory: Path, progress: Progress = SILENT) -> ShownData:
    """Encode the data of `settings` with the tokenizer in a directory; prompts alone where it holds no response."""
    tokenizer = with_settings(Tokenizer.load(directory), settings.data)
    stream = DataStream(settings.data, tokenizer, need_response=_is_answered(settings.data), progress=progress)
    shown: list[TokenSequence] = []
    prompt_tokens = trained_tokens = 0
    for s in (s for chunk in stream for s in chunk.sequences):
        shown += [s] if len(shown) < settings.count else []
        prompt_tokens += len(s.prompt_ids)
        trained_tokens += len(s.response_ids)
    ends, report = tokenizer.ends, stream.report
    return ShownData(
        counts=_counts(report),
        skipped=report.skipped,
        warnings=tuple(report.warnings()),
        ends=tuple(tokenizer.token(i) for i in (ends.eos, *sorted(ends.ids - {ends.eos}))),
        turn_end="" if ends.turn is None else tokenizer.token(ends.turn),
        prompt_tokens=prompt_tokens,
        trained_tokens=trained_tokens,
        sequences=tuple(_sequence(s, tokenizer) for s in shown),
    )


def _is_answered(settings: DataSettings) -> bool:
    """Whether a record of the data has a response."""
    records = (found for found in each_record(settings) if isinstance(found, Record))
    return any(record.response or record.response_ids for record in records)


def _counts(report: Report) -> dict[str, int]:
    """The numbers of a report by name, those of its ends among them."""
    found = {field.name: getattr(report, field.name) for field in fields(report)}
    numbers = {name: value for name, value in found.items() if isinstance(value, int)}
    ends = report.ends
    return numbers | {"finished": ends.finished, "truncated": ends.truncated, "dropped_end": ends.dropped_end}


def _sequence(s: TokenSequence, tokenizer: Tokenizer) -> ShownSequence:
    ids = [*s.prompt_ids.tolist(), *s.response_ids.tolist()]
    trained = [0] * len(s.prompt_ids) + [1] * len(s.response_ids)
    return ShownSequence(
        prompt_id=s.prompt_id,
        ids=tuple(ids),
        tokens=tuple(tokenizer.token(i) for i in ids),
        trained=tuple(trained),
        pieces=tuple(_pieces(ids, trained, tokenizer)),
        finished=tokenizer.ends.is_finished(s.response_ids),
    )


def _pieces(ids: Sequence[int], trained: Sequence[int], tokenizer: Tokenizer) -> Iterator[ShownPiece]:
    """Ids of one kind in a row as one text: a character may be spread over several of them."""
    kinds = [(bool(one), tokenizer.token(i) in tokenizer.added_tokens) for i, one in zip(ids, trained, strict=True)]
    for (is_trained, is_control), places in groupby(range(len(ids)), key=kinds.__getitem__):
        text = tokenizer.text([ids[place] for place in places])
        yield ShownPiece(text=text, trained=is_trained, control=is_control)
