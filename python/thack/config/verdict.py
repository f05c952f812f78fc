"""The settings of `thack verdict`: what counts as a rise, and when a detector raises an alarm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from thack.schema.fields import Help
from thack.schema.verdict import Margins, Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictSettings:
    """What a verdict is decided by. Both groups are printed with it."""

    margins: Annotated[Margins, Help("with a golden metric: what counts as a rise")] = field(default_factory=Margins)
    thresholds: Annotated[Thresholds, Help("without one: when a detector raises an alarm")] = field(
        default_factory=Thresholds
    )
