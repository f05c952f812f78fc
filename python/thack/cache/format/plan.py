"""plan.json: what a cache will hold, fixed before the first byte of it is written.

The plan says which sequences stand in which shard, independently of ranks and of bytes written, and in
which batches the teacher sees them, since a matrix product differs in the last bit with its batch. So a
cache is the same, byte for byte, for one process or many, uninterrupted or resumed, on one build and kind
of device. A plan is identified by the hash of its canonical JSON, which every shard carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thack import _native
from thack.cache.format.layout import RecordLayout
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence
from thack.errors import CacheError, MismatchError
from thack.files import canonical_json, digest, read_json

FORMAT = 1
NAME = "plan.json"
SHARDS = "shards"
MAX_SEQUENCES = 1 << 18  # per shard: bounds a reader's index

_FINGERPRINTS = ("teacher", "tokenizer", "data", "settings")
_SCALARS = {"batch_size": int, "seed": int, "samples": int, "device": str, "dtype": str, "threads": int, "build": str}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A planned cache. `firsts` has the number of the first sequence of each shard, and at its end of all."""

    layout: RecordLayout
    fingerprints: Mapping[str, str]  # teacher, tokenizer, data, settings
    firsts: tuple[int, ...]
    batch_size: int
    seed: int
    samples: int
    device: str
    dtype: str
    threads: int
    build: str
    _hashed: list[str] = field(default_factory=list, repr=False, compare=False)

    @property
    def num_shards(self) -> int:
        return len(self.firsts) - 1

    @property
    def num_sequences(self) -> int:
        return self.firsts[-1]

    def shard(self, number: int) -> range:
        """Sequences of one shard."""
        return range(self.firsts[number], self.firsts[number + 1])

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "cache plan",
            "format": FORMAT,
            "record": self.layout.to_dict(),
            "fingerprints": dict(self.fingerprints),
            "firsts": list(self.firsts),
            **{name: getattr(self, name) for name in _SCALARS},
        }

    def to_bytes(self) -> bytes:
        return canonical_json(self.to_dict())

    def fingerprint(self) -> str:
        if not self._hashed:
            self._hashed.append(digest(self.to_bytes()))
        return self._hashed[0]

    def metadata(self, shard: int) -> dict[str, str]:
        """What a shard says about itself."""
        return {**self.identity(), "shard": str(shard), **self.layout.metadata()}

    def identity(self) -> dict[str, str]:
        """What every shard of this plan says."""
        return {"format": f"thack-shard {FORMAT}", "plan": self.fingerprint(), **dict(self.fingerprints)}


def shard_path(directory: Path, shard: int) -> Path:
    return directory / SHARDS / _native.shard_name(shard)


def partition(
    sequences: Sequence[TokenSequence], stride: int, settings: CacheSettings, response_bound: int = 0
) -> tuple[int, ...]:
    """Cut the sequences into shards, each within its caps of tokens and bytes, none empty.

    `response_bound` stands for the length of responses that are not written yet.
    """
    lengths = ((len(s.prompt_ids), response_bound or len(s.response_ids)) for s in sequences)
    return partition_lengths(lengths, stride, settings)


def partition_lengths(lengths: Iterable[tuple[int, int]], stride: int, settings: CacheSettings) -> tuple[int, ...]:
    """`partition` by the lengths of each prompt and response."""
    firsts, tokens, size, count = [0], 0, 0, 0
    for number, (prompt, length) in enumerate(lengths):
        bytes_ = length * (stride + 4) + 4 * prompt + 64
        held = number - firsts[-1]
        if held and (
            tokens + length > settings.shard_tokens or size + bytes_ > settings.shard_bytes or held == MAX_SEQUENCES
        ):
            firsts.append(number)
            tokens = size = 0
        tokens += length
        size += bytes_
        count = number + 1
    return (*firsts, count)


def read_plan(directory: Path) -> Plan:
    """The plan of a cache directory."""
    if not directory.is_dir():
        said = "is a file, not a cache" if directory.exists() else "does not exist"
        raise CacheError(f"{directory} {said}", hint="make a cache with: thack cache-logits")
    if not (directory / NAME).is_file():
        raise CacheError(f"{directory} is not a cache: it has no {NAME}", hint="make one: thack cache-logits")
    try:
        return _parse(read_json(directory / NAME))
    except (KeyError, TypeError, ValueError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CacheError(
            f"{directory / NAME}: not the plan of a cache this thack can read ({said})",
            hint="it is part of the cache and cannot be made up: restore it, or make the cache anew elsewhere",
        ) from error


def _parse(content: Any) -> Plan:
    """A plan from JSON that may hold anything."""
    if not isinstance(content, dict) or content.get("kind") != "cache plan":
        raise ValueError("it is something else")
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, this thack reads {FORMAT}")
    record, prints, firsts = content["record"], content["fingerprints"], content["firsts"]
    _expect(content, {"record": dict, "fingerprints": dict, "firsts": list, **_SCALARS})
    _expect(prints, dict.fromkeys(_FINGERPRINTS, str))
    if not all(type(first) is int for first in firsts) or firsts != sorted(set(firsts)) or firsts[:1] != [0]:
        raise ValueError("its shards are out of order")
    if len(firsts) < 2:
        raise ValueError("it has no shard")
    scalars: dict[str, Any] = {name: content[name] for name in _SCALARS}
    return Plan(layout=RecordLayout.parse(record), fingerprints=dict(prints), firsts=tuple(firsts), **scalars)


def _expect(given: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    if unknown := sorted(set(given) - set(kinds) - {"kind", "format"}):
        raise ValueError(f"unknown key {unknown[0]!r}")
    for name, kind in kinds.items():
        if type(given[name]) is not kind:
            raise ValueError(f"{name} is {given[name]!r:.40}")


def adopt(directory: Path, plan: Plan) -> Plan:
    """Publish `plan`, or go on with the one that is there; another plan is refused, with what differs.

    Threads and number format are not asked for but recorded: whoever goes on uses the first one's. (A
    format that was asked for is part of the settings.)
    """
    if (directory / NAME).is_file():
        return _same_plan(directory, plan)
    with suppress(MismatchError):  # another rank was quicker
        _native.publish(directory / NAME, plan.to_bytes())
    return _same_plan(directory, plan)  # what stands there, also where no links are and the last rename won


def _same_plan(directory: Path, plan: Plan) -> Plan:
    found = read_plan(directory)
    ours, theirs = _flat(plan.to_dict()), _flat(found.to_dict())
    differing = [key for key in ours if key not in ("threads", "dtype") and ours[key] != theirs.get(key)]
    if differing:
        width = max(map(len, differing))
        raise MismatchError(
            f"{directory} was begun as another cache",
            details=[
                f"{key:<{width}}  {_short(theirs.get(key))} there, {_short(ours[key])} now" for key in differing[:8]
            ],
            hint="give another `out`, or the same settings, teacher and data as before",
        )
    return found


def _flat(plan: dict[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in plan.items() if not isinstance(value, dict)}
    for group in ("record", "fingerprints"):
        flat |= {f"{group}.{key}": value for key, value in plan[group].items()}
    return flat


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:28] + "…"
