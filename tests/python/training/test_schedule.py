"""Evaluations are thinned by tokens and weights, and never below what a verdict needs."""

from __future__ import annotations

import numpy as np
import pytest

from thack.config import ArchitectureSettings, EvaluationSettings
from thack.data.sequence import TokenSequence
from thack.data.tokenizer import Tokenizer
from thack.evaluation.eval_set import EvalSet
from thack.evaluation.references import References
from thack.models.load import new_decoder
from thack.schema.metrics import Role
from thack.schema.verdict import Margins
from thack.training.plan import evaluation_steps
from thack.training.schedule import Work, num_weights, scheduled, work_of

FULL = evaluation_steps(960, 12, "log")


def after_warmup(steps: list[int]) -> int:
    return sum(step > Margins().warmup_steps for step in steps)


def test_all_evaluations_stay_where_they_are_cheap_or_asked_for() -> None:
    costly = Work(step=1.0, evaluation=1000.0)
    assert scheduled(EvaluationSettings(), 960, Work(step=1.0, evaluation=1.0)) == FULL
    assert scheduled(EvaluationSettings(max_share=1.0), 960, costly) == FULL
    assert scheduled(EvaluationSettings(), 960) == FULL, "a run without an evaluation set"


@pytest.mark.parametrize("evaluation", [20.0, 40.0, 1e3, 1e9])
@pytest.mark.parametrize("total", [48, 400, 960, 100_000])
def test_a_short_run_keeps_its_share_or_what_a_verdict_needs(total: int, evaluation: float) -> None:
    work = Work(step=1.0, evaluation=evaluation)
    full, steps = evaluation_steps(total, 12, "log"), scheduled(EvaluationSettings(), total, work)
    assert steps[0] == 0 and steps[-1] == total
    assert after_warmup(steps) >= min(6, after_warmup(full))
    fewer = [evaluation_steps(total, n, "log") for n in range(6, 12)]
    enough = [one for one in fewer if after_warmup(one) >= min(6, after_warmup(full))]
    fits = [one for one in enough if work.share(total, len(one) - 1) <= 0.25]
    if work.share(total, len(full) - 1) <= 0.25:
        assert steps == full
    elif fits:
        assert len(steps) == max(map(len, fits))
    else:
        assert len(steps) <= len(full)


def test_six_stay_even_where_none_can_be_judged() -> None:
    costly = Work(step=1.0, evaluation=1e9)
    assert scheduled(EvaluationSettings(), 10, costly) == evaluation_steps(10, 6, "log")
    assert scheduled(EvaluationSettings(count=3), 10, costly) == evaluation_steps(10, 3, "log")


def test_every_so_many_steps() -> None:
    settings = EvaluationSettings(every=40)
    assert scheduled(settings, 100, Work(step=1.0, evaluation=1e9)) == [0, 40, 80, 100]
    assert scheduled(EvaluationSettings(every=500), 100) == [0, 100]
    assert scheduled(EvaluationSettings(count=0), 100) == [0, 100]


def test_work_is_weights_times_tokens() -> None:
    tokenizer = Tokenizer.train(["a b c"], 264)
    student, teacher = (
        new_decoder(ArchitectureSettings(hidden_size=width, num_heads=2), tokenizer, 0) for width in (16, 32)
    )
    ids = np.arange(4, dtype=np.int32)
    step = [TokenSequence(example=0, prompt_id="a", prompt_ids=ids, response_ids=ids[:2])] * 5
    eval_set = EvalSet(ids=("a", "b"), texts=("a", "b"), prompts=(ids, ids), responses={Role.TEACHER: (ids[:3], ids)})
    small, large = num_weights(student), num_weights(teacher)

    def work(*, live: bool, samples: bool, monitored: int) -> Work:
        return work_of(
            student,
            References(teacher=teacher),
            step=step,
            live=live,
            eval_set=eval_set,
            samples=samples,
            monitored=step[:monitored],
        )

    assert work(live=False, samples=False, monitored=0) == Work(step=3 * small * 30, evaluation=small * 15)
    assert work(live=True, samples=False, monitored=2).step == (3 * small + large) * 30
    assert work(live=True, samples=False, monitored=2).evaluation == small * (15 + 2 * 12)
    sampled = small * 15 + small * 4 * 7 + (small + large) * 15
    assert work(live=False, samples=True, monitored=0).evaluation == sampled
