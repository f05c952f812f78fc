"""What users call says what goes in, what comes out, and how a call looks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import pytest

import thack
from thack import detection, integrations, losses

CLASSES = (thack.Cache, thack.EvalSet, thack.Verdict, *map(vars(integrations).get, integrations.__all__))
_OF_TRANSFORMERS = ("on_train_begin", "on_step_end", "on_log", "on_train_end")  # which calls them


def functions() -> Iterator[tuple[str, Callable[..., object]]]:
    for module in (losses, detection):
        for name in module.__all__:
            if inspect.isfunction(found := getattr(module, name)):
                yield f"{module.__name__}.{name}", found


def methods() -> Iterator[tuple[str, Callable[..., object]]]:
    for owner in filter(inspect.isclass, CLASSES):
        for name, raw in vars(owner).items():
            found = getattr(raw, "__func__", raw)
            if inspect.isfunction(found) and not name.startswith("_") and name not in _OF_TRANSFORMERS:
                yield f"{owner.__name__}.{name}", found


def lacks(function: Callable[..., object]) -> list[str]:
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    parameters = [name for name in signature.parameters if name not in ("self", "cls", "_")]
    lacking = [name for name in parameters if f"{name}: " not in text and f"`{name}`" not in text]
    returns = signature.return_annotation not in (None, "None")
    is_said = any(f"{word}:\n" in text for word in ("Returns", "Yields"))
    return [*lacking, *(["Returns"] if returns and not is_said else [])]


@pytest.mark.parametrize(("name", "function"), sorted(functions()))
def test_a_function_documents_its_parameters_and_has_an_example(name: str, function: Callable[..., object]) -> None:
    assert not lacks(function), name
    assert "Example:" in (inspect.getdoc(function) or "")


@pytest.mark.parametrize(("name", "function"), sorted(methods()))
def test_a_method_documents_its_parameters(name: str, function: Callable[..., object]) -> None:
    assert not lacks(function), name
