"""The pipeline of every cell: each stage is what a command would do, planned here and run by workers.py.

corpus → oracle → splits → oracle's responses → teacher, student → offline cache, evaluation set → run

A role that starts from some layers of a model has one stage more, `layers`, which makes that model.

Planning loads no model: the stages of a whole grid, and which of them cells share, are known at once.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from thack.checks import check_planned
from thack.config import CacheSettings, DataSettings, GenerateSettings, SftSettings
from thack.config.experiment import ExperimentSettings, RoleSettings
from thack.config.specs import cache_settings
from thack.data.debian import system_release
from thack.data.embedded import QUESTIONS
from thack.data.export import PAIRS
from thack.evaluation.prompt_information import NUM_SHUFFLES
from thack.experiments import work
from thack.experiments.arm_settings import ArmSettings, longer
from thack.experiments.cells import Cell, base_arm, slug
from thack.experiments.corpus import CorpusSettings, task_file, write_corpus, write_splits
from thack.experiments.costs import Cost
from thack.experiments.methods import has_cache, samples
from thack.experiments.roles import check_answers, content_of, file_content, model_directory, start_of
from thack.experiments.stages import Stage, plan_stage
from thack.experiments.tokenizers import TokenizerWord, write_encoded, write_tokenizer
from thack.models.layers import check_layers
from thack.schema.experiment import ExperimentArm
from thack.schema.targets import TargetSpec

Role = Literal["oracle", "teacher", "student"]
_STUDENT_SEED = 1_000_000  # from a teacher's seed to that of a student of its size


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of one experiment under one directory."""

    settings: ExperimentSettings
    root: Path

    def run(self, cell: Cell) -> Stage:
        """The run of one cell: the run directory, with its metrics and checkpoints."""
        arm, seed = cell.arm, cell.seed
        teacher, student = self.teacher(arm, seed), self.student(arm, seed)
        oracle, eval_set = self.oracle(arm.task), self.eval_set(arm, seed)
        data = self._training_data(arm, seed)
        settings = replace(
            self._arms.distill(arm, seed),
            student=str(student.path / "model"),
            teacher=str(teacher.path / "model"),
            oracle=str(oracle.path / "model"),
            eval_data=str(eval_set.path),
        )
        if has_cache(arm):
            settings = replace(settings, cache=str(data.path), data=replace(settings.data, path=""))
        else:
            path = data.path / "stage2.jsonl" if arm.source in ("online-teacher", "online-student") else data.path
            settings = replace(settings, data=replace(settings.data, path=str(path)))
        name, costs = slug(arm, base_arm(self.settings)), self._arms.costs(arm.task)
        check_planned(settings, TargetSpec.parse(arm.target), name)
        return plan_stage(
            self.root / "runs",
            f"seed{seed}-{name}",
            partial(work.distill, settings, name),
            needs=[oracle, teacher, student, eval_set, data],
            settings=settings,
            cost=costs.distill(settings, self._arms.student(arm), self._arms.teacher(arm), arm.source),
        )

    def corpus(self, task: str) -> Stage:
        """The text of a task, with the tokenizer that all roles share, unless an arm gives its student another one."""
        s = self.settings
        path = task_file(task, s.data)
        settings = CorpusSettings(
            task=task,
            path=path,
            tokenizer=str(model_directory(s, s.oracle)) if s.oracle.model else "",
            tokenizer_size=s.tokenizer_size,
            max_prompt_tokens=self._arms.data(task, "").max_prompt_tokens,
        )
        inputs: dict[str, object] = {"python": platform.python_version()}
        if task in QUESTIONS:
            check_answers(s, task)
            # Not by content: an update of the package lists would begin an experiment anew that is to be resumed.
            inputs = {"system": system_release()}
        if path:
            inputs = {"data": file_content(Path(path))}
        if settings.tokenizer:
            inputs["tokenizer"] = file_content(Path(settings.tokenizer) / "tokenizer.json")
        return plan_stage(self._stages, "corpus", partial(write_corpus, settings), settings=settings, inputs=inputs)

    def tokenizer(self, task: str, word: str) -> Stage:
        """Another tokenizer, for students."""
        corpus = self.corpus(task)
        step = partial(write_tokenizer, TokenizerWord.parse(word), corpus.path)
        return plan_stage(self._stages, "tokenizer", step, needs=[corpus], inputs={"word": word})

    def oracle(self, task: str) -> Stage:
        """The oracle of a task, which all seeds share."""
        corpus = self.corpus(task)
        return self._role("oracle", self.settings.oracle, self.settings.oracle_seed, task, corpus, corpus.path / PAIRS)

    def splits(self, task: str, seed: int) -> Stage:
        """The three disjoint sets of prompts."""
        s, corpus = self.settings, self.corpus(task)
        sizes = {
            "stage1": s.num_sft_prompts,
            "stage2": s.num_distill_prompts,
            "held_out": s.num_held_out_prompts,
        }
        step = partial(write_splits, corpus.path, sizes, seed)
        return plan_stage(self._stages, "splits", step, needs=[corpus], inputs={"sizes": sizes, "seed": seed})

    def oracle_responses(self, task: str, seed: int) -> Stage:
        """The oracle's responses to the prompts of stage 1: teacher and student are fine-tuned on them."""
        oracle, splits = self.oracle(task), self.splits(task, seed)
        data = self._arms.data(task, splits.path / "stage1.jsonl")
        cost = self._arms.costs(task).sample(self.settings.oracle, self.settings.num_sft_prompts)
        return self._responses("oracle-responses", oracle, splits, data, seed, cost)

    def teacher(self, arm: ExperimentArm, seed: int) -> Stage:
        """The teacher."""
        pairs = self.oracle_responses(arm.task, seed)
        return self._role("teacher", self._arms.teacher(arm), seed, arm.task, pairs, pairs.path)

    def student(self, arm: ExperimentArm, seed: int) -> Stage:
        """The student before its distillation."""
        pairs, role = self._student_pairs(arm, seed), self._arms.student(arm)
        # Of one size and seed, teacher and student would begin as the same model and read the same batches.
        seed += _STUDENT_SEED if start_of(role) == start_of(self._arms.teacher(arm)) else 0
        if not arm.tokenizer:
            return self._role("student", role, seed, arm.task, pairs, pairs.path)
        tokenizer = self.tokenizer(arm.task, arm.tokenizer)
        step = partial(write_encoded, pairs.path, tokenizer.path)
        encoded = plan_stage(self._stages, "oracle-responses-encoded", step, needs=[pairs, tokenizer])
        return self._role("student", role, seed, arm.task, encoded, encoded.path / PAIRS, tokenizer)

    def _student_pairs(self, arm: ExperimentArm, seed: int) -> Stage:
        """What the student is fine-tuned on: the prompts of stage 1, answered by the oracle or by the teacher."""
        if arm.fine_tuned_on == "oracle":
            return self.oracle_responses(arm.task, seed)
        teacher, splits = self.teacher(arm, seed), self.splits(arm.task, seed)
        data = self._arms.data(arm.task, splits.path / "stage1.jsonl")
        cost = self._arms.costs(arm.task).sample(self._arms.teacher(arm), self.settings.num_sft_prompts)
        return self._responses("teacher-sft-responses", teacher, splits, data, seed, cost)

    def eval_set(self, arm: ExperimentArm, seed: int) -> Stage:
        """The held-out prompts with a response of oracle and teacher each."""
        oracle, teacher, splits = self.oracle(arm.task), self.teacher(arm, seed), self.splits(arm.task, seed)
        data = self._arms.data(arm.task, splits.path / "held_out.jsonl")
        step = partial(work.eval_set, oracle.path / "model", teacher.path / "model", data, seed)
        inputs = {"seed": seed, "max_response_tokens": data.max_response_tokens}
        costs, num = self._arms.costs(arm.task), self.settings.num_held_out_prompts
        cost = costs.sample(self.settings.oracle, num) + costs.sample(self._arms.teacher(arm), num)
        return plan_stage(self._stages, "eval_set", step, needs=[oracle, teacher, splits], inputs=inputs, cost=cost)

    def prompt_information(self, arm: ExperimentArm, seed: int) -> Stage:
        """How much of a response's information comes from its prompt: of the task, by oracle and evaluation set."""
        oracle, eval_set = self.oracle(arm.task), self.eval_set(arm, seed)
        step = partial(work.prompt_information, oracle.path / "model", eval_set.path)
        cost = self._arms.costs(arm.task).score(
            self.settings.oracle, (1 + NUM_SHUFFLES) * self.settings.num_held_out_prompts
        )
        return plan_stage(
            self._stages,
            "prompt_information",
            step,
            needs=[oracle, eval_set],
            inputs={"shuffles": NUM_SHUFFLES},
            cost=cost,
        )

    def _training_data(self, arm: ExperimentArm, seed: int) -> Stage:
        """What the student trains on: prompts, a cache, or the teacher's responses without targets."""
        if arm.source in ("online-teacher", "online-student"):
            return self.splits(arm.task, seed)
        if has_cache(arm):
            return self._cache(arm, seed)
        return self._teacher_responses(arm, seed)

    def _cache(self, arm: ExperimentArm, seed: int) -> Stage:
        """The teacher's distributions on its own responses; for a policy gradient, on those of the student's start."""
        teacher, splits = self.teacher(arm, seed), self.splits(arm.task, seed)
        settings = CacheSettings(
            teacher=str(teacher.path / "model"),
            data=self._arms.offline_data(arm, splits.path / "stage2.jsonl"),
            generate=True,
            samples=samples(arm),
            epochs=self._arms.distill(arm, seed).epochs,
            seed=seed,
            dtype=self.settings.dtype,
        )
        cost = self._arms.costs(arm.task).sample(self._arms.teacher(arm), self._arms.num_sequences(arm))
        prompts = splits
        if arm.method == "offline-policy-gradient":
            prompts = self._student_responses(arm, seed)
            data = replace(settings.data, path=str(prompts.path), limit=0)
            settings = replace(settings, data=data, generate=False, samples=1)
            cost = self._arms.costs(arm.task).score(self._arms.teacher(arm), self._arms.num_sequences(arm))
        settings = cache_settings(settings, TargetSpec.parse(arm.target))
        step = partial(work.cache, settings)
        return plan_stage(self._stages, "cache", step, needs=[teacher, prompts], settings=settings, cost=cost)

    def _teacher_responses(self, arm: ExperimentArm, seed: int) -> Stage:
        teacher, splits = self.teacher(arm, seed), self.splits(arm.task, seed)
        data = self._arms.offline_data(arm, splits.path / "stage2.jsonl")
        cost = self._arms.costs(arm.task).sample(self._arms.teacher(arm), self._arms.num_sequences(arm))
        return self._responses("teacher-responses", teacher, splits, data, seed, cost, samples(arm))

    def _student_responses(self, arm: ExperimentArm, seed: int) -> Stage:
        """What the student writes before its distillation."""
        student, splits = self.student(arm, seed), self.splits(arm.task, seed)
        data = self._arms.offline_data(arm, splits.path / "stage2.jsonl")
        cost = self._arms.costs(arm.task).sample(self._arms.student(arm), self._arms.num_sequences(arm))
        return self._responses("student-responses", student, splits, data, seed, cost, samples(arm))

    def _responses(
        self, name: str, model: Stage, splits: Stage, data: DataSettings, seed: int, cost: Cost, samples: int = 1
    ) -> Stage:
        settings = GenerateSettings(
            model=str(model.path / "model"), data=data, samples=samples, seed=seed, dtype=self.settings.dtype
        )
        step = partial(work.generate, settings)
        return plan_stage(self._stages, name, step, needs=[model, splits], settings=settings, cost=cost)

    def _role(
        self,
        name: Role,
        role: RoleSettings,
        seed: int,
        task: str,
        data: Stage,
        file: Path,
        tokenizer: Stage | None = None,
    ) -> Stage:
        needs, inputs, directory = [data], {}, model_directory(self.settings, role) if role.model else None
        if directory is not None and role.layers:
            cut = self._cut(directory, role.layers)
            needs, directory = [data, cut], cut.path / "model"
        elif directory is not None:
            inputs = {"start": content_of(directory)}
        if directory is not None and not role.train:
            return plan_stage(self._stages, name, partial(work.reuse, directory), needs=needs, inputs=inputs)
        read = self._arms.data(task, file)
        if tokenizer is not None:
            read, needs = longer(read), [*needs, tokenizer]
        settings = SftSettings(
            model=str(directory) if directory else "",
            tokenizer=str(self.corpus(task).path if tokenizer is None else tokenizer.path),
            architecture=role.architecture,
            data=read,
            validation_fraction=role.validation_fraction,
            epochs=role.epochs,
            batch_size=role.batch_size,
            optimizer=role.optimizer,
            seed=seed,
            dtype=self.settings.dtype,
        )
        cost = self._arms.costs(task).fine_tune(role, 0 if name == "oracle" else self.settings.num_sft_prompts)
        step = partial(work.fine_tune, settings, name)
        return plan_stage(self._stages, name, step, needs=needs, settings=settings, inputs=inputs, cost=cost)

    def _cut(self, directory: Path, layers: tuple[int, ...]) -> Stage:
        """A model of some layers of another one."""
        check_layers(directory, layers)
        step = partial(work.keep_layers, directory, layers)
        inputs = {"start": content_of(directory), "layers": layers}
        return plan_stage(self._stages, "layers", step, inputs=inputs)

    @property
    def _stages(self) -> Path:
        return self.root / "stages"

    @property
    def _arms(self) -> ArmSettings:
        return ArmSettings(self.settings)
