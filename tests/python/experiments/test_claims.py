"""Claims follow from what the runs came to: paired by seed, each arm compared with the one that differs in one axis."""

from __future__ import annotations

from typing import Any

import pytest

from thack.experiments.arms import FinishedArms
from thack.experiments.claim import answer, claim, minus, ratio
from thack.experiments.claims import claims
from thack.reporting.effects import effect_of
from thack.schema.experiment import CellResult, ClaimResult, TaskInformation

from .outcomes import BASE, ONLINE, cells, finished, outcome


def effects(*arms: list[CellResult]) -> dict[str, ClaimResult]:
    figures = tuple(dict.fromkeys(figure for cells in arms for cell in cells for figure in cell.figures))
    return {found.text: found for found in claims(finished(*arms), figures)}


def answers(*arms: list[CellResult]) -> dict[str, str]:
    return {text: found.answer for text, found in effects(*arms).items()}


def test_the_papers_claims_hold_where_the_runs_say_so() -> None:
    offline = cells(["F4", "F5", "F6", "F7"], 0.09)
    found = answers(
        offline,
        cells(["F5"], 0.003, **ONLINE),
        cells(["F6"], 0.14, diversity=5),
        cells(["F7"], 0.04, budget=5),
    )
    assert set(found.values()) == {"holds"}
    assert list(found) == [
        "Offline, golden falls and rises again",
        "… while the proxy keeps falling",
        "… and the student ends farther from the truth than its teacher",
        "With newly sampled responses by the teacher, golden does not rise again",
        "Offline data hacks more than newly sampled responses by the teacher",
        "The onset can be seen without the oracle",
        "Less diverse prompts (÷5) make hacking worse",
        "… at about the same proxy",
        "A larger budget (5 generations per prompt) makes hacking milder",
    ]


def test_the_opposite_does_not_hold() -> None:
    found = answers(cells(["F7"], 0.05), cells(["F7"], 0.15, budget=5))
    assert found == {"A larger budget (5 generations per prompt) makes hacking milder": "does not hold"}


def test_both_kinds_of_online_responses_are_compared() -> None:
    student: dict[str, Any] = {**ONLINE, "source": "online-student"}
    found = effects(cells(["F5"], 0.09), cells(["F5"], 0.01, **ONLINE), cells(["F5"], 0.02, **student))
    by_student = found["Offline data hacks more than newly sampled responses by the student"]
    assert by_student.measure == "rise offline − rise online-student"
    assert by_student.effect.mean == pytest.approx(0.07)


def test_a_share_of_new_responses_is_compared_with_the_offline_arm_of_the_same_target() -> None:
    mixture: dict[str, Any] = {"source": "mixture", "target": "live"}
    found = effects(
        cells(["fraction"], 0.09),
        cells(["fraction"], 0.05, fraction_online=0.1, **mixture),
        cells(["fraction"], 0.01, fraction_online=0.5, **mixture),
        cells(["fraction"], 0.0, **ONLINE),
    )
    assert {text: round(one.effect.mean, 3) for text, one in found.items()} == {
        "10 % of newly sampled responses makes hacking milder": 0.04,
        "50 % of newly sampled responses makes hacking milder": 0.08,
        "… and 50 % is enough to keep golden from rising again": 0.01,
    }
    assert found["… and 50 % is enough to keep golden from rising again"].answer == "holds"


@pytest.mark.parametrize(
    ("figure", "axes", "text"),
    [
        ("F8", {"task": "signature"}, "On task signature"),
        ("loss", {"loss": "jsd"}, "With JSD as loss"),
        ("loss", {"loss": "total_variation"}, "With total variation as loss"),
        ("sizes", {"student": "64", "teacher": "128"}, "From a teacher of 128 to a student of 64"),
    ],
)
def test_other_tasks_losses_and_sizes(figure: str, axes: dict[str, Any], text: str) -> None:
    found = answers(cells([figure], 0.09, **axes), cells([figure], 0.0, **axes, **ONLINE))
    assert found == {
        f"{text}, golden falls and rises again offline": "holds",
        f"{text}, offline hacks more than online": "holds",
    }


def test_what_does_not_reproduce_is_shown() -> None:
    found = answers(cells(["loss"], 0.10, loss="jsd"), cells(["loss"], 0.10, loss="jsd", **ONLINE))
    assert found["With JSD as loss, offline hacks more than online"] == "inconclusive"


