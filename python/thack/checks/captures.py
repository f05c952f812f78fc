"""Settings of a capture that cannot work: with a teacher here, behind a server, or as hidden states in files."""

from __future__ import annotations

from pathlib import Path

from thack.cache.exchange.tensors import tensor_files
from thack.checks.frozen_head import check_projected
from thack.checks.inputs import check_data, check_models, vocabulary_of
from thack.config import CacheSettings
from thack.config.specs import target_spec
from thack.errors import UsageError
from thack.files import check_output
from thack.serving.client import check_address


def check_capture(settings: CacheSettings, *, writes: bool = True) -> CacheSettings:
    """Settings of `cache-logits` with which it can begin; `writes`: into `settings.out`."""
    if settings.samples > 1 and not settings.generate:
        raise UsageError(
            f"samples = {settings.samples} needs generate = true",
            hint="several responses per prompt are either generated or given in the data",
        )
    if settings.server.url:
        _check_server(settings, writes=writes)
    elif not settings.teacher:
        raise UsageError("no teacher is given", hint="set `teacher` to its directory")
    if settings.hidden_states:
        _check_hidden_states(settings, writes=writes)
    check_projected(settings)
    _check_kind(settings)
    if settings.head_only and not settings.hidden_states:
        raise UsageError(
            "head_only = true: without hidden states the whole teacher has to run",
            hint="set `hidden_states`, or leave out `head_only`",
        )
    if not settings.data.path:
        raise UsageError("no data is given", hint="set `data.path` to prompts with responses")
    if writes:
        check_output(settings.out.expanduser(), "cache")
    check_models([settings.teacher], settings.load)
    check_models([settings.student])
    _check_room(settings)
    check_data(settings.data)
    return settings


def _check_server(settings: CacheSettings, *, writes: bool) -> None:
    """Refuse what a server cannot give, before it is asked."""
    if not writes:
        raise UsageError(
            "a teacher behind a server is neither estimated nor probed: there is no whole distribution to measure",
            hint="leave out `server.url` and set `teacher`; or capture a few prompts with `data.limit`",
        )
    for other in ("teacher", "hidden_states"):
        if getattr(settings, other):
            raise UsageError(f"`{other}` and `server.url` are both given", hint="leave one of them out")
    check_address(settings.server.url)
    if not settings.server.tokenizer:
        raise UsageError(
            "a teacher behind a server needs its tokenizer",
            hint="set `server.tokenizer` to a directory with the tokenizer.json of that model",
        )
    if settings.kind != "top-k" or settings.temperatures:
        wrong = f"kind = {settings.kind}" if settings.kind != "top-k" else f"temperatures = {settings.temperatures}"
        raise UsageError(
            f"{wrong}: a server gives the most likely ids, and nothing of the rest but its mass",
            hint="use `kind = top-k` without temperatures, or hidden states: thack cache import-hidden",
        )
    if not (Path(settings.server.tokenizer).expanduser() / "tokenizer.json").is_file():
        raise UsageError(
            f"no tokenizer.json in {settings.server.tokenizer}",
            hint="set `server.tokenizer` to a directory with the tokenizer.json of that model",
        )


def _check_hidden_states(settings: CacheSettings, *, writes: bool) -> None:
    """Refuse states that cannot be those of given responses; an estimate computes its own."""
    if settings.generate:
        raise UsageError("generate = true: hidden states are of responses that were given", hint="leave out `generate`")
    if writes:
        tensor_files(Path(settings.hidden_states).expanduser(), "hidden_states")


def _check_kind(settings: CacheSettings) -> None:
    """Refuse a number of draws where nothing says to draw; with a number for both kinds, `kind` chooses."""
    plain = CacheSettings()
    if settings.kind == "top-k" and settings.sampled != plain.sampled and settings.top_k == plain.top_k:
        raise UsageError(
            f"sampled = {settings.sampled} belongs to kind = sampled, not top-k",
            hint="set `kind = sampled`, or leave `sampled` out",
        )


def _check_room(settings: CacheSettings) -> None:
    """Refuse a target of more ids than the teacher's vocabulary has."""
    size, k = vocabulary_of(settings.teacher) if settings.teacher else None, target_spec(settings).k
    if size is not None and k > size:
        name = "top_k" if settings.kind == "top-k" else "sampled"
        raise UsageError(
            f"{name} = {k:,}: the teacher's vocabulary has {size:,} ids", hint=f"use `{name} = {size}`, or fewer"
        )
