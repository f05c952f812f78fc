"""The street, walked once per seed: each stage is what a command would do, made once and reused by content.

corpus → oracle → splits → oracle's responses → teacher, student → offline cache, bank → arms → verdicts
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from thack.cache.capture import capture
from thack.config.settings import (
    CacheSettings,
    DataSettings,
    DistillSettings,
    GenerateSettings,
    SftSettings,
    SourceKind,
    SourceSettings,
)
from thack.config.strict import to_dict
from thack.corpus.export import PAIRS
from thack.experiment.corpus import write_corpus, write_splits
from thack.experiment.settings import ExperimentSettings, RoleSettings
from thack.experiment.stages import NotMade, Stage, stage
from thack.experiment.workers import run_all
from thack.metrics import PromptBank
from thack.models.load import load_model
from thack.responses.run import run_generate
from thack.runtime.progress import Progress
from thack.training import final_model, run_distill, run_sft


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """What all arms of one seed stand on."""

    seed: int
    splits: Stage
    teacher: Stage
    student: Stage
    cache: Stage
    bank: Stage


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of one experiment under one directory; every method makes its stage or finds it made."""

    settings: ExperimentSettings
    root: Path
    progress: Progress
    only_find: bool = False  # look for stages, and raise NotMade instead of making them

    def corpus(self) -> Stage:
        s = self.settings
        inputs = {
            "python": platform.python_version(),
            "task": s.task,
            "tokenizer_size": s.tokenizer_size,
            "max_prompt_tokens": s.max_prompt_tokens,
        }
        return self._make("corpus", inputs, lambda path: write_corpus(path, s))

    def oracle(self, corpus: Stage) -> Stage:
        return self._role("oracle", self.settings.oracle, self.settings.oracle_seed, corpus, corpus, PAIRS)

    def splits(self, corpus: Stage, seed: int) -> Stage:
        s = self.settings
        sizes = [s.num_sft_prompts, s.num_distill_prompts, s.num_held_out_prompts]
        inputs = {"corpus": corpus.key, "name": s.name, "seed": seed, "sizes": sizes}
        return self._make("splits", inputs, lambda path: write_splits(path, s, corpus.path, seed))

    def fine_tuned(self, role: Literal["teacher", "student"], corpus: Stage, pairs: Stage, seed: int) -> Stage:
        """A teacher or student, trained on the oracle's responses."""
        settings = self.settings.teacher if role == "teacher" else self.settings.student
        return self._role(role, settings, seed, corpus, pairs, "")

    def arm(self, oracle: Stage, shared: Seed, source: SourceKind) -> Stage:
        """Distill one student: the run directory, with its metrics and checkpoints."""
        settings = self._arm_settings(oracle, shared, source)
        inputs = {
            "settings": _without_paths(to_dict(settings)),
            "upstream": [oracle.key, shared.teacher.key, shared.student.key, shared.bank.key],
            "data": shared.cache.key if settings.cache else shared.splits.key,
        }

        def make(path: Path) -> None:
            run_distill(replace(settings, out=path), progress=self.progress, name=source)

        return stage(self.root / "runs", f"seed{shared.seed}-{source}", inputs, make, only_find=self.only_find)

    def side_by_side(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Stage]:
        """The stages of several methods, each given by name and arguments: those not yet made, in parallel."""
        found: dict[int, Stage] = {}
        finder = replace(self, only_find=True)
        for i, (method, arguments) in enumerate(calls):
            with suppress(NotMade):
                found[i] = getattr(finder, method)(*arguments)
        missing = [i for i in range(len(calls)) if i not in found]
        work = [_Call(self.settings, self.root, *calls[i]) for i in missing]
        found |= dict(zip(missing, run_all(work, self.progress), strict=True))
        return [found[i] for i in range(len(calls))]

    def _arm_settings(self, oracle: Stage, shared: Seed, source: SourceKind) -> DistillSettings:
        offline = source == "offline"
        return replace(
            self.settings.distill,
            student=str(final_model(shared.student.path)),
            teacher=str(final_model(shared.teacher.path)),
            oracle=str(final_model(oracle.path)),
            bank=str(shared.bank.path),
            cache=str(shared.cache.path) if offline else "",
            data=self._data("" if offline else str(shared.splits.path / "stage2.jsonl")),
            source=SourceSettings(kind=source),
            seed=shared.seed,
        )

    def _role(self, name: str, role: RoleSettings, seed: int, corpus: Stage, data: Stage, file: str) -> Stage:
        def make(path: Path) -> None:
            settings = SftSettings(
                out=path,
                tokenizer=str(corpus.path),
                architecture=role.architecture,
                data=self._data(str(data.path / file)),
                validation_fraction=role.validation_fraction,
                epochs=role.epochs,
                batch_size=role.batch_size,
                optimizer=role.optimizer,
                seed=seed,
            )
            run_sft(settings, progress=self.progress, name=name)

        inputs = {"role": to_dict(role), "seed": seed, "data": data.key, "lengths": self._lengths()}
        return self._make(name, inputs, make)

    def responses(self, oracle: Stage, splits: Stage, seed: int) -> Stage:
        def make(path: Path) -> None:
            settings = GenerateSettings(
                out=path,
                model=str(final_model(oracle.path)),
                data=self._data(str(splits.path / "stage1.jsonl")),
                seed=seed,
            )
            run_generate(settings, progress=self.progress)

        inputs = {"oracle": oracle.key, "splits": splits.key, "seed": seed, "lengths": self._lengths()}
        return self._make("oracle-responses", inputs, make)

    def cache(self, teacher: Stage, splits: Stage, seed: int) -> Stage:
        def make(path: Path) -> None:
            settings = CacheSettings(
                out=path,
                teacher=str(final_model(teacher.path)),
                data=self._data(str(splits.path / "stage2.jsonl")),
                kind=self.settings.target,
                generate=True,
                epochs=self.settings.distill.epochs,
                seed=seed,
            )
            capture(settings, progress=self.progress)

        inputs = {
            "teacher": teacher.key,
            "splits": splits.key,
            "kind": self.settings.target,
            "seed": seed,
            "lengths": self._lengths(),
        }
        return self._make("cache", inputs, make)

    def bank(self, oracle: Stage, teacher: Stage, splits: Stage, seed: int) -> Stage:
        def make(path: Path) -> None:
            models = {
                role: load_model(final_model(stage.path), role=role)
                for role, stage in (("oracle", oracle), ("teacher", teacher))
            }
            bank = PromptBank.from_jsonl(splits.path / "held_out.jsonl")
            bank.with_responses(
                models["teacher"],
                oracle=models["oracle"],
                max_new_tokens=self.settings.max_response_tokens,
                seed=seed,
                progress=self.progress,
            ).save(path)

        inputs = {
            "oracle": oracle.key,
            "teacher": teacher.key,
            "splits": splits.key,
            "seed": seed,
            "lengths": self._lengths(),
        }
        return self._make("bank", inputs, make)

    def _make(self, name: str, inputs: Mapping[str, Any], make: Callable[[Path], object]) -> Stage:
        return stage(self.root / "stages", name, inputs, make, only_find=self.only_find)

    def _data(self, path: str) -> DataSettings:
        return DataSettings(
            path=path,
            max_prompt_tokens=self.settings.max_prompt_tokens,
            max_response_tokens=self.settings.max_response_tokens,
        )

    def _lengths(self) -> list[int]:
        return [self.settings.max_prompt_tokens, self.settings.max_response_tokens]


