"""What an arm decides of a distillation's settings: method, loss between tokenizers, rate, data."""

from __future__ import annotations

from dataclasses import replace

from thack.config import DistillSettings
from thack.schema.cross_tokenizer import PUBLISHED
from thack.schema.experiment import ExperimentArm
from thack.schema.targets import TargetSpec

#: The smallest record: a policy gradient reads the teacher's log-probability of the response token alone.
ONE_NUMBER = "top-k:1"
_ORDER = 0.1  # of Tsallis' entropy, as in the example of the code that arXiv 2605.26246 released


def trained_by(arm: ExperimentArm, plain: DistillSettings) -> DistillSettings:
    """The settings of an arm, on top of the experiment's. To a published loss its paper adds the cross-entropy."""
    found = _by_method(arm, plain)
    ce_weight = 1.0 if arm.cross_tokenizer in PUBLISHED else found.loss.ce_weight
    rate = arm.learning_rate or plain.optimizer.learning_rate
    return replace(
        found,
        loss=replace(found.loss, cross_tokenizer=arm.cross_tokenizer, ce_weight=ce_weight),
        optimizer=replace(found.optimizer, learning_rate=rate),
    )


def _by_method(arm: ExperimentArm, plain: DistillSettings) -> DistillSettings:
    loss = plain.loss
    match arm.method:
        case "sft":
            return replace(plain, loss=replace(loss, weight=0.0, ce_weight=1.0))
        case "hard-soft":
            return replace(plain, loss=replace(loss, ce_weight=1.0, mix="entropy"))
        case "hard-soft-confidence":
            return replace(plain, loss=replace(loss, ce_weight=1.0, mix="confidence"))
        case "hard-soft-tsallis":
            return replace(plain, loss=replace(loss, ce_weight=1.0, mix="entropy", entropy_order=_ORDER))
        case "hard-soft-curriculum":
            return replace(plain, loss=replace(loss, ce_weight=1.0, mix="curriculum"))
        case "policy-gradient":
            return replace(plain, loss=replace(loss, weight=0.0, policy=replace(loss.policy, weight=1.0)))
        case "offline-policy-gradient":  # arXiv 2604.13010
            policy = replace(loss.policy, weight=1.0, importance="none")
            return replace(plain, loss=replace(loss, weight=0.0, policy=policy))
        case "guard":
            return replace(plain, guard=replace(plain.guard, on=True))
    return plain


def has_cache(arm: ExperimentArm) -> bool:
    """Whether its targets come from a cache."""
    return arm.source == "offline" and not TargetSpec.parse(arm.target).live


def samples(arm: ExperimentArm) -> int:
    """Responses per prompt of the offline set."""
    return 1 if arm.source in ("online-teacher", "online-student") else arm.budget * arm.diversity


def fraction(arm: ExperimentArm) -> float:
    """The share of online responses in a run's settings; its default unless the source is a mixture."""
    return arm.fraction_online if arm.source == "mixture" else 0.5
