"""What an arm decides of its stages: models, data, settings of the run, and what these cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from thack.config import DataSettings, DistillSettings
from thack.config.experiment import ExperimentSettings, RoleSettings
from thack.config.specs import target_settings
from thack.experiments.cells import compares_tokenizers
from thack.experiments.costs import CostEstimator
from thack.experiments.methods import fraction, has_cache, samples, trained_by
from thack.experiments.roles import resized
from thack.schema.experiment import ExperimentArm
from thack.schema.targets import TargetSpec

_TIMES_AS_LONG = 3  # tokens of another tokenizer, at most, for each of the experiment's


@dataclass(frozen=True, slots=True)
class ArmSettings:
    """The settings of an experiment, arm by arm."""

    settings: ExperimentSettings

    def distill(self, arm: ExperimentArm, seed: int) -> DistillSettings:
        """Of the run, but for its models and files. All arms take the same number of optimizer steps: equal compute."""
        plain = self.settings.distill
        per_epoch = -(-self.settings.num_distill_prompts // plain.batch_size)
        steps = plain.steps or plain.epochs * per_epoch
        plain = trained_by(arm, plain)
        if compares_tokenizers(self.settings) and not arm.tokenizer:  # with two tokenizers it is per byte anyway
            plain = replace(plain, evaluation=replace(plain.evaluation, per_byte=True))
        return replace(
            plain,
            data=self._limited(arm, self.data(arm.task, "")),
            source=replace(plain.source, kind=arm.source, online_fraction=fraction(arm)),
            loss=replace(plain.loss, divergence=arm.loss),
            lora=replace(plain.lora, rank=arm.lora_rank),
            target=plain.target if has_cache(arm) else target_settings(TargetSpec.parse(arm.target)),
            steps=steps,
            epochs=max(1, -(-steps * plain.batch_size // self.num_sequences(arm))),
            seed=seed,
            dtype=self.settings.dtype,
        )

    def teacher(self, arm: ExperimentArm) -> RoleSettings:
        """The teacher, in this arm's size."""
        return resized(self.settings.teacher, arm.teacher)

    def student(self, arm: ExperimentArm) -> RoleSettings:
        """The student, in this arm's size."""
        return resized(self.settings.student, arm.student)

    def num_prompts(self, arm: ExperimentArm) -> int:
        """Distinct prompts that are trained on."""
        return max(1, round((arm.num_prompts or self.settings.num_distill_prompts) / arm.diversity))

    def num_sequences(self, arm: ExperimentArm) -> int:
        """Responses that are trained on in an epoch."""
        return self.num_prompts(arm) * samples(arm)

    def offline_data(self, arm: ExperimentArm, path: Path) -> DataSettings:
        """The prompts of a file, as many as this arm has."""
        return self._limited(arm, self.data(arm.task, path))

    def _limited(self, arm: ExperimentArm, data: DataSettings) -> DataSettings:
        fewer = arm.diversity > 1 or arm.num_prompts
        return replace(data, limit=self.num_prompts(arm)) if fewer else data

    def data(self, task: str, path: Path | str) -> DataSettings:
        """A file of a task, with the lengths of this task."""
        own = getattr(self.settings.lengths, task, None)
        return DataSettings(
            path=str(path),
            max_prompt_tokens=(own and own.max_prompt_tokens) or self.settings.max_prompt_tokens,
            max_response_tokens=(own and own.max_response_tokens) or self.settings.max_response_tokens,
        )

    def costs(self, task: str) -> CostEstimator:
        """What the stages of a task cost."""
        data = self.data(task, "")
        return CostEstimator(self.settings, data.max_prompt_tokens, data.max_response_tokens)


def longer(data: DataSettings) -> DataSettings:
    """For a student whose tokens are shorter: the same text is read."""
    return replace(
        data,
        max_prompt_tokens=_TIMES_AS_LONG * data.max_prompt_tokens,
        max_response_tokens=_TIMES_AS_LONG * data.max_response_tokens,
    )
