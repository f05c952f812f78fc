"""Between settings and the values that the computation uses: the target, the divergence, the terms of the loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

from thack.config import CacheSettings, DistillSettings, LossSettings, TargetSettings
from thack.errors import UndefinedLoss, UsageError
from thack.schema.policy import PolicyGradient
from thack.schema.targets import CachedKind, Divergence, DivergenceKind, LossTerm, TargetSpec


def target_spec(settings: CacheSettings | TargetSettings, head_width: int = 1) -> TargetSpec:
    """What the settings of a cache, or of a live teacher's target, keep of each distribution.

    Args:
        settings: of one of them.
        head_width: hidden width of the student, which is the number of values of a projected target.

    Raises:
        UsageError: a combination that cannot be made.
    """
    if isinstance(settings, TargetSettings):
        return TargetSpec(
            kind=settings.kind,
            k=0 if settings.kind == "dense" else head_width if settings.kind == "projected" else settings.k,
            live=True,
            redraw=settings.redraw,
            tail_draws=settings.tail_draws,
            tail_prior=settings.tail_prior,
        )
    if settings.kind == "dense":
        return TargetSpec()
    if settings.kind == "projected":
        bits = 16 if settings.projected == "float16" else 8
        return TargetSpec(kind="projected", k=head_width, value_bits=bits)
    k = settings.top_k if settings.kind == "top-k" else settings.sampled
    temperatures = tuple(sorted({float(t) for t in settings.temperatures} - {1.0}))
    return TargetSpec(kind=settings.kind, k=k, temperatures=temperatures)


def cache_paths(settings: DistillSettings) -> tuple[Path, ...]:
    """The directories of the caches that a run takes its targets from."""
    given = (settings.cache,) if isinstance(settings.cache, str) else settings.cache
    return tuple(Path(path).expanduser() for path in given if path)


def mixes_caches(settings: DistillSettings) -> bool:
    """Whether the distributions of the caches are mixed; False: every sequence has those of its own cache."""
    return bool(settings.cache_weights or settings.cache_weight_key)


def target_settings(spec: TargetSpec) -> TargetSettings:
    """The settings of a live teacher whose target is `spec`."""
    if spec.kind == "dense":
        return TargetSettings()
    return TargetSettings(
        kind=spec.kind, k=spec.k, redraw=spec.redraw, tail_draws=spec.tail_draws, tail_prior=spec.tail_prior
    )


def cache_settings(settings: CacheSettings, spec: TargetSpec) -> CacheSettings:
    """`settings` with what `spec` keeps; `spec` is one that a cache holds."""
    if spec.kind == "projected":
        raise UsageError(
            f"{spec}: a projected cache is of one student's head, which a word does not name",
            hint="use `kind = projected` with `student`",
        )
    kind = cast(CachedKind, spec.kind)
    settings = replace(settings, kind=kind, temperatures=spec.temperatures)
    if kind == "dense":
        return settings
    return replace(settings, top_k=spec.k) if kind == "top-k" else replace(settings, sampled=spec.k)


def divergence_of(settings: LossSettings, kind: DivergenceKind | None = None) -> Divergence:
    """The divergence that `settings` name, or another `kind` with their parameters and temperature.

    Raises:
        UndefinedLoss: an unknown kind, or a number outside its range.
    """
    return Divergence.parse(
        kind or settings.divergence, parameters=_parameters(settings), temperature=settings.temperature
    )


def loss_terms(settings: LossSettings) -> tuple[LossTerm, ...]:
    """The sum that `settings` name: weight · divergence + Σ add + policy + ce_weight · cross-entropy, but weights of 0.

    Raises:
        UndefinedLoss: an entry of `add` is not DIVERGENCE:WEIGHT, or no term has a weight.
    """
    found = [LossTerm(weight=settings.weight, divergence=divergence_of(settings))]
    found += added_terms(settings)
    if settings.policy.weight:
        found.append(LossTerm(weight=settings.policy.weight, policy=policy_gradient(settings)))
    found.append(LossTerm(weight=settings.ce_weight))
    kept = tuple(term for term in found if term.weight)
    if not kept:
        raise UndefinedLoss(
            "the loss has no term of weight above 0",
            hint="set loss.weight, loss.add, loss.policy.weight or loss.ce_weight",
        )
    return kept


def added_terms(settings: LossSettings) -> list[LossTerm]:
    """The terms that `loss.add` names.

    Raises:
        UndefinedLoss: an entry is not DIVERGENCE:WEIGHT.
    """
    parameters, temperature = _parameters(settings), settings.temperature
    return [LossTerm.parse(text, parameters=parameters, temperature=temperature) for text in settings.add]


def policy_gradient(settings: LossSettings) -> PolicyGradient:
    """The policy gradient that `settings` name.

    Raises:
        UndefinedLoss: a combination that has no meaning.
    """
    given = settings.policy
    return PolicyGradient(
        estimator=given.estimator, importance=given.importance, clip=given.clip, discount=given.discount
    )


def _parameters(settings: LossSettings) -> dict[str, float]:
    return {"jsd": settings.beta, "skewed_kl": settings.skew}
