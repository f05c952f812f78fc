"""DistillKit's packed Parquet, written here by an encoder of its own: bit by bit, and by NumPy's least squares."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thack.cache import Cache, ImportSettings, import_cache
from thack.errors import DataError, ThackError, UsageError
from thack.targets.types import TopKTarget

pytest.importorskip("pyarrow")
D, K = 300, 24
FORMATS = {"float16": "<e", "float32": "<f", "float64": "<d"}

PLAIN = {"d": D, "k": K, "exact_k": K, "exact_dtype": "float32", "residual_bins": [], "delta_encoding": False}
RECOMMENDED = {
    "d": D,
    "k": K,
    "exact_k": 8,
    "exact_dtype": "bfloat16",
    "polynomial_terms": [0, 1, 2, 3, "sqrt"],
    "term_dtype": "float32",
    "residual_bins": [],
    "delta_encoding": False,
    "error_diffusion": False,
}
BINS = {
    "d": D,
    "k": K,
    "exact_k": 4,
    "exact_dtype": "float32",
    "polynomial_terms": [0, 1],
    "residual_bins": [
        {"scale_dtype": "float16", "element_bits": 7, "num_elements": 10},
        {"scale_dtype": "float32", "element_bits": 1, "num_elements": 5},
    ],
    "delta_encoding": False,
    "normalize_t": True,
}
DELTAS = {"d": D, "k": K, "exact_k": 20, "exact_dtype": "float32", "polynomial_terms": [0, 1], "residual_bins": []}


def bits(values: list[int], width: int) -> bytes:
    text = "".join(format(value, f"0{width}b") for value in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def number(value: float, name: str) -> bytes:
    if name == "bfloat16":
        return struct.pack("<f", float(torch.tensor(value).to(torch.bfloat16)))[2:]
    return struct.pack(FORMATS[name], value)


def encode(log_probs: np.ndarray, config: dict[str, Any]) -> tuple[bytes, np.ndarray]:
    """The bytes of one token's descending log-probabilities, and what a reader should find."""
    values = log_probs.copy()
    if config.get("delta_encoding", True):
        values = np.concatenate([values[:1], np.diff(values)])
    exact, rest = values[: config["exact_k"]], values[config["exact_k"] :]
    dtype = config.get("exact_dtype", "float32")
    out = b"".join(number(v, dtype) for v in exact)
    seen = [float(torch.tensor(v).to(getattr(torch, dtype))) for v in exact]
    approx = np.zeros(len(rest))
    terms = config.get("polynomial_terms") or []
    if terms:
        t = np.array([i / (len(rest) - 1) if config.get("normalize_t") else float(i) for i in range(len(rest))])
        matrix = np.array([[math.sqrt(x) if term == "sqrt" else x**term for term in terms] for x in t])
        coefficients = np.linalg.lstsq(matrix, rest, rcond=None)[0].astype(np.float32)
        out += b"".join(number(float(c), config.get("term_dtype", "float32")) for c in coefficients)
        approx = matrix @ coefficients.astype(np.float64)
    done = 0
    for one in config["residual_bins"]:
        part = (rest - approx)[done : done + one["num_elements"]]
        width = one["element_bits"]
        highest = 1.0 if width == 1 else 2.0 ** (width - 1)
        packed = number(float(np.abs(part).max()) / highest, one["scale_dtype"])
        scale = struct.unpack(FORMATS[one["scale_dtype"]], packed)[0]
        if width == 1:
            stored = [int(v > 0) for v in part]
            approx[done : done + len(part)] += [scale * (2 * q - 1) for q in stored]
        else:
            low = -(2 ** (width - 1))
            stored = [min(max(round(v / scale), low), -low - 1) - low for v in part]
            approx[done : done + len(part)] += [scale * (q + low) for q in stored]
        out += packed + bits(stored, width)
        done += len(part)
    found = np.concatenate([seen, approx])
    return out, np.cumsum(found) if config.get("delta_encoding", True) else found


