"""Which teacher a server runs: servers have no hash of weights, so a teacher is known by its answers.

Probe prompts are ids drawn from the tokenizer by a fixed rule. The distribution behind each is compared, not the token
that was sampled. Servers batch requests and so round differently each time: answers are the same teacher's if their
total variation, the mean over the prompts, is within a tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thack.config import SamplingSettings, ServerSettings
from thack.data.tokenizer import Tokenizer
from thack.errors import MismatchError
from thack.schema.serving import LogProbs, ProbeAnswer, ServedTeacher
from thack.serving.concurrent import as_they_come
from thack.serving.teacher import RemoteTeacher

_PROBES, _PROBE_TOKENS = 8, 12
_HOT = SamplingSettings(temperature=4.0)
_PROCESSED = 0.05  # mean total variation between temperatures 1 and 4; 0 for raw log-probabilities


def identify(teacher: RemoteTeacher, settings: ServerSettings) -> ServedTeacher:
    """Ask every probe prompt, and measure whether log-probabilities follow the sampling temperature."""
    probes = ask_probes(teacher, settings.concurrency)
    log_probs: LogProbs
    if settings.logprobs == "auto":
        hot = ask_probes(teacher, settings.concurrency, _HOT)
        log_probs = "processed" if distance(probes, hot) > _PROCESSED else "raw"
    else:
        log_probs = settings.logprobs
    return ServedTeacher(model=teacher.model, dialect=teacher.dialect.name, log_probs=log_probs, probes=probes)


def ask_probes(
    teacher: RemoteTeacher, concurrency: int, sampling: SamplingSettings = SamplingSettings()
) -> tuple[ProbeAnswer, ...]:
    """The most likely ids behind each probe prompt, in their order."""
    prompts = list(enumerate(probe_prompts(teacher.tokenizer)))
    answers: dict[int, ProbeAnswer] = {}
    for (number, prompt), choice in as_they_come(
        prompts, lambda item: teacher.next_token(item[1], sampling), concurrency
    ):
        ids, values = choice.entries[0]
        answers[number] = ProbeAnswer(
            prompt=tuple(prompt.tolist()),
            ids=tuple(ids.tolist()),
            log_probs=tuple(max(float(value), -1e4) for value in values),  # JSON has no −inf
        )
    return tuple(answers[number] for number in range(len(prompts)))


def probe_prompts(tokenizer: Tokenizer) -> list[np.ndarray]:
    """Ids of the text's own vocabulary: the same for every tokenizer of these ids."""
    special = {tokenizer.added_tokens[token] for token in tokenizer.special_tokens}
    ordinary = np.array([i for i in range(tokenizer.size) if i not in special], dtype=np.int32)
    words = np.random.Philox(key=16).random_raw(_PROBES * _PROBE_TOKENS)
    return list(ordinary[(words % len(ordinary)).astype(np.int64)].reshape(_PROBES, _PROBE_TOKENS))


def distance(first: Sequence[ProbeAnswer], second: Sequence[ProbeAnswer]) -> float:
    """½ Σ |p − q| over the ids that either lists, the mean over the prompts; 1 for other prompts."""
    if [one.prompt for one in first] != [one.prompt for one in second]:
        return 1.0
    return float(np.mean([_variation(one, other) for one, other in zip(first, second, strict=True)]))


def _variation(one: ProbeAnswer, other: ProbeAnswer) -> float:
    p, q = (dict(zip(answer.ids, np.exp(answer.log_probs), strict=True)) for answer in (one, other))
    # An id that only one of them lists is at most as likely in the other as the least likely there.
    low_p, low_q = min(p.values()), min(q.values())
    total = sum(abs(p.get(i, min(low_p, q.get(i, 0.0))) - q.get(i, min(low_q, p.get(i, 0.0)))) for i in p.keys() | q)
    return float(min(total / 2, 1.0))


def check_same(recorded: ServedTeacher, now: Sequence[ProbeAnswer], tolerance: float, where: str) -> None:
    """Refuse another teacher behind the same address.

    Raises:
        MismatchError: the answers differ by more than the tolerance.
    """
    found = distance(recorded.probes, now)
    if found > tolerance:
        raise MismatchError(
            f"the server runs another teacher than the one that {where} was begun with",
            details=[f"total variation on the probe prompts  {found:.4f}, at most {tolerance:g} for the same teacher"],
            hint="serve the same model again, or give another `out`; raise `server.tolerance` if it is the same",
        )
