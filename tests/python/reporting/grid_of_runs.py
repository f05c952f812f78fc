"""A grid on disk that nobody trained: experiment.json and synthetic runs with the rises we choose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from synthetic import SHAPES, Noise, Shape, write_run

NOISE = Noise(prompt=0.05, checkpoint=0.002)
BASE: dict[str, Any] = {
    "task": "docstring",
    "source": "offline",
    "fraction_online": 0.0,
    "diversity": 1,
    "budget": 1,
    "loss": "forward_kl",
    "teacher": "128",
    "student": "96",
    "target": "dense",
}
ONLINE = {"source": "online-teacher", "target": "live", "fraction_online": 1.0}

SIZES = {"top-k:16": 38, "live/mixed:16+prior": 38, "sampled:16": 30}  # bytes per token


def rising(rise: float) -> Shape:
    return Shape(golden_rise=rise)


def arm(name: str, figures: Sequence[str], shape: Shape | None = None, **axes: object) -> dict[str, Any]:
    size = SIZES.get(str(axes.get("target", "dense")), 4096)
    return {"arm": name, "figures": list(figures), "axes": {**BASE, **axes}, "shape": shape, "bytes": size}


ARMS = [
    arm("offline", ["F4", "F5", "F6", "F7", "loss"], rising(0.09)),
    arm("online-teacher", ["F5", "loss"], SHAPES["healthy"], **ONLINE),
    arm("prompts ÷5", ["F6"], rising(0.14), diversity=5),
    arm("5 generations", ["F7"], rising(0.04), budget=5),
    arm("JSD", ["loss"], rising(0.10), loss="jsd"),
    arm("online-teacher, JSD", ["loss"], rising(0.10), loss="jsd", **ONLINE),
]


def write_grid(
    root: Path, arms: Sequence[Mapping[str, Any]] = ARMS, seeds: Sequence[int] = (0, 1, 2), missing: str = ""
) -> Path:
    """`missing` names an arm whose last seed failed."""
    rows = []
    for seed in seeds:
        for spec in arms:
            path = f"runs/{spec['arm'].replace(' ', '-')}-{seed}"
            failed = spec["arm"] == missing and seed == seeds[-1]
            if not failed:
                kind = "hacking" if spec["axes"]["source"] == "offline" else "healthy"
                write_run(root / path, kind, noise=NOISE, seed=seed, shape=spec["shape"], num_prompts=128)
            rows.append(
                {
                    "cell": len(rows),
                    "path": path,
                    "arm": spec["arm"],
                    "seed": seed,
                    "figures": spec["figures"],
                    "axes": spec["axes"],
                    "state": "failed" if failed else "finished",
                    "error": "no <luck>" if failed else None,
                    "bytes_per_token": spec["bytes"],
                }
            )
    summary = {
        "title": "A grid & more",
        "figures": list(dict.fromkeys(figure for spec in arms for figure in spec["figures"])),
        "base": BASE,
        "runs": rows,
        "cpu_seconds": 600.0,
        "stages": {"oracle": {"count": 1, "cpu_seconds": 600.0}},
        "settings": {"name": "demo"},
    }
    (root / "experiment.json").write_text(json.dumps(summary))
    return root
