"""A data set as token sequences: read, encoded, checked, cut to its maxima, all of it counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from thack.config import DataSettings
from thack.data.chat import Pair
from thack.data.columns import Columns
from thack.data.control_tokens import count_with_control_tokens, keeps_text
from thack.data.encode import RecordEncoder
from thack.data.eos import EndCounts, cut
from thack.data.lengths import response_limit
from thack.data.readers import Reading, bad_line, read_data
from thack.data.records import Record
from thack.data.report import Report
from thack.data.sequence import TokenSequence
from thack.data.store import read_manifest
from thack.data.template import TemplateRefusal
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError


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
        _check_written_for(Path(settings.path), tokenizer)
        reading = read_data(Path(settings.path), settings.on_bad_line, Columns.of(settings))
    else:
        reading = Reading(records=list(records))
    taken = _first(reading.records, settings.limit, one_each=not need_response)
    limit = response_limit(settings, taken)
    encoder = RecordEncoder(tokenizer, train_on=settings.train_on, text_tokens=limit)
    found = _Found(settings=settings, limit=limit, skipped=list(reading.skipped))
    if need_response:
        for record, pairs in zip(taken, encoder.pairs(taken), strict=True):
            found.add(record, pairs)
    else:
        for record, prompt in zip(taken, encoder.prompts(taken), strict=True):
            bare = prompt if isinstance(prompt, TemplateRefusal) else [Pair(prompt, _NOTHING)]
            found.add(record, bare)
    report = found.report(taken, tokenizer)
    if not found.sequences:
        raise DataError(
            f"{settings.path or 'the data'} leaves nothing to work on",
            details=[str(report)],
            hint="raise `data.max_prompt_tokens`, or give responses",
        )
    first = {record.prompt_id: record for record in reversed(taken)}
    return Prepared(sequences=found.sequences, records=first, report=report)


_NOTHING = np.empty(0, dtype=np.int32)


@dataclass(slots=True, kw_only=True)
class _Found:
    """The sequences so far, and counts of what became of the records."""

    settings: DataSettings
    limit: int
    skipped: list[str]
    sequences: list[TokenSequence] = field(default_factory=list)
    dropped: int = 0
    cut_prompts: int = 0
    cut_responses: int = 0
    missing: int = 0
    pieces: int = 0
    other_beginnings: int = 0

    def add(self, record: Record, pairs: list[Pair] | TemplateRefusal) -> None:
        """The pairs of one record, each within its maxima."""
        if isinstance(pairs, TemplateRefusal):
            self.skipped.append(bad_line(record.name, pairs, self.settings.on_bad_line))
            return
        self.missing += not pairs
        for pair in pairs:
            prompt = self._fit_prompt(pair.prompt_ids)
            if prompt is None:
                continue
            response = cut(pair.response_ids, self.limit)
            self.cut_responses += len(response) < len(pair.response_ids)
            self.pieces += record.is_text
            self.other_beginnings += not pair.continues
            self.sequences.append(
                TokenSequence(
                    example=len(self.sequences),
                    prompt_id=record.prompt_id,
                    prompt_ids=prompt,
                    response_ids=response,
                    sample=record.sample,
                )
            )

    def _fit_prompt(self, prompt: np.ndarray) -> np.ndarray | None:
        """A prompt within its maximum: longer ones are dropped, or lose their beginning (the end is the question)."""
        most = self.settings.max_prompt_tokens
        if len(prompt) == 0 or (len(prompt) > most and self.settings.on_long == "drop"):
            self.dropped += 1
            return None
        self.cut_prompts += len(prompt) > most
        return prompt[-most:] if len(prompt) > most else prompt

    def report(self, taken: Sequence[Record], tokenizer: Tokenizer) -> Report:
        """The counts."""
        texts = {record.prompt_id for record in taken if record.is_text}
        is_plain = any(record.conversation is None for record in taken)
        doubt = tokenizer.bos_contradiction if is_plain else ""
        ending = [s for s in self.sequences if s.prompt_id not in texts and len(s.response_ids)]
        return Report(
            records=len(taken),
            kept=len(self.sequences),
            dropped_prompts=self.dropped,
            cut_prompts=self.cut_prompts,
            cut_responses=self.cut_responses,
            without_response=self.missing,
            with_control_tokens=0 if keeps_text(tokenizer) else count_with_control_tokens(taken, tokenizer),
            pieces=self.pieces,
            other_beginnings=self.other_beginnings,
            notes=(doubt,) if doubt else (),
            ends=EndCounts.of_sequences(ending, tokenizer.ends, maximum=self.limit),
            skipped=tuple(self.skipped),
        )


def _first(records: Sequence[Record], limit: int, *, one_each: bool) -> list[Record]:
    """The records of the first `limit` prompts; with `one_each`, the first record of every prompt."""
    seen: set[str] = set()
    taken = []
    for record in records:
        is_new = record.prompt_id not in seen
        if is_new and limit and len(seen) == limit:
            continue
        seen.add(record.prompt_id)
        if is_new or not one_each:
            taken.append(record)
    return taken


def _check_written_for(path: Path, tokenizer: Tokenizer) -> None:
    """Responses that `thack generate` wrote as ids belong to one tokenizer (pitfall 20)."""
    manifest = read_manifest(path)
    if manifest is not None and manifest.tokenizer != tokenizer.fingerprint():
        raise MismatchError(
            f"{path} was written with another tokenizer",
            details=[f"responses  {manifest.tokenizer}", f"model      {tokenizer.fingerprint()}"],
            hint="ids would mean different words: generate again with a model that shares this tokenizer",
        )
