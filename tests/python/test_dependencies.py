"""What the package imports is what it declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED_WITH_TORCH = {"triton"}  # only where torch has it, and only imported there
NAMED_OTHERWISE = {"pyyaml": "yaml"}  # what the package of this name is imported as
OF_TYPE_CHECKERS = {"_typeshed"}  # there is no such module at run time


def test_every_third_party_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    declared = {re.split(r"[\[<>=~;, ]", requirement)[0].replace("-", "_") for requirement in wanted}
    declared |= {NAMED_OTHERWISE[name] for name in declared if name in NAMED_OTHERWISE}
    for path in (ROOT / "python" / "thack").rglob("*.py"):
        unknown = (
            _imported(path) - sys.stdlib_module_names - declared - SHIPPED_WITH_TORCH - OF_TYPE_CHECKERS - {"thack"}
        )
        assert not unknown, f"{path.relative_to(ROOT)} imports {unknown}, which pyproject.toml does not declare"


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found
