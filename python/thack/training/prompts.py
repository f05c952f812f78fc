"""Prompts by a hash of their ids: which a cache holds, and with which weights its teachers are mixed for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from thack.cache import Cache
from thack.config import DataSettings
from thack.data.columns import Columns
from thack.data.formats import to_record
from thack.data.readers import bad_line
from thack.data.rows import BadLine, open_rows
from thack.data.sequence import TokenSequence
from thack.errors import DataError
from thack.files import digest

_BLOCK = 1 << 12


def prompt_hashes(names: Iterable[str]) -> np.ndarray:
    """uint64: the same in every process."""
    found = (int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little") for name in names)
    return np.fromiter(found, np.uint64)


def cached_hashes(cache: Cache) -> np.ndarray:
    """uint64 [len(cache)]: of the prompt at each position; the cache is read in parts, without its records."""
    return np.concatenate([prompt_hashes(s.prompt_id for s in part) for part in cached_parts(cache)])


def cached_parts(cache: Cache) -> Iterator[list[TokenSequence]]:
    """Its sequences in order, without records."""
    for start in range(0, len(cache), _BLOCK):
        yield cache.many(range(start, min(start + _BLOCK, len(cache))))


class PromptPlaces:
    """Where each of many prompts stands among them: 16 bytes of each are in memory.

    Args:
        hashes: uint64, of the prompts in their order.

    Example:
        >>> PromptPlaces(prompt_hashes(["a", "b"])).of(["b", "c"]).tolist()
        [1, -1]
    """

    def __init__(self, hashes: np.ndarray) -> None:
        self.order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[self.order]  # ascending

    def of(self, names: Sequence[str]) -> np.ndarray:
        """int64: the first place of the prompt with each of these ids; −1 where there is none."""
        wanted = prompt_hashes(names)
        if not len(self.hashes):
            return np.full(len(wanted), -1)
        found = np.searchsorted(self.hashes, wanted).clip(max=len(self.hashes) - 1)
        return np.where(self.hashes[found] == wanted, self.order[found], -1)


class PromptWeights:
    """How much of each of C teachers is in the target of a prompt: numbers that sum to 1.

    Args:
        weights: of every prompt that has none of its own, of any sum above 0; (): each has its own.
        own: of single prompts, by their ids.

    Example:
        >>> PromptWeights([3, 1], {"b": [0, 1]}).of(["a", "b"]).tolist()
        [[0.75, 0.25], [0.0, 1.0]]
    """

    def __init__(self, weights: Sequence[float], own: Mapping[str, Sequence[float]] | None = None) -> None:
        own = own or {}
        self._default_C = _shares(weights) if len(weights) else None
        self._places = PromptPlaces(prompt_hashes(own))
        self._own = _shares(list(own.values())) if own else None

    @property
    def fingerprint(self) -> str:
        """Of all weights."""
        own = None if self._own is None else self._own[self._places.order]
        return digest([part.tobytes() for part in (self._default_C, self._places.hashes, own) if part is not None])

    def check_given(self, hashes: np.ndarray) -> None:
        """Raise DataError unless all prompts with these hashes have weights."""
        if self._default_C is None and (lacking := int((~np.isin(hashes, self._places.hashes)).sum())):
            raise DataError(
                f"{lacking:,} of {len(hashes):,} sequences of the caches have prompts without weights in the data",
                hint="set `cache_weights` for prompts that are not in `data.path`, or add them there",
            )

    def of(self, names: Sequence[str]) -> np.ndarray:
        """float64 [B, C] for the prompts with these ids.

        Raises:
            DataError: a prompt has no weights.
        """
        rows: list[np.ndarray] = []
        for name, place in zip(names, self._places.of(names).tolist(), strict=True):
            if self._own is not None and place >= 0:
                rows.append(self._own[place])
            elif self._default_C is not None:
                rows.append(self._default_C)
            else:
                raise DataError(f"prompt {name} has no weights", hint="set `cache_weights` for all others")
        return np.stack(rows)


def read_weights(settings: DataSettings, key: str, teachers: int) -> dict[str, list[float]]:
    """By the ids of the prompts of `settings.path`, what its column `key` holds: a weight for each of the caches.

    Raises:
        DataError: names the row whose weights are none, or another number of them.
    """
    found: dict[str, list[float]] = {}
    columns = Columns.of(settings)
    for _, place, row in open_rows(Path(settings.path), settings.max_line_bytes):
        try:
            name = to_record(row, place, columns).prompt_id
        except BadLine as reason:
            bad_line(place, reason, settings.on_bad_line)
            continue
        value = row.get(key) if isinstance(row, Mapping) else None
        weights = _weights(value, teachers)
        if weights is None:
            raise DataError(
                f"{place}: {key} = {value!r:.80}",
                hint=f"`cache_weight_key` names a list of {teachers} numbers that are not negative, one for each cache",
            )
        if found.setdefault(name, weights) != weights:
            raise DataError(
                f"{place}: prompt {name} has other weights in an earlier row", hint="give a prompt one list"
            )
    return found


def _weights(value: object, teachers: int) -> list[float] | None:
    if isinstance(value, str):  # a cell of a table
        try:
            value = [float(part) for part in value.split(",")]
        except ValueError:
            return None
    if not isinstance(value, list | tuple | np.ndarray) or len(value) != teachers:
        return None
    numbers = [float(v) for v in value if isinstance(v, int | float | np.floating) and not isinstance(v, bool)]
    is_right = len(numbers) == teachers and all(np.isfinite(v) and v >= 0 for v in numbers) and sum(numbers) > 0
    return numbers if is_right else None


def _shares(weights: Sequence[float] | Sequence[Sequence[float]]) -> np.ndarray:
    """float64, each row scaled to a sum of 1."""
    found = np.asarray(weights, dtype=np.float64)
    shares: np.ndarray = found / found.sum(axis=-1, keepdims=True)
    return shares
