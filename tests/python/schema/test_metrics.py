"""A metric column is parsed and written in one place; a row of a log survives the way to disk and back."""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thack.errors import DataError
from thack.schema import metrics
from thack.schema.metrics import (
    DIVERGENCES,
    GOLDEN,
    PROXY,
    HealthName,
    MetricName,
    MetricsRow,
    PerPromptRow,
    PromptSums,
    Role,
    find_metric,
)

NAMES = st.builds(
    MetricName,
    role=st.sampled_from([Role.ORACLE, Role.JUDGE]),
    divergence=st.sampled_from(DIVERGENCES),
    responses=st.sampled_from(metrics.RESPONSES),
    reduction=st.sampled_from(metrics.REDUCTIONS),
    baseline=st.booleans(),
    bound=st.sampled_from([None, *metrics.BOUNDS]),
)


@given(NAMES)
def test_a_name_is_what_its_text_says(name: MetricName) -> None:
    assert MetricName.parse(str(name)) == name
    assert find_metric(str(name.per_prompt)) == name.per_prompt
    assert str(name).startswith(str(name.per_prompt))


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("golden/forward_kl/reference_sampled/token_mean", GOLDEN),
        ("proxy/forward_kl/reference_sampled/token_mean", PROXY),
        ("baseline/forward_kl/reference_sampled/token_mean", MetricName(role=Role.ORACLE, baseline=True)),
        (
            "judge_baseline/jsd/student_sampled",
            MetricName(role=Role.JUDGE, baseline=True, divergence="jsd", responses="student_sampled", reduction=None),
        ),
        ("human/negative_log_likelihood/reference_sampled/token_mean", GOLDEN.against(Role.HUMAN)),
    ],
)
def test_the_columns_on_disk(column: str, name: MetricName) -> None:
    assert str(name) == column and MetricName.parse(column) == name


@pytest.mark.parametrize(
    "column",
    [
        "golden",
        "golden/forward_kl",
        "line/forward_kl/reference_sampled/token_mean",
        "proxy_baseline/forward_kl/reference_sampled/token_mean",
        "golden/tvd/reference_sampled/token_mean",
        "golden/forward_kl/reference_sampled/token_mean/low/low",
        "golden/negative_log_likelihood/reference_sampled/token_mean",
        "human/forward_kl/reference_sampled/token_mean",
        "health/golden/entropy/reference_sampled",
        "eval/kl",
        "train_kl/monitor",
    ],
)
def test_other_columns_are_no_metrics(column: str) -> None:
    assert find_metric(column) is None
    with pytest.raises(DataError, match="is not a metric column"):
        MetricName.parse(column)


def test_health_columns() -> None:
    assert str(HealthName(quantity="entropy")) == "health/entropy/student_sampled"
    spans = HealthName(quantity="forward_kl", role=Role.ORACLE, positions=(4, 15))
    assert str(spans) == "health/golden/forward_kl/tokens_4_15/reference_sampled"


def test_a_metrics_row_survives_json() -> None:
    row = MetricsRow(
        event="evaluation", step=8, epoch=0.5, metrics={GOLDEN: 1.25, PROXY: 0.5}, values={"seconds": 3.5, "loss": None}
    )
    assert MetricsRow.parse(json.loads(json.dumps(row.dump()))) == row
    assert list(row.dump())[:3] == ["event", "step", "epoch"]
    nan = MetricsRow.parse({"event": "evaluation", "step": 1, str(GOLDEN): None})
    assert math.isnan(nan.metrics[GOLDEN])


@pytest.mark.parametrize("raw", [{"step": 1}, {"event": "lunch", "step": 1}, {"event": "train"}])
def test_a_row_without_event_or_step_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not a row"):
        MetricsRow.parse(raw)


def test_a_per_prompt_row_survives_json() -> None:
    sums = PromptSums(nats_P=np.array([1.5, 0.25]), tokens_P=np.array([3, 4]))
    row = PerPromptRow(step=8, metrics={GOLDEN.per_prompt: sums})
    text = '{"step": 8, "golden/forward_kl/reference_sampled": {"nats": [1.5, 0.25], "tokens": [3, 4]}}'
    assert json.dumps(row.dump()) == text
    assert json.dumps(PerPromptRow.parse(json.loads(text)).dump()) == text


@pytest.mark.parametrize(
    "broken",
    [
        {"nats": [1.0], "tokens": [1, 2]},
        {"nats": [1.0]},
        [1.0],
        {"nats": [], "tokens": []},
        {"nats": ["x"], "tokens": [1]},
    ],
)
def test_sums_that_are_not_of_every_prompt_are_refused(broken: object) -> None:
    with pytest.raises(DataError, match="nats and the tokens"):
        PerPromptRow.parse({"step": 1, str(GOLDEN.per_prompt): broken})


def test_examples() -> None:
    found = doctest.testmod(metrics)
    assert found.attempted >= 5 and not found.failed
