"""tokenizer/ of a cache: the teacher's, so that a student with another tokenizer can read what is cached."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError

FOLDER = "tokenizer"


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write it, unless it is there. Every rank writes the same, and the first one's stays."""
    target = directory / FOLDER
    if target.exists():
        return
    temporary = directory / f".{FOLDER}.{os.uname().nodename}.{os.getpid()}"
    tokenizer.save(temporary)
    try:
        temporary.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_tokenizer(directory: Path, fingerprint: str) -> Tokenizer | None:
    """The tokenizer of a cache; None where it holds none, as caches of earlier versions.

    Raises:
        MismatchError: it is not the one whose ids are cached.
    """
    if not (directory / FOLDER).is_dir():
        return None
    found = Tokenizer.load(directory / FOLDER)
    if found.fingerprint() != fingerprint:
        raise MismatchError(
            f"{directory / FOLDER} is not the tokenizer whose ids are cached",
            details=(f"found   {found.fingerprint()}", f"cached  {fingerprint}"),
            hint="put the teacher's tokenizer there",
        )
    return found
