"""Losses that need more of their responses, or of a record, than a divergence does."""

from __future__ import annotations

from pathlib import Path

from thack.cache.format.plan import CachePlan
from thack.config import DistillSettings, LossSettings, PolicySettings, SamplingSettings
from thack.config.specs import policy_gradient
from thack.errors import UndefinedLoss, UsageError
from thack.schema.cross_tokenizer import PUBLISHED
from thack.schema.targets import TargetSpec, exactly


def check_policy(settings: DistillSettings) -> None:
    """Refuse a policy gradient on responses that the student did not write.

    Raises:
        UsageError, UndefinedLoss: names the setting.
    """
    policy, kind = settings.loss.policy, settings.source.kind
    if not policy.weight:
        if policy != PolicySettings():
            raise UsageError(
                "`loss.policy` is set, and loss.policy.weight = 0 leaves it out",
                hint="set `loss.policy.weight`, such as loss.policy.weight = 1",
            )
        return
    policy_gradient(settings.loss)
    if kind not in ("offline", "online-student"):
        raise UsageError(
            f"loss.policy.weight = {policy.weight:g} does not go with source.kind = {kind}",
            details=("a policy gradient is of tokens that the student itself wrote",),
            hint="use `source.kind = online-student`, or responses of the student's start with `source.kind = offline`",
        )
    if kind == "online-student" and settings.source.sampling != SamplingSettings():
        raise UsageError(
            "loss.policy needs responses from the student's own distribution, and source.sampling changes it",
            hint="leave out `source.sampling`",
        )
    if settings.guard.on:
        raise UsageError(
            "guard.on does not go with loss.policy: the responses that it adds are the teacher's",
            hint="leave out `guard.on`, or use a divergence alone",
        )


def check_alm(loss: LossSettings) -> None:
    """Refuse a temperature of a loss that is not taken.

    Raises:
        UsageError: names the setting.
    """
    if loss.cross_tokenizer != "alm" and loss.alm_temperature != LossSettings().alm_temperature:
        raise UsageError(
            f"loss.alm_temperature belongs to loss.cross_tokenizer = alm, not {loss.cross_tokenizer}",
            hint="leave it out",
        )


def check_compares(loss: LossSettings) -> None:
    """Refuse a loss between two tokenizers where there is one.

    Raises:
        UndefinedLoss: names the setting.
    """
    if loss.cross_tokenizer in PUBLISHED:
        raise UndefinedLoss(
            f"loss.cross_tokenizer = {loss.cross_tokenizer}: teacher and student have one tokenizer",
            hint="leave it at auto, which compares their distributions id by id",
        )


def check_published(loss: LossSettings) -> None:
    """Refuse to fuse a loss with the head that compares rows with each other.

    Raises:
        UndefinedLoss: names the settings.
    """
    if loss.cross_tokenizer in PUBLISHED and loss.fused is True:
        raise UndefinedLoss(
            f"loss.fused = true: loss.cross_tokenizer = {loss.cross_tokenizer} takes the logits of all tokens at once",
            hint="leave `loss.fused` at auto",
        )


def check_loss_alone(loss: LossSettings) -> None:
    """Refuse what a function of one batch's logits and records cannot follow: who wrote it, or how far a run is.

    Raises:
        UsageError, UndefinedLoss: names the setting.
    """
    check_mix(loss)
    check_compares(loss)
    check_alm(loss)
    asked = {
        "policy": loss.policy != PolicySettings(),
        "mix = curriculum": loss.mix == "curriculum",
        f"cross_tokenizer = {loss.cross_tokenizer}": loss.cross_tokenizer != "auto",
        "fused = true": loss.fused is True,
    }
    for setting in (name for name, is_asked in asked.items() if is_asked):
        raise UsageError(
            f"loss.{setting} belongs to `thack distill`, which knows writer, step and head of its responses",
            hint="leave it out, or train with `thack distill`",
        )


def check_mix(loss: LossSettings) -> None:
    """Refuse weights by position with nothing to weigh.

    Raises:
        UsageError: names the setting.
    """
    plain = LossSettings()
    for name, kind in (("entropy_order", "entropy"), ("curriculum", "curriculum")):
        if loss.mix != kind and getattr(loss, name) != getattr(plain, name):
            raise UsageError(f"loss.{name} belongs to loss.mix = {kind}, not {loss.mix}", hint="leave it out")
    if loss.mix != "sum" and not (loss.ce_weight and (loss.weight or loss.add or loss.policy.weight)):
        raise UsageError(
            f"loss.mix = {loss.mix} weighs response token and teacher's distribution, and one of them has no weight",
            hint="set `loss.ce_weight = 1` and leave `loss.weight` at 1",
        )


def check_mix_defined(loss: LossSettings, spec: TargetSpec) -> None:
    """Refuse a mix that needs an entropy which a target does not know.

    Raises:
        UndefinedLoss: says what to use instead.
    """
    if loss.mix != "entropy":
        return
    order, hint = loss.entropy_order, "use `loss.mix = confidence`, or a dense target"
    if spec.kind == "top-k" and spec.tail in ("none", "processed"):
        raise UndefinedLoss(
            "loss.mix = entropy: top-k targets without their own tail do not know the entropy", hint=hint
        )
    if order == 1 or spec.kind in ("dense", "mixed"):
        return
    if spec.kind == "top-k" and 1 / order in spec.temperatures:
        return
    raise UndefinedLoss(
        f"loss.entropy_order = {order:g}: {spec.kind} targets do not know the entropy of that order",
        hint="use `loss.entropy_order = 1`, a dense target, "
        f"or top-k targets of a cache with `temperatures = [{exactly(1 / order)}]`",
    )


def check_realised(loss: LossSettings, directory: Path, plan: CachePlan) -> None:
    """Refuse a loss of realised log-probabilities on a cache that holds none.

    Raises:
        UndefinedLoss: the cache is of format 1.0.
    """
    if (loss.policy.weight or loss.mix == "confidence") and not plan.minor:
        raise UndefinedLoss(
            f"{directory} is a cache of format 1.0, which does not hold the log-probability of the response token",
            hint="write it again with `thack cache-logits`, or use a live `teacher`",
        )
