"""`make bench`: the table of all that is measured beside its peer, floor and target; also benches/last.json.

Run: python benches/run.py [MODULE ...] (all of MODULES without one; a part leaves the rest of last.json alone).
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from harness import Measurement
from thack import _native
from thack.files import write_json

# A new benchmark is a module beside this file.
MODULES = ("engine", "row_kernels", "divergence", "cells", "records", "store", "lora")
LAST = Path(__file__).parent / "last.json"
COLUMNS = ("what", "ours", "peer's", "ratio", "floor", "over floor", "target", "met", "peer")


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        print(f"error: no benchmark is called {', '.join(unknown)}; use {', '.join(MODULES)}", file=sys.stderr)
        return 2
    failed = {}
    for name in names or MODULES:
        try:
            found = list(importlib.import_module(name).measure())
        except Exception as error:  # one broken benchmark must not hide the others
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        print(f"\n{name}\n{table(found)}", flush=True)
        record(name, found)
    for name, reason in failed.items():
        print(f"failed  {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def record(name: str, found: Sequence[Measurement]) -> None:
    """Puts one module's measurements into last.json, beside when and where they were made."""
    known = json.loads(LAST.read_text()) if LAST.exists() else {}
    entry = {"machine": machine(), "measurements": [one.document() for one in found]}
    write_json(LAST, {key: known[key] for key in MODULES if key in known} | {name: entry})


def machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "simd": _native.simd_level(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(found: Sequence[Measurement]) -> str:
    lines = [COLUMNS, *(_cells(one) for one in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cells(one: Measurement) -> tuple[str, ...]:
    return (
        one.what,
        f"{_number(one.ours)} {one.unit}",
        _number(one.theirs),
        _number(one.ratio, "×"),
        f"{_number(one.floor)} {one.floor_is}".strip(),
        _number(one.over_floor, "×"),
        "" if one.target is None else str(one.target),
        {None: "", True: "yes", False: "MISSED"}[one.met],
        one.peer,
    )


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    return (f"{value:.0f}" if value >= 1000 else f"{value:.3g}") + unit


def _cpu() -> str:
    """The model's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
