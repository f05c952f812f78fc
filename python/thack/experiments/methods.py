"""What an arm decides of a distillation's settings: method, loss between tokenizers, rate, data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from thack.config import DistillSettings, to_dict
from thack.errors import UsageError
from thack.files import flattened
from thack.schema.cross_tokenizer import PUBLISHED
from thack.schema.experiment import ExperimentArm
from thack.schema.targets import TargetSpec

#: The smallest record: a policy gradient reads the teacher's log-probability of the response token alone.
ONE_NUMBER = "top-k:1"
_ORDER = 0.1  # of Tsallis' entropy, as in the example of the code that arXiv 2605.26246 released


def trained_by(arm: ExperimentArm, plain: DistillSettings) -> DistillSettings:
    """The settings of an arm, on top of the experiment's. To a published loss its paper adds the cross-entropy."""
    found = _by_method(arm, plain)
    ce_weight = found.loss.ce_weight or float(arm.cross_tokenizer in PUBLISHED)
    rate = arm.learning_rate or plain.optimizer.learning_rate
    return replace(
        found,
        loss=replace(found.loss, cross_tokenizer=arm.cross_tokenizer, ce_weight=ce_weight),
        optimizer=replace(found.optimizer, learning_rate=rate),
    )


def check_methods(plain: DistillSettings, arms: Iterable[ExperimentArm]) -> None:
    """Refuse settings of the loss that the method of every arm replaces: a setting without effect would mislead.

    Raises:
        UsageError: with each such setting.
    """
    given, usual = (flattened(to_dict(settings.loss)) for settings in (plain, DistillSettings()))
    trained = [flattened(to_dict(_by_method(arm, plain).loss)) for arm in arms]
    lost = [
        f"distill.loss.{key} = {value} has no effect"
        for key, value in given.items()
        if value != usual[key] and all(loss[key] != value for loss in trained)
    ]
    if lost:
        hint = "leave it out, or add a method that it applies to in `axes.method`"
        raise UsageError("every arm's method decides this part of the loss", details=lost, hint=hint)


def _by_method(arm: ExperimentArm, plain: DistillSettings) -> DistillSettings:
    """What defines the method is set; weights of its terms that the experiment gives are kept."""
    loss = plain.loss
    with_ce = replace(loss, ce_weight=loss.ce_weight or 1.0)
    policy = replace(loss.policy, weight=loss.policy.weight or 1.0)
    match arm.method:
        case "sft":
            return replace(plain, loss=replace(with_ce, weight=0.0))
        case "hard-soft":
            return replace(plain, loss=replace(with_ce, mix="entropy"))
        case "hard-soft-confidence":
            return replace(plain, loss=replace(with_ce, mix="confidence"))
        case "hard-soft-tsallis":
            return replace(plain, loss=replace(with_ce, mix="entropy", entropy_order=_ORDER))
        case "hard-soft-curriculum":
            return replace(plain, loss=replace(with_ce, mix="curriculum"))
        case "policy-gradient":
            return replace(plain, loss=replace(loss, weight=0.0, policy=policy))
        case "offline-policy-gradient":  # arXiv 2604.13010
            return replace(plain, loss=replace(loss, weight=0.0, policy=replace(policy, importance="none")))
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
