"""`thack cache probe`: what each kind of target would keep, lose and cost, before anything is written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from thack.cache.capture.data import CaptureData, ListedSequences
from thack.cache.capture.preparation import capture_data, load_teacher, make_plan, student_head
from thack.cache.capture.scorer import Scorer
from thack.cache.format.layout import RecordLayout, bytes_per_token
from thack.cache.sizing.gradient_error import gradient_errors, hard_error, sample_rows
from thack.config import CacheSettings
from thack.config.specs import target_spec
from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError, ModelError, UsageError
from thack.models.batch import Batch
from thack.models.precision import inference_precision
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.progress import SILENT, Progress
from thack.schema.cache_size import CorpusSize, ProbeResult, Recommendation, TargetCost
from thack.schema.preflight import Finding
from thack.schema.targets import TargetSpec
from thack.targets.frozen_head import FrozenHead
from thack.targets.projected import teacher_logits
from thack.targets.shares import cell_findings, measured_cells, refusal
from thack.targets.vocabulary import log_probs

_SEQUENCES = 64
_TOP_K = (4, 16, 64, 256)
_SAMPLED = (4, 16, 64)
_USUAL_K = 64
_LOST_NATS = 0.02  # inside the tail: less than the noise of any metric
_MOVED = 0.05  # of the gradient error of a hard label: a record that moves it further is not one of a teacher
_DENSE_VOCABULARY = 4096  # with more ids, a dense record is larger than 16 KB
_MOST_TOKENS = 1e18
_STUDENT_TOKENS_PER_S = 100_000  # of one GPU in training: what a reader has to supply
_PROCESSES_PER_NODE = 8


def probe(
    settings: CacheSettings,
    *,
    tokens: float = 0,
    limit: int = _SEQUENCES,
    progress: Progress = SILENT,
    teacher: LanguageModel | None = None,
    sequences: Sequence[TokenSequence] | None = None,
) -> ProbeResult:
    """Score a sample of the data and compare the kinds of target. Nothing is written.

    Args:
        settings: of the capture; its kind of target is not used.
        tokens: response tokens of a corpus to size, up to 1e18; 0: those of the data.
        limit: sequences to score, ≥ 1.
        progress: shows what happens to the data.
        teacher: used instead of `settings.teacher`.
        sequences: used instead of `settings.data`.

    Returns:
        The mass, loss and size of each kind of target, and the recommended one.

    Raises:
        UsageError: `tokens` is out of range.

    Example:
        >>> probe(CacheSettings(), tokens=-1)
        Traceback (most recent call last):
        ...
        thack.errors.UsageError: tokens = -1: must be from 1 to 1e+18
          such as 1e12
    """
    if not 0 <= tokens <= _MOST_TOKENS:
        raise UsageError(f"tokens = {tokens:g}: must be from 1 to {_MOST_TOKENS:g}", hint="such as 1e12")
    teacher = teacher or load_teacher(settings, progress)
    data = capture_data(replace(settings, samples=1), teacher.tokenizer, sequences, progress)
    places = range(min(limit, len(data))) if settings.generate else _spread(len(data), limit)
    chosen = data.read(places)
    if settings.generate:
        chosen = _with_responses(settings, teacher, chosen, progress)
    started = time.perf_counter()
    log_p_NV, labels_N = _score(teacher, chosen, settings, progress)
    rate = len(log_p_NV) / (time.perf_counter() - started)
    mean_length = np.mean([len(s.response_ids) for s in chosen])
    total = int(tokens) if tokens else int(mean_length * len(data) * (settings.samples if settings.generate else 1))
    across = _of_student(settings, teacher, chosen)
    if across:  # its head has no rows for the teacher's ids
        settings = replace(settings, student="")
    head = _head(settings, teacher, log_p_NV.shape[1], progress)
    costs, hard = _measured(_costs(log_p_NV, teacher.tokenizer.size, total), log_p_NV, labels_N, head, settings)
    return ProbeResult(
        sampled_sequences=len(chosen),
        sampled_tokens=len(log_p_NV),
        entropy_nats=float(-(log_p_NV.exp() * log_p_NV.clamp_min(-1e4)).sum(1).mean()),
        corpus_tokens=total,
        rows=tuple(costs),
        recommended=recommend(costs, settings.epochs, teacher.tokenizer.size, hard),
        hard_gradient_error=hard,
        head="student" if settings.student else "teacher",
        epochs=settings.epochs,
        teacher_tokens_per_s=rate,
        sizing=tuple(_size(cost, total, rate, settings) for cost in costs),
        processes_per_node=_PROCESSES_PER_NODE,
        student_tokens_per_s=_STUDENT_TOKENS_PER_S,
        another_tokenizer=across,
    )


def _of_student(
    settings: CacheSettings, teacher: LanguageModel, sequences: Sequence[TokenSequence]
) -> tuple[Finding, ...]:
    """What another tokenizer costs, or why it is refused; nothing where it is the teacher's."""
    tokenizer = Tokenizer.load(Path(settings.student).expanduser()) if settings.student else teacher.tokenizer
    if tokenizer.fingerprint() == teacher.tokenizer.fingerprint():
        return ()
    try:
        precision = inference_precision(teacher, settings.dtype)
        return tuple(cell_findings(measured_cells(teacher, tokenizer, sequences, precision)))
    except MismatchError as error:
        return (refusal(error),)


