"""What a reader of shards must refuse, in NumPy alone: the last section of docs/format.md as code.

Used by `thack.cache.reference`. N records, K kept ids, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import numpy as np

_MOST = 1 << 31  # tokens, sequences, prompt tokens and bytes of prompt ids for which a header has room
_BLOCK, CHUNK = 4096, 16 << 10  # bytes: a header ends at a multiple of the first; under one checksum
_TRAILER = 64
_FEW = 32  # rows for which arrays cost more than numbers
_ABOVE = 1e-5  # a log-probability of float32 may be so far above 0


def refuse(is_wrong: bool | np.bool_, what: str) -> None:
    """Raise ValueError with `what` if it is so."""
    if is_wrong:
        raise ValueError(what)


def check_trailer(data: np.ndarray) -> None:
    """The last 64 bytes are a trailer, and that of a file of this length."""
    trailer = data[-_TRAILER:]
    refuse(len(data) < _TRAILER + 8 or bytes(trailer[:12]) != b"thackend\x01\0\0\0", "it has no trailer")
    (own,), (length,) = trailer[60:].view("<u4"), trailer[16:24].view("<u8")
    is_damaged = own != crc32c(trailer[:60].tobytes() + bytes(4)) or trailer[56:60].any()
    refuse(length != len(data) or is_damaged, "its trailer is damaged, or it is cut")


def check_sums(data: np.ndarray, checked: int, table: np.ndarray) -> None:
    """The table of checksums is whole, and every chunk before it, `checked` bytes, has its sum."""
    last = checked // CHUNK * CHUNK
    sums = [*_crc32c(data[:last].reshape(-1, CHUNK)), *(_crc32c(data[None, last:checked]) if last < checked else ())]
    (of_table,) = data[-_TRAILER:][12:16].view("<u4")
    refuse(crc32c(table.tobytes()) != of_table or list(table) != sums, "a checksum is wrong")


@cache
def _table() -> np.ndarray:
    """CRC32C (Castagnoli, reflected) of every byte."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


def crc32c(data: bytes | bytearray) -> int:
    """CRC32C of these bytes."""
    crc, table = 0xFFFFFFFF, _table().tolist()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return int(crc) ^ 0xFFFFFFFF


def _crc32c(rows: np.ndarray) -> np.ndarray:
    """CRC32C of each row of bytes; of many rows all at once."""
    if len(rows) < _FEW:
        return np.array([crc32c(row.tobytes()) for row in rows], np.uint32)
    crc, table = np.full(len(rows), 0xFFFFFFFF, np.uint32), _table()
    for column in rows.T:
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> 8)
    return ~crc


