"""What an arm decides of a distillation's settings, and what it leaves to the experiment's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thack.config import DistillSettings, LossSettings, PolicySettings
from thack.config.experiment import ExperimentSettings
from thack.errors import UsageError
from thack.experiments.cells import base_arm
from thack.experiments.methods import trained_by
from thack.experiments.plan import plan
from thack.schema.cross_tokenizer import CrossTokenizer
from thack.schema.experiment import Method

from .small import settings, write_sums


@pytest.mark.parametrize(
    ("given", "method", "other"),
    [
        ("policy.importance=ppo", "offline-policy-gradient", "policy-gradient"),
        ("mix=confidence", "hard-soft", "hard-soft-confidence"),
        ("entropy_order=0.5", "hard-soft-tsallis", "hard-soft"),
        ("weight=4.0", "sft", "distill"),
    ],
)
def test_a_setting_that_no_arm_is_trained_by_is_refused(tmp_path: Path, given: str, method: str, other: str) -> None:
    def arms(*methods: str) -> int:
        sets = ("figures=['axes']", f"axes.method={list(methods)}", f"distill.loss.{given}")
        return len(plan(settings(write_sums(tmp_path / "data"), *sets), tmp_path / "out"))

    with pytest.raises(UsageError) as refused:
        arms(method)
    assert refused.value.details == (f"distill.loss.{given.replace('=', ' = ')} has no effect",)
    assert arms(method, other) == 2


def test_the_loss_between_tokenizers_is_the_axis_s(tmp_path: Path) -> None:
    sets = ("figures=['axes']", 'axes.tokenizer=["512"]', "distill.loss.cross_tokenizer=uld")
    with pytest.raises(UsageError, match=r"distill.loss.cross_tokenizer has no effect in a grid: set axes.cross_tok"):
        plan(settings(write_sums(tmp_path / "data"), *sets), tmp_path / "out")


@given(
    method=st.sampled_from(get_args(Method)),
    loss=st.sampled_from(("cell", "alm", "uld", "gold")),
    ce_weight=st.sampled_from((0.0, 0.25)),
    weight=st.sampled_from((0.0, 0.5)),
)
def test_weights_that_are_given_are_those_of_every_arm_that_has_such_a_term(
    method: Method, loss: CrossTokenizer, ce_weight: float, weight: float
) -> None:
    plain = DistillSettings(loss=LossSettings(ce_weight=ce_weight, policy=PolicySettings(weight=weight)))
    arm = replace(base_arm(ExperimentSettings()), method=method, cross_tokenizer=loss)
    found = trained_by(arm, plain).loss
    has_ce, has_policy = loss != "cell" or method.startswith(("sft", "hard-soft")), "policy" in method
    assert found.ce_weight == (ce_weight or float(has_ce))
    assert found.policy.weight == (weight or float(has_policy))
