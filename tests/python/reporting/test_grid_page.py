"""A grid's page as a tree: claims first, then figures, then what they rest on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reporting.dom import Element, rows, tree
from reporting.grid_values import EFFECT, OFFLINE_ARM, ONLINE_ARM, arm, grid
from reporting.values import healthy, run
from thack.reporting.effects import effect_of
from thack.reporting.grid import Grid
from thack.reporting.grid_figures import paper_figures
from thack.reporting.grid_page import grid_page, headline
from thack.reporting.inputs import ArmRuns
from thack.schema.experiment import (
    Answer,
    CellResult,
    CellState,
    ClaimResult,
    Effect,
    LossGap,
    StageCosts,
    TaskInformation,
)
from thack.schema.size_law import LeftOut, SizeLaw

THREE = Effect(seeds=(0, 1, 2), values=(0.1, 0.2, 0.3), mean=0.2, low=-0.048, high=0.448)


def claim(answer: Answer = "holds", **changes: Any) -> ClaimResult:
    usual: dict[str, Any] = {"figure": "F4", "text": "so it is", "measure": "a number", "unit": "%", "above": 0.0}
    return ClaimResult(**{**usual, "below": None, "effect": THREE, "answer": answer, **changes})


def cell(number: int, state: CellState = "finished", error: str | None = None) -> CellResult:
    return CellResult(
        cell=number,
        path=f"runs/{number}",
        arm="an arm",
        seed=number,
        figures=(),
        axes=OFFLINE_ARM.axes,
        state=state,
        error=error,
    )


def page_of(given: Grid, **more: Any) -> Element:
    return tree(grid_page(given, paper_figures(given), **more))


@pytest.fixture(scope="module")
def given() -> Grid:
    sound = replace(ONLINE_ARM, runs=ArmRuns("online-teacher", tuple(run(seed=i, verdict=healthy()) for i in range(3))))
    found = grid(
        OFFLINE_ARM,
        sound,
        figures=["F4", "F5"],
        claims=[claim(), claim("does not hold", unit="points"), claim("inconclusive", figure="F5", effect=EFFECT)],
    )
    summary = replace(
        found.summary,
        runs=(cell(0), cell(1), cell(2, "failed", "out of <memory>"), cell(3, "missing")),
        stages=(StageCosts(name="oracle", count=2, cpu_seconds=3000.0), StageCosts(name="run", count=1, cpu_seconds=6)),
        cpu_seconds=3006.0,
        settings={"name": "demo", "teacher": {"epochs": 8}},
    )
    return replace(found, summary=summary)


@pytest.fixture(scope="module")
def page(given: Grid) -> Element:
    return page_of(given)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], "No claim can be judged yet"),
        (["holds"], "1 of 1 claims hold at this size"),
        (["holds", "does not hold"], "1 of 2 claims hold at this size; 1 does not"),
        (
            ["does not hold", "does not hold", "inconclusive"],
            "0 of 3 claims hold at this size; 2 do not; 1 is inconclusive",
        ),
        (["inconclusive"] * 2, "0 of 2 claims hold at this size; 2 are inconclusive"),
    ],
)
def test_the_headline_counts_the_answers(answers: list[Answer], expected: str) -> None:
    assert headline([claim(answer) for answer in answers]) == expected


def test_the_answer_comes_first(page: Element) -> None:
    assert page.one("h1").text == "1 of 3 claims hold at this size; 1 does not; 1 is inconclusive"
    assert page.one("p", class_="kicker").text == "T · 4 runs · 4 seeds"
    assert [section.attributes["id"] for section in page.all("section")] == [
        *("claims", "F4", "F5", "detectors", "costs", "settings", "glossary", "cite")
    ]


def test_claims_with_their_numbers_in_their_unit(page: Element) -> None:
    found = rows(page.section("claims").one("table"))
    assert [row["measured"] for row in found] == ["+20.0 % a number", "+20.0 points a number", "+10.0 % a number"]
    assert [row["95 % over seeds"] for row in found] == ["−4.8 % … +44.8 %", "−4.8 points … +44.8 points", "–"]
    assert [(row["seeds"], row["answer"]) for row in found] == [
        ("3", "holds"),
        ("3", "does not hold"),
        ("1", "inconclusive"),
    ]


@pytest.mark.parametrize(("unit", "expected"), [("nats", "−0.048 nats"), ("runs", "−0.05"), ("%", "−4.8 %")])
def test_units(unit: str, expected: str) -> None:
    given = grid(OFFLINE_ARM, figures=["F4"], claims=[claim(unit=unit)])
    (row,) = rows(tree(grid_page(given, paper_figures(given, draw=False))).section("claims").one("table"))
    assert row["95 % over seeds"].startswith(f"{expected} … +")


def test_cells_that_are_missing_and_why(page: Element) -> None:
    warning = page.one("div", class_="warning")
    assert "2 of 4 cells are finished; the claims rest on those." in warning.text
    assert rows(warning.details("1 failed").one("table")) == [
        {"cell": "2", "arm": "an arm", "seed": "2", "error": "out of <memory>"}
    ]


def test_each_figure_has_its_plots_claims_arms_and_numbers(page: Element) -> None:
    section = page.section("F4")
    assert section.one("h2").text == "F4 · The proxy–golden plane"
    assert section.one("p", class_="legend").text == "offline"
    assert section.one("figure").attributes["class"] == "large" and section.one("svg")
    assert len(rows(section.details("its claims").one("table"))) == 2
    arms, runs = section.details("its arms").all("table")
    assert len(rows(arms)) == 1 and len(rows(runs)) == 3
    assert section.all("code")[-1].text == "plots/F4.csv"
    assert len(page.section("F5").all("figure")) == 3


def test_detectors_costs_and_settings(page: Element) -> None:
    assert len(rows(page.section("detectors").one("table"))) == 7
    assert not page.section("detectors").all("details"), "there is one task"
    costs = page.section("costs")
    assert costs.one("p").text == (
        "50.1 minutes of processor time in all, with every stage counted once; on two quiet cores about 25.1 minutes."
    )
    assert rows(costs.one("table"))[0] == {
        "stage": "oracle",
        "count": "2",
        "processor seconds": "3,000",
        "processor seconds each": "1,500.0",
    }
    assert rows(page.section("settings").details("2 settings").one("table"))[1] == {
        "setting": "teacher.epochs",
        "value": "8",
    }
    assert "tiapkin2025teacherhacking" in page.section("cite").text


def test_a_grid_without_anything_finished() -> None:
    empty = grid(figures=["F4"])
    page = tree(grid_page(replace(empty, summary=replace(empty.summary, title="", runs=(cell(0, "missing"),))), []))
    assert page.one("h1").text == "No claim can be judged yet" and page.one("title").text == "thack experiment"
    assert [section.attributes["id"] for section in page.all("section")] == ["claims", "settings", "glossary", "cite"]
    assert not page.section("claims").all("table")


def test_a_complete_grid_has_no_warning() -> None:
    given = grid(OFFLINE_ARM, figures=["F4"])
    page = tree(grid_page(replace(given, summary=replace(given.summary, runs=(cell(0),))), []))
    assert not page.all("div", class_="warning")


def test_without_matplotlib_each_figure_says_how_to_get_its_plots() -> None:
    given = grid(OFFLINE_ARM, figures=["F4"])
    page = tree(grid_page(given, paper_figures(given, draw=False), missing_plots="pip install it"))
    assert page.section("F4").all("code")[0].text == "pip install it" and not page.all("svg")


def test_tasks_are_scored_apart_where_there_are_several() -> None:
    def of(task: str, sound: bool) -> Any:
        one = arm(f"{task} {sound}", ["F8"], task=task)
        return replace(one, runs=ArmRuns(one.runs.name, (run(verdict=healthy()),))) if sound else one

    given = grid(of("a", True), of("a", False), of("b", True), of("b", False), of("c", True), figures=["F8"])
    section = page_of(given).section("detectors")
    assert [one.one("summary").text for one in section.all("details")] == ["task a", "task b"], "c has nothing to find"


def test_what_prompts_decide_stands_beside_the_claims_and_under_them() -> None:
    about = TaskInformation(
        task="<postfix>",
        with_prompt=effect_of({0: 0.5, 1: 0.7}),
        without_prompt=effect_of({0: 3.5, 1: 3.7}),
        from_prompt=effect_of({0: 3.0, 1: 3.0}),
        share=effect_of({0: 0.86, 1: 0.8}),
    )
    given = grid(OFFLINE_ARM, figures=["F6"], claims=[replace(claim(figure="F6"), reason="the prompt decides")])
    given = replace(given, summary=replace(given.summary, information=(about,)))
    page = tree(grid_page(given, paper_figures(given, draw=False)))
    claims, information = page.section("claims").all("table")
    assert rows(claims)[0]["claim"].endswith(" the prompt decides")
    (row,) = rows(information)
    assert (row["task"], row["from the prompt"], row["share"], row["seeds"]) == ("<postfix>", "3.00", "83 %", "2")


def test_laws_stand_with_what_they_rest_on() -> None:
    law = SizeLaw(
        quantity="passes until golden turns",
        intercepts={"<postfix>": 1.2},
        exponents={"tokens": -0.25},
        intervals={"tokens": (-0.4, -0.1)},
        ranges={"tokens": (2_000.0, 72_000.0), "parameters": (4e5, 4e5)},
        spread=0.3,
        left_out=(LeftOut(covariate="tokens", value=2_000, num_runs=3, factor=1.5),),
        num_runs=9,
        num_open=2,
        num_undecided=1,
        batch_size=32,
        learning_rate=1e-3,
    )
    given = grid(OFFLINE_ARM, figures=["axes"])
    given = replace(given, summary=replace(given.summary, laws=(law,)))
    section = tree(grid_page(given, paper_figures(given, draw=False))).section("claims")
    (row,) = rows(section.all("table")[-1])
    assert (row["exponent"], row["95 % over runs"], row["seen"]) == ("−0.25", "−0.40 … −0.10", "2,000 … 72,000")
    assert row["left out of the fit, foretold within a factor of"] == "2,000: 1.50×"
    text = section.text
    assert (
        "9 runs of batch 32 and rate 0.001 (<postfix>). In 2 of them" in text
        and "1 inconclusive runs" in text
        and "factor of 1.35" in text
    )


def test_losses_across_tokenizers_stand_in_a_table_with_their_gain() -> None:
    gap, gain = effect_of({0: 0.30, 1: 0.32}), effect_of({0: -0.05, 1: -0.03})
    shown = LossGap(tokenizer="<512>", loss="ALM", target="", rates=(0.001, 0.002, 0.001), gap=gap, gain=gain)
    alone = replace(shown, tokenizer="", gap=effect_of({0: 0.2}), gain=None, rates=(0.001,))
    given = grid(OFFLINE_ARM, figures=["F6"])
    given = replace(given, summary=replace(given.summary, gaps=(shown, alone)))
    page = tree(grid_page(given, paper_figures(given, draw=False)))
    first, second = rows(page.section("claims").all("table")[-1])
    name = "student’s tokenizer, loss, kept of the teacher"
    assert (first[name], first["gap, nats per byte"], first["seeds"]) == ("<512>, ALM", "0.310", "2")
    assert (first["gain over the cross-entropy"], first["learning rates"]) == ("−0.040", "0.001, 0.002")
    assert (second[name], second["gain over the cross-entropy"]) == ("the teacher’s, ALM", "–")


def test_a_grid_that_claims_nothing_counts_its_verdicts() -> None:
    page = page_of(grid(OFFLINE_ARM, figures=["axes"]))
    assert page.one("h1").text == "3 runs: 3 hacking"
    assert "claims" not in [section.attributes["id"] for section in page.all("section")]
    assert page.section("axes").all("p", class_="note")[0].text == (
        "Golden, proxy and KL(oracle‖teacher) in nats per token."
    )
