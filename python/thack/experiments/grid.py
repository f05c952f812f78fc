"""`thack experiment`: run the cells of a grid and judge them; a cell that fails leaves the others alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from thack.config import to_toml
from thack.config.experiment import ExperimentSettings
from thack.errors import DataError, ThackError, UsageError
from thack.experiments.outcome import CellOutcome, judge
from thack.experiments.plan import PlannedRun, plan
from thack.experiments.stages import Stage, with_upstream
from thack.experiments.summary import summarise
from thack.experiments.workers import Failures, run_stages
from thack.files import claim_output, write_json, write_text
from thack.runtime.device import choose_device
from thack.runtime.lock import locked
from thack.runtime.preemption import interruptible
from thack.runtime.progress import SILENT, Progress
from thack.runtime.status import recorded
from thack.schema.experiment import SUMMARY_FILE

_KEPT = "every complete stage, and the last checkpoint of each run"


@dataclass(frozen=True, slots=True, kw_only=True)
class GridResult:
    """What became of every cell of a grid."""

    settings: ExperimentSettings
    outcomes: tuple[CellOutcome, ...]
    seconds: float  # of this call

    @property
    def failed(self) -> list[CellOutcome]:
        """The cells that failed in this call."""
        return [outcome for outcome in self.outcomes if outcome.error is not None]


def run_grid(
    settings: ExperimentSettings, out: Path, progress: Progress = SILENT, *, only: int | None = None
) -> GridResult:
    """Run the cells that are not complete, judge those that are, and write experiment.json.

    Args:
        settings: The experiment.
        out: The directory to write to; one that holds this experiment is resumed.
        progress: Where stages show how far they are.
        only: The number of the one cell to run, for a task of a Slurm array; then experiment.json is not written.

    Returns:
        One outcome per cell; failures are in it and are not raised.

    Raises:
        UsageError: a setting is wrong, `only` is not a cell, or `out` holds something else.
        MismatchError: a complete stage was run with other defaults.
    """
    started = time.monotonic()
    planned = plan(settings, out)
    if not settings.distill.device.startswith(("auto", "cpu")):
        choose_device(settings.distill.device)  # refuses one that this machine lacks, before anything is trained
    if only is not None and not 0 <= only < len(planned):
        raise UsageError(f"there is no cell {only}", hint=f"cells are 0 to {len(planned) - 1}")
    wanted = [stage for one in (planned if only is None else [planned[only]]) for stage in one.stages]
    # Tasks of an array work side by side, and one STATUS.json cannot speak for all of them: a task that runs one cell
    # takes the locks of its stages alone, and leaves the status as it is.
    with locked(out, progress) if only is None else interruptible():
        claim_output(out, "experiment")
        write_text(out / "config.toml", to_toml(settings))
        recording = recorded(out, "experiment", kept=lambda: _KEPT) if only is None else nullcontext()
        with suppress(_CellsFailedError), recording:
            for stage in with_upstream(wanted):
                if stage.is_complete:
                    stage.check()
            _check_splits(wanted, progress)
            failures = run_stages(wanted, progress)
            outcomes = tuple(_judged(one, planned, failures) for one in planned)
            if only is None:
                write_json(out / SUMMARY_FILE, summarise(settings, out, outcomes).dump())
                _check(outcomes)
    return GridResult(settings=settings, outcomes=outcomes, seconds=time.monotonic() - started)


def _judged(one: PlannedRun, planned: Sequence[PlannedRun], failures: Failures) -> CellOutcome:
    """One cell, compared with its online path where that is another complete run of the grid."""
    error = next((failures[stage.key] for stage in one.stages if stage.key in failures), None)
    wanted = replace(one.cell, arm=one.cell.arm.online_path, figures=())
    others = (o.run for o in planned if o is not one and replace(o.cell, figures=()) == wanted)
    return judge(one, error, next((run.path for run in others if run.is_complete), None))


class _CellsFailedError(ThackError):
    """What STATUS.json says of a grid of which cells failed; the caller gets them in the result."""


def _check(outcomes: Sequence[CellOutcome]) -> None:
    if failed := [outcome for outcome in outcomes if outcome.error is not None]:
        raise _CellsFailedError(f"{len(failed)} of {len(outcomes)} cells failed")


def _check_splits(wanted: Sequence[Stage], progress: Progress) -> None:
    """Divide each corpus first, which takes seconds: one with too few prompts is refused before a model is trained."""
    splits = [stage for stage in with_upstream(wanted) if stage.kind == "splits"]
    for error in run_stages(splits, progress).values():
        if isinstance(error, UsageError | DataError):
            raise error
