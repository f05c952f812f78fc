"""The examples in the docstrings of the API run, one after the other, as a user would type them."""

from __future__ import annotations

import doctest
import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import thack
from thack import api

# In an order in which each finds what those before it wrote.
ORDER = (
    *(
        "corpus",
        "sft",
        "merge",
        "push",
        "show_data",
        "generate",
        "cache_logits",
        "estimate_cache",
        "probe_cache",
        "inspect_cache",
        "verify_cache",
    ),
    *("export_cache", "import_cache", "distill", "evaluate", "verdict", "explain", "read_curves"),
    *("report", "recipe", "forecast", "slurm_script", "doctor", "preflight"),
)
WITHOUT = {"score_detectors", "demo", "experiment", "write_cells"}  # minutes, or nothing to show
PUBLIC = {
    name
    for name, value in vars(api).items()
    if inspect.isfunction(value) and value.__module__.startswith("thack.api.") and not name.startswith("_")
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of one's own, with a run that was judged before."""
    path = tmp_path_factory.mktemp("examples")
    (path / "runs" / "judged").mkdir(parents=True)
    rows = [
        {"event": "evaluation", "step": step, "golden/forward_kl/reference_sampled/token_mean": 1.0}
        for step in (0, 100, 200)
    ]
    (path / "runs" / "judged" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_function_has_an_example_or_a_reason_not_to() -> None:
    assert set(ORDER) | WITHOUT == PUBLIC
    assert not set(ORDER) & WITHOUT


@pytest.mark.parametrize("name", ORDER)
def test_the_example_prints_what_it_says(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory)
    function: Callable[..., object] = getattr(api, name)
    (test,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={"thack": thack, "Path": Path})
    assert test.examples
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
    assert result.failed == 0


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_function_documents_its_parameters_and_is_typed(name: str) -> None:
    function = getattr(api, name)
    signature = inspect.signature(function)
    text = inspect.getdoc(function) or ""
    if len(signature.parameters) > 1:
        for parameter in signature.parameters:
            assert f"\n    {parameter}: " in text, f"{name}: no line for {parameter}"
    assert "\nReturns:\n" in text or signature.return_annotation in ("None", None), f"{name}: what it returns"
    assert "Any" not in str(signature)
    assert signature.return_annotation is not inspect.Signature.empty
    assert not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
