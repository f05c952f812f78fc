"""Sequences that are read in any order, over and over: in memory while they are few, then in a file without a name."""

from __future__ import annotations

import os
import struct
import weakref
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import overload

import numpy as np

from thack.data.sequence import TokenSequence
from thack.data.stream import DataStream
from thack.files import explained

_IN_MEMORY = 1 << 23  # tokens, where a sequence counts as 64 more
# example, sample, bytes of the prompt's id, tokens of prompt, response and the teacher's own prompt (−1: none)
_HEAD = struct.Struct("<qqiiii")
_BLOCK = 1 << 20  # bytes written at a time


class SpooledSequences(Sequence[TokenSequence]):
    """A sequence of any length; 4 bytes of each of its items are in memory beyond the first ones.

    Args:
        directory: on whose disk the file is. It has no name, so that nothing is left however the process ends.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._first: list[TokenSequence] = []
        self._room = _IN_MEMORY
        self._lengths = array("i")
        self._content: _Appended | None = None  # of the sequences beyond the first ones
        self._starts: _Appended | None = None  # of each in `_content`

    @property
    def lengths(self) -> np.ndarray:
        """int32: tokens of prompt and response of each sequence."""
        return np.frombuffer(self._lengths, dtype=np.int32)

    def append(self, s: TokenSequence) -> None:
        """Add a sequence that was not read from a cache."""
        size = len(s.prompt_ids) + len(s.response_ids)
        self._lengths.append(size)
        self._room -= size + 64
        if self._room >= 0:
            self._first.append(s)
            return
        if self._content is None or self._starts is None:
            self._content, self._starts = _Appended(self._directory), _Appended(self._directory)
        name = s.prompt_id.encode()
        teacher = s.teacher_prompt_ids
        counts = (len(s.prompt_ids), len(s.response_ids), -1 if teacher is None else len(teacher))
        head = _HEAD.pack(s.example, s.sample, len(name), *counts)
        parts = (s.prompt_ids, s.response_ids, *(() if teacher is None else (teacher,)))
        ids = b"".join(part.astype("<i4").tobytes() for part in parts)
        self._starts.append(self._content.size.to_bytes(8, "little"))
        self._content.append(head + name + ids)

    def __len__(self) -> int:
        return len(self._lengths)

    @overload
    def __getitem__(self, index: int) -> TokenSequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenSequence]: ...
    def __getitem__(self, index: int | slice) -> TokenSequence | list[TokenSequence]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return self._first[place] if place < len(self._first) else self._read(place - len(self._first))

    def __iter__(self) -> Iterator[TokenSequence]:
        return (self[i] for i in range(len(self)))

    def _read(self, place: int) -> TokenSequence:
        assert self._content is not None, "nothing is in the file"
        assert self._starts is not None, "nothing is in the file"
        start = int.from_bytes(self._starts.read(8 * place, 8), "little")
        head = self._content.read(start, _HEAD.size)
        example, sample, name_bytes, prompt, response, teacher = _HEAD.unpack(head)
        size = name_bytes + 4 * (prompt + response + max(teacher, 0))
        rest = self._content.read(start + _HEAD.size, size)
        ids = np.frombuffer(rest, dtype="<i4", offset=name_bytes)
        return TokenSequence(
            example=example,
            sample=sample,
            prompt_id=rest[:name_bytes].decode(),
            prompt_ids=ids[:prompt],
            response_ids=ids[prompt : prompt + response],
            teacher_prompt_ids=None if teacher < 0 else ids[prompt + response :],
        )


class _Appended:
    """A file without a name that grows, and is read anywhere."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with explained(directory), TemporaryFile(dir=directory) as file:
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._waiting = bytearray()
        self.size = 0

    def append(self, content: bytes) -> None:
        self._waiting += content
        self.size += len(content)
        if len(self._waiting) >= _BLOCK:
            self._flush()

    def read(self, start: int, size: int) -> bytes:
        if self._waiting:
            self._flush()
        return os.pread(self._descriptor, size, start)

    def _flush(self) -> None:
        with explained(self._directory):
            while self._waiting:
                del self._waiting[: os.write(self._descriptor, self._waiting)]


def spool(stream: DataStream, directory: Path) -> SpooledSequences:
    """All sequences of a stream."""
    found = SpooledSequences(directory)
    for chunk in stream:
        for s in chunk.sequences:
            found.append(s)
    return found
