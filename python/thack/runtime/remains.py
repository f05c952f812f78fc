"""What killed processes leave behind: temporary files and directories that never got their name."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

from thack.files import directory_kind

_REMAINS = re.compile(r"\.(.+?)\.(?:\d+\.)?[0-9a-f]{8,16}\.(?:tmp|old)")  # as `thack.files` and the extension name them


def remove_remains(path: Path) -> None:
    """Remove what killed processes left of an output: beside it, and inside a directory that thack wrote.

    Only whoever holds the lock of `path` may: another process could be writing such a file just now.
    """
    with suppress(OSError):
        for entry in path.parent.iterdir():
            if (found := _REMAINS.fullmatch(entry.name)) and found[1] == path.name:
                _remove(entry)
    if directory_kind(path) is not None:
        remove_remains_in(path)


def remove_remains_in(directory: Path) -> None:
    """Remove what killed processes left in a directory, whatever it was to become."""
    with suppress(OSError):
        for entry in directory.iterdir():
            if _REMAINS.fullmatch(entry.name):
                _remove(entry)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