def recommend(costs: Sequence[TargetCost], epochs: int, vocab_size: int, hard: float = 0.0) -> Recommendation:
    """The kind of target for a planned number of passes, and why.

    An unbiased sample is new noise if each position is used once; used again, it is noise that a student memorises. So
    several passes take top-k with its tail: 64 ids, or more where they lose more than `_LOST_NATS` inside the tail, or
    move the gradient by more than `_MOVED` of what the response token alone would. Where a student's head is known to
    stay frozen, its projection is taken if it moves the gradient less, or takes fewer bytes and moves it as little.

    Args:
        costs: of every kind.
        epochs: planned passes.
        vocab_size: of the teacher.
        hard: the gradient error of the response token alone; 0: it was not measured.
    """
    by_kind = {(cost.kind, cost.ids): cost for cost in costs}
    if epochs == 1 and ("sampled", 4) in by_kind:
        why = "each position is used once: unbiased, and the smallest"
        return Recommendation(kind="sampled", ids=4, why=why)
    enough = [by_kind["top-k", k] for k in _TOP_K if k >= _USUAL_K and ("top-k", k) in by_kind]
    within = [cost for cost in enough if cost.kl_lost <= _LOST_NATS and _is_small(cost, hard)]
    if vocab_size <= _DENSE_VOCABULARY:
        within = [by_kind["dense", vocab_size]]
    chosen = within[0] if within else enough[-1]
    frozen = next((cost for cost in costs if cost.kind == "projected"), None)
    if frozen is not None and _is_small(frozen, hard) and frozen.bytes_per_token < chosen.bytes_per_token:
        chosen = frozen
    if frozen is not None and not within and frozen.gradient_error < chosen.gradient_error:
        chosen = frozen
    return Recommendation(kind=chosen.kind, ids=chosen.ids, why=_why(chosen, hard))


def _is_small(cost: TargetCost, hard: float) -> bool:
    return not hard or cost.gradient_error <= _MOVED * hard


def _why(chosen: TargetCost, hard: float) -> str:
    if chosen.kind == "dense":
        return "a small vocabulary: the exact distribution"
    if chosen.kind == "projected":
        share = chosen.gradient_error / max(hard, 1e-30)
        return f"through the frozen head all of the distribution: {100 * share:.2g} % of a hard label's gradient error"
    return f"{chosen.ids} ids have {chosen.retained_mass:.1%} of the mass; that of the others is kept as one number"


def _head(settings: CacheSettings, teacher: LanguageModel, width: int, progress: Progress) -> FrozenHead | None:
    """The student's head, or the teacher's; None: neither is a plain product."""
    if settings.student:
        return student_head(settings, teacher, progress).to(torch.device("cpu"))
    with suppress(ModelError):
        return FrozenHead.of(teacher, width).to(torch.device("cpu"))
    return None


def _measured(
    costs: Sequence[TargetCost],
    log_p_NV: Tensor,
    labels_N: Tensor,
    head: FrozenHead | None,
    settings: CacheSettings,
) -> tuple[list[TargetCost], float]:
    """`costs` with their gradient errors, and a projected target where a student is named; and a hard label's error."""
    if head is None:
        return list(costs), 0.0
    width, vocab_size = head.weight_VH.shape[1], log_p_NV.shape[1]
    costs = list(costs)
    if settings.student:
        spec = target_spec(replace(settings, kind="projected"), width)
        stride = RecordLayout(spec=spec, vocab_size=vocab_size).bytes_per_token
        gigabytes = costs[-1].corpus_gb * (stride + 4) / (costs[-1].bytes_per_token + 4)
        costs.append(TargetCost(kind="projected", ids=width, bytes_per_token=stride, corpus_gb=gigabytes))
    specs = [
        target_spec(replace(settings, kind="projected"), width)
        if cost.kind == "projected"
        else TargetSpec(kind=cost.kind, k=0 if cost.kind == "dense" else cost.ids)
        for cost in costs
    ]
    rows = sample_rows(len(log_p_NV))
    errors = gradient_errors(log_p_NV[rows], head, specs)
    found = [replace(cost, gradient_error=error) for cost, error in zip(costs, errors, strict=True)]
    return found, hard_error(log_p_NV[rows], labels_N[rows], head)


