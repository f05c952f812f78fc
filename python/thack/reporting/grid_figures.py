"""The paper's figures from a grid: F4 to F8 and the text's ablations, each a few plots over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from thack.reporting.colours import MUTED, OFFLINE, ONLINE_TEACHER, Colour, doses
from thack.reporting.figures import colours_of, curve, golden, loss_label, plane
from thack.reporting.grid import Grid, GridArm
from thack.reporting.grid_plots import ends_by_bytes, gaps, rises
from thack.reporting.inputs import ArmRuns, unit
from thack.reporting.rendered import RenderedFigure, rendered
from thack.reporting.style import SMALL
from thack.schema.experiment import ClaimResult
from thack.schema.metrics import CurveName

CURVES: tuple[CurveName, ...] = ("golden", "proxy", "baseline", "train_loss")  # whose numbers go beside each figure
_LOG = "Both axes logarithmic: a power law is a straight line."


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFigure:
    """One figure of the paper, with its plots, its claims, and the arms behind them with their colours."""

    name: str
    title: str
    summary: str  # what it shows, for a reader who does not know the paper
    plots: tuple[RenderedFigure, ...]
    arms: tuple[ArmRuns, ...]
    colours: tuple[Colour, ...]
    claims: tuple[ClaimResult, ...]
    has_legend: bool = False  # where curves need names; rows have theirs


TITLES = {
    "F4": (
        "F4 · The proxy–golden plane",
        "Train on responses that were written once, and watch both distances: the student comes ever closer to its "
        "teacher, and from some moment on ever farther from the truth.",
    ),
    "F5": (
        "F5 · Offline, online-teacher, online-student",
        "New responses in every epoch prevent it, whether the teacher or the student writes them.",
    ),
    "F6": (
        "F6 · Diversity of prompts",
        "The same number of responses from fewer prompts: hacking grows, though the proxy ends about where it did.",
    ),
    "F7": ("F7 · Generation budget", "More responses per prompt, written once: hacking shrinks."),
    "F8": ("F8 · Other tasks", "The same on every task."),
    "fraction": ("In the paper’s text · A share of new responses", "A small share of online data already helps."),
    "loss": (
        "In the paper’s text · Losses",
        "Forward KL, reverse KL and Jensen–Shannon divergence: the finding survives.",
    ),
    "sizes": ("In the paper’s text · Sizes", "Other pairs of teacher and student: the finding survives."),
    "target": (
        "Beyond the paper · What the cache keeps, for many epochs",
        "The same run on the same responses, from exact distributions, from the teacher’s K most likely tokens, and "
        "from unbiased samples. What was drawn once stays the same in every epoch, as in a cache.",
    ),
    "once": (
        "Beyond the paper · What the cache keeps, each response seen once",
        "No response can be memorised here: what golden loses, it loses by what the target leaves out.",
    ),
    "lora": (
        "Beyond the paper · Rank of an adapter",
        "The same run through an adapter on the frozen student: fewer weights can remember less of the responses, and "
        "learn less of the teacher.",
    ),
    "tokenizers": (
        "Beyond the paper · Students with another tokenizer",
        "The same responses of the same teacher, by every loss that compares two vocabularies. Distances are in nats "
        "per byte, since the students have no token in common.",
    ),
    "consistency": (
        "Beyond the paper · Teacher consistency",
        "Policy gradients, and the plain run, of a student that was fine-tuned on the oracle’s responses, and of one "
        "that was fine-tuned on those of the teacher that is distilled.",
    ),
    "axes": ("Your own grid", "The product of axes that you asked for."),
}

_BEYOND = ("target", "once", "lora", "tokenizers", "consistency", "axes")  # of which the paper says nothing


def paper_figures(grid: Grid, *, draw: bool = True) -> list[PaperFigure]:
    """Every figure that has a finished run; without `draw`, their claims and numbers alone."""
    return [
        _paper_figure(grid, name, draw=draw) for name in grid.summary.figures if name in TITLES and grid.in_figure(name)
    ]


def _paper_figure(grid: Grid, name: str, *, draw: bool) -> PaperFigure:
    shown = _ordered(grid, name)
    colours = _colours(name, shown)
    own = {"F4": _f4, "F5": _f5, "F6": _f6, "F8": _by_task, "target": _by_bytes, "once": _by_bytes}
    make = _dose if _is_dose(name, shown) else own.get(name, _dots)
    title, summary = TITLES[name]
    return PaperFigure(
        name=name,
        title=title,
        summary=summary if name in _BEYOND else f"The paper: {summary}",
        plots=tuple(_gaps(grid) if name == "tokenizers" else make(name, shown, colours)) if draw else (),
        arms=tuple(arm.runs for arm in shown),
        colours=tuple(colours),
        claims=tuple(claim for claim in grid.summary.claims if claim.figure == name),
        has_legend=make in (_dose, _f4, _f5, _by_task),
    )


def _ordered(grid: Grid, name: str) -> list[GridArm]:
    """A figure's arms, along its axis if it has one."""
    axis = {"F6": "diversity", "F7": "budget", "fraction": "fraction_online", "lora": "lora_rank"}.get(name)
    shown = grid.in_figure(name)
    return sorted(shown, key=lambda arm: float(getattr(arm.axes, axis))) if axis else shown


