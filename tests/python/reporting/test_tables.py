"""Each table's cells: the numbers of the verdicts, at the precision and with the signs that a reader expects."""

from __future__ import annotations

import pytest

from reporting.values import (
    colours,
    curves,
    extent,
    healthy,
    judged,
    proxy_extent,
    report,
    rows,
    run,
    suspicion,
    text,
    unjudged,
    without_golden,
)
from thack.detection import DETECTORS
from thack.reporting import tables
from thack.reporting.colours import OTHERS
from thack.reporting.table import Span, coloured, note, pill, strong, table, without_empty
from thack.schema.metrics import PROXY


def test_one_run_with_everything() -> None:
    given = report(run())
    (row,) = rows(tables.results(given, colours(given)))
    assert row == {
        "run": "offline",
        "golden: start": "2.000",
        "minimum @ step": "1.000 @ 100 [50, 200]",
        "end": "1.100",
        "rise": "+10.0 % [+5.0, +15.0] %",
        "proxy: then → end": "0.600 → 0.500",
        "KL(oracle‖teacher)": "1.050 ends above",
        "verdict": "hacking",
    }


def test_a_run_without_intervals_and_without_a_baseline() -> None:
    bare = judged(golden=extent(), onset_interval=None, baseline=None, side=None, proxy=None, proxy_at_onset=None)
    given = report(run(verdict=bare))
    (row,) = rows(tables.results(given, colours(given)))
    assert row["minimum @ step"] == "1.000 @ 100"
    assert row["rise"] == "+10.0 %"
    assert row["proxy: then → end"] == row["KL(oracle‖teacher)"] == "–"


def test_a_baseline_that_is_too_close_has_no_side() -> None:
    given = report(run(verdict=judged(side="too close to tell")))
    (row,) = rows(tables.results(given, colours(given)))
    assert row["KL(oracle‖teacher)"] == "1.050"


@pytest.mark.parametrize(
    ("with_oracle", "proxy", "expected"),
    [
        (False, proxy_extent(), ("0.500", "hacking suspected")),
        (True, proxy_extent(), ("0.500", "inconclusive")),
        (True, None, ("0.500", "inconclusive")),  # within the warm-up: the curve is there, and not judged
    ],
)
def test_a_run_without_golden(with_oracle: bool, proxy: object, expected: tuple[str, str]) -> None:
    one = run(verdict=unjudged(proxy=proxy), suspicion=suspicion({"fresh slope ratio": 100.0}))
    if not with_oracle:
        one = run(verdict=one.verdict, suspicion=one.suspicion, curves=without_golden(one.curves))
    given = report(one)
    (row,) = rows(tables.results(given, colours(given)))
    assert (row["end"], row["verdict"]) == expected
    assert not any("golden" in name for name in row)


def test_a_column_without_a_number_is_left_out() -> None:
    given = table(["a", "b", "c"], [["1", "–", ""], ["–", "–", ""]])
    assert rows(without_empty(given)) == [{"a": "1"}, {"a": "–"}]


def test_the_unit_of_the_results_and_the_first_run_of_another() -> None:
    other = run("other", curves=curves(column_of={"proxy": str(PROXY.per_byte)}), verdict=unjudged())
    assert tables.about_results(report(run())) == "Golden, proxy and KL(oracle‖teacher) in nats per token."
    assert tables.about_results(report(other)) == "The proxy in nats per byte."
    assert tables.about_results(report(run(), other)).endswith("in nats per token, of other in nats per byte.")


def test_a_run_without_golden_and_proxy_has_dashes() -> None:
    none = curves(column_of={})
    given = report(run(verdict=unjudged(proxy=None), curves=none))
    (row,) = rows(tables.results(given, colours(given)))
    assert (row["proxy: start"], row["minimum @ step"], row["end"]) == ("–", "–", "–")


def test_the_seed_has_a_column_where_arms_have_several() -> None:
    given = report(run(seed=1), run(seed=7), run("online-teacher", verdict=healthy()))
    found = rows(tables.results(given, colours(given)))
    assert [(row["run"], row["seed"]) for row in found] == [("offline", "1"), ("offline", "7"), ("online-teacher", "–")]
    alone = report(run(seed=1))
    assert "seed" not in tables.results(alone, colours(alone)).head


def test_an_arm_shows_medians_and_ranges_of_its_seeds() -> None:
    rises = (0.1, 0.2, 0.15)
    given = report(
        *(
            run(
                seed=seed,
                verdict=judged(
                    golden=extent(minimum=1.0 + rise, end=1.2 + rise, rise=rise),
                    onset_step=100.0 + seed,
                    over_baseline=rise - 0.15,
                ),
            )
            for seed, rise in enumerate(rises)
        ),
    )
    (row,) = rows(tables.arm_results(given, colours(given)))
    assert row == {
        "arm": "offline",
        "seeds": "3",
        "golden: minimum": "1.150 [1.100, 1.200]",
        "end": "1.350 [1.300, 1.400]",
        "rise": "+15.0 % [+10.0, +20.0]",
        "onset": "101 [100, 102]",
        "golden’s end − KL(oracle‖teacher)": "+0.000 [−0.050, +0.050]",
        "verdict": "hacking 3 hacking",
    }


