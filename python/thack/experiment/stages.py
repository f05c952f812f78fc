"""A stage is a directory, named by the content of all that went into it: made once, then reused.

Two experiments that need the same oracle find the same directory; changing a setting changes the name and
never overwrites what is there. A stage that was interrupted goes on if its work can resume, since its name
is the same; `stage.json` is written last and says that it is whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thack.files import canonical_json, digest, read_json, write_json

DONE = "stage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a stage lies, and the key that everything built on it carries on."""

    name: str
    path: Path
    key: str
    seconds: float
    reused: bool


class NotMade(Exception):
    """A stage is not there yet, and was only looked for."""


def stage(
    root: Path,
    name: str,
    inputs: Mapping[str, Any],
    make: Callable[[Path], object],
    *,
    only_find: bool = False,
) -> Stage:
    """Make `root/name-<key>` by `make(path)` unless it is there already; `inputs` decide the key."""
    key = digest(canonical_json({"name": name, "inputs": dict(inputs)}))
    path = root / f"{name}-{key.removeprefix('sha256:')[:10]}"
    if (path / DONE).exists():
        return Stage(name=name, path=path, key=key, seconds=read_json(path / DONE)["seconds"], reused=True)
    if only_find:
        raise NotMade(name)
    root.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    make(path)
    seconds = round(time.monotonic() - started, 3)
    write_json(path / DONE, {"name": name, "key": key, "seconds": seconds, "inputs": dict(inputs)})
    return Stage(name=name, path=path, key=key, seconds=seconds, reused=False)
