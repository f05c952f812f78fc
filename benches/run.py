"""`make bench`: every benchmark under benches/ that has `rows()`, as one table, and benches/last.json.

Run: python benches/run.py [NAME ...], where a name is a module beside this file (all of them without one).
Modules give dicts: what, peer, ratio, target, and either value or ours_us, peer_us, floor_us.
"""

from __future__ import annotations

import importlib
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from thack import _thack
from thack.files import write_json

HERE = Path(__file__).parent
COLUMNS = ("what", "ours", "peer's", "ratio", "floor", "over floor", "target", "peer")


def main(names: list[str]) -> int:
    found: dict[str, list[dict[str, Any]]] = {}
    failed = []
    for name in names or modules():
        try:
            found[name] = importlib.import_module(name).rows()
        except Exception as error:  # one broken benchmark must not hide the others
            failed.append(f"{name}: {type(error).__name__}: {error}")
            continue
        print(f"\n{name}\n{table(found[name])}", flush=True)
    write_json(HERE / "last.json", {"machine": machine(), "benchmarks": found, "failed": failed})
    for line in failed:
        print(f"failed  {line}", file=sys.stderr)
    return 1 if failed else 0


def modules() -> list[str]:
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")


def machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "simd": _thack.simd_level(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [COLUMNS, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ours, floor = row.get("ours_us"), row.get("floor_us")
    ratio = row.get("ratio")
    return (
        row["what"],
        f"{row['value']:.2f}" if ours is None else f"{ours:.1f} µs",
        "" if row.get("peer_us") is None else f"{row['peer_us']:.1f} µs",
        "" if ratio is None else f"{ratio:.1f}×",
        row.get("floor", "") if floor is None else f"{floor:.1f} µs",
        "" if floor is None or ours is None else f"{ours / floor:.1f}",
        row["target"],
        row["peer"],
    )


def _cpu() -> str:
    """The model's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
