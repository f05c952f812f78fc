"""What a capture will cost before it is begun: `thack cache-logits --dry-run`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from thack.cache.capture.data import CaptureData
from thack.cache.capture.packer import Packer
from thack.cache.capture.preparation import capture_data, frozen_head, load_teacher, make_plan
from thack.cache.capture.scorer import Scorer
from thack.cache.format.plan import SHARDS, CachePlan
from thack.config import CacheSettings
from thack.data.lengths import response_limit
from thack.data.sequence import TokenSequence
from thack.models.protocol import LanguageModel
from thack.runtime.progress import SILENT, Progress
from thack.schema.cache_size import CaptureEstimate

_BATCHES = 8
_FRAME_BYTES = 8192  # of a shard, besides its records and ids


def estimate(
    settings: CacheSettings,
    progress: Progress = SILENT,
    *,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
) -> CaptureEstimate:
    """Tokens, bytes, shards and seconds of a capture with these settings. Nothing is written into `settings.out`.

    Responses that are not generated yet count with their largest length. Their mean length, and the seconds, come from
    a few batches of the middle of one shard.

    Args:
        settings: of the capture.
        progress: shows what happens to the data.
        teacher: used instead of `settings.teacher`.
        sequences: used instead of `settings.data`.

    Returns:
        The estimate.

    Raises:
        UsageError: the data has no sequence, or the settings contradict each other.
    """
    teacher = teacher or load_teacher(settings, progress)
    stored = capture_data(settings, teacher.tokenizer, sequences, progress)
    head = frozen_head(settings, teacher, progress)
    plan = make_plan(settings, teacher, stored, head=head)
    longest = response_limit(settings.data)
    prompt_tokens, tokens = (int(n) for n in sum(part.sum(axis=0) for part in stored.lengths()))
    tokens = longest * len(stored) if settings.generate else tokens
    rate, mean = _rate(Scorer(teacher, plan, settings, head), plan, stored, progress)
    expected = round(mean * len(stored)) if settings.generate else tokens
    stride = plan.bytes_per_token
    return CaptureEstimate(
        out=str(Path(settings.out)),
        sequences=len(stored),
        tokens=tokens,
        is_upper_bound=settings.generate,
        expected_tokens=expected,
        shards=plan.num_shards,
        bytes_per_token=stride,
        bytes=tokens * (stride + 4) + 4 * prompt_tokens + plan.num_shards * _FRAME_BYTES,
        tokens_per_s=rate,
        seconds=expected / rate,
    )


def _rate(scorer: Scorer, plan: CachePlan, data: CaptureData, progress: Progress) -> tuple[float, float]:
    """Response tokens per second that this process generates, scores, selects and packs; and per sequence."""
    positions = plan.shard(plan.num_shards // 2)
    middle = (positions.start + positions.stop) // 2
    reach = max(1, _BATCHES * plan.batch_size // 2)
    chosen = data.read([i for i in positions if middle - reach <= i < middle + reach])
    started = time.perf_counter()
    if generates := any(len(s.response_ids) == 0 for s in chosen):
        chosen = scorer.generate_responses(chosen, progress)
    batches = list(scorer.batches(chosen))
    with TemporaryDirectory(prefix="thack-") as scratch:
        (Path(scratch) / SHARDS).mkdir()
        with Packer(Path(scratch), plan) as packer:
            packer.begin(0)
            if not generates:
                packer.put(batches[0], scorer.score(batches[0]))  # the first one warms up
                started = time.perf_counter()
            for batch in batches:
                packer.put(batch, scorer.score(batch))
        seconds = time.perf_counter() - started
    tokens = sum(len(s.response_ids) for s in chosen)
    return tokens / max(seconds, 1e-9), tokens / len(chosen)
