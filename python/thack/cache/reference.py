"""A reader of shards in NumPy alone: docs/format.md as code, for whoever writes a reader of their own.

It is slow and short. `thack.cache.reference_checks` is what it refuses. N records, K kept ids, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from thack.cache import reference_checks as checks

VERSIONS = ("thack-shard 1", "thack-shard 1.1")
STEPS, CUT, ZERO, ABSENT = 2047, 65_533, 65_534, 65_535  # of a realised log-probability
_DTYPES = {"U8": "u1", "U16": "<u2", "I32": "<i4", "U32": "<u4", "I64": "<i8"}


class ReferenceShard(NamedTuple):
    """One shard: metadata, tensors as they are stored, and the decoded records.

    `targets` has log_probs; or ids, log_probs, log_tail and log_tail_at; or ids, weights, counts, tau and entropy; or
    mean and entropy. In format 1.1 also realised: float32 log p of each response token.
    """

    metadata: Mapping[str, str]
    tensors: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]


def read_reference_shard(path: Path | str, expected: Mapping[str, str] | None = None) -> ReferenceShard:
    """Read a whole shard and check all of it but its BLAKE3 root.

    Args:
        path: of the shard.
        expected: metadata that it must have, such as `plan` and `shard`.

    Raises:
        ValueError: it is not a shard of a version that is read, another one than expected, or not what was written.
    """
    try:
        return _read(np.frombuffer(Path(path).read_bytes(), np.uint8), expected or {})
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read(data: np.ndarray, expected: Mapping[str, str]) -> ReferenceShard:
    checks.check_trailer(data)
    head = 8 + int(data[:8].view("<u8")[0])
    header = json.loads(text := bytes(data[8:head]))
    metadata = header.pop("__metadata__")
    checks.refuse(metadata["format"] not in VERSIONS, f"format {metadata['format']}, not {' or '.join(VERSIONS)}")
    for key, value in expected.items():
        checks.refuse(metadata.get(key) != value, f"its {key} is {metadata.get(key)}, not {value}")
    tensors = {}
    for name, entry in header.items():
        start, end = (head + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:end].tobytes(), _DTYPES[entry["dtype"]]).reshape(entry["shape"])
    checks.check_sums(data, head + header["checksums"]["data_offsets"][0], tensors["checksums"])
    checks.check_header(text, metadata, tensors)
    checks.check_index(tensors, int(metadata["vocab_size"]))
    targets = decode_reference(tensors["records"], metadata)
    if "realised_log_probs" in tensors:
        targets["realised"] = realised_of(tensors["realised_log_probs"])
    return ReferenceShard(metadata, tensors, targets)


def decode_reference(records: np.ndarray, metadata: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The rows of uint8 [N, stride] records, by the metadata that names their layout."""
    vocab = int(metadata["vocab_size"])
    if metadata["kind"] == "dense":
        checks.check_numbers(dense := {"log_probs": records.copy().view("<f4")})
        return dense
    k = int(metadata["k"])
    if metadata["kind"] == "projected":
        return _projected(records, int(metadata["value_bits"]))
    bits = np.unpackbits(records, axis=1, bitorder="little")
    if metadata["kind"] == "sampled":
        return _sampled(bits, k, vocab)
    width, tails = int(metadata["value_bits"]), int(metadata["tail"] != "none")
    temperatures = len([part for part in metadata["temperatures"].split(",") if part])
    scalars = records[:, : 2 * (2 + tails + temperatures)].copy().view("<f2").astype(np.float32)
    top, spread, last = scalars[:, :1], scalars[:, 1:2], 2**width - 1
    checks.check_scale(top, spread)
    codes = _column(bits, at := 16 * (2 + tails + temperatures), k, width)
    values = top - np.abs(spread) / np.float32(2 * last**2) * (codes * (codes + last)).astype(np.float32)
    values[np.signbit(spread) & (codes == last)] = -np.inf
    found = {"ids": _ids(bits, at + k * width, k, vocab), "log_probs": values, "log_tail_at": scalars[:, 2 + tails :].T}
    found |= {"log_tail": scalars[:, 2]} if tails else {}
    checks.check_ids(found["ids"], vocab, repeats=False)
    checks.check_numbers(found)
    return found


