"""Selection and sampling against their definitions in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thack import _native, kernels
from thack.errors import ModelError, UsageError
from thack.kernels import torch_reference

FORMATS = [torch.float32, torch.bfloat16, torch.float16]


def keys(n: int) -> torch.Tensor:
    words = torch.zeros(n, 4, dtype=torch.int64)
    words[:, 1] = torch.arange(n)
    return words


def logits(rows: int, vocab: int, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def naive_ids(row: torch.Tensor, k: int) -> list[int]:
    order = sorted(range(len(row)), key=lambda i: (-float(row[i]), i))
    return sorted(order[:k])


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("vocab", "k"), [(1, 1), (7, 7), (127, 5), (128, 64), (129, 3), (1000, 64), (5000, 1024)])
def test_topk_and_tails_match_float64(dtype: torch.dtype, vocab: int, k: int) -> None:
    z = logits(4, vocab).to(dtype)
    found = kernels.topk_logsumexp(z, k, temperatures=(2.0, 0.5))
    exact = torch.log_softmax(z.double(), 1)
    for n in range(4):
        ids = naive_ids(z[n], k)
        assert found.ids_NK[n].tolist() == ids
        rest = exact[n].clone()
        rest[ids] = -torch.inf
        for temperature, tail in {1.0: found.log_tail_N, **found.log_tail_at}.items():
            expected = torch.logsumexp(rest / temperature, 0)
            torch.testing.assert_close(tail[n].double(), expected, atol=4e-6, rtol=2e-6)
        torch.testing.assert_close(found.log_probs_NK[n].double(), exact[n][ids], atol=4e-6, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([-2.0, 0.0, 1.0, float("-inf")]), min_size=1, max_size=300), st.integers(1, 40))
def test_ties_go_to_the_lowest_id(row: list[float], k: int) -> None:
    """Pitfall 18: massive ties, as in bfloat16."""
    z = torch.tensor([row])
    finite = int(torch.isfinite(z).sum())
    k = min(k, len(row))
    if finite < k:
        with pytest.raises(ModelError, match="row 0"):
            kernels.topk_logsumexp(z, k)
        return
    assert kernels.topk_logsumexp(z, k).ids_NK[0].tolist() == naive_ids(z[0], k)


@pytest.mark.parametrize("order", ["ascending", "descending", "constant"])
def test_adversarial_orders(order: str) -> None:
    row = {"ascending": torch.arange(9000.0), "descending": -torch.arange(9000.0), "constant": torch.zeros(9000)}[order]
    assert kernels.topk_logsumexp(row[None] / 100, 64).ids_NK[0].tolist() == naive_ids(row, 64)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 77, 299])
def test_rows_that_are_no_distribution_are_named(bad: float, place: int) -> None:
    z = logits(3, 300)
    z[1, place] = bad
    with pytest.raises(ModelError, match=f"row 1 .*{place}"):
        kernels.topk_logsumexp(z, 8)
    with pytest.raises(ModelError, match="row 1"):
        kernels.sample(z, seed=0, keys_N4=keys(3))


def test_a_row_of_minus_infinity_is_refused() -> None:
    z = torch.full((1, 50), float("-inf"))
    with pytest.raises(ModelError, match="nothing but -inf"):
        kernels.sample(z, seed=0, keys_N4=keys(1))


def test_a_deep_tail_is_exact() -> None:
    """Pitfall 2: 1 − Σp would be 0 here."""
    z = torch.full((1, 400), -200.0)
    z[0, 3] = 0.0
    found = kernels.topk_logsumexp(z, 1)
    assert found.log_tail_N[0].item() == pytest.approx(-200.0 + np.log(399), abs=1e-4)


def test_a_tail_at_the_edge_of_exp_is_exact() -> None:
    """Pitfall 2: one value that single-precision exp still keeps must not hide the many that it cuts off."""
    z = torch.full((1, 100_000), -88.0)
    z[0, 3], z[0, 70_000] = 0.0, -86.0
    expected = torch.logsumexp(torch.cat([z[0, :3], z[0, 4:]]).double(), 0).item()
    assert kernels.topk_logsumexp(z, 1).log_tail_N[0].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("step", [0.01, 1.0, 7.9, 8.1, 1000.0])
def test_the_log_sum_exp_of_rows_that_climb(step: float) -> None:
    """The base of the exponentials moves along; what was summed before must move with it."""
    z = torch.arange(3000.0)[None] * step / 128 - 40
    found = kernels.topk_logsumexp(z, 64)
    expected = torch.logsumexp(z.double(), 1)
    torch.testing.assert_close(found.logsumexp_N.double(), expected, atol=4e-6, rtol=2e-7)


FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"top_k": 10},
    {"top_p": 0.8},
    {"min_p": 0.05},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.02, "temperature": 1.5},
]


def allowed(row: torch.Tensor, options: dict[str, float]) -> torch.Tensor:
    """The distribution after temperature, top-k, top-p and min-p, from the definition."""
    p = torch.softmax(row.double() / options.get("temperature", 1.0), 0)
    order = torch.tensor(sorted(range(len(p)), key=lambda i: (-float(row[i]), i)))
    ranked = p[order]
    if options.get("top_k"):
        ranked[int(options["top_k"]) :] = 0
    above = ranked.cumsum(0) - ranked
    ranked = ranked * (above < options.get("top_p", 1.0) * ranked.sum())
    ranked = ranked * (ranked >= options.get("min_p", 0.0) * ranked[0])
    result = torch.zeros_like(p)
    result[order] = ranked / ranked.sum()
    return result


@pytest.mark.parametrize("options", FILTERS)
def test_draws_follow_the_filtered_distribution(options: dict[str, Any]) -> None:
    """χ² with a fixed seed: below the 99.99 % point."""
    n = 20_000
    row = logits(1, 60, scale=1.5)[0]
    drawn = kernels.sample(row.expand(n, 60).contiguous(), seed=11, keys_N4=keys(n), **options)
    expected = allowed(row, options) * n
    counts = torch.bincount(drawn, minlength=60).double()
    assert counts[expected == 0].sum() == 0
    common = expected > 5
    chi2 = ((counts - expected)[common] ** 2 / expected[common]).sum().item()
    freedom = int(common.sum())
    assert chi2 < freedom + 4 * (2 * freedom) ** 0.5 + 8


def test_the_torch_reference_draws_the_same_ids() -> None:
    z, words = logits(500, 300), keys(500)
    by_torch = torch_reference.sample(
        z, seed=3, keys_N4=words, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, greedy=False
    )
    assert torch.equal(kernels.sample(z, seed=3, keys_N4=words), by_torch)


def test_a_draw_depends_on_its_key_alone() -> None:
    """Pitfall 17: not on the batch, the row order or the number of threads."""
    z, words = logits(64, 700), keys(64)
    whole = kernels.sample(z, seed=5, keys_N4=words)
    turned = kernels.sample(z.flip(0), seed=5, keys_N4=words.flip(0)).flip(0)
    single = torch.cat([kernels.sample(z[i : i + 1], seed=5, keys_N4=words[i : i + 1]) for i in range(64)])
    assert torch.equal(whole, turned)
    assert torch.equal(whole, single)
    assert not torch.equal(whole, kernels.sample(z, seed=6, keys_N4=words))


CHECK = """
import torch, hashlib
from thack import kernels
z = torch.randn(40, 3001, generator=torch.Generator().manual_seed(1)) * 4
keys = torch.zeros(40, 4, dtype=torch.int64); keys[:, 3] = torch.arange(40)
for number in (1, 2):
    torch.set_num_threads(number)
    top, cut = kernels.topk_logsumexp(z, 64), kernels.threshold_sample(z, 16, seed=2, keys_N4=keys)
    drawn = kernels.sample(z, seed=2, keys_N4=keys), kernels.sample(z, seed=2, keys_N4=keys, top_p=0.9, min_p=0.01)
    parts = [top.ids_NK, top.log_probs_NK, top.log_tail_N, *drawn, cut.ids_NK, cut.weights_NK]
    print(hashlib.sha256(b"".join(p.numpy().tobytes() for p in parts)).hexdigest())
