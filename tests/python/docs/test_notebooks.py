"""The notebooks of docs/notebooks are pages of the site; `make notebooks` executes them."""

from __future__ import annotations

from pathlib import Path

import hooks

NOTEBOOKS = sorted((Path(__file__).parents[3] / "docs" / "notebooks").glob("*.py"))


def test_notebooks_are_pages_of_prose_and_code() -> None:
    pages = hooks.pages()
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        page = pages[f"notebooks/{notebook.stem}.md"]
        assert page.startswith("# ") and page.count("```python") >= 3 and "# %%" not in page and "jupytext:" not in page
