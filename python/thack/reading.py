"""Reading files that others may have written: regular ones of bounded size, and JSON within bounds.

A file may be a FIFO without a writer, a device, or ten sparse gigabytes; JSON may nest without end, hold a number of a
million digits, or a key twice. Each is refused by name before it costs time or memory.
"""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from thack.errors import DataError

MOST_BYTES = 1 << 28  # of a JSON file; the manifest of 95,000 shards has 11 MB
LINE_BYTES = 1 << 25  # of one line of JSON
DEPTH = 100  # lists in objects in lists; the schema of a tool nests some 20 deep
_INTEGERS = range(-(1 << 63), 1 << 64)
_SUSPECT = re.compile(rb"\d{19}|[eE]\+?\d{3}")  # what may be no 64-bit integer, or an infinite number
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_KINDS = {
    stat.S_ISDIR: "a directory",
    stat.S_ISFIFO: "a FIFO",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


class BadJson(ValueError):
    """JSON that cannot be read, or is out of bounds: why, in one line."""


class LongLine(BadJson):
    """A line of more bytes than are read."""


class BadToml(ValueError):
    """TOML that cannot be read: why, in one line."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, without waiting for a FIFO's writer.

    Raises:
        DataError: there is no such file, it is not a regular one, or may not be read.
    """
    try:
        # A device may act when it is opened, so it is looked at first; what is opened may be another by then.
        _require_regular(path, os.stat(path).st_mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = os.strerror(error.errno).lower() if isinstance(error, OSError) and error.errno else str(error)
        raise DataError(f"{path} cannot be read: {reason}") from error
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS.items() if test(mode)), "something else")
        raise DataError(f"{path} is {kind}, not a file", hint="give a regular file")


