"""A data set as token sequences, a few records at a time: read, encoded, checked, cut to its maxima, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from thack.config import DataSettings
from thack.data.chat import Pair
from thack.data.columns import Columns
from thack.data.control_tokens import count_with_control_tokens, keeps_text
from thack.data.encode import RecordEncoder, bounds_of
from thack.data.eos import EndCounts, cut
from thack.data.formats import to_record
from thack.data.lengths import CHAT_TOKENS, TEXT_TOKENS, kept_of
from thack.data.readers import bad_line, other_prompt, parsed
from thack.data.records import Record, RecordRefusal
from thack.data.report import Report
from thack.data.rows import BadLine, Rows, open_rows
from thack.data.selection import Selection, select
from thack.data.sequence import TokenSequence
from thack.data.store import read_manifest
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError, MismatchError
from thack.runtime.progress import SILENT, Progress

_RECORDS, _CHARACTERS = 512, 1 << 22  # encoded at a time
_NOTHING = np.empty(0, dtype=np.int32)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A few records, and the sequences that came of them, each with the address of its record."""

    records: Sequence[Record]
    sequences: Sequence[TokenSequence]
    addresses: Sequence[int]


class DataStream:
    """The sequences of a data set in its order, `example` counting them; without responses they are prompts alone.

    Args:
        settings: which records, how they are rendered, and their maxima.
        tokenizer: of the model that reads the sequences.
        need_response: drop records without a response. Otherwise only prompts are kept, each once.
        records: stand in for those of settings.path; their addresses are their numbers.
        progress: shows how far an iteration is.

    Raises:
        DataError: the data holds no record, or a line is none and on_bad_line is `stop`.
        MismatchError: the data was written with another tokenizer.
    """

    def __init__(
        self,
        settings: DataSettings,
        tokenizer: Tokenizer,
        *,
        need_response: bool,
        records: Sequence[Record] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._progress = progress
        self._need_response = need_response
        self._columns = Columns.of(settings)
        if records is None:
            _check_written_for(Path(settings.path), tokenizer)
        self._source: Rows | Sequence[Record] = (
            open_rows(Path(settings.path), settings.max_line_bytes) if records is None else records
        )
        self._selection: Selection | None = None

    def __iter__(self) -> Iterator[Chunk]:
        """Encode all of it; afterwards `report` tells what became of it."""
        with self._progress.task("reading data", None):
            self._selection = self._selected()
        self._counts = Counts(settings=self._settings, limit=self.limit)
        with self._progress.task("encoding data", self._selection.num_taken, "records") as bar:
            for part in batched(self._taken(self._selection), lambda each: _size(each[1])):
                yield self._chunk(part)
                bar.advance(len(part))
        self._check()

    def _chunk(self, part: Sequence[tuple[int, Record]]) -> Chunk:
        records = [record for _, record in part]
        sequences: list[TokenSequence] = []
        addresses: list[int] = []
        self._counts.see(records, self._tokenizer)
        for (address, record), pairs in zip(part, self._encoded(records, self.limit), strict=True):
            found = self._counts.add(record, pairs)
            sequences += found
            addresses += [address] * len(found)
        return Chunk(records=records, sequences=sequences, addresses=addresses)

    @property
    def files(self) -> list[Path]:
        """What is read."""
        return [] if isinstance(self._source, Sequence) else self._source.files

    @property
    def limit(self) -> int:
        """Longest response, in tokens."""
        assert self._selection is not None, "limit before the first chunk"
        if self._settings.max_response_tokens:
            return self._settings.max_response_tokens
        return CHAT_TOKENS if self._selection.is_long else TEXT_TOKENS

    def read(self, addresses: Sequence[int], limit: int) -> Iterator[tuple[Record, list[TokenSequence]]]:
        """Records at these addresses, ascending, and the sequences that come of each, numbered from 0."""
        if isinstance(self._source, Sequence):
            source = self._source
            records: Iterator[Record] = (source[i] for i in addresses)
        else:
            records = (to_record(row, place, self._columns) for place, row in self._source.at(addresses))
        for part in batched(records, _size):
            for record, pairs in zip(part, self._encoded(part, limit), strict=True):
                yield record, Counts(settings=self._settings, limit=limit).add(record, pairs)

    @property
    def report(self) -> Report:
        """What became of the records so far."""
        return self._counts.report(self._tokenizer)

    def _encoded(self, records: Sequence[Record], limit: int) -> list[list[Pair] | RecordRefusal]:
        encoder = RecordEncoder(
            self._tokenizer,
            train_on=self._settings.train_on,
            text_tokens=limit,
            bounds=bounds_of(records, self._tokenizer, kept_of(self._settings, limit)),
        )
        if self._need_response:
            return encoder.pairs(records)
        both = zip(encoder.prompts(records), encoder.teacher_prompts(records), strict=True)
        return [_prompt_alone(prompt, teacher) for prompt, teacher in both]

    def _selected(self) -> Selection:
        is_listed = isinstance(self._source, Sequence)
        limit, one_each = self._settings.limit, not self._need_response
        return select(self._records(), limit=limit, one_each=one_each, check_ids=not is_listed)

    def _records(self) -> Iterable[Record | BadLine]:
        """Every record; raises at a bad line that may not be skipped, and where none is a record."""
        if isinstance(self._source, Sequence):
            return self._source
        rows = ((place, row) for _, place, row in self._source)
        return parsed(rows, self._settings.path, self._settings.on_bad_line, self._columns)

    def _taken(self, selection: Selection) -> Iterator[tuple[int, Record]]:
        """Address and record of what is taken; what is skipped is counted."""
        if isinstance(self._source, Sequence):
            yield from ((n, record) for n, record in enumerate(self._source) if selection.takes(n))
            return
        for number, (address, place, row) in enumerate(self._source):
            try:
                if number in selection.conflicts:
                    raise other_prompt(to_record(row, place, self._columns).prompt_id)
                if not selection.takes(number) and selection.flags[number]:
                    continue
                yield address, to_record(row, place, self._columns)
            except BadLine as reason:
                self._counts.skip(bad_line(place, reason, self._settings.on_bad_line))

    def _check(self) -> None:
        if not self._counts.kept:
            raise DataError(
                f"{self._settings.path or 'the data'} leaves nothing to work on",
                details=[str(self.report)],
                hint="raise `data.max_prompt_tokens`, or give responses",
            )


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of the records."""

    settings: DataSettings
    limit: int
    skipped: list[str] = field(default_factory=list)
    records: int = 0
    kept: int = 0
    dropped: int = 0
    cut_prompts: int = 0
    cut_responses: int = 0
    missing: int = 0
    pieces: int = 0
    other_beginnings: int = 0
    teacher_prompts: int = 0
    with_control_tokens: int = 0
    is_plain: bool = False
    ends: EndCounts = field(default_factory=EndCounts)
    _ending: list[TokenSequence] = field(default_factory=list)
    _were_cut: list[bool] = field(default_factory=list)  # each of them, by what wrote it

    def see(self, records: Sequence[Record], tokenizer: Tokenizer) -> None:
        """Count records before they are encoded, and the ends of the sequences before them."""
        self.records += len(records)
        self.is_plain |= any(record.conversation is None for record in records)
        if not keeps_text(tokenizer):
            self.with_control_tokens += count_with_control_tokens(records, tokenizer)
        self._count_ends(tokenizer)

    def skip(self, line: str) -> None:
        """Count a record that is left out."""
        self.skipped.append(line)

    def add(self, record: Record, pairs: list[Pair] | RecordRefusal) -> list[TokenSequence]:
        """The pairs of one record, each within its maxima."""
        if isinstance(pairs, RecordRefusal):
            self.skip(bad_line(record.name, pairs, self.settings.on_bad_line))
            return []
        self.missing += not pairs
        found = []
        for pair in pairs:
            prompt = self._fit_prompt(pair.prompt_ids, pair.teacher_prompt_ids)
            if prompt is None:
                continue
            self.teacher_prompts += pair.teacher_prompt_ids is not None
            response = cut(pair.response_ids, self.limit)
            self.cut_responses += len(response) < len(pair.response_ids)
            self.pieces += record.is_text
            self.other_beginnings += not pair.continues
            found.append(
                TokenSequence(
                    example=self.kept,
                    prompt_id=record.prompt_id,
                    prompt_ids=prompt,
                    response_ids=response,
                    sample=record.sample,
                    teacher_prompt_ids=pair.teacher_prompt_ids,
                )
            )
            self.kept += 1
        if not record.is_text:
            ending = [s for s in found if len(s.response_ids)]
            self._ending += ending
            self._were_cut += [record.was_cut] * len(ending)
        return found

    def _fit_prompt(self, prompt: np.ndarray, teacher: np.ndarray | None) -> np.ndarray | None:
        """A prompt within its maximum: longer ones are dropped, or lose their beginning (the end is the question).

        A longer prompt of the teacher's own is never cut: what it sees beyond the student may be at its beginning.
        """
        most = self.settings.max_prompt_tokens
        if teacher is not None and not 0 < len(teacher) <= most:
            self.dropped += 1
            return None
        if len(prompt) == 0 or (len(prompt) > most and self.settings.on_long == "drop"):
            self.dropped += 1
            return None
        self.cut_prompts += len(prompt) > most
        return prompt[-most:] if len(prompt) > most else prompt

    def _count_ends(self, tokenizer: Tokenizer) -> None:
        responses = [s.response_ids for s in self._ending]
        self.ends += EndCounts.of(responses, tokenizer.ends, maximum=self.limit, were_cut=self._were_cut)
        self._ending, self._were_cut = [], []

    def report(self, tokenizer: Tokenizer) -> Report:
        """The counts."""
        self._count_ends(tokenizer)
        doubt = tokenizer.bos_contradiction if self.is_plain else ""
        return Report(
            records=self.records,
            kept=self.kept,
            dropped_prompts=self.dropped,
            cut_prompts=self.cut_prompts,
            cut_responses=self.cut_responses,
            without_response=self.missing,
            with_control_tokens=self.with_control_tokens,
            pieces=self.pieces,
            other_beginnings=self.other_beginnings,
            teacher_prompts=self.teacher_prompts,
            notes=(doubt,) if doubt else (),
            ends=self.ends,
            skipped=tuple(self.skipped),
        )


def _prompt_alone(
    prompt: np.ndarray | RecordRefusal, teacher: np.ndarray | RecordRefusal | None
) -> list[Pair] | RecordRefusal:
    if isinstance(prompt, RecordRefusal):
        return prompt
    if isinstance(teacher, RecordRefusal):
        return RecordRefusal(f"as the teacher reads it: {teacher}")
    return [Pair(prompt, _NOTHING, teacher_prompt_ids=teacher)]


def batched(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of up to 512 items in order, whose characters by `size` are about four millions together, or one item."""
    found: list[T] = []
    characters = 0
    for item in items:
        found.append(item)
        characters += size(item)
        if len(found) == _RECORDS or characters >= _CHARACTERS:
            yield found
            found, characters = [], 0
    if found:
        yield found


def _size(record: Record) -> int:
    """Characters of a record, an id counted as four."""
    return len(record.prompt) + len(record.response or "") + 4 * len(record.response_ids or ())


def _check_written_for(path: Path, tokenizer: Tokenizer) -> None:
    """Responses that `thack generate` wrote as ids belong to one tokenizer (pitfall 20)."""
    manifest = read_manifest(path)
    if manifest is not None and manifest.tokenizer != tokenizer.fingerprint():
        raise MismatchError(
            f"{path} was written with another tokenizer",
            details=[f"responses  {manifest.tokenizer}", f"model      {tokenizer.fingerprint()}"],
            hint="ids would mean different words: generate again with a model that shares this tokenizer",
        )
