"""The cells of a grid, each with the stages that it needs; planning runs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from thack.config.experiment import ExperimentSettings
from thack.detection import Curves
from thack.experiments.cells import Cell, base_arm, cells, compares_tokenizers, name_of
from thack.experiments.methods import check_methods
from thack.experiments.pipeline import Pipeline
from thack.experiments.roles import check_decided, check_roles
from thack.experiments.stages import Stage
from thack.schema.metrics import GOLDEN

#: Figures whose claims are explained by how much of a response's information comes from its prompt.
_INFORMED = frozenset({"F6"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A cell, its number, its arm's name, the stage that is its run, and what is measured of its task beside it."""

    number: int
    cell: Cell
    name: str
    run: Stage
    per_byte: bool = False  # golden and proxy are in nats per byte, as those of all arms of the grid
    information: Stage | None = None  # of the prompts, where a figure asks for it

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that complete this cell, without those upstream of them."""
        return (self.run,) if self.information is None else (self.run, self.information)

    def curves(self) -> Curves:
        """Of the complete run."""
        return Curves.from_run(self.run.path, metric=GOLDEN.per_byte if self.per_byte else GOLDEN)


def plan(settings: ExperimentSettings, out: Path) -> list[PlannedRun]:
    """Every cell of a grid with its run.

    Args:
        settings: The experiment.
        out: The directory that it is to be written to; it need not exist.

    Raises:
        UsageError: the settings ask for what cannot be run.
        ModelError: a role's model directory is not there.
        DataError: a task's prompts are not there.
    """
    check_roles(settings)
    check_decided(settings)
    found = cells(settings)
    check_methods(settings.distill, (cell.arm for cell in found))
    pipeline = Pipeline(settings, out)
    base, per_byte = base_arm(settings), compares_tokenizers(settings)
    return [
        PlannedRun(
            number=number,
            cell=cell,
            name=name_of(cell.arm, base),
            run=pipeline.run(cell),
            per_byte=per_byte,
            information=pipeline.prompt_information(cell.arm, cell.seed) if _INFORMED & {*cell.figures} else None,
        )
        for number, cell in enumerate(found)
    ]
