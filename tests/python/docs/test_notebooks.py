"""The notebooks of docs/notebooks run from the first cell to the last, as scripts in jupytext's percent format."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hooks

NOTEBOOKS = sorted((Path(__file__).parents[3] / "docs" / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    if "trl" in notebook.stem:
        pytest.importorskip("trl")
    pytest.importorskip("matplotlib")
    environment = os.environ | {"MPLBACKEND": "agg", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, notebook],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_notebooks_are_pages_of_prose_and_code() -> None:
    pages = hooks.pages()
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        page = pages[f"notebooks/{notebook.stem}.md"]
        assert page.startswith("# ") and page.count("```python") >= 3 and "# %%" not in page and "jupytext:" not in page
