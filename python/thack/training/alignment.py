"""The alignment check: does row t of a cache predict token t? Before the first step, because nothing later notices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from thack.cache import Cache
from thack.data.sequence import TokenSequence
from thack.errors import CacheError
from thack.models.checkpoint import SAMPLED
from thack.targets.types import DenseTarget, SampledTarget, Target
from thack.training.prompts import cached_hashes, prompt_hashes

SHIFTS = (-1, 0, 1)
_SEQUENCES = 64
_MIN_HITS = 32  # rows whose kept ids include their token: fewer decide nothing
_CLEAR = 4.0  # standard errors by which a wrong shift must win


def check_alignment(cache: Cache, *, refuse: bool = True) -> str | None:
    """Compare the mean target mass on the actual token at shifts −1, 0 and +1, over the first sequences.

    Args:
        cache: From a capture or an import.
        refuse: False: a finding is returned instead of raised, for a user who knows the cache to be right.

    Returns:
        Why the check was skipped, or what it found without refusing; None if the rows are aligned.

    Raises:
        CacheError: the rows fit the text better one token earlier or later.
    """
    sequences, target = cache.targets(range(min(_SEQUENCES, len(cache))))
    captured = cache.meta.teacher.startswith(("sha256:", SAMPLED))
    try:
        return check_shifts(sequences, target, may_echo=captured)
    except CacheError as error:
        if refuse:
            raise
        return f"warning: {error.message}: {'; '.join(error.details)}"


def check_coverage(caches: Sequence[Cache], prompts: Iterable[TokenSequence]) -> None:
    """Raise CacheError unless one of the caches has a response to every one of these prompts.

    Of each cached prompt 8 bytes are in memory: a hash of its id.
    """
    cached = np.unique(np.concatenate([cached_hashes(cache) for cache in caches]))
    asked = lacking = 0
    missing: list[str] = []
    for s in prompts:
        asked += 1
        (wanted,) = prompt_hashes([s.prompt_id])
        place = np.searchsorted(cached, wanted)
        if place == len(cached) or cached[place] != wanted:
            lacking += 1
            missing += [s.prompt_id] if lacking <= 3 else []
    if lacking:
        names = ", ".join(missing) + (", …" if lacking > 3 else "")
        raise CacheError(
            f"the cache does not cover the data: {lacking:,} of {asked:,} prompts are not in it",
            details=(f"missing: {names}",),
            hint="cache this data, or leave out `data.path` to train on the whole cache",
        )


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
    ends = np.cumsum([len(s.response_ids) for s in sequences])
    labels = torch.from_numpy(np.concatenate([s.response_ids for s in sequences]).astype(np.int64))
    sequence_N = np.repeat(np.arange(len(sequences)), [len(s.response_ids) for s in sequences])
    rows = np.arange(int(ends[-1]))
    moved = rows + shift
    inside = (moved >= 0) & (moved < len(rows))
    inside[inside] = sequence_N[rows[inside]] == sequence_N[moved[inside]]
    if not inside.any():
        return np.zeros(1)
    mass_N = _mass(target, torch.from_numpy(rows[inside]), labels[torch.from_numpy(moved[inside])])
    return mass_N.double().numpy()


def _mass(target: Target, rows: Tensor, labels: Tensor) -> Tensor:
    if isinstance(target, DenseTarget):
        return target.log_probs_NV[rows, labels].exp()
    values = target.weights_NK if isinstance(target, SampledTarget) else target.log_probs_NK.exp()
    return torch.where(target.ids_NK[rows] == labels.unsqueeze(1), values[rows], 0).sum(dim=1)
