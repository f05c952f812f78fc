"""Slices of a plain safetensors file, read on request: the file is neither loaded nor mapped as a whole."""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType

import numpy as np
from safetensors import SafetensorError, safe_open

from thack.errors import DataError
from thack.reading import open_regular, parse_json

_DTYPES = {
    "BF16": "<u2",  # the upper half of a float32
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
}


def tensor_files(directory: Path, parameter: str) -> list[Path]:
    """The safetensors files of a directory that `parameter` names, in order.

    Raises:
        DataError: there is no such directory, or it holds none.
    """
    if not directory.is_dir():
        raise DataError(f"{parameter} = {directory}: no directory")
    paths = sorted(directory.rglob("*.safetensors"))
    if not paths:
        packed = any(directory.rglob("*.safetensors.zst"))
        hint = "unpack them: zstd -d *.zst" if packed else "give the directory that the engine wrote into"
        raise DataError(f"{parameter} = {directory}: holds no .safetensors file", hint=hint)
    return paths


class TensorFile:
    """The tensors of one file by name: `shapes`, and `rows(name, start, stop)` along the first dimension.

    `facts` are the file's metadata.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = open_regular(path)
        try:
            with safe_open(path, "np") as file:  # checks the header; maps the file, and reads no page of it
                names = list(file.keys())
            self._base = 8 + int.from_bytes(self._read(0, 8), "little")
            header = parse_json(self._read(8, self._base - 8), strict=False)
        except (SafetensorError, OSError, ValueError) as error:
            self._file.close()
            raise DataError(f"{path}: not a safetensors file ({error})") from error
        self._tensors = {name: header[name] for name in names}
        self.facts: dict[str, str] = header.get("__metadata__", {})

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor, by name."""
        return {name: tuple(tensor["shape"]) for name, tensor in self._tensors.items()}

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start ≤ i < stop of a tensor; bfloat16 as float32. DataError for another dtype."""
        tensor = self._tensors[name]
        if tensor["dtype"] not in _DTYPES:
            raise DataError(
                f"{self._path}: tensor {name!r} is {tensor['dtype']}", hint=f"accepted: {', '.join(_DTYPES)}"
            )
        dtype, shape = np.dtype(_DTYPES[tensor["dtype"]]), tensor["shape"][1:]
        stride = dtype.itemsize * math.prod(shape)
        data = self._read(self._base + tensor["data_offsets"][0] + start * stride, (stop - start) * stride)
        found = np.frombuffer(data, dtype).reshape(stop - start, *shape)
        return (found.astype(np.uint32) << 16).view(np.float32) if tensor["dtype"] == "BF16" else found

    def _read(self, offset: int, count: int) -> bytes:
        parts = []
        while count:
            part = os.pread(self._file.fileno(), min(count, 1 << 30), offset)
            if not part:
                raise DataError(f"{self._path}: ends before its header says")
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return b"".join(parts)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