def beginning(path: Path) -> bytes:
    """The first 4,096 bytes of a regular file, without a BOM and the white space before its text.

    Raises:
        DataError: as of `open_regular`.
    """
    with open_regular(path) as file:
        return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        DataError: there is no such file, it is not a regular one, is larger, or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            found = b"" if size > most else file.read(size + 1)  # no more: as much memory is asked for at once
            found += file.read(most - size) if len(found) > size else b""  # it grows, or has no size (/proc)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {os.strerror(error.errno or errno.EIO).lower()}") from error
        if max(size, len(found)) > most:
            raise DataError(f"{path} has {max(size, len(found)):,} bytes, more than {most:,}: it is not what it seems")
    return found


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The same as UTF-8 text.

    Raises:
        DataError: as `read_bytes`, or the text is not UTF-8; names the byte.
    """
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start})") from error


def read_json(path: Path, *, strict: bool = True, most: int = MOST_BYTES) -> Any:
    """Parse a JSON file.

    Args:
        path: A regular file.
        strict: As in `parse_json`.
        most: Bytes of the file.

    Raises:
        DataError: The file is absent, too large, not JSON, or out of bounds; names the place.
    """
    try:
        return parse_json(read_bytes(path, most), strict=strict)
    except BadJson as error:
        raise DataError(f"{path}: {error}") from error


def parse_json(text: bytes | str, *, strict: bool = True) -> Any:
    """Parse JSON of at most 100 levels.

    Args:
        text: UTF-8, with or without a BOM.
        strict: As thack writes it: finite numbers, integers of 64 bits, whole surrogate pairs, every key once. Other
            writers know NaN and infinities, integers of up to 4,300 digits, and the last of equal keys counts.

    Raises:
        BadJson: the text is not UTF-8, not JSON, or out of bounds.

    Example:
        >>> parse_json('{"loss": NaN}', strict=False)
        {'loss': nan}
        >>> parse_json('{"loss": NaN}')
        Traceback (most recent call last):
        ...
        thack.reading.BadJson: not JSON (NaN is no number)
    """
    encoded = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8-sig")
        found = _parse(decoded, strict=strict, is_suspect=_SUSPECT.search(encoded) is not None)
    except UnicodeDecodeError as error:
        raise BadJson(f"not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadJson(f"not JSON ({error.msg.lower().removesuffix(' at')} at {place})") from error
    except RecursionError as error:
        raise BadJson(f"not JSON that can be read (nested more than {DEPTH} deep)") from error
    except BadJson:
        raise
    except ValueError as error:  # a number of more than 4,300 digits
        raise BadJson("not JSON that can be read (a number of thousands of digits)") from error
    if strict and _SURROGATE.search(encoded):
        _check_pairs(found)
    if encoded.count(b"[") + encoded.count(b"{") > DEPTH and _is_deeper(found):
        raise BadJson(f"not JSON that can be read (nested more than {DEPTH} deep)")
    return found


def parse_line(line: bytes | BadJson, *, strict: bool = True) -> Any:
    """`parse_json` of what `lines` found.

    Raises:
        BadJson: the line is too long, not UTF-8, not JSON, or out of bounds.
    """
    if isinstance(line, BadJson):
        raise line
    return parse_json(line, strict=strict)


def _parse(text: str, *, strict: bool, is_suspect: bool) -> object:
    if not strict:
        return json.loads(text)
    # A hook costs a call for each number, and hardly a text has one that needs it.
    if is_suspect:
        return json.loads(
            text, parse_constant=_constant, object_pairs_hook=_once, parse_int=_integer, parse_float=_finite
        )
    return json.loads(text, parse_constant=_constant, object_pairs_hook=_once)


def _constant(name: str) -> float:
    raise BadJson(f"not JSON ({name} is no number)")


def _integer(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in _INTEGERS:
        raise BadJson(f"not JSON that can be read ({digits[:20]}… is beyond 64 bits)")
    return int(digits)


def _finite(digits: str) -> float:
    if not math.isfinite(float(digits)):
        raise BadJson(f"not JSON that can be read ({digits[:20]} is beyond all numbers)")
    return float(digits)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadJson(f"not JSON (the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice)")
    return found


def _check_pairs(found: object) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadJson("not JSON that can be read (half of a surrogate pair)") from error


def _is_deeper(found: object) -> bool:
    level = [found]
    for _ in range(DEPTH):
        level = [item for each in level for item in _items(each) if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _items(value: object) -> list[object]:
    return list(value.values()) if isinstance(value, dict) else cast(list[object], value)


def read_toml(path: Path) -> dict[str, object]:
    """Parse a TOML file.

    Raises:
        DataError: The file is absent, too large, or not TOML; names the place.
    """
    try:
        return parse_toml(read_text(path))
    except BadToml as error:
        raise DataError(f"{path}: {error}") from error


def parse_toml(text: str) -> dict[str, object]:
    """Parse TOML of at most 100 levels.

    Raises:
        BadToml: the text is not TOML, or nests deeper.
    """
    too_deep = f"not TOML that can be read (nested more than {DEPTH} deep)"
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadToml(f"not TOML ({error})") from error
    except RecursionError as error:
        raise BadToml(too_deep) from error
    except ValueError as error:
        raise BadToml("not TOML that can be read (a number of thousands of digits)") from error
    if _is_deeper(found):
        raise BadToml(too_deep)
    return found


def lines(path: Path, most: int = LINE_BYTES) -> Iterator[tuple[int, bytes | BadJson]]:
    """Number and content of every line that is not blank; one of more than `most` bytes does not get into memory.

    Raises:
        DataError: there is no such file, or it is not a regular one.
    """
    return ((number, line) for _, number, line in addressed_lines(path, most))


def addressed_lines(path: Path, most: int = LINE_BYTES) -> Iterator[tuple[int, int, bytes | BadJson]]:
    """`lines`, each with the byte at which it begins."""
    with open_regular(path) as file:
        number = address = 0
        while True:
            line, size = line_at(file, most)
            if not size:
                return
            number += 1
            if isinstance(line, BadJson) or line.strip():
                yield address, number, line
            address += size


def line_at(file: BinaryIO, most: int) -> tuple[bytes | BadJson, int]:
    """The line that begins where a file stands, and its bytes; 0 of them at the end of the file."""
    line = file.readline(most + 1)
    size = len(line)
    if size <= most or line.endswith(b"\n"):
        return line, size
    while rest := file.readline(1 << 20):
        size += len(rest)
        if rest.endswith(b"\n"):
            break
    return LongLine(f"a line of more than {most:,} bytes"), size
