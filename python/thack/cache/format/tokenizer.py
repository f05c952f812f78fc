"""tokenizer/ of a cache: the teacher's, so that a student with another tokenizer can read what is cached."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from thack.cache.format.plan import TOKENIZER
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError
from thack.files import write_bytes

_LAST = "tokenizer.json"


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    """Write it, unless it is there. Every rank writes the same; tokenizer.json is the last file."""
    target = directory / TOKENIZER
    if (target / _LAST).is_file():
        return
    with TemporaryDirectory() as scratch:
        tokenizer.save(Path(scratch))
        files = [path for path in sorted(Path(scratch).rglob("*")) if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == _LAST):
            place = target / path.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(place, path.read_bytes())


def read_tokenizer(directory: Path, fingerprint: str) -> Tokenizer | None:
    """The tokenizer of a cache; None where it holds none, as caches of earlier versions.

    Raises:
        MismatchError: it is not the one whose ids are cached.
    """
    if not (directory / TOKENIZER / _LAST).is_file():
        return None
    found = Tokenizer.load(directory / TOKENIZER)
    if found.fingerprint() != fingerprint:
        raise MismatchError(
            f"{directory / TOKENIZER} is not the tokenizer whose ids are cached",
            details=(f"found   {found.fingerprint()}", f"cached  {fingerprint}"),
            hint="put the teacher's tokenizer there",
        )
    return found
