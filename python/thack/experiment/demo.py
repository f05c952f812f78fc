"""`thack demo`: the controlled experiment at laptop size, from nothing to a verdict and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path

from thack.config.settings import SourceKind
from thack.config.strict import load, to_dict, to_toml
from thack.experiment.pipeline import Pipeline, prepare_seeds
from thack.experiment.settings import ExperimentSettings
from thack.experiment.stages import Stage
from thack.files import claim_output, write_json, write_text
from thack.hacking import Curves, Verdict, verdict
from thack.report import write_report
from thack.runtime.progress import SILENT, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """One student: who wrote its responses, where it lies, and what became of it."""

    arm: SourceKind
    seed: int
    path: Path
    verdict: Verdict
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    arms: tuple[ArmResult, ...]
    report: Path
    seconds: float


def recipe(name: str, sets: Sequence[str] = (), files_: Sequence[Path] = ()) -> ExperimentSettings:
    """A shipped recipe (`demo`, `quick`), changed by the user's own files and `key=value` settings."""
    with as_file(files("thack") / "recipes" / f"{name}.toml") as path:
        return load(ExperimentSettings, files=[path, *files_], sets=sets)


def run_demo(
    out: Path,
    *,
    seeds: Sequence[int] = (0,),
    quick: bool = False,
    sets: Sequence[str] = (),
    progress: Progress = SILENT,
) -> DemoResult:
    """Run the recipe for every seed, judge every arm and write out/report.html; goes on where it stopped."""
    return run_experiment(replace(recipe("quick" if quick else "demo", sets), seeds=tuple(seeds)), out, progress)


def run_experiment(settings: ExperimentSettings, out: Path, progress: Progress = SILENT) -> DemoResult:
    """Every arm of every seed of one experiment, judged, with one report."""
    started = time.monotonic()
    claim_output(out, "experiment")
    write_text(out / "config.toml", to_toml(settings))
    pipeline = Pipeline(settings, out, progress)
    corpus = pipeline.corpus()
    oracle = pipeline.oracle(corpus)
    shared = prepare_seeds(pipeline, corpus, oracle)
    cells = [(seed, source) for seed in shared for source in settings.arms]
    runs = pipeline.side_by_side([("arm", (oracle, seed, source)) for seed, source in cells])
    arms = [_judge(source, seed.seed, run) for (seed, source), run in zip(cells, runs, strict=True)]
    write_json(out / "experiment.json", _summary(settings, arms))
    report = write_report([arm.path for arm in arms], out / "report.html", title=settings.title)
    return DemoResult(arms=tuple(arms), report=report, seconds=time.monotonic() - started)


def _judge(source: SourceKind, seed: int, run: Stage) -> ArmResult:
    found = verdict(Curves.from_run(run.path))
    write_text(run.path / "verdict.json", found.to_json())
    return ArmResult(arm=source, seed=seed, path=run.path, verdict=found, seconds=run.seconds)


def _summary(settings: ExperimentSettings, arms: Sequence[ArmResult]) -> dict[str, object]:
    return {
        "title": settings.title,
        "seeds": list(settings.seeds),
        "runs": [
            {
                "path": str(arm.path),
                "arm": arm.arm,
                "seed": arm.seed,
                "verdict": arm.verdict.name,
                "seconds": arm.seconds,
            }
            for arm in arms
        ],
        "settings": to_dict(settings),
    }