def check_header(header: bytes, metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> None:
    """There is one header for these counts and metadata, and this is it."""
    tokens, stride = tensors["records"].shape
    counts = (tokens, stride, *(len(tensors[name]) for name in ("sequence", "prompt_tokens", "prompt_ids")))
    widest = len(_json(metadata, (_MOST, _MOST // 2, _MOST, _MOST, _MOST), 0))
    length = -(-(8 + widest) // _BLOCK) * _BLOCK
    refuse(header != _json(metadata, counts, length).ljust(length - 8), "its header is not the one for its counts")


def _json(metadata: Mapping[str, str], counts: tuple[int, ...], length: int) -> bytes:
    """The header of a shard whose tensors begin at byte `length`, without its padding."""
    tokens, stride, sequences, prompt_tokens, id_bytes = counts
    shapes: dict[str, tuple[str, list[int]]] = {"records": ("U8", [tokens, stride]), "prompt_ids": ("U8", [id_bytes])}
    shapes["padding"] = ("U8", [-(tokens * stride + id_bytes) % 8])
    shapes |= {name: ("I64", [sequences]) for name in ("sequence", "example", "sample")}
    shapes |= {name: ("I64", [sequences + 1]) for name in ("response_starts", "prompt_starts", "prompt_id_starts")}
    shapes |= {"response_tokens": ("I32", [tokens]), "prompt_tokens": ("I32", [prompt_tokens])}
    if metadata["format"] == "thack-shard 1.1":
        shapes |= {"realised_log_probs": ("U16", [tokens]), "realised_padding": ("U8", [2 * (tokens % 2)])}
    end = sum(_size(*tensor) for tensor in shapes.values())
    shapes |= {"checksums": ("U32", [-(-(length + end) // CHUNK)]), "trailer": ("U8", [64])}
    described: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    start = 0
    for name, (dtype, shape) in shapes.items():
        end = start + _size(dtype, shape)
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    return json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()


def _size(dtype: str, shape: list[int]) -> int:
    size = int(dtype[1:]) // 8
    for axis in shape:
        size *= axis
    return size


def check_index(tensors: Mapping[str, np.ndarray], vocab: int) -> None:
    """Starts ascend from 0 to the number of all, every sequence occurs once, ids are ids."""
    filled = {"response_starts": "response_tokens", "prompt_starts": "prompt_tokens", "prompt_id_starts": "prompt_ids"}
    for name, of in filled.items():
        starts, least = tensors[name], int(name != "prompt_id_starts")  # a prompt's id may be empty
        is_whole = starts[0] == 0 and starts[-1] == len(tensors[of])
        refuse(not is_whole or bool((np.diff(starts) < least).any()), f"{name} do not fill {of}")
    numbers = tensors["sequence"]
    refuse(len(np.unique(numbers)) < len(numbers), "a sequence occurs twice")
    refuse(any((tensors[name] < 0).any() for name in ("sequence", "example", "sample")), "a number is negative")
    responses, prompts = tensors["response_tokens"], tensors["prompt_tokens"]
    refuse(bool((responses < 0).any() or (responses >= vocab).any() or (prompts < 0).any()), "a token is no id")
    names, starts = tensors["prompt_ids"].tobytes(), tensors["prompt_id_starts"]
    for start, end in pairwise(starts.tolist()):
        names[start:end].decode()  # a UnicodeDecodeError is a ValueError
    paddings = [tensors[name] for name in ("padding", "realised_padding") if name in tensors]
    refuse(any(padding.any() for padding in paddings), "its padding is not zero")


def check_ids(ids: np.ndarray, vocab: int, *, repeats: bool) -> None:
    """Increasing and below V; with `repeats` the last one may stand in all places that are left."""
    steps = np.diff(ids, axis=1)
    unused = np.maximum.accumulate(steps == 0, axis=1) if repeats else np.zeros_like(steps, dtype=bool)
    refuse(bool((np.where(unused, steps != 0, steps <= 0)).any()), "the ids of a record do not increase")
    refuse(bool((ids >= vocab).any()), "an id of a record is beyond the vocabulary")


def check_numbers(targets: Mapping[str, np.ndarray]) -> None:
    """No NaN, no probability above 1, and τ not above the largest weight."""
    if "weights" in targets:
        tau, largest = targets["tau"], targets["largest"]
        refuse(bool((tau > largest).any() or (largest > 1).any()), "τ or a largest weight is no weight")
        return
    for name in {"log_probs", "log_tail"} & targets.keys():
        refuse(not bool((targets[name] <= _ABOVE).all()), f"{name} of a record is no log-probability")
    at = targets.get("log_tail_at", np.zeros(1))
    refuse(not bool((at < np.inf).all()), "a log-tail at a temperature is no number")


def check_scale(top: np.ndarray, spread: np.ndarray) -> None:
    """The two f16 numbers of a top-k record that its codes are relative to."""
    refuse(not bool((np.isfinite(top) & (top <= 0) & np.isfinite(spread)).all()), "a scale is no number")


def check_realised(codes: np.ndarray) -> None:
    """Codes between the deepest log-probability and the three that mean something else are not used."""
    refuse(bool(((codes > 65_504) & (codes < 65_533)).any()), "a realised log-probability has a code without meaning")
