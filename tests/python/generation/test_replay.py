"""Pitfall 17: a draw depends on (seed, epoch, example, sample, position), and on nothing else.

The model here looks its logits up, so that they are the same bits in every batch: only draws could differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thack import kernels
from thack.config import SamplingSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.generation import sampler
from thack.generation.sampler import GenerationRequest, generate
from thack.generation.sources import Mixture, Offline, Online

V, R = 264, 9
TOKENIZER = Tokenizer.train(["def read(path): read the file at path"] * 3, V)


class Looked:
    """A language model whose next logits are a row of a table, chosen by the last token."""

    tokenizer = TOKENIZER
    is_encoder_decoder = False
    routers = None
    vocab_size = TOKENIZER.size
    max_positions = 64
    training = False

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table_VV = torch.randn(TOKENIZER.size, TOKENIZER.size, generator=generator) * 2
        self.table_VV[:, TOKENIZER.eos_id] += 3.0  # about one in ten ends
        self.started: list[int] = []

    def eval(self) -> Looked:
        return self

    def train(self, mode: bool = True) -> Looked:
        return self

    def start(self, prompts: Sequence[np.ndarray], max_new_tokens: int) -> Looked:
        self.started.append(len(prompts))
        self.last_B = torch.tensor([int(p[-1]) for p in prompts])
        return self

    def logits(self) -> Tensor:
        return self.table_VV[self.last_B]

    def append(self, ids_B: Tensor) -> None:
        self.last_B = ids_B.long()

    def keep(self, rows: Tensor) -> None:
        self.last_B = self.last_B[rows]


def prompts(count: int = 23) -> list[TokenSequence]:
    rng = np.random.default_rng(3)
    return [
        TokenSequence(
            example=100 + i,
            prompt_id=f"p{i}",
            prompt_ids=rng.integers(2, TOKENIZER.size, int(rng.integers(1, 7))).astype(np.int32),
            response_ids=np.array([2, 0], np.int32),
        )
        for i in range(count)
    ]


REQUEST = GenerationRequest(sampling=SamplingSettings(), max_new_tokens=R, seed=5)


def online(batch_size: int = 256) -> Online:
    return Online(Looked(), prompts(), replace(REQUEST, batch_size=batch_size))  # type: ignore[arg-type]


def written(source: Any, positions: Sequence[int], epoch: int) -> dict[int, list[int]]:
    found = source.sequences(np.array(positions), epoch)
    return {i: s.response_ids.tolist() for i, s in zip(positions, found, strict=True)}


ALL = range(23)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 23])
def test_any_batch_size_writes_the_same(batch_size: int) -> None:
    assert written(online(batch_size), ALL, 2) == written(online(), ALL, 2)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_any_number_of_ranks_writes_the_same(world_size: int) -> None:
    parts: dict[int, list[int]] = {}
    for rank in range(world_size):
        parts |= written(online(), ALL[rank::world_size], 1)
    assert parts == written(online(), ALL, 1)


def test_any_order_and_any_point_of_resuming_writes_the_same() -> None:
    whole = written(online(), ALL, 0)
    backwards = written(online(), ALL[::-1], 0)
    resumed = online()
    later = written(resumed, ALL[11:], 0)
    assert backwards == whole and later == {i: whole[i] for i in ALL[11:]}
    assert resumed.generated_tokens == sum(len(ids) for ids in later.values())


def test_every_part_of_the_key_counts() -> None:
    """Another seed, epoch, prompt or sample draws other numbers; the same one draws the same."""
    texts = [p.prompt_ids for p in prompts()]
    examples = np.array([p.example for p in prompts()])

    def drawn(request: GenerationRequest, examples: np.ndarray, samples: int = 0) -> list[list[int]]:
        responses = generate(Looked(), texts, request, examples=examples, samples=samples)  # type: ignore[arg-type]
        return [ids.tolist() for ids in responses]

    first = drawn(REQUEST, examples)
    assert first == drawn(REQUEST, examples)
    others = {
        "seed": drawn(replace(REQUEST, seed=6), examples),
        "epoch": drawn(replace(REQUEST, epoch=2), examples),
        "sample": drawn(REQUEST, examples, samples=1),
        "example": drawn(REQUEST, examples + 1),
    }
    for changed, found in others.items():
        assert sum(a != b for a, b in zip(first, found, strict=True)) > 15, changed


def test_a_mixture_draws_what_its_parts_would() -> None:
    data = prompts()
    mixed = Mixture(Offline(data), online(), fraction=0.4, seed=9)
    fresh = mixed.is_online(np.arange(23), 3)
    assert fresh.sum() == round(0.4 * 23)
    found, alone = written(mixed, ALL, 3), written(online(), ALL, 3)
    for i in ALL:
        assert found[i] == (alone[i] if fresh[i] else data[i].response_ids.tolist())
    ranks = [written(Mixture(Offline(data), online(), fraction=0.4, seed=9), ALL[r::2], 3) for r in range(2)]
    assert ranks[0] | ranks[1] == found


def test_each_token_asks_for_its_own_number_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys passed to the kernel, row by row: the end of one response shifts no position of another."""
    seen: list[tuple[int, ...]] = []

    def spy(logits_BV: Tensor, **kwargs: Any) -> Tensor:
        seen.extend(map(tuple, kwargs["keys_N4"].tolist()))
        assert (kwargs["temperature"], kwargs["top_k"], kwargs["top_p"], kwargs["greedy"]) == (1.0, 0, 1.0, False)
        return kernels.sample(logits_BV, **kwargs)

    monkeypatch.setattr(sampler, "draw", spy)
    found = written(online(5), ALL, 4)
    needed = {(5, 100 + i, 0, t) for i, ids in found.items() for t in range(len(ids))}
    assert needed <= set(seen) and len(seen) == len(set(seen))


