"""Trackers that mirror metrics.jsonl: TensorBoard, Weights & Biases, trackio.

Every number of a row goes to its column's name, at the row's step. A tracker that fails during a run is dropped with
one warning: a dashboard must not end a training.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from thack.errors import UsageError

_LOG = logging.getLogger("thack")


class Tracker(Protocol):
    """One dashboard of one run."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in `<run>/tensorboard`; a resumed run hides what it logs again."""

    def __init__(self, run: Path, settings: Mapping[str, object], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra

        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Offline in `<run>/wandb` unless WANDB_MODE is set otherwise; `wandb sync` uploads it."""

    def __init__(self, run: Path, settings: Mapping[str, object], step: int) -> None:
        import wandb  # an extra

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "thack"),
            name=run.name,
            id=identity(run),
            dir=str(run),
            config=dict(settings),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A local dashboard: `trackio show`."""

    def __init__(self, run: Path, settings: Mapping[str, object], step: int) -> None:
        import trackio  # an extra

        self._trackio = trackio
        trackio.init(project="thack", name=f"{run.name}-{identity(run)}", config=dict(settings), resume="allow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(values), step=step)

    def close(self) -> None:
        self._trackio.finish()


_KINDS: dict[str, Callable[[Path, Mapping[str, object], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


def identity(run: Path) -> str:
    """The same for the same directory, so that a resumed run continues in its own dashboard."""
    return hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:12]


class Mirror:
    """All trackers of a run."""

    def __init__(self, names: Sequence[str], run: Path, settings: Mapping[str, object], step: int = 0) -> None:
        self._trackers: dict[str, Tracker] = {name: _open(name, run, settings, step) for name in names}

    def append(self, row: Mapping[str, object]) -> None:
        """Pass on the numbers of a row of metrics.jsonl."""
        step = row.get("step")
        if not self._trackers or not isinstance(step, int):
            return
        values = {name: float(v) for name, v in row.items() if name != "step" and _is_number(v)}
        for name in list(self._trackers):
            try:
                self._trackers[name].log(values, step)
            except Exception as error:  # of a foreign library, or its network
                del self._trackers[name]
                _LOG.warning(
                    "tracker %s is dropped (%s: %s); metrics.jsonl continues", name, type(error).__name__, error
                )

    def close(self) -> None:
        for name, tracker in self._trackers.items():
            try:
                tracker.close()
            except Exception as error:
                _LOG.warning("%s did not close (%s: %s)", name, type(error).__name__, error)
        self._trackers = {}


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _open(name: str, run: Path, settings: Mapping[str, object], step: int) -> Tracker:
    try:
        return _KINDS[name](run, settings, step)
    except ImportError as error:
        raise UsageError(f"tracker {name} is not installed", hint=f"pip install 'thack[{name}]'") from error
