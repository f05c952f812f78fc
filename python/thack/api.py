"""The verbs as functions: what a command calls, and what `import thack` exports, lazily.

Every verb takes the keys of its settings as keyword arguments, nested groups as mappings or settings
objects, dotted keys through a mapping, and `config` files below them:

    thack.distill(student="./student", cache="cache/", loss={"divergence": "jsd"}, out="runs/a")
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from thack.config import CacheSettings, DistillSettings, EvaluateSettings, GenerateSettings, SftSettings, load, to_dict
from thack.files import write_text
from thack.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from thack.detection import Curves, OracleFreeVerdict, Score, Verdict
    from thack.experiments.demo import DemoResult
    from thack.experiments.grid import GridResult
    from thack.schema.evaluation import EvaluationResult
    from thack.training import RunResult

S = TypeVar("S")
PathLike = str | Path


def sft(*, config: Sequence[PathLike] = (), progress: Progress = SILENT, **keys: Any) -> Path:
    """Train a model on prompts with responses; gives its directory. Keys: `SftSettings`."""
    from thack.training import run_sft

    return run_sft(settings(SftSettings, config, keys), progress=progress)


def generate(*, config: Sequence[PathLike] = (), progress: Progress = SILENT, **keys: Any) -> dict[str, Any]:
    """Write responses to prompts with a model; gives counts and the directory. Keys: `GenerateSettings`."""
    from thack.generation.run import run_generate

    return run_generate(settings(GenerateSettings, config, keys), progress=progress)


def cache_logits(*, config: Sequence[PathLike] = (), progress: Progress = SILENT, **keys: Any) -> Path:
    """Score responses with a teacher, keep what it knows; gives the directory. Keys: `CacheSettings`."""
    from thack.cache.capture.job import capture

    return capture(settings(CacheSettings, config, keys), progress)


def distill(*, config: Sequence[PathLike] = (), progress: Progress = SILENT, **keys: Any) -> RunResult:
    """Train a student to match a teacher, from a cache or live. Keys: `DistillSettings`."""
    from thack.training import run_distill

    return run_distill(settings(DistillSettings, config, keys), progress=progress)


def evaluate(*, config: Sequence[PathLike] = (), progress: Progress = SILENT, **keys: Any) -> EvaluationResult:
    """Golden and proxy of a student on a frozen evaluation set of held-out prompts. Keys: `EvaluateSettings`."""
    from thack.evaluation import run_evaluate

    return run_evaluate(settings(EvaluateSettings, config, keys), progress=progress)


def verdict(run: PathLike, *, mapping: str | None = None, sets: Sequence[str] = ()) -> Verdict | OracleFreeVerdict:
    """Judge a run directory, or another trainer's log with a `mapping` ("golden=eval/kl,step=global_step").

    Without a golden column the detector that needs no oracle speaks, and `sets` are thresholds instead of
    margins. A run directory that may be written gets its verdict.json, and its model the card with the verdict.
    """
    from thack.detection import Margins, Thresholds, verdict_without_oracle
    from thack.detection import verdict as judge
    from thack.reporting import write_card

    path = Path(run)
    curves = read_curves(path, mapping)
    keeps = path.is_dir() and os.access(path, os.W_OK)  # not another's run, nor an archive
    if not curves.has("golden"):
        suspicion = verdict_without_oracle(curves, load(Thresholds, [], sets))
        if keeps:
            write_card(path, suspicion)
        return suspicion
    found = judge(curves, load(Margins, [], sets))
    if keeps:
        write_text(path / "verdict.json", found.to_json())
        write_card(path, found)
    return found


def read_curves(run: PathLike, mapping: str | None = None) -> Curves:
    """The curves of a run directory, or of another trainer's log; a `mapping` names the columns."""
    from thack.detection import Curves, parse_mapping

    path, words = Path(run), parse_mapping(mapping or "")
    return Curves.from_run(path, mapping=words) if path.is_dir() else Curves.from_log(path, words)


def score_detectors(
    runs: Sequence[PathLike],
    *,
    chosen_on: Sequence[PathLike] = (),
    mapping: str | None = None,
    sets: Sequence[str] = (),
) -> tuple[Score, ...]:
    """How well each detector that needs no oracle foresees the oracle's verdict on `runs`, the best first.

    Thresholds are the defaults, changed by `sets`, or those that separate best on other runs, `chosen_on`.
    """
    from thack.detection import Case, Thresholds, with_chosen
    from thack.detection import score_detectors as score

    limits = load(Thresholds, [], sets)
    if chosen_on:
        limits = with_chosen([Case.of(read_curves(run, mapping)) for run in chosen_on], limits)
    return score([Case.of(read_curves(run, mapping)) for run in runs], limits)


def report(runs: PathLike | Sequence[PathLike], out: PathLike | None = None) -> Path:
    """Write one self-contained HTML page about runs, or about a grid; by default report.html in the first."""
    from thack.reporting import is_grid, write_grid_report, write_report

    paths = [Path(runs)] if isinstance(runs, str | Path) else [Path(run) for run in runs]
    path = Path(out) if out is not None else paths[0] / "report.html"
    if len(paths) == 1 and is_grid(paths[0]):
        return write_grid_report(paths[0], path)
    write_report(paths, path)
    return path


def demo(
    out: PathLike = "runs/demo",
    *,
    seeds: Sequence[int] = (0,),
    quick: bool = False,
    sets: Sequence[str] = (),
    progress: Progress = SILENT,
) -> DemoResult:
    """The controlled experiment at laptop size, from Python's own docstrings to a verdict and a report."""
    from thack.experiments.demo import run_demo

    return run_demo(Path(out), seeds=seeds, quick=quick, sets=sets, progress=progress)


def experiment(
    recipe: PathLike,
    out: PathLike | None = None,
    *,
    seeds: Sequence[int] = (),
    figures: Sequence[str] = (),
    sets: Sequence[str] = (),
    progress: Progress = SILENT,
) -> GridResult:
    """A grid of controlled experiments: a shipped recipe or a TOML file; failed cells are in the result."""
    from thack.experiments.grid import run_grid
    from thack.experiments.recipe import load_recipe

    overrides = {"seeds": list(seeds) or None, "figures": list(figures) or None}
    chosen = load_recipe(str(recipe), sets, overrides=overrides)
    return run_grid(chosen, Path(out or Path("runs") / Path(recipe).stem), progress)


def settings(cls: type[S], config: Sequence[PathLike], keys: Mapping[str, Any]) -> S:
    """The settings of a verb from files and keyword arguments, as strict as the command line."""
    files = [config] if isinstance(config, str | Path) else config
    return load(cls, [Path(file) for file in files], (), {key: _plain(key, value) for key, value in keys.items()})


def _plain(key: str, value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    return {"path": str(value)} if key == "data" and isinstance(value, str | Path) else value
