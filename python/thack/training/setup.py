"""What sft and distill do alike before and after the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from thack.errors import Interrupted, Preempted, ThackError
from thack.hacking.card import write_card
from thack.models.protocol import LanguageModel
from thack.training.checkpoint import checkpoints, step_of
from thack.training.loop import Job
from thack.training.rundir import RunDirectory
from thack.training.team import Team


@contextmanager
def recorded(run: RunDirectory) -> Iterator[None]:
    """Keep STATUS.json true however the run ends, and turn an out-of-memory error into advice."""
    run.set_status("running", step=last_step(run))
    try:
        yield
    except (Preempted, Interrupted) as error:
        run.set_status("stopped", step=last_step(run), exit_code=error.exit_code, reason=error.message)
        raise
    except ThackError as error:
        run.set_status("failed", step=last_step(run), exit_code=error.exit_code, reason=error.message)
        raise
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        run.set_status("failed", step=last_step(run), exit_code=1, reason=str(error).split("\n")[0])
        if not _out_of_memory(error):
            raise
        raise ThackError(
            "out of memory",
            details=(str(error).split("\n")[0],),
            hint="lower micro_batch_size: the result stays the same (see also evaluation.batch_size)",
        ) from error
    finally:
        run.close()


def finish(job: Job, team: Team) -> None:
    """Publish the last checkpoint's model, or the best one's, and say that the run is complete."""
    best = job.state.get("best_step")
    folder = job.run.checkpoints
    chosen = folder / f"step_{best:06d}" if best is not None else checkpoints(folder)[-1]
    job.run.publish(chosen)
    if job.run.writes:
        write_card(job.run.path)
    job.run.set_status("finished", step=last_step(job.run))
    team.barrier()


def last_step(run: RunDirectory) -> int:
    found = checkpoints(run.checkpoints)
    return step_of(found[-1]) if found else 0


def width_of(model: LanguageModel) -> int:
    """The hidden size: what decides whether bfloat16 pays."""
    return model.head().in_features


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
