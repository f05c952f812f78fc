"""What the models of an evaluation say of responses, batch by batch; what references say of their own stays in memory.

N response tokens packed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thack.data.batching import by_length
from thack.data.sequence import TokenSequence
from thack.errors import ModelError
from thack.evaluation.chunks import TokenNats
from thack.evaluation.divergences import PromptTotals
from thack.evaluation.eval_set import EvalSet
from thack.losses import cross_entropy
from thack.models.batch import Batch
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.schema.metric_rows import PromptSums
from thack.schema.metrics import Role
from thack.targets.vocabulary import common_width, log_probs

Score = Callable[[Batch], Tensor]  # log_probs_NV of a batch


@dataclass(slots=True)
class Scorer:
    """Scores responses to the prompts of one evaluation set.

    Args:
        eval_set: the prompts.
        models: the references.
        batch_size: sequences per forward.
        memory_bytes: at most this much of the references' log-probabilities is kept.
        group: ranks share the batches.
    """

    eval_set: EvalSet
    models: Mapping[Role, LanguageModel]
    batch_size: int
    memory_bytes: int
    group: ProcessGroup
    scored: int = field(init=False, default=0)  # response tokens that references scored, on this rank
    _kept: dict[tuple[Role, int], Tensor] = field(init=False, default_factory=dict)
    _kept_bytes: int = field(init=False, default=0)

    def shares_ids(self, role: Role, model: LanguageModel) -> bool:
        """Whether the responses of a role are in the ids of a model."""
        return self.eval_set.tokenizer_of(role) == model.tokenizer.fingerprint()

    def of_reference(self, role: Role, batch: Batch) -> Tensor:
        """log_probs_NV of a reference, counted."""
        self.scored += len(batch.labels_N)
        model = self.models[role]
        return _log_probs(model, batch.for_teacher() if role is Role.TEACHER else batch, self._width(model), role)

    def of_model(self, model: LanguageModel, batch: Batch, *, baseline: bool = False) -> Tensor:
        """log_probs_NV of the model that is measured: the student, or with `baseline` the teacher in its place."""
        if baseline:
            return self.of_reference(Role.TEACHER, batch)
        return _log_probs(model, batch, self._width(model), "student")

    def of_fixed(self, role: Role, number: int, batch: Batch) -> Tensor:
        """log_probs_NV of a reference on batch `number` of its fixed responses, from memory where they fit."""
        kept = self._kept.get((role, number))
        if kept is not None:
            return kept
        found = self.of_reference(role, batch)
        if self._kept_bytes + found.nbytes <= self.memory_bytes:
            self._kept[role, number] = found
            self._kept_bytes += found.nbytes
        return found

    def likelihoods(
        self,
        sequences: Sequence[TokenSequence],
        device: torch.device,
        score: Score,
        tokens: TokenNats | None = None,
    ) -> PromptSums:
        """−log q of every token, by prompt; `tokens` takes in those of the first prompts."""
        totals = PromptTotals(len(self.eval_set), num_values=1)
        for _, part in self.batches(sequences):
            batch = Batch.of(part, device)
            nats_N = cross_entropy(score(batch), batch.labels_N)
            totals.add(part, nats_N[:, None])
            if tokens is not None:
                tokens.add(part, nats_N)
        (sums,) = totals.of_all_ranks(self.group)
        return sums

    def batches(self, sequences: Sequence[TokenSequence]) -> Iterator[tuple[int, list[TokenSequence]]]:
        """This rank's of the fixed, numbered batches of similar length: the same sequences always meet in one."""
        for number, batch in enumerate(by_length(sequences, self.batch_size)):
            if self.group.owns(number):
                yield number, batch

    def _width(self, model: LanguageModel) -> int:
        """Ids that are compared: those of the tokenizer, which every model with it must hold."""
        same = {role.value: other for role, other in self.models.items() if self.shares_ids(role, model)}
        widths = {role: other.vocab_size for role, other in same.items()}
        size = max(other.tokenizer.size for other in (model, *same.values()))
        return common_width(size, student=model.vocab_size, **widths)


def _log_probs(model: LanguageModel, batch: Batch, width: int, role: str) -> Tensor:
    if batch.device != model.device:  # a model over several devices takes its input on the first of them
        own = {name: getattr(batch, name).to(model.device) for name in ("labels_N", "lengths_B", "sequence_of_N")}
        return _log_probs(model, replace(batch, **own, _layouts={}), width, role).to(batch.device)
    found = log_probs(model(batch), width)
    if torch.isnan(found).any():
        raise ModelError(f"the {role} gives NaN logits", hint="check its weights, or evaluate in float32")
    return found