def text(seed: int, count: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, and for all but the first the most likely ids with their log-probabilities, the largest first."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, D, count)
    logits = 2.5 * rng.standard_normal((count - 1, D))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    order = np.argsort(-log_p, axis=1)[:, :K]
    return tokens, order, np.take_along_axis(log_p, order, 1)


def write(
    path: Path, config: dict[str, Any], texts: list[Any], labels: list[list[int]] | None = None
) -> list[np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    wanted, columns = [], {"input_ids": [], "compressed_logprobs": [], "bytepacked_indices": []}  # type: ignore[var-annotated]
    for tokens, ids, log_probs in texts:
        encoded = [encode(row, config) for row in log_probs]
        wanted.append(np.stack([values for _, values in encoded]))
        columns["input_ids"].append(tokens.tolist())
        columns["compressed_logprobs"].append([list(data) for data, _ in encoded])
        columns["bytepacked_indices"].append([list(bits(row.tolist(), 9)) for row in ids])
    nested = pa.list_(pa.list_(pa.uint8()))
    kinds = {"input_ids": pa.list_(pa.uint64()), "compressed_logprobs": nested, "bytepacked_indices": nested}
    arrays = {name: pa.array(values, kinds[name]) for name, values in columns.items()}
    if labels is not None:
        arrays["labels"] = pa.array(labels, pa.list_(pa.int64()))
    parquet.write_table(pa.table(arrays), path)
    return wanted


def settings(source: Path, out: Path, **changes: Any) -> ImportSettings:
    return ImportSettings(source=source, out=out, vocab_size=D, tokenizer="sha256:t", **changes)


@pytest.mark.parametrize("config", [PLAIN, RECOMMENDED, BINS, DELTAS])
def test_ids_and_log_probabilities_are_those_that_were_packed(config: dict[str, Any], tmp_path: Path) -> None:
    source, texts = tmp_path / "data_0.parquet", [text(seed) for seed in range(3)]
    wanted = write(source, config, texts)
    (tmp_path / "compression_config.yaml").write_text(json.dumps(config))  # JSON is YAML
    cache = Cache.open(import_cache(settings(source, tmp_path / "cache")))
    sequences, target = cache.targets(range(3))
    assert isinstance(target, TopKTarget) and cache.meta.k == K
    for s, (tokens, _, _) in zip(sequences, texts, strict=True):
        assert np.concatenate([s.prompt_ids, s.response_ids]).tolist() == tokens.tolist()
    ids = np.concatenate([row for _, row, _ in texts])
    order = np.argsort(ids, axis=1)
    np.testing.assert_array_equal(target.ids_NK.numpy(), np.take_along_axis(ids, order, 1))
    values = np.take_along_axis(np.concatenate(wanted), order, 1)
    np.testing.assert_allclose(target.log_probs_NK.numpy(), values, atol=0.05)
    exact = np.take_along_axis(np.concatenate([row for _, _, row in texts]), order, 1)
    np.testing.assert_allclose(target.log_probs_NK.numpy(), exact, atol=0.4)  # what the packing loses


def test_labels_say_what_is_trained(tmp_path: Path) -> None:
    tokens, ids, log_probs = text(0)
    labels = [-100, -100, *tokens[2:5].tolist(), -100, -100, *tokens[7:].tolist()]
    write(tmp_path / "data.parquet", PLAIN, [(tokens, ids, log_probs)], [labels])
    (tmp_path / "config.json").write_text(json.dumps({"teacher": {"kind": "dataset", "logprob_compressor": PLAIN}}))
    given = settings(tmp_path / "data.parquet", tmp_path / "cache", packed_config=tmp_path / "config.json")
    cache = Cache.open(import_cache(given))
    sequences, target = cache.targets(range(2))
    assert isinstance(target, TopKTarget)
    assert [s.response_ids.tolist() for s in sequences] == [tokens[2:5].tolist(), tokens[7:].tolist()]
    assert [len(s.prompt_ids) for s in sequences] == [2, 7]
    np.testing.assert_array_equal(target.ids_NK[0].numpy(), np.sort(ids[1]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (lambda ids: [-100, *ids[1:-1]], "row 1: 11 labels for 12 tokens"),
        (lambda ids: [-100, *ids[1:], ids[-1]], "row 1: 13 labels for 12 tokens"),
        (lambda ids: [], "row 1: 0 labels for 12 tokens"),
        (lambda ids: [*ids[1:], -100], "label t is token t"),
        (lambda ids: [-100, *ids[1:3], ids[3] + 1, *ids[4:]], "row 1: token 3 is .*, its label"),
    ],
)
def test_labels_that_are_not_those_of_the_tokens_are_refused(
    labels: Callable[[list[int]], list[int]], words: str, tmp_path: Path
) -> None:
    texts = [text(0), text(1)]
    given = [tokens.tolist() for tokens, _, _ in texts]
    write(tmp_path / "data.parquet", PLAIN, texts, [given[0], labels(given[1])])
    (tmp_path / "compression_config.yaml").write_text(json.dumps(PLAIN))
    with pytest.raises(DataError, match=words):
        import_cache(settings(tmp_path / "data.parquet", tmp_path / "cache"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (None, UsageError, "nothing says how"),
        ({"k": K + 1}, ThackError, "the layout says"),
        ({"exact_k": 30}, UsageError, "cannot be"),
        ({"exact_k": 2, "polynomial_terms": ["cosh"]}, UsageError, "polynomial_terms has 'cosh'"),
        ({"exact_dtype": "float16"}, DataError, "the layout says"),
        ({"vocab_size": 4}, DataError, "legacy captures hold logits"),
    ],
)
def test_bytes_that_the_layout_does_not_describe_are_refused(
    change: dict[str, Any] | None, error: type[ThackError], words: str, tmp_path: Path
) -> None:
    write(tmp_path / "data.parquet", PLAIN, [text(0)])
    if change is not None:
        (tmp_path / "compression_config.yaml").write_text(json.dumps(PLAIN | change))
    with pytest.raises(error, match=words):
        import_cache(settings(tmp_path / "data.parquet", tmp_path / "cache"))


def test_legacy_captures_are_refused_by_name(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    names = ("input_ids", "packed_indices", "exact_values", "coeffs")
    parquet.write_table(pa.table({name: [[1]] for name in names}), tmp_path / "data.parquet")
    with pytest.raises(DataError, match="legacy capture of DistillKit: centred logits"):
        import_cache(settings(tmp_path / "data.parquet", tmp_path / "cache"))
