"""Cases of docs/reference/pitfalls.md that have no other home; the page names every test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack import kernels
from thack.config import ArchitectureSettings, LossSettings
from thack.config.specs import divergence_of, loss_terms
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.losses import cross_entropy, divergence, forward_kl
from thack.losses.fused import fused_divergence
from thack.models.batch import Batch
from thack.models.load import new_decoder
from thack.schema.targets import Divergence
from thack.targets import Projection
from thack.targets.types import SampledTarget, TopKTarget

from . import reference


def top_k(log_p: Tensor, k: int, temperatures: tuple[float, ...] = ()) -> TopKTarget:
    ids = log_p.topk(k, dim=1).indices.sort(dim=1).values
    outside = log_p.scatter(1, ids, float("-inf"))
    return TopKTarget(
        ids_NK=ids.int(),
        log_probs_NK=log_p.gather(1, ids).float(),
        log_tail_N=outside.logsumexp(1).float(),
        vocab_size=log_p.shape[1],
        log_tail_at={t: (outside / t).logsumexp(1).float() for t in temperatures},
    )


def teacher_row(seed: int = 0, vocab: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(1, vocab, generator=generator, dtype=torch.float64) * 1.5, 1)


def optimum(loss: Any, vocab: int = 60, steps: int = 400) -> Tensor:
    """q at the minimum of `loss` over all distributions, from flat."""
    z = torch.zeros(1, vocab, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(z).sum().backward()
        optimizer.step()
    return torch.softmax(z.detach().double(), 1)


def test_the_optimum_keeps_the_kept_ids_and_only_flattens_the_tail() -> None:
    log_p = teacher_row()
    p, target = log_p.exp(), top_k(log_p, 8)
    kept = target.ids_NK.long()
    bucketed = optimum(lambda z: forward_kl(z, target))
    torch.testing.assert_close(bucketed.gather(1, kept), p.gather(1, kept), atol=2e-3, rtol=0)
    # Renormalised: the kept ids take the tail's mass too.
    scaled = torch.zeros_like(p).scatter(1, kept, p.gather(1, kept) / p.gather(1, kept).sum())
    renormalised = optimum(lambda z: -(scaled * torch.log_softmax(z, 1)).sum(1))
    assert renormalised.gather(1, kept).sum() > 0.98 > p.gather(1, kept).sum() + 0.1
    assert reference.kl(p, bucketed) < 0.5 * reference.kl(p, renormalised)
    # Raw: below zero at a student with all mass on the kept ids, which ours never is.
    raw = (p * (log_p - scaled.clamp_min(1e-30).log())).gather(1, kept).sum()
    assert raw < 0 <= forward_kl(scaled.clamp_min(1e-9).log().float(), target).item()


@pytest.mark.parametrize("tail", [1e-3, 1e-5, 1e-7, 1e-12, 1e-25])
def test_small_tails_are_right_to_the_last_digits(tail: float) -> None:
    """1 − Σq in float32 has lost a tail of 1e-7 altogether."""

    def row(mass: float) -> Tensor:
        rest = torch.full((1, 30), mass / 30, dtype=torch.float64)
        return torch.cat([torch.tensor([[0.6, 0.4]], dtype=torch.float64) * (1 - mass), rest], 1).log()

    target, z = top_k(row(tail), 2), row(tail * 10).float().requires_grad_()
    loss = divergence(z, target, Divergence(kind="reverse_kl"))
    exact = row(tail * 10).requires_grad_()
    expected = reference.bucketed("reverse_kl", exact, row(tail), target.ids_NK)
    loss.sum().backward()
    expected.sum().backward()
    assert z.grad is not None and exact.grad is not None
    torch.testing.assert_close(z.grad[:, 2:].double(), exact.grad[:, 2:], rtol=1e-3, atol=1e-35)
    # Its slope by log u: 1 − Σ would have made it 0 or noise.
    assert (z.grad[:, 2:] > 0).all()


@pytest.mark.parametrize("fused", [False, True])
def test_the_directional_derivative_is_the_gradient_at_any_temperature(fused: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    log_p = torch.log_softmax(torch.randn(5, 40, generator=generator, dtype=torch.float64) * 2, 1)
    target = top_k(log_p, 6, (2.0,))
    settings, labels = LossSettings(temperature=2.0, divergence="jsd"), torch.zeros(5, dtype=torch.int64)
    hidden, way = (torch.randn(5, 40, generator=generator) for _ in range(2))

    def loss(x: Tensor) -> Tensor:
        if fused:
            return fused_divergence(x, Projection(weight_VH=torch.eye(40)), target, labels, settings, chunk=2)
        return divergence(x, target, divergence_of(settings)).sum()

    leaf = hidden.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    slope = (loss(hidden + 1e-2 * way) - loss(hidden - 1e-2 * way)) / 2e-2
    assert (slope / (leaf.grad * way).sum()).item() == pytest.approx(1.0, abs=5e-3)


def decoder() -> Any:
    tokenizer = Tokenizer.train(["def read(path): read the file at path"] * 3, 264)
    settings = ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2, max_positions=32)
    return new_decoder(settings, tokenizer, 0)


def sequence(prompt: list[int], response: list[int]) -> TokenSequence:
    ids = (np.array(prompt, np.int32), np.array(response, np.int32))
    return TokenSequence(example=0, prompt_id="p", prompt_ids=ids[0], response_ids=ids[1])


def test_the_rows_are_the_response_tokens_and_no_others() -> None:
    """What others write as labels [-100, 5, 2]: two rows, which predict 5 and 2."""
    model = decoder()
    batch = Batch.of([sequence([7], [5, 2])])
    logits = model(batch)
    assert batch.labels_N.tolist() == [5, 2] and len(logits) == 2
    by_hand = -torch.log_softmax(logits, 1)[torch.arange(2), torch.tensor([5, 2])]
    torch.testing.assert_close(cross_entropy(logits, batch.labels_N), by_hand)
    moved = logits.detach().clone()
    moved[0, 5] += 1.0  # one entry, not a whole row
    assert (cross_entropy(moved, batch.labels_N) != by_hand).tolist() == [True, False]


def test_an_eos_that_is_also_the_padding_is_learned() -> None:
    model = decoder()
    eos = model.tokenizer.eos_id
    batch = Batch.of([sequence([7, 8], [5, eos]), sequence([9, eos, 8, 7, 6], [eos, 3, 4, 5, eos])])
    layout = batch.causal(eos)
    assert batch.labels_N.tolist() == [5, eos, eos, 3, 4, 5, eos]
    assert layout.lengths_B.tolist() == [3, 9]
    logits = model(batch)
    logits.retain_grad()
    cross_entropy(logits, batch.labels_N).sum().backward()
    assert (logits.grad[batch.labels_N == eos, eos] < 0).all()  # pulled towards it


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation"])
def test_impossible_tokens_leave_sparse_gradients_finite(kind: Any) -> None:
    """A student that forbids ids in the tail, and a teacher whose kept ids have no mass."""
    log_p = torch.log_softmax(torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), 1)
    target = top_k(log_p, 4)
    target.log_probs_NK[1, 2] = float("-inf")
    kept = set(target.ids_NK.flatten().tolist())
    forbidden = next(v for v in range(20) if v not in kept)
    for dtype in (torch.float32, torch.float64):
        z = torch.randn(3, 20, generator=torch.Generator().manual_seed(3)).to(dtype)
        z[:, forbidden] = float("-inf")
        if kind == "reverse_kl":  # infinite where the teacher has nothing and the student something
            z[1, target.ids_NK[1, 2].long()] = float("-inf")
        from thack.losses.rows import replace_by_gradient

        loss = replace_by_gradient(
            z, target, torch.zeros(3, dtype=torch.int64), loss_terms(LossSettings(divergence=kind))
        )
        assert torch.isfinite(loss).all() and torch.isfinite(z).all()
        assert (z[:, forbidden] == 0).all()


def test_ids_beyond_the_common_width_get_nothing() -> None:
    """A head padded from 40 to 48 rows: no mass there, no gradient, and no zeros in their place."""
    generator = torch.Generator().manual_seed(4)
    hidden, weight = torch.randn(6, 8, generator=generator), torch.randn(48, 8, generator=generator)
    target = top_k(torch.log_softmax(torch.randn(6, 40, generator=generator, dtype=torch.float64), 1), 5)
    labels = torch.zeros(6, dtype=torch.int64)
    padded, cut = weight.clone().requires_grad_(), weight[:40].clone().requires_grad_()
    one = fused_divergence(hidden, Projection(weight_VH=padded), target, labels, LossSettings(), width=40)
    other = fused_divergence(hidden, Projection(weight_VH=cut), target, labels, LossSettings())
    one.backward()
    other.backward()
    assert padded.grad is not None and cut.grad is not None
    assert torch.equal(one, other) and torch.equal(padded.grad[:40], cut.grad)
    assert (padded.grad[40:] == 0).all()


def test_ids_above_17_bits_and_at_powers_of_two_hit_their_own_logit() -> None:
    vocab, ids = 151_936, [65_535, 65_536, 131_071, 131_072, 151_643, 151_935]
    target = SampledTarget(
        ids_NK=torch.tensor([ids], dtype=torch.int32), weights_NK=torch.full((1, 6), 1 / 6),
        counts_N=torch.tensor([6], dtype=torch.int32), tau_N=torch.tensor([0.1]), entropy_N=torch.zeros(1),
        vocab_size=vocab,
    )  # fmt: skip
    z = torch.zeros(1, vocab, requires_grad=True)
    forward_kl(z, target).sum().backward()
    assert z.grad is not None
    assert (z.grad[0] < 0).nonzero().flatten().tolist() == ids


def test_flat_rows_of_a_large_vocabulary_are_drawn_to_their_end() -> None:
    """A cumulative sum in bfloat16 stops growing after a few hundred ids; a uniform of 1.0 takes the last one."""
    vocab, draws = 50_000, 400
    logits = torch.zeros(draws, vocab, dtype=torch.bfloat16)
    keys = torch.zeros(draws, 4, dtype=torch.int64)
    keys[:, 3] = torch.arange(draws)
    drawn = kernels.sample(logits, seed=3, keys_N4=keys).double()
    assert drawn.max() < vocab and (drawn / vocab).mean().item() == pytest.approx(0.5, abs=0.06)
    counts = torch.histc(drawn, bins=4, min=0, max=vocab)
    assert (counts > draws / 8).all()
