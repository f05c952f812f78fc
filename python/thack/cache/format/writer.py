"""writer.json of a cache: which model wrote its responses, and how it sampled them."""

from __future__ import annotations

from pathlib import Path

from thack import _native
from thack.config import CacheSettings, to_dict
from thack.data.store import read_manifest
from thack.errors import MismatchError
from thack.files import canonical_json
from thack.reading import read_json
from thack.schema.cache import ResponseWriter

NAME = "writer.json"


def written_by(data: Path) -> ResponseWriter | None:
    """Who wrote the responses of a data set; None where it is not what `thack generate` wrote."""
    manifest = read_manifest(data)
    if manifest is None:
        return None
    return ResponseWriter(model=manifest.facts.model, sampling=manifest.facts.sampling)


def record_writer(directory: Path, settings: CacheSettings, teacher: str) -> None:
    """Write writer.json, unless it is there or the writer is not known. Every rank writes the same.

    A training run takes the file as proof: it is written once the plan is accepted, and never contradicted.

    Args:
        directory: of the cache.
        settings: of the capture, which read `settings.data.path`.
        teacher: its fingerprint: the writer where the capture generates.

    Raises:
        MismatchError: the file names another writer.
    """
    if settings.generate:
        found = ResponseWriter(model=teacher, sampling=to_dict(settings.sampling))
    elif (given := written_by(Path(settings.data.path))) is not None:
        found = given
    else:
        return
    try:
        _native.publish(directory / NAME, canonical_json(found.dump()))
    except MismatchError as error:
        raise MismatchError(
            f"{directory / NAME} says that the responses were written otherwise",
            details=[f"there  {read_writer(directory)}", f"now    {found}"],
            hint="give another `out`",
        ) from error


def read_writer(directory: Path) -> ResponseWriter | None:
    """Who wrote a cache's responses; None if the cache does not say."""
    path = directory / NAME
    return ResponseWriter.parse(read_json(path), str(path)) if path.is_file() else None
