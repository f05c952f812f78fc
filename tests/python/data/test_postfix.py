"""Postfix forms, against a stack machine that reads them back: each form determines its statement."""

from __future__ import annotations

import ast
import random
import re

import pytest

from thack.data import stdlib_records
from thack.data.postfix import postfix

_BINARY = {
    "+": "+", "-": "-", "*": "*", "/": "/", "//": "//", "%": "%", "**": "**", "@": "@", "<<": "<<", ">>": ">>",
    "|": "|", "^": "^", "&": "&", "==": "==", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "is": "is",
    "is-not": "is not", "in": "in", "not-in": "not in",
}  # fmt: skip
_UNARY = {"not": "not ", "neg": "-", "pos": "+", "~": "~"}
_OPENING = {"list": "[{}]", "set": "{{{}}}", "tuple": "({},)"}


def read(form: str) -> str:
    """The statement of a postfix form, in brackets everywhere; evaluated word by word from left to right."""
    stack: list[str] = []

    def pop(count: int) -> list[str]:
        taken = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return taken

    for word in form.split(" "):
        counted = re.fullmatch(r"(call|list|set|tuple|dict|and|or)(\d+)", word)
        if counted:
            stack.append(counted_form(counted[1], int(counted[2]), pop))
        elif word in _BINARY:
            left, right = pop(2)
            stack.append(f"({left} {_BINARY[word]} {right})")
        elif word in _UNARY:
            stack.append(f"({_UNARY[word]}{pop(1)[0]})")
        elif word == "[]":
            value, index = pop(2)
            stack.append(f"{value}[{index}]")
        elif word in (":", "from:", "to:", "fromto:"):
            bounds = {"from": "from" in word, "to": "to" in word}
            ends = pop(sum(bounds.values()))
            lower = ends.pop(0) if bounds["from"] else ""
            stack.append(f"{lower}:{ends[0] if bounds['to'] else ''}")
        elif word == "if-else":
            test, body, otherwise = pop(3)
            stack.append(f"({body} if {test} else {otherwise})")
        elif word == "=" or re.fullmatch(r"\W{1,2}=", word):
            value, target = pop(2)
            stack.append(f"{target} {word} {value}")
        elif word in ("return", "raise", "assert", "del"):
            stack.append(f"{word} {pop(1)[0]}")
        elif word == "*:":
            stack.append(f"*{pop(1)[0]}")
        elif word == "**:" or re.fullmatch(r"[^\W\d]\w*:", word):
            stack.append(f"{word.removesuffix(':')}{'' if word == '**:' else '='}{pop(1)[0]}")
        elif word.startswith(".") and word != "...":
            stack.append(f"({pop(1)[0]}){word}")
        else:
            stack.append(word)
    (statement,) = stack
    return statement


def counted_form(kind: str, count: int, pop: object) -> str:
    assert callable(pop)
    if kind == "call":
        function, *arguments = pop(count + 1)
        return f"({function})({', '.join(arguments)})"
    if kind == "dict":
        parts = pop(2 * count)
        return "{" + ", ".join(f"{k}: {v}" for k, v in zip(parts[::2], parts[1::2], strict=True)) + "}"
    items = pop(count)
    if kind in ("and", "or"):
        return "(" + f" {kind} ".join(items) + ")"
    return _OPENING[kind].format(", ".join(items)) if items else {"list": "[]", "tuple": "()"}[kind]


def test_every_form_of_the_corpus_reads_back_as_its_statement() -> None:
    records = stdlib_records("postfix")
    assert len(records) == 9000
    for record in random.Random(0).sample(records, 1500):
        assert record.response is not None
        assert ast.dump(ast.parse(read(record.response))) == ast.dump(ast.parse(record.prompt)), record


@pytest.mark.parametrize(
    ("statement", "form"),
    [
        ("default = defaults.get(option.dest)", "defaults .get option .dest call1 default ="),
        ("return not self.closed", "self .closed not return"),
        ("x[1:] += a if b else {}", "b a dict0 if-else x 1 from: [] +="),
        ("f(*a, **b)", "f a *: b **: call2"),
        ("del a[-1]", "a 1 neg [] del"),
        ("assert a and b and c < 1", "a b c 1 < and3 assert"),
    ],
)
def test_forms(statement: str, form: str) -> None:
    assert postfix(ast.parse(statement).body[0]) == form


@pytest.mark.parametrize(
    "statement",
    ["x = lambda: 1", "x = [a for a in b]", "x = 'two words'", "a = b = 1", "a < b < c", "return", "x: int = 1",
     "call1 = neg", "x = a[::2]", "raise A from b", "f'{a}'", "pass"],
)  # fmt: skip
def test_statements_without_a_form(statement: str) -> None:
    assert postfix(ast.parse(statement).body[0]) is None
