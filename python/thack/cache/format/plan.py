"""plan.json: what a cache will hold, fixed before its first byte is written.

The plan says which sequences are in which shard, independently of ranks. It also fixes the batches of the teacher,
since a matrix product differs in the last bit with its batch. So a cache is the same, byte for byte, for one process
or many, uninterrupted or resumed, on one build and kind of device. A plan is identified by the hash of its canonical
JSON, which every shard carries.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from thack import _native
from thack.cache.format.layout import RecordLayout
from thack.errors import CacheError, MismatchError
from thack.files import canonical_json, digest, flattened
from thack.reading import read_json
from thack.schema import document
from thack.schema.cache import Fingerprints

FORMAT = 1
MINOR = 1  # 1: shards hold the log-probability of each realised token; 0: they do not
NAME = "plan.json"
SHARDS = "shards"
TOKENIZER = "tokenizer"
JOURNAL = "journal"  # a file for each process that wrote shards
_KIND = "cache plan"
_RECORDED = ("threads", "dtype")  # chosen by the first process; others use its choice

_MOST_SEQUENCES = 1 << 48

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """A planned cache.

    Args:
        layout: of the records.
        fingerprints: of what the cache is made from.
        firsts: position of the first sequence of each shard, and at the end the number of sequences.
        batch_size: sequences per forward of the teacher.
        seed: of every random number.
        samples: responses per prompt.
        device: kind of device that the teacher runs on.
        dtype: number format that the teacher runs in.
        threads: CPU threads of torch.
        build: version of thack.
        teacher_prompts: the teacher read prompts of its own before some responses; shards hold the student's.
        minor: version of the format below `FORMAT`; a new cache gets the last one.
    """

    layout: RecordLayout
    fingerprints: Fingerprints
    firsts: tuple[int, ...]
    batch_size: int
    seed: int
    samples: int
    device: str
    dtype: str
    threads: int
    build: str
    teacher_prompts: bool = False
    minor: int = MINOR

    @property
    def num_shards(self) -> int:
        return len(self.firsts) - 1

    @property
    def num_sequences(self) -> int:
        return self.firsts[-1]

    def shard(self, number: int) -> range:
        """Positions of the sequences of one shard."""
        return range(self.firsts[number], self.firsts[number + 1])

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a whole record in a cache of this version."""
        return self.layout.bytes_per_token if self.minor else self.layout.stride

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the plan, and the cache that is made by it."""
        return digest(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of plan.json."""
        return canonical_json(self.dump())

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "kind": _KIND,
            "format": FORMAT,
            **({"minor": self.minor} if self.minor else {}),  # version 1.0 had no such key
            "record": self.layout.to_dict(),
            "fingerprints": {
                key: value for key, value in document.dump(self.fingerprints).items() if value or key != "head"
            },
            "firsts": list(self.firsts),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "samples": self.samples,
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "build": self.build,
            **({"teacher_prompts": True} if self.teacher_prompts else {}),
        }

    @classmethod
    def parse(cls, raw: object) -> CachePlan:
        """The inverse of `dump`, from JSON that may hold anything.

        Raises:
            KeyError: a key is missing.
            ValueError: a key is unknown, or a value cannot be one of a plan.
        """
        if not isinstance(raw, Mapping) or raw.get("kind") != _KIND:
            raise ValueError("it is something else")
        minor = _typed(raw, "minor", int) if "minor" in raw else 0
        if raw["format"] != FORMAT or not 0 <= minor <= MINOR:
            raise ValueError(f"format {raw['format']}.{minor}, this thack reads {FORMAT}.0 to {FORMAT}.{MINOR}")
        found = cls(
            layout=RecordLayout.parse(_typed(raw, "record", dict)),
            fingerprints=document.parse(Fingerprints, raw["fingerprints"], "fingerprints"),
            firsts=_firsts(_typed(raw, "firsts", list)),
            batch_size=_typed(raw, "batch_size", int),
            seed=_typed(raw, "seed", int),
            samples=_typed(raw, "samples", int),
            device=_typed(raw, "device", str),
            dtype=_typed(raw, "dtype", str),
            threads=_typed(raw, "threads", int),
            build=_typed(raw, "build", str),
            teacher_prompts=_typed(raw, "teacher_prompts", bool) if "teacher_prompts" in raw else False,
            minor=minor,
        )
        if bool(found.fingerprints.head) != (found.layout.spec.kind == "projected"):
            raise ValueError("its records are of a head that it does not name")
        for group, known in ((raw, found.dump()), (raw["fingerprints"], document.dump(found.fingerprints))):
            if unknown := sorted(set(group) - set(known)):
                raise ValueError(f"unknown key {unknown[0]!r}")
        return found

    def metadata(self, shard: int) -> dict[str, str]:
        """The metadata of one shard."""
        return {**self.identity(), "shard": str(shard), **self.layout.metadata()}

    def identity(self) -> dict[str, str]:
        """The metadata that all shards of this plan share."""
        prints = self.fingerprints
        return {
            "format": f"thack-shard {FORMAT}" + (f".{self.minor}" if self.minor else ""),
            "plan": self.fingerprint,
            "teacher": prints.teacher,
            "tokenizer": prints.tokenizer,
            "data": prints.data,
            "settings": prints.settings,
            **({"head": prints.head} if prints.head else {}),
        }