def _colours(name: str, shown: Sequence[GridArm]) -> list[Colour]:
    """Roles keep their colours; along an axis the plain run is offline's and the others move away from it."""
    if _is_dose(name, shown):
        found = doses(len(shown), worse=name == "F6")
        ends_online = shown[-1].axes.source == "online-teacher"
        return [*found[:-1], ONLINE_TEACHER] if ends_online else found
    sources = {"offline": OFFLINE, "online-teacher": ONLINE_TEACHER}
    if name in ("F8", "loss", "sizes"):
        return [sources.get(arm.axes.source, MUTED) for arm in shown]
    return colours_of([arm.runs for arm in shown])


def _is_dose(name: str, shown: Sequence[GridArm]) -> bool:
    alike = len({(arm.axes.task, arm.axes.num_prompts) for arm in shown}) == 1
    return name in ("F6", "F7", "fraction") and alike and len(shown) <= (4 if name == "F6" else 5)


def _f4(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    yield rendered(
        name,
        plane(_runs(shown), colours),
        "Golden over proxy",
        f"{_seeds_text(shown)}Training runs to the right. Ring: golden’s lowest point. "
        "Large marker: the end. Dashed: where a perfect copy of the teacher would be; "
        "band: range of the seeds’ teachers.",
    )


def _f5(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    yield rendered(
        f"{name}-golden",
        golden(_runs(shown), colours, size=SMALL),
        "Golden: distance to the oracle",
        "Lower is better. Line and band: median and range of the seeds. Label: median rise from minimum to end.",
    )
    yield _proxy(name, shown, colours)
    runs = _runs(shown)
    figure = curve(runs, "train_loss", loss_label(runs), colours)
    yield rendered(f"{name}-train", figure, "Training loss", _LOG)


def _seeds_text(shown: Sequence[GridArm]) -> str:
    """What the lines are, where arms have several seeds."""
    several = any(len(arm.runs.runs) > 1 for arm in shown)
    return "Thin lines are seeds, the thick one their median. " if several else ""


def _dose(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    yield rendered(
        f"{name}-golden",
        golden(_runs(shown), colours, size=SMALL),
        "Golden: distance to the oracle",
        "Line and band: median and range of the seeds. Label: median rise.",
    )
    yield _proxy(name, shown, colours)
    yield from _dots(name, shown, colours)


def _f6(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    """Too many arms for curves: every rise, task by task."""
    tasks = dict.fromkeys(arm.axes.task for arm in shown)
    if len(tasks) == 1:
        yield from _dots(name, shown, colours)
        return
    for task in tasks:
        own = [(arm, colour) for arm, colour in zip(shown, colours, strict=True) if arm.axes.task == task]
        yield rendered(
            f"{name}-{task}",
            rises([arm.runs for arm, _ in own], [colour for _, colour in own]),
            f"Rise of golden, task {task}",
            "Dots: seeds. Bar: mean with its 95 % interval over seeds (Student’s t). Dashed: the margin of 3 %.",
        )


def _by_task(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    for task in dict.fromkeys(arm.axes.task for arm in shown):
        own = [(arm.runs, colour) for arm, colour in zip(shown, colours, strict=True) if arm.axes.task == task]
        figure = golden([arm for arm, _ in own], [colour for _, colour in own], size=SMALL)
        yield rendered(f"{name}-{task}", figure, f"Golden, task {task}", "Orange: offline. Blue: online-teacher.")


def _by_bytes(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    yield rendered(
        f"{name}-bytes",
        ends_by_bytes(shown),
        "Where golden ends, over what the target costs",
        "Mean and 95 % interval over seeds (Student’s t). Bytes per token of the record that holds such a target. "
        "Dashed: exact distributions.",
    )
    yield from _dots(name, shown, colours)


def _gaps(grid: Grid) -> Iterator[RenderedFigure]:
    for tokenizer in dict.fromkeys(one.tokenizer for one in grid.summary.gaps):
        found = [one for one in grid.summary.gaps if one.tokenizer == tokenizer]
        of = f"tokenizer {tokenizer}" if tokenizer else "the teacher’s tokenizer"
        yield rendered(
            f"tokenizers-{tokenizer.replace(':', '-') or 'same'}",
            gaps(found),
            f"Gap to the teacher, {of}",
            "Dots: seeds, each at the learning rate that is best on the others. Bar: mean with its 95 % interval over "
            "seeds (Student’s t). Orange: published losses. Blue: cells.",
        )


def _dots(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> Iterator[RenderedFigure]:
    yield rendered(
        f"{name}-rise",
        rises(_runs(shown), colours),
        "Rise of golden, end over minimum",
        "Dots: seeds. Bar: mean with its 95 % interval over seeds (Student’s t). Dashed: the margin of 3 %.",
    )


def _proxy(name: str, shown: Sequence[GridArm], colours: Sequence[Colour]) -> RenderedFigure:
    runs = _runs(shown)
    figure = curve(runs, "proxy", f"proxy, {unit(runs)}", colours)
    return rendered(f"{name}-proxy", figure, "Proxy: distance to the teacher", _LOG)


def _runs(shown: Sequence[GridArm]) -> list[ArmRuns]:
    return [arm.runs for arm in shown]
