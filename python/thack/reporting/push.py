"""What `thack push` uploads: the files of a model and its card, the files of a cache and its card.

Imported by `api.push` alone: merging an adapter needs torch, which no report does.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from thack.cache.format.inspection import inspect
from thack.cache.format.plan import SHARDS, TOKENIZER
from thack.cache.format.verification import verify
from thack.config import MergeSettings, PushSettings
from thack.data.model_files import PATTERNS, TEMPLATES, check_directory
from thack.errors import CacheError, DataError, UsageError
from thack.files import directory_kind
from thack.models.directory import ADAPTER, holds_adapter
from thack.models.hub import locate
from thack.models.upload import Repository, Uploaded, upload
from thack.reading import read_json
from thack.reporting.cache_card import cache_card
from thack.reporting.model_card import CARD, model_card
from thack.reporting.published import measured_facts, read_judged
from thack.runtime.progress import SILENT, Progress
from thack.schema.publication import Pushed, PushResult

_MODEL_FILES = (*PATTERNS, f"{TEMPLATES}/*.jinja")
_CACHE_FILES = ("plan.json", "manifest.json", "ends.json", f"{TOKENIZER}/*", f"{SHARDS}/shard-*.safetensors")


def push(settings: PushSettings, progress: Progress = SILENT) -> PushResult:
    """Push the model, then the cache. Arguments and errors as of `api.push`."""
    cache = _cache_files(Path(settings.cache).expanduser(), settings) if settings.cache else None
    with TemporaryDirectory(prefix="thack-") as scratch:
        model = _push_model(settings, Path(scratch), progress)
    if cache is None:
        return PushResult(model=model)
    target = _target(settings, settings.cache_to or f"{settings.to}-cache", "dataset")
    with progress.task(f"pushing {target.name}", None):
        found = upload(cache, target, "A cache of thack", stale=lambda name: _is_one_of(name, _CACHE_FILES))
    return PushResult(model=model, cache=_pushed(target, found, ()))


def _push_model(settings: PushSettings, scratch: Path, progress: Progress) -> Pushed:
    source = locate(settings.model).directory
    run = _run_of(settings.model, source)
    if settings.merge:
        from thack.models.load import merge

        merge(MergeSettings(model=str(source), out=scratch / "merged"), progress)
        source = scratch / "merged"
    elif holds_adapter(source):
        _check_base(source)
    check_directory(source)
    files: dict[str, Path | bytes] = dict(_files_in(source, _MODEL_FILES))
    files[CARD] = _card(run, source)
    target = _target(settings, settings.to, "model")
    with progress.task(f"pushing {target.name}", None):
        found = upload(files, target, "A model of thack", stale=lambda name: _is_one_of(name, _MODEL_FILES))
    there = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    return _pushed(target, found, tuple(sorted(there - files.keys())))


def _run_of(given: str, model: Path) -> Path | None:
    """The run that a model belongs to: the directory itself, or the one above `model/` or `best/`."""
    places = (Path(given).expanduser(), model.parent)
    return next((place for place in places if place.is_dir() and directory_kind(place) == "run"), None)


def _check_base(adapter: Path) -> None:
    """An adapter whose base model is a directory of this machine is of no use to anyone else."""
    base = str(read_json(adapter / ADAPTER).get("base_model_name_or_path") or "")
    if Path(base).is_absolute():
        raise UsageError(
            f"{adapter} holds an adapter whose base model is {base}, which is on this machine alone",
            hint="set `merge = true`: adapter and base model are pushed as one",
        )


def _card(run: Path | None, model: Path) -> bytes:
    """Of the run, judged now; a model without a run brings its own."""
    if run is not None:
        judged = read_judged(run)
        found = None if judged is None else judged.verdict if judged.has_oracle else judged.suspicion
        return model_card(run, found, model=model, more=measured_facts(judged)).encode()
    path = model / CARD
    if not path.is_file():
        raise DataError(
            f"{model} is in no run and has no {CARD}: a model is not pushed without a description",
            hint=f"give the run's directory, or write {CARD}",
        )
    return path.read_bytes()


def _cache_files(directory: Path, settings: PushSettings) -> Mapping[str, Path | bytes]:
    """The files of a complete cache with its card.

    Raises:
        CacheError: it is not complete, or a shard is damaged.
    """
    checked = verify(directory)
    if not (checked.ok and checked.complete):
        raise CacheError(
            f"{directory} is not complete: it is not pushed",
            details=[f"{one.file}: {one.cause}" for one in checked.damaged[:3]],
            hint="run cache-logits again to finish or repair it",
        )
    name = settings.cache_to or f"{settings.to}-cache"
    return {**_files_in(directory, _CACHE_FILES), CARD: cache_card(inspect(directory), name).encode()}


def _files_in(directory: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    found = {path for pattern in patterns for path in directory.glob(pattern) if path.is_file()}
    return {str(path.relative_to(directory)): path for path in sorted(found)}


def _is_one_of(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a file of a repository has a name that a push gives: `*` stays within one directory."""
    return any(name.count("/") == pattern.count("/") and fnmatch(name, pattern) for pattern in patterns)


def _target(settings: PushSettings, name: str, kind: str) -> Repository:
    return Repository(
        name=name,
        kind="dataset" if kind == "dataset" else "model",
        public=settings.public,
        revision=settings.revision,
        endpoint=settings.endpoint,
    )


def _pushed(target: Repository, found: Uploaded, left_out: tuple[str, ...]) -> Pushed:
    return Pushed(
        repository=target.name,
        url=found.url,
        commit=found.commit,
        files=found.files,
        removed=found.removed,
        left_out=left_out,
    )
