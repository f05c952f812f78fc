"""From axes to cells: what one run is, and which runs a figure needs.

A cell is one run of one seed. Combinations that mean the same run are one cell: an online arm has no budget, a
fraction of 0 is offline, a fraction of 1 is online-teacher.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import get_args

from thack.config.experiment import Axes, ExperimentSettings, Figure
from thack.errors import ThackError, UsageError
from thack.experiments.methods import ONE_NUMBER
from thack.experiments.roles import size_of
from thack.experiments.tokenizers import TokenizerWord
from thack.schema.cross_tokenizer import PUBLISHED, check_published_target
from thack.schema.experiment import ExperimentArm
from thack.schema.targets import DIVERGENCE_NAMES, TargetSpec, live_word

FIGURES: tuple[Figure, ...] = tuple(figure for figure in get_args(Figure) if figure != "all")
_ALWAYS_ONLINE = ("online-teacher", "online-student")
_ASKED_FOR = ("lora", "tokenizers", "consistency", "axes")  # figures that "all" leaves out


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One run: an arm and a seed, and the figures that show it."""

    arm: ExperimentArm
    seed: int
    figures: tuple[str, ...] = ()


def chosen_figures(settings: ExperimentSettings) -> tuple[str, ...]:
    """The figures that an experiment shows; a product of the user's own is the last.

    Raises:
        UsageError: figure `axes` is chosen, but no axis is given.
    """
    own = any(getattr(settings.axes, axis.name) for axis in fields(Axes))
    if "axes" in settings.figures and not own:
        raise UsageError("figure `axes` needs an axis", hint="for example `axes.fraction_online = [0, 0.05, 0.1]`")
    named = (
        [figure for figure in FIGURES if figure not in _ASKED_FOR] if "all" in settings.figures else settings.figures
    )
    return tuple(dict.fromkeys([*named, *(["axes"] if own else [])]))


def axes_of(settings: ExperimentSettings, figure: str) -> Axes:
    """The axes of one figure."""
    if figure == "F4":
        return Axes(source=("offline",))
    if figure == "F5":
        return Axes(source=settings.arms)
    axes: Axes = settings.axes if figure == "axes" else getattr(settings.groups, figure)
    return axes


def cells(settings: ExperimentSettings) -> list[Cell]:
    """Every run of the experiment once, seed by seed, in the order of the figures.

    Raises:
        UsageError: there is no seed, or an axis has values that make no run.
    """
    wanted: dict[ExperimentArm, list[str]] = {}
    for figure in chosen_figures(settings):
        for arm in arms_of(settings, figure):
            wanted.setdefault(arm, []).append(figure)
    if not settings.seeds:
        raise UsageError("seeds is empty", hint="give at least one, such as `seeds = [0, 1, 2]`")
    return [
        Cell(arm=arm, seed=seed, figures=tuple(figures))
        for seed in dict.fromkeys(settings.seeds)
        for arm, figures in wanted.items()
    ]


def arms_of(settings: ExperimentSettings, figure: str) -> list[ExperimentArm]:
    """The arms that a figure shows, each once.

    Beside its product, `tokenizers` has the cross-entropy alone for each tokenizer, and the student with the teacher's
    tokenizer. Of published losses, which are not defined on every target, it has those on exact targets.
    """
    axes = axes_of(settings, figure)
    if figure != "tokenizers":
        return product(settings, axes)
    exact = replace(axes, target=("dense",))
    own = replace(axes, cross_tokenizer=tuple(loss for loss in axes.cross_tokenizer if loss not in PUBLISHED))
    published = replace(exact, cross_tokenizer=tuple(loss for loss in axes.cross_tokenizer if loss in PUBLISHED))
    alone = replace(exact, cross_tokenizer=(), method=("sft",))
    wanted = [alone, *(one for one in (published, own) if one.cross_tokenizer)]
    wanted += [replace(alone, tokenizer=()), replace(axes, tokenizer=(), cross_tokenizer=())]
    return list(dict.fromkeys(arm for one in wanted for arm in product(settings, one)))


def compares_tokenizers(settings: ExperimentSettings) -> bool:
    """Whether students have several tokenizers, so that golden and proxy of all arms are read per byte."""
    return any(arm.tokenizer for figure in chosen_figures(settings) for arm in arms_of(settings, figure))


def base_arm(settings: ExperimentSettings) -> ExperimentArm:
    """The plain offline run."""
    return ExperimentArm(
        task=settings.task,
        source="offline",
        fraction_online=0.0,
        diversity=1,
        budget=1,
        loss=settings.distill.loss.divergence,
        teacher=size_of(settings.teacher),
        student=size_of(settings.student),
        target=settings.target,
        lora_rank=settings.distill.lora.rank,
    )


def product(settings: ExperimentSettings, axes: Axes) -> list[ExperimentArm]:
    """The arms of a product of axes, each once.

    Raises:
        UsageError: an axis has values that make no run.
    """
    _check(axes, settings)
    names = [axis.name for axis in fields(Axes) if getattr(axes, axis.name)]
    found: dict[ExperimentArm, None] = {}
    for values in itertools.product(*(getattr(axes, name) for name in names)):
        arm = replace(base_arm(settings), **dict(zip(names, values, strict=True)))
        found[_same_run(arm, settings)] = None
    return list(found)


