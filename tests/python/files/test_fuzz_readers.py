"""No content of a file that thack reads is a bug of thack: damaged in any way, it is read or refused by name.

THACK_FUZZ sets how many contents each file is tried with.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import traceback
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import thack
from thack.errors import ThackError

from .world import KINDS, Kind, build

pytestmark = pytest.mark.filterwarnings("ignore")  # of peft and transformers, about damaged files
PACKAGE = Path(thack.__file__).parent
ENDINGS = (
    "json|jsonl|toml|yaml|yml|jinja|safetensors|index|csv|tsv|txt|model|parquet|arrow|feather|lock|taken|log|html|md"
    "|gguf|bin|npy"
)
#: Names in the code of files that thack does not read, and why.
NOT_READ = {
    "*.bin": "refused by name: pickled weights",
    "*.gguf": "refused by name, with what to do",
    ".gguf": "the same",
    "Cargo.toml": "a mark of a checkout",
    "README.md": "written",
    "arrow.json": "the name of a type in Arrow",
    "claims.csv": "written",
    "corpus.json": "written",
    "dataset_dict.json": "a mark of several data sets",
    "evaluation.json": "written",
    "report.html": "written",
    "splits.json": "written",
    "cache.md.jinja": "the package's own",
    "card.md.jinja": "the package's own",
    "grid.html.jinja": "the package's own",
    "runs.html.jinja": "the package's own",
    "pairs.jsonl": "rows, as rows.jsonl",
    "stage1.jsonl": "rows, as rows.jsonl",
    "stage2.jsonl": "rows, as rows.jsonl",
    "training.log": "answers, as answers.log",
    "oracle.model": "a setting",
    "server.model": "a setting",
    "student.model": "a setting",
    "teacher.model": "a setting",
}
ODD: list[Any] = [
    *(None, True, -1, 0, 1 << 70, 1e308, 1e-320, "", "x", "\ud800", "9" * 5000, "\x1b[31m", "../../x", "\0"),
    *([], [[]], {}, {"a": 1}, [1, "a"], [None], float("nan"), float("inf")),
]
WHOLE = [
    *(b"", b"\n", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"NaN", b'{"a":1,"a":2}', b"\x00" * 9),
    *(b"null", b"[]", b"{}", b'""', b"5", b"\xff\xfe", b"{}\n[]\n5\n", b'{"schema": 1}', b'{"step": "1"}\n'),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path)
def test_what_is_valid_is_read(kind: Kind, world: Path) -> None:
    kind.read(world / kind.path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.path)
def test_what_is_damaged_is_read_or_refused(kind: Kind, world: Path) -> None:
    path, rng = world / kind.path, random.Random(kind.path)
    valid = path.read_bytes()
    contents = list(WHOLE)
    contents += [
        damaged(valid, rng, path.suffix.startswith(".json")) for _ in range(int(os.environ.get("THACK_FUZZ", "8")))
    ]
    try:
        for content in contents:
            path.unlink()  # another may still be mapped
            path.write_bytes(content)
            try:
                with suppress(ThackError):
                    kind.read(path)
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                pytest.fail(f"{kind.path}: {error!r} at {place} of the content {content[:2000]!r}", pytrace=False)
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(valid)


def damaged(valid: bytes, rng: random.Random, is_json: bool) -> bytes:
    """A valid file with a bit flipped, its end cut off, a block moved, a key renamed, or a value replaced."""
    ways = [_flipped, _truncated, _swapped]
    if is_json:
        ways += [_other_key, _other_value, _other_value, _other_value]
    return rng.choice(ways)(valid, rng)


def _flipped(valid: bytes, rng: random.Random) -> bytes:
    changed = bytearray(valid)
    for _ in range(rng.choice([1, 1, 1, 8])):
        changed[rng.randrange(len(valid))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncated(valid: bytes, rng: random.Random) -> bytes:
    return valid[: rng.randrange(len(valid))]


def _swapped(valid: bytes, rng: random.Random) -> bytes:
    a, b, c = sorted(rng.randrange(len(valid) + 1) for _ in range(3))
    return valid[:a] + valid[b:c] + valid[a:b] + valid[c:]


def _other_key(valid: bytes, rng: random.Random) -> bytes:
    found = rng.choice(list(re.finditer(rb'"([^"\\]+)"\s*:', valid)))
    return valid[: found.start(1)] + rng.choice([b"x", b"step", b"__class__", b""]) + valid[found.end(1) :]


def _other_value(valid: bytes, rng: random.Random) -> bytes:
    """One value somewhere in the JSON of one line, or of the whole file, becomes an odd one."""
    lines = valid.splitlines() if valid.count(b"}\n{") else [valid]
    at = rng.randrange(len(lines))
    document = json.loads(lines[at])
    places: list[tuple[Any, Any]] = []
    _collect(document, places)
    if places:
        holder, key = rng.choice(places)
        holder[key] = rng.choice([*ODD, holder[rng.choice([k for h, k in places if h is holder])]])
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines) + b"\n"


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        places.append((value, key))
        _collect(value[key], places)


def _names() -> set[str]:
    """Every constant in the package that looks like the name of a file, or like its end."""
    looks = re.compile(rf"[\w.*-]*\.({ENDINGS})")
    found: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        found |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and looks.fullmatch(node.value)
        }
    return found


def test_every_file_that_the_code_names_is_tried_here() -> None:
    tried = [kind.name for kind in KINDS]
    names = _names()
    missing = {
        name
        for name in names - NOT_READ.keys()
        if not any(fnmatch(one, f"*{name}" if name.startswith(".") else name) for one in tried)
    }
    assert not missing, f"add a line for each to world.KINDS, or say in NOT_READ why it is not read: {sorted(missing)}"
    assert NOT_READ.keys() <= names, "these are not in the code any more"


def test_json_is_parsed_in_one_place() -> None:
    callers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("load", "loads") and ast.unparse(node.value) == "json"
    }
    assert callers - {"cache/reference.py"} == {"reading.py"}, "use thack.reading, which bounds what it reads"
