"""The headline and the cards: right about the numbers, in English for one and for many."""

from __future__ import annotations

import pytest

from reporting.values import (
    colours,
    curves,
    extent,
    healthy,
    judged,
    report,
    rows,
    run,
    suspicion,
    unjudged,
    without_golden,
)
from thack.reporting import tables
from thack.reporting.inputs import ArmRuns, JudgedRun
from thack.reporting.sentences import arm_sentences, headline
from thack.schema.metrics import GOLDEN, Role


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (judged(), "This student hacks its teacher from step 100 on"),
        (healthy(), "This student stays healthy"),
        (judged(name="over-fitting"), "This student over-fits from step 100 on"),
        (judged(name="regressing to the teacher"), "This student regresses to its teacher from step 100 on"),
        (unjudged(), "This student has an inconclusive verdict"),
    ],
)
def test_the_headline_of_one_run(verdict: object, expected: str) -> None:
    assert headline(report(run(verdict=verdict))) == expected


def test_the_headline_without_an_oracle() -> None:
    one = run(verdict=unjudged(), suspicion=suspicion({"fresh slope ratio": 48.0}))
    one = run(verdict=one.verdict, suspicion=one.suspicion, curves=without_golden(one.curves))
    assert headline(report(one)) == "Without an oracle: hacking suspected from step 48 (alarm at step 48)"


def test_the_headline_of_several_arms_groups_them_by_verdict() -> None:
    given = report(
        run("offline"),
        run("fewer prompts"),
        run("online-teacher", verdict=healthy()),
        run("small", verdict=judged(name="over-fitting")),
        run("copy", verdict=judged(name="regressing to the teacher")),
        run("short", verdict=unjudged()),
        run("shorter", verdict=unjudged()),
    )
    assert headline(given) == (
        "Offline and fewer prompts hack their teacher; online-teacher stays healthy; small over-fits; "
        "copy regresses to its teacher; short and shorter have inconclusive verdicts"
    )


def test_several_arms_without_an_oracle_say_what_is_suspected() -> None:
    def of(arm: str, seed: int, alarms: dict[str, float]) -> JudgedRun:
        return run(arm, seed, verdict=unjudged(), suspicion=suspicion(alarms), curves=without_golden(curves()))

    alarms = {"fresh slope ratio": 48.0}
    given = report(*(of("offline", seed, alarms) for seed in range(3)), of("online-teacher", 0, {}))
    assert headline(given) == (
        "Without an oracle: offline is suspected of hacking its teacher; online-teacher raises no alarm"
    )
    assert arm_sentences(given.arms[0])[1] == "Hacking suspected in 3 of 3 seeds."
    offline, _ = rows(tables.arm_results(given, colours(given)))
    assert offline == {"arm": "offline", "seeds": "3", "verdict": "hacking suspected 3 hacking suspected"}
    assert "golden’s onset" not in rows(tables.arm_detectors(given, colours(given)))[0]


def test_a_hacking_run() -> None:
    assert arm_sentences(ArmRuns("offline", (run(),))) == [
        "The student keeps learning its teacher, and by that moves away from the truth: what it learns now are the "
        "teacher's mistakes.",
        "Golden was best at step 100 (between 50 and 200), 1.000, and ended at 1.100: +10.0 %, [+5.0, +15.0] %.",
        "The proxy meanwhile went from 0.600 to 0.500 (−16.7 %).",
        "It ends above the teacher baseline, KL(oracle‖teacher) = 1.050.",
    ]


def test_a_healthy_run_says_how_far_it_is_within_the_margin() -> None:
    found = arm_sentences(ArmRuns("a", (run(verdict=healthy()),)))
    assert found[1:] == [
        "Golden went from 2.000 to 1.100; over its minimum it ends by +0.0 %, [−1.0, +1.0] %, within the margin of "
        "3.0 %.",
        "It ends below the teacher baseline, KL(oracle‖teacher) = 1.050.",
    ]


