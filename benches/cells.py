"""The loss on cells beside the loss of a student with the teacher's tokenizer: alone, and with the head's products.

V = 151,936 ids in 109,567 cells, as Llama 3 and Qwen have; the sizes of cells are skewed, so that a row's 64 kept cells
hold about 300 ids there and here. Every twentieth row stands inside a token of the teacher's. CPU time of one thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from harness import Measurement, Work, interleaved, ratio
from thack import kernels
from thack.kernels import SparseRows
from thack.losses.cells import cell_divergence_
from thack.schema.targets import Divergence
from thack.targets.cells import CellTarget, StudentCells

N, V, C = 256, 151_936, 109_567
HIDDEN = 64  # as narrow as a student gets: a wider one hides the loss
KL = Divergence()


def measure() -> Iterator[Measurement]:
    torch.set_num_threads(1)
    for k, sampled in ((64, False), (16, True)):
        what = f"sampled {k} ids" if sampled else f"top-{k}"
        across, same, z = target(k, sampled), rows(k, sampled), torch.randn(N, V) * 3
        works: list[Work] = [partial(cell_divergence_, z, across, KL), partial(kernels.sparse_divergence_, z, same)]
        yield line(f"loss on cells, {what}", works)
        yield line(f"the same with the head, width {HIDDEN}", [with_head(work, z) for work in works])


def line(what: str, works: list[Work]) -> Measurement:
    ours, theirs = interleaved(works, repeats=7, clock=time.thread_time)
    to_us = 1e6 / N
    return Measurement(
        what=what, ours=ours * to_us, unit="µs/row", peer="same tokenizer", theirs=theirs * to_us, target=ratio(1 / 1.3)
    )


def with_head(loss: Work, z_NV: Tensor) -> Work:
    weight_VH, x_NH = torch.randn(V, HIDDEN) / 8, torch.randn(N, HIDDEN)

    def step() -> None:
        torch.mm(x_NH, weight_VH.t(), out=z_NV)
        loss()
        torch.mm(z_NV, weight_VH)
        torch.mm(z_NV.t(), x_NH)

    return step


def target(k: int, sampled: bool) -> CellTarget:
    """Kept cells are the likelier, the more ids they hold."""
    generator = torch.Generator().manual_seed(0)
    cell_V = torch.cat([torch.arange(C), (torch.rand(V - C, generator=generator) ** 2.5 * C).long()])
    inside_N = torch.arange(N) % 20 == 19
    likely = (torch.rand(C, generator=generator) ** 1.5 * C).long().unique()
    kept = torch.stack([likely[torch.randperm(len(likely), generator=generator)[:k]] for _ in range(N)])
    mass_NK = torch.softmax(torch.randn(N, k, generator=generator), 1) * (1 if sampled else 0.98)
    return CellTarget(
        student=StudentCells(cell_V, C),
        mass_NK=mass_NK.masked_fill(inside_N[:, None], 0),
        cells_NK=kept,
        tail_N=torch.full((N,), 0.0 if sampled else 0.02).masked_fill(inside_N, 0),
        ids_NW=torch.randint(V, (N, 1), generator=generator),
        weights_NW=torch.ones(N, 1),
        is_inside_N=inside_N,
        vocab_size=V,
    )


def rows(k: int, sampled: bool) -> SparseRows:
    generator = torch.Generator().manual_seed(1)
    ids_NK = torch.stack([torch.randperm(V, generator=generator)[:k].sort().values for _ in range(N)]).int()
    mass_NK = torch.softmax(torch.randn(N, k, generator=generator), 1)
    if sampled:
        return SparseRows(ids_NK, mass_NK, torch.zeros(N), V, sampled=True)
    return SparseRows(ids_NK, (0.98 * mass_NK).log(), torch.full((N,), 0.02).log(), V)
