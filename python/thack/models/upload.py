"""Files to the Hugging Face hub, or to any server that speaks its protocol: one repository, one commit.

huggingface_hub does the transfer: it asks which files are large, uploads those that are not there yet, and commits all
of them at once. So a push that was stopped, repeated, uploads what is missing, and a repository is never half a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thack.errors import ModelError, ServerError, UsageError

_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """Where files are pushed.

    Args:
        name: ORG/NAME.
        kind: what the repository holds.
        public: whether anyone may read it.
        revision: branch; empty: the main one.
        endpoint: address of the hub; empty: huggingface_hub's own, which HF_ENDPOINT names.
    """

    name: str
    kind: Literal["model", "dataset"]
    public: bool = False
    revision: str = ""
    endpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploaded:
    """A commit on the hub."""

    url: str
    commit: str
    files: int
    removed: tuple[str, ...] = ()  # files of an earlier push that are not part of this one


def check_name(name: str, setting: str) -> None:
    """Refuse what cannot be the name of a repository.

    Raises:
        UsageError: names the setting.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{setting} = {name!r} is no repository", hint="it has the form ORG/NAME")


def upload(
    files: Mapping[str, Path | bytes], target: Repository, message: str, *, stale: Callable[[str], bool]
) -> Uploaded:
    """Commit `files`, by their names in the repository, which is made if need be.

    Args:
        files: content, or where it is.
        target: the repository.
        message: of the commit.
        stale: whether a file that the repository holds, and `files` does not, is of an earlier push and goes.

    Raises:
        UsageError: the repository is public, and `target` is not.
        ServerError: the hub cannot be reached, or refuses.
        ModelError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    except ImportError as error:
        raise ModelError("pushing needs huggingface_hub", hint="pip install 'thack[hf]'") from error
    api: Any = HfApi(endpoint=target.endpoint or None)
    place: dict[str, Any] = {"repo_type": target.kind, "revision": target.revision or None}
    try:
        api.create_repo(target.name, repo_type=target.kind, private=not target.public, exist_ok=True)
        if target.revision:
            api.create_branch(target.name, branch=target.revision, repo_type=target.kind, exist_ok=True)
        found = api.repo_info(target.name, **place)
        if not target.public and not found.private:
            raise UsageError(
                f"{target.name} exists and is public: anyone could read what is pushed",
                hint="set `public = true`, or give another repository",
            )
        held = [sibling.rfilename for sibling in found.siblings or ()]
        removed = tuple(sorted(name for name in held if name not in files and stale(name)))
        operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in removed]
        for name, content in files.items():
            given = content if isinstance(content, bytes) else str(content)
            operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=given))
        with _without_bars():
            commit = api.create_commit(target.name, operations, commit_message=message, **place)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, RuntimeError) as error:  # of a file: a RuntimeError
        raise _refused(target, error) from error
    return Uploaded(url=str(commit.commit_url), commit=str(commit.oid), files=len(files), removed=removed)


@contextmanager
def _without_bars() -> Iterator[None]:
    """huggingface_hub's own progress bars would break into ours, and fill the logs of jobs."""
    import huggingface_hub.utils

    bars: Any = huggingface_hub.utils
    hidden = bars.are_progress_bars_disabled()
    bars.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            bars.enable_progress_bars()


def _refused(target: Repository, error: Exception) -> ServerError:
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    reason = [line for cause in causes for line in str(cause).strip().splitlines() if line.strip()]
    responses = (getattr(cause, "response", None) for cause in causes)
    status = next((found.status_code for found in responses if found is not None), None)
    hint = "run the same command again: what is uploaded already is not uploaded again"
    if status in (401, 403):
        hint = "log in with a token that may write there: hf auth login, or set HF_TOKEN"
    return ServerError(f"the hub does not take {target.name}", details=reason[:2], hint=hint)