def _same_run(arm: ExperimentArm, settings: ExperimentSettings) -> ExperimentArm:
    """The one name of a run that several combinations mean."""
    if arm.num_prompts == settings.num_distill_prompts:
        arm = replace(arm, num_prompts=0)
    if arm.learning_rate == settings.distill.optimizer.learning_rate:
        arm = replace(arm, learning_rate=0.0)
    if not arm.tokenizer or arm.method == "sft":
        arm = replace(arm, cross_tokenizer="auto")
    elif arm.cross_tokenizer == "auto":
        arm = replace(arm, cross_tokenizer="cell")
    if arm.method == "policy-gradient":
        arm = replace(arm, source="online-student")
    if arm.method == "offline-policy-gradient":
        arm = replace(arm, target=ONE_NUMBER)
    if arm.source == "mixture" and not 0 < arm.fraction_online < 1:
        arm = replace(arm, source="offline" if arm.fraction_online == 0 else "online-teacher")
    if arm.source == "offline" and arm.fraction_online:
        arm = replace(arm, source="mixture" if arm.fraction_online < 1 else "online-teacher")
    if arm.source in _ALWAYS_ONLINE:
        return replace(arm, fraction_online=1.0, budget=1, target=live_word(arm.target))
    return replace(arm, target=live_word(arm.target)) if arm.source == "mixture" else arm


def _check(axes: Axes, settings: ExperimentSettings) -> None:
    num_prompts = settings.num_distill_prompts
    problems = [*_tokenizer_problems(axes, settings)]
    if axes.num_prompts and max(axes.num_prompts) > num_prompts:
        problems.append(f"axes.num_prompts = {max(axes.num_prompts)} is more than num_distill_prompts = {num_prompts}")
    if "mixture" in axes.source and not axes.fraction_online:
        problems.append("source = mixture needs its share, as in axes.fraction_online = [0.1, 0.5]")
    if axes.source and {"guard", "policy-gradient", "offline-policy-gradient"} & {*axes.method}:
        problems.append(
            "method guard is of fixed responses, policy gradients of the student's own: leave axes.source out"
        )
    if axes.fraction_online and "offline-policy-gradient" in axes.method:
        problems.append("method offline-policy-gradient is of given responses: leave axes.fraction_online out")
    for text in axes.target:
        try:
            TargetSpec.parse(text)
        except UsageError as error:
            problems.append(error.message)
    if problems:
        raise UsageError("an axis is wrong", details=problems)


def _tokenizer_problems(axes: Axes, settings: ExperimentSettings) -> Iterator[str]:
    if axes.tokenizer and settings.student.model:
        yield "axes.tokenizer is of a new student, and student.model has a tokenizer of its own"
    if axes.cross_tokenizer and not axes.tokenizer:
        yield 'axes.cross_tokenizer needs students with another tokenizer, as in axes.tokenizer = ["512"]'
    if "refuse" in axes.cross_tokenizer:
        yield "axes.cross_tokenizer = refuse trains nothing"
    for loss, target in itertools.product(axes.cross_tokenizer, axes.target or (settings.target,)):
        try:
            check_published_target(loss, TargetSpec.parse(target))
        except ThackError as error:
            yield error.message
    for word in axes.tokenizer:
        try:
            TokenizerWord.parse(word)
        except UsageError as error:
            yield error.message


def name_of(arm: ExperimentArm, base: ExperimentArm) -> str:
    """How an arm differs from the plain one: `offline`, `prompts ÷5`, `online-teacher, JSD`. No two have one name."""
    return ", ".join(_differences(arm, base)) or arm.source


def _differences(arm: ExperimentArm, base: ExperimentArm) -> Iterator[str]:
    if arm.task != base.task:
        yield arm.task
    if arm.source == "mixture":
        yield f"{100 * arm.fraction_online:.15g} % online"
    elif arm.source != base.source or arm.task != base.task:
        yield arm.source
    if arm.num_prompts:
        yield f"{arm.num_prompts} prompts"
    if arm.diversity > 1:
        yield f"prompts ÷{arm.diversity}"
    if arm.budget > 1:
        yield f"{arm.budget} generations"
    if arm.method != base.method:
        yield arm.method.replace("-", " ")
    if arm.lora_rank != base.lora_rank:
        yield f"LoRA of rank {arm.lora_rank}" if arm.lora_rank else "all weights"
    if arm.tokenizer:
        yield f"tokenizer {arm.tokenizer}"
    if arm.cross_tokenizer != base.cross_tokenizer:
        yield arm.cross_tokenizer
    if arm.loss != base.loss:
        yield DIVERGENCE_NAMES[arm.loss]
    if arm.teacher != base.teacher:
        yield f"teacher {arm.teacher}"
    if arm.student != base.student:
        yield f"student {arm.student}"
    if arm.learning_rate:
        yield f"rate {arm.learning_rate:.15g}"
    if arm.fine_tuned_on != base.fine_tuned_on:
        yield f"fine-tuned on the {arm.fine_tuned_on}"
    if arm.method == "offline-policy-gradient":
        return  # of what is kept of the teacher, it reads one number
    target, usual = TargetSpec.parse(arm.target), TargetSpec.parse(base.target)
    is_another = target.as_live() != usual.as_live()
    if is_another:
        yield target.label
    if arm.source == "offline" and target != usual and target.is_cacheable:
        if target.live:
            yield "without a cache"
        elif not is_another:
            yield "from a cache"


def slug(arm: ExperimentArm, base: ExperimentArm) -> str:
    """`name_of` as the beginning of a directory's name."""
    name = name_of(arm, base).replace("÷", "by").replace("%", "percent")
    return "-".join(part for part in "".join(c if c.isalnum() else " " for c in name).split())