def _typed(raw: Mapping[str, object], key: str, kind: type[T]) -> T:
    value = raw[key]
    if type(value) is not kind:  # type, since a truth value is no number here
        raise ValueError(f"{key} is {value!r:.40}")
    return value


def _firsts(values: list[object]) -> tuple[int, ...]:
    firsts = tuple(value for value in values if type(value) is int and value <= _MOST_SEQUENCES)
    if list(firsts) != values or sorted(set(firsts)) != list(firsts) or firsts[:1] != (0,):
        raise ValueError("its shards are out of order, or beyond 2^48 sequences")
    if len(firsts) < 2:
        raise ValueError("it has no shard")
    return firsts


def shard_path(directory: Path, shard: int) -> Path:
    """The file of a shard."""
    return directory / SHARDS / _native.shard_name(shard)


def read_plan(directory: Path) -> CachePlan:
    """The plan of a cache directory.

    Raises:
        CacheError: the directory is not a cache, or its plan is damaged or of another version.
    """
    if not directory.is_dir():
        problem = "is a file, not a cache" if directory.exists() else "does not exist"
        raise CacheError(f"{directory} {problem}", hint="make a cache with: thack cache-logits")
    if not (directory / NAME).is_file():
        raise CacheError(f"{directory} is not a cache: it has no {NAME}", hint="make one: thack cache-logits")
    try:
        return CachePlan.parse(read_json(directory / NAME))
    except (KeyError, TypeError, ValueError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise CacheError(
            f"{directory / NAME}: not the plan of a cache that this version of thack can read ({problem})",
            hint="it is part of the cache and cannot be computed again: restore it, or make a new cache elsewhere",
        ) from error


def publish_plan(directory: Path, plan: CachePlan) -> CachePlan:
    """Write `plan` into the directory, or reuse the one that is there.

    Threads and number format are recorded, not compared: every process uses those of the first. A number format that
    was asked for is part of the settings, and so is compared.

    Returns:
        The plan in the directory.

    Raises:
        MismatchError: the plan in the directory is of another cache; names what differs.
    """
    if (directory / NAME).is_file():
        return _same_plan(directory, plan)
    with suppress(MismatchError):  # another rank was first
        _native.publish(directory / NAME, plan.to_bytes())
    return _same_plan(directory, plan)  # read again: where links are not supported, a later rename may have replaced it


def _same_plan(directory: Path, plan: CachePlan) -> CachePlan:
    found = read_plan(directory)
    optional = {"minor": 0, "teacher_prompts": False, "fingerprints.head": "none"}
    ours, theirs = optional | flattened(plan.dump()), optional | flattened(found.dump())
    differing = [key for key in ours if key not in _RECORDED and ours[key] != theirs[key]]
    if differing:
        width = max(map(len, differing))
        raise MismatchError(
            f"{directory} was begun as another cache",
            details=[f"{key:<{width}}  {_short(theirs[key])} there, {_short(ours[key])} now" for key in differing[:8]],
            hint="give another `out`, or the same settings, teacher and data as before",
        )
    return found


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:28] + "…"
