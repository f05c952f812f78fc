"""Validation of supervised fine-tuning: which pairs are held out, and the checkpoint that fits them best."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.errors import UsageError
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel, evaluating
from thack.runtime.process_group import ALONE, ProcessGroup
from thack.schema import document
from thack.training.hooks import Columns, Hook

NLL = "validation/nll/token_mean"
_SALT = b"validation:"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Best:
    """The best evaluation so far."""

    step: int | None = None
    nll: float = float("inf")


class Validation(Hook):
    """Cross-entropy on held-out pairs; the run's model is that of the best evaluation after step 0."""

    name = "validation"

    def __init__(self, steps: Iterable[int], sequences: Sequence[TokenSequence], group: ProcessGroup = ALONE) -> None:
        self.planned = frozenset(steps)
        self._sequences = sequences
        self._group = group
        self._best = _Best()

    def wants_evaluation(self, step: int) -> bool:
        return step in self.planned

    def evaluate(self, step: int, student: LanguageModel) -> Columns:
        if not self._sequences:
            return {}
        nll = validation_nll(student, self._sequences, group=self._group)
        if step and nll < self._best.nll:
            self._best = _Best(step=step, nll=nll)
        return {NLL: nll}

    def protected_steps(self) -> frozenset[int]:
        return frozenset() if self._best.step is None else frozenset({self._best.step})

    def best_step(self) -> int | None:
        return self._best.step

    def state_dict(self) -> Mapping[str, object]:
        return {} if self._best.step is None else document.dump(self._best)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self._best = document.parse(_Best, state, "validation state")


def validation_nll(
    model: LanguageModel, sequences: Sequence[TokenSequence], batch_size: int = 128, group: ProcessGroup = ALONE
) -> float:
    """−Σ log q(token) / number of tokens, in nats, dropout off; the train mode is left as it was.

    Ranks share the batches; their sums are added in one order.
    """
    own: list[tuple[int, float]] = []
    with evaluating(model):
        for number, part in enumerate(by_length(sequences, batch_size)):
            if group.owns(number):
                batch = Batch.of(part, model.device)
                own.append((number, float(cross_entropy(model(batch), batch.labels_N).double().sum())))
    return sum(nats for _, nats in sorted(group.all_gather(own))) / sum(len(s.response_ids) for s in sequences)


def is_held_out(prompt_id: str, fraction: float) -> bool:
    """Whether a prompt is among the `fraction` of all prompts that is for validation.

    The hash of its id decides, so that no prompt is on both sides.

    Raises:
        UsageError: `fraction` is not at least 0 and below 1.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"validation_fraction must be at least 0 and below 1, got {fraction}")
    return _hashed(prompt_id) < fraction


def _hashed(prompt_id: str) -> float:
    """A number in [0, 1) that depends on the id alone."""
    word = hashlib.sha256(_SALT + prompt_id.encode()).digest()[:8]
    return int.from_bytes(word, "big") / 2**64
