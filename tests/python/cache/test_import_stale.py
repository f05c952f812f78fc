"""Rows of another text at the beginning of a response: refused on import, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from thack.cache.exchange.readers import read_rows
from thack.cache.exchange.stale import StaleRows, surprise
from thack.errors import DataError

from .test_import_numbers import VOCAB, Notes, imported, prompt_line

LENGTH, BLOCK, K = 40, 16, 8


def distributions(rng: np.random.Generator, scale: float, count: int = LENGTH) -> np.ndarray:
    """log p of a teacher, one row per token; the larger the scale, the surer it is."""
    z = rng.normal(size=(count, VOCAB)) * scale
    return np.asarray(z - np.log(np.exp(z).sum(1, keepdims=True)))


def line(rng: np.random.Generator, log_p: np.ndarray, labels: np.ndarray, prompt: int) -> str:
    """As vLLM writes it: the k most likely ids, and the label."""
    rows = []
    for row, label in zip(log_p, labels, strict=True):
        ids = {*np.argsort(-row)[:K].tolist(), int(label)}
        rows.append({i: float(row[i]) for i in sorted(ids, key=lambda i: -row[i])})
    return prompt_line(rows, labels.tolist(), prompt=(1, prompt))


def drawn(rng: np.random.Generator, log_p: np.ndarray) -> np.ndarray:
    return np.array([rng.choice(VOCAB, p=np.exp(row) / np.exp(row).sum()) for row in log_p])


def write(path: Path, seed: int, scale: float, stale: int = 0, foreign: float = 0.0) -> Path:
    """Responses drawn from the teacher, a share `foreign` of their tokens by others; the first `stale` of them with
    16 rows of another text."""
    rng, lines = np.random.default_rng(seed), []
    for i in range(12):
        log_p = distributions(rng, scale)
        labels = drawn(rng, log_p)
        by_others = rng.random(LENGTH) < foreign
        labels[by_others] = rng.integers(VOCAB, size=int(by_others.sum()))
        if i < stale:
            log_p[:BLOCK] = distributions(rng, scale, BLOCK)
        lines.append(line(rng, log_p, labels, prompt=i + 2))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("seed", range(4))
def test_right_rows_are_never_refused(seed: int, tmp_path: Path) -> None:
    """Of teachers that are sure and of ones that are not, on their own texts and on those of others."""
    for number, (scale, foreign) in enumerate(((0.1, 0.0), (2.0, 0.0), (6.0, 0.0), (2.0, 0.5), (6.0, 0.3), (2.0, 1.0))):
        source = write(tmp_path / f"{number}.jsonl", seed, scale, foreign=foreign)
        found = StaleRows(VOCAB)
        for row in read_rows(source, None):
            found.add(row)
        assert found.count == 0
    imported(source, tmp_path / "cache", top_k=K)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stale", [1, 6])
def test_stale_rows_are_refused_unless_the_user_states_that_they_are_right(
    seed: int, stale: int, tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.jsonl", seed, scale=6.0, stale=stale)
    with pytest.raises(DataError, match="of 12 responses begin with rows of another text"):
        imported(source, tmp_path / "no", top_k=K)
    imported(source, tmp_path / "yes", Notes(), top_k=K, logprobs="raw")


def test_the_surprise_of_a_draw_is_0_on_average_and_never_overstated() -> None:
    rng = np.random.default_rng(0)
    (log_p,) = distributions(rng, 2.0, 1)
    p, ids = np.exp(log_p), np.arange(VOCAB)
    assert sum(p[i] * surprise(ids, log_p, i, VOCAB) for i in range(VOCAB)) == pytest.approx(0, abs=1e-9)
    top = np.argsort(-log_p)[:K]
    for label in range(VOCAB):
        assert surprise(top, log_p[top], label, VOCAB) <= surprise(ids, log_p, label, VOCAB) + 1e-9
