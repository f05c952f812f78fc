"""reference/files.md: every file that thack writes beside shards and weights, key by key.

Made from the dataclasses of `thack.schema`: their fields, types, defaults, and the comment behind each field, or what
the class's docstring says of it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from thack.schema.fields import Help

#: Sections of the page: a title, and the modules of `thack.schema` whose classes it shows.
SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Runs", ("run",)),
    ("Metrics", ("metric_rows",)),
    ("Responses for people to read", ("samples",)),
    ("Verdicts", ("verdict",)),
    ("Caches", ("cache",)),
    ("A teacher behind a server", ("serving",)),
    ("Directories of responses", ("generation",)),
    ("Evaluation sets and evaluations", ("evaluation",)),
    ("Grids", ("experiment", "size_law")),
    ("Two tokenizers", ("cross_tokenizer",)),
    ("Locks", ("lock",)),
    ("What --json prints", ("cache_content", "cache_size", "data", "preflight", "publication")),
)
#: File, where it is, and the class or section that describes it.
FILES = (
    ("STATUS.json", "every output directory", "Status"),
    ("manifest.json", "a run", "Manifest"),
    ("environment.json", "a run", "Environment"),
    ("config.toml", "a run", "the [settings](settings.md) of its command"),
    ("metrics.jsonl, per_prompt.jsonl", "a run", "rows of [metrics](#metrics)"),
    ("samples.jsonl", "a run", "SampleRow"),
    ("held_out.jsonl", "a run", "PromptRow"),
    ("verdict.json", "a run that was judged and has a golden metric", "Verdict"),
    ("trainer.json", "a checkpoint", "TrainerState"),
    ("cells.npz", "a run whose tokenizers differ", "the two vocabularies compared; may be removed"),
    ("sft/", "a run with `baseline = sft`", "the run of plain fine-tuning beside it"),
    ("plan.json, shards/", "a cache", "[the format of a cache](../format.md)"),
    ("manifest.json", "a cache", "CacheManifest"),
    ("ends.json", "a cache", "ResponseEnds"),
    ("writer.json", "a cache", "ResponseWriter"),
    ("served.json", "a cache of a server", "ServedTeacher"),
    ("manifest.json", "responses (`thack generate`)", "ResponsesManifest"),
    ("manifest.json", "a frozen evaluation set", "EvalSetManifest"),
    ("experiment.json", "a grid", "Summary"),
    ("cells.json", "a grid", "Plan"),
    ("stage.json", "a stage of a grid", "StageRecord"),
    (".NAME.spent", "beside a stage of a grid that was stopped", "SpentTime"),
    (".NAME.lock", "beside an output", "LockOwner"),
)
#: Rows whose keys are the columns themselves: the section says it.
_IN_PROSE = ("MetricsRow", "PerPromptRow", "PromptSums", "Watched")
_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", object: "anything"}
_INTRODUCTION = """# Files

What thack writes beside shards and weights is JSON, or JSON lines: one object on each line. Every file has a class in
`thack.schema`, whose fields are its keys, and whose `parse` and `dump` read and write it:

    from thack.schema.verdict import Verdict
    verdict = Verdict.parse(json.loads(Path("runs/a/verdict.json").read_text()))

A file that begins with `"schema"` names the version of its layout, and another version is refused. Keys that are
absent have the default of the table. Keys that are not in it are passed over, except in the manifest of a cache, where
they are refused.
"""
_METRICS = """A line of metrics.jsonl has an `event`: `train` (a step), `evaluation` or `guard` (what the guard did).
The first two have `step`, `epoch`, and one number for each column. The columns of an evaluation are named so:

```text
{columns}
```

    {{"event": "evaluation", "step": 79, "epoch": 4.9, "golden/forward_kl/reference_sampled/token_mean": 1.099, …}}

Further columns: `train_kl/monitor` and `train_kl/fresh` (the distance to the teacher on responses that are trained on,
and on other ones to the same prompts), `health/…` (length, repetition, entropy), `loss`, and what the step cost.

