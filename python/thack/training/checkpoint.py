"""Checkpoints that are complete or do not count: no pickle, and a list of every file with size and hash.

    step_000500/  model.safetensors config.json tokenizer.json …   what `LanguageModel.save` writes
                  optimizer.safetensors  trainer.json  [responses.json]  COMMIT.json

Written to a temporary directory, fsynced, renamed. A directory whose COMMIT.json is missing or does not match is
ignored: reading falls back to the checkpoint before, which is why two are kept.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from thack.data.sequence import TokenSequence
from thack.errors import DataError, ThackError
from thack.files import atomic_directory, canonical_json, digest, explained, file_digest, write_bytes, write_json
from thack.models.protocol import LanguageModel
from thack.reading import read_json
from thack.schema import document
from thack.schema.run import TrainerState
from thack.training.compensated import slots_of
from thack.training.sharding import full_tensor

COMMIT = "COMMIT.json"
_NAME = re.compile(r"step_(\d{6,})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What a run needs beside weights and optimizer to resume as if it had not been stopped."""

    state: TrainerState
    responses: Sequence[TokenSequence] | None = None  # the open window's, where they cannot be sampled again

    @property
    def step(self) -> int:
        return self.state.step


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    bytes: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Commit:
    """COMMIT.json: the files of a complete checkpoint by name, and a hash of this list itself."""

    SCHEMA: ClassVar[int] = 1

    step: int
    files: Mapping[str, _File]
    digest: str = ""

    def own_digest(self) -> str:
        return digest(canonical_json(document.dump(replace(self, digest=""))))


def save_checkpoint(folder: Path, model: LanguageModel, optimizer: Mapping[str, Tensor], snapshot: Snapshot) -> Path:
    """Write folder/step_NNNNNN, complete and durable, and return it; replaces one of the same step.

    `optimizer` is what `optimizer_tensors` gives, shards gathered.
    """
    directory = folder / f"step_{snapshot.step:06d}"
    with _explained(directory), atomic_directory(directory, replace=True) as temporary:
        model.save(temporary)
        save_file(dict(optimizer), temporary / "optimizer.safetensors")
        if snapshot.responses is not None:
            write_bytes(temporary / "responses.json", canonical_json([document.dump(s) for s in snapshot.responses]))
        write_json(temporary / "trainer.json", snapshot.state.dump())
        commit = _Commit(step=snapshot.step, files=_listing(temporary))
        write_json(temporary / COMMIT, document.dump(replace(commit, digest=commit.own_digest())))
    return directory


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """safetensors wraps the operating system's errors in its own, which hides a full disk."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        with explained(directory):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(directory)) from error


def check_checkpoint(directory: Path) -> None:
    """Raise DataError unless every file listed in COMMIT.json is there with its size and hash."""
    place = directory / COMMIT
    commit = document.parse(_Commit, read_json(place), str(place))
    if commit.digest != commit.own_digest():
        raise DataError(f"{place} is damaged")
    for name, expected in commit.files.items():
        path = directory / name
        if not path.is_file():
            raise DataError(f"{path} is missing")
        size = path.stat().st_size
        if size != expected.bytes:
            raise DataError(f"{path} is damaged", details=(f"written  {expected.bytes} bytes", f"found    {size}"))
        if (found := file_digest(path)) != expected.digest:
            raise DataError(f"{path} is damaged", details=(f"written  {expected.digest}", f"found    {found}"))


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoint directories, oldest first, complete or not."""
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(directory: Path) -> int:
    match = _NAME.fullmatch(directory.name)
    assert match is not None, directory
    return int(match[1])


