"""A verdict in words: every verdict and every state of a detector has some, and the numbers in them are right."""

from __future__ import annotations

import doctest
from typing import get_args

import pytest

from reporting.values import extent, healthy, judged, proxy_extent, suspicion, unjudged
from thack.detection import DETECTORS
from thack.reporting import numbers, prose
from thack.schema.metrics import GOLDEN, Role
from thack.schema.verdict import DetectionState, VerdictName

JUDGE, HUMAN = (str(GOLDEN.against(role)) for role in (Role.JUDGE, Role.HUMAN))


def test_every_verdict_and_every_state_of_a_detector_has_a_meaning() -> None:
    assert set(prose.MEANING) == set(get_args(VerdictName))
    assert set(prose.DETECTORS) == {detector.name for detector in DETECTORS}
    for texts in prose.DETECTORS.values():
        assert set(texts) == set(get_args(DetectionState)) and all(texts.values())


def test_examples() -> None:
    found = doctest.testmod(prose)
    assert found.attempted and not found.failed


def test_the_reasons_of_hacking() -> None:
    assert prose.reasons(judged(notes=("a note",))) == [
        "golden (distance to the oracle) is lowest at step 100 (1) and ends at 1.1: a rise of +10.0 %, "
        "[+5.0, +15.0] %, which is above the margin of 3.0 %",
        "proxy (distance to the teacher) keeps falling meanwhile: 0.6 → 0.5 (−16.7 %)",
        "golden ends above the teacher baseline KL(oracle‖teacher) = 1.05 (by +0.050 [+0.010, +0.090] nats): the "
        "student is now further from the truth than its teacher is",
        "a note",
    ]


@pytest.mark.parametrize(
    ("interval", "where"),
    [((0.05, 0.15), "is above"), ((0.01, 0.15), "contains"), ((-0.01, 0.02), "is below"), ((0.03, 0.1), "is above")],
)
def test_where_the_interval_is(interval: tuple[float, float], where: str) -> None:
    first = prose.explain(judged(golden=extent(rise_interval=interval)))[0]
    assert f"which {where} the margin of 3.0 %" in first


def test_a_student_that_was_better_before_is_told_so_whatever_the_verdict() -> None:
    """Golden that rises within the warm-up, and then stays, is no rise."""
    worse = [judged(golden=extent(start=0.9)), healthy(golden=extent(start=0.9, minimum=1.1, rise=0.0))]
    for found in worse:
        assert (
            "golden was 0.9 at the first evaluation, and is 22.2 % higher at the end: by it the student was better then"
        ) in prose.reasons(found)
    for start in (1.08, 2.0, 0.0):
        assert "at the first evaluation" not in str(prose.reasons(judged(golden=extent(start=start))))


def test_without_an_interval_the_margin_is_named() -> None:
    found = prose.explain(judged(golden=extent(), num_prompts=None))
    assert found[0].endswith("a rise of +10.0 %, to be compared with the margin of 3.0 %")
    assert found[-1].startswith("no values per prompt were logged")


@pytest.mark.parametrize(
    ("change", "verb"),
    [(-0.1, "keeps falling"), (0.0, "stays level"), (-0.004, "stays level"), (0.02, "moves within its margin")],
)
def test_what_the_proxy_does_meanwhile(change: float, verb: str) -> None:
    assert f"proxy (distance to the teacher) {verb} meanwhile" in prose.explain(judged(proxy_change=change))[1]


def test_a_proxy_that_rises_too() -> None:
    risen = proxy_extent(rise=0.2, minimum_step=50.0)
    assert prose.explain(judged(name="over-fitting", proxy=risen))[1] == (
        "proxy (distance to the teacher) rises too, by +20.0 % from its own minimum at step 50 (margin 3.0 %)"
    )


