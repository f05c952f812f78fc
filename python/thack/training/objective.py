"""The loss of a step: on logits, or together with the head, chunk by chunk, on hidden states.

N response tokens, H hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from thack.config import LossSettings
from thack.config.specs import added_terms
from thack.errors import UndefinedLoss
from thack.losses import token_losses
from thack.losses.fused import fused_divergence
from thack.losses.mix import SUMS as MIX_SUMS
from thack.losses.mix import columns as mix_columns
from thack.losses.mix import curriculum
from thack.losses.policy import ON_POLICY, Behaviour
from thack.losses.policy import SUMS as POLICY_SUMS
from thack.losses.policy import columns as policy_columns
from thack.losses.rows import sides_of
from thack.losses.tally import Tally
from thack.models.precision import FLOAT32, Precision
from thack.models.protocol import LanguageModel
from thack.runtime.process_group import ProcessGroup
from thack.schema.cross_tokenizer import PUBLISHED
from thack.targets.cells import CellTarget
from thack.targets.projected import ProjectedTeacher, Projection
from thack.targets.published import PublishedTarget
from thack.targets.types import Target

# Fewer logits fit into memory at once, and gain nothing from chunks: the loss on them takes less time.
WORTH_FUSING = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of a step. `loss.fused` = auto fuses head and loss where the logits are many, or the student runs in 16
    bits; losses published for another tokenizer compare rows with each other, and take whole logits.

    Both ways give the same number and gradient up to rounding, from logits in float32: rounded to 16 bits they would
    move the gradient by up to a half near convergence. The choice depends on the settings and on the number of tokens
    alone, so a resumed run takes the same one.
    """

    settings: LossSettings
    model: LanguageModel
    width: int  # ids that are compared
    precision: Precision = FLOAT32  # of the student's products, the head's included
    on_hidden: bool = False  # whether targets are compared with hidden states, not with logits
    plain_head: bool = True  # whether logits are the head's product, scaled and capped
    tally: Tally = field(default_factory=Tally)  # of the tokens of a step

    def fuses(self, num_tokens: int) -> bool:
        """Whether the loss of `num_tokens` tokens is computed together with the head."""
        if not self.plain_head or self.settings.fused is False or self.settings.cross_tokenizer in PUBLISHED:
            return False
        worth = self.on_hidden or self._rounds or num_tokens * self.width >= WORTH_FUSING
        return self.settings.fused is True or worth

    def takes_hidden(self, num_tokens: int) -> bool:
        """Whether the loss of `num_tokens` tokens takes hidden states, and not the model's own logits."""
        return self.fuses(num_tokens) or (self.plain_head and self._rounds)

    @property
    def _rounds(self) -> bool:
        return self.precision.dtype != torch.float32

    def router_loss(self) -> Tensor | None:
        """The balancing loss of routers in the forwards since the last call; None: none is added."""
        return None if self.model.routers is None else self.model.routers.take_loss()

    def at(self, step: int, total_steps: int) -> Objective:
        """The objective of one step: under a curriculum the weights of its hard and soft terms change."""
        if self.settings.mix != "curriculum":
            return self
        soft, given = curriculum(step, total_steps, self.settings.curriculum), self.settings
        add = tuple(str(replace(term, weight=soft * term.weight)) for term in added_terms(given))
        policy = replace(given.policy, weight=soft * given.policy.weight)
        settings = replace(
            given, weight=soft * given.weight, add=add, policy=policy, ce_weight=(1 - soft) * given.ce_weight
        )
        return replace(self, settings=settings)

    def columns(self, group: ProcessGroup) -> dict[str, float]:
        """What the losses of a step left behind, over all ranks, as columns of metrics.jsonl."""
        if not (self.settings.policy.weight or self.settings.mix in ("confidence", "entropy")):
            return {}
        names = (*POLICY_SUMS, *MIX_SUMS)
        sums = self.tally.take()
        found = dict(zip(names, group.all_reduce_sum(*(sums.get(name, 0.0) for name in names)), strict=True))
        policy = policy_columns(found) if found["tokens"] else {}
        return policy | (mix_columns(found) if found["mixed"] else {})

    def __call__(
        self,
        output_NX: Tensor,
        target: Target | CellTarget | PublishedTarget | ProjectedTeacher | None,
        labels_N: Tensor,
        behaviour: Behaviour = ON_POLICY,
    ) -> Tensor:
        """loss_N from logits_NV, or from hidden_NH where it `takes_hidden`; fused their sum, as one number."""
        sides = replace(sides_of(self.settings), behaviour=behaviour, tally=self.tally)
        num_tokens = len(labels_N)
        hidden_NH = output_NX.to(self.precision.dtype) if self.takes_hidden(num_tokens) and self._rounds else output_NX
        if not self.fuses(num_tokens):
            if isinstance(target, ProjectedTeacher):
                target = target.to_dense()
            wide = self.takes_hidden(num_tokens)
            logits_NV = Projection.of(self.model).wide_logits(hidden_NH) if wide else output_NX
            return token_losses(logits_NV[:, : self.width], target, labels_N, self.settings, sides)
        assert not isinstance(target, PublishedTarget), "its losses take whole logits"
        head = Projection.of(self.model)
        return fused_divergence(hidden_NH, head, target, labels_N, self.settings, width=self.width, sides=sides)


def supervised(model: LanguageModel, precision: Precision = FLOAT32, *, plain_head: bool = True) -> Objective:
    """The cross-entropy on the tokens alone: supervised fine-tuning."""
    return Objective(
        settings=LossSettings(weight=0.0, ce_weight=1.0),
        model=model,
        width=model.vocab_size,
        precision=precision,
        plain_head=plain_head,
    )


def has_plain_head(model: LanguageModel, settings: LossSettings) -> bool:
    """Whether `model`'s logits are what `Projection` computes from its hidden states.

    Raises:
        UndefinedLoss: they are not, and `loss.fused` = true asks for it.
    """
    plain = model.head_form is not None
    if not plain and settings.fused is True:
        raise UndefinedLoss(
            f"loss.fused = true: {type(model).__name__} does more to its logits than scale and cap them",
            hint="use `loss.fused = auto`, which computes its logits in full",
        )
    return plain