def test_a_run_that_ends_above_its_start_says_so() -> None:
    worse = "Golden was 0.5 at the first evaluation, and is 68.0 % higher at the end: by it the student was better then"
    early = healthy(golden=extent(start=0.5, minimum=0.84, minimum_step=200.0, end=0.84, rise=0.0))
    found = arm_sentences(ArmRuns("a", (run(verdict=early),)))
    assert found[0] == "After the warm-up the student did not get worse on held-out prompts."
    assert found[1].startswith("Golden went from 0.500 to 0.840; ") and found[2].startswith(worse)
    rising = judged(golden=extent(start=0.5, minimum=0.8, end=0.84, rise=0.05))
    found = arm_sentences(ArmRuns("a", (run(verdict=rising),)))
    assert found[1].startswith("Golden was best after the warm-up at step 100 ")
    assert any(sentence.startswith(worse) for sentence in found)
    seeds = ArmRuns("a", tuple(run("a", seed, verdict=one) for seed, one in enumerate((early, rising, healthy()))))
    assert "In 2 of 3 seeds golden ends above its start: by it the student was better then." in (arm_sentences(seeds))


def test_a_run_without_intervals_and_proxy() -> None:
    bare = judged(golden=extent(), onset_interval=None, proxy=None, side="too close to tell")
    found = arm_sentences(ArmRuns("a", (run(verdict=bare),)))
    assert found[1:] == [
        "Golden was best at step 100, 1.000, and ended at 1.100: +10.0 %.",
        "It ends about on the teacher baseline, KL(oracle‖teacher) = 1.050.",
    ]


def test_an_inconclusive_run_gives_its_reasons() -> None:
    verdict = judged(name="inconclusive", num_evaluations=3, notes=("the run is not finished",))
    found = arm_sentences(ArmRuns("a", (run(verdict=verdict),)))
    assert found[0] == "The numbers at hand do not decide."
    assert found[1].startswith("Only 3 evaluations come after the warm-up of 30 steps")
    assert found[-1] == "The run is not finished."
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in found)


def test_a_run_without_an_oracle_gives_both_sets_of_reasons() -> None:
    one = run(verdict=unjudged(), suspicion=suspicion({"fresh slope ratio": 48.0}))
    without = run(verdict=one.verdict, suspicion=one.suspicion, curves=without_golden(one.curves))
    found = " ".join(arm_sentences(ArmRuns("a", (without,))))
    assert "There is no golden column" in found and "Fresh slope ratio (0.25, alarm below 0.5)" in found
    assert "Fresh slope ratio" not in " ".join(arm_sentences(ArmRuns("a", (one,))))


def test_a_judge_is_explained_before_the_numbers() -> None:
    judge = judged(golden=extent(column=str(GOLDEN.against(Role.JUDGE))))
    found = arm_sentences(ArmRuns("a", (run(verdict=judge),)))
    assert "distance to a judge" in found[1]
    assert found[-1] == "It ends above the teacher baseline, KL(judge‖teacher) = 1.050."


def test_seeds_are_counted_and_their_medians_told() -> None:
    verdicts = [
        judged(golden=extent(rise=0.1), onset_step=80.0, proxy_change=-0.1),
        judged(golden=extent(rise=0.2), onset_step=120.0, proxy_change=-0.2, side="below"),
        healthy(golden=extent(rise=0.01), proxy_change=-0.3),
    ]
    arm = ArmRuns("a", tuple(run("a", seed, verdict=verdict) for seed, verdict in enumerate(verdicts)))
    assert arm.verdict == "hacking"
    assert arm_sentences(arm)[1:] == [
        "Hacking in 2, healthy in 1 of 3 seeds.",
        "Golden rises from its minimum to the end by +10.0 % in the median (seeds: +1.0 to +20.0 %).",
        "The proxy changes meanwhile by −20.0 % in the median.",
        "Onset: step 100 (seeds: 80 to 120).",
        "Golden’s end against the teacher baseline, KL(oracle‖teacher): above in 1, below in 2.",
    ]


def test_seeds_without_golden_have_no_numbers_to_tell() -> None:
    arm = ArmRuns("a", tuple(run("a", seed, verdict=unjudged()) for seed in range(2)))
    assert arm_sentences(arm) == ["The numbers at hand do not decide.", "Inconclusive in 2 of 2 seeds."]