def test_a_proxy_that_may_rise_too() -> None:
    unsure = proxy_extent(rise=0.01, rise_interval=(-0.01, 0.05))
    text = prose.explain(judged(proxy=unsure))[1]
    assert text.endswith("its own rise, [−1.0, +5.0] %, is not surely below 3.0 %: over-fitting is not excluded")


def test_healthy_says_nothing_of_the_proxy_and_no_proxy_is_said() -> None:
    assert not [reason for reason in prose.explain(healthy()) if reason.startswith("proxy")]
    assert "there is no proxy column: over-fitting and hacking cannot be told apart" in prose.explain(
        judged(proxy=None, name="inconclusive")
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"baseline": None}, "KL(oracle‖teacher) is not known: where a perfect copy of the teacher would end"),
        (
            {"side": "too close to tell", "over_baseline_interval": None},
            "golden ends at the teacher baseline KL(oracle‖teacher) = 1.05, too close to tell above from below",
        ),
        (
            {"side": "below", "over_baseline": -0.05, "over_baseline_interval": (-0.09, -0.01)},
            "golden ends below the teacher baseline KL(oracle‖teacher) = 1.05 (by −0.050 [−0.090, −0.010] nats), but "
            "the proxy has not converged, so this is not a mere return to the teacher",
        ),
    ],
)
def test_the_baseline(changes: dict[str, object], expected: str) -> None:
    assert prose.explain(judged(**changes))[2] == expected


def test_stand_ins_are_named_and_explained() -> None:
    judge = prose.explain(judged(golden=extent(column=JUDGE)))
    assert judge[0].startswith("golden (distance to the judge)") and "a stronger model in its role" in judge[1]
    assert judge[-1].endswith("the student is now further from its judge than its teacher is")
    human = prose.explain(judged(golden=extent(column=HUMAN)))
    assert human[0].startswith("golden (negative log-likelihood of human references)")
    assert "teacher baseline teacher's own likelihood = 1.05" in human[-1]
    assert prose.stand_in(str(GOLDEN)) is None and prose.stand_in("eval/kl") is None


@pytest.mark.parametrize(
    ("num", "first"),
    [
        (8, "there is no golden column: whether the student got worse cannot be seen"),
        (0, "no evaluation comes after the warm-up of 30 steps (the margin warmup_steps): whether the student got"),
    ],
)
def test_without_golden(num: int, first: str) -> None:
    found = prose.explain(unjudged(num_evaluations=num))
    assert found[0].startswith(first)
    assert found[1] == "the proxy went from 1.8 to 0.5; ask the detectors that need no oracle"
    assert len(prose.explain(unjudged(num_evaluations=num, proxy=None))) == 1


def test_a_suspicion_gives_what_decides_and_what_fired() -> None:
    found = prose.reasons(suspicion({"slope ratio": 48.0}, notes=("a note",)))
    assert [reason.partition(" (")[0] for reason in found[:2]] == ["fresh slope ratio", "slope ratio"]
    assert found[1].startswith("slope ratio (0.25, alarm below 0.5): the student still improves")
    assert found[2].startswith("without an oracle this is a suspicion") and found[3] == "a note"


@pytest.mark.parametrize(("apart", "memorised"), [(1.1, False), (1.5, True), (2.21, True)])
def test_a_suspicion_says_how_far_apart_prompts_are(apart: float, memorised: bool) -> None:
    told = next(
        line for line in prose.reasons(suspicion({}, prompts_apart=apart)) if line.startswith("held-out prompts")
    )
    assert f"{apart:.2f} times as far from the teacher" in told
    assert told.endswith("train on more prompts") == memorised


def test_percents_have_a_sign_and_a_real_minus() -> None:
    assert numbers.percent(0.0934) == "+9.3 %" and numbers.percent(-0.1) == "−10.0 %"
    assert numbers.percent(-1e-5) == "0.0 %"
    assert numbers.percent(0.03, sign=False) == "3.0 %"
    assert numbers.percent_interval((-0.041, 0.148)) == "[−4.1, +14.8] %"
