"""DistillKit's packed layout: the bytes of a token's k ids and log-probabilities, as its documents describe them.

The k ids of a token stand in the order of their log-probabilities, the most likely first. `bytepacked_indices` holds
the ids, ⌈log2 d⌉ bits each, and `compressed_logprobs` in turn

1. the `exact_k` largest log-probabilities as numbers of `exact_dtype`,
2. a coefficient of `term_dtype` for each of `polynomial_terms`: the other k − exact_k are Σ c·term(t) with
   t = 0, 1, …, or spread over [0, 1] under `normalize_t`; a term is a power of t, or its square root or exponential,
3. for each of `residual_bins` a scale of its `scale_dtype`, and `num_elements` whole numbers of `element_bits` bits:
   scale times these is added to the approximation; bins are padded to whole bytes.

Bits run from the most significant to the least, of a number and of a byte; numbers of more bytes are little-endian.
Under `delta_encoding` every value but the first is a difference to the one before. The layout is not in the file: it is
in compression_config.yaml, which the sampler writes beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from thack.errors import DataError, UsageError
from thack.reading import DEPTH, read_json, read_text
from thack.schema import document

FloatName = Literal["float16", "bfloat16", "float32", "float64"]
_MOST_BYTES = 1 << 16  # of a layout
_TERMS = {"sqrt": np.sqrt, "exp": np.exp}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidualBin:
    """Quantised residuals of the first values that no exact number holds."""

    scale_dtype: FloatName
    element_bits: int
    num_elements: int

    @property
    def num_bytes(self) -> int:
        return _width(self.scale_dtype) + -(-self.element_bits * self.num_elements // 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedLayout:
    """What DistillKit calls its compression config.

    Args:
        d: number of ids; their bits follow from it.
        k: ids of a token.
        exact_k: of these, how many have exact log-probabilities.
        exact_dtype: number format of those.
        polynomial_terms: powers of t, or sqrt or exp.
        term_dtype: number format of their coefficients.
        residual_bins: what is added to the polynomial.
        delta_encoding: values are differences.
        error_diffusion: how residuals were rounded; reading them is the same.
        normalize_t: t runs from 0 to 1.
    """

    d: int
    k: int
    exact_k: int
    exact_dtype: FloatName = "float32"
    polynomial_terms: tuple[int | str, ...] = ()
    term_dtype: FloatName = "float32"
    residual_bins: tuple[ResidualBin, ...] = ()
    delta_encoding: bool = True
    error_diffusion: bool = False
    normalize_t: bool = False

    @property
    def id_bits(self) -> int:
        return int(np.ceil(np.log2(np.float32(self.d))))

    @property
    def num_bytes(self) -> int:
        """Of the log-probabilities of a token."""
        found = self.exact_k * _width(self.exact_dtype) + len(self.polynomial_terms) * _width(self.term_dtype)
        return found + sum(one.num_bytes for one in self.residual_bins)

    def check(self) -> None:
        """Raise UsageError for a layout that cannot be."""
        rest = self.k - self.exact_k
        if self.d < 2 or self.k < 1 or not 0 <= rest <= self.k:
            raise UsageError(f"packed layout: d = {self.d}, k = {self.k}, exact_k = {self.exact_k} cannot be")
        if unknown := [t for t in self.polynomial_terms if not (t in _TERMS or (isinstance(t, int) and t >= 0))]:
            raise UsageError(f"packed layout: polynomial_terms has {unknown[0]!r}", hint="accepted: powers, sqrt, exp")
        if sum(one.num_elements for one in self.residual_bins) > rest:
            raise UsageError("packed layout: residual_bins have more elements than k − exact_k")
        if any(not (1 <= one.element_bits <= 52 and one.num_elements >= 1) for one in self.residual_bins):
            raise UsageError("packed layout: element_bits must be from 1 to 52, num_elements at least 1")

    def ids(self, data: np.ndarray) -> np.ndarray:
        """int64 [N, k] from uint8 [N, bytes]."""
        return _integers(data, self.id_bits, self.k)

    def log_probs(self, data: np.ndarray) -> np.ndarray:
        """float64 [N, k] from uint8 [N, bytes]."""
        exact, data = _floats(data, self.exact_dtype, self.exact_k)
        coefficients, data = _floats(data, self.term_dtype, len(self.polynomial_terms))
        rest = coefficients @ self._terms().T
        done = 0
        for one in self.residual_bins:
            scale, data = _floats(data, one.scale_dtype, 1)
            size = one.num_bytes - _width(one.scale_dtype)
            numbers = _integers(data[:, :size], one.element_bits, one.num_elements).astype(np.float64)
            # One bit is a sign; more of them count from −2^(bits − 1).
            numbers = 2 * numbers - 1 if one.element_bits == 1 else numbers - 2.0 ** (one.element_bits - 1)
            rest[:, done : done + one.num_elements] += scale * numbers
            done, data = done + one.num_elements, data[:, size:]
        found = np.concatenate([exact, rest], axis=1)
        return np.cumsum(found, axis=1) if self.delta_encoding else found

    def _terms(self) -> np.ndarray:
        """float64 [k − exact_k, terms]."""
        size = self.k - self.exact_k
        t = np.linspace(0, 1, size) if self.normalize_t else np.arange(size, dtype=np.float64)
        columns = [t**term if isinstance(term, int) else _TERMS[term](t) for term in self.polynomial_terms]
        return np.stack(columns, axis=1) if columns else np.zeros((size, 0))


def read_layout(source: Path, given: Path | None) -> PackedLayout:
    """The layout from a YAML or JSON file; by default from the compression_config.yaml beside the source.

    Raises:
        UsageError: there is none, or it needs pyyaml.
        DataError: it is no layout.
    """
    path = given or source.parent / "compression_config.yaml"
    if not path.is_file():
        raise UsageError(
            f"{source} is packed, and nothing says how: {path} does not exist",
            hint="set `packed_config` to the compression config that the capture was made with",
        )
    raw = read_json(path, strict=False) if path.suffix == ".json" else _yaml(read_text(path, _MOST_BYTES), path)
    inner = raw.get("teacher", raw) if isinstance(raw, Mapping) else raw
    found = inner.get("logprob_compressor", inner) if isinstance(inner, Mapping) else inner
    if not isinstance(found, Mapping) or "legacy_logit_compression" in found or "vocab_size" in found:
        raise DataError(f"{path}: not a compression config of log-probabilities", hint="legacy captures hold logits")
    kept = {key: value for key, value in found.items() if value is not None}
    layout = document.parse(PackedLayout, kept, str(path))
    layout.check()
    return layout


def _yaml(text: str, path: Path) -> object:
    try:
        import yaml
    except ImportError as error:
        raise UsageError(
            f"reading {path} needs pyyaml", hint="pip install 'thack[data]', or write it as JSON"
        ) from error
    try:
        level = 0
        for event in yaml.parse(text):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if level > DEPTH or isinstance(event, yaml.AliasEvent):  # nested aliases grow without end
                raise DataError(f"{path}: nested too deep, or with aliases", hint="write out what they stand for")
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error


def _width(name: FloatName) -> int:
    return {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[name]


def _floats(data: np.ndarray, name: FloatName, count: int) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N, count] from the first bytes of each row, and the other bytes."""
    assert name in get_args(FloatName)
    size = count * _width(name)
    head = np.ascontiguousarray(data[:, :size])
    if name == "bfloat16":
        values = (head.view("<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = head.view({"float16": "<f2", "float32": "<f4", "float64": "<f8"}[name])
    return values.reshape(len(data), count).astype(np.float64), data[:, size:]


def _integers(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """int64 [N, count] of numbers of `bits` bits, the most significant first."""
    found = np.unpackbits(np.ascontiguousarray(data), axis=1)[:, : bits * count].reshape(len(data), count, bits)
    return found.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))
