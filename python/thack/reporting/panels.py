"""The report's figures in their order, each with a caption for someone who has not read the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thack.detection import Curves
from thack.reporting.colours import Colour
from thack.reporting.figures import colours_of, curve, golden, plane, slope_ratios
from thack.reporting.prose import golden_name
from thack.reporting.runs import Subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Drawn:
    """A figure of the report with its caption and the words whose numbers go into its CSV."""

    name: str
    figure: Figure
    title: str
    caption: str
    words: tuple[str, ...]


def draw(subject: Subject) -> list[Drawn]:
    """The report's figures, as far as the runs have the numbers."""
    arms = subject.arms
    colours = colours_of(arms)
    curves = [run.curves for run in subject.runs]
    found = []
    several = any(len(arm.runs) > 1 for arm in arms)
    band = (
        "Line and band: median and range of the seeds."
        if several
        else "Band: 95 % interval over prompts of the ratio to the point at golden’s minimum (ring)."
    )
    judged = [run.curves for run in subject.runs if run.verdict.golden is not None]
    if _any(judged, "golden", "proxy"):
        found.append(
            Drawn(
                "plane",
                plane(arms, colours),
                "Proxy–golden plane",
                "Training runs to the right, as the student comes closer to its teacher. A healthy path only falls. "
                "A path that turns up pays for closeness to the teacher with distance from the truth: hacking. "
                "The ring is the lowest golden value, the large marker the end; a perfect copy of the teacher would "
                "end on the dashed line.",
                ("proxy", "golden", "baseline"),
            )
        )
    if _any(curves, "golden"):
        found.append(
            Drawn(
                "golden",
                golden(arms, colours),
                "Golden: what one really wants",
                f"{_capital(golden_name(subject.golden_column))} on held-out prompts; lower is better. "
                f"The label is the rise from minimum to end. {band} The steep start is cropped.",
                ("golden", "baseline"),
            )
        )
    found += _lower_row(subject, colours, curves)
    return found


def _lower_row(subject: Subject, colours: Sequence[Colour], curves: Sequence[Curves]) -> list[Drawn]:
    arms = subject.arms
    found = []
    if _any(curves, "proxy"):
        found.append(
            Drawn(
                "proxy",
                curve(arms, "proxy", "proxy, nats per token", colours),
                "Proxy: what the training sees",
                "Distance to the teacher on held-out prompts, both axes logarithmic. It keeps falling in hacking; "
                "if it rises, the student over-fits.",
                ("proxy",),
            )
        )
    if _any(curves, "train_loss"):
        found.append(
            Drawn(
                "train_loss",
                curve(arms, "train_loss", "training loss", colours),
                "Training loss",
                "Averaged over bins of steps, both axes logarithmic. A straight line tells nothing about the rest.",
                ("train_loss",),
            )
        )
    if any(len(run.suspicion.deciding.series) for run in subject.runs):
        found.append(
            Drawn(
                "slope_ratio",
                slope_ratios(arms, colours),
                "Slope ratio: a sign without an oracle",
                "How much of each step’s progress on the training responses is also progress on responses that it "
                "does not train on. Near 1 the student learns its task; near 0 it memorises.",
                ("fresh", "proxy", "monitor"),
            )
        )
    return found


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _any(curves: Sequence[Curves], *words: str) -> bool:
    return any(all(len(one.of(word)) for word in words) for one in curves)
