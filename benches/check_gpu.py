"""`make check-gpu`: GPU tests and GPU benchmarks in at most eight minutes, on one CUDA device; downloads nothing.

Run: python benches/check_gpu.py [--section NAME ...] [--json PATH]

Needs a Python environment with torch built for CUDA (Triton comes with it), thack's dependencies, pytest with
pytest-timeout and hypothesis, and the native module as python/thack/_thack.abi3.so, which `make install` builds. The
package itself need not be installed: this checkout's is used. A machine without a compiler takes a copied
_thack.abi3.so for its system and processor, for any Python from 3.11 on.

Each section is a process of its own, stopped at its time limit; a section that fails does not hide the others, and
makes the exit code 1. Without a card the tests run on a simulated device, and the benchmarks are skipped.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAST = Path(__file__).with_name("gpu.json")
TOTAL_S = 480
LEAST_S = 20  # with less time left a section is not begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Tests, or a function of a module beside this file that yields measurements."""

    name: str
    limit_s: float
    module: str = ""
    function: str = "measure"


SECTIONS = (
    Section(name="tests", limit_s=150),
    Section(name="rows", limit_s=80, module="gpu_rows"),
    Section(name="head", limit_s=80, module="gpu_head"),
    Section(name="capture", limit_s=70, module="gpu_model", function="measure_capture"),
    Section(name="training", limit_s=80, module="gpu_model", function="measure_training"),
    Section(name="generation", limit_s=40, module="gpu_model", function="measure_generation"),
)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """How a section ended: passed, failed, stopped (at its limit) or skipped."""

    state: str
    reason: str = ""
    seconds: float = 0.0
    measurements: list[dict[str, Any]] = field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="GPU tests and benchmarks, in at most eight minutes.")
    parser.add_argument("--section", action="append", choices=[s.name for s in SECTIONS], help="run only these")
    parser.add_argument("--json", type=Path, default=LAST, help="where to write every number")
    parser.add_argument("--measure-into", type=Path, help=argparse.SUPPRESS)  # a section's own process
    chosen = parser.parse_args(arguments)
    sections = [s for s in SECTIONS if chosen.section is None or s.name in chosen.section]
    sys.path[:0] = [str(ROOT / "python")]
    if chosen.measure_into:
        return measure(sections[0], chosen.measure_into)
    try:
        machine = about()
    except Exception as error:  # no torch, no native module, or one of an older build
        print(f"error: {type(error).__name__}: {error}\nSee the head of {Path(__file__).name}.", file=sys.stderr)
        return 2
    device = machine["device"]
    print(f"GPU check on {device}" if device else "no CUDA device: the tests run on a simulated one", flush=True)
    outcomes = run(sections, has_card=bool(device))
    summarise(outcomes)
    if device:
        from thack.files import write_json

        write_json(chosen.json, {**machine, "sections": {name: record(found) for name, found in outcomes.items()}})
        print(f"written  {chosen.json}")
    return 1 if any(found.state in ("failed", "stopped") for found in outcomes.values()) else 0


def about() -> dict[str, Any]:
    """The machine, and when; imports what every section needs."""
    import torch

    from thack import _native

    has_card = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if has_card else None,
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if has_card else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": importlib.import_module("triton").__version__ if importlib.util.find_spec("triton") else None,
        "python": sys.version.split()[0],
        "thack": _native.version,
    }


def run(sections: Sequence[Section], *, has_card: bool) -> dict[str, Outcome]:
    began = time.perf_counter()
    outcomes = {}
    for section in sections:
        left = TOTAL_S - (time.perf_counter() - began)
        print(f"\n{section.name}", flush=True)
        if section.module and not has_card:
            found = Outcome(state="skipped", reason="no CUDA device")
        elif left < LEAST_S:
            found = Outcome(state="skipped", reason=f"only {left:.0f} s of {TOTAL_S} s are left")
        else:
            found = in_a_process(section, min(left, section.limit_s), has_card=has_card)
        outcomes[section.name] = found
        print(f"  {found.state} after {found.seconds:.0f} s {found.reason}".rstrip(), flush=True)
    return outcomes


def in_a_process(section: Section, limit_s: float, *, has_card: bool) -> Outcome:
    """Run one section; what it has measured until its limit is kept."""
    with tempfile.TemporaryDirectory() as scratch:
        numbers = Path(scratch) / "numbers.jsonl"
        began = time.perf_counter()
        process = subprocess.Popen(
            command(section, numbers, has_card=has_card), env=environment(), cwd=ROOT, start_new_session=True
        )
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            os.killpg(process.pid, 9)

        timer = threading.Timer(limit_s, stop)
        timer.start()
        code = process.wait()
        timer.cancel()
        outcome = Outcome(state="passed" if code == 0 else "failed", seconds=round(time.perf_counter() - began, 1))
        lines = numbers.read_text().splitlines() if numbers.exists() else []
    for line in map(json.loads, lines):
        if "error" in line:
            outcome.reason = line["error"]
        else:
            outcome.measurements.append(line)
    if stopped.is_set():
        outcome.state, outcome.reason = "stopped", f"at its limit of {limit_s:.0f} s; the rest was not run"
    elif code and not outcome.reason:
        outcome.reason = f"exit code {code}"
    return outcome


def command(section: Section, numbers: Path, *, has_card: bool) -> list[str]:
    if section.module:
        return [sys.executable, __file__, "--section", section.name, "--measure-into", str(numbers)]
    marked = ["-m", "gpu"] if has_card else []
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *marked, "tests/python/gpu"]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "python"), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def measure(section: Section, numbers: Path) -> int:
    """In a section's process: print a line for each measurement, and append it to the file."""
    from gpu_shapes import fitting

    with open(numbers, "a") as file:
        try:
            for one in getattr(importlib.import_module(section.module), section.function)(fitting()):
                print(line_of(one.document()), flush=True)
                print(json.dumps(one.document()), file=file, flush=True)
        except Exception as error:
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=file, flush=True)
            return 1
    return 0


def line_of(one: dict[str, Any]) -> str:
    """what, ours, the peer's, how many times better ours is, and how far from the floor."""
    cells = [f"  {one['what']:<52}", f"{number(one['ours']):>9} {one['unit']:<8}"]
    if one["peer"]:
        cells.append(f"{number(one['theirs']):>9}  {number(one['ratio'], '×'):>6}  {one['peer']}")
    if one["over_floor"]:
        cells.append(f"({number(one['over_floor'], '×')} of {one['floor_is']})")
    return " ".join(cells).rstrip()


def number(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}") + unit


def record(found: Outcome) -> dict[str, Any]:
    return {
        "state": found.state,
        "reason": found.reason,
        "seconds": found.seconds,
        "measurements": found.measurements,
    }


def summarise(outcomes: dict[str, Outcome]) -> None:
    print("\nsection     state      seconds  measurements")
    for name, found in outcomes.items():
        row = f"{name:<11} {found.state:<9} {found.seconds:>8.0f}  {len(found.measurements):>12}  {found.reason}"
        print(row.rstrip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
