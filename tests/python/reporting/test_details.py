"""Settings, environments and columns: what differs is side by side, what is shared is folded away."""

from __future__ import annotations

import numpy as np

from reporting.values import curves, report, rows, run, text
from thack.reporting import details
from thack.schema.metrics import GOLDEN


def test_what_differs_and_what_is_shared() -> None:
    given = report(
        run("a", config={"seed": 0, "source.kind": "offline", "epochs": 60}),
        run("b", config={"seed": 0, "source.kind": "online-teacher", "epochs": 60, "extra": True}),
    )
    assert rows(details.differing_settings(given)) == [
        {"setting": "source.kind", "a": "offline", "b": "online-teacher"},
        {"setting": "extra", "a": "–", "b": "true"},
    ]
    shared = details.shared_settings(given)
    assert shared is not None and shared.title == "2 settings that all runs share"
    assert rows(shared.table) == [{"setting": "seed", "value": "0"}, {"setting": "epochs", "value": "60"}]


def test_values_keep_the_style_of_code_and_a_missing_one_does_not() -> None:
    given = report(run("a", config={"x": 1}), run("b", config={}), run("c", config={"y": 2}))
    table = details.differing_settings(given)
    assert table is not None
    assert [[span.style for span in cell] for cell in table.rows[0][1:]] == [["code"], ["plain"], ["plain"]]


def test_seeds_of_an_arm_are_listed_as_long_as_they_can_be_read() -> None:
    few = report(*(run("a", seed, config={"seed": seed, "path": f"{seed}" * 100}) for seed in range(3)))
    found = {row["setting"]: row["a"] for row in rows(details.differing_settings(few))}
    assert found == {"seed": "0, 1, 2", "path": "3 values"}


def test_one_run_and_no_settings() -> None:
    alone = details.shared_settings(report(run(config={"a": 1})))
    assert alone is not None and alone.title == "1 setting"
    assert details.differing_settings(report(run(config={"a": 1}))) is None
    assert details.shared_settings(report(run(config={}))) is None


def test_each_environment_once() -> None:
    one, other = {"torch": "2.9", "threads": 2}, {"torch": "2.9", "threads": 4}
    found = details.environments(report(run("a", environment=one), run("b", environment=one)))
    assert [folded.title for folded in found] == ["environment"]
    assert rows(found[0].table) == [{"fact": "torch", "value": "2.9"}, {"fact": "threads", "value": "2"}]
    found = details.environments(report(run("a", environment=one), run("b", environment=other)))
    assert [folded.title for folded in found] == ["environment 1 of 2", "environment 2 of 2"]
    assert details.environments(report(run())) == []


def test_every_column_with_start_minimum_end_and_rise() -> None:
    (found,) = details.columns(report(run(seed=3)))
    assert found.title == "3 columns of offline, seed 3"
    by_name = {row["column"]: row for row in rows(found.table)}
    assert by_name[str(GOLDEN)] == {
        "column": str(GOLDEN),
        "start": "2",
        "minimum": "1",
        "at step": "100",
        "end": "1.1",
        "rise": "+10.0 %",
    }
    assert "epoch" not in by_name


def test_bounds_costs_and_columns_without_a_number_are_left_out() -> None:
    given = curves()
    columns = {
        **given.columns,
        f"{GOLDEN}/low": given.columns[str(GOLDEN)],
        "seconds": given.step_E,
        "never": np.full(5, np.nan),
        "negative": np.array([1.0, np.nan, -2.0, np.nan, -1.0]),
    }
    (found,) = details.columns(report(run(curves=curves(columns=columns))))
    by_name = {text(row[0]): row for row in found.table.rows}
    assert set(by_name) == {*list(given.columns)[:3], "negative"}
    assert [text(cell) for cell in by_name["negative"]] == ["negative", "1", "-2", "50", "-1", "–"]
