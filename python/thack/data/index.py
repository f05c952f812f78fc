"""The index of a data set: where each sequence comes from and how long it is, so that any part is read alone.

    record            per sequence 16 bytes, little-endian: address of its record, tokens of its prompt and response
    footer            JSON: `IndexFooter`
    length            8 bytes: of the footer

It is written once, by one pass that encodes everything, under a name that is the hash of all that decides it: the
files, the tokenizer and the settings. Processes that find it, or wait for the one that writes it, read what they need
of the data, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Protocol

import numpy as np

from thack import _version
from thack.config import DataSettings, to_dict
from thack.data.records import Record
from thack.data.sequence import TokenSequence, fingerprint_parts
from thack.data.stream import DataStream
from thack.data.tokenizer import Tokenizer
from thack.errors import DataError
from thack.files import canonical_json, digest, file_digest, write_parts
from thack.reading import LINE_BYTES, parse_json
from thack.runtime.lock import locked
from thack.runtime.progress import SILENT, Progress
from thack.schema import document

_ROW = np.dtype([("address", "<u8"), ("prompt", "<u4"), ("response", "<u4")])
_BLOCK = 1 << 16  # rows that are looked at together
_DIGITS = 16  # of the hash in the name


class Sequences(Protocol):
    """Sequences by position, any of them read when they are asked for."""

    @property
    def fingerprint(self) -> str:
        """`data_fingerprint` of all of them."""

    @property
    def has_teacher_prompts(self) -> bool:
        """Whether the teacher reads a prompt of its own before some responses."""

    def __len__(self) -> int: ...

    def lengths(self) -> Iterator[np.ndarray]:
        """int64 [n, 2] in parts, in order: tokens of prompt and response."""

    def read(self, positions: Sequence[int]) -> list[TokenSequence]:
        """The sequences at these positions, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFooter:
    """What an index says of its data set.

    Args:
        sequences: number of rows.
        fingerprint: of the sequences.
        limit: longest response.
        lines: what became of the records, as it is shown.
        teacher_prompts: sequences with a prompt of the teacher's own.
    """

    SCHEMA: ClassVar[int] = 1

    sequences: int
    fingerprint: str
    limit: int
    lines: tuple[str, ...]
    teacher_prompts: int = 0


