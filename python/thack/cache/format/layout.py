"""The record layout: how one distribution of a `TargetSpec` is stored in a cache, as bytes of fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from thack import _native
from thack.errors import UsageError
from thack.schema.targets import TargetSpec

REALISED_BYTES = 2  # the log-probability of the realised token
_KINDS = {"kind": str, "vocab_size": int, "k": int, "value_bits": int, "tail": str, "temperatures": list}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordLayout:
    """What is kept of each distribution over `vocab_size` ids, and the bytes that hold it.

    Args:
        spec: a target that a cache holds: dense, top-k, sampled or projected.
        vocab_size: number of ids of the distribution.

    Raises:
        UsageError: no record holds such a target.

    Example:
        >>> RecordLayout(spec=TargetSpec.parse("top-k:64"), vocab_size=151_936).bytes_per_token
        178
    """

    spec: TargetSpec
    vocab_size: int

    def __post_init__(self) -> None:
        if self.spec.live:
            raise UsageError(f"{self.spec} is a live teacher's target; a record holds dense, top-k or sampled ones")
        if self.spec.kind != "projected" and self.spec.k > self.vocab_size:
            raise UsageError(
                f"{self.spec} keeps {self.spec.k:,} ids of a vocabulary that has {self.vocab_size:,}",
                hint=f"keep 1 to {self.vocab_size:,} ids",
            )

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def native(self) -> _native.RecordLayout:
        """The encoder and decoder of these records."""
        return _native_of(self)

    @property
    def stride(self) -> int:
        """Bytes of a record without the log-probability of the realised token, which is stored beside it."""
        return self.native.stride

    @property
    def bytes_per_token(self) -> int:
        """Bytes of a whole record, as caches are written now."""
        return self.stride + REALISED_BYTES

    def metadata(self) -> dict[str, str]:
        """The metadata that names this layout in a shard. A processed tail is stored as an estimated one."""
        found = {"kind": str(self.spec.kind), "vocab_size": str(self.vocab_size)}
        if self.spec.kind != "dense":
            found["k"] = str(self.spec.k)
        if self.spec.kind == "projected":
            found["value_bits"] = str(self.spec.value_bits)
        if self.spec.kind == "top-k":
            tail = "estimated" if self.spec.tail == "processed" else self.spec.tail
            found |= {"value_bits": str(self.spec.value_bits), "tail": tail}
            found["temperatures"] = ",".join(map(repr, self.spec.temperatures))
        return found

    def to_dict(self) -> dict[str, object]:
        """The `record` of plan.json."""
        return {
            "kind": self.spec.kind,
            "vocab_size": self.vocab_size,
            "k": self.spec.k,
            "value_bits": self.spec.value_bits,
            "tail": self.spec.tail,
            "temperatures": list(self.spec.temperatures),
        }

    @classmethod
    def parse(cls, found: Mapping[str, object]) -> RecordLayout:
        """The inverse of `to_dict`, from JSON that may hold anything.

        Raises:
            KeyError: a key is missing.
            ValueError: a value is not what it should be, or no record is laid out like this.
        """
        if unknown := sorted(set(found) - set(_KINDS)):
            raise ValueError(f"unknown key {unknown[0]!r}")
        for name, kind in _KINDS.items():
            if type(found[name]) is not kind:
                raise ValueError(f"{name} is {found[name]!r:.40}")
        values = dict(found)
        temperatures = values.pop("temperatures")
        if not isinstance(temperatures, list) or not all(type(t) in (int, float) for t in temperatures):
            raise ValueError("its temperatures are no numbers")
        vocab_size = values.pop("vocab_size")
        assert isinstance(vocab_size, int)
        spec = TargetSpec(temperatures=tuple(temperatures), **values)  # type: ignore[arg-type]  # checked above
        layout = cls(spec=spec, vocab_size=vocab_size)
        _ = layout.native  # refuses a width or a number of ids that no record has
        return layout


@cache
def _native_of(layout: RecordLayout) -> _native.RecordLayout:
    return _native.RecordLayout(layout.metadata())


def bytes_per_token(spec: TargetSpec, vocab_size: int) -> int:
    """Bytes of the record, or records, that hold `spec`: of top-k and draws for mixed, of draws for multinomial.

    A target that is drawn again in every epoch needs the whole distribution.
    """
    if spec.kind == "dense" or spec.redraw:
        return RecordLayout(spec=TargetSpec(), vocab_size=vocab_size).bytes_per_token
    if spec.kind == "projected":
        return RecordLayout(spec=replace(spec, live=False, value_bits=16), vocab_size=vocab_size).bytes_per_token
    drawn = TargetSpec(kind="sampled", k=1)
    if spec.kind in ("sampled", "multinomial"):
        kept = [replace(drawn, k=spec.k)]
    else:
        kept = [TargetSpec(kind="top-k", k=spec.k)]
        kept += [replace(drawn, k=spec.tail_draws)] if spec.tail_draws else []
    layouts = [RecordLayout(spec=replace(one, k=min(one.k, vocab_size)), vocab_size=vocab_size) for one in kept]
    return sum(layout.stride for layout in layouts) + REALISED_BYTES