@dataclass(frozen=True, slots=True)
class _Call:
    """One method of a pipeline, for a worker process."""

    settings: ExperimentSettings
    root: Path
    method: str
    arguments: tuple[Any, ...]

    def __call__(self, progress: Progress) -> Stage:
        made: Stage = getattr(Pipeline(self.settings, self.root, progress), self.method)(*self.arguments)
        return made


def prepare_seeds(pipeline: Pipeline, corpus: Stage, oracle: Stage) -> list[Seed]:
    """Everything that the arms of each seed stand on; what does not depend on each other, side by side."""
    seeds = pipeline.settings.seeds
    splits = [pipeline.splits(corpus, seed) for seed in seeds]
    given = list(zip(seeds, splits, strict=True))
    pairs = pipeline.side_by_side([("responses", (oracle, split, seed)) for seed, split in given])
    learners = [
        (role, corpus, p, seed) for role in ("student", "teacher") for seed, p in zip(seeds, pairs, strict=True)
    ]
    tuned = pipeline.side_by_side([("fine_tuned", arguments) for arguments in learners])
    students, teachers = tuned[: len(seeds)], tuned[len(seeds) :]
    taught = list(zip(seeds, splits, teachers, strict=True))
    caches = [("cache", (teacher, split, seed)) for seed, split, teacher in taught]
    banks = [("bank", (oracle, teacher, split, seed)) for seed, split, teacher in taught]
    made = pipeline.side_by_side([*caches, *banks])
    columns = (splits, teachers, students, made[: len(seeds)], made[len(seeds) :])
    return [
        Seed(seed=seed, splits=split, teacher=teacher, student=student, cache=cache, bank=bank)
        for seed, split, teacher, student, cache, bank in zip(seeds, *columns, strict=True)
    ]


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run less the places where its inputs lie: those count by content."""
    places = ("out", "student", "teacher", "oracle", "bank", "cache")
    kept = {key: value for key, value in settings.items() if key not in places}
    return {**kept, "data": {key: value for key, value in kept["data"].items() if key != "path"}}
