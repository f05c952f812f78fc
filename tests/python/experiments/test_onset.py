"""A law of onset from the runs of a grid: which runs count, and what is read of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thack.detection import Verdict
from thack.detection.onset_law import fit_onset_law
from thack.experiments import onset
from thack.experiments.onset import onset_law
from thack.experiments.outcome import CellOutcome
from thack.experiments.plan import plan
from thack.files import write_json
from thack.schema.onset import OnsetRun
from thack.schema.run import CacheCosts, Manifest, RunFacts
from thack.schema.verdict import Extent

from .small import settings, write_sums

GOLDEN = Extent(column="golden", start=2.0, minimum=1.0, minimum_step=8, end=1.2, end_step=27, rise=0.2)
TURNED = Verdict(name="hacking", run="x", golden=GOLDEN, proxy=None, num_evaluations=9, num_prompts=8, onset_step=8,
                 onset_interval=(6.0, 12.0))  # fmt: skip
FLAT = replace(TURNED, name="healthy", onset_step=None, onset_interval=None)


def facts(**changes: Any) -> Manifest:
    usual: dict[str, Any] = {
        "models": {},
        "origins": {},
        "tokenizer": "",
        "teacher_tokenizer": "",
        "data": None,
        "written_by": "",
        "cache": None,
        "caches": (),
        "cache_weights": None,
        "eval_set": None,
        "compared_ids": 9,
        "sequences": 12,
        "started": "",
        "parameters": {"student": 700},
        "cache_costs": CacheCosts(sequences=12, tokens=60, bytes=9),
    }
    return Manifest(command="distill", facts=RunFacts(**{**usual, **changes}))


def test_a_law_rests_on_decided_runs_that_differ_in_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [
        "figures=['axes']",
        "axes.budget=[1, 2]",
        "axes.source=['offline', 'online-teacher']",
        "axes.loss=['jsd', 'forward_kl']",
    ]
    chosen = settings(write_sums(tmp_path / "data"), *sets)
    outcomes = []
    for planned in plan(chosen, tmp_path / "out"):
        planned.run.path.mkdir(parents=True)
        write_json(planned.run.path / "manifest.json", facts().dump())
        verdict = FLAT if planned.cell.arm.budget == 2 else TURNED
        outcomes.append(CellOutcome(planned=planned, verdict=verdict))
    seen: list[OnsetRun] = []

    def fitted(runs: list[OnsetRun]) -> None:
        seen.extend(runs)

    monkeypatch.setattr(onset, "fit_onset_law", fitted)
    assert onset_law(chosen, outcomes) is None
    batch = chosen.distill.batch_size
    assert batch == 4
    assert seen == [
        OnsetRun(task="sums", tokens=60, responses_per_prompt=1, parameters=700, after=2.0, before=4.0),
        OnsetRun(task="sums", tokens=60, responses_per_prompt=2, parameters=700, after=9.0, before=None),
    ], "steps times 4 sequences over 12; online arms and other losses are left out"


def test_undecided_runs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(write_sums(tmp_path / "data"), "figures=['axes']", "axes.budget=[1, 2]")
    first, second = plan(chosen, tmp_path / "out")
    for planned in (first, second):
        planned.run.path.mkdir(parents=True)
        write_json(planned.run.path / "manifest.json", facts().dump())
    many = [
        OnsetRun(task="a", tokens=10**n, responses_per_prompt=1, parameters=5, after=2.0, before=3.0)
        for n in range(2, 9)
    ]
    monkeypatch.setattr(onset, "fit_onset_law", lambda runs: fit_onset_law([*runs, *many]))
    outcomes = [
        CellOutcome(planned=first, verdict=TURNED),
        CellOutcome(planned=second, verdict=replace(TURNED, name="inconclusive")),
    ]
    law = onset_law(chosen, outcomes)
    assert law is not None and (law.num_runs, law.num_undecided) == (8, 1)
