"""Do the teacher's rows predict the responses? Measured on a few of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from thack.data.sequence import TokenSequence
from thack.errors import ModelError
from thack.models.batch import Batch
from thack.models.precision import Precision
from thack.models.protocol import LanguageModel, evaluating
from thack.schema.preflight import TeacherFit
from thack.targets.projected import teacher_logits
from thack.training.alignment import SHIFTS

_PROMPT_TOKENS, _RESPONSE_TOKENS = 768, 256  # of each sequence at most: a check must not take minutes
_HIGHEST_NLL = 1e3  # stands for an id that the teacher excludes


def teacher_fit(teacher: LanguageModel, sequences: Sequence[TokenSequence], precision: Precision) -> TeacherFit | None:
    """The teacher's negative log-likelihood of the responses, in place, shifted, and behind other prompts.

    Args:
        teacher: scores one sequence at a time.
        sequences: with responses; long ones are cut.
        precision: of the teacher's products.

    Returns:
        The means; None where no response has three tokens.
    """
    cut = [_cut(s, teacher) for s in sequences if len(s.response_ids)]
    with evaluating(teacher):
        scores = [_score(teacher, s, precision) for s in cut]
        shifted = [score.shifted_S for score in scores if score.shifted_S is not None]
        if not shifted:
            return None
        shuffled = [_score(teacher, s, precision).matched for s in _behind_other_prompts(cut)]
    nll_NS = np.concatenate(shifted)
    means = nll_NS.mean(axis=0)
    here = SHIFTS.index(0)
    best = min((i for i in range(len(SHIFTS)) if i != here), key=lambda i: means[i])
    matched_B = np.array([score.matched for score in scores])
    rise_B = np.array(shuffled) - matched_B if shuffled else None
    return TeacherFit(
        sequences=len(scores),
        tokens=sum(score.tokens for score in scores),
        shifts={f"{shift:+d}" if shift else "0": float(mean) for shift, mean in zip(SHIFTS, means, strict=True)},
        error=_standard_error(nll_NS[:, best] - nll_NS[:, here]),
        matched=float(matched_B.mean()),
        shuffled=float(np.mean(shuffled)) if shuffled else None,
        rise_error=0.0 if rise_B is None else _standard_error(rise_B),
        entropy=_mean(scores, [score.entropy for score in scores]),
        padded_mass=_mean(scores, [score.padded_mass for score in scores]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Score:
    tokens: int
    matched: float  # mean over the response
    shifted_S: np.ndarray | None  # [rows, shifts], of the rows with a token on either side
    entropy: float
    padded_mass: float


def _mean(scores: Sequence[_Score], values: Sequence[float]) -> float:
    """Over all tokens."""
    return float(np.average(values, weights=[score.tokens for score in scores]))


def _score(teacher: LanguageModel, sequence: TokenSequence, precision: Precision) -> _Score:
    batch = Batch.of([sequence], teacher.device).for_teacher()
    logits_NV = teacher_logits(teacher, batch, precision).float()
    if torch.isnan(logits_NV).any():
        raise ModelError(f"the teacher's logits hold NaN (prompt {sequence.prompt_id})", hint="check its weights")
    log_probs_NV = torch.log_softmax(logits_NV, dim=1).clamp(min=-_HIGHEST_NLL)
    labels_N = batch.labels_N
    inner_N = torch.arange(len(labels_N), device=labels_N.device)[1:-1]
    shifted = [-log_probs_NV[inner_N, labels_N[inner_N + shift]] for shift in SHIFTS] if len(inner_N) else []
    return _Score(
        tokens=len(labels_N),
        matched=float(_label_nll(log_probs_NV, labels_N).mean()),
        shifted_S=torch.stack(shifted, dim=1).double().cpu().numpy() if shifted else None,
        entropy=float(-(log_probs_NV.exp() * log_probs_NV).sum(dim=1).mean()),
        padded_mass=float(log_probs_NV[:, teacher.tokenizer.size :].exp().sum(dim=1).mean()),
    )


def _label_nll(log_probs_NV: Tensor, labels_N: Tensor) -> Tensor:
    return -log_probs_NV.gather(1, labels_N.unsqueeze(1))[:, 0]


def _cut(sequence: TokenSequence, teacher: LanguageModel) -> TokenSequence:
    """The end of the prompt and the beginning of the response, within the model's positions."""
    response = sequence.response_ids[: min(_RESPONSE_TOKENS, max(teacher.max_positions // 2, 1))]
    room = min(_PROMPT_TOKENS, max(teacher.max_positions - len(response), 1))
    return replace(sequence, prompt_ids=sequence.prompt_ids[-room:], response_ids=response)


def _behind_other_prompts(sequences: Sequence[TokenSequence]) -> list[TokenSequence]:
    """Each response behind the next other prompt; empty if there is only one."""
    count = len(sequences)
    found = []
    for i, sequence in enumerate(sequences):
        following = (sequences[(i + step) % count].prompt_ids for step in range(1, count))
        other = next((ids for ids in following if not np.array_equal(ids, sequence.prompt_ids)), None)
        if other is None:
            return []
        found.append(replace(sequence, prompt_ids=other))
    return found


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
