"""What `import thack` promises: every name is there, says what it is, and costs nothing until it is used."""

from __future__ import annotations

import importlib
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
PUBLIC = [(f"thack.{part}", name) for part in PARTS for name in getattr(thack, part).__all__]
PUBLIC += [("thack", name) for name in NAMES if name not in PARTS]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(thack, name) is not None
    assert name in dir(thack)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in PARTS.items() for name in names])
def test_every_part_holds_what_is_promised(part: str, name: str) -> None:
    assert name in getattr(thack, part).__all__


@pytest.mark.parametrize(("home", "name"), PUBLIC)
def test_every_public_function_and_class_has_a_docstring_of_its_own(home: str, name: str) -> None:
    found = getattr(sys.modules.get(home) or importlib.import_module(home), name)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return
    assert found.__doc__ and not found.__doc__.startswith(f"{name}("), "none, or the one that dataclass writes"
    if inspect.isclass(found):
        assert found.__doc__ not in [base.__doc__ for base in found.__mro__[1:]], "inherited"
        undocumented = [
            method
            for method, value in vars(found).items()
            if not method.startswith("_")
            and inspect.isfunction(value)
            and not value.__doc__
            and not any(hasattr(base, method) for base in found.__mro__[1:])
        ]
        assert not undocumented, undocumented


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
