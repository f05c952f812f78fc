"""A grid's figures: which plots each has, in which order and colours its arms are, and what the plots draw."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.axes import Axes

from reporting.grid_of_runs import BASE, ONLINE
from reporting.grid_values import EFFECT, OFFLINE_ARM, ONLINE_ARM, arm, grid
from reporting.values import healthy, run, unjudged
from thack.reporting.colours import BETTER, MUTED, OFFLINE, ONLINE_TEACHER, OTHERS, WORSE
from thack.reporting.effects import effect_of
from thack.reporting.grid import GridArm
from thack.reporting.grid_figures import TITLES, PaperFigure, paper_figures
from thack.reporting.grid_plots import ends_by_bytes, rises
from thack.reporting.inputs import ArmRuns
from thack.schema.experiment import ClaimResult, ExperimentArm


def only(found: list[PaperFigure]) -> PaperFigure:
    (figure,) = found
    return figure


@pytest.mark.parametrize(
    ("figure", "others", "plots"),
    [
        ("F4", [], ["F4"]),
        ("F5", [ONLINE_ARM], ["F5-golden", "F5-proxy", "F5-train"]),
        ("F6", [arm("prompts ÷5", ["F6"], diversity=5)], ["F6-golden", "F6-proxy", "F6-rise"]),
        ("F7", [arm("5 generations", ["F7"], budget=5)], ["F7-golden", "F7-proxy", "F7-rise"]),
        ("F8", [arm("x", ["F8"], task="my task")], ["F8-docstring", "F8-my-task"]),
        ("fraction", [ONLINE_ARM], ["fraction-golden", "fraction-proxy", "fraction-rise"]),
        ("loss", [ONLINE_ARM], ["loss-rise"]),
        ("sizes", [ONLINE_ARM], ["sizes-rise"]),
        ("target", [arm("x", ["target"], target="top-k:16", size=38)], ["target-bytes", "target-rise"]),
        ("once", [], ["once-bytes", "once-rise"]),
        ("lora", [arm("LoRA of rank 8", ["lora"], lora_rank=8)], ["lora-rise"]),
        ("axes", [], ["axes-rise"]),
    ],
)
def test_the_plots_of_each_figure(figure: str, others: list[GridArm], plots: list[str]) -> None:
    found = only(paper_figures(grid(OFFLINE_ARM, *others, figures=[figure])))
    assert [plot.name for plot in found.plots] == plots
    assert all(plot.title and plot.caption and plot.svg for plot in found.plots)
    assert (found.name, found.title) == (figure, TITLES[figure][0])
    assert found.summary.startswith("The paper: ") == (figure not in ("target", "once", "lora", "axes"))
    assert [plot.large for plot in found.plots] == [figure == "F4"] * len(plots)


def test_without_drawing_there_are_arms_and_claims() -> None:
    claim = ClaimResult(
        figure="F4", text="x", measure="y", unit="%", above=0.0, below=None, effect=EFFECT, answer="inconclusive"
    )
    given = grid(OFFLINE_ARM, figures=["F4"], claims=[claim, replace(claim, figure="F5")])
    found = only(paper_figures(given, draw=False))
    assert (found.plots, found.claims, [one.name for one in found.arms]) == ((), (claim,), ["offline"])


def test_figures_without_an_arm_and_unknown_ones_are_left_out() -> None:
    given = grid(arm("offline", ["F4"]), figures=["F5", "F4", "F99"])
    assert [figure.name for figure in paper_figures(given, draw=False)] == ["F4"]


def test_arms_are_in_the_order_of_their_axis_and_their_colours_lead_away_from_offline() -> None:
    more = [arm(f"÷{n}", ["F6"], diversity=n) for n in (5, 2)]
    found = only(paper_figures(grid(*more, OFFLINE_ARM, figures=["F6"]), draw=False))
    assert [one.name for one in found.arms] == ["offline", "÷2", "÷5"]
    assert found.colours == (OFFLINE, WORSE[0], WORSE[1])
    budgets = [arm(f"{n} generations", ["F7"], budget=n) for n in (3, 2)]
    found = only(paper_figures(grid(OFFLINE_ARM, *budgets, figures=["F7"]), draw=False))
    assert [one.name for one in found.arms] == ["offline", "2 generations", "3 generations"]
    assert found.colours == (OFFLINE, *BETTER[:2])


def test_a_share_that_ends_online_ends_in_the_online_teachers_colour() -> None:
    tenth = arm("10 % online", ["fraction"], source="mixture", target="live", fraction_online=0.1)
    found = only(paper_figures(grid(ONLINE_ARM, tenth, OFFLINE_ARM, figures=["fraction"]), draw=False))
    assert [one.name for one in found.arms] == ["offline", "10 % online", "online-teacher"]
    assert found.colours == (OFFLINE, BETTER[0], ONLINE_TEACHER)


def test_pairs_have_the_colours_of_their_sources_and_many_arms_those_of_all() -> None:
    student = arm("online-student", ["loss"], **{**ONLINE, "source": "online-student"})
    found = only(paper_figures(grid(OFFLINE_ARM, ONLINE_ARM, student, figures=["loss"]), draw=False))
    assert found.colours == (OFFLINE, ONLINE_TEACHER, MUTED)
    many = [arm(f"÷{n}", ["F6"], diversity=n) for n in range(2, 7)]
    found = only(paper_figures(grid(OFFLINE_ARM, *many, figures=["F6"])))
    assert [plot.name for plot in found.plots] == ["F6-rise"], "too many for curves"
    assert found.colours[0] == OFFLINE and len(set(found.colours)) == 6


def lines(axes: Axes, colour: str) -> list[list[float]]:
    return [np.asarray(line.get_xdata(), dtype=float).tolist() for line in axes.lines if line.get_color() == colour]


def test_rises_have_a_dot_per_seed_a_bar_and_their_interval() -> None:
    (axes,) = rises([OFFLINE_ARM.runs], [OFFLINE]).axes
    interval, dots, mean = lines(axes, OFFLINE.light)
    effect = effect_of({0: 10.0, 1: 20.0, 2: 30.0})
    assert dots == pytest.approx([10.0, 20.0, 30.0]) and mean == pytest.approx([20.0])
    assert interval == pytest.approx([effect.low, effect.high])
    assert lines(axes, MUTED.light) == [[3.0, 3.0]], "the margin"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["offline"]


def test_rises_of_one_seed_and_of_none() -> None:
    one, none = arm("a", [], (1.1,)), ArmRuns("b", (run("b", verdict=unjudged()),))
    (axes,) = rises([one.runs, none], [OFFLINE, OTHERS[0]]).axes
    assert len(lines(axes, OFFLINE.light)) == 2, "a dot and a bar, no interval"
    assert not lines(axes, OTHERS[0].light)
    low, high = axes.get_ylim()
    assert (low, high) == (1.5, -0.5), "the first arm is on top"


def test_rises_of_an_arm_that_diverged_are_named_on_the_edge() -> None:
    """A rise of 6,500 % leaves rises of 10 to 30 % where they were."""
    far = arm("b", [], (64.0, 66.0, 68.0))
    (axes,) = rises([OFFLINE_ARM.runs, far.runs], [OFFLINE, OTHERS[0]]).axes
    (alone,) = rises([OFFLINE_ARM.runs], [OFFLINE]).axes
    assert axes.get_xlim() == pytest.approx(alone.get_xlim(), abs=4)
    assert [text.get_text() for text in axes.texts] == ["6,500"] and not alone.texts
    assert axes.get_xlabel() == "rise of golden, %\n(▶ beyond the axis)"
    near = arm("b", [], (2.0, 3.0, 4.0))
    (axes,) = rises([OFFLINE_ARM.runs, near.runs], [OFFLINE, OTHERS[0]]).axes
    assert axes.get_xlim()[1] > 300 and not axes.texts, "a rise of 300 % is shown"


def test_ends_by_bytes_has_a_line_per_kind_of_target() -> None:
    shown = [
        arm("exact", ["target"], (1.0, 1.0, 1.0), size=4096),
        arm("a", ["target"], (1.3, 1.4, 1.5), target="top-k:64", size=120),
        arm("b", ["target"], (1.2, 1.2, 1.2), target="top-k:16", size=38),
        arm("c", ["target"], (1.1,), target="live/mixed:16+prior", size=38),
        arm("d", ["target"], target="live/sampled:16+redraw", size=30),
        replace(arm("e", ["target"], size=30), runs=ArmRuns("e", (run("e", verdict=unjudged()),))),
    ]
    (axes,) = ends_by_bytes(shown).axes
    (top_k,) = [line for line in axes.lines if line.get_label() == "top-K + tail"]
    assert np.asarray(top_k.get_xdata()).tolist() == [38, 120], "in the order of their size"
    np.testing.assert_allclose(np.asarray(top_k.get_ydata(), dtype=float), [1.2, 1.4])
    (mixed,) = [line for line in axes.lines if line.get_label() == "top-K, tail by prior or draws"]
    assert mixed.get_linestyle() == "None" and np.asarray(mixed.get_xdata()).tolist() == [38]
    (exact,) = [line for line in axes.lines if line.get_color() == MUTED.light]
    assert set(np.asarray(exact.get_ydata(), dtype=float)) == {1.0}
    assert sorted(text.get_text() for text in axes.texts) == ["16", "16", "64"]
    assert axes.get_legend() is not None and axes.get_xscale() == "log"


def test_ends_by_bytes_of_exact_targets_alone_has_no_legend() -> None:
    alone = GridArm(
        axes=ExperimentArm(**BASE), figures=(), runs=ArmRuns("a", (run("a", verdict=healthy()),)), bytes_per_token=8
    )
    (axes,) = ends_by_bytes([alone]).axes
    assert axes.get_legend() is None and len(axes.lines) == 1


def test_diversity_on_several_tasks_is_a_plot_for_each() -> None:
    tasks = [arm(f"{task} ÷{n}", ["F6"], diversity=n, task=task) for task in ("postfix", "signature") for n in (1, 5)]
    found = only(paper_figures(grid(*tasks, figures=["F6"])))
    assert [plot.name for plot in found.plots] == ["F6-postfix", "F6-signature"]


def test_names_of_many_rows_do_not_overlap_and_fit() -> None:
    names = [f"online-teacher, forward KL, prompts ÷{n}, target live/mixed:16+prior, task signature" for n in range(24)]
    for shown in (names, names[:8], [name[:20] for name in names]):
        figure = rises([replace(OFFLINE_ARM.runs, name=name) for name in shown], [OFFLINE] * len(shown))
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        assert len(boxes) == len(shown)
        assert all(above.y0 >= below.y1 for above, below in pairwise(boxes)), "the first arm is on top"
        assert min(box.x0 for box in boxes) >= 0


def test_the_k_of_targets_of_one_size_do_not_overlap() -> None:
    kinds = ("top-k:16", "live/renormalised:16", "sampled:16", "live/mixed:16+prior")
    shown = [arm(kind, ["target"], (1.1,), target=kind, size=38) for kind in kinds]
    shown.append(arm("other", ["target"], (1.4,), target="top-k:64", size=60))
    figure = ends_by_bytes(shown)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: (round(box.x0), box.y0))
    assert len(boxes) == 5 and all(low.y1 <= high.y0 or low.x1 <= high.x0 for low, high in pairwise(boxes))
    low, high = axes.get_xlim()
    assert sum(low <= tick <= high for tick in axes.get_xticks()) > 1, "a narrow axis has ticks"


def test_only_curves_need_a_legend() -> None:
    shown = [*(name for name in TITLES if name not in ("tokenizers", "F8"))]
    found = paper_figures(grid(OFFLINE_ARM, ONLINE_ARM, figures=shown))
    assert [one.name for one in found if one.has_legend] == ["F4", "F5", "F6", "F7", "fraction"]
