"""Which records of a data set are taken: decided in one pass over it, before anything is encoded.

Of a record a few hashes are kept while prompts are compared, in files once they are many, and one byte afterwards.
Hashes have 64 bits: among 10⁸ prompts two ids have one hash with a probability of 3e-4.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from thack.data.records import Record
from thack.data.rows import BadLine

_IN_MEMORY = 1 << 17  # records whose hashes are in memory
_PARTS = 256  # files, each with the hashes of one part of the prompts
_TAKEN, _LONG = 1, 2
_HASHES = np.dtype([("id", "<i8"), ("text", "<i8"), ("number", "<i8")])


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows of a data set by number.

    Args:
        flags: uint8 per row.
        conflicts: rows whose id is that of another prompt.
    """

    flags: np.ndarray
    conflicts: frozenset[int]

    @property
    def num_rows(self) -> int:
        """Those that are records."""
        return int((self.flags != 0).sum())

    @property
    def num_taken(self) -> int:
        return int((self.flags & _TAKEN).sum())

    @property
    def is_long(self) -> bool:
        """Whether a record that is taken is a conversation or a raw text."""
        return bool(((self.flags & _TAKEN) & (self.flags >> 1)).any())

    def takes(self, number: int) -> bool:
        return bool(self.flags[number] & _TAKEN)


_VALID = 4


def select(rows: Iterable[Record | BadLine], *, limit: int, one_each: bool, check_ids: bool) -> Selection:
    """The records of the first `limit` prompts (0: of all); with `one_each`, the first record of every prompt.

    Args:
        rows: in order; a BadLine takes a number, and no more.
        limit: prompts.
        one_each: later records of a prompt are left out.
        check_ids: a record whose id an earlier record gave to another prompt is left out, and listed.
    """
    flags = bytearray()
    with _Names() as names:
        for number, record in enumerate(rows):
            if isinstance(record, BadLine):
                flags.append(0)
                continue
            is_long = record.conversation is not None or record.is_text
            flags.append(_VALID | (_LONG if is_long else 0))
            names.add(record.prompt_id, record.identity, number)
        found = np.frombuffer(flags, dtype=np.uint8)
        return _decided(found, names, limit=limit, one_each=one_each, check_ids=check_ids)


def _decided(flags: np.ndarray, names: _Names, *, limit: int, one_each: bool, check_ids: bool) -> Selection:
    is_first = np.zeros(len(flags), dtype=bool)
    conflicts: list[int] = []
    for numbers, firsts, differs in names.groups():
        if check_ids:
            conflicts += numbers[differs].tolist()
        is_first[numbers[numbers == firsts]] = True
    taken = is_first.copy() if one_each else flags != 0
    if limit and is_first.sum() > limit:
        end = int(np.flatnonzero(is_first)[limit])  # the first prompt that is too many
        taken[end:] &= not one_each
        if not one_each:
            for numbers, firsts, _ in names.groups():
                taken[numbers[firsts >= end]] = False
    taken[conflicts] = False
    flags = flags.copy()
    flags[taken] |= _TAKEN
    return Selection(flags=flags, conflicts=frozenset(conflicts))


class _Names:
    """Hashes of ids and prompts, in memory until they are many, then in files of prompts that belong together."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, int, int]] = []
        self._folder: TemporaryDirectory[str] | None = None

    def __enter__(self) -> _Names:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, prompt_id: str, text: str, number: int) -> None:
        self._rows.append((hash(prompt_id), hash(text), number))
        if len(self._rows) == _IN_MEMORY:
            self._spill()

    def groups(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """In parts: numbers of records, the first record of the same id, and whether its prompt is another one."""
        if self._folder is None:
            yield _grouped(np.array(self._rows, dtype=_HASHES))
            return
        self._spill()
        for part in sorted(Path(self._folder.name).iterdir()):
            yield _grouped(np.fromfile(part, dtype=_HASHES))

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="thack-")
        rows = np.array(self._rows, dtype=_HASHES)
        self._rows = []
        parts = rows["id"] % _PARTS
        for part in np.unique(parts):
            with open(Path(self._folder.name) / f"{part:03d}", "ab") as file:
                file.write(rows[parts == part].tobytes())


def _grouped(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = rows[np.lexsort((rows["number"], rows["id"]))]
    begins = np.r_[True, rows["id"][1:] != rows["id"][:-1]][: len(rows)]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    return rows["number"], rows["number"][first], rows["text"] != rows["text"][first]
