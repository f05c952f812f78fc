"""Rows of Parquet files, one at a time: plain lists of ids and log-probabilities, or DistillKit's packed bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from thack.cache.exchange.packed import PackedLayout, read_layout
from thack.cache.exchange.source_row import APPROXIMATION, SourceRow, is_export, row_of, whole_numbers
from thack.cache.exchange.tails import TailColumns, find_tails
from thack.data.formats import given_sample
from thack.errors import DataError, ThackError, UsageError

_PLAIN = ("prompt_ids", "response_ids", "ids", "logprobs")
_PACKED = ("input_ids", "compressed_logprobs", "bytepacked_indices")
_LEGACY = ("packed_indices", "exact_values", "coeffs")
_REALISED = "realised_logprob"  # a list with a number for each response token, if there is one
_BESIDE = ("prompt_id", "id", "sample", _REALISED)
_NOT_TRAINED = -100  # in `labels`


def parquet_rows(path: Path, packed_config: Path | None = None) -> Iterator[SourceRow]:
    """Columns prompt_ids, response_ids (lists of ids), ids and logprobs (lists of k per response token).

    And of those that `export_cache` writes beside them what is there: names, realised log-probabilities and tails.
    Or input_ids, compressed_logprobs and bytepacked_indices as DistillKit packs them, with labels or without: the rows
    of tokens whose label is −100 are left out, and each run of the others is a response to all that is before it.
    """
    file, damage = _open(path)
    names = file.schema_arrow.names
    index = 0
    try:
        if set(_PACKED) <= set(names):
            layout = read_layout(path, packed_config)
            for batch in _batches(file, [*_PACKED, *(["labels"] if "labels" in names else [])]):
                for place in range(len(batch)):
                    yield from _from_bytes(batch.slice(place, 1), layout, index, path)
                    index += 1
            return
        _check_plain(path, names)
        metadata = file.schema_arrow.metadata or {}
        facts = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata.items()}
        tails = find_tails(names, facts, path)
        columns = [*_PLAIN, *(tails.names if tails else ()), *(name for name in _BESIDE if name in names)]
        for batch in _batches(file, columns):
            for place in range(len(batch)):  # one row at a time: every number in a list is an object
                content = batch.slice(place, 1).to_pylist()[0]
                row = _from_columns(content, tails, index, path)
                yield _of_export(row, content) if is_export(facts) else row
                index += 1
    except ThackError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, damage):
            raise DataError(f"{path}: damaged after row {index:,} ({str(error).splitlines()[0]})") from error
        raise DataError(f"{path}: row {index}: not numbers ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: damaged after row {index:,} ({str(error).splitlines()[0]})") from error


def _open(path: Path) -> tuple[Any, type[Exception]]:
    """The file, and the class of errors of a damaged one."""
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowInvalid
    except ImportError as error:
        raise UsageError("reading Parquet needs pyarrow", hint="pip install 'thack[data]'") from error
    try:
        return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False), ArrowInvalid
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error


def _check_plain(path: Path, names: Sequence[str]) -> None:
    if set(_LEGACY) <= set(names):
        raise DataError(
            f"{path}: a legacy capture of DistillKit: centred logits, whose normaliser is not in the file",
            hint="capture again with a logprob_compressor; log-probabilities do not follow from these numbers",
        )
    lacking = [name for name in _PLAIN if name not in names]
    if lacking:
        raise DataError(f"{path}: no column {lacking[0]!r}", hint=f"needed: {', '.join(_PLAIN)}")


def _batches(file: Any, columns: Sequence[str]) -> Iterator[Any]:
    """One row group at a time, and pages as they are needed: otherwise pyarrow reads the whole file ahead."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=16, row_groups=[group], columns=list(columns), use_threads=False)