def test_an_arm_is_compared_with_the_one_that_differs_in_one_axis() -> None:
    """A grid of one's own may cross an axis with others: two differences at once would be no comparison."""
    jsd: dict[str, Any] = {"loss": "jsd"}
    mixture: dict[str, Any] = {"source": "mixture", "target": "live", "fraction_online": 0.1}
    figures = ["F6", "fraction", "target"]
    found = effects(
        cells(figures, 0.05, end=1.0),
        cells(figures, 0.15, end=2.0, **jsd),
        cells(["F6"], 0.08, diversity=5),
        cells(["F6"], 0.10, diversity=5, **jsd),
        cells(["fraction"], 0.08, **mixture),
        cells(["fraction"], 0.10, **mixture, **jsd),
        cells(["target"], 0.1, end=1.1, target="top-k:16"),
        cells(["target"], 0.1, end=1.8, target="top-k:16", **jsd),
    )
    means = {text: round(one.effect.mean, 2) for text, one in found.items()}
    worse, milder = (
        "Less diverse prompts (÷5) make hacking worse",
        "10 % of newly sampled responses makes hacking milder",
    )
    assert (means[worse], means[f"{worse} (loss jsd)"]) == (0.03, -0.05)
    assert (means[milder], means[f"{milder} (loss jsd)"]) == (-0.03, 0.05)
    tail = "Top-16 with its tail is worse than exact"
    assert (means[tail], means[f"{tail} (loss jsd)"]) == (0.1, -0.1)


def test_what_a_cache_keeps_is_compared_by_goldens_end() -> None:
    found = effects(
        cells(["target"], 0.05, end=1.0),
        cells(["target"], 0.15, end=1.3, target="top-k:16"),
        cells(["target"], 0.10, end=1.2, target="live/mixed:16+prior"),
        cells(["target"], 0.25, end=1.5, target="sampled:16"),
        cells(["target"], 0.25, end=1.1, target="live/sampled:16+redraw"),
    )
    assert {text: one.answer for text, one in found.items()} == {
        "16 sampled ids that stay the same make golden rise more than exact targets": "holds",
        "Top-16 with its tail is worse than exact": "holds",
        "16 sampled ids are worse than exact": "holds",
        "A tail prior shared by the whole cache helps top-16": "holds",
        "Kept for many epochs, 16 sampled ids are worse than drawn again": "holds",
    }
    assert found["Top-16 with its tail is worse than exact"].effect.mean == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("swapped", [False, True])
def test_of_a_target_from_a_cache_and_from_the_live_teacher_the_cached_one_is_compared(swapped: bool) -> None:
    pair = [
        cells(["target"], 0.25, end=1.5, target="sampled:16"),
        cells(["target"], 0.25, end=9.0, target="live/sampled:16"),
    ]
    found = effects(cells(["target"], 0.05, end=1.0), *(reversed(pair) if swapped else pair))
    assert found["16 sampled ids are worse than exact"].effect.mean == pytest.approx(0.5, abs=1e-3)


def test_an_adapter_is_compared_with_all_weights() -> None:
    found = effects(
        cells(["lora"], 0.10, end=1.3),
        cells(["lora"], 0.02, end=1.0, lora_rank=8),
        cells(["lora"], 0.14, end=1.4, lora_rank=32),
        cells(["lora"], 0.05, end=1.2, loss="jsd"),
        cells(["lora"], 0.06, end=1.2, loss="jsd", lora_rank=8),
    )
    milder, nearer = "An adapter of rank {} makes hacking milder", "… and ends nearer to the oracle"
    assert {text: round(one.effect.mean, 2) for text, one in found.items() if text.startswith("An")} == {
        milder.format(8): 0.08,
        milder.format(32): -0.04,
        milder.format(8) + " (loss jsd)": -0.01,
    }
    assert found[milder.format(8)].answer == "holds" and found[milder.format(32)].answer == "does not hold"
    assert found[f"{nearer} (loss jsd)"].effect.mean == pytest.approx(0.0)
    assert found["… at about the same proxy"].answer == "holds"


def test_teacher_consistency_is_judged_by_where_offline_policy_gradients_end() -> None:
    own: dict[str, Any] = {"method": "offline-policy-gradient", "target": "top-k:1"}
    new: dict[str, Any] = {**ONLINE, "source": "online-student", "method": "policy-gradient"}
    found = effects(
        cells(["consistency"], 0.05, end=1.5, **own),
        cells(["consistency"], 0.0, end=1.2, **new),
        cells(["consistency"], 0.0, end=1.2, fine_tuned_on="teacher", **own),
        cells(["consistency"], 0.0, end=1.2, fine_tuned_on="teacher", **new),
    )
    as_good = "From a start that was fine-tuned on the {}’s responses, responses that it wrote once are as good as"
    answers = {text: one.answer for text, one in found.items()}
    assert answers[as_good.format("oracle") + " newly sampled ones"] == "does not hold"
    assert answers[as_good.format("teacher") + " newly sampled ones"] == "holds"
    nearer = "Offline, a start that was fine-tuned on the teacher’s responses ends nearer to the {}"
    assert answers[nearer.format("oracle")] == "holds" and answers[nearer.format("teacher")] == "inconclusive"
    assert found[nearer.format("oracle")].effect.mean == pytest.approx(0.25, abs=0.01)


