"""Checkpoints off the training thread: the state is copied at the step, and written while training continues.

One save at a time: the next one, a stop and the end of the run wait for it. A failure to write is raised on every rank
at the next step. Shards are gathered for the copy, so that the files are those of one process, and any number of ranks
can resume from them.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from thack.config import CheckpointSettings
from thack.runtime.process_group import ProcessGroup
from thack.training.checkpoint import Snapshot, check_checkpoint, optimizer_tensors, prune_checkpoints, save_checkpoint
from thack.training.sharding import WrappedModel, as_module, full_tensors


class Saver:
    """Saves one run's student and optimizer into `folder`; all ranks call it, the first one writes."""

    def __init__(
        self,
        folder: Path,
        student: WrappedModel,
        optimizer: torch.optim.Optimizer,
        group: ProcessGroup,
        settings: CheckpointSettings,
    ) -> None:
        self._folder = folder
        self._student = student
        self._optimizer = optimizer
        self._group = group
        self._keep = settings.keep
        self._background = settings.background
        self._thread: threading.Thread | None = None
        self._pending = False
        self._error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether the save under way has failed: `wait` raises its error."""
        return self._error is not None

    def save(self, snapshot: Snapshot, protected: frozenset[int] = frozenset()) -> None:
        """Save the state as it is now; returns once it is copied, or written if not in the background."""
        self.wait()
        self._take_weights()
        tensors = self._take_optimizer()
        self._pending = True
        if self._group.is_first:
            arguments = (snapshot, tensors, protected)
            self._thread = threading.Thread(target=self._write, args=arguments, name="thack-save")
            self._thread.start()
        if not self._background:
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written; raises a failure on every rank."""
        if self._pending:
            self._pending = False
            self._join()
            error, self._error = self._error, None
            with self._group.raise_on_all_ranks():
                if error is not None:
                    raise error

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
            return
        self._join()  # the last good checkpoint is complete before the run ends; other ranks may be gone
        if self._error is not None:
            error.add_note(f"and the last checkpoint could not be written: {self._error}")

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, snapshot: Snapshot, tensors: dict[str, Tensor], protected: frozenset[int]) -> None:
        """Write the checkpoint, read it back, and only then remove older ones."""
        try:
            model = self._student.copy or self._student.plain
            check_checkpoint(save_checkpoint(self._folder, model, tensors, snapshot))
            prune_checkpoints(self._folder, snapshot.step, self._keep, protected)
        except Exception as error:  # raised by `wait`, on the thread that trains
            self._error = error

    @torch.no_grad()
    def _take_weights(self) -> None:
        """Into the copy, if there is one; where the student is sharded, every rank takes part in the gathering."""
        copy = self._student.copy
        if copy is None and not self._student.sharded:
            return
        places = {} if copy is None else dict(as_module(copy).named_parameters())
        for name, value in full_tensors(self._student.model, trained=True):  # frozen ones are in no checkpoint
            if name in places:
                places[name].copy_(value)
        if copy is not None:
            buffers = zip(as_module(copy).buffers(), as_module(self._student.plain).buffers(), strict=True)
            for place, value in buffers:
                place.copy_(value)

    def _take_optimizer(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, value in optimizer_tensors(as_module(self._student.model), self._optimizer):
            if self._group.is_first:
                found[name] = value.to("cpu", copy=self._background)
        return found