def _from_bytes(row: Any, layout: PackedLayout, index: int, path: Path) -> Iterator[SourceRow]:
    """A response for each run of trained tokens of one packed row."""
    place = f"row {index}"
    ids = whole_numbers(np.asarray(row.column("input_ids")[0].values), f"{path}: {place}", "a token id")
    count = len(row.column("compressed_logprobs")[0])
    if len(ids) - count not in (0, 1) or count != len(row.column("bytepacked_indices")[0]) or count < 1:
        raise DataError(f"{path}: {place}: {len(ids)} tokens with {count} rows of log-probabilities")
    log_probs = layout.log_probs(_bytes(row, "compressed_logprobs", layout.num_bytes, path))
    top = layout.ids(_bytes(row, "bytepacked_indices", -(-layout.k * layout.id_bits // 8), path))
    trained = _trained(row, ids, f"{path}: {place}")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], trained, [False]]).astype(np.int8)))
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        entries = [(top[t - 1], log_probs[t - 1]) for t in range(first, last)]  # row t predicts token t + 1
        found = row_of({}, ids[:first], ids[first:last], entries, place)
        yield replace(found, slack=APPROXIMATION)


def _trained(row: Any, ids: np.ndarray, place: str) -> np.ndarray:
    """bool per token: whether it is trained on. All are without labels, but the first, which nothing predicts."""
    trained = np.ones(len(ids), bool)
    if "labels" in row.schema.names:
        labels = whole_numbers(np.asarray(row.column("labels")[0].values), place, "a label")
        if len(labels) != len(ids):
            raise DataError(f"{place}: {len(labels)} labels for {len(ids)} tokens")
        trained = labels != _NOT_TRAINED
        if len(wrong := np.flatnonzero(trained & (labels != ids))):
            t = int(wrong[0])
            raise DataError(
                f"{place}: token {t} is {ids[t]}, its label {labels[t]}",
                hint=f"label t is token t, or {_NOT_TRAINED} where it is not trained on: labels are not shifted",
            )
    trained[0] = False
    return trained


def _bytes(row: Any, name: str, size: int, path: Path) -> np.ndarray:
    """uint8 [N, size] of a column of lists of bytes."""
    lists = row.column(name)[0].values
    found = np.asarray(lists.flatten())
    if len(found) != len(lists) * size or (len(found) and (found.min() < 0 or found.max() > 255)):
        raise DataError(
            f"{path}: {name} has {len(found) / max(len(lists), 1):g} bytes a token, the layout says {size}",
            hint="`packed_config` must be the one that the capture was made with, its d the size it was changed to",
        )
    return found.astype(np.uint8).reshape(len(lists), size)


def _of_export(row: SourceRow, content: Mapping[str, Any]) -> SourceRow:
    """The row as its cache has it, where all turns of a conversation have one name."""
    sequence = replace(row.sequence, sample=given_sample(content))
    return replace(row, sequence=sequence, slack=APPROXIMATION, is_named=False)


def _from_columns(content: Mapping[str, Any], tails: TailColumns | None, index: int, path: Path) -> SourceRow:
    ids, values = content["ids"], content["logprobs"]
    widths: Sequence[tuple[int, int]] = [(len(a), len(b)) for a, b in zip(ids, values, strict=False)]
    if len(ids) != len(values) or len(ids) != len(content["response_ids"]) or any(a != b for a, b in widths):
        raise DataError(f"{path}: row {index}: ids, logprobs and response_ids do not match")
    if not ids or not content["prompt_ids"]:
        raise DataError(f"{path}: row {index}: an empty prompt or response")
    kept = (whole_numbers(np.asarray(of_token), f"{path}: row {index}", "a token id") for of_token in ids)
    entries = list(zip(kept, (np.asarray(of_token, np.float64) for of_token in values), strict=True))
    row = row_of(
        content,
        np.asarray(content["prompt_ids"]),
        np.asarray(content["response_ids"]),
        entries,
        f"row {index}",
    )
    given = content.get(_REALISED)
    row = row if given is None else replace(row, given=np.asarray(given, np.float64))
    row = row if tails is None else replace(row, tail=tails.read(content.__getitem__))
    for name in (*(tails.names if tails else ()), *([_REALISED] if given is not None else ())):
        if len(content[name]) != len(ids):
            raise DataError(f"{path}: row {index}: {name} and response_ids do not match")
    return row
