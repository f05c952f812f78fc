"""What sft and distill do alike before and after the loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from thack.config.settings import MemorySettings
from thack.errors import Interrupted, MismatchError, PeerFailed, Preempted, ThackError
from thack.files import canonical_json, digest
from thack.models.protocol import LanguageModel
from thack.reporting.model_card import write_card
from thack.runtime.process_group import ProcessGroup
from thack.training.checkpoint import Snapshot, checkpoints, read_snapshot, restore_optimizer, step_of
from thack.training.loop import Job
from thack.training.run_directory import RunDirectory
from thack.training.sharding import WrappedModel, as_module

_ROOM = (
    "lower `micro_batch_size` (the result stays the same); then `memory.checkpoint_activations = true`, "
    "`parallel.strategy = fsdp` on several GPUs, a lower `evaluation.batch_size` or `source.batch_size`"
)
_GO_ON = "its own message says why; run the same command again to go on from the last checkpoint"


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
        line = str(error).split("\n")[0]
        run.set_status("failed", step=last_step(run), exit_code=1, reason=line)
        if _out_of_memory(error):
            raise ThackError("out of memory", details=(line,), hint=_ROOM) from error
        if run.group.world_size > 1 and _lost_a_peer(error):
            raise PeerFailed("another rank of this run went away", details=(line,), hint=_GO_ON) from error
        raise
    finally:
        run.close()


def finish(job: Job, group: ProcessGroup) -> None:
    """Publish the last checkpoint's model, or the best one's, and say that the run is complete."""
    best = job.state.get("best_step")
    folder = job.run.checkpoints
    if job.run.writes:  # on other nodes the checkpoints may not be seen yet
        job.run.publish(folder / f"step_{best:06d}" if best is not None else checkpoints(folder)[-1])
        write_card(job.run.path)
    job.run.set_status("finished", step=last_step(job.run))
    group.barrier()


def begin(student: WrappedModel, optimizer: torch.optim.Optimizer, checkpoint: Path | None) -> Snapshot:
    """Where the run goes on: the checkpoint's snapshot, with its optimizer state in place, or step 0."""
    if checkpoint is None:
        return Snapshot(step=0, trainer={})
    restore_optimizer(as_module(student.model), optimizer, checkpoint)
    return read_snapshot(checkpoint)


def check_same_start(group: ProcessGroup, facts: Mapping[str, Any]) -> None:
    """Refuse ranks that were given different models or data: their sum would be nobody's gradient."""
    found = group.gather([digest(canonical_json(facts))])
    if len(set(found)) > 1:
        other = next(rank for rank, value in enumerate(found) if value != found[0])
        raise MismatchError(
            f"ranks 0 and {other} started from different models or data",
            details=(f"rank 0  {found[0]}", f"rank {other}  {found[other]}"),
            hint="the same directories must lie on every node",
        )


def own_dtype(model: LanguageModel, dtype: torch.dtype, memory: MemorySettings) -> torch.dtype:
    """Put the weights into `dtype` themselves if no float32 masters are wanted; what autocast has to do then."""
    if memory.master_weights or dtype == torch.float32:
        return dtype
    as_module(model).to(dtype)
    return torch.float32  # nothing is left to cast


def last_step(run: RunDirectory) -> int:
    found = checkpoints(run.checkpoints)
    return step_of(found[-1]) if found else 0


def width_of(model: LanguageModel) -> int:
    """The hidden size: what decides whether bfloat16 pays."""
    return model.head().in_features


def _lost_a_peer(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or "gloo" in text or "peer" in text


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