def test_pitfall_15_a_student_writes_in_eval_mode_and_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thack.config import ArchitectureSettings
    from thack.models.load import new_decoder

    settings = ArchitectureSettings(hidden_size=16, num_layers=1, num_heads=2, max_positions=32, dropout=0.9)
    student = new_decoder(settings, TOKENIZER, 0)
    modes: list[bool] = []
    student.blocks[0].register_forward_hook(lambda *_: modes.append(student.training))
    plain = student.start

    def start(*args: Any) -> Any:
        modes.append(student.training)
        return plain(*args)

    monkeypatch.setattr(student, "start", start)
    student.train()
    before = torch.random.get_rng_state()
    source = Online(student, prompts(4), replace(REQUEST, max_new_tokens=3))
    source.sequences(np.arange(4), 0)
    assert modes and not any(modes) and student.training
    assert torch.equal(before, torch.random.get_rng_state())


def test_draws_follow_the_prompt_not_its_place() -> None:
    """A data set that is cut or reordered keeps every prompt's response: `example` is the key."""
    some = [replace(p) for p in prompts()[5:12]][::-1]
    source = Online(Looked(), some, REQUEST)  # type: ignore[arg-type]
    whole = written(online(), ALL, 0)
    assert [s.response_ids.tolist() for s in source.sequences(np.arange(7), 0)] == [whole[i] for i in range(11, 4, -1)]


def test_a_prompt_that_occurs_twice_gets_two_responses() -> None:
    """As in a cache with several samples per prompt: both sequences are of one example."""
    twice = [replace(p, sample=sample, position=9) for p in prompts(8) for sample in (0, 1)]
    source = Online(Looked(), twice, REQUEST)  # type: ignore[arg-type]
    found = source.sequences(np.arange(16), 0)
    assert [s.sample for s in found] == [0, 1] * 8 and all(s.position is None for s in found)
    first, second = ([s.response_ids.tolist() for s in found[i::2]] for i in (0, 1))
    assert sum(a != b for a, b in zip(first, second, strict=True)) >= 7
    assert first == list(written(online(), range(8), 0).values())
    assert source.sequences(np.array([5]), 0)[0].response_ids.tolist() == second[2]
