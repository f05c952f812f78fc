"""Comparisons of two vocabularies, kept for all runs of a user: each takes half a minute, and depends on both alone."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from thack.cross_tokenizer.bpe import Bpe
from thack.cross_tokenizer.cells import Cells, build_cells, load_cells
from thack.errors import CacheError, MismatchError, ThackError
from thack.files import digest


def cells_file(teacher: Bpe, student: Bpe) -> Path:
    """Where the comparison is kept: `thack/cells/` in $XDG_CACHE_HOME, which is ~/.cache where it is not set.

    Args:
        teacher: the file is of this tokenizer,
        student: and of this one; it is named by both fingerprints.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = digest([teacher.fingerprint.encode(), student.fingerprint.encode()]).partition(":")[2]
    return Path(base).expanduser() / "thack" / "cells" / f"{name[:32]}.npz"


def kept_cells(teacher: Bpe, student: Bpe) -> Cells:
    """The comparison, from its file; computed and kept there where there is none, or a damaged one.

    A directory that cannot be written to costs the time of the comparison, and is no error.
    """
    path = cells_file(teacher, student)
    with suppress(CacheError, MismatchError):  # as if there were none
        if path.is_file():
            return load_cells(path, teacher, student)
    found = build_cells(teacher, student)
    with suppress(OSError, ThackError):
        path.parent.mkdir(parents=True, exist_ok=True)
        found.save(path)
    return found
