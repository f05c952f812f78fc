"""Memory of gradients: used again when the graph is gone, never while a tensor still holds it."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import torch

from thack import kernels
from thack.kernels import SparseRows
from thack.kernels.pages import Pages

LARGE = (300, 1024)  # 1.2 MB in float32


def test_memory_comes_back_with_the_last_tensor_that_holds_it() -> None:
    pages = Pages()
    first = pages.copy(torch.full(LARGE, 1.0))
    view, place = first[7:], first.data_ptr()
    del first
    second = pages.copy(torch.full(LARGE, 2.0))
    assert second.data_ptr() != place and bool((view == 1).all()) and bool((second == 2).all())
    del view
    third = pages.copy(torch.full((290, 1024), 3.0).T)  # smaller, of another shape, and not contiguous
    assert third.data_ptr() == place and third.is_contiguous() and third.shape == (1024, 290)
    assert bool((second == 2).all()) and bool((third == 3).all())


def test_few_buffers_are_kept_and_small_ones_are_left_to_the_allocator() -> None:
    pages = Pages()
    many = [pages.copy(torch.ones(LARGE)) for _ in range(5)]
    del many
    assert len(pages._free) == 2
    small = pages.copy(torch.ones(3, 5, dtype=torch.bfloat16))
    assert len(pages._free) == 2 and small.dtype == torch.bfloat16
    larger = pages.copy(torch.ones(600, 1024, dtype=torch.bfloat16).repeat(2, 1))
    assert larger.shape == (1200, 1024) and not pages._free  # neither was large enough


def test_threads_never_share_memory() -> None:
    pages = Pages()

    def work(number: int) -> bool:
        found = pages.copy(torch.full(LARGE, float(number)))
        return all(bool((found.mul_(-1).abs() == number).all()) for _ in range(3))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(60)))


def test_gradients_of_two_graphs_and_of_a_second_backward() -> None:
    """Each is that of a graph in small memory, where nothing is used again."""
    tail_N = torch.full((300,), -1.0).exp().neg().log1p()
    rows = SparseRows(torch.zeros(300, 1).int(), torch.full((300, 1), -1.0), tail_N, 1024)
    wanted = []
    for seed in range(2):
        leaf = torch.randn(300, 1024, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        parts = [kernels.sparse_divergence(leaf[i : i + 10], part(rows, i)) for i in range(0, 300, 10)]
        (grad,) = torch.autograd.grad(torch.cat(parts).sum(), leaf)
        wanted.append((leaf, grad))
    losses = [kernels.sparse_divergence(leaf, rows).sum() for leaf, _ in wanted]
    for (leaf, grad), loss in zip(wanted, losses, strict=True):
        for _ in range(2):
            (found,) = torch.autograd.grad(loss, leaf, retain_graph=True)
            torch.testing.assert_close(found, grad)
    del losses, loss, found
    gc.collect()
    assert kernels.divergence._PAGES._free


def part(rows: SparseRows, first: int) -> SparseRows:
    own = slice(first, first + 10)
    return SparseRows(rows.ids_NK[own], rows.values_NK[own], rows.tail_N[own], rows.vocab_size)
