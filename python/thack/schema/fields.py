"""What a field means and accepts: annotations that the loader, the command line and the reference pages read.

beta: Annotated[float, Between(0, 1), Help("jsd: weight of the teacher in the mixture")] = 0.5
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

from thack.errors import UsageError

_SEED_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Help:
    """One line on a field: lower case, no full stop."""

    text: str


class Bound(Protocol):
    """Which values of its type a field accepts. `str(bound)` follows "must be" in an error."""

    def accepts(self, value: Any) -> bool:
        """Whether `value`, already of the field's type, is inside the bound."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """`minimum` or more."""

    minimum: float

    def accepts(self, value: Any) -> bool:
        """Whether `value` ≥ `minimum`."""
        return bool(value >= self.minimum)

    def __str__(self) -> str:
        return f"{self.minimum:g} or more"


@dataclass(frozen=True, slots=True)
class Above:
    """More than `limit`."""

    limit: float

    def accepts(self, value: Any) -> bool:
        """Whether `value` > `limit`."""
        return bool(value > self.limit)

    def __str__(self) -> str:
        return f"more than {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Between:
    """From `low` to `high`, either end left out on request."""

    low: float
    high: float
    without_low: bool = False
    without_high: bool = False

    def accepts(self, value: Any) -> bool:
        """Whether `value` lies in the interval."""
        above = value > self.low if self.without_low else value >= self.low
        below = value < self.high if self.without_high else value <= self.high
        return bool(above and below)

    def __str__(self) -> str:
        high = "2^64 − 1" if self.high == _SEED_MAX else f"{self.high:g}"
        if not (self.without_low or self.without_high):
            return f"between {self.low:g} and {high}"
        low = f"above {self.low:g}" if self.without_low else f"at least {self.low:g}"
        return f"{low} and {'below' if self.without_high else 'at most'} {high}"


@dataclass(frozen=True, slots=True)
class Each:
    """Every item of a list is inside `bound`."""

    bound: Bound

    def accepts(self, value: Any) -> bool:
        """Whether every item is accepted; an empty list is."""
        return all(map(self.bound.accepts, value))

    def __str__(self) -> str:
        return f"a list, each {self.bound}"


@dataclass(frozen=True, slots=True)
class Matches:
    """A text that a regular expression matches as a whole; `words` says which texts those are."""

    pattern: str
    words: str

    def accepts(self, value: Any) -> bool:
        """Whether all of `value` matches."""
        return re.fullmatch(self.pattern, value, re.ASCII) is not None

    def __str__(self) -> str:
        return self.words


SEED = Between(0, _SEED_MAX)
FRACTION = Between(0, 1)


def check_bounds(values: object, what: str) -> None:
    """Refuse a dataclass with a value out of its field's bound; `what` names the dataclass.

    Raises:
        UsageError: names the field, the value and the bound.
    """
    for name, hint in get_type_hints(type(values), include_extras=True).items():
        for bound in getattr(hint, "__metadata__", ()):
            if not isinstance(bound, Help) and not bound.accepts(getattr(values, name)):
                raise UsageError(f"{what}.{name} = {getattr(values, name)}: must be {bound}")
