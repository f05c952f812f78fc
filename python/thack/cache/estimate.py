"""What a capture will cost before it is begun: `--dry-run`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from thack.cache.capture import make_plan, numbered, read_data
from thack.cache.plan import Plan
from thack.cache.score import Numbered, Scorer
from thack.config.settings import CacheSettings
from thack.runtime.progress import SILENT, Progress
from thack.targets import TokenSequence

if TYPE_CHECKING:
    from thack.models.protocol import LanguageModel


def estimate(
    settings: CacheSettings,
    progress: Progress = SILENT,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
) -> dict[str, Any]:
    """Tokens, bytes, shards and seconds of a capture with these settings; nothing is written.

    Responses that are not written yet (`generate`) count with their largest length. Seconds come from
    scoring the batches of the middle of one shard, after a first one that does not count.
    """
    from thack.cache.capture import load_teacher

    teacher = teacher or load_teacher(settings)
    data = read_data(settings, teacher, progress) if sequences is None else sequences
    every = numbered(data, settings.samples if settings.generate else 1)
    plan = make_plan(settings, teacher, every)
    bound = settings.data.max_response_tokens
    tokens = bound * len(every) if settings.generate else sum(len(s.response_ids) for s in every)
    prompt_tokens = sum(len(s.prompt_ids) for s in every)
    rate = None if settings.generate else _rate(Scorer(teacher, plan, settings), plan, every)
    return {
        "out": str(Path(settings.out)),
        "sequences": len(every),
        "tokens": tokens,
        "is_upper_bound": settings.generate,
        "shards": plan.num_shards,
        "bytes_per_token": plan.record.stride,
        "bytes": tokens * (plan.record.stride + 4) + 4 * prompt_tokens + plan.num_shards * 8192,
        "tokens_per_s": rate,
        "seconds": None if rate is None else tokens / rate,
    }


def _rate(scorer: Scorer, plan: Plan, sequences: Sequence[TokenSequence]) -> float:
    """Response tokens scored, selected and packed per second."""
    from thack import _thack
    from thack.cache.pipeline import Packer

    shard = plan.shard(plan.num_shards // 2)
    batches: list[list[Numbered]] = list(scorer.batches([(i, sequences[i]) for i in shard]))
    middle = len(batches) // 2
    chosen = [batches[middle], *batches[max(0, middle - 4) : middle + 4]]
    with TemporaryDirectory(prefix="thack-") as scratch:
        writer = _thack.ShardWriter(Path(scratch) / "shard", plan.metadata(0))
        with Packer(writer, plan) as packer:
            packer.put(chosen[0], scorer.score(chosen[0]))
            started = time.perf_counter()
            for batch in chosen[1:]:
                packer.put(batch, scorer.score(batch))
        seconds = time.perf_counter() - started
        writer.abandon()
    return sum(len(s.response_ids) for batch in chosen[1:] for _, s in batch) / max(seconds, 1e-9)
