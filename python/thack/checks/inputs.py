"""The files that settings name: what is missing, empty or of another kind, without loading it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from thack.cache.format.plan import read_plan
from thack.cache.format.together import joint_spec
from thack.checks.losses import check_mix_defined, check_realised
from thack.config import DataSettings, DistillSettings, LoadSettings, LossSettings
from thack.config.specs import loss_terms
from thack.data.columns import Columns
from thack.data.formats import to_record
from thack.data.readers import bad_line
from thack.data.rows import BadLine, read_rows
from thack.errors import DataError, UsageError
from thack.models.directory import base_of, holds_adapter, read_config, require_safetensors
from thack.models.hub import locate
from thack.schema.defined import check_defined
from thack.schema.targets import TargetSpec


def check_models(names: Iterable[str], load: LoadSettings | None = None) -> None:
    """`check_model` of every name that is given."""
    for name in names:
        if name:
            check_model(name, load)


def vocabulary_of(name: str) -> int | None:
    """Rows of a model's LM head, as its config.json says; None where it does not say, or lies on the hub."""
    directory = Path(name).expanduser()
    if not directory.is_dir():
        return None
    config = read_config(base_of(directory).directory if holds_adapter(directory) else directory)
    text = config.get("text_config")  # of a model that reads pictures too
    found = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return found if isinstance(found, int) else None


def check_live_target(settings: DistillSettings) -> None:
    """Refuse a live teacher's target of more ids than its vocabulary has."""
    size = vocabulary_of(settings.teacher) if settings.teacher else None
    kind, k = settings.target.kind, settings.target.k
    if size is not None and kind != "dense" and k > size:
        raise UsageError(
            f"target.k = {k:,}: the teacher's vocabulary has {size:,} ids", hint=f"use `target.k = {size}`, or fewer"
        )


def check_model(name: str, load: LoadSettings | None = None) -> None:
    """Refuse a model directory without configuration or weights. Names on the hub are asked for later.

    Raises:
        ModelError: says what is missing.
    """
    directory = Path(name).expanduser()
    if not directory.is_dir() and _may_be_on_the_hub(name):
        return
    directory = locate(name).directory
    if holds_adapter(directory):
        directory = base_of(directory).directory
    read_config(directory)
    if load is None or not load.quantization:
        require_safetensors(directory)


def _may_be_on_the_hub(name: str) -> bool:
    """`org/name` that is no path: `locate` alone knows, and asks the network."""
    path = Path(name)
    return not path.is_absolute() and len(path.parts) == 2 and path.parts[0] not in (".", "..", "~")


def check_data(settings: DataSettings, path: str = "") -> None:
    """Refuse a file of data that is missing, holds nothing, or begins with a row that is no record.

    Args:
        settings: how the file is read.
        path: of the file; empty: that of `settings`.

    Raises:
        DataError: names the file and the row.
    """
    if settings.teacher_template and "{prompt}" not in settings.teacher_template:
        raise UsageError(
            "data.teacher_template has no {prompt}: the teacher would read the same text before every response",
            hint='for example "Answer in one line.\\n{prompt}"',
        )
    file = Path(path or settings.path)
    if file.exists() and not (file.is_file() or file.is_dir()):
        return  # a pipe can be read once only
    skipped: list[str] = []
    for place, row in read_rows(file, settings.max_line_bytes):
        try:
            to_record(row, place, Columns.of(settings))
            return
        except BadLine as reason:
            skipped.append(bad_line(place, reason, settings.on_bad_line))
    raise DataError(
        f"{file} holds no prompts", details=skipped[:3], hint='each line is a JSON object such as {"prompt": "…"}'
    )


def check_eval_data(settings: DataSettings, path: str) -> None:
    """Refuse held-out prompts that are neither a frozen evaluation set nor a file of prompts."""
    if not Path(path).is_dir():
        check_data(settings, path)
    elif not (Path(path) / "manifest.json").is_file():
        raise DataError(
            f"no evaluation set in {path}",
            hint="set `eval_data` to a JSONL of prompts; the set is written from it",
        )


def check_caches(directories: Sequence[Path], loss: LossSettings, *, mixed: bool) -> TargetSpec:
    """Refuse directories that are no caches or do not go together, and a loss that their targets do not define.

    Returns:
        What a batch from them keeps of a distribution.

    Raises:
        CacheError: one is no cache, or its plan is damaged.
        MismatchError: their tokenizers or records differ.
        UndefinedLoss: a divergence, its temperature, a mix, or the mixture is not defined on their targets.
    """
    plans = {directory: read_plan(directory) for directory in directories}
    for directory, plan in plans.items():
        check_realised(loss, directory, plan)
    spec = joint_spec(plans, mixed=mixed)
    check_mix_defined(loss, spec)
    for term in loss_terms(loss):
        if term.divergence is not None:
            check_defined(spec, term.divergence)
    return spec
