"""Files that are whole or absent: atomic writes, atomic directories, content fingerprints, output directories.

Every write goes to a temporary name in the same directory, is fsynced, renamed, and the directory is
fsynced: a reader, or a machine that loses power, sees the old file or the new one, never a part. Modes
follow the umask, as a file written by `open` would.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thack.errors import DataError, ThackError, UsageError
from thack.reading import read_json

MARKER = "thack.json"  # in a directory that thack writes: says of what kind it is

_ADVICE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EACCES: "permission denied",
    errno.EROFS: "read-only file system",
    errno.ENOTDIR: "a part of this path is a file",
    errno.EFBIG: "file too large",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
    errno.ENAMETOOLONG: "file name too long",
}
_AGAIN = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free space",
    errno.EFBIG: "raise `ulimit -f`",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENFILE: "wait until other programs have closed theirs",
}


@contextmanager
def explained(path: Path | str) -> Iterator[None]:
    """Turn errors of the operating system in writing `path` into errors that a user can act on.

    Raises:
        ThackError: No space, no permission, or a path that cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _ADVICE:
            raise
        again = _AGAIN.get(error.errno)
        raise ThackError(
            f"cannot write {path}: {_ADVICE[error.errno]}",
            hint=f"nothing is lost: {again} and run the same command again"
            if again
            else "choose another `out`, or change its permissions",
        ) from error


def fsync_directory(directory: Path) -> None:
    """Make renames inside `directory` durable; file systems that cannot do that are left alone."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, atomically and durably.

    Raises:
        ThackError: The file cannot be written.
    """
    for left in reversed(range(8)):
        try:
            _write_parts(path, [data])
            break
        except FileNotFoundError:
            # A process that finished a cache removes temporary files there, perhaps this one: try again.
            if not left or not path.parent.is_dir():
                raise
    fsync_directory(path.parent)


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Replace `path` by the parts one after the other, atomically and durably; one of them is in memory at a time.

    Raises:
        ThackError: The file cannot be written.
    """
    _write_parts(path, parts)
    fsync_directory(path.parent)


def _write_parts(path: Path, parts: Iterable[bytes]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with explained(path):
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            with os.fdopen(descriptor, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of the UTF-8 encoding.

    Raises:
        DataError: The text holds what UTF-8 has no place for: a name of a file that is not UTF-8.
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        wrong = ascii(text[max(0, error.start - 40) : error.end + 20])
        raise DataError(f"cannot write {path}: {wrong} is not UTF-8", hint="rename that file or directory") from error
    write_bytes(path, data)


def write_json(path: Path, obj: object) -> None:
    """Write `obj` as JSON for people: indented, keys in their order, one newline at the end; no NaN."""
    write_text(path, json_text(obj))


def json_text(obj: object) -> str:
    """`obj` as JSON for people."""
    return json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def canonical_json(obj: object) -> bytes:
    """The encoding of `obj` that is hashed and compared: JSON with sorted keys, no spaces, UTF-8, no NaN.

    Example:
        >>> canonical_json({"b": 1, "a": [True, "é"]}).decode()
        '{"a":[true,"é"],"b":1}'
    """
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def flattened(tree: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """A nested document as one level, with the keys joined.

    Example:
        >>> flattened({"loss": {"beta": 0.5}, "seed": 0})
        {'loss.beta': 0.5, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, separator, name + separator) if isinstance(value, Mapping) else {name: value}
    return flat


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary directory beside `path` that becomes `path` if the block succeeds.

    Args:
        path: The directory to write.
        replace: Remove an existing directory; else it is an error.

    Everything in it is fsynced before it is renamed.

    Raises:
        UsageError: `path` exists and `replace` is False.
        ThackError: The directory cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            _fsync_tree(temporary)
            if not replace and path.exists():
                raise UsageError(f"{path} already exists")
            while not _take_place(temporary, path):
                if not replace:  # another process has just created it
                    raise UsageError(f"{path} already exists")
                _move_away(path)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if not isinstance(error, ThackError) or str(temporary) not in error.message:
                raise
            message = error.message.replace(str(temporary), str(path))  # as the user knows it
            raise type(error)(message, details=error.details, hint=error.hint) from error
    fsync_directory(path.parent)


