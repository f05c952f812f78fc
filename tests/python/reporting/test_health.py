"""Health beside the metrics: at golden's minimum and at the end, medians over seeds."""

from __future__ import annotations

import numpy as np

from reporting.values import curves, healthy, report, rows, run, unjudged
from thack.detection import Curves
from thack.reporting.health import health_table

LENGTH, SHARE = "health/response_tokens/student_sampled", "health/repeated_share/student_sampled"


def measured(**columns: list[float]) -> Curves:
    by_name = {"length": LENGTH, "share": SHARE}
    return curves(columns={**curves().columns, **{by_name[name]: np.array(value) for name, value in columns.items()}})


def test_the_value_at_goldens_minimum_and_at_the_end() -> None:
    one = run(curves=measured(length=[9.0, 8.0, 7.0, 6.0, 12.0], share=[0.0, 0.0, 0.0, 0.01, 0.25]))
    (row,) = rows(health_table(report(one)))
    assert row == {"arm": "offline", "response length, tokens": "6.0 → 12.0", "repeated 4-grams": "1.0 % → 25.0 %"}


def test_the_nearest_evaluation_that_has_it() -> None:
    nan = float("nan")
    one = run(curves=measured(length=[9.0, nan, 7.0, nan, nan]))
    (row,) = rows(health_table(report(one)))
    assert row["response length, tokens"] == "7.0 → 7.0", "step 50 is nearest to the minimum at 100, and the last"


def test_without_a_minimum_from_the_first_one_on() -> None:
    one = run(curves=measured(length=[9.0, 8.0, 7.0, 6.0, 5.0]), verdict=unjudged())
    (row,) = rows(health_table(report(one)))
    assert row["response length, tokens"] == "9.0 → 5.0"


def test_seeds_have_their_medians_and_arms_without_are_left_out() -> None:
    found = rows(
        health_table(
            report(
                *(run(seed=i, curves=measured(length=[0.0, 0.0, 0.0, 10.0 * i, 20.0 * i])) for i in range(3)),
                run("online-teacher", verdict=healthy()),
            )
        )
    )
    assert found == [{"arm": "offline", "response length, tokens": "10.0 → 20.0"}]


def test_nothing_measured_is_no_table() -> None:
    assert health_table(report(run())) is None
