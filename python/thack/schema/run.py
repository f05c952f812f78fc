"""What a run says of itself: STATUS.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from thack.schema import document

State = Literal["running", "stopped", "failed", "finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """STATUS.json: how the work in an output directory ended, or that it has not.

    A directory that says "running" while nothing runs was killed, or lost its machine.
    """

    SCHEMA: ClassVar[int] = 1

    state: State
    step: int | None = None  # of training: that of the last checkpoint
    exit_code: int = 0  # of the command; 75: stopped for preemption, to be started again
    reason: str = ""

    def dump(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return document.dump(self)

    @classmethod
    def parse(cls, raw: object, what: str = "STATUS.json") -> Status:
        """The inverse of `dump`.

        Raises:
            DataError: `raw` is not a status of this version.
        """
        return document.parse(cls, raw, what)