"""


def test_the_same_bits_at_every_level_and_thread_count() -> None:
    started = {}
    for level in ("scalar", "avx2", "avx512"):
        environment = {**os.environ, "THACK_SIMD": level, "THACK_NUM_THREADS": "2"}
        command = [sys.executable, "-c", CHECK]
        pipe = subprocess.PIPE
        started[level] = subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True)
    seen: dict[tuple[str, int], str] = {}
    for level, process in started.items():
        out, errors = process.communicate()
        if "this CPU has no" not in errors:
            assert process.returncode == 0, (level, process.returncode, errors)
            seen |= {(level, number): found for number, found in enumerate(out.split(), start=1)}
    assert len(seen) >= 2 and len(set(seen.values())) == 1, seen  # by level and number of threads
    assert _native.simd_level() in ("scalar", "avx2", "avx512")


def test_bad_arguments() -> None:
    z = logits(2, 10)
    with pytest.raises(UsageError, match="k = 0"):
        kernels.topk_logsumexp(z, 0)
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match=f"a temperature of {temperature} is not above 0"):
            kernels.topk_logsumexp(z, 2, temperatures=(2.0, temperature))
    with pytest.raises(UsageError, match="temperature"):
        kernels.sample(z, seed=0, keys_N4=keys(2), temperature=0.0)
    with pytest.raises(UsageError, match="32 bits"):
        kernels.sample(z, seed=0, keys_N4=keys(2) + (1 << 40))
    with pytest.raises(UsageError, match="float64"):
        kernels.topk_logsumexp(z.double(), 2)
