"""What `thack push` has published."""

from __future__ import annotations

from dataclasses import dataclass

from thack.schema.document import Document


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """One commit on the hub.

    Args:
        repository: its name.
        url: of the commit.
        commit: its id.
        files: number of files of the commit.
        removed: files of an earlier push that it took away.
        left_out: files of the directory that were not pushed.
    """

    repository: str
    url: str
    commit: str
    files: int
    removed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PushResult(Document):
    """The model's commit, and the cache's where it was pushed too."""

    model: Pushed
    cache: Pushed | None = None