def test_an_arm_whose_seeds_disagree_is_inconclusive() -> None:
    given = report(run(seed=0), run(seed=1, verdict=healthy()))
    (row,) = rows(tables.arm_results(given, colours(given)))
    assert row["verdict"] == "inconclusive 1 hacking, 1 healthy"
    assert row["onset"] == "100", "of the one seed that has an onset"


def test_an_arm_without_golden_has_dashes_beside_one_that_has_it() -> None:
    without = [run(seed=seed, verdict=unjudged()) for seed in range(2)]
    given = report(*without, run("other"))
    row, _ = rows(tables.arm_results(given, colours(given)))
    assert row["golden: minimum"] == row["end"] == row["rise"] == row["onset"] == "–"
    alone = report(*without)
    assert rows(tables.arm_results(alone, colours(alone)))[0].keys() == {"arm", "seeds", "verdict"}


def named(detector: str) -> str:
    """A detector's column: its name and the alarm's direction."""
    return f"{detector}, alarm below 0.5"


def test_detectors_beside_the_onset_that_the_oracle_shows() -> None:
    given = report(run(suspicion=suspicion({"slope ratio": 48.0})), run("other", verdict=healthy()))
    table_ = tables.detectors(given, colours(given))
    first, second = rows(table_)
    assert first[named("slope ratio")] == "alarm @ 48 0.25" and first[named("fresh slope ratio")] == "quiet 0.90"
    assert (first["golden’s onset"], second["golden’s onset"]) == ("100", "–")
    alarm = table_.rows[0][table_.head.index(named("slope ratio"))]
    assert alarm[0] == Span("alarm @ 48", "strong")


def test_a_detector_without_data_and_one_below_zero() -> None:
    nothing, below = suspicion().detections[:2]
    changed = (
        type(nothing)(name=nothing.name, state="not enough data", threshold=0.5),
        type(below)(name=below.name, state="quiet", threshold=0.5, value=-0.014),
        *suspicion().detections[2:],
    )
    given = report(run(suspicion=suspicion(detections=changed)))
    (row,) = rows(tables.detectors(given, colours(given)))
    assert row[named(nothing.name)] == "not enough data"
    assert row[named(below.name)] == "quiet −0.01"


def test_alarms_of_an_arm_are_counted() -> None:
    given = report(
        run(seed=0, suspicion=suspicion({"slope ratio": 50.0})),
        run(seed=1, suspicion=suspicion({"slope ratio": 100.0})),
        run(seed=2),
    )
    (row,) = rows(tables.arm_detectors(given, colours(given)))
    assert row[named("slope ratio")] == "2 of 3 @ 75 [50, 100]"
    assert row[named("fresh gap")] == "0 of 3"
    assert list(row) == ["arm", *(named(detector.name) for detector in DETECTORS), "golden’s onset"]


def test_costs_are_totals_of_a_run_and_medians_of_an_arm() -> None:
    def spent(seconds: float, **more: float) -> object:
        one = run().curves
        columns = {**one.columns, "seconds": one.step_E * 0 + seconds}
        columns |= {name: one.step_E * 0 + value for name, value in more.items()}
        return type(one)(name="x", step_E=one.step_E, columns=columns, train={}, column_of=one.column_of)

    given = report(run(curves=spent(10.0, teacher_tokens=1234567.0)), run("other", curves=spent(20.0)))
    assert rows(tables.costs(given, colours(given))) == [
        {"run": "offline", "tokens scored by the teacher": "1,234,567", "seconds in all": "10"},
        {"run": "other", "tokens scored by the teacher": "–", "seconds in all": "20"},
    ]
    seeds = report(*(run(seed=seed, curves=spent(10.0 * seed)) for seed in range(4)))
    assert rows(tables.costs(seeds, colours(seeds))) == [{"arm, per run": "offline", "seconds in all": "15"}]
    assert tables.costs(report(run()), OTHERS[:1]) is None


def test_cells() -> None:
    assert text(strong("a", " b")) == "a b" and strong("a") == (Span("a", "strong"),)
    assert note("") == ()
    assert coloured(OTHERS[0], "x") == (Span("other-1", "swatch"), Span("x"))
    assert pill("healthy")[0].style == "pill"


def test_a_row_of_another_width_is_a_bug() -> None:
    with pytest.raises(ValueError, match="2 cells"):
        table(["a", "b"], [["c"]])
