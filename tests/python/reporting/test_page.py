"""The page about runs as a tree: every part where it belongs, with the numbers of the runs, and nothing without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reporting.dom import Element, rows, tree
from reporting.values import colours, curves, extent, healthy, judged, report, run, suspicion, unjudged, without_golden
from thack.reporting.glossary import GLOSSARY
from thack.reporting.inputs import ReportInput
from thack.reporting.page import runs_page
from thack.reporting.run_figures import run_figures
from thack.schema.metrics import GOLDEN, PROXY, Role
from thack.schema.run import Status
from thack.schema.samples import SampleRow

SECTIONS = ["results", "figures", "detectors", "health", "answers", "costs", "settings", "columns", "glossary"]


PROXY_HEAD = ["proxy: start", "minimum @ step", "end", "verdict"]


def page_of(given: ReportInput, **more: Any) -> Element:
    return tree(runs_page(given, colours(given), list(run_figures(given, colours(given))), **more))


def sample(writer: Role | None, tokens: tuple[str, ...], nats: tuple[float, ...]) -> SampleRow:
    return SampleRow(step=200, prompt_id="a", writer=writer, reference=Role.TEACHER, tokens=tokens, nats=nats)


def full() -> ReportInput:
    """Two arms, one of which hacks, with everything that a run may have."""
    columns = {**curves().columns, "seconds": np.linspace(0, 9, 5), "health/entropy/student_sampled": np.full(5, 2.5)}
    return report(
        run(
            "offline",
            curves=curves(columns=columns),
            config={"source.kind": "offline", "epochs": 60},
            environment={"torch": "2.9"},
            samples=(sample(None, ("s", "x"), (0.0, 3.0)), sample(Role.TEACHER, ("t",), (0.2,))),
            prompts={"a": "p"},
            suspicion=suspicion({"fresh slope ratio": 100.0}),
        ),
        run("online-teacher", verdict=healthy(), config={"source.kind": "online-teacher", "epochs": 60}),
        title="A title",
    )


@pytest.fixture(scope="module")
def page() -> Element:
    return page_of(full())


def test_the_answer_comes_first(page: Element) -> None:
    assert page.one("title").text == "A title"
    assert page.one("p", class_="kicker").text == "A title · 2 runs"
    assert page.one("h1").text.replace("\u2011", "-") == "Offline hacks its teacher; online-teacher stays healthy"


def test_every_section_in_its_order(page: Element) -> None:
    assert [section.attributes["id"] for section in page.all("section")] == SECTIONS
    assert [section.one("h2").text for section in page.all("section")] == [
        "The numbers",
        "The curves",
        "Signs that need no oracle",
        "Health of the students",
        "What they wrote",
        "Costs",
        "Settings",
        "Every column",
        "Words",
    ]


def test_a_card_for_each_arm_in_its_colour(page: Element) -> None:
    first, second = page.one("div", class_="cards").all("article")
    assert first.attributes["style"] == "--arm:var(--other-1)" and second.attributes["style"] == "--arm:var(--other-2)"
    assert first.one("span", class_="pill").text == "hacking" and second.one("span", class_="pill").text == "healthy"
    assert "Golden was best at step 100 (between 50 and 200), 1.000, and ended at 1.100" in first.text


def test_results_and_reasons(page: Element) -> None:
    results = page.section("results")
    assert [row["verdict"] for row in rows(results.one("table"))] == ["hacking", "healthy"]
    assert results.one("p", class_="note").text.startswith(
        "Golden, proxy and KL(oracle‖teacher) in nats per token. Judged after step 30, from at least 6 evaluations. A "
    )
    why = results.details("why, run by run")
    assert [title.text for title in why.all("h4")] == [
        "offline: HACKING from step 100 [50, 200]",
        "online-teacher: healthy",
    ]
    assert why.all("li")[0].text.startswith("golden (distance to the oracle) is lowest at step 100 (1)")


def test_figures_with_captions_and_a_legend(page: Element) -> None:
    figures = page.section("figures")
    assert figures.one("p", class_="legend").text == "offlineonline-teacher"
    found = {one.one("h3").text: one for one in figures.all("figure")}
    assert list(found) == [
        "Proxy–golden plane",
        "Golden: distance to the oracle",
        "Proxy: distance to the teacher",
        "Training loss",
        "Fresh slope ratio",
    ]
    assert [one.attributes["class"] for one in found.values()] == ["large", "large", "small", "small", "small"]
    assert all(len(one.all("svg")) == 1 and one.one("figcaption").text for one in found.values())
    assert "paired" not in found["Proxy–golden plane"].text
    assert "95 % interval over prompts" in found["Golden: distance to the oracle"].text.replace("\xa0", " ")


def test_detectors_and_their_meanings(page: Element) -> None:
    section = page.section("detectors")
    table = section.all("table")[0]
    assert [row["golden’s onset"] for row in rows(table)] == ["100", "–"]
    meanings = section.details("what each detector says, run by run")
    assert meanings.all("h4")[0].text == "offline: hacking suspected from step 100"
    assert meanings.all("li")[0].text.startswith("fresh slope ratio: the student still improves")


def test_health_answers_costs_settings_and_columns(page: Element) -> None:
    (health,) = rows(page.section("health").one("table"))
    assert health == {"arm": "offline", "entropy, nats": "2.50 → 2.50"}
    (row,) = rows(page.section("answers").one("table"))
    assert row == {"prompt": "p", "teacher": "t", "student, step 200 (last)": "sx"}
    assert [(one.attributes["class"], one.text) for one in page.all("mark")] == [("heat-1", "t"), ("heat-3", "x")]
    assert [row["seconds in all"] for row in rows(page.section("costs").one("table"))] == ["9", "–"]
    settings = page.section("settings")
    assert rows(settings.all("table")[0])[0]["setting"] == "source.kind"
    assert rows(settings.details("1 setting that all runs share").one("table")) == [
        {"setting": "epochs", "value": "60"}
    ]
    assert settings.details("environment")
    assert len(page.section("columns").all("details")) == 2


def test_the_glossary(page: Element) -> None:
    section = page.section("glossary")
    assert [one.text for one in section.all("dt")] == list(GLOSSARY)
    assert len(section.all("dd")) == len(GLOSSARY)


def test_every_cell_knows_its_column(page: Element) -> None:
    for table in page.all("table"):
        head = [cell.text for cell in table.all("th")]
        for row in table.all("tr")[1:]:
            assert [" ".join(cell.attributes["data-label"].split()) for cell in row.all("td")] == head


def test_a_run_with_the_least_has_no_empty_parts() -> None:
    page = page_of(report(run(config={})))
    assert [section.attributes["id"] for section in page.all("section")] == [
        "results",
        "figures",
        "detectors",
        "columns",
        "glossary",
    ]
    assert not page.all("p", class_="legend") and not page.all("p", class_="warning")
    assert page.one("p", class_="kicker").text == "thack report · run offline"
    assert page.one("title").text == "This student hacks its teacher from step 100 on"


def test_several_seeds_are_summarised_and_every_run_is_folded_away() -> None:
    given = report(run(seed=0), run(seed=1), run("online-teacher", verdict=healthy()))
    page = page_of(given)
    assert page.all("article")[0].one("small").text == "· 2 seeds"
    first, second = page.section("results").all("table")
    assert len(rows(first)) == 2 and [row["seed"] for row in rows(second)] == ["0", "1", "–"]
    assert len(page.section("detectors").details("all 3 runs").all("tr")) == 4
    titles = [title.text for title in page.section("results").details("why, run by run").all("h4")]
    assert titles[1] == "offline, seed 1: HACKING from step 100 [50, 200]"
    golden = page.section("figures").all("figure")[1]
    assert "median and range of the seeds" in golden.text


def test_unfinished_runs_are_named_with_where_they_are() -> None:
    given = report(
        run("a", status=Status(state="running")),
        run("b", status=Status(state="failed")),
        run("c", status=Status(state="finished")),
    )
    warning = page_of(given).one("p", class_="warning").text
    assert warning == "Not finished: a (running at step 200), b (failed at step 200). What follows may change."


def test_without_matplotlib_the_page_says_how_to_get_figures() -> None:
    given = report(run())
    page = tree(runs_page(given, colours(given), [], missing_plots="pip install 'x[plot]'"))
    assert page.section("figures").one("code").text == "pip install 'x[plot]'"
    assert not page.all("svg") and not page.all("figure")


def test_without_an_oracle_the_suspicion_takes_the_verdicts_place() -> None:
    one = run(verdict=unjudged(), suspicion=suspicion({"fresh slope ratio": 48.0}), curves=without_golden(curves()))
    page = page_of(report(one))
    assert page.one("h1").text == "Without an oracle: hacking suspected from step 48 (alarm at step 48)"
    assert page.one("article").one("span", class_="pill").text == "hacking suspected"
    assert list(rows(page.section("results").one("table"))[0]) == ["run", *PROXY_HEAD]
    assert "Judged after step 30 without an oracle" in page.text
    titles = [figure.one("h3").text for figure in page.all("figure")]
    assert titles == [
        "Proxy: distance to the teacher",
        "Training loss",
        "Fresh slope ratio",
    ]


@pytest.mark.parametrize(
    ("role", "name", "baseline"),
    [
        (Role.JUDGE, "Golden: distance to the judge", "KL(judge‖teacher)"),
        (Role.HUMAN, "Golden: negative log-likelihood of human references", "the teacher's own likelihood"),
    ],
)
def test_what_replaces_golden_has_its_own_name_everywhere(role: Role, name: str, baseline: str) -> None:
    metric = GOLDEN.against(role)
    of_baseline = metric.of_baseline
    columns = {str(metric): np.array([2.0, 1.5, 1.2, 1.0, 1.1]), str(PROXY): curves().columns[str(PROXY)]}
    columns[str(of_baseline)] = np.full(5, 1.05)
    names = {"golden": str(metric), "proxy": str(PROXY), "baseline": str(of_baseline)}
    verdict = judged(golden=extent(column=str(metric)))
    page = page_of(report(run(curves=curves(columns=columns, column_of=names), verdict=verdict)))
    assert name in page.section("figures").text
    assert baseline in [cell.text for cell in page.section("results").all("th")]
    assert "KL(oracle‖teacher)" not in page.section("results").text
    labels = "".join(text.text for svg in page.all("svg") for text in svg.all("text"))
    assert baseline in labels and "oracle" not in labels
