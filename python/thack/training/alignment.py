"""The alignment check: does row t of a cache predict token t? Before the first step, because nothing later notices.

Two questions. Does a row give its token the log-probability that the cache keeps beside the row (from format 1.1 on)?
That needs no statistics: a row that belongs to another token has another number. And do the rows fit their tokens
better than the tokens before and after? That also finds a source whose two numbers are shifted together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from thack.cache import Cache
from thack.data.sequence import TokenSequence
from thack.errors import CacheError
from thack.models.checkpoint import SAMPLED
from thack.targets.types import DenseTarget, FrozenHeadTarget, SampledTarget, Target, TopKTarget
from thack.training.prompts import PromptPlaces, cached_hashes

SHIFTS = (-1, 0, 1)
_SEQUENCES = 64
_MIN_HITS = 32  # rows whose kept ids include their token: fewer decide nothing
_CLEAR = 4.0  # standard errors by which a wrong shift must win
_FEW_OTHERS, _OTHERS = 2, 0.05  # rows, and their share, that may disagree with the log-probability kept beside them
_DEEPEST, _SPAN = -30.0, 40.0  # nats: below it is cut, and a record spans no more
_EXACT, _FLOAT = 0.02, 2e-3  # nats, rows that an import scales to a mass of 1 among them; a share, of 16-bit floats
_WIDEST_STEP = 1.5 / 127 * 0.6  # of a record's span: a little more than half a step at 7 bits
_WIDEST_LEVEL = 29 / 225 + 1e-3  # of the distance from τ to the largest weight: the last step of its code


def check_alignment(cache: Cache, *, refuse: bool = True) -> str | None:
    """Compare the first sequences with their tokens: by the log-probabilities kept of them, and at shifts −1, 0 and +1.

    Args:
        cache: From a capture or an import.
        refuse: False: a finding is returned instead of raised, for a user who knows the cache to be right.

    Returns:
        Why the check was skipped, or what it found without refusing; None if the rows are aligned.

    Raises:
        CacheError: rows and kept log-probabilities disagree, or the rows fit the text better one token earlier or
            later.
    """
    sequences, target = cache.targets(range(min(_SEQUENCES, len(cache))))
    if isinstance(target, FrozenHeadTarget):
        return "alignment check skipped: projected records do not say what they give to a token"
    captured = cache.meta.teacher.startswith(("sha256:", SAMPLED))
    try:
        check_realised(sequences, target)
        return check_shifts(sequences, target, may_echo=captured)
    except CacheError as error:
        if refuse:
            raise
        return f"warning: {error.message}: {'; '.join(error.details)}"


def check_coverage(caches: Sequence[Cache], prompts: Iterable[TokenSequence]) -> None:
    """Raise CacheError unless one of the caches has a response to every one of these prompts.

    Of each cached prompt 16 bytes are in memory (`PromptPlaces`).
    """
    cached = PromptPlaces(np.unique(np.concatenate([cached_hashes(cache) for cache in caches])))
    asked = lacking = 0
    missing: list[str] = []
    for s in prompts:
        asked += 1
        if cached.of([s.prompt_id])[0] < 0:
            lacking += 1
            missing += [s.prompt_id] if lacking <= 3 else []
    if lacking:
        names = ", ".join(missing) + (", …" if lacking > 3 else "")
        raise CacheError(
            f"the cache does not cover the data: {lacking:,} of {asked:,} prompts are not in it",
            details=(f"missing: {names}",),
            hint="cache this data, or leave out `data.path` to train on the whole cache",
        )


def check_realised(sequences: Sequence[TokenSequence], target: Target) -> None:
    """See that rows whose kept ids include their token give it the log-probability that is kept beside them.

    Raises:
        CacheError: too many rows give another one; says at which shift they would agree.
    """
    if target.realised_logprob_N is None:
        return
    agreeing = {shift: _agreeing(sequences, target, shift) for shift in SHIFTS}
    agree, compared = agreeing[0]
    if compared - agree <= max(_FEW_OTHERS, _OTHERS * compared):
        return
    raise CacheError(
        "the cache's rows are not those of its tokens: the log-probabilities kept beside them are others",
        details=[f"rows that agree at shift {s:+d}: {some:,} of {of:,}" for s, (some, of) in agreeing.items()],
        hint="row t must be the distribution that predicts response token t: write the cache again, "
        "or set `check_alignment = false` if you know that it is right",
    )


def _agreeing(sequences: Sequence[TokenSequence], target: Target, shift: int) -> tuple[int, int]:
    """Of the rows t that keep token t + shift, how many give it the log-probability kept beside it; and all of them."""
    rows, labels = _moved(sequences, shift)
    assert target.realised_logprob_N is not None
    realised_N = target.realised_logprob_N[rows + shift].double()
    mass_N = _mass(target, rows, labels).double()
    low_N, high_N = _bounds(target, rows, mass_N)
    is_compared_N = (mass_N > 0) & torch.isfinite(realised_N) & (realised_N > _DEEPEST)
    agrees_N = (low_N <= realised_N) & (realised_N <= high_N)
    return int((agrees_N & is_compared_N).sum()), int(is_compared_N.sum())


def _bounds(target: Target, rows: Tensor, mass_N: Tensor) -> tuple[Tensor, Tensor]:
    """Between which log-probabilities a token is whose stored mass is `mass_N`, by the rounding of records."""
    if isinstance(target, SampledTarget):
        tau_N, largest_N = target.tau_N[rows].double(), target.weights_NK[rows].amax(dim=1).double()
        level_N = (largest_N - tau_N) * _WIDEST_LEVEL + _FLOAT * largest_N
        low_N = (mass_N - level_N).clamp_min(0).log()
        # An id that was drawn weighs τ, and has any probability below.
        return torch.where(mass_N <= tau_N, -torch.inf, low_N), (mass_N + level_N).log()
    spread_N = torch.zeros_like(mass_N)
    if isinstance(target, TopKTarget):
        log_probs_NK = target.log_probs_NK[rows].double()
        lowest_N = torch.where(torch.isfinite(log_probs_NK), log_probs_NK, torch.inf).amin(dim=1)
        spread_N = (log_probs_NK.amax(dim=1) - lowest_N).clamp(0, _SPAN)
    error_N = _EXACT + _WIDEST_STEP * spread_N + _FLOAT * mass_N.log().abs()
    return mass_N.log() - error_N, mass_N.log() + error_N


def check_shifts(sequences: Sequence[TokenSequence], target: Target, *, may_echo: bool = False) -> str | None:
    """`check_alignment` on given targets.

    `may_echo`: the rows were captured by thack, so one token earlier means a teacher that repeats what it has read, as
    untrained models with a tied head do. An import with the same numbers is more likely to be off by one.
    """
    masses = [_mass_at(sequences, target, shift) for shift in SHIFTS]
    hits = max(int((mass_N > 0).sum()) for mass_N in masses)
    if hits < _MIN_HITS:
        return f"alignment check skipped: only {hits} rows have their token among the kept ids"
    means = [float(mass_N.mean()) for mass_N in masses]
    best = int(np.argmax(means))
    here = SHIFTS.index(0)
    if best == here:
        return None
    noise = float(np.hypot(*(mass_N.std() / len(mass_N) ** 0.5 for mass_N in (masses[best], masses[here]))))
    if means[best] - means[here] < _CLEAR * noise:
        return "alignment check skipped: the teacher's entropy is too high to tell the shifts apart"
    if may_echo and SHIFTS[best] == -1:
        return "warning: the teacher gives more mass to the token it has just read than to the next one; is it trained?"
    raise CacheError(
        f"the cache's rows are off by {SHIFTS[best]:+d} token",
        details=[f"mean mass on the token at shift {s:+d}: {m:.4f}" for s, m in zip(SHIFTS, means, strict=True)],
        hint="row t must be the distribution that predicts response token t: write the cache again, "
        "or set `check_alignment = false` if you know that it is right",
    )


def _mass_at(sequences: Sequence[TokenSequence], target: Target, shift: int) -> np.ndarray:
    """mass_N: what row t gives to token t + shift, for every t where both lie in one response."""
    rows, labels = _moved(sequences, shift)
    return _mass(target, rows, labels).double().numpy() if len(rows) else np.zeros(1)


def _moved(sequences: Sequence[TokenSequence], shift: int) -> tuple[Tensor, Tensor]:
    """int64: every row t for which token t + shift lies in the same response, and that token."""
    labels_N = np.concatenate([s.response_ids for s in sequences]).astype(np.int64)
    sequence_N = np.repeat(np.arange(len(sequences)), [len(s.response_ids) for s in sequences])
    rows = np.arange(len(labels_N))
    moved = rows + shift
    inside = (moved >= 0) & (moved < len(rows))
    inside[inside] = sequence_N[rows[inside]] == sequence_N[moved[inside]]
    return torch.from_numpy(rows[inside]), torch.from_numpy(labels_N[moved[inside]])


def _mass(target: Target, rows: Tensor, labels: Tensor) -> Tensor:
    if isinstance(target, DenseTarget):
        return target.log_probs_NV[rows, labels].exp()
    assert not isinstance(target, FrozenHeadTarget), "not compared"
    values = target.weights_NK if isinstance(target, SampledTarget) else target.log_probs_NK.exp()
    return torch.where(target.ids_NK[rows] == labels.unsqueeze(1), values[rows], 0).sum(dim=1)