class IndexedSequences:
    """The sequences of a data set on disk, by an index of it. Made by `index_data`."""

    def __init__(self, path: Path, stream: DataStream) -> None:
        self._stream = stream
        self.footer = _read_footer(path)
        self._descriptor = os.open(path, os.O_RDONLY)  # read from, not mapped: mapped pages would count as memory
        weakref.finalize(self, os.close, self._descriptor)

    @property
    def fingerprint(self) -> str:
        return self.footer.fingerprint

    @property
    def has_teacher_prompts(self) -> bool:
        return self.footer.teacher_prompts > 0

    def __len__(self) -> int:
        return self.footer.sequences

    def lengths(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _BLOCK):
            part = self._rows(np.arange(start, min(start + _BLOCK, len(self))))
            yield np.stack([part["prompt"], part["response"]], axis=1).astype(np.int64)

    def read(self, positions: Sequence[int]) -> list[TokenSequence]:
        return [s for _, s in self.with_records(positions)]

    def with_records(self, positions: Sequence[int]) -> Iterator[tuple[Record, TokenSequence]]:
        """The sequences at these positions, ascending, each with its record.

        Raises:
            DataError: the data is no longer what was indexed.
        """
        wanted = np.asarray(positions, dtype=np.int64)
        rows = self._rows(wanted)
        addresses, places, groups = np.unique(rows["address"], return_index=True, return_inverse=True)
        firsts = [self._first(int(wanted[i]), int(rows["address"][i])) for i in places]
        found = self._stream.read(addresses.tolist(), self.footer.limit)
        group, record, sequences = -1, None, list[TokenSequence]()
        for position, row, wanted_group in zip(wanted.tolist(), rows, groups.tolist(), strict=True):
            while group < wanted_group:
                record, sequences = next(found)
                group += 1
            number = position - firsts[group]
            if number >= len(sequences) or _size(sequences[number]) != (int(row["prompt"]), int(row["response"])):
                raise DataError("the data has changed since it was read", hint="leave its files as they are in a run")
            assert record is not None
            yield record, replace(sequences[number], example=position)

    def _rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows at ascending positions."""
        size, descriptor = _ROW.itemsize, self._descriptor
        runs = np.split(positions, np.flatnonzero(np.diff(positions) != 1) + 1) if len(positions) else []
        return np.frombuffer(b"".join(os.pread(descriptor, len(r) * size, int(r[0]) * size) for r in runs), dtype=_ROW)

    def _first(self, position: int, address: int) -> int:
        """Position of the first sequence of a record, of which `position` is one."""
        while position and self._rows(np.array([position - 1]))["address"][0] == address:
            position -= 1
        return position


def index_data(
    settings: DataSettings,
    tokenizer: Tokenizer,
    *,
    need_response: bool,
    samples: int = 1,
    directory: Path | None,
    progress: Progress = SILENT,
) -> IndexedSequences:
    """The sequences of `settings.path`, by the index in `directory`, or by one that is written there now.

    Args:
        settings: which records, how they are rendered, and their maxima.
        tokenizer: of the model that reads the sequences.
        need_response: as of `DataStream`.
        samples: responses per prompt that will be generated: the fingerprint counts each prompt so often.
        directory: keeps the index; None: a temporary one that no other process finds. Of several processes that need
            the same one, such as the tasks of an array, one writes it, and the others wait for it.
        progress: shows how far it is, and who writes it while this process waits.

    Raises:
        DataError: nothing is left, or a record cannot be read or rendered and on_bad_line is `stop`.
        MismatchError: the data was written with another tokenizer.
    """
    stream = DataStream(settings, tokenizer, need_response=need_response, progress=progress)
    if directory is None:
        with TemporaryDirectory(prefix="thack-") as scratch:
            path = Path(scratch) / "data.index"
            write_parts(path, _parts(stream, samples))
            return IndexedSequences(path, stream)  # the mapping outlives the name of the file
    key = _key(settings, tokenizer, stream, need_response=need_response, samples=samples)
    path = directory / f"data-{key}.index"
    found = _opened(path, stream)
    if found is None:
        with locked(path, progress):
            found = _opened(path, stream)  # by another process, while this one waited
            if found is None:
                write_parts(path, _parts(stream, samples))
                found = IndexedSequences(path, stream)
    return found


def _opened(path: Path, stream: DataStream) -> IndexedSequences | None:
    """The index in a file; None where there is none, or a damaged one."""
    if path.is_file():
        with suppress(DataError):
            return IndexedSequences(path, stream)
    return None


def _key(settings: DataSettings, tokenizer: Tokenizer, stream: DataStream, *, need_response: bool, samples: int) -> str:
    """Hash of what decides an index. The settings of a chat are among those of the data, but for today's date."""
    decides = {
        "build": _version.__version__,
        "files": [file_digest(path) for path in stream.files],
        "tokenizer": tokenizer.fingerprint(),
        "settings": to_dict(settings) | {"path": ""},
        "date": str(tokenizer.options.now),
        "responses": need_response,
        "samples": samples,
    }
    return digest(canonical_json(decides)).removeprefix("sha256:")[:_DIGITS]


def _parts(stream: DataStream, samples: int) -> Iterator[bytes]:
    """The bytes of an index: rows of each chunk, the footer, its length."""
    content, count = hashlib.sha256(), 0
    for chunk in stream:
        rows = np.empty(len(chunk.sequences), dtype=_ROW)
        rows["address"] = chunk.addresses
        rows["prompt"] = [len(s.prompt_ids) for s in chunk.sequences]
        rows["response"] = [len(s.response_ids) for s in chunk.sequences]
        yield rows.tobytes()
        for part in fingerprint_parts(chunk.sequences, samples):
            content.update(part)
        count += len(rows)
    footer = IndexFooter(
        sequences=count,
        fingerprint=f"sha256:{content.hexdigest()}",
        limit=stream.limit,
        lines=tuple(stream.report.lines()),
        teacher_prompts=stream.report.teacher_prompts,
    )
    encoded = canonical_json(document.dump(footer))
    yield encoded + len(encoded).to_bytes(8, "little")


def _read_footer(path: Path) -> IndexFooter:
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - 8))
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size - 8, LINE_BYTES):
            raise DataError(f"{path} is damaged", hint="remove it, and the next start makes another")
        file.seek(size - 8 - length)
        try:
            footer = document.parse(IndexFooter, parse_json(file.read(length)), str(path))
        except ValueError as error:
            raise DataError(f"{path} is damaged", hint="remove it, and the next start makes another") from error
    if footer.sequences * _ROW.itemsize + length + 8 != size:
        raise DataError(f"{path} is damaged", hint="remove it, and the next start makes another")
    return footer


def _size(s: TokenSequence) -> tuple[int, int]:
    return len(s.prompt_ids), len(s.response_ids)