def latest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest complete checkpoint, and one line for every newer one that was skipped."""
    skipped: list[str] = []
    for directory in reversed(checkpoints(folder)):
        try:
            check_checkpoint(directory)
        except ThackError as error:
            skipped.append(f"{directory.name}: {error.message}")
        else:
            return directory, skipped
    return None, skipped


def read_snapshot(directory: Path) -> Snapshot:
    """What a verified checkpoint holds beside the model and its optimizer."""
    place, responses = directory / "trainer.json", directory / "responses.json"
    return Snapshot(
        state=TrainerState.parse(read_json(place), str(place)),
        responses=_read_responses(responses) if responses.exists() else None,
    )


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's state by slot and parameter name, such as `exp_avg.blocks.0.qkv.weight`, shards gathered."""
    for name, parameter in model.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            yield f"{slot}.{name}", full_tensor(value.detach()).contiguous()


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path) -> None:
    """Restore the optimizer's state of every trained parameter, sharded as the parameter is.

    A parameter that had no gradient before the checkpoint has no state in it, and starts without one here too.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    with safe_open(directory / "optimizer.safetensors", "pt", backend="pread") as file:
        saved = set(file.keys())
        places = {
            f"{slot}.{name}": (parameter, slot)
            for name, parameter in trained.items()
            if any(f"{slot}.{name}" in saved for slot in slots_of(parameter))
            for slot in slots_of(parameter)
        }
        strange = sorted(places.keys() ^ saved) or _other_shapes(file, trained, saved)
        if strange:
            raise DataError(
                f"the optimizer state in {directory} is another model's",
                details=(f"{len(strange)} entries differ, the first is {strange[0]}",),
            )
        for key, (parameter, slot) in places.items():
            value = file.get_tensor(key)
            optimizer.state[parameter][slot] = (
                _step_of_adam(value, parameter) if slot == "step" else _like(value, parameter)
            )


def _other_shapes(file: Any, trained: Mapping[str, nn.Parameter], saved: set[str]) -> list[str]:
    """Moments whose shape is not their parameter's; `file` is of safetensors, which is not typed here."""
    return [
        key
        for name, parameter in trained.items()
        if (key := f"exp_avg.{name}") in saved and tuple(file.get_slice(key).get_shape()) != tuple(parameter.shape)
    ]


def _step_of_adam(value: Tensor, parameter: nn.Parameter) -> Tensor:
    return value.to(parameter.device) if parameter.is_cuda else value


def _like(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """`value` on the device of `parameter`, and sharded as it is."""
    value = value.to(parameter.device)
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return value
    from torch.distributed.tensor import distribute_tensor  # seconds to import: only where FSDP has done so already

    placements: Any = getattr(parameter, "placements")  # noqa: B009 - only a DTensor has them
    return distribute_tensor(value, mesh, placements, src_data_rank=None)


def prune_checkpoints(folder: Path, newest: int, keep: int, protect: frozenset[int] = frozenset()) -> None:
    """Remove all but the `keep` last steps (at least two) up to `newest`, and the protected ones.

    Called after `newest` has been written and read back, so that a complete one is always left. Those of later steps
    were damaged: the run has resumed before them.
    """
    steps = [step for directory in checkpoints(folder) if (step := step_of(directory)) <= newest]
    kept = protect.union(steps[-max(2, keep) :])
    for directory in checkpoints(folder):
        if step_of(directory) not in kept:
            shutil.rmtree(directory)


def _listing(directory: Path) -> dict[str, _File]:
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        str(path.relative_to(directory)): _File(bytes=path.stat().st_size, digest=file_digest(path)) for path in paths
    }


def _read_responses(path: Path) -> list[TokenSequence]:
    try:
        return [_sequence(row) for row in read_json(path)]
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise error if isinstance(error, DataError) else DataError(f"{path}: not responses ({error})") from error


def _sequence(row: object) -> TokenSequence:
    if not isinstance(row, Mapping):
        raise TypeError("a row is no object")
    kinds = {"prompt_ids": np.int32, "response_ids": np.int32, "teacher_prompt_ids": np.int32, "log_probs": np.float32}
    arrays = {key: np.asarray(row[key], dtype=kind) for key, kind in kinds.items() if row.get(key) is not None}
    return TokenSequence(**{**row, **arrays})
