"""The order of a copy off the GPU, on a simulated device: nothing is read before the event of its stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thack.cache.capture import scorer
from thack.cache.capture.packer import Packer
from thack.cache.format.layout import RecordLayout
from thack.cache.format.plan import CachePlan, shard_path
from thack.schema.cache import Fingerprints
from thack.schema.targets import TargetSpec
from thack.targets.keys import row_keys
from thack.targets.types import TopKTarget

from .conftest import VOCAB, make_sequences

TEACHERS = torch.device("cuda", 1)  # the current device is cuda:0, the default


class Gpu:
    """Streams by device whose copies happen when an event of that stream is waited for, and not before."""

    def __init__(self) -> None:
        self.pending: dict[torch.device, list[Callable[[], object]]] = {}
        self.waits = 0

    def start_copy(self, value: torch.Tensor) -> torch.Tensor:
        buffer = torch.full_like(value, 77)
        self.pending.setdefault(TEACHERS, []).append(lambda: buffer.copy_(value))
        return buffer

    def current_stream(self, device: torch.device | None = None) -> torch.device:
        return device or torch.device("cuda", 0)

    def event(self, *, blocking: bool) -> Any:
        assert blocking, "a thread that waits must not take a core"
        gpu = self

        class Event:
            def record(self, stream: torch.device | None = None) -> None:
                stream = stream or gpu.current_stream()
                self.work = list(gpu.pending.get(stream, []))

            def synchronize(self) -> None:
                gpu.waits += 1
                for copy in self.work:
                    copy()

        return Event()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    simulated = Gpu()
    monkeypatch.setattr(scorer, "_start_copy", simulated.start_copy)
    monkeypatch.setattr(torch.cuda, "Event", simulated.event)
    monkeypatch.setattr(torch.cuda, "current_stream", simulated.current_stream)
    return simulated


def a_target(rows: int) -> TopKTarget:
    log_p = torch.log_softmax(torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(1)), 1)
    top = log_p.topk(4).indices.sort(1).values
    kept = log_p.gather(1, top)
    rest = log_p.scatter(1, top, float("-inf")).logsumexp(1)
    tails = {2.0: torch.log_softmax(log_p / 2, 1).scatter(1, top, float("-inf")).logsumexp(1)}
    return TopKTarget(ids_NK=top.int(), log_probs_NK=kept, log_tail_N=rest, vocab_size=VOCAB, log_tail_at=tails)


def test_records_are_packed_after_the_copy_and_not_before(gpu: Gpu, tmp_path: Path) -> None:
    sequences = make_sequences(6)
    keys = row_keys(sequences)
    target = a_target(len(keys))
    layout = RecordLayout(spec=TargetSpec(kind="top-k", k=4, temperatures=(2.0,)), vocab_size=VOCAB)
    plan = CachePlan(
        layout=layout,
        fingerprints=Fingerprints(teacher="sha256:x", tokenizer="sha256:x", data="sha256:x", settings="sha256:x"),
        firsts=(0, 6),
        batch_size=6,
        seed=0,
        samples=1,
        device="cuda",
        dtype="float32",
        threads=1,
        build="0",
    )
    written = []
    for name, scored in (
        ("gpu", scorer._off_the_gpu(target, keys, TEACHERS)),
        ("cpu", scorer.Scored(target, keys, None)),
    ):
        (tmp_path / name / "shards").mkdir(parents=True)
        with Packer(tmp_path / name, plan) as packer:
            packer.begin(0)
            packer.put([replace(s, position=i) for i, s in enumerate(sequences)], scored)
            packer.end()
        written.append(shard_path(tmp_path / name, 0).read_bytes())
    assert gpu.waits == 1 and written[0] == written[1]


def test_every_tensor_is_copied_and_none_is_there_before_the_wait(gpu: Gpu) -> None:
    target = a_target(5)
    scored = scorer._off_the_gpu(target, torch.empty(5, 4, dtype=torch.int64), TEACHERS)
    copied = scored.target
    assert isinstance(copied, TopKTarget) and copied.log_tail_N is not None
    every = [copied.ids_NK, copied.log_probs_NK, copied.log_tail_N, *copied.log_tail_at.values()]
    assert all((tensor == 77).all() for tensor in every) and len(gpu.pending[TEACHERS]) == len(every) == 4
    scored.wait()
    assert torch.equal(copied.ids_NK, target.ids_NK) and torch.equal(copied.log_tail_at[2.0], target.log_tail_at[2.0])
    assert not any((tensor == 77).any() for tensor in every)
