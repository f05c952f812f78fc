"""The finished arms of a grid, and how to find the one that another is to be compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from thack.schema.experiment import CellResult, ExperimentArm, RunOutcome, TaskInformation
from thack.schema.targets import live_word


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedArm:
    """One arm with a finished run: its place on every axis, the figures that show it, and what its seeds came to."""

    axes: ExperimentArm
    figures: tuple[str, ...]
    outcomes: Mapping[int, RunOutcome]  # by seed


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedArms:
    """All of a grid."""

    base: ExperimentArm  # the plain offline run
    arms: tuple[FinishedArm, ...]
    information: Mapping[str, TaskInformation] = field(default_factory=dict)  # by task

    @classmethod
    def of(
        cls, base: ExperimentArm, cells: Iterable[CellResult], information: Iterable[TaskInformation] = ()
    ) -> FinishedArms:
        """The arms of these cells, in their order; cells without an outcome are left out."""
        found: dict[ExperimentArm, tuple[tuple[str, ...], dict[int, RunOutcome]]] = {}
        for cell in cells:
            if cell.outcome is not None:
                found.setdefault(cell.axes, (cell.figures, {}))[1][cell.seed] = cell.outcome
        arms = (FinishedArm(axes=axes, figures=figures, outcomes=by) for axes, (figures, by) in found.items())
        return cls(base=base, arms=tuple(arms), information={one.task: one for one in information})

    def in_figure(self, figure: str, **fixed: object) -> list[FinishedArm]:
        """The arms that a figure shows, in their order; `fixed` are the values that they have on some axes."""
        return [arm for arm in self.arms if figure in arm.figures and _fits(arm.axes, fixed)]

    def along(self, figure: str, axis: str) -> list[tuple[float, FinishedArm]]:
        """A figure's arms by their value on an axis of numbers, increasing."""
        return sorted(((getattr(arm.axes, axis), arm) for arm in self.in_figure(figure)), key=lambda pair: pair[0])

    def like(self, axes: ExperimentArm, **changes: object) -> FinishedArm | None:
        """The arm that differs from `axes` in `changes` only, as far as that makes sense.

        An online arm has one generation per prompt and no cache: those axes follow from its source.
        """
        if changes.get("source") in ("online-teacher", "online-student"):
            changes = {"target": live_word(axes.target), "fraction_online": 1.0, "budget": 1} | changes
        wanted = asdict(axes) | changes
        return next((arm for arm in self.arms if asdict(arm.axes) == wanted), None)

    def offline_like(self, axes: ExperimentArm) -> FinishedArm | None:
        """The offline arm that sees the same of its teacher and is equal in all other axes; one with a cache first."""
        wanted = replace(axes, source="offline", fraction_online=0.0)
        found = [arm for arm in self.arms if replace(arm.axes, target=live_word(arm.axes.target)) == wanted]
        cached = [arm for arm in found if arm.axes.target != wanted.target]
        return next(iter([*cached, *found]), None)


def differences(axes: ExperimentArm, base: ExperimentArm) -> str:
    """The axes in which two arms differ, with the first one's values: ` (loss jsd)`."""
    usual = asdict(base)
    found = [f"{axis} {value}" for axis, value in asdict(axes).items() if value != usual[axis]]
    return f" ({', '.join(found)})" if found else ""


def _fits(axes: ExperimentArm, fixed: Mapping[str, object]) -> bool:
    return all(getattr(axes, name) == value for name, value in fixed.items())