def _take_place(temporary: Path, path: Path) -> bool:
    """Rename a directory to `path`; False if a directory that is not empty is there."""
    try:
        os.rename(temporary, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _move_away(path: Path) -> None:
    """Remove a directory; another process may have done so."""
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    with suppress(FileNotFoundError):
        os.rename(path, old)
        shutil.rmtree(old)


def _fsync_tree(root: Path) -> None:
    for directory, _, names in os.walk(root):
        for name in names:
            with open(Path(directory, name), "rb") as file:
                os.fsync(file.fileno())
        fsync_directory(Path(directory))


def digest(data: bytes | memoryview | Iterable[bytes | memoryview]) -> str:
    """`sha256:<hex>` of one buffer, or of the concatenation of several.

    Example:
        >>> digest(b"abc") == digest([b"a", b"bc"])
        True
    """
    state = hashlib.sha256()
    for part in [data] if isinstance(data, bytes | bytearray | memoryview) else data:
        state.update(part)
    return f"sha256:{state.hexdigest()}"


def file_digest(path: Path) -> str:
    """`sha256:<hex>` of a file's content."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def directory_kind(directory: Path) -> str | None:
    """The kind of a directory that thack wrote ("run", "cache", "responses", …); None for any other."""
    for name in (MARKER, "manifest.json"):
        with suppress(DataError):
            content = read_json(directory / name)
            if isinstance(content, dict) and isinstance(content.get("kind"), str):
                return str(content["kind"])
    return None


_OWN_NAMES = re.compile(r"\.thack\.json\..+\.tmp|\.thack(\..+)?\.lock(\..+)?")


def _foreign_names(directory: Path) -> list[str]:
    """Names that thack did not write; the temporary marker of a killed process, and a lock, are not among them."""
    if not directory.exists():
        return []
    names = sorted(entry.name for entry in directory.iterdir())
    return [name for name in names if not _OWN_NAMES.fullmatch(name)]


def claim_output(directory: Path, kind: str, resume: bool = True) -> None:
    """Create and mark an output directory, or check that it is one of the same kind.

    Args: as of `check_output`.

    Raises:
        UsageError: The directory is a file, is of another kind, or has files that thack did not write.
        ThackError: The directory cannot be created.
    """
    found = check_output(directory, kind, resume)
    with explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
    if found is None:
        write_json(directory / MARKER, {"kind": kind, "format": 1})


def check_output(directory: Path, kind: str, resume: bool = True) -> str | None:
    """Refuse an output directory that something else is in; nothing is written.

    Args:
        directory: The output directory; absent, empty, or of this kind.
        kind: What will be written, such as "run" or "cache".
        resume: Accept a directory of this kind, to resume its work.

    Returns:
        The kind that the directory is marked with; None where it is not marked.

    Raises:
        UsageError: The directory is a file, is of another kind, or has files that thack did not write.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"`out` {directory} is a file", hint="give a directory that is new or empty")
    # Names first, the marker second. Another process that starts in the same directory in between writes the marker
    # before anything else, so what was listed is either older than both processes or explained by the marker.
    names = _foreign_names(directory)
    found = directory_kind(directory) if directory.exists() else None
    if found is None and names:
        raise UsageError(
            f"`out` {directory} has files that thack did not write",
            details=["found: " + ", ".join(names[:5]) + (", …" if len(names) > 5 else "")],
            hint="give a directory that is new or empty",
        )
    if found is not None and found != kind:
        raise UsageError(f"`out` {directory} is a {found}, not a {kind}", hint="give another directory")
    if found is not None and not resume:
        raise UsageError(f"`out` {directory} is a {kind} already", hint="remove it, or give another `out`")
    return found
