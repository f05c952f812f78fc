"""Roles that start from a model directory, roles of another size, and the digest of such a directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache, partial
from operator import attrgetter
from pathlib import Path

from thack.config import DistillSettings
from thack.config.experiment import DECIDED, ExperimentSettings, RoleSettings
from thack.errors import ModelError, UsageError
from thack.files import digest

_RUNS, _RUN_BYTES = 512, 1 << 12  # of a large file: 2 MiB from end to end


def model_directory(settings: ExperimentSettings, role: RoleSettings) -> Path:
    """The directory that a role starts from.

    Raises:
        UsageError: `models` is not set.
        ModelError: there is no model in the directory.
    """
    if not settings.models:
        raise UsageError(
            f"{role.model} is a model directory, but `models`, the directory above it, is not set",
            hint=f"put it into DIR/{role.model} (config.json, tokenizer.json, *.safetensors) and use `models = DIR`",
        )
    path = Path(settings.models).expanduser() / role.model
    if not (path / "config.json").is_file():
        raise ModelError(
            f"no model in {path}",
            hint=f"put config.json, tokenizer.json and *.safetensors of {role.model} there, or use `models = DIR`",
        )
    return path


def check_roles(settings: ExperimentSettings) -> None:
    """Refuse roles whose tokenizers would differ: an oracle from a directory gives all of them its own.

    Raises:
        UsageError: the oracle is a new model and another role is not, or a setting of directories has none.
        ModelError: a directory has no model.
    """
    roles = {"oracle": settings.oracle, "teacher": settings.teacher, "student": settings.student}
    given = ", ".join(name for name, role in roles.items() if role.model)
    if given and not settings.oracle.model:
        raise UsageError(
            f"{given} from a directory, the oracle a new model: their tokenizers would differ",
            hint="set oracle.model too, or none",
        )
    for name, role in roles.items():
        for setting, is_set in (("train = false", not role.train), ("layers", role.layers)):
            if is_set and not role.model:
                raise UsageError(f"{name}.{setting} needs {name}.model", hint="name its directory under `models`")
        if role.model:
            model_directory(settings, role)


def check_decided(settings: ExperimentSettings) -> None:
    """Refuse settings that every cell would overwrite: a setting without effect would mislead.

    Raises:
        UsageError: with each such setting, and what to set instead.
    """
    usual = DistillSettings()
    changed = [
        f"distill.{key} has no effect in a grid: set {instead}"
        for key, instead in DECIDED.items()
        if attrgetter(key)(settings.distill) != attrgetter(key)(usual)
    ]
    if changed:
        raise UsageError("the grid decides this cell by cell", details=changed, hint="leave it out below `distill`")


def check_answers(settings: ExperimentSettings, task: str) -> None:
    """Refuse a task without answers where an oracle is to learn from them.

    Raises:
        UsageError: the oracle would be trained on the task.
    """
    if settings.oracle.train:
        raise UsageError(
            f"task {task} asks questions and has no answers: an oracle cannot be trained on it",
            hint="name a chat model that answers them as it is: oracle.model = DIR, oracle.train = false",
        )


def content_of(directory: Path) -> str:
    """What a model directory holds; of large files, whose weights are not to be read whole at every start, a sample."""
    return _digest(directory.iterdir(), most_bytes=_RUNS * _RUN_BYTES)


def file_content(path: Path) -> str:
    """What a file holds, every byte of it."""
    return _digest([path])


def start_of(role: RoleSettings) -> object:
    """What decides the weights that a role is trained from, besides its seed."""
    return (role.model, role.layers) if role.model else role.architecture


def size_of(role: RoleSettings) -> str:
    """How the axes of sizes name a role: its width, its directory, or some layers of a directory (`smollm2:0,9,29`)."""
    if not role.model:
        return str(role.architecture.hidden_size)
    return f"{role.model}:{','.join(map(str, role.layers))}" if role.layers else role.model


def resized(role: RoleSettings, size: str) -> RoleSettings:
    """The role at another size, as `size_of` names it.

    Raises:
        UsageError: the size of a new model is not a width.
    """
    if role.model:
        model, _, layers = size.partition(":")
        return replace(role, model=model, layers=_layers(size, layers))
    if not size.isdigit() or int(size) < 1:
        raise UsageError(
            f"size {size!r}: new models are named by their width, such as 96",
            hint="model directories go with teacher.model and student.model",
        )
    return replace(role, architecture=replace(role.architecture, hidden_size=int(size)))


def _layers(size: str, text: str) -> tuple[int, ...]:
    parts = text.split(",") if ":" in size else []
    if not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"size {size!r}: layers are numbers from 0 on", hint="such as smollm2:0,9,29")
    return tuple(map(int, parts))


def _digest(paths: Iterable[Path], most_bytes: int | None = None) -> str:
    files = [(path, path.stat()) for path in sorted(paths) if path.is_file()]
    return _digest_of(tuple((path, found.st_size, found.st_mtime_ns) for path, found in files), most_bytes)


@cache  # a grid asks for every cell; a file of another size or time is read again
def _digest_of(files: tuple[tuple[Path, int, int], ...], most_bytes: int | None) -> str:
    return digest(part for path, size, _ in files for part in _parts(path, size, most_bytes))


def _parts(path: Path, size: int, most_bytes: int | None) -> Iterator[bytes]:
    """Name, size and content; of a file beyond `most_bytes`, runs from its first byte to its last."""
    yield f"{path.name}\0{size}\0".encode()
    with open(path, "rb") as file:
        if most_bytes is None or size <= most_bytes:
            yield from iter(partial(file.read, 1 << 20), b"")
            return
        for number in range(_RUNS):
            file.seek(number * (size - _RUN_BYTES) // (_RUNS - 1))
            yield file.read(_RUN_BYTES)
