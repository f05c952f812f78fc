"""The files of a model directory, taken as data of a stranger.

Regular files inside the directory are read, each up to the size that its kind can have. A link out of it would be
read, and copied into every checkpoint that is published. The hub's cache alone is laid out in links: those of
snapshots/COMMIT/ lead into blobs/ beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thack.data.template_meter import TEMPLATE_BYTES
from thack.errors import DataError, ModelError
from thack.reading import BadJson, open_regular, parse_json, read_bytes

PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")  # what is read, here and by transformers
TEMPLATES = "additional_chat_templates"  # directory of NAME.jinja
_MOST_BYTES = {  # by the end of the name; the first that fits
    "tokenizer.json": 1 << 28,
    "vocab.json": 1 << 26,
    ".index.json": 1 << 26,
    ".json": 1 << 24,
    ".jinja": TEMPLATE_BYTES,
    ".txt": 1 << 26,
    ".model": 1 << 26,
}


def check_directory(directory: Path) -> None:
    """Refuse a model directory with a file that is not to be read.

    Raises:
        ModelError: names the file and the reason.
    """
    for pattern in PATTERNS:
        for path in sorted([*directory.glob(pattern), *directory.glob(f"{TEMPLATES}/{pattern}")]):
            model_file(directory, str(path.relative_to(directory)))


def model_file(directory: Path, name: str) -> Path | None:
    """The path of a file of a model directory; None if it is not there.

    Raises:
        ModelError: it is a link out of the directory, no regular file, or larger than its kind can be.
    """
    path = directory / name
    if not os.path.lexists(path):
        return None
    target = os.path.realpath(path)
    if not _is_inside(os.path.realpath(directory), target):
        raise ModelError(
            f"{path} is a link out of the model's directory, to {target}",
            hint="copy the file there: a model is read from its own directory alone",
        )
    if not os.path.lexists(target):
        return None
    most = next((size for end, size in _MOST_BYTES.items() if name.endswith(end)), None)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
    except DataError as error:
        raise ModelError(error.message, hint=error.hint) from error
    if most is not None and size > most:
        raise ModelError(f"{path} has {size:,} bytes, more than {most:,}: it is not what it seems")
    return path


def _is_inside(home: str, target: str) -> bool:
    places = [home]
    if os.path.basename(os.path.dirname(home)) == "snapshots":
        places.append(os.path.join(os.path.dirname(os.path.dirname(home)), "blobs"))
    return any(os.path.commonpath([place, target]) == place for place in places)


def read_file(directory: Path, name: str) -> bytes | None:
    """The content of a file of a model directory; None if it is not there.

    Raises:
        ModelError: it is not to be read.
    """
    path = model_file(directory, name)
    try:
        return None if path is None else read_bytes(path)
    except DataError as error:
        raise ModelError(error.message, hint=error.hint) from error


def read_text(directory: Path, name: str) -> str | None:
    """The same as text.

    Raises:
        ModelError: it is not to be read, or not UTF-8; names the byte.
    """
    content = read_file(directory, name)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{directory / name}: not UTF-8 (byte {error.start})") from error


def read_object(directory: Path, name: str) -> Mapping[str, Any] | None:
    """The JSON object in a file of a model directory; None if it is not there.

    Raises:
        ModelError: it is not to be read, or holds something else.
    """
    content = read_file(directory, name)
    if content is None:
        return None
    try:
        found = parse_json(content, strict=False)
    except BadJson as error:
        raise ModelError(f"{directory / name}: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{directory / name}: holds {type(found).__name__}, expected an object")
    return found
