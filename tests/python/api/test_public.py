"""What `import thack` promises: every name is there, says what it is, and costs nothing until it is used."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

import thack

PARTS = {
    "kernels": ["topk_logsumexp", "sample", "threshold_sample", "sparse_divergence", "TopK"],
    "cache": ["Cache"],
    "losses": ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "total_variation", "cross_entropy", "token_losses"],
    "evaluation": ["EvalSet", "distance", "evaluate", "Evaluator"],
    "detection": ["fit_power_law", "slope_ratio", "verdict", "verdict_without_oracle", "Curves"],
    "integrations": ["HackingCallback", "CacheDataset", "CacheCollator", "CacheLoss"],
}
NAMES = [name for name in thack.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(thack, name)
    assert inspect.getdoc(found), name
    assert name in dir(thack)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PARTS.items() for name in names])
def test_every_part_holds_what_is_promised(part: str, name: str) -> None:
    home = getattr(thack, part)
    assert name in home.__all__
    found = getattr(home, name)
    assert inspect.getdoc(found), name
    if inspect.isclass(found):
        methods = [m for m in vars(found) if not m.startswith("_") and inspect.isfunction(vars(found)[m])]
        undocumented = [m for m in methods if not inspect.getdoc(getattr(found, m))]
        assert len(undocumented) < len(methods) or not methods, undocumented


def test_everything_exported_by_a_part_has_words() -> None:
    for part in PARTS:
        home = getattr(thack, part)
        for name in home.__all__:
            found = getattr(home, name)
            assert inspect.getdoc(found), f"{part}.{name}"


def test_importing_costs_no_torch() -> None:
    script = (
        "import sys, thack; dir(thack); thack.__version__; thack.verdict; thack.detection.fit_power_law\n"
        "heavy = {'torch', 'transformers', 'matplotlib'} & set(sys.modules); assert not heavy, heavy\n"
        "import thack.reporting; assert callable(thack.report)\n"
        "try: thack.distil\nexcept AttributeError as error: assert 'distil' in str(error)\nelse: raise SystemExit(1)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_function_of_the_evaluation_package_shadows_a_module() -> None:
    from thack.evaluation.evaluator import Evaluator

    assert callable(thack.evaluation.distance)
    modules = {found.name for found in pkgutil.iter_modules(thack.evaluation.__path__)}
    assert not modules & set(thack.evaluation.__all__)
    assert Evaluator is thack.evaluation.Evaluator