def _score(
    teacher: LanguageModel, sequences: Sequence[TokenSequence], settings: CacheSettings, progress: Progress
) -> tuple[Tensor, Tensor]:
    """log p of every response token's distribution, in the precision of a capture; and the tokens."""
    precision = inference_precision(teacher, settings.dtype)
    found, labels = [], []
    scored = progress.task("probe", len(sequences), "sequences")
    with evaluating(teacher), torch.inference_mode(), scored as task:
        for part in by_length(sequences, settings.batch_size):
            batch = Batch.of(part, teacher.device).for_teacher()
            logits_NV = teacher_logits(teacher, batch, precision)
            found.append(log_probs(logits_NV, teacher.tokenizer.size).cpu())
            labels.append(batch.labels_N.cpu())
            task.advance(len(part))
    return torch.cat(found), torch.cat(labels)


def _with_responses(
    settings: CacheSettings, teacher: LanguageModel, prompts: Sequence[TokenSequence], progress: Progress
) -> list[TokenSequence]:
    settings = replace(settings, samples=1)
    plan = make_plan(settings, teacher, CaptureData(ListedSequences(prompts)))
    return Scorer(teacher, plan, settings).generate_responses(prompts, progress)


def _spread(count: int, limit: int) -> list[int]:
    """At most `limit` of `count` positions, evenly spread."""
    return [int(i) for i in np.linspace(0, count - 1, min(limit, count))]


def _costs(log_p_NV: Tensor, vocab_size: int, tokens: int) -> list[TargetCost]:
    descending_NV = torch.sort(log_p_NV.exp(), dim=1, descending=True).values
    costs = [_top_k(descending_NV, vocab_size, tokens, k) for k in _TOP_K if k <= vocab_size]
    costs += [_sampled(descending_NV, vocab_size, tokens, k) for k in _SAMPLED if k <= vocab_size]
    stride = bytes_per_token(TargetSpec(), vocab_size)
    dense = TargetCost(kind="dense", ids=vocab_size, bytes_per_token=stride, corpus_gb=_gigabytes(stride, tokens))
    return [*costs, dense]


def _top_k(descending_NV: Tensor, vocab_size: int, tokens: int, k: int) -> TargetCost:
    kept_N, tail_N = descending_NV[:, :k].sum(1), descending_NV[:, k:].sum(1)
    tail_NV = descending_NV[:, k:]
    even_N = tail_N * (max(1, vocab_size - k) / tail_N.clamp_min(1e-30)).log()  # Σ p log(1 / even share)
    lost_N = torch.special.xlogy(tail_NV, tail_NV).sum(1) + even_N
    stride = bytes_per_token(TargetSpec(kind="top-k", k=k), vocab_size)
    return TargetCost(
        kind="top-k",
        ids=k,
        retained_mass=float(kept_N.mean()),
        tail_mass=float(tail_N.mean()),
        kl_lost=float(lost_N.clamp_min(0).mean()),
        kl_renormalised=float(-kept_N.clamp(max=1).log().mean()),
        bytes_per_token=stride,
        corpus_gb=_gigabytes(stride, tokens),
    )


def _sampled(descending_NV: Tensor, vocab_size: int, tokens: int, k: int) -> TargetCost:
    tau_N = threshold(descending_NV, k)
    below = descending_NV < tau_N[:, None]
    noise_N = (descending_NV * (tau_N[:, None] - descending_NV)).where(below, torch.zeros(())).sum(1)
    stride = bytes_per_token(TargetSpec(kind="sampled", k=k), vocab_size)
    return TargetCost(
        kind="sampled",
        ids=k,
        noise=float(noise_N.mean()),
        bytes_per_token=stride,
        corpus_gb=_gigabytes(stride, tokens),
    )


def threshold(descending_NV: Tensor, k: int) -> Tensor:
    """tau_N with Σ_v min(1, p_v/τ) = k, from probabilities in descending order; 0 where fewer than k ids have mass.

    If h ids have p ≥ τ, then τ = (mass of the others) / (k − h): the first h for which no further id exceeds it.
    """
    tails_NK = descending_NV.flip(1).cumsum(1).flip(1)[:, :k]
    candidates_NK = tails_NK / torch.arange(k, 0, -1, dtype=descending_NV.dtype)
    fits_NK = descending_NV[:, :k] <= candidates_NK
    first_N = torch.where(fits_NK.any(1), fits_NK.int().argmax(1), torch.full((len(descending_NV),), k - 1))
    return candidates_NK.gather(1, first_N[:, None])[:, 0]


def _gigabytes(stride: int, tokens: int) -> float:
    return tokens * (stride + 4) / 1e9  # a record and the id of its token


def _size(cost: TargetCost, tokens: int, rate: float, settings: CacheSettings) -> CorpusSize:
    size = cost.bytes_per_token + 4
    shards = max(1, -(-tokens // settings.shard_tokens), -(-tokens * size // settings.shard_bytes))
    return CorpusSize(
        kind=cost.kind,
        ids=cost.ids,
        bytes=tokens * size,
        shards=shards,
        inodes=shards + 4,
        write_mb_per_s_per_node=_PROCESSES_PER_NODE * rate * size / 1e6,
        read_mb_per_s_per_gpu=_STUDENT_TOKENS_PER_S * size / 1e6,
        teacher_hours_per_process=tokens / rate / 3600,
    )
