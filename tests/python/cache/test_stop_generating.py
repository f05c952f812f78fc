"""A signal while a shard's responses are generated ends the capture at once, and the finished shards are kept."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thack.cache import Cache
from thack.cache.capture.job import capture
from thack.cache.capture.scorer import Scorer
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence
from thack.errors import Interrupted, Preempted
from thack.runtime import preemption
from training.small import model
from training.world import DATA, records, write


@pytest.mark.parametrize(("name", "error"), [("SIGTERM", Preempted), ("SIGINT", Interrupted)])
def test_a_stop_ends_the_generation_of_a_shard(
    name: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model().save(tmp_path / "teacher")
    data = replace(DATA, path=str(write(tmp_path / "prompts.jsonl", records(10))))
    settings = CacheSettings(
        out=tmp_path / "cache", teacher=str(tmp_path / "teacher"), data=data, kind="dense", generate=True,
        shard_tokens=20, device="cpu",
    )  # fmt: skip
    real, calls = Scorer.generate_responses, []

    def generate(self: Scorer, sequences: Sequence[TokenSequence], *rest: Any) -> list[TokenSequence]:
        calls.append(len(sequences))
        if len(calls) == 2:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(1)  # Python answers a signal at its next look, at the latest here
            calls.append(-1)  # a flag that is read between batches would come this far
        return real(self, sequences, *rest)

    monkeypatch.setattr(preemption._process, "raised_at", -60.0)  # a signal just after another is one with it
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "generate_responses", generate)
        with pytest.raises(error, match=f"stopped by {'Ctrl-C' if name == 'SIGINT' else name}") as stopped:
            capture(settings)
    assert -1 not in calls and "the finished shards" in str(stopped.value)
    assert len(list((tmp_path / "cache/shards").glob("shard-*.safetensors"))) == 1
    assert len(Cache.open(capture(settings))) == 10
