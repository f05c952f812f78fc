"""The embedded corpus: text of the running Python, parsed and never imported."""

from __future__ import annotations

import ast
from typing import Any

import pytest

from thack.data import stdlib_records
from thack.data.stdlib import TASKS


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_records_are_unique_and_named_by_their_prompt(task: str) -> None:
    found = stdlib_records(task)
    assert len(found) > 500
    assert len({(record.prompt, record.response) for record in found}) == len(found)
    assert all(record.prompt.strip() and record.prompt.endswith("\n") for record in found)
    names: dict[str, set[str]] = {}
    for record in found:
        names.setdefault(record.prompt_id, set()).add(record.prompt)
    assert all(len(prompts) == 1 for prompts in names.values())


def test_a_prompt_with_an_answer_stands_there_with_it_alone(task: str) -> None:
    found = stdlib_records(task)
    answered = {record.prompt for record in found if record.response}
    assert not answered & {record.prompt for record in found if not record.response}


def pairs(source: str, name: str) -> list[Any]:
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
    return [TASKS[name](node, source.splitlines())]


FUNCTION = '''async def f(a, *, b=1):
    """Read three words of prose.

    And more.
    """
    x = a
    y = b
    return x
'''


def test_what_each_task_makes_of_a_function() -> None:
    signature = "async def f(a, *, b=1)"
    assert pairs(FUNCTION, "docstring") == [(signature + "\n", "Read three words of prose.")]
    assert pairs(FUNCTION, "signature") == [("Read three words of prose.\n", signature)]
    assert pairs(FUNCTION, "continuation") == [("def f:\nx = a\n", "y = b\nreturn x")]


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("class A(B, C):\n    pass", "docstring", ("class A(B, C)\n", None)),
        ("class A:\n    '''Two words.'''", "docstring", ("class A\n", None)),
        ("def f():\n    pass", "signature", None),
        ("def f():\n    pass", "continuation", None),
        ("class A:\n    x = 1\n    y = 2", "continuation", None),
        ("def f(" + "a" * 200 + "):\n    pass", "docstring", None),
        ("def f():\n    '''>>> three words here'''", "docstring", ("def f()\n", None)),
    ],
)
def test_what_is_no_prose_and_what_is_too_long(source: str, name: str, expected: object) -> None:
    assert pairs(source, name) == [expected]
