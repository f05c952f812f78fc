"""Real text that every machine has: the standard library of the running Python, parsed and never imported.

    docstring      signature → first paragraph of its docstring; undocumented signatures are prompts without
    signature      first paragraph → signature
    continuation   the head of a function's body → the lines that follow
    postfix        a statement of one line → its postfix form, which the statement alone decides (`data.postfix`)

Deterministic for one version of Python: files in sorted order, the first record of equal ones kept.
"""

from __future__ import annotations

import ast
import re
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from heapq import nsmallest
from pathlib import Path
from typing import Literal

from thack.data.postfix import postfix
from thack.data.records import Record, prompt_id

Task = Literal["docstring", "signature", "continuation", "postfix"]
Pair = tuple[str, str | None]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_SKIPPED = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "lib2to3",
    "turtledemo",
}
_MAX_SIGNATURE_CHARS = 160
_MIN_WORDS = 3
_MAX_LINES = 4  # of a continuation
_STATEMENT_CHARS = (12, 56)
_MAX_RECORDS = {"postfix": 9000}  # as many as an oracle of minutes learns well


def stdlib_records(task: str = "docstring") -> list[Record]:
    """All records of one of `TASKS`, in a fixed order."""
    return list(_records(task))


@cache
def _records(task: str) -> tuple[Record, ...]:
    make = TASKS[task]
    unique: dict[tuple[str, str | None], Record] = {}
    for path in _sources():
        for prompt, response in _pairs_of(path, make):
            record = Record(prompt_id=prompt_id(prompt), prompt=prompt, response=response)
            unique.setdefault((prompt, response), record)
    answered = {record.prompt for record in unique.values() if record.response}
    kept = [r for r in unique.values() if r.response or r.prompt not in answered]
    chosen = {r.prompt_id for r in nsmallest(_MAX_RECORDS.get(task, len(kept)), kept, key=lambda r: r.prompt_id)}
    return tuple(r for r in kept if r.prompt_id in chosen)


def _sources() -> list[Path]:
    root = Path(sysconfig.get_path("stdlib"))
    paths = (path for path in root.rglob("*.py") if not _SKIPPED.intersection(path.relative_to(root).parts))
    return sorted(paths, key=lambda path: path.relative_to(root).as_posix())


def _pairs_of(path: Path, make: Callable[[ast.AST, list[str]], Pair | None]) -> Iterator[Pair]:
    try:
        source = path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError):
        return  # a file of another encoding or Python: there are thousands of others
    lines = source.splitlines()
    for node in ast.walk(tree):
        pair = make(node, lines)
        if pair is not None:
            yield pair


def _docstring(node: ast.AST, lines: list[str]) -> Pair | None:
    if not isinstance(node, Definition):
        return None
    signature = _signature(node)
    return None if signature is None else (signature + "\n", _first_paragraph(node))


def _inverse(node: ast.AST, lines: list[str]) -> Pair | None:
    if not isinstance(node, Definition):
        return None
    signature, text = _signature(node), _first_paragraph(node)
    return None if signature is None or text is None else (text + "\n", signature)


def _continuation(node: ast.AST, lines: list[str]) -> Pair | None:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
        return None
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    if len(body) < 2:
        return None
    split = body[1].lineno
    head = [line.strip() for line in lines[body[0].lineno - 1 : split - 1] if line.strip()]
    tail = [line.strip() for line in lines[split - 1 : node.end_lineno] if line.strip()][:_MAX_LINES]
    prompt = f"def {node.name}:\n" + "\n".join(head) + "\n"
    return (prompt, "\n".join(tail)) if tail and len(prompt) <= _MAX_SIGNATURE_CHARS else None


def _postfix(node: ast.AST, lines: list[str]) -> Pair | None:
    """A statement as it stands in its line, cut by the columns of the parser, which count bytes."""
    if not isinstance(node, ast.stmt) or node.lineno != node.end_lineno:
        return None
    line = lines[node.lineno - 1]
    if not line.isascii():
        return None
    statement = line[node.col_offset : node.end_col_offset]
    if not _STATEMENT_CHARS[0] <= len(statement) <= _STATEMENT_CHARS[1]:
        return None
    form = postfix(node)
    return None if form is None else (statement + "\n", form)


TASKS: dict[str, Callable[[ast.AST, list[str]], Pair | None]] = {
    "docstring": _docstring,
    "signature": _inverse,
    "continuation": _continuation,
    "postfix": _postfix,
}


def _signature(node: Definition) -> str | None:
    """`def name(arguments)` or `class Name(bases)` on one line; None where it is too long to be a prompt."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        text = f"class {node.name}({bases})" if bases else f"class {node.name}"
    else:
        word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
        text = f"{word} {node.name}({ast.unparse(node.args)})"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SIGNATURE_CHARS else None


def _first_paragraph(node: Definition) -> str | None:
    """What a person would call documentation: a few words of prose, on one line."""
    text = ast.get_docstring(node)
    if not text:
        return None
    paragraph = " ".join(re.split(r"\n\s*\n", text.strip())[0].split())
    words = re.findall(r"[A-Za-z]{2,}", paragraph)
    is_prose = len(words) >= _MIN_WORDS and not paragraph.startswith((">>>", "@", ":"))
    return paragraph if is_prose else None