def _projected(records: np.ndarray, bits: int) -> dict[str, np.ndarray]:
    numbers, codes = records[:, :8].copy().view("<f4"), records[:, 8:].copy()
    shares = codes.view("<f2").astype(np.float32) if bits == 16 else _e4m3(codes) / np.float32(448)
    return {"mean": shares * numbers[:, 1:], "entropy": numbers[:, 0]}


def _e4m3(codes: np.ndarray) -> np.ndarray:
    exponent, mantissa = (codes >> 3 & 15).astype(np.int32), (codes & 7).astype(np.float32)
    size = np.where(exponent == 0, mantissa / 512, np.ldexp(1 + mantissa / 8, exponent - 7))
    return np.where(codes & 128, -size, size).astype(np.float32)


def _sampled(bits: np.ndarray, k: int, vocab: int) -> dict[str, np.ndarray]:
    tau, largest = (_minifloat(_number(bits[:, at : at + 15])) for at in (0, 15))
    codes, ids = _column(bits, 44, k, 4), _ids(bits, 44 + 4 * k, k, vocab)
    checks.check_ids(ids, vocab, repeats=True)
    counts = 1 + (np.diff(ids, axis=1) > 0).sum(1)  # unused places repeat the last id
    unused = np.arange(k) >= counts[:, None]
    checks.refuse(bool(codes[unused].any()), "an unused place has a weight")
    scale = (largest - tau) / np.float32(225)
    weights = tau[:, None] + scale[:, None] * (codes * codes).astype(np.float32)
    weights = np.where(codes == 15, largest[:, None], weights)
    weights[unused] = 0
    checks.check_numbers({"weights": weights, "tau": tau, "largest": largest})
    entropy = _number(bits[:, 30:44]).astype(np.float32) / np.float32(1024)
    return {"ids": ids, "weights": weights, "counts": counts, "tau": tau, "entropy": entropy}


def realised_of(codes: np.ndarray) -> np.ndarray:
    """float32 log-probabilities of uint16 codes; NaN: absent, the number just below −32: cut."""
    checks.check_realised(codes)
    values = np.float32(0) - codes.astype(np.float32) / np.float32(STEPS)
    values[codes == CUT] = np.nextafter(np.float32(-32), np.float32(-np.inf))
    values[codes == ZERO], values[codes == ABSENT] = -np.inf, np.nan
    return values


def _ids(bits: np.ndarray, at: int, k: int, vocab: int) -> np.ndarray:
    """Elias–Fano: L low bits of each id as a column, then id >> L in unary. The smallest L of the smallest size."""
    low = int(np.argmin([k * low + ((vocab - 1) >> low) for low in range(31)]))
    start = at + k * low
    end = start + k + ((vocab - 1) >> low)
    checks.refuse(bool((bits[:, start:end].sum(1) != k).any()), f"a record has another number of ids than {k}")
    checks.refuse(bits.shape[1] - end >= 8 or bool(bits[:, end:].any()), "a record is not as long, or padded, as it is")
    places = np.nonzero(bits[:, start:end])[1].reshape(-1, k)
    ids: np.ndarray = ((places - np.arange(k)) << low) | _column(bits, at, k, low)
    return ids


def _column(bits: np.ndarray, at: int, k: int, width: int) -> np.ndarray:
    """K numbers of `width` bits: their whole bytes, one array after the other, then one plane for each bit left."""
    values = np.zeros((len(bits), k), np.int64)
    for shift in range(0, width - width % 8, 8):
        part = bits[:, at + k * shift : at + k * (shift + 8)].reshape(-1, k, 8)
        values |= (part.astype(np.int64) << np.arange(shift, shift + 8)).sum(2)
    for bit in range(width - width % 8, width):
        values |= bits[:, at + k * bit : at + k * (bit + 1)].astype(np.int64) << bit
    return values


def _number(bits: np.ndarray) -> np.ndarray:
    return np.asarray((bits.astype(np.int64) << np.arange(bits.shape[1])).sum(1))


def _minifloat(codes: np.ndarray) -> np.ndarray:
    """6 bits of exponent, 9 of mantissa: 0, and 2^-63 … 1."""
    return np.where(codes == 0, 0, ((codes + (64 << 9)) << 14).astype(np.uint32).view(np.float32)).astype(np.float32)