A line of per_prompt.jsonl is one evaluation: for each metric, without its reduction, the sums over each prompt's
response, in the order of the evaluation set.

    {{"step": 79, "golden/forward_kl/reference_sampled": {{"nats": [12.1, …], "tokens": [11, …]}}, …}}
"""


def page() -> str:
    """The text of the page."""
    return "\n".join(_page())


def classes() -> dict[str, type]:
    """The classes that the page shows, by name."""
    modules = [_module(name) for _, names in SECTIONS for name in names]
    return {cls.__name__: cls for module in modules for cls in _classes(module)}


def _page() -> Iterator[str]:
    known = classes()
    yield _INTRODUCTION
    yield "| file | where | what it holds |\n|---|---|---|"
    for file, where, what in FILES:
        yield f"| `{file}` | {where} | {_link(what) if what in known else what} |"
    for title, names in SECTIONS:
        yield f"\n## {title}\n"
        if title == "Metrics":
            yield _METRICS.format(columns=_columns())
        for name in names:
            for cls in _classes(_module(name)):
                yield from _section(cls)


def _columns() -> str:
    """The grammar of columns, which the docstring of `thack.schema.metrics` has."""
    text = inspect.getdoc(_module("metrics")) or ""
    return inspect.cleandoc(text[text.index("    golden/") :])


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"thack.schema.{name}")


def _classes(module: ModuleType) -> Iterator[type]:
    """The dataclasses that a module defines, in its order, but for those whose fields are not keys."""
    types = [
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    yield from (cls for cls in types if dataclasses.is_dataclass(cls) and cls.__name__ not in _IN_PROSE)


def _section(cls: type) -> Iterator[str]:
    text = re.split(r"\n\n(?:Args|Raises|Example|Returns):", inspect.getdoc(cls) or "")[0]
    yield f"\n### {cls.__name__}\n\n{text}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    if (version := getattr(cls, "SCHEMA", None)) is not None:
        yield f"| `schema` | whole number | always {version} | version of the layout |"
    hints, meanings = get_type_hints(cls, include_extras=True), {**_comments(cls), **_arguments(cls)}
    for field in dataclasses.fields(cls):
        if not field.name.startswith("_"):
            kind, meaning = hints[field.name], meanings.get(field.name, "")
            yield f"| `{field.name}` | {_kind(kind)} | {_default(field)} | {_meaning(_help(kind) or meaning)} |"


def _kind(hint: Any) -> str:
    """A type as what stands in the file."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join("null" if one is NoneType else _kind(one) for one in arguments)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}" if Ellipsis in arguments else f"list of {len(arguments)} numbers"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"object of {_kind(arguments[1])}"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _link(hint.__name__)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{member.value}`" for member in hint)
    if isinstance(hint, type) and issubclass(hint, PurePath):
        return "path"
    return _NAMES.get(hint, "list of numbers")


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})" if name in classes() else name


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is dataclasses.MISSING else "empty"
    if field.default is None:
        return "null"
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value in ("", ()) else str(value)


def _help(hint: Any) -> str:
    return next((one.text for one in getattr(hint, "__metadata__", ()) if isinstance(one, Help)), "")


def _arguments(cls: type) -> dict[str, str]:
    """What the docstring of a class says of its fields."""
    found = re.search(r"\nArgs:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(cls) or "", re.DOTALL)
    parts = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", found[1] if found else "", re.DOTALL | re.MULTILINE)
    return {name: text for name, text in parts}


def _comments(cls: type) -> dict[str, str]:
    """The comment behind each field."""
    found = {}
    name = ""
    for token in tokenize.generate_tokens(io.StringIO(inspect.cleandoc(inspect.getsource(cls))).readline):
        if field := re.match(r"    (\w+): ", token.line):
            name = field[1]
        if token.type == tokenize.COMMENT and name and not token.line.lstrip().startswith("#"):
            found[name] = token.string.removeprefix("# ")
    return found


def _meaning(text: str) -> str:
    return cell(re.sub(r"\bNone\b", "null", text)).rstrip(".")


def cell(text: str) -> str:
    """A text in a cell of a table. Braces at its end would be attributes."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("{", "&#123;")
