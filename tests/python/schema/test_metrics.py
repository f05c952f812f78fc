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
from thack.schema.metric_rows import GuardRow, MetricsRow, PerPromptRow, PromptSums, Watched
from thack.schema.metrics import (
    DIVERGENCES,
    GOLDEN,
    LOG_RATIO,
    PROXY,
    HealthName,
    MetricName,
    Role,
    TrainingKL,
    find_column,
    find_metric,
    proxy_in,
    reductions,
)

NAMES = st.sampled_from([*DIVERGENCES, LOG_RATIO]).flatmap(
    lambda divergence: st.builds(
        MetricName,
        role=st.sampled_from([Role.ORACLE, Role.JUDGE]),
        divergence=st.just(divergence),
        responses=st.sampled_from(metrics.RESPONSES),
        reduction=st.sampled_from(reductions(divergence)),
        baseline=st.booleans(),
        bound=st.sampled_from([None, *metrics.BOUNDS]),
    )
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
        ("golden/log_ratio/reference_sampled/byte_mean", GOLDEN.per_byte),
        ("human/negative_log_likelihood/reference_sampled/byte_mean", GOLDEN.per_byte.against(Role.HUMAN)),
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
        "golden/forward_kl/reference_sampled/byte_mean",
        "golden/log_ratio/reference_sampled/token_mean",
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


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("health/entropy/student_sampled", HealthName(quantity="entropy")),
        (
            "health/golden/forward_kl/tokens_4_15/reference_sampled",
            HealthName(quantity="forward_kl", role=Role.ORACLE, positions=(4, 15)),
        ),
        (
            "health/proxy/forward_kl/tokens_64_up/reference_sampled",
            HealthName(quantity="forward_kl", role=Role.TEACHER, positions=(64, None)),
        ),
        ("health/judge/top_10_overlap/reference_sampled", HealthName(quantity="top_10_overlap", role=Role.JUDGE)),
        ("train_kl/monitor", TrainingKL.MONITOR),
        (str(GOLDEN), GOLDEN),
    ],
)
def test_every_column_of_an_evaluation_has_a_name(text: str, name: metrics.Column) -> None:
    assert find_column(text) == name and str(name) == text


@pytest.mark.parametrize("text", ["health/", "health/entropy", "health/golden/entropy/student_sampled", "loss", ""])
def test_other_texts_are_no_columns(text: str) -> None:
    assert find_column(text) is None


def test_a_metrics_row_survives_json() -> None:
    columns: dict[metrics.Column, float] = {
        TrainingKL.FRESH: 0.75,
        GOLDEN: 1.25,
        PROXY: 0.5,
        HealthName(quantity="entropy"): 2.0,
    }
    row = MetricsRow(event="evaluation", step=8, epoch=0.5, columns=columns, values={"seconds": 3.5})
    assert MetricsRow.parse(json.loads(json.dumps(row.dump()))) == row
    assert list(row.dump())[:4] == ["event", "step", "epoch", "train_kl/fresh"]
    broken = MetricsRow.parse({"event": "evaluation", "step": 1, str(GOLDEN): None, "note": "text", "flag": True})
    assert math.isnan(broken.columns[GOLDEN]) and not broken.values


@pytest.mark.parametrize("raw", [{"step": 1}, {"event": "guard", "step": 1}, {"event": "train"}])
def test_a_row_of_something_else_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(DataError, match="not a row"):
        MetricsRow.parse(raw)


@pytest.mark.parametrize(
    "row",
    [
        GuardRow(step=8, action="alarm", detector="slope ratio", value=0.25, threshold=0.5, kept_step=4),
        GuardRow(step=9, action="refresh", epoch=3, fresh_set=0, fresh_tokens=812),
        GuardRow(step=20, action="stop"),
    ],
)
def test_a_row_of_a_guard_survives_json(row: GuardRow) -> None:
    assert GuardRow.parse(json.loads(json.dumps(row.dump()))) == row
    assert list(row.dump())[:3] == ["event", "step", "action"] and None not in row.dump().values()


def test_what_a_guard_watches_is_taken_from_the_columns() -> None:
    assert Watched.of(4, {"train_kl/monitor": 0.5, str(PROXY): 0.75, str(GOLDEN): 1.0}) == Watched(
        step=4, monitor=0.5, proxy=0.75
    )


def test_where_tokenizers_differ_the_proxy_is_per_byte() -> None:
    columns = {str(PROXY.per_byte): 0.25}
    assert proxy_in(columns) == Watched.of(4, columns).proxy == 0.25
    assert proxy_in(columns | {str(PROXY): 0.75}) == 0.75 and proxy_in({}) is None


def test_sums_may_count_bytes_too() -> None:
    raw = {"nats": [1.5, 0.0], "tokens": [3, 0], "bytes": [6, 0]}
    sums = PromptSums.parse(raw)
    assert sums.dump() == raw
    assert [sums.mean(name) for name in metrics.REDUCTIONS] == [0.5, 0.25, 1.5]  # the second response is left out
    assert sums.has("byte_mean") and not PromptSums(nats_P=sums.nats_P, tokens_P=sums.tokens_P).has("byte_mean")


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
        {"nats": [1.0], "tokens": [1], "bytes": [1, 2]},
        {"nats": [1.0], "tokens": [1], "bytes": 3},
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
