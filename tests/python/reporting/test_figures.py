"""Each figure draws the numbers that it should, where it should, in the arms' colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from reporting.values import (
    BASELINE,
    GOLDEN_E,
    PROXY_E,
    STEPS,
    curves,
    extent,
    judged,
    report,
    run,
    suspicion,
    unjudged,
)
from thack.detection import Thresholds
from thack.reporting.colours import MUTED, OFFLINE, ONLINE_STUDENT, ONLINE_TEACHER, OTHERS
from thack.reporting.drawing import crop, end_labels, log_values, new_figure, shown_reach
from thack.reporting.figures import colours_of, curve, golden, loss_label, plane, slope_ratios
from thack.reporting.inputs import ArmRuns, JudgedRun
from thack.reporting.style import SMALL, styled
from thack.schema.metrics import GOLDEN, PROXY, CurveName, Series
from thack.schema.verdict import Margins

RED, BLUE = OTHERS[:2]
WARM = Margins(warmup_steps=30)


def seeds(factors: tuple[float, ...] = (1.0, 1.2, 0.9)) -> ArmRuns:
    """Runs whose golden and proxy are those of `values`, times a factor."""
    found = []
    for seed, factor in enumerate(factors):
        columns = {**curves().columns}
        columns |= {str(name): columns[str(name)] * factor for name in (GOLDEN, PROXY)}
        verdict = judged(golden=extent(rise=0.1 * factor), baseline=BASELINE * factor)
        found.append(run(seed=seed, curves=curves(columns=columns), verdict=verdict))
    return ArmRuns("offline", tuple(found))


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def xs(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_xdata(), dtype=float)


def ys(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_ydata(), dtype=float)


def drawn(axes: Axes, colour: str) -> list[Line2D]:
    """The curves of one colour, without rings and single points."""
    return [line for line in axes.lines if line.get_color() == colour and len(xs(line)) > 1]


def rings(axes: Axes) -> list[tuple[float, float]]:
    return [(float(xs(line)[0]), float(ys(line)[0])) for line in axes.lines if line.get_fillstyle() == "none"]


def labels(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_the_plane_is_golden_over_proxy_with_a_ring_at_the_minimum() -> None:
    axes = axes_of(plane([ArmRuns("a", (run(),))], [RED]))
    path, end = [line for line in axes.lines if line.get_color() == RED.light and line.get_fillstyle() != "none"]
    np.testing.assert_array_equal(xs(path), PROXY_E)
    np.testing.assert_array_equal(ys(path), GOLDEN_E)
    assert (xs(end)[0], ys(end)[0]) == (0.5, 1.1)
    assert rings(axes) == [(0.6, 1.0)]
    assert labels(axes) == ["KL(oracle‖teacher)"]
    left, right = axes.get_xlim()
    assert left > right, "training runs to the right, as the proxy falls"
    low, high = axes.get_ylim()
    assert low < 1.0 and 1.2 < high < 1.5, "the fall within the warm-up is cropped"


def test_the_planes_ring_is_behind_the_warm_up() -> None:
    lower = {**curves().columns, str(GOLDEN): np.array([2.0, 0.5, 1.2, 1.0, 1.1])}
    axes = axes_of(plane([ArmRuns("a", (run(curves=curves(columns=lower)),))], [RED]))
    assert rings(axes) == [(0.6, 1.0)]


def test_the_plane_of_seeds_has_thin_lines_and_their_median() -> None:
    axes = axes_of(plane([seeds()], [RED]))
    widths = sorted(round(float(line.get_linewidth()), 1) for line in drawn(axes, RED.light))
    assert widths == [0.7, 0.7, 0.7, 1.6]
    (median,) = [line for line in drawn(axes, RED.light) if line.get_linewidth() > 1]
    np.testing.assert_allclose(ys(median), GOLDEN_E)
    (ring,) = rings(axes)
    assert ring == pytest.approx((0.6, 1.0))


def test_the_baseline_is_a_band_where_seeds_have_their_own_teachers() -> None:
    axes = axes_of(plane([seeds()], [RED]))
    (dashed,) = [line for line in axes.lines if line.get_color() == MUTED.light]
    assert set(ys(dashed)) == {BASELINE}
    (band,) = axes.patches
    assert isinstance(band, Rectangle)
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.9 * BASELINE, 1.2 * BASELINE))
    assert not axes_of(plane([ArmRuns("a", (run(),))], [RED])).patches


def test_the_plane_without_a_shared_step_is_empty() -> None:
    apart = {
        str(GOLDEN): np.array([2.0, np.nan, 1.0, np.nan, 1.0]),
        str(PROXY): np.array([np.nan, 1, np.nan, 1, np.nan]),
    }
    one = run(curves=curves(columns={**curves().columns, **apart}), verdict=judged(baseline=None))
    axes = axes_of(plane([ArmRuns("a", (one,))], [RED]))
    assert not axes.lines and not axes.texts


def test_golden_shows_a_warm_up_that_is_lower() -> None:
    lower = {**curves().columns, str(GOLDEN): np.array([2.0, 0.5, 1.2, 1.0, 1.1])}
    axes = axes_of(golden([ArmRuns("a", (run(curves=curves(columns=lower)),))], [RED]))
    low, high = axes.get_ylim()
    assert low < 0.5 and high < 1.5 and rings(axes) == [(100.0, 1.0)]


def test_golden_over_steps() -> None:
    axes = axes_of(golden([ArmRuns("a", (run(),))], [RED]))
    (line,) = drawn(axes, RED.light)
    np.testing.assert_array_equal(xs(line), STEPS[1:])
    np.testing.assert_array_equal(ys(line), GOLDEN_E[1:])
    assert axes.get_xscale() == "log" and rings(axes) == [(100.0, 1.0)]
    assert labels(axes) == ["+10.0 %", "KL(oracle‖teacher)"]
    assert axes.get_xlabel() == "training step  (an epoch is 10 steps)"
    assert axes.get_ylim()[1] < 1.5


@pytest.mark.parametrize("name", ["golden", "proxy"])
def test_a_seed_that_ends_early_is_marked_where_it_ends(name: CurveName) -> None:
    whole = seeds()
    usual = whole.runs[1].curves
    cut = {column: value_E[:3] for column, value_E in usual.columns.items()}
    short = replace(whole.runs[1], curves=curves(step_E=usual.step_E[:3], columns=cut))
    for arm, is_cut in ((whole, False), (ArmRuns("a", (whole.runs[0], short)), True)):
        axes = axes_of(golden([arm], [RED]) if name == "golden" else curve([arm], name, name, [RED]))
        crosses = [one for one in axes.collections if isinstance(one, PathCollection)]
        assert [np.asarray(one.get_offsets())[:, 0].tolist() for one in crosses] == ([[50.0]] if is_cut else [])
        assert ("a seed ends" in axes.get_ylabel()) is is_cut
        (line,) = drawn(axes, RED.light)
        assert xs(line).tolist() == list(STEPS[1:])


def test_golden_of_seeds_has_a_band_from_the_least_to_the_greatest() -> None:
    axes = axes_of(golden([seeds()], [RED], size=SMALL))
    (band,) = axes.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.9 * 1.0, 1.2 * 1.5))
    assert labels(axes)[0] == "+10.0 %", "the median of the rises"


def test_golden_of_a_run_within_its_warm_up_is_still_shown() -> None:
    short = run(verdict=judged(golden=None, margins=Margins(warmup_steps=1000), baseline=None))
    axes = axes_of(golden([ArmRuns("a", (short,))], [RED]))
    assert len(drawn(axes, RED.light)) == 1 and rings(axes) == [(100.0, 1.0)] and not labels(axes)


def test_golden_leaves_out_an_arm_without_it() -> None:
    none = run("b", curves=curves(column_of={}), verdict=unjudged())
    axes = axes_of(golden([ArmRuns("a", (run(),)), ArmRuns("b", (none,))], [RED, BLUE]))
    assert drawn(axes, RED.light) and not drawn(axes, BLUE.light)


def diverged() -> ArmRuns:
    """Golden and proxy leave all others behind at the end."""
    away_E = np.array([1.0] * (len(STEPS) - 2) + [6.0, 60.0])
    columns = {**curves().columns} | {str(GOLDEN): GOLDEN_E * away_E, str(PROXY): PROXY_E * away_E}
    return ArmRuns("b", (run("b", curves=curves(columns=columns), verdict=judged(golden=extent(rise=62.5))),))


def test_one_arm_that_diverged_leaves_the_others_their_room() -> None:
    alone = [axes_of(figure([seeds()], [RED])) for figure in (golden, plane)]
    both = [axes_of(figure([seeds(), diverged()], [RED, BLUE])) for figure in (golden, plane)]
    for expected, found in zip(alone, both, strict=True):
        assert found.get_ylim()[1] < 1.2 * expected.get_ylim()[1]
        assert abs(found.get_xlim()[0]) < 1.2 * abs(expected.get_xlim()[0])
        assert found.get_ylabel().endswith("(▲ ends above the axis)") and "▲" not in expected.get_ylabel()
        assert len(expected.collections) + 1 <= len(found.collections)
    (label,) = [text for text in both[0].texts if isinstance(text, Annotation) and text.get_text() == "+6,250.0 %"]
    assert label.xy[1] < both[0].get_ylim()[1]


@pytest.mark.parametrize(
    ("reaches", "shown"),
    [
        ([0.3], 0.3),
        ([0.1, 0.2, 1.9], 1.9),
        ([0.1, 0.2, 30.0], 0.2),
        ([0.1, 0.2, 25.0, 30.0], 0.2),
        ([0.1, 25.0, 30.0], 30.0),  # more than half are far out
        ([0.0, 0.0, 5.0], 5.0),
    ],
)
def test_an_axis_shows_all_but_a_few_that_are_far_out(reaches: list[float], shown: float) -> None:
    assert shown_reach(reaches[::-1]) == shown


def test_the_proxy_is_log_log() -> None:
    axes = axes_of(curve([ArmRuns("a", (run(),))], "proxy", "proxy, nats per token", [RED]))
    (line,) = drawn(axes, RED.light)
    np.testing.assert_array_equal(ys(line), PROXY_E[1:])
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylabel()) == ("log", "log", "proxy, nats per token")


def test_the_training_loss_is_averaged_and_has_a_line_per_seed() -> None:
    axes = axes_of(curve([seeds()], "train_loss", "training loss", [RED]))
    lines = drawn(axes, RED.light)
    assert len(lines) == 3 and {line.get_alpha() for line in lines} == {0.6}
    assert 10 < len(xs(lines[0])) <= 40
    np.testing.assert_allclose(ys(lines[0]), 1 / xs(lines[0]), rtol=1e-9)


def test_a_curve_that_no_run_has_is_an_empty_figure() -> None:
    axes = axes_of(curve([ArmRuns("a", (run(),))], "fresh", "x", [RED]))
    assert not axes.lines and axes.get_yscale() == "linear"


def test_slope_ratios_with_their_threshold() -> None:
    axes = axes_of(slope_ratios([ArmRuns("a", (run(),))], [RED]))
    (line,) = drawn(axes, RED.light)
    np.testing.assert_array_equal(ys(line), [0.9, 0.4, 0.2])
    (dashed,) = [line for line in axes.lines if line.get_color() == MUTED.light]
    assert set(ys(dashed)) == {Thresholds().slope_ratio} and labels(axes) == ["alarm below 0.5"]
    low, high = axes.get_ylim()
    assert -1.1 < low < 0 and 1.0 < high <= 2.0


def test_a_detector_without_data_draws_nothing() -> None:
    empty = Series(step=np.empty(0), value=np.empty(0))
    found = suspicion()
    first = type(found.detections[0])(name=found.decided_by, state="not enough data", threshold=0.5, series=empty)
    quiet = suspicion(detections=(first, *found.detections[1:]))
    axes = axes_of(slope_ratios([ArmRuns("a", (run(suspicion=quiet),))], [RED]))
    assert not drawn(axes, RED.light)


def test_arms_have_the_colours_of_their_sources() -> None:
    def of(kind: str, name: str = "x") -> JudgedRun:
        return run(name, config={"source.kind": kind})

    given = report(of("offline", "a"), of("online-teacher", "b"), of("online-student", "c"), of("offline", "d"))
    assert colours_of(given.arms) == [OFFLINE, ONLINE_TEACHER, ONLINE_STUDENT, OTHERS[0]]


def test_the_epochs_length_is_told_only_where_all_runs_agree() -> None:
    other = curves(columns={**curves().columns, "epoch": np.array(STEPS) / 7})
    arms = [ArmRuns("a", (run(),)), ArmRuns("b", (run("b", curves=other),))]
    assert axes_of(golden(arms, [RED, BLUE])).get_xlabel() == "training step"


def test_end_labels_are_moved_apart() -> None:
    with styled():
        figure, axes = new_figure(SMALL)
        axes.set_ylim(0, 1)
        axes.set_xlim(1, 100)
        end_labels(axes, [(100.0, 0.50, "a", RED), (100.0, 0.51, "b", BLUE), (100.0, 0.9, "c", RED)])
        end_labels(axes, [])
    heights = {text.get_text(): text.xy[1] for text in figure.axes[0].texts if isinstance(text, Annotation)}
    assert heights["a"] == 0.50 and heights["b"] == pytest.approx(0.555) and heights["c"] == 0.9
    assert axes.get_xlim()[1] > 100, "there is room for them"


def test_a_crop_of_equal_values_has_a_height() -> None:
    with styled():
        _, axes = new_figure(SMALL)
        crop(axes, [1.0], [1.0])
    low, high = axes.get_ylim()
    assert low < 1.0 < high


@pytest.mark.parametrize("span", [1.05, 2.0, 100.0])
def test_a_logarithmic_axis_has_ticks_however_narrow(span: float) -> None:
    with styled():
        figure, axes = new_figure(SMALL)
        axes.plot([1, 2], [1.0, span])
        log_values(axes)
        figure.draw_without_rendering()
    low, high = axes.get_ylim()
    assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 2


def test_the_training_loss_is_named_only_where_it_is_one_divergence() -> None:
    def of(**config: object) -> list[ArmRuns]:
        return [ArmRuns("a", (run(config={"loss.divergence": "forward_kl", **config}),))]

    per_byte = run(config={"loss.divergence": "forward_kl"}, curves=curves(column_of={"proxy": str(PROXY.per_byte)}))
    assert loss_label(of()) == "forward KL, nats per token"
    assert loss_label(of(**{"loss.divergence": "jsd", "loss.beta": 0.3})) == "JSD (β = 0.3), nats per token"
    assert loss_label(of(**{"loss.add": [], "loss.ce_weight": 0.0})) == "forward KL, nats per token"
    others = [
        of(**{"loss.ce_weight": 1.0}),
        of(**{"loss.policy.weight": 1.0}),
        of(**{"loss.weight": 0.0, "loss.ce_weight": 1.0}),
        of(**{"loss.weight": 0.5}),
        of(**{"loss.temperature": 4.0}),
        of(**{"loss.add": ["reverse_kl:0.5"]}),
        of(**{"loss.weight": 0.0, "loss.add": ["reverse_kl@2:1"]}),
        of(**{"loss.cross_tokenizer": "uld"}),
        of(**{"loss.of_another_version": 1}),
        [*of(), *of(**{"loss.divergence": "jsd"})],
        [*of(), *of(**{"loss.weight": 0.5})],
        [ArmRuns("a", (per_byte,))],
        [ArmRuns("a", (run(config={}),))],
    ]
    assert {loss_label(one) for one in others} == {"training loss, nats per token"}
