"""Data from a pipe, as `--data <(zcat prompts.jsonl.gz)` gives it: copied once, since data is read more than once."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path

from thack.errors import ThackError
from thack.reading import beginning

_SNIFFED = ((b"PAR1", ".parquet"), (b"ARROW1", ".arrow"), (b"[", ".json"))  # a pipe has no name that says its format
_copies: dict[tuple[str, int, int], Path] = {}  # by name, device and inode: what this process has copied


def is_pipe(path: Path) -> bool:
    """Whether a path is a named pipe, or stands for one (/dev/fd/63, /dev/stdin)."""
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def copied(path: Path) -> Path:
    """A regular file with what a pipe gives; read once by this process, and removed as it ends.

    Raises:
        ThackError: there is no space for it.
    """
    found = path.stat()
    key = (str(path), found.st_dev, found.st_ino)
    if key not in _copies:
        _copies[key] = _copy(path)
    return _copies[key]


def _copy(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix="thack-pipe-")
    atexit.register(Path(name).unlink, missing_ok=True)
    try:
        with open(path, "rb") as source, open(handle, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        hint = "save it as a file and give that, or set TMPDIR to a larger disk"
        raise ThackError(f"cannot copy {path} to {name}: {reason}", hint=hint) from error
    begin = beginning(Path(name))
    ending = next((ending for magic, ending in _SNIFFED if begin.startswith(magic)), "")
    if not ending:
        return Path(name)
    named = Path(name + ending)
    os.rename(name, named)
    atexit.register(named.unlink, missing_ok=True)
    return named
