"""What a capture will cost before it is begun: the dry run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from thack.cache.capture.job import make_plan, numbered, read_data
from thack.cache.capture.score import Scorer
from thack.cache.format.plan import SHARDS, Plan
from thack.config import CacheSettings
from thack.data.sequence import TokenSequence
from thack.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from thack.models.protocol import LanguageModel


_BATCHES = 8


def estimate(
    settings: CacheSettings,
    progress: Progress = SILENT,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
) -> dict[str, Any]:
    """Tokens, bytes, shards and seconds of a capture with these settings; nothing is written.

    Responses that are not written yet (`generate`) count with their largest length; how long they will be
    on average, and the seconds, come from a few batches of the middle of one shard.
    """
    from thack.cache.capture.job import load_teacher

    teacher = teacher or load_teacher(settings)
    data = read_data(settings, teacher, progress) if sequences is None else sequences
    every = numbered(data, settings.samples if settings.generate else 1)
    plan = make_plan(settings, teacher, every)
    bound = settings.data.max_response_tokens
    tokens = bound * len(every) if settings.generate else sum(len(s.response_ids) for s in every)
    prompt_tokens = sum(len(s.prompt_ids) for s in every)
    rate, mean = _rate(Scorer(teacher, plan, settings), plan, every, progress)
    expected = round(mean * len(every)) if settings.generate else tokens
    return {
        "out": str(Path(settings.out)),
        "sequences": len(every),
        "tokens": tokens,
        "is_upper_bound": settings.generate,
        "expected_tokens": expected,
        "shards": plan.num_shards,
        "bytes_per_token": plan.layout.stride,
        "bytes": tokens * (plan.layout.stride + 4) + 4 * prompt_tokens + plan.num_shards * 8192,
        "tokens_per_s": rate,
        "seconds": expected / rate,
    }


def _rate(scorer: Scorer, plan: Plan, sequences: Sequence[TokenSequence], progress: Progress) -> tuple[float, float]:
    """Response tokens written, scored, selected and packed per second by this process; and per sequence."""
    from thack.cache.capture.packer import Packer

    numbers = plan.shard(plan.num_shards // 2)
    middle = (numbers.start + numbers.stop) // 2
    reach = max(1, _BATCHES * plan.batch_size // 2)
    chosen = [(i, sequences[i]) for i in numbers if middle - reach <= i < middle + reach]
    started = time.perf_counter()
    if writes := any(len(s.response_ids) == 0 for _, s in chosen):
        chosen = scorer.write_responses(chosen, progress)
    batches = list(scorer.batches(chosen))
    with TemporaryDirectory(prefix="thack-") as scratch:
        (Path(scratch) / SHARDS).mkdir()
        with Packer(Path(scratch), plan) as packer:
            packer.begin(0)
            if not writes:
                packer.put(batches[0], scorer.score(batches[0]))  # the first one warms up
                started = time.perf_counter()
            for batch in batches:
                packer.put(batch, scorer.score(batch))
        seconds = time.perf_counter() - started
    tokens = sum(len(s.response_ids) for _, s in chosen)
    return tokens / max(seconds, 1e-9), tokens / len(chosen)