def test_truncation_alone_where_each_response_is_seen_once() -> None:
    once: dict[str, Any] = {"budget": 60}
    found = answers(
        cells(["once"], 0.0, target="live", **once),
        cells(["once"], 0.1, end=1.4, target="live/renormalised:16", **once),
        cells(["once"], 0.01, target="top-k:16", **once),
    )
    alone = "makes golden rise again, though no response is seen twice"
    assert found == {
        f"Truncation to top-16, renormalised, {alone}": "holds",
        f"Truncation to top-16, with its tail, {alone}": "does not hold",
        "Top-16 with its tail is worse than exact": "inconclusive",
        "Renormalised, top-16 is worse than with its tail": "holds",
    }


def test_one_seed_is_never_enough() -> None:
    found = answers(cells(["F4"], 0.09, seeds=[0]))
    assert found and set(found.values()) == {"inconclusive"}


def test_seeds_are_paired() -> None:
    """A seed that failed in one arm is left out of the other."""
    found = effects(cells(["F7"], 0.09), cells(["F7"], 0.02, seeds=[1, 2], budget=2))
    claim_ = found["A larger budget (2 generations per prompt) makes hacking milder"]
    assert claim_.effect.seeds == (1, 2)
    assert claim_.effect.values == pytest.approx((0.07, 0.07))


def test_cells_without_an_outcome_make_no_claim() -> None:
    assert claims(finished(), ("F4", "F5", "F6", "F7", "F8", "fraction", "target", "once", "axes")) == ()
    assert finished().like(BASE) is None


def test_a_run_without_golden_has_no_rise_but_an_alarm() -> None:
    arms = finished(cells(["F5"], 0.1))
    without = outcome(None, golden_end=None, over_baseline=None, proxy_change=None)
    arms.arms[0].outcomes[0] = without  # type: ignore[index]
    found = {one.text: one for one in claims(arms, ("F4", "F5"))}
    assert found["Offline, golden falls and rises again"].effect.seeds == (1, 2)


@pytest.mark.parametrize(
    ("values", "bounds", "expected"),
    [
        ((0.09, 0.10, 0.11), (0.03, None), "holds"),
        ((0.00, 0.01, 0.00), (0.03, None), "does not hold"),
        ((0.02, 0.05, 0.03), (0.03, None), "inconclusive"),
        ((0.01, 0.02, 0.00), (None, 0.05), "holds"),
        ((0.01, 0.02, 0.00), (-0.10, 0.10), "holds"),
        ((0.5, 0.5, 0.5), (-0.10, 0.10), "does not hold"),
        ((-0.5, -0.5, -0.5), (-0.10, 0.10), "does not hold"),
        ((0.5,), (0.0, None), "inconclusive"),
    ],
)
def test_answers(values: tuple[float, ...], bounds: tuple[float | None, float | None], expected: str) -> None:
    above, below = bounds
    effect = effect_of(dict(enumerate(values)))
    assert answer(effect, above=above, below=below) == expected
    (found,) = claim("F4", "x", "y", "%", dict(enumerate(values)), above=above, below=below)
    assert (found.answer, found.above, found.below, found.effect) == (expected, above, below, effect)


def test_no_number_is_no_claim() -> None:
    assert list(claim("F4", "x", "y", "%", {}, above=0.0)) == []


def test_differences_and_ratios_are_of_seeds_that_both_have() -> None:
    assert minus({0: 3.0, 1: 5.0}, {1: 2.0, 2: 9.0}) == {1: 3.0}
    assert ratio({0: 3.0, 1: 5.0}, {0: 0.0, 1: 2.0}) == {1: 1.5}


def test_diversity_is_compared_within_one_task_and_one_size_and_says_what_prompts_decide() -> None:
    spread = {name: effect_of({0: 3.0}) for name in ("with_prompt", "without_prompt", "from_prompt")}
    about = TaskInformation(task="postfix", share=effect_of({0: 0.75}), **spread)
    postfix: dict[str, Any] = {"task": "postfix"}
    arms = FinishedArms.of(
        BASE,
        [
            *cells(["F6"], 0.05),
            *cells(["F6"], 0.06, diversity=10),
            *cells(["F6"], 0.10, **postfix),
            *cells(["F6"], 0.30, diversity=10, **postfix),
            *cells(["F6"], 0.20, **postfix, num_prompts=256),
            *cells(["F6"], 0.25, diversity=10, **postfix, num_prompts=256),
        ],
        [about],
    )
    found = {one.text: one for one in claims(arms, ("F6",)) if "worse" in one.text}
    text = "Less diverse prompts (÷10) make hacking worse"
    assert {name: round(one.effect.mean, 2) for name, one in found.items()} == {
        text: 0.01,
        f"{text} (task postfix)": 0.2,
        f"{text} (task postfix, num_prompts 256)": 0.05,
    }
    assert found[text].reason == "", "nothing was measured of docstrings"
    assert found[f"{text} (task postfix)"].reason == (
        "the prompt gives 3.00 nats a response token, 75 % of its information"
    )
