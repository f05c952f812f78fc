"""The examples of the docstrings, run with a synthetic run that hacks."""

from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from detection.synthetic import Noise, write_run
from thack.detection import Series, curves, detectors, power_law, scoring, verdict_table

MODULES = [curves, detectors, power_law, scoring, verdict_table]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: ModuleType, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", noise=Noise(prompt=0.03, checkpoint=0.001))
    found = doctest.testmod(module, extraglobs={"run": run, "np": np, "Series": Series, "Curves": curves.Curves})
    assert found.attempted and not found.failed
