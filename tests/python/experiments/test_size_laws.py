"""Power laws from the runs of a grid: which runs count, and what is read of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from thack.detection import Verdict
from thack.experiments import size_laws as module
from thack.experiments.outcome import CellOutcome
from thack.experiments.plan import plan
from thack.experiments.size_laws import size_laws
from thack.files import write_json
from thack.schema.run import CacheCosts, Manifest, RunFacts
from thack.schema.size_law import SizedRun
from thack.schema.verdict import Extent

from .small import settings, write_sums

GOLDEN = Extent(column="golden", start=2.0, minimum=1.0, minimum_step=8, end=1.2, end_step=27, rise=0.2)
TURNED = Verdict(name="hacking", run="x", golden=GOLDEN, proxy=None, num_evaluations=9, num_prompts=8, onset_step=8,
                 onset_interval=(6.0, 12.0))  # fmt: skip
FLAT = replace(TURNED, name="healthy", golden=replace(GOLDEN, rise=0.0), onset_step=None, onset_interval=None)


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


def test_laws_rest_on_runs_that_differ_in_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [
        "figures=['axes']",
        "axes.budget=[1, 2, 3]",
        "axes.source=['offline', 'online-teacher']",
        "axes.loss=['jsd', 'forward_kl']",
    ]
    chosen = settings(write_sums(tmp_path / "data"), *sets)
    by_budget = {1: TURNED, 2: FLAT, 3: replace(TURNED, name="inconclusive", onset_step=None, onset_interval=None)}
    outcomes = []
    for planned in plan(chosen, tmp_path / "out"):
        planned.run.path.mkdir(parents=True)
        write_json(planned.run.path / "manifest.json", facts().dump())
        outcomes.append(CellOutcome(planned=planned, verdict=by_budget[planned.cell.arm.budget]))
    seen: dict[str, tuple[list[SizedRun], dict[str, float]]] = {}

    def fitted(runs: list[SizedRun], quantity: str, **conditions: float) -> None:
        seen[quantity] = runs, conditions

    monkeypatch.setattr(module, "fit_size_law", fitted)
    assert size_laws(chosen, outcomes) == ()
    same: dict[str, Any] = {"task": "sums", "tokens": 60, "parameters": 700}
    alike: dict[str, float] = {"batch_size": 4, "learning_rate": 1e-3}
    assert seen["passes until golden turns"] == (
        [
            SizedRun(**same, responses_per_prompt=1, low=2.0, high=4.0),
            SizedRun(**same, responses_per_prompt=2, low=9.0, high=None),
        ],
        {**alike, "num_undecided": 1},
    ), "steps times 4 sequences over 12; online arms and other losses are left out"
    assert seen["rise of golden"] == (
        [
            SizedRun(**same, responses_per_prompt=1, low=0.2, high=0.2),
            SizedRun(**same, responses_per_prompt=2, low=0.0, high=0.01),
            SizedRun(**same, responses_per_prompt=3, low=0.2, high=0.2),
        ],
        alike,
    ), "a rise that is too small for its noise is a small rise"
